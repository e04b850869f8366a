"""The experiments' files, and a share of them on real processes when there is time."""

import os
from pathlib import Path

import pytest

from features.plan import FeatureRepo
from tests import kafka_server
from tests.chaos.experiment import FOLDER, Experiment, Result, read, run
from tests.chaos.laboratory import line
from tests.chaos.links import LINKS, RANKERS, WORKERS, town

FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_experiment_says_what_it_holds(file: Path) -> None:
    experiment = read(file)
    assert experiment.says.endswith(".")
    assert experiment.steady.recovers_s <= 60


def test_every_link_and_every_process_is_in_some_experiment() -> None:
    all_of_them = [read(file) for file in FILES]
    assert {link for one in all_of_them for link in one.links} == set(LINKS)
    assert {name for one in all_of_them for name in one.restart} == {*WORKERS, *RANKERS}
    assert {name for one in all_of_them for name in one.clocks} == {*WORKERS, *RANKERS}
    assert {name for one in all_of_them for name in one.leaps} == {*WORKERS, *RANKERS}
    pressed = [one.pressure for one in all_of_them]
    assert any(one.cores for one in pressed)
    assert any(one.memory_mb for one in pressed)
    assert any(one.disk_full for one in pressed)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"links": {"route-moon": {"latency_ms": 1}}}, "there is no route-moon"),
        ({"restart": ["broker"]}, "there is no broker"),
        ({"clocks": {"broker": 60}}, "there is no broker"),
        ({"leaps": {"broker": [60, 0]}}, "there is no broker"),
        ({"leaps": {"ranker-1": [60]}}, "at least 2"),
        ({}, "it does nothing"),
        ({"links": {"route-redis": {"slow": 1}}}, "slow"),
    ],
)
def test_an_experiment_that_cannot_be_made_is_refused(wrong: dict[str, object], says: str) -> None:
    steady = {"answered": 1, "whole": 1, "recovers_s": 1}
    with pytest.raises(ValueError, match=says):
        Experiment.model_validate({"says": "x.", "for_s": 1, "steady": steady, **wrong})


def test_a_line_tells_what_was_refuted_and_what_was_not_run() -> None:
    told = line(Result("01-slow", 10, 9, 5, 100, 0, 1.5, refuted=["90.0% answered, not 98.0%"]))
    assert "90.0%" in told
    assert "REFUTED" in told
    told = line(Result("01-slow", 10, 9, 5, unanswered={"Late": 1}))
    assert "unanswered Late 1" in told
    assert "not run: why" in line(Result("02-silent", skipped="why"))


@pytest.mark.timeout(900)
@pytest.mark.skipif(os.environ.get("HEADRACE_TEST_LONG") != "1", reason="HEADRACE_TEST_LONG=1")
@pytest.mark.skipif(kafka_server.missing() is not None, reason=kafka_server.MISSING)
def test_hypotheses_hold_on_real_processes(applied_repo: Path, tmp_path: Path) -> None:
    plan = FeatureRepo(applied_repo).open().read()
    with town(tmp_path / "town", applied_repo) as here:
        for name in ("03-redis-resets-the-ranker", "14-rolling-restart"):
            result = run(name, read(FOLDER / f"{name}.yaml"), here, plan, f"test/{name}")
            assert result.refuted == [], line(result)
            assert result.lost == 0
