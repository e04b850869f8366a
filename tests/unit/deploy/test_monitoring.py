"""What is generated is what is declared; each alert fires when it should, and has its runbook."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from deploy.cli import app
from deploy.monitoring.__main__ import FOLDER, files
from deploy.monitoring.dashboards import BOARDS
from deploy.monitoring.rules import rules, runbook
from deploy.monitoring.slo import BURNS, OBJECTIVES
from tests.pages import ROOT, inline_code
from tests.unit.deploy.test_guides import follow

RUNBOOKS = ROOT / "deploy" / "guides" / "runbooks"
NO_PROMTOOL = "rules are tested by promtool: apt-get install prometheus"


def alerts() -> list[dict[str, Any]]:
    return [rule for group in rules()["groups"] for rule in group["rules"] if "alert" in rule]


def test_what_lies_in_generated_is_what_is_declared() -> None:
    assert {file.name: file.read_text() for file in FOLDER.iterdir()} == files(), (
        "the declarations changed: make monitoring"
    )


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert {runbook(one["alert"]) for one in alerts()} == {f.name for f in RUNBOOKS.iterdir()}
    for one in alerts():
        assert (ROOT / one["annotations"]["runbook"]).is_file()


@pytest.mark.parametrize("page", sorted(RUNBOOKS.iterdir()), ids=lambda page: page.stem)
def test_a_runbook_says_who_notices_where_to_look_and_how_to_mend(page: Path) -> None:
    text = page.read_text()
    assert text.startswith(f"# {page.stem}\n")
    for part in ("**Who notices.**", "**Look at**", "**Mend**"):
        assert part in text
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (page.parent / target).is_file(), target
    for code in inline_code(page):
        if code.startswith("headrace "):
            follow(typer.main.get_command(app), shlex.split(code)[1:], code)


def test_settings_that_runbooks_name_exist() -> None:
    operator = (ROOT / "deploy" / "guides" / "operator.md").read_text()
    for page in RUNBOOKS.iterdir():
        for name in re.findall(r"HEADRACE_[A-Z_]+", page.read_text()):
            assert f"`{name}`" in operator, f"{page.name}: {name}"


def test_dashboards_are_what_grafana_imports() -> None:
    for board in BOARDS:
        made = json.loads(files()[f"{board.uid}.json"])
        panels = [panel for panel in made["panels"] if panel["type"] != "row"]
        assert len(panels) == sum(map(len, board.rows.values()))
        assert all(target["expr"] for panel in panels for target in panel["targets"])
        assert all(panel["datasource"]["uid"] == "${source}" for panel in panels)
        places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
        assert len(set(places)) == len(places), "panels cover each other"


SERIES = {
    "freshness": (
        'headrace_freshness_seconds_bucket{process="aggregate",base="append_time",le="2.0"}',
        'headrace_freshness_seconds_count{process="aggregate",base="append_time"}',
    ),
    "latency": ('headrace_rank_seconds_bucket{le="0.1"}', "headrace_rank_seconds_count"),
    "answers": (
        'headrace_rank_requests_total{outcome="ok"}',
        'headrace_rank_requests_total{outcome="failed"}',
    ),
    "whole_answers": (
        'headrace_rank_answers_total{whole="yes"}',
        'headrace_rank_answers_total{whole="no"}',
    ),
    "dead_letters": (
        'headrace_events_total{process="route",kind="accepted"}',
        'headrace_events_total{process="route",kind="dead"}',
    ),
}
"""What each objective counts: good ones, then all (a histogram) or bad ones."""


def firing(label: str, bad_share: float) -> dict[str, Any]:
    """A test of promtool's: one objective with so large a share of bad events for an hour."""
    good, other = SERIES[label]
    objective = next(one for one in OBJECTIVES if one.label == label)
    bad = round(100_000 * bad_share)
    second = 100_000 if "count" in other else bad
    name = f"Headrace{objective.name}BudgetBurnsFast"
    burning = {
        burn.long
        for burn in BURNS
        if burn.severity == "page" and bad_share > burn.factor * objective.budget
    }
    expected = [
        {"exp_labels": one["labels"] | {"slo": label}, "exp_annotations": one["annotations"]}
        for one in alerts()
        if one["alert"] == name and one["labels"]["window"] in burning
    ]
    return {
        "interval": "1m",
        "input_series": [
            {"series": good, "values": f"0+{100_000 - bad}x70"},
            {"series": other, "values": f"0+{second}x70"},
        ],
        "alert_rule_test": [{"eval_time": "65m", "alertname": name, "exp_alerts": expected}],
    }


def off_by(lead_s: int) -> dict[str, Any]:
    """A test of promtool's: a ranker whose clock is ahead, by minutes that begin at 0."""
    (said,) = (one for one in alerts() if one["alert"] == "HeadraceClock")
    differ = {-300: "5m 0s", 31_536_000: "365d 0h 0m 0s"}.get(lead_s)
    summary = f"the clock of ranker-1 and that of Prometheus differ by {differ}"
    fires = {
        "exp_labels": said["labels"] | {"instance": "ranker-1"},
        "exp_annotations": said["annotations"] | {"summary": summary},
    }
    series = 'headrace_clock_unix_seconds{instance="ranker-1"}'
    return {
        "interval": "1m",
        "input_series": [{"series": series, "values": f"{lead_s}+60x20"}],
        "alert_rule_test": [
            {
                "eval_time": "10m",
                "alertname": "HeadraceClock",
                "exp_alerts": [fires] if differ else [],
            }
        ],
    }


def test_promtool_takes_the_rules_and_burns_fire_by_their_factor(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip(NO_PROMTOOL)
    file = FOLDER / "headrace-rules.yaml"
    subprocess.run([promtool, "check", "rules", str(file)], check=True, capture_output=True)
    tests = [
        firing(one.label, share * one.budget)
        for one in OBJECTIVES
        for share in (0.0, 1.0, 13.0, 40.0)
    ]
    tests += [off_by(lead_s) for lead_s in (0, 3, -300, 31_536_000)]
    content = {"rule_files": [str(file)], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(content))
    done = subprocess.run(
        [promtool, "test", "rules", str(tmp_path / "tests.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
