"""What a request costs as things grow: items in the table, users in Redis, candidates asked for.

Rows are those that events made, and copies of them under other ids, each in a Valkey of its own:
`base`; the same with many more items; the same with ten times the users. A ranker of this process
follows each; requests go to all of them in turn. Candidates are drawn from all items there are.

The yardstick is stock `get_online_features` for 500 and 5,000 of the same items.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import redis
from pydantic import SecretStr

from features.candidates import ITEM_KEY, USER_KEY
from features.codec import MARKER_FIELD, entity_id, entity_key
from features.entities import Hash, RowWrite
from features.marker import Marker
from features.plan import FeatureRepo
from features.spec import Plan
from ranker.request import RankRequest
from streaming.settings import StreamingSettings
from streaming.wiring import open_store
from tests.benchmarks.ground import SERVICE, applied, events, scratch, valkey
from tests.benchmarks.report import Result, percentiles
from tests.benchmarks.serving import (
    CANDIDATES,
    LIMIT,
    Asked,
    Rank,
    fill,
    in_turn,
    peopled,
    ranker,
    requests,
    train,
)
from tests.benchmarks.stock_feast import StockRanker, typed_project
from tests.benchmarks.timing import IN_A_ROW, SETTLING, paired_ms

EVENTS = 20_000
ITEMS, MORE_ITEMS, FULL_ITEMS = 10_000, 50_000, 1_000_000
USERS, MORE_USERS = 1_000, 10_000
FEW, MANY = 50, 5_000
RUNS, FULL_RUNS = 300, 1_000
FEAST_RUNS = 4
ROWS_PER_WRITE = 1_000


@dataclass(frozen=True)
class Rows:
    """Stored rows by key, and what kinds of them can be copied."""

    plan: Plan
    stored: dict[bytes, Hash]

    def of(self, join_key: str) -> dict[str, Hash]:
        """Id → row of one entity."""
        found = ((entity_id(join_key, k, self.plan.project), row) for k, row in self.stored.items())
        return {one: row for one, row in found if one is not None}

    def grown(self, join_key: str, count: int) -> Iterator[tuple[bytes, Hash]]:
        """So many rows of one entity: those there are, then copies of them under new ids."""
        (entity,) = (e for e in self.plan.entities if e.join_key == join_key)
        rows = list(self.of(join_key).values())
        for number in range(len(rows), count):
            key = entity_key(join_key, entity.value_type, copy_id(number), self.plan.project)
            yield key, rows[number % len(rows)]

    def ids(self, join_key: str, count: int) -> list[str]:
        """The ids of so many rows."""
        own = list(self.of(join_key))
        return own + [copy_id(number) for number in range(len(own), count)]


def copy_id(number: int) -> str:
    return str(9_000_000_000 + number)


def run(full: bool) -> Result:
    more_items = FULL_ITEMS if full else MORE_ITEMS
    with scratch() as folder, ExitStack() as running:
        port = running.enter_context(valkey(folder))
        repo = running.enter_context(applied(folder, port))()
        plan = FeatureRepo(repo).open().read()
        recorded, url = peopled(events(EVENTS)), f"redis://127.0.0.1:{port}/0"
        fill(plan, recorded, url)
        trained = train(plan, recorded, ["click"])
        model = trained.write(folder / "model", ["click"])
        rows = stored_rows(plan, url)
        sizes = {
            "base": (ITEMS, USERS),
            "items": (more_items, USERS),
            "users": (ITEMS, MORE_USERS),
        }
        ranks = {
            name: running.enter_context(grown(folder / name, rows, repo, model, *size))
            for name, size in sizes.items()
        }
        asked = requests(recorded)
        ways: dict[str, Callable[[], object]] = {
            name: drawn(rank, asked, rows.ids(ITEM_KEY, sizes[name][0]), CANDIDATES)
            for name, rank in ranks.items()
        }
        runs = FULL_RUNS if full else RUNS
        taken_ms = paired_ms(ways, runs, warm_up=40, in_a_row=IN_A_ROW, settling=SETTLING)
        base_ids = rows.ids(ITEM_KEY, ITEMS)
        by_count = paired_ms(
            {
                str(count): drawn(ranks["base"], asked, base_ids, count)
                for count in (FEW, CANDIDATES, MANY)
            },
            runs=FULL_RUNS // 5 if full else 60,
        )
        with redis.Redis.from_url(url) as client:
            typed = typed_project(repo, folder, plan, client)
        stock = StockRanker(
            typed, plan, SERVICE, trained.boosters["click"], trained.rows.matrix[:1]
        )
        feast = paired_ms(
            {str(count): feast_way(stock, asked, count) for count in (CANDIDATES, MANY)},
            runs=FEAST_RUNS,
            warm_up=1,
        )
    found = {name: percentiles(taken) for name, taken in taken_ms.items()}
    p99 = {name: one["p99_ms"] for name, one in found.items()}
    ours = {f"{figure}_{name}": ms for name, one in found.items() for figure, ms in one.items()}
    ours |= {f"p50_ms_{count}_candidates": float(np.median(ms)) for count, ms in by_count.items()}
    ours |= {
        "p99_factor_items": p99["items"] / p99["base"],
        "p99_factor_users": p99["users"] / p99["base"],
        "cost_factor_candidates": cost_factor(by_count),
        "items": float(more_items),
    }
    yardstick = {f"p50_ms_{count}_candidates": float(np.median(ms)) for count, ms in feast.items()}
    yardstick["cost_factor_candidates"] = cost_factor(feast)
    ratio = {name: yardstick[name] / ours[name] for name in yardstick if name.startswith("p50")} | {
        "cost_factor_candidates": yardstick["cost_factor_candidates"]
        / ours["cost_factor_candidates"]
    }
    return Result("growth_rank", ours, yardstick, ratio)


def cost_factor(taken_ms: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]) -> float:
    """The cost of a candidate among 5,000 over that among 500: up to 1 is linear or better."""
    per_candidate = {count: float(np.median(ms)) / int(count) for count, ms in taken_ms.items()}
    return per_candidate[str(MANY)] / per_candidate[str(CANDIDATES)]


def stored_rows(plan: Plan, url: str) -> Rows:
    """All rows of a Redis."""
    with redis.Redis.from_url(url) as client:
        keys = [
            key
            for key in client.scan_iter(count=10_000)
            if any(entity_id(e.join_key, key, plan.project) is not None for e in plan.entities)
        ]
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.hgetall(key)
        return Rows(plan, dict(zip(keys, pipe.execute(), strict=True)))


@contextmanager
def grown(
    folder: Path, rows: Rows, repo: Path, model: Path, items: int, users: int
) -> Iterator[Rank]:
    """A ranker over a Valkey of its own with so many items and users."""
    folder.mkdir()
    with valkey(folder) as port:
        url = f"redis://127.0.0.1:{port}/0"
        store = open_store(
            StreamingSettings(redis=SecretStr(url), durability="none"), rows.plan.project
        )
        try:
            batch: list[RowWrite] = []
            for source in (
                iter(rows.stored.items()),
                rows.grown(ITEM_KEY, items),
                rows.grown(USER_KEY, users),
            ):
                for key, content in source:
                    batch.append(_write(key, content))
                    if len(batch) == ROWS_PER_WRITE:
                        assert all(store.write(batch))
                        batch = []
            assert all(store.write(batch))
        finally:
            store.close()
        with ranker(url, repo, model) as rank:
            yield rank


def _write(key: bytes, content: Hash) -> RowWrite:
    marker = Marker.decode(content[MARKER_FIELD])
    assert marker is not None
    fields = [
        part for name, value in content.items() if name != MARKER_FIELD for part in (name, value)
    ]
    return RowWrite(key, marker, fields, [])


def drawn(
    rank: Rank, asked: Sequence[Asked], items: Sequence[str], count: int
) -> Callable[[], object]:
    """Requests in turn, each with candidates drawn from all items."""
    rng = random.Random(7)
    others = [
        Asked(one.request.model_copy(update={"candidates": rng.sample(items, count)}), [])
        for one in asked
    ]

    def ask(one: Asked) -> None:
        response = rank(one.request)
        assert not response.degraded, response.degraded
        assert len(response.items) == LIMIT

    return in_turn(ask, others)


def feast_way(stock: StockRanker, asked: Sequence[Asked], count: int) -> Callable[[], object]:
    """Stock Feast asked for so many candidates, those of several requests together."""
    ids = [one for each in asked for one in each.ids][:count]
    request: RankRequest = asked[0].request
    return lambda: stock.rank(request.user_id, request.surface, ids)
