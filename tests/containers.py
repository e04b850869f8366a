"""Containers of the image under test, each as Kubernetes would run it, by podman and runc."""

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

# The emulator's own default has matrix instructions of which it, or OpenBLAS, makes wrong products.
EMULATED_PROCESSOR = "neoverse-n1"
RUN = (
    *("podman", "run", "--runtime", "runc", "--network", "host"),
    *("--read-only", "--tmpfs", "/tmp:rw,size=256m", "--cap-drop=all"),
    *("--security-opt", "no-new-privileges", "--ulimit", "nofile=4096:4096"),
    *("--ulimit", "nproc=4096:4096"),
    *("--env", f"QEMU_CPU={EMULATED_PROCESSOR}"),  # which only the emulator reads
)
POLL_S = 0.02


@dataclass
class Container:
    """A running container, how long it took to answer, and how it was stopped."""

    name: str
    started_s: float
    started_cpu_s: float
    """Of the processors; on a busy machine this is the figure that means something."""

    def rss_mib(self) -> float:
        """Memory that its processes hold."""
        return sum(one.memory_info().rss for one in self._family()) / 2**20

    def cpu_s(self) -> float:
        """Processor time that its processes took so far."""
        times = [one.cpu_times() for one in self._family()]
        return sum(one.user + one.system for one in times)

    def _family(self) -> list[psutil.Process]:
        process = psutil.Process(int(_podman("inspect", "-f", "{{.State.Pid}}", self.name)))
        return [process, *process.children(recursive=True)]

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command inside it."""
        return subprocess.run(
            ["podman", "exec", self.name, *command], capture_output=True, text=True, check=False
        )

    def stop(self) -> tuple[float, int]:
        """SIGTERM; after how many seconds it ended, and with which code."""
        began = time.monotonic()
        _podman("stop", "--time", "60", self.name)
        took_s = time.monotonic() - began
        return took_s, int(_podman("inspect", "-f", "{{.State.ExitCode}}", self.name))

    def log(self) -> str:
        """What it wrote so far."""
        done = subprocess.run(
            ["podman", "logs", self.name], capture_output=True, text=True, check=True
        )
        return done.stdout + done.stderr


def run_once(
    image: str, *command: str, entrypoint: str | None = None, options: Sequence[str] = ()
) -> str:
    """What a command prints in a container of its own; `options` are podman's."""
    way = () if entrypoint is None else ("--entrypoint", entrypoint)
    done = subprocess.run(
        [*RUN, "--rm", *options, *way, image, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def container(
    image: str,
    name: str,
    environment: Mapping[str, str],
    answers: Callable[[], bool],
    timeout_s: float = 60,
) -> Iterator[Container]:
    """`headrace NAME` in a container, answering inside the `with`, and gone after it."""
    named = f"headrace-test-{name}-{uuid.uuid4().hex[:8]}"
    said = [word for key, value in environment.items() for word in ("--env", f"{key}={value}")]
    began = time.monotonic()
    _podman(*RUN[1:], "--detach", "--name", named, *said, image, name)
    try:
        one = Container(named, 0.0, 0.0)
        while not answers():
            alive = _podman("inspect", "-f", "{{.State.Running}}", named) == "true"
            assert alive, f"{name} ended while starting:\n{one.log()}"
            assert time.monotonic() - began < timeout_s, f"{name} does not answer:\n{one.log()}"
            time.sleep(POLL_S)
        one.started_s, one.started_cpu_s = time.monotonic() - began, one.cpu_s()
        yield one
    finally:
        subprocess.run(["podman", "rm", "--force", named], capture_output=True, check=False)


def described(image: str) -> Any:
    """What the image says of itself."""
    return json.loads(_podman("image", "inspect", image))[0]


def _podman(*arguments: str) -> str:
    done = subprocess.run(["podman", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()
