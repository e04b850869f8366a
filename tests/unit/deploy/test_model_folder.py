"""Fetching a model folder: whole or not at all."""

import shutil
from pathlib import Path

import pytest

from deploy.model_folder import fetch
from features.errors import BadInput, Refused, Unavailable
from ranker.scoring.model import load_model
from tests.unit.deploy.test_sagemaker import COLUMNS, folder  # noqa: F401 - the model


def test_a_fetched_model_loads_and_replaces_what_was_there(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    target = tmp_path / "models" / "current"
    target.mkdir(parents=True)
    (target / "stale.txt").write_text("of another model")
    assert fetch(folder.as_uri(), target) == "2026-01-02T00:00:00+00:00"
    assert sorted(p.name for p in target.iterdir()) == sorted(p.name for p in folder.iterdir())
    assert load_model(target, COLUMNS).manifest.features == COLUMNS
    assert [p.name for p in target.parent.iterdir()] == ["current"]


def test_a_model_that_does_not_load_leaves_the_one_that_does(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    target, cut = tmp_path / "current", tmp_path / "cut"
    fetch(folder.as_uri(), target)
    shutil.copytree(folder, cut)
    (cut / "click.txt").write_text("tree\n")
    with pytest.raises(Refused, match="its checksum is not the manifest's"):
        fetch(cut.as_uri(), target)
    assert load_model(target, COLUMNS).forests.keys() >= {"click", "save"}


def test_what_is_no_model_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="it holds no manifest"):
        fetch(tmp_path.as_uri(), tmp_path / "current")
    with pytest.raises(BadInput, match="no URI of a model folder"):
        fetch("models/home", tmp_path / "current")


def test_a_store_that_does_not_answer_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    where = "s3://models/home?region=eu-central-1&endpoint_override=127.0.0.1:1&scheme=http"
    with pytest.raises(Unavailable, match="cannot be read"):
        fetch(where, tmp_path / "current")
