"""KuaiRand-Pure (Gao et al., CIKM 2022): one row is one exposure of a short video, and its fate.

No slates or positions are recorded, so a row is an impression of one item; the rows of a request
share its id. Play times and every `is_*` are outcomes: they become engagements and nothing else.

`user_history.parquet`, where it is, lists what each user had seen before. That becomes `view`
engagements, with the long views and likes among them: of these it is known that they were seen, not
whether they were clicked, so they are no impressions, and no request is learnt from them.
"""

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
HISTORY = "user_history.parquet"
HISTORY_COLUMNS = ["user_id", "history_len", "last_time_ms", "watch_seq", "like_seq",
                   "long_watch_seq"]  # fmt: skip
UTC_OFFSET_MS = 8 * 3600 * 1000  # upload dates are days in Beijing
RECORDS_BEGIN_MS = 1_649_347_200_000  # of all KuaiRand: 8 April 2022 in Beijing


def events(folder: Path, history: bool = True) -> Iterator[Event]:
    """Every fact of the folder, ordered by event time; its exact repeats stay repeats.

    Without `history`, only what happened since its first impression.
    """
    rows = read_parquet(find(folder, "impressions.parquet", ORIGIN), ROW)
    rows = rows.take(np.argsort(integers(rows, "time_ms"), kind="stable"))
    before = int(rows["time_ms"][0].as_py()) - 1 if rows.num_rows else 0
    seen = _history(folder) if history and (folder / HISTORY).is_file() else []
    if seen:
        before = min(before, seen[0].time_ms - 1)
    items = list(_items(folder, before))
    about = {item.item_id: item for item in items}
    yield from sorted(items, key=lambda item: item.event_time)
    yield from _users(folder, before)
    yield from heapq.merge(
        _views(seen, about), _rows(rows, about), key=lambda event: event.event_time
    )


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


class _Seen(NamedTuple):
    """One item of a user's history."""

    time_ms: int
    user_id: int
    place: int
    item_id: int
    actions: tuple[str, ...]


def _history(folder: Path) -> list[_Seen]:
    """What each user saw before the impressions, by time.

    Only the time of a user's newest is recorded: the others are laid evenly between the beginning
    of the records and it, as many as it is said there were.
    """
    table = read_parquet(folder / HISTORY, HISTORY_COLUMNS)
    found: list[_Seen] = []
    for user in table.to_pylist():
        seen, last = user["watch_seq"], user["last_time_ms"]
        step = max(1, (last - RECORDS_BEGIN_MS) // max(user["history_len"], len(seen), 1))
        long_views = newest_matches(seen, user["long_watch_seq"])
        likes = newest_matches(seen, user["like_seq"])
        for place, item_id in enumerate(seen):
            actions = ("view", *(["long_view"] if place in long_views else []),
                       *(["like"] if place in likes else []))  # fmt: skip
            time_ms = max(0, last - (len(seen) - 1 - place) * step)
            found.append(_Seen(time_ms, user["user_id"], place, item_id, actions))
    return sorted(found)


def newest_matches(seen: Sequence[int], among: Sequence[int]) -> set[int]:
    """The places of `seen` that the list `among`, of the same order, speaks of.

    Both end with the newest, and `among` may reach back further than `seen`.
    """
    places, left = set(), len(among) - 1
    for place in range(len(seen) - 1, -1, -1):
        if left >= 0 and seen[place] == among[left]:
            places.add(place)
            left -= 1
    return places


def _views(seen: Sequence[_Seen], items: dict[str, ItemEvent]) -> Iterator[Event]:
    for one in seen:
        about = _about(str(one.item_id), items)
        for action in one.actions:
            yield EngagementEvent(
                event_id=f"history:{one.user_id}:{one.place}:{action}",
                event_time=one.time_ms,
                user_id=str(one.user_id),
                action=action,
                **about,
            )


def _about(item_id: str, items: dict[str, ItemEvent]) -> dict[str, Any]:
    item = items.get(item_id)
    if item is None:
        return {"item_id": item_id}
    return {"item_id": item_id, "author_id": item.author_id, "categories": item.categories}


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
        about = _about(item_id, items)
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
