from pathlib import Path

import pytest
import yaml

from deploy.feature_store import write_settings
from features.errors import BadInput


def written(tmp_path: Path, text: str) -> dict[str, object]:
    (tmp_path / "feature_store.yaml").write_text(text)
    target = tmp_path / "data" / "feature_store.yaml"
    target.parent.mkdir()
    write_settings(tmp_path, target, 7001)
    settings: dict[str, object] = yaml.safe_load(target.read_text())
    return settings


def test_only_the_addresses_change(tmp_path: Path) -> None:
    text = """
project: home
provider: local
registry: {registry_type: sql, path: "postgresql://elsewhere", cache_ttl_seconds: 5}
online_store: {type: features.online_store.HeadraceOnlineStore, connection_string: "x:1"}
offline_store: {type: file}
"""
    assert written(tmp_path, text) == {
        "project": "home",
        "provider": "local",
        "registry": {
            "registry_type": "sql",
            "path": f"sqlite:///{tmp_path / 'data' / 'registry.db'}",
            "cache_ttl_seconds": 5,
        },
        "online_store": {
            "type": "features.online_store.HeadraceOnlineStore",
            "connection_string": "127.0.0.1:7001",
        },
        "offline_store": {"type": "file"},
    }


def test_the_short_forms_are_understood(tmp_path: Path) -> None:
    settings = written(tmp_path, "registry: data/registry.db\nonline_store: redis\n")
    assert settings["online_store"] == {
        "type": "redis",
        "connection_string": "127.0.0.1:7001",
    }
    assert settings["registry"] == {
        "registry_type": "sql",
        "path": f"sqlite:///{tmp_path / 'data' / 'registry.db'}",
    }


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [1", "just words"])
def test_a_file_that_holds_no_settings_is_bad_input(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput, match=r"feature_store\.yaml"):
        written(tmp_path, text)


def test_a_folder_without_settings_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no feature repo"):
        write_settings(tmp_path, tmp_path / "out.yaml", 7001)
