"""RankLens (Metarank): rankings of 24 films in shown order, and which of them people clicked.

Its clock is squeezed into 20 minutes, so features of time mean nothing here. A film's embedding is
made of its words alone: genres, tags, actors, director and writer, hashed (Weinberger et al., ICML
2009); version `genres` is made of the genres.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmh3
import numpy as np

from features.errors import BadInput
from features.events import EngagementEvent, Event, ImpressionEvent, ItemEvent, ShownItem
from streaming.adapters.reading import find

SURFACE = "ranklens"
ATTRIBUTES = ["title", "description", "writer", "popularity", "vote_avg", "vote_cnt", "budget",
              "runtime"]  # fmt: skip

WORDS = ["genres", "tags", "actors", "director", "writer"]
DIMENSIONS = 128


def events(folder: Path) -> Iterator[Event]:
    """Every fact of the folder, ordered by event time; a click after the ranking it belongs to."""
    path = find(folder, "events.jsonl.gz", "expected Metarank's RankLens as events.jsonl.gz")
    items: dict[str, ItemEvent] = {}
    for record in sorted(_records(path), key=_order):
        try:
            event = _event(record, items)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{path}: no RankLens event: {str(record)[:200]}: {error!r}") from error
        if isinstance(event, ItemEvent):
            items[event.item_id] = event
        yield event


def _event(record: dict[str, Any], items: dict[str, ItemEvent]) -> Event:
    if record["event"] == "item":
        return _item(record)
    if record["event"] == "ranking":
        return _impression(record, items)
    return _click(record, items)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    done = 0
    try:
        with gzip.open(path) as lines:
            for line in lines:
                record = json.loads(line)
                _order(record)
                yield record
                done += 1
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}, line {done + 1}: no RankLens event: {error!r}") from error


def _order(record: dict[str, Any]) -> tuple[int, int]:
    return int(record["timestamp"]), ["item", "ranking", "interaction"].index(record["event"])


def _item(record: dict[str, Any]) -> ItemEvent:
    fields = {field["name"]: field["value"] for field in record["fields"]}
    released_at = round(fields.get("release_date", -1) * 1000)
    return ItemEvent(
        event_id=record["id"],
        event_time=int(record["timestamp"]),
        item_id=record["item"],
        author_id=fields.get("director"),
        categories=fields.get("genres", []),
        created_at=released_at if released_at >= 0 else None,  # some films are older than 1970
        attributes={name: fields[name] for name in ATTRIBUTES if name in fields},
        embedding=hashed([word for name in WORDS for word in _words(name, fields.get(name))]),
        embeddings={"genres": hashed(_words("genres", fields.get("genres")))},
    )


def _words(name: str, value: str | list[str] | None) -> list[str]:
    """The words of a field, told from the same words of others."""
    listed = [value] if isinstance(value, str) else value or []
    return [f"{name}:{word}" for word in listed]


def hashed(words: list[str]) -> list[float]:
    """A unit vector of DIMENSIONS: each word adds 1 or −1 at a place of its own, by its hash."""
    vector = np.zeros(DIMENSIONS)
    for word in words:
        code = mmh3.hash(word, signed=False)
        vector[code % DIMENSIONS] += 1.0 if code >> 16 & 1 else -1.0
    length = float(np.linalg.norm(vector))
    return [float(x) for x in vector / length] if length else [float(x) for x in vector]


def _about(item_id: str, items: dict[str, ItemEvent]) -> dict[str, Any]:
    item = items.get(item_id)
    if item is None:
        return {"item_id": item_id}
    return {"item_id": item_id, "author_id": item.author_id, "categories": item.categories}


def _impression(record: dict[str, Any], items: dict[str, ItemEvent]) -> ImpressionEvent:
    request_id = record["id"]
    return ImpressionEvent(
        event_id=request_id,
        event_time=int(record["timestamp"]),
        request_id=request_id,
        user_id=record.get("user") or f"anon-{request_id}",
        surface=SURFACE,
        items=[ShownItem(**_about(item["id"], items)) for item in record["items"]],
    )


def _click(record: dict[str, Any], items: dict[str, ItemEvent]) -> EngagementEvent:
    return EngagementEvent(
        event_id=record["id"],
        event_time=int(record["timestamp"]),
        request_id=record["ranking"],
        user_id=record["user"],
        surface=SURFACE,
        action="click",
        **_about(record["item"], items),
    )
