"""KuaiRand-Pure (Gao et al., CIKM 2022): one row is one exposure of a short video, and its fate.

No slates or positions are recorded, so a row is an impression of one item; the rows of a request
share its id. Play times and every `is_*` are outcomes: they become engagements and nothing else.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from features.events import EngagementEvent, Event, ImpressionEvent, ItemEvent, ShownItem, UserEvent
from streaming.adapters.reading import (
    find,
    integers,
    read_npz,
    read_parquet,
    request_starts,
    scalars,
)

ORIGIN = "expected a KuaiRand folder of impressions, videos, users (Parquet) and video_embeddings"
# fmt: off
ROW = ["user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_like", "is_follow",
       "is_comment", "is_forward", "is_hate", "long_view", "play_time_ms", "duration_ms",
       "profile_stay_time", "comment_stay_time", "is_profile_enter", "is_rand", "tab"]
USER = ["user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author",
        "follow_user_num", "fans_user_num", "friend_user_num", "register_days",
        *(f"onehot_feat{i}" for i in range(18))]
ITEM = ["video_duration", "video_type", "upload_type", "music_type"]
# fmt: on
OUTCOMES = {
    "long_view": "long_view",
    "is_like": "like",
    "is_follow": "follow",
    "is_comment": "comment",
    "is_forward": "share",
    "is_hate": "hide",
}
UTC_OFFSET_MS = 8 * 3600 * 1000  # upload dates are days in Beijing


def events(folder: Path) -> Iterator[Event]:
    """Every fact of the folder, ordered by event time; its exact repeats stay repeats."""
    rows = read_parquet(find(folder, "impressions.parquet", ORIGIN), ROW)
    rows = rows.take(np.argsort(integers(rows, "time_ms"), kind="stable"))
    before = int(rows["time_ms"][0].as_py()) - 1 if rows.num_rows else 0
    items = list(_items(folder, before))
    yield from sorted(items, key=lambda item: item.event_time)
    yield from _users(folder, before)
    yield from _rows(rows, {item.item_id: item for item in items})


def _items(folder: Path, before: int) -> Iterator[ItemEvent]:
    columns = ["video_id", "author_id", "upload_dt", "tag", *ITEM]
    videos = read_parquet(find(folder, "videos.parquet", ORIGIN), columns)
    npz = read_npz(find(folder, "video_embeddings.npz", ORIGIN), ["video_ids", "vectors"])
    vectors = dict(zip(npz["video_ids"].tolist(), npz["vectors"].tolist(), strict=True))
    for video in videos.to_pylist():
        uploaded_at = int(np.datetime64(video["upload_dt"], "ms").astype(int)) - UTC_OFFSET_MS
        attributes = scalars(video, ITEM)
        if "video_duration" in attributes:
            attributes["duration_ms"] = attributes.pop("video_duration")
        yield ItemEvent(
            event_id=f"item:{video['video_id']}",
            event_time=min(uploaded_at, before),
            item_id=str(video["video_id"]),
            author_id=str(video["author_id"]),
            categories=video["tag"].split(",") if video["tag"] else [],
            created_at=uploaded_at,
            attributes=attributes,
            embedding=vectors.get(video["video_id"]),
        )


def _users(folder: Path, before: int) -> Iterator[UserEvent]:
    users = read_parquet(find(folder, "users.parquet", ORIGIN), ["user_id", *USER])
    for user in users.to_pylist():
        yield UserEvent(
            event_id=f"user:{user['user_id']}",
            event_time=before,
            user_id=str(user["user_id"]),
            attributes=scalars(user, USER),
        )


def _rows(rows: pa.Table, items: dict[str, ItemEvent]) -> Iterator[Event]:
    columns = {name: integers(rows, name) for name in ROW}
    matrix = np.stack(list(columns.values()), axis=1).astype("<i8")
    starts = request_starts(columns["user_id"], columns["tab"], columns["time_ms"]).tolist()
    lists: dict[str, list[int]] = {name: column.tolist() for name, column in columns.items()}
    flags = [(action, lists[column]) for column, action in OUTCOMES.items()]
    for i, time_ms in enumerate(lists["time_ms"]):
        row_id = hashlib.blake2b(matrix[i].tobytes(), digest_size=12).hexdigest()
        user_id, item_id = str(lists["user_id"][i]), str(lists["video_id"][i])
        surface = str(lists["tab"][i])
        request_id = f"{user_id}-{surface}-{starts[i]}"
        item = items.get(item_id)
        about: dict[str, Any] = {"item_id": item_id}
        if item is not None:
            about |= {"author_id": item.author_id, "categories": item.categories}
        context: dict[str, Any] = {
            "event_time": time_ms,
            "user_id": user_id,
            "surface": surface,
            "request_id": request_id,
        }
        yield ImpressionEvent(
            event_id=f"{row_id}:impression", items=[ShownItem(**about)], **context
        )
        play_ms = lists["play_time_ms"][i]
        actions: list[tuple[str, int | None]] = []
        if lists["is_click"][i]:
            actions.append(("click", play_ms))
        elif play_ms > 0:
            actions.append(("skip", play_ms))
        actions += [(action, None) for action, flag in flags if flag[i]]
        for action, value in actions:
            yield EngagementEvent(
                event_id=f"{row_id}:{action}", action=action, value=value, **about, **context
            )
