"""`headrace replay --what-if` on a small recorded town: the same again, and what changes change."""

import json
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.feature_store import SETTINGS, applying
from deploy.replaying.report import Section
from deploy.replaying.run import Asked, run
from features.errors import BadInput, Refused
from features.plan import FeatureRepo
from ranker.scoring.model import read_manifest
from ranker.stages.fresh import FreshPool
from ranker.stages.sources import FreshSource, TrendingSource
from ranker.training.evaluation import auc
from streaming.event_file import write_events
from tests.living import HISTORY, LIMIT, REQUESTS, START_MS, clicks, lived, trained
from tests.serving import KeptLog
from tests.town import Town

SKIPS = 'mean("skip_dwell_mean_all"'
LONG_VIEWS = 'mean("long_view_dwell_mean_all", "long_view", "all", (60_000.0, 3.0))'
NEW = "item_rates__long_view_dwell_mean_all"


@pytest.fixture(scope="module")
def models(applied_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What served, and one that knows far less."""
    folder = tmp_path_factory.mktemp("models")
    spans = {"served": START_MS + 1000, "other": START_MS + 350}
    return {name: trained(applied_repo, folder, name, until) for name, until in spans.items()}


@pytest.fixture(scope="module")
def town(applied_repo: Path, models: dict[str, Path]) -> Town:
    """People who are shown what is ranked for them, and click what they like."""
    return lived(applied_repo, models["served"])


@pytest.fixture(scope="module")
def archive(town: Town, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    town.archive(folder)
    return folder


def with_more_features(repo: Path, folder: Path) -> Path:
    """A copy of a repository with one more sum in its rows, and a feature of it; applied."""
    other = folder / "more_repo"
    copytree(repo, other, ignore=ignore_patterns("__pycache__", "*.db", "data", "archive"))
    edits = {
        "stored.py": ('sums("click", "skip")', 'sums("click", "skip", "long_view")'),
        "as_of.py": (SKIPS, f"{LONG_VIEWS}, {SKIPS}"),
    }
    for name, (old, new) in edits.items():
        text = (other / name).read_text()
        assert old in text
        (other / name).write_text(text.replace(old, new, 1))
    settings = other / SETTINGS
    settings.write_text(settings.read_text().replace(str(repo), str(other)))
    with applying(other, settings, folder / "apply.log") as wait:
        wait()
    return other


def asked(archive: Path, repo: Path, model: Path, **of: Any) -> Asked:
    given = {"service": "home_feed", "what_if": True, **of}
    return Asked(source=str(archive), repo=repo, model=model, **given)


def section(archive: Path, repo: Path, model: Path, **of: Any) -> Section:
    (found,) = run(asked(archive, repo, model, **of), lambda *_: None).sections
    return found


def figures(found: Section) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in found.data["figures"]}


def test_with_nothing_changed_every_page_and_figure_is_the_same(
    archive: Path, applied_repo: Path, models: dict[str, Path]
) -> None:
    found = section(archive, applied_repo, models["served"])
    assert found.passed is None
    assert found.figures["rankings"] == found.figures["pages the same"] == REQUESTS
    assert found.figures["rank-biased overlap"] == 1
    for one in found.data["figures"]:
        np.testing.assert_equal(one["logged"], one["other"])
        if one["difference"] is not None:
            assert one["difference"]["value"] == 0
            assert one["difference"]["low"] == one["difference"]["high"] == 0
    names = figures(found)
    for kind in ("AUC", "GAUC by request", "GAUC by user", "log loss", "promised / came"):
        assert np.isfinite(names[f"click: {kind}"]["logged"])
    assert names["median age of a shown item, s"]["logged"] > 0
    assert not any(one["name"].startswith("rank") for one in found.data["figures"])


def test_metrics_are_those_of_a_recount_by_hand(
    town: Town, archive: Path, applied_repo: Path, models: dict[str, Path]
) -> None:
    label, said = [], []
    for record in town.log.all():
        for place in range(len(record["items"])):
            said.append(record["heads"]["click"][place])
            label.append(float(clicks(record, place) and place > 0))
    found = section(archive, applied_repo, models["served"], window_ms=5_000)
    one = figures(found)["click: AUC"]
    # The last request may still be answered when the recording ends.
    known = found.figures["items of which it is known what followed"]
    assert known in (len(label), len(label) - LIMIT)
    assert one["logged"] == pytest.approx(auc(label[:known], said[:known]), abs=1e-12)


def test_another_model_changes_pages_and_heads_and_the_difference_has_an_interval(
    archive: Path, applied_repo: Path, models: dict[str, Path]
) -> None:
    found = section(archive, applied_repo, models["other"])
    assert 0 < found.figures["rank-biased overlap"] < 1
    assert found.figures["pages the same"] < REQUESTS
    one = figures(found)["click: AUC"]
    assert one["logged"] != one["other"]
    assert one["difference"]["value"] == pytest.approx(one["other"] - one["logged"])
    assert one["difference"]["low"] <= one["difference"]["value"] <= one["difference"]["high"]
    assert any("overlap" in note and "it would be" in note for note in found.notes)


def test_other_weights_turn_the_order_and_leave_the_heads(
    archive: Path, applied_repo: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    turned = tmp_path / "value.yaml"
    turned.write_text("default: {click: -1.0}\n")
    found = section(archive, applied_repo, models["served"], weights=turned)
    names = figures(found)
    assert found.figures["rank-biased overlap"] < 0.3
    assert names["click: AUC"]["difference"]["value"] == 0
    before, after = (names["score (click): GAUC by request"][side] for side in ("logged", "other"))
    assert after < 0.5 < before
    assert not found.figures["trusted"]
    assert any("was not shown when it was recorded" in doubt for doubt in found.data["doubts"])


def test_diversity_spreads_authors_and_leaves_every_score(
    archive: Path, applied_repo: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    plain, spread = tmp_path / "plain.yaml", tmp_path / "spread.yaml"
    plain.write_text("default: {}\n")
    spread.write_text("default: {diversity: {spread: [{by: author, most: 1, places: 10}]}}\n")
    name = "distinct authors per item of a page"
    made = {
        file: figures(section(archive, applied_repo, models["served"], feed=file))
        for file in (plain, spread)
    }
    assert made[spread][name]["other"] == 1 > made[plain][name]["other"]
    assert made[spread][name]["logged"] == made[plain][name]["logged"]
    same = made[spread]["score (click): GAUC by request"]
    assert same["logged"] == same["other"]


def test_what_the_log_keeps_alone_can_only_be_put_into_another_order_and_it_says_so(
    town: Town, applied_repo: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    half = replace_log(town, [shown_alone(record) for record in town.log.all()])
    half.archive(tmp_path)
    found = section(tmp_path, applied_repo, models["other"])
    names = figures(found)
    one = names["share of all candidates on any page"]
    assert one["logged"] == one["other"] == 1
    assert any("HEADRACE_LOG_CANDIDATES_SHARE" in doubt for doubt in found.data["doubts"])
    assert any("nothing was left to chance" in doubt for doubt in found.data["doubts"])


def test_explored_items_tell_what_each_side_earns_and_too_few_are_doubted(
    applied_repo: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    explored = FreshSource(FreshPool(10**12, 10**6), 6)
    sources = [TrendingSource(25), explored]
    seen_again_after = 2 * 86_400_000
    town = lived(applied_repo, models["served"], seen_again_after, sources=sources)
    town.archive(tmp_path)
    same = section(tmp_path, applied_repo, models["served"])
    assert same.figures["rank-biased overlap"] == 1
    sides = same.data["estimates"]["click"]
    assert sides["as logged"] == sides["as it would be"]
    by_hand = np.array(
        [
            (1 / chance, float(clicks(record, place)))
            for record in town.log.all()
            for place, chance in enumerate(record["propensity"])
            if chance < 1
        ]
    )
    assert len(by_hand) == sides["as logged"]["rows"] > 0
    weight, reward = by_hand.T
    assert sides["as logged"]["snips"]["value"] == pytest.approx(weight @ reward / weight.sum())
    assert sides["as logged"]["ips"]["value"] == pytest.approx(weight @ reward / len(weight))
    other = section(tmp_path, applied_repo, models["other"])
    assert other.data["estimates"]["click"]["as it would be"]["rows"] == len(by_hand)
    assert any("of equal weight" in doubt for doubt in other.data["doubts"])


def test_another_repository_with_new_state_is_tried_on_the_same_rankings(
    archive: Path, models: dict[str, Path], applied_repo: Path, tmp_path: Path
) -> None:
    repo = with_more_features(applied_repo, tmp_path)
    old, new = (FeatureRepo(one).open().read() for one in (applied_repo, repo))
    assert old.version != new.version
    served = section(archive, repo, models["served"])
    assert served.figures["pages the same"] == REQUESTS
    model = trained(repo, tmp_path, "more", START_MS + 1000)
    assert NEW in read_manifest(model).features
    found = section(archive, repo, model)
    assert found.figures["rankings"] == REQUESTS
    with pytest.raises(Refused, match=NEW):
        section(archive, applied_repo, model)
    with pytest.raises(Refused, match="no feature service 'nowhere'"):
        section(archive, applied_repo, models["served"], service="nowhere")


def test_what_cannot_be_asked_is_refused(archive: Path, applied_repo: Path, tmp_path: Path) -> None:
    def ask(source: str = str(archive), **of: Any) -> None:
        run(Asked(source=source, repo=applied_repo, **of), lambda *_: None)

    with pytest.raises(BadInput, match="--model FOLDER"):
        ask(what_if=True)
    with pytest.raises(BadInput, match="are of --what-if"):
        ask(feed=tmp_path / "feed.yaml")
    file = tmp_path / "events.jsonl"
    write_events(file, HISTORY[:80])
    with pytest.raises(BadInput, match="need an archive"):
        ask(str(file), what_if=True, model=tmp_path)


def test_the_command_writes_a_page_with_plots_and_the_same_as_json(
    archive: Path, applied_repo: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    command = ["replay", str(archive), "--repo", str(applied_repo), "--what-if"]
    command += ["--model", str(models["other"]), "--window", "1m", "--report", str(tmp_path)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "what-if: compared" in done.output
    assert "as it would be" in done.output
    content = json.loads((tmp_path / "replay.json").read_text())
    assert content["passed"]
    assert content["checks"]["what-if"]["rankings"] == REQUESTS
    page = (tmp_path / "replay.html").read_text()
    assert "as logged" in page
    assert page.count("data:image/png;base64,") >= 2


def test_a_window_that_is_still_open_everywhere_is_said(
    archive: Path, applied_repo: Path, models: dict[str, Path]
) -> None:
    found = section(archive, applied_repo, models["served"], window_ms=10**9)
    assert found.figures["items of which it is known what followed"] == 0
    assert found.figures["rank-biased overlap"] == 1
    assert any("still open" in doubt for doubt in found.data["doubts"])


def test_nothing_that_could_be_compared_is_a_failure(
    town: Town, applied_repo: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    replace_log(town, [record | {"version": 2} for record in town.log.all()]).archive(tmp_path)
    found = section(tmp_path, applied_repo, models["served"])
    assert found.passed is False
    assert f"{REQUESTS} rankings an older log record" in found.notes[0]


def shown_alone(record: dict[str, Any]) -> dict[str, Any]:
    return record | {"among": None}


def replace_log(town: Town, records: Sequence[dict[str, Any]]) -> Town:
    """The same town with another serving log."""
    other = copy(town)
    other.log = KeptLog([(b"", json.dumps(one).encode()) for one in records])
    return other
