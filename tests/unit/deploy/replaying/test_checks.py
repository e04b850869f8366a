"""Replay's checks: nothing differs on an undisturbed system, and each planted fault is found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.replaying import skew as skews
from deploy.replaying.report import Section, write_report
from deploy.replaying.sections import rank_section, skew_section, state_section
from deploy.replaying.skew import FORMULA, ROUNDED, STATE, Skew
from features.events import EngagementEvent, Event
from features.row_store import MemoryRows
from features.spec import Plan
from ranker.reading import heads_loader
from ranker.recount import Recounter
from ranker.rules import Diversity, Rules, Spread, SurfaceRules
from streaming.logs.files import LogFiles
from streaming.records import Record
from streaming.replays.compare import Comparison, compare
from streaming.replays.recorded import ArchivedEvents
from streaming.replays.versions import BlockIndex, versions
from tests.browsing import browsing
from tests.recordings import ROUTED, replay_of
from tests.serving import CLICKS, SERVED_PLAN, replayed, trained
from tests.town import Town, reformulated

HOUR_MS = 3_600_000
START_MS = 500 * 24 * HOUR_MS
ITEMS = [f"i{number}" for number in range(30)]
EVENTS = browsing(60, seed=4, start_ms=START_MS)
LOST = next(e for e in EVENTS if isinstance(e, EngagementEvent) and e.action == "click")
"""A click by somebody who is ranked for later."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("model"), replayed(browsing(200)), "click")


def lived(model: Path | None = None, **of: Any) -> Town:
    """A town whose people browse, and are ranked for now and then as it goes on."""
    town = Town(model=model, **of)
    half = len(EVENTS) // 2
    for number, some in enumerate((EVENTS[:half], EVENTS[half:])):
        town.feed(some)
        for user in (LOST.user_id, "u7", "stranger"):
            now = max(event.event_time for event in some) + 1 + number
            town.rank(now, user_id=user, candidates=[*ITEMS, "ghost"], limit=12)
    return town


def checked(
    files: LogFiles,
    model: Path | None = None,
    plan: Plan = SERVED_PLAN,
    alter: Callable[[dict[str, Any]], dict[str, Any]] = lambda record: record,
    rules: Rules = Rules(),  # noqa: B008  (frozen)
) -> Skew:
    recounter = Recounter(plan, "feed", heads_loader(model, CLICKS))
    skew = Skew()
    records = [alter(record) for record in skews.served(files, None)]
    rankings = skews.rankings_of(records, plan, skew)
    recorded = ArchivedEvents(files, "archive")
    wanted = skews.wanted_by(rankings, recounter)
    found = versions(plan, recorded, BlockIndex(files), wanted, ROUTED)
    return skews.check(rankings, recounter, found, skew, rules=rules)


def compared(town: Town, files: LogFiles) -> tuple[Comparison, Section]:
    replayed_rows = MemoryRows()
    recorded = ArchivedEvents(files, "archive")
    replay = replay_of(town.plan, recorded, replayed_rows)
    replay.run()
    replay.finish()
    found = compare(town.plan, town.rows, replayed_rows)
    return found, state_section(town.plan, found, recorded)


def test_on_an_undisturbed_system_nothing_differs(model: Path, tmp_path: Path) -> None:
    town = lived(model)
    files = town.archive(tmp_path)
    skew = checked(files, model)
    assert (skew.rankings, skew.items, skew.differences) == (6, 72, 0)
    assert not skew.left_out
    assert (skew.scores_equal, skew.scores_differing, skew.orders_differing) == (6, 0, 0)
    assert skew_section(skew).passed
    assert rank_section(skew).passed
    found, section = compared(town, files)
    assert found.rows == found.equal > 60
    assert section.passed
    moved = {name for name, one in skew.features.items() if one.equal}
    assert moved == set(skew.features)


def test_a_changed_formula_is_found_and_named(model: Path, tmp_path: Path) -> None:
    files = lived(model).archive(tmp_path)
    other = reformulated(SERVED_PLAN, "item_rates", "ctr_short", prior_of=0.31)
    assert other.version == SERVED_PLAN.version
    skew = checked(files, model, other)
    (differing,) = (one for one in skew.features.values() if one.differing)
    assert (differing.name, differing.why) == ("item_rates__ctr_short", FORMULA)
    assert not skew_section(skew).passed


def without_lost(event: Event) -> Event | None:
    return None if event.event_id == LOST.event_id else event


def test_an_event_that_the_live_rows_lost_is_found_and_named(model: Path, tmp_path: Path) -> None:
    town = lived(model, disturbed=without_lost)
    files = town.archive(tmp_path)
    found, section = compared(town, files)
    assert found.differing >= 2  # the user's row and the item's
    assert not section.passed
    assert f"online lacks event {LOST.event_id!r}" in section.notes[1]
    skew = checked(files, model)
    wrong = [one for one in skew.features.values() if one.differing]
    assert wrong
    assert {one.why for one in wrong} <= {STATE, FORMULA}


def test_an_event_that_the_archive_lost_is_found(model: Path, tmp_path: Path) -> None:
    town = lived(model)

    def is_lost(record: Record) -> bool:
        return b'"%b"' % LOST.event_id.encode() in (record.value or b"")

    files = town.archive(tmp_path, is_lost)
    found, section = compared(town, files)
    assert found.differing >= 2
    assert "online" in section.notes[0]
    assert not section.passed
    skew = checked(files, model)
    assert skew.differences > 0
    assert not skew_section(skew).passed


def test_a_clock_that_was_shifted_is_found_and_by_how_much(model: Path, tmp_path: Path) -> None:
    def shifted(record: dict[str, Any]) -> dict[str, Any]:
        return record | {"now": record["now"] + HOUR_MS}

    skew = checked(lived(model).archive(tmp_path), model, alter=shifted)
    assert skew.differences > 0
    assert set(skew.shifts) == {"as if `now` had been -1 h off when it was served"}
    wrong = [one for one in skew.features.values() if one.differing]
    assert all("-1 h" in one.why for one in wrong)


def test_a_wrong_time_zone_of_the_request_is_found(model: Path, tmp_path: Path) -> None:
    files = lived(model).archive(tmp_path)
    other = reformulated(SERVED_PLAN, "request_facts", "hour", utc_offset_hours=-2.5)
    skew = checked(files, model, other)
    (differing,) = (one for one in skew.features.values() if one.differing)
    assert differing.name == "request_facts__hour"


def test_events_that_were_counted_in_another_time_zone_are_found(tmp_path: Path) -> None:
    def local(event: Event) -> Event:
        return event.model_copy(update={"event_time": event.event_time + 11 * HOUR_MS // 2})

    town = lived(disturbed=local)
    found, section = compared(town, town.archive(tmp_path))
    assert found.differing == found.rows
    assert "+5.5 h later" in section.notes[1]


def test_vectors_rounded_to_single_precision_are_found_and_named(
    model: Path, tmp_path: Path
) -> None:
    def rounded(record: dict[str, Any]) -> dict[str, Any]:
        vectors = np.array(record["vectors"], np.float64).astype(np.float32).astype(np.float64)
        return record | {"vectors": vectors.tolist()}

    skew = checked(lived(model).archive(tmp_path), model, alter=rounded)
    wrong = [one for one in skew.features.values() if one.differing]
    assert wrong
    assert {one.why for one in wrong} == {ROUNDED}
    assert skew.scores_differing == 0


def test_another_score_or_order_is_found(model: Path, tmp_path: Path) -> None:
    files = lived(model).archive(tmp_path)

    def nudged(record: dict[str, Any]) -> dict[str, Any]:
        return record | {"score": [np.nextafter(s, 2.0) for s in record["score"]]}

    def turned(record: dict[str, Any]) -> dict[str, Any]:
        return record | {"by_score": record["by_score"][::-1]}

    assert checked(files, model, alter=nudged).scores_differing == 6
    assert checked(files, model, alter=turned).orders_differing == 6
    other = rank_section(checked(files, None))
    assert not other.passed
    assert "the model given is None" in other.notes[0]


VARIED = Rules(
    default=SurfaceRules(
        diversity=Diversity(
            strategy="mmr", strength=0.6, spread=(Spread(by="author", most=1, places=4),)
        )
    )
)


def test_pages_are_made_again_after_diversity_and_other_rules_are_found(
    model: Path, tmp_path: Path
) -> None:
    files = lived(model, rules=VARIED).archive(tmp_path)
    same = checked(files, model, rules=VARIED)
    assert (same.pages_equal, same.pages_differing) == (6, 0)
    assert rank_section(same).passed
    other = checked(files, model)
    assert other.orders_differing == other.scores_differing == 0
    assert other.pages_differing == 6
    assert not rank_section(other).passed
    assert any("first other page" in note for note in rank_section(other).notes)


def test_the_second_page_of_a_session_is_made_again(model: Path, tmp_path: Path) -> None:
    town = Town(model=model, rules=VARIED)
    town.feed(EVENTS)
    now = max(event.event_time for event in EVENTS) + 1
    first = town.rank(now, user_id="u3", candidates=ITEMS, limit=7)
    town.rank(now, user_id="u3", candidates=ITEMS, limit=7, cursor=first.next_cursor)
    skew = checked(town.archive(tmp_path), model, rules=VARIED)
    assert (skew.rankings, skew.pages_equal, skew.pages_differing) == (2, 2, 0)


def test_pages_whose_candidates_are_not_kept_are_left_out_and_said(
    model: Path, tmp_path: Path
) -> None:
    skew = checked(lived(model, rules=VARIED, kept_share=0.0).archive(tmp_path), model)
    assert (skew.scores_equal, skew.pages_equal, skew.pages_differing) == (6, 0, 0)
    section = rank_section(skew)
    assert section.passed
    assert any("6 rankings of which the log keeps what was shown alone" in n for n in section.notes)


def test_a_ranking_whose_rows_are_not_archived_is_left_out_and_said(
    model: Path, tmp_path: Path
) -> None:
    town = lived(model)
    for target in town.updates:
        del town.updates[target][len(town.updates[target]) // 2 :]
    skew = checked(town.archive(tmp_path), model)
    assert skew.left_out["a row at its marker is not in the archive"] > 0
    assert skew.differences == 0


def test_the_report_is_a_page_and_the_same_as_json(model: Path, tmp_path: Path) -> None:
    town = lived(model, disturbed=without_lost)
    files = town.archive(tmp_path / "archive")
    _, state = compared(town, files)
    sections = [state, skew_section(checked(files, model))]
    page, data = write_report(tmp_path / "report", "A <replay>", sections)
    text = page.read_text()
    assert "A &lt;replay&gt;" in text
    assert "check-state: failed" in text
    assert "data:image/png;base64," in text or "matplotlib" in text
    content = json.loads(data.read_text())
    assert content["passed"] is False
    assert content["checks"]["check-state"]["differing"] >= 2
    assert content["checks"]["check-skew"]["rankings"] == 6
