"""The registry of models: versions that stay, and one that serves."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.model_registry import ModelRegistry
from features.errors import BadInput, Refused
from ranker.scoring.model import MANIFEST_FILE, load_model
from tests.unit.deploy.test_sagemaker import COLUMNS, folder  # noqa: F401 - the model


@pytest.fixture
def other(folder: Path, tmp_path: Path) -> Path:  # noqa: F811
    """The same model, made at another time."""
    copy = tmp_path / "other"
    shutil.copytree(folder, copy)
    manifest = json.loads((copy / MANIFEST_FILE).read_text())
    manifest["created_at"] = "2026-03-04T00:00:00Z"
    (copy / MANIFEST_FILE).write_text(json.dumps(manifest))
    return copy


def test_versions_are_counted_up_and_stay_what_they_were(
    folder: Path,  # noqa: F811
    other: Path,
    tmp_path: Path,
) -> None:
    registry = ModelRegistry(tmp_path / "models")
    assert [registry.add(one).name for one in (folder, other, folder)] == ["0001", "0002", "0001"]
    first, second = registry.versions()
    assert first.sha256 != second.sha256
    (other / MANIFEST_FILE).write_text("{}")
    assert registry.versions() == [first, second]
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["0001", "0002"]


def test_a_promoted_version_is_what_the_link_loads_until_another_is(
    folder: Path,  # noqa: F811
    other: Path,
    tmp_path: Path,
) -> None:
    registry = ModelRegistry(tmp_path / "models")
    registry.add(folder)
    assert registry.promoted() is None
    registry.add(other)
    promoted = tmp_path / "models" / "promoted"
    for asked, name in {"latest": "0002", "1": "0001", "0002": "0002"}.items():
        version = registry.promote(asked)
        assert version.name == registry.promoted() == name
        assert load_model(promoted, COLUMNS).manifest == version.manifest
    assert registry.versions()[-1].name == "0002"


def test_what_does_not_load_is_neither_kept_nor_promoted(
    folder: Path,  # noqa: F811
    other: Path,
    tmp_path: Path,
) -> None:
    registry = ModelRegistry(tmp_path / "models")
    with pytest.raises(BadInput, match="headrace model add"):
        registry.promote()
    registry.add(folder)
    registry.promote()
    (other / "click.txt").write_text("tree\n")
    with pytest.raises(Refused, match="checksum"):
        registry.add(other)
    assert [one.name for one in registry.versions()] == ["0001"]
    with pytest.raises(BadInput, match="no version 7 in"):
        registry.promote("7")
    assert registry.promoted() == "0001"


def test_the_commands_tell_of_every_version(folder: Path, other: Path, tmp_path: Path) -> None:  # noqa: F811
    models = str(tmp_path / "models")
    for command in (["add", str(folder)], ["add", str(other)]):
        done = CliRunner().invoke(app, ["model", *command, models])
        assert done.exit_code == 0, done.output
    assert CliRunner().invoke(app, ["model", "promote", models, "1"]).exit_code == 0
    shown = CliRunner().invoke(app, ["model", "list", models], env={"COLUMNS": "250"})
    assert "0001 promoted" in shown.output
    assert "0002" in shown.output
    assert "2026-03-04" in shown.output
    assert ModelRegistry(Path(models)).versions()[0].sha256[:12] in shown.output
