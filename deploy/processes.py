"""Child processes that outlive their starter: each a group of its own, found again and stopped.

A child is known by process id *and* start time, so a recycled id is never mistaken for it.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from features.errors import Unavailable

POLL_INTERVAL_S = 0.02
LOG_TAIL_LINES = 15
NICENESS = 19
# Start times are derived from the boot time, which a clock adjustment can move a little.
SAME_START_WITHIN_S = 2.0


@dataclass(frozen=True)
class Program:
    """What to run, on which loopback port it listens, and how to know that it answers."""

    name: str
    command: Sequence[str]
    port: int
    answers: Callable[[int], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    gives_way: bool = False
    """Whether the processor goes to others first where there is not enough of it."""


@dataclass(frozen=True)
class Child:
    """A started program: `started_at` is seconds since the epoch."""

    name: str
    pid: int
    started_at: float
    port: int
    log: str

    def process(self) -> psutil.Process | None:
        """The living process, or None when it has ended or its id is another's now."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_at) < SAME_START_WITHIN_S
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def log_tail(self) -> str:
        """The last lines of the child's log, indented."""
        lines = Path(self.log).read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "".join(f"\n  {line}" for line in lines) or "\n  (it wrote nothing)"


@contextlib.contextmanager
def running(program: Program, log: Path, timeout_s: float = 30) -> Iterator[Child]:
    """The program, answering inside the `with`, and gone after it whatever happened there."""
    child = spawn(program, log)
    try:
        wait_until_ready([(program, child)], timeout_s)
        yield child
    finally:
        stop([child])


def spawn(program: Program, log: Path) -> Child:
    """Starts the program with its output appended to the log, detached from our terminal.

    Nothing is kept of it but its id, so that it may outlive us: hence not `subprocess`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    appended = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        program.command[0],
        list(program.command),
        {**os.environ, **program.environment},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), appended, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigdef=[signal.SIGPIPE, signal.SIGINT],
    )
    if program.gives_way:
        give_way(pid)
    return Child(program.name, pid, psutil.Process(pid).create_time(), program.port, str(log))


def give_way(pid: int) -> None:
    """Let the processor go to others first: of a process that has just begun, and all it starts.

    Linux may weigh sessions before processes: then that of its session counts, which should be its
    own. As a batch process it does not interrupt at waking up whoever runs: a kernel that lets each
    run for its slice would keep a request waiting for that long, many times in the course of it.
    """
    with contextlib.suppress(ProcessLookupError):  # it ended already: who waits for it is told
        os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))
    with contextlib.suppress(OSError):  # not on every system
        Path(f"/proc/{pid}/autogroup").write_text(str(NICENESS))


def wait_until_ready(children: Sequence[tuple[Program, Child]], timeout_s: float) -> None:
    """Returns when every child holds its port and answers on it.

    Raises Unavailable, with the last lines of its log, for a child that ends or stays silent.
    """
    deadline = time.monotonic() + timeout_s
    waiting = list(children)
    while waiting:
        for _, child in waiting:
            if child.process() is None:
                how = _ended_how(child)
                raise Unavailable(f"{child.name} {how} while starting. Its log:{child.log_tail()}")
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{child.name} did not answer on port {child.port} within {timeout_s:g} s."
                    f" Its log:{child.log_tail()}"
                )
        waiting = [(program, child) for program, child in waiting if not _ready(program, child)]
        if waiting:
            time.sleep(POLL_INTERVAL_S)


def stop(children: Iterable[Child], grace_s: float = 15) -> None:
    """Ends the children and all they started: SIGTERM, and SIGKILL after the grace."""
    alive = [child for child in children if child.process() is not None]
    for child in alive:
        _signal_group(child, signal.SIGTERM)
    _wait_gone(alive, grace_s)
    for child in alive:
        _signal_group(child, signal.SIGKILL)
    _wait_gone(alive, 5)
    for child in alive:
        _reap(child)


def _ready(program: Program, child: Child) -> bool:
    return _holds_port(child) and program.answers(child.port)


def _holds_port(child: Child) -> bool:
    """True if the child itself listens: another server may have been quicker to take the port."""
    process = child.process()
    if process is None:
        return False
    try:
        family = [process, *process.children(recursive=True)]
        sockets = [socket for one in family for socket in one.net_connections(kind="tcp")]
    except psutil.NoSuchProcess:
        return False
    return any(
        socket.status == psutil.CONN_LISTEN and socket.laddr.port == child.port
        for socket in sockets
    )


def _signal_group(child: Child, number: signal.Signals) -> None:
    # macOS says PermissionError of a group whose members have all ended.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _wait_gone(children: Sequence[Child], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while any(child.process() for child in children) and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL_S)


def _reap(child: Child) -> int | None:
    """The exit status of a child of ours, which frees its id; None when it is another's."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child.pid, os.WNOHANG)[1])
    except ChildProcessError:
        return None


def _ended_how(child: Child) -> str:
    code = _reap(child)
    if code is None:
        return "ended"
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
