"""Feed rules from YAML, and files that take effect while the ranker runs."""

from pathlib import Path

import pytest

from features.errors import Refused
from ranker.rules import Rules, read_rules
from ranker.scoring.value import ValueModel, ValueWeights, read_weights
from ranker.watched import Watched

REPO = Path(__file__).parents[3] / "feature_repo"


def test_the_repositorys_own_rules_are_read() -> None:
    rules = read_rules(REPO / "feed.yaml").of("home")
    assert rules.seen is not None
    assert rules.seen.window == 86_400_000
    assert not rules.diversity.off


def test_without_a_file_there_are_no_rules(tmp_path: Path) -> None:
    assert read_rules(tmp_path / "none.yaml") == Rules()


@pytest.mark.parametrize(
    "text",
    [
        "default: {seen: {window: soon}}",
        "default: {age_max: 0d}",
        "default: {age_max: -5}",
        "default: {diversity: {strategy: best}}",
        "default: {diversity: {strength: 1.5}}",
        "default: {diversity: {spread: [{by: author, most: 0, places: 3}]}}",
        "default: {require: {licensed: .nan}}",
        "surfaces: [home]",
        "more: {}",
        "[",
        "7",
    ],
)
def test_a_file_that_makes_no_sense_is_refused_with_its_form(tmp_path: Path, text: str) -> None:
    (tmp_path / "feed.yaml").write_text(text)
    with pytest.raises(Refused, match=r"feed\.yaml(?s:.*)`default:`"):
        read_rules(tmp_path / "feed.yaml")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "value.yaml"
    path.write_text("default: {click: 1.0}")
    return path


def test_a_changed_file_takes_effect_and_an_unchanged_one_is_not_read_again(weights: Path) -> None:
    used: list[ValueWeights] = []
    watched = Watched(weights, read_weights, used.append)
    watched.check()
    assert used == []
    weights.write_text("default: {click: 2.0}")
    watched.check()
    watched.check()
    assert [one.default for one in used] == [{"click": 2.0}]
    assert watched.value.default == {"click": 2.0}
    assert (watched.reloads, watched.refused, watched.bad) == (1, 0, False)


@pytest.mark.parametrize("bad", ["default: {click: much}", "default: {hide: -1.0}", None])
def test_a_bad_file_changes_nothing_and_is_said_until_it_is_mended(
    weights: Path, bad: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    def use(found: ValueWeights) -> None:
        ValueModel(found, ["click"])

    watched = Watched(weights, read_weights, use)
    if bad is None:
        weights.unlink()
    else:
        weights.write_text(bad)
    for _ in range(2):
        watched.check()
    assert watched.value.default == {"click": 1.0}
    assert (watched.refused, watched.bad) == (1, True)
    assert "what was read before stays" in caplog.text
    weights.write_text("default: {click: 3.0}")
    watched.check()
    assert (watched.value.default, watched.bad) == ({"click": 3.0}, False)


def test_a_bad_file_at_the_start_is_refused(tmp_path: Path) -> None:
    (tmp_path / "feed.yaml").write_text("default: 3")
    with pytest.raises(Refused):
        Watched(tmp_path / "feed.yaml", read_rules)
