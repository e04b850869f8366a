"""What every kind of processor must make alike: rows to the byte, features and scores to the bit.

    python -m tests.processors MODEL_FOLDER REDIS_URL

prints one JSON object: a digest of each, and which kernels were not compiled for them. Kernels that
another calls are known as compiled only where nothing was compiled before.
"""

import gc
import hashlib
import importlib
import json
import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import redis
from numba.core.dispatcher import Dispatcher

from features.candidates import ITEM_KEY
from features.codec import STRING_TYPE, VALUE_TYPES, encode_value, entity_key, field_name
from features.entities import Hash
from features.events import Event
from features.list_kernels import read_products
from features.matrix import MATRIX_TYPES, MatrixReader
from features.matrix_column import Column, JoinKey
from ranker.rules import Diversity, Rules, Spread, SurfaceRules
from ranker.scoring.calibration import sigmoid
from ranker.scoring.forest import Forest
from ranker.stages.marginal_relevance import pick
from ranker.stages.sources import TrendingSource
from ranker.tables.popularity import Popularity
from ranker.tables.refresh import LiveRows
from ranker.training.factors.learning import Rates, learn
from ranker.training.factors.sightings import Lesson, Sightings
from ranker.training.rows import TrainingRows
from tests.browsing import browsing, engagement
from tests.relating import RELATED_PLAN, act
from tests.serving import folded, replayed
from tests.town import Town

PACKAGES = ("features", "ranker", "streaming")
START_MS = 500 * 86_400_000
USERS = [f"u{number}" for number in range(20)] + ["nobody"]
ITEMS = [f"i{number}" for number in range(60)] + ["ghost"]
LATER_MS = (1_000, 3_600_000, 7 * 86_400_000)
"""When it is ranked, after the last event."""


def history() -> list[Event]:
    """A week of what people did, with a user who did more than lists hold."""
    events = browsing(300, seed=7, start_ms=START_MS, step_ms=2_000_000)
    last = max(event.event_time for event in events)
    events += [
        engagement(f"much{n}", last + n * 977, 3, n * 7 % 60, ("click", "like", "skip")[n % 3])
        for n in range(300)
    ]
    events += [
        act("u3", 11, "block", last + 300_000),
        act("u4", 12, "mute", last + 300_001),
        act("u5", 13, "mute_category", last + 300_002),
        act("u6", 14, "hide", last + 300_003),
        act("u6", 14, "unhide", last + 300_004),
    ]
    return events


def digests(model: Path, valkey: str) -> dict[str, str]:
    """By what it is of."""
    events = history()
    spread = Spread(by="author", places=3), Spread(by="category", most=2, places=4)
    varied = SurfaceRules(diversity=Diversity(strategy="mmr", spread=spread))
    town = Town(
        plan=RELATED_PLAN,
        model=model,
        rules=Rules(surfaces={"varied": varied}),
        sources=[TrendingSource(500)],
    )
    town.feed(events)
    now = max(event.event_time for event in events)
    trained_on = replayed(events)
    return {
        "updates": _digest(record.value or b"" for log in town.updates.values() for record in log),
        "rows": _digest(_rows(town.rows.rows)),
        "popularity": _digest(_popularity(town, events, now)),
        "features of training": _digest([np.ascontiguousarray(trained_on.matrix).tobytes()]),
        "scores of forests": _digest(_scores(model, trained_on)),
        "feeds": _digest(_feeds(town, now)),
        "log of feeds": _digest(_logged(town)),
        "picks for variety": _digest(_picks()),
        "products of vectors": _digest(_products()),
        "factors": _digest(_factors(events)),
        "columns read from Redis": _digest(_columns(valkey)),
    }


def _rows(rows: Mapping[bytes, Hash]) -> Iterator[bytes]:
    for key, row in sorted(rows.items()):
        for field, value in sorted(row.items()):
            yield b"%b %b %b" % (key, field, value)


def _popularity(town: Town, events: list[Event], now: int) -> Iterator[bytes]:
    """Over tables of a folded world and over live ones, which then lose their rows."""
    live, rows = LiveRows(town.plan), town.rows.rows
    live.put(list(rows), list(rows.values()))
    for tables in (folded(events, town.plan).tables, live.tables):
        popularity, places = Popularity(tables), tables[ITEM_KEY].rows_of_ids(ITEMS[:-1])
        for later in LATER_MS:
            yield popularity.counts(places, now + later).tobytes()
    live.put(list(rows), [{} for _ in rows])
    yield live.tables[ITEM_KEY].rows_of_ids(ITEMS).tobytes()


def _scores(model: Path, rows: TrainingRows) -> Iterator[bytes]:
    """Raw and as probabilities, of rows as they are and of such as a forest never saw."""
    rng = np.random.default_rng(5)
    noise = rng.normal(size=(3_000, rows.matrix.shape[1])) * 100
    noise[rng.random(noise.shape) < 0.3] = np.nan
    for file in sorted(model.glob("*.txt")):
        forest = Forest.from_model_text(file.read_text())
        for asked in (np.ascontiguousarray(rows.matrix, np.float64), noise):
            raw = forest.predict(asked)
            yield raw.tobytes()
            yield sigmoid(raw).tobytes()
    yield sigmoid(rng.normal(size=100_000) * 20).tobytes()


def _feeds(town: Town, now: int) -> Iterator[bytes]:
    """With every feature of every item. Reasons are LightGBM's own, and left out."""
    for number, user in enumerate(USERS):
        about: dict[str, Any] = {"user_id": user, "features": True, "request_id": f"r{number}"}
        at = now + LATER_MS[number % len(LATER_MS)]
        for which in ({"candidates": ITEMS, "limit": 60}, {"limit": 20, "surface": "varied"}):
            feed = town.rank(at, **about | which)
            assert feed.degraded == [], feed.degraded
            yield feed.model_dump_json(exclude={"took_ms"}).encode()


def _logged(town: Town) -> Iterator[bytes]:
    for record in town.log.all():
        yield json.dumps({**record, "took_ms": None}, sort_keys=True).encode()


def _picks() -> Iterator[bytes]:
    """By likenesses that are the same to the bit: the product is the library's, not ours."""
    rng = np.random.default_rng(8)
    for count in (1, 7, 100):
        likeness = rng.uniform(-1, 1, (count, count)).astype(np.float32)
        relevance = rng.random(count).astype(np.float32)
        yield pick(likeness, relevance, min(count, 50), np.float32(0.3)).tobytes()


def _products() -> Iterator[bytes]:
    """Of one vector and those of candidates, as they are and by their lengths."""
    rng = np.random.default_rng(11)
    for dimension, count in ((1, 3), (18, 500), (67, 100)):
        own = rng.normal(size=dimension).astype(np.float32)
        candidates = rng.normal(size=(dimension, count)).astype(np.float32)
        candidates[:, 0] = 0.0
        for normalized in (False, True):
            out = np.empty(count)
            read_products(own, candidates, normalized, out)
            yield out.tobytes()


def _factors(events: Iterable[Event]) -> Iterator[bytes]:
    """Learnt from what was seen."""
    seen = Sightings(Lesson())
    for event in events:
        seen.add(event)
    factors = learn(seen.sighted(), Rates())
    for owners, vectors in (
        (factors.users, factors.user_vectors),
        (factors.items, factors.item_vectors),
    ):
        assert len(owners) > 10
        assert np.isfinite(vectors).all()
        yield vectors.tobytes()


def _columns(url: str) -> Iterator[bytes]:
    """One of each type, written and read, asked for one by one and as whole hashes."""
    key = JoinKey("user_id", STRING_TYPE)
    types = [dtype for dtype in MATRIX_TYPES if dtype in VALUE_TYPES]
    columns = [Column(f"c{n}", "v", f"c{n}", dtype, (key,)) for n, dtype in enumerate(types)]
    rng = random.Random(9)
    with redis.Redis.from_url(url) as store:
        for user in USERS:
            fields = {
                field_name(column.view, column.feature): _value(rng, column.dtype)
                for column in columns
            }
            row = entity_key(key.name, key.value_type, user, "processors")
            store.hset(row, mapping=fields)
    ids = {"user_id": [*USERS, "never seen", *USERS[::-1]]}
    for fetch in ("fields", "whole"):
        with MatrixReader(url, "processors", columns, fetch=fetch) as reader:
            found = reader.read(ids)
            for name in found:
                column = found[name]
                plain = column.dtype != object
                yield column.tobytes() if plain else repr(column.tolist()).encode()


def _value(rng: random.Random, dtype: str) -> bytes:
    """Sometimes none, and sometimes one that many have."""
    if rng.random() < 0.1:
        return b""
    several: Any = [rng.randrange(-(2**40), 2**40) for _ in range(rng.randrange(5))]
    one: Any = rng.randrange(-(2**31), 2**31)
    if "Float" in dtype:
        several, one = [rng.gauss(0, 1e9) for _ in several], rng.gauss(0, 1)
    if dtype in ("String", "Bytes"):
        one = f"text {rng.randrange(6)}"
    if dtype == "Bytes":
        one = one.encode()
    return encode_value(several if dtype.startswith("Array") else one, dtype)


def _digest(parts: Iterable[bytes]) -> str:
    known = hashlib.sha256()
    for part in parts:
        known.update(len(part).to_bytes(8, "little") + part)
    return known.hexdigest()[:16]


def kernels() -> dict[str, bool]:
    """Every compiled function of ours, and whether it was compiled for anything yet."""
    for package in PACKAGES:
        where = Path(importlib.import_module(package).__path__[0])
        for file in sorted(where.rglob("*.py")):
            if "\n@kernel\n" in file.read_text():
                parts = file.relative_to(where.parent).with_suffix("").parts
                importlib.import_module(".".join(parts))
    found = [one for one in gc.get_objects() if isinstance(one, Dispatcher)]
    return {
        f"{one.py_func.__module__}.{one.py_func.__name__}": bool(one.signatures)
        for one in found
        if one.py_func.__module__.partition(".")[0] in PACKAGES
    }


def main(model: Path, valkey: str) -> None:
    made = digests(model, valkey)
    idle = sorted(name for name, used in kernels().items() if not used)
    print(json.dumps({"digests": made, "kernels": len(kernels()), "idle": idle}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
