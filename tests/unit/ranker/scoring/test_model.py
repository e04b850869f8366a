import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from features.errors import Refused
from ranker.scoring.model import DataSpan, TrainedHead, load_model, save_model

COLUMNS = ["clicks_sum_1h", "ctr_24h", "age_ms"]
SPAN = DataSpan(from_ms=1, to_ms=2, events=300, requests=30)
RANDOM = np.random.default_rng(11)
MATRIX = RANDOM.normal(size=(300, 3))
CLICKED = (MATRIX[:, 0] + RANDOM.normal(size=300) > 0).astype(int)


def train(objective: str, columns: list[str] = COLUMNS, **parameters: object) -> lightgbm.Booster:
    group = [10] * 30 if objective == "lambdarank" else None
    rows = lightgbm.Dataset(MATRIX, CLICKED, group=group, feature_name=columns)
    settings = {"objective": objective, "num_leaves": 4, "verbose": -1, **parameters}
    return lightgbm.train(settings, rows, num_boost_round=5)


def save(folder: Path, *heads: TrainedHead) -> None:
    save_model(
        folder,
        heads,
        feature_service="home_feed",
        features=COLUMNS,
        data_span=SPAN,
        code_version="0.1.0",
        plan="abc",
        created_at=datetime(2024, 5, 1, tzinfo=UTC),
    )


def binary_head(booster: lightgbm.Booster) -> TrainedHead:
    return TrainedHead("click", "binary", "click", booster.model_to_string(), {"auc": 0.7})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "model", binary_head(train("binary")))
    return tmp_path / "model"


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    change(fields)
    path.write_text(json.dumps(fields), encoding="utf-8")


def test_a_loaded_model_scores_probabilities_for_binary_and_raw_for_lambdarank(
    tmp_path: Path,
) -> None:
    binary, rank = train("binary"), train("lambdarank")
    rank_head = TrainedHead("order", "lambdarank", "click", rank.model_to_string(), {})
    save(tmp_path, binary_head(binary), rank_head)
    model = load_model(tmp_path, COLUMNS)
    scores = model.score(MATRIX)
    assert list(scores) == ["click", "order"]
    np.testing.assert_allclose(scores["click"], binary.predict(MATRIX), rtol=1e-14)
    np.testing.assert_array_equal(scores["order"], rank.predict(MATRIX))


def test_the_manifest_says_where_the_model_comes_from(folder: Path) -> None:
    manifest = load_model(folder, COLUMNS).manifest
    assert manifest.features == COLUMNS
    assert manifest.feature_service == "home_feed"
    assert manifest.data_span == SPAN
    assert manifest.created_at == datetime(2024, 5, 1, tzinfo=UTC)
    assert manifest.heads[0].trees == 5
    assert manifest.heads[0].metrics == {"auc": 0.7}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["clicks_sum_1h", "age_ms"], r"'ctr_24h' \(number 1\) is missing.*feast apply"),
        (["clicks_sum_1h", "ctr_24h"], r"'age_ms' \(number 2\) is missing.*feast apply"),
        ([*COLUMNS, "extra"], r"'extra' \(number 3\) is unexpected.*feast apply"),
        (["extra", *COLUMNS], r"'extra' \(number 0\) is unexpected.*feast apply"),
        ([*COLUMNS, "age_ms"], r"'age_ms' \(number 3\) comes twice.*feast apply"),
        (
            ["clicks_sum_1h", "age_ms", "ctr_24h"],
            r"number 1 is 'age_ms' and should be 'ctr_24h'.*order.*feast apply",
        ),
        ([], r"'clicks_sum_1h' \(number 0\) is missing"),
    ],
)
def test_columns_that_do_not_fit_are_refused_by_name(
    folder: Path, columns: list[str], message: str
) -> None:
    with pytest.raises(Refused, match=f"home_feed.*{message}"):
        load_model(folder, columns)


def test_a_changed_head_file_is_refused(folder: Path) -> None:
    path = folder / "click.txt"
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(Refused, match=r"click\.txt: its checksum"):
        load_model(folder, COLUMNS)


def test_a_missing_head_file_is_refused(folder: Path) -> None:
    (folder / "click.txt").unlink()
    with pytest.raises(Refused, match=r"click\.txt: missing.*copy the whole folder"):
        load_model(folder, COLUMNS)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"manifest\.json: missing.*headrace train"):
        load_model(tmp_path, COLUMNS)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\udcff"])
def test_a_manifest_that_is_none_is_refused(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(Refused, match="not a manifest"):
        load_model(folder, COLUMNS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields.update(format_version=2), "format_version 2.*reads 1"),
        (lambda fields: fields.pop("features"), "features: Field required"),
        (lambda fields: fields.update(heads=[]), "heads: "),
        (lambda fields: fields["heads"][0].update(file="../click.txt"), "heads.0.file: "),
        (lambda fields: fields["heads"][0].update(objective="lambdarank"), "'binary sigmoid:1'"),
        (lambda fields: fields.update(features=COLUMNS[::-1]), "'clicks_sum_1h'"),
    ],
)
def test_a_manifest_that_does_not_hold_together_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit_manifest(folder, change)
    with pytest.raises(Refused, match=message):
        load_model(folder, json.loads((folder / "manifest.json").read_text()).get("features", []))


def test_two_heads_of_one_name_are_refused(tmp_path: Path) -> None:
    head = binary_head(train("binary"))
    with pytest.raises(Refused, match="'click' comes twice"):
        save(tmp_path, head, head)


def test_a_head_trained_on_other_columns_is_not_saved(tmp_path: Path) -> None:
    head = binary_head(train("binary", columns=["clicks_sum_1h", "ctr_7d", "age_ms"]))
    with pytest.raises(Refused, match=r"head 'click'.*'ctr_24h'"):
        save(tmp_path, head)
    assert list(tmp_path.iterdir()) == []


def test_a_head_whose_scores_are_no_probabilities_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"head 'click'.*sigmoid:2"):
        save(tmp_path, binary_head(train("binary", sigmoid=2.0)))


def test_scores_far_from_zero_stay_probabilities(tmp_path: Path) -> None:
    text = train("binary").model_to_string()
    for tree_line in [line for line in text.splitlines() if line.startswith("leaf_value=")]:
        values = tree_line.removeprefix("leaf_value=").split()
        text = text.replace(tree_line, "leaf_value=" + " ".join(f"{v}e5" for v in values), 1)
    save(tmp_path, TrainedHead("click", "binary", "click", text, {}))
    scores = load_model(tmp_path, COLUMNS).score(MATRIX)["click"]
    assert np.all((scores >= 0) & (scores <= 1))
    assert scores.min() < 1e-300
    assert scores.max() == 1.0
