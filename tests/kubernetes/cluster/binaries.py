"""The binaries of a control plane: etcd of Debian's, the rest built once from the Go modules.

They are built into `.kubernetes/` beside the checkout's other leavings, at the versions and hashes
of `go.mod` and `go.sum` here: `make cluster-test`. Some 20 minutes on two cores, and 4 GB of disk
while it lasts.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
CACHE: Final = Path(__file__).parents[3] / ".kubernetes"
NAMES: Final = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
VERSION: Final = "1.34.4"
_BUILD_TIMEOUT_S: Final = 3 * 3600
NOT_BUILT: Final = "the control plane is not built: make cluster-test"
NEEDS: Final = "a control plane needs etcd and, to be built, Go: apt-get install etcd-server"


def binary(name: str) -> str:
    """Where a built binary is. Raises AssertionError where it is not."""
    path = _folder() / name
    assert path.is_file(), NOT_BUILT
    return str(path)


def missing() -> str | None:
    """Why no control plane can run here; None when it can."""
    if shutil.which("etcd") is None:
        return NEEDS
    return None if all((_folder() / name).is_file() for name in NAMES) else NOT_BUILT


def build() -> Path:
    """The folder of the binaries, built the first time."""
    folder = _folder()
    if all((folder / name).is_file() for name in NAMES):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -modcacherw",
        "GOMODCACHE": str(CACHE / "gomod"),
        "GOCACHE": str(CACHE / "gocache"),
    }
    major, minor, _ = VERSION.split(".")
    said = {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor}
    stamps = [f"-X k8s.io/component-base/version.{name}={value}" for name, value in said.items()]
    packages = [f"k8s.io/kubernetes/cmd/{name}" for name in NAMES]
    command = ["go", "build", "-p", "2", "-buildvcs=false", f"-ldflags=-s -w {' '.join(stamps)}"]
    subprocess.run(
        [*command, "-o", f"{folder}/", *packages],
        cwd=HERE, env=environment, check=True, timeout=_BUILD_TIMEOUT_S,
    )  # fmt: skip
    for leftover in ("gomod", "gocache"):
        shutil.rmtree(CACHE / leftover, ignore_errors=True)
    return folder


def _folder() -> Path:
    """By what they are built from, so that other versions are other folders."""
    sums = (HERE / "go.mod").read_bytes() + (HERE / "go.sum").read_bytes()
    return CACHE / hashlib.sha256(sums).hexdigest()[:12]


if __name__ == "__main__":
    if shutil.which("etcd") is None or (missing() is not None and shutil.which("go") is None):
        sys.exit(NEEDS)
    sys.stdout.write(f"the control plane is in {build()}\n")
