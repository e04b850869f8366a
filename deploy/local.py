"""The local stack, without containers or root: a broker, Valkey, and Headrace's three workers.

Nothing supervises it. `up` starts what is asked for and not running, and leaves; `stack.json` in
the data folder names what runs, for `status` and `down`.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from deploy import feature_store, ports, probes, processes, servers, stack_file
from deploy.ports import HOST
from deploy.processes import Child, Program
from deploy.stack_file import Stack
from features.errors import Refused, Unavailable

SERVERS = ("broker", "valkey")
WORKERS = ("route", "aggregate", "ranker")
PROBES = {"broker": probes.speaks_kafka, "valkey": probes.speaks_redis}
SERVERS_TIMEOUT_S = 30.0
# Three interpreters that import Feast and compile kernels at once, on two busy cores.
WORKERS_TIMEOUT_S = 180.0
# What a trial stack serves is little, so its log keeps the candidates of every request.
KEPT_WHOLE = "HEADRACE_LOG_CANDIDATES_SHARE"

Say = Callable[[str], None]
WorkerCommand = Callable[[str], Sequence[str]]
# Applies a repo with the settings and log file given, beside what the `with` does.
Apply = Callable[[Path, Path, Path], AbstractContextManager[Callable[[], None]]]


def headrace_command(worker: str) -> Sequence[str]:
    # -P: a folder of the same name where the user stands must not be imported instead of ours.
    return (sys.executable, "-P", "-m", "deploy.cli", worker)


@dataclass(frozen=True)
class Asked:
    """What `up` is asked for. A port of None is the usual one when free, else any free one."""

    data: Path
    repo: Path
    model: Path | None = None
    kafka_port: int | None = None
    redis_port: int | None = None
    http_port: int | None = None
    grpc_port: int | None = None
    workers: Sequence[str] = WORKERS
    command: WorkerCommand = headrace_command
    apply: Apply = feature_store.applying


@dataclass(frozen=True)
class Health:
    """How one process of the stack is."""

    child: Child
    alive: bool
    healthy: bool


def up(asked: Asked, say: Say) -> Stack:
    """Starts what is asked for and does not run yet; everything it started ends if any of it fails.

    Raises Refused (a taken port, a server that died, ports other than those that run), BadInput
    (no feature repo, a failed apply) and Unavailable (a process that did not come up).
    """
    asked.data.mkdir(parents=True, exist_ok=True)
    with stack_file.locked(asked.data), ExitStack() as undo:
        stack = _found(asked, say)
        missing = [name for name in (*SERVERS, *asked.workers) if not stack.alive(name)]
        if not missing:
            say(f"all that is asked for runs already in {stack.folder}")
            return stack
        port = {name: child.port for name, child in stack.children.items()}
        port |= {name: _choose_port(name, asked, port.get(name)) for name in missing}
        workers = [name for name in missing if name in WORKERS]
        if "ranker" in missing:
            usual = stack.grpc_port or 8081
            stack.grpc_port = ports.choose(asked.grpc_port, usual, "--grpc-port")
        if workers or (stack.repo / feature_store.SETTINGS).exists():
            feature_store.write_settings(stack.repo, stack.feature_store, port["valkey"])
        undo.callback(stack.save)
        with _applied(stack, asked.apply if workers else None, say) as wait:
            _start(_servers(stack, missing, port), stack, undo, SERVERS_TIMEOUT_S)
            wait()
        _start(_workers(stack, workers, port, asked), stack, undo, WORKERS_TIMEOUT_S)
        undo.pop_all()
        return stack


def status(data: Path) -> list[Health]:
    """How each process of the data folder's stack is; empty when it has none."""
    stack = stack_file.load(data)
    if stack is None:
        return []
    return [
        Health(child, alive := stack.alive(name), alive and _probe(name)(child.port))
        for name, child in stack.children.items()
    ]


def down(data: Path, say: Say) -> None:
    """Stops the workers, then the servers, and checks that they are gone."""
    if not data.is_dir():
        return say(f"nothing runs in {data}")
    with stack_file.locked(data):
        stack = stack_file.load(data)
        if stack is None:
            return say(f"nothing runs in {data}")
        alive = [name for name in stack.children if stack.alive(name)]
        for group in (WORKERS, SERVERS):
            processes.stop(stack.children[name] for name in alive if name in group)
        if left := [name for name in alive if stack.alive(name)]:
            raise Unavailable(f"{', '.join(left)} would not end; stack.json still names them")
        stack.children.clear()
        stack.save()
    if alive:
        return say(f"stopped {', '.join(alive)}")
    return say(f"nothing ran any more in {data}: its stack.json was stale and is removed")


def settings(stack: Stack) -> dict[str, str]:
    """The environment in which a process finds this stack."""
    return _environment(stack, {name: child.port for name, child in stack.children.items()})


def _found(asked: Asked, say: Say) -> Stack:
    """What runs in the data folder and may stay as it is, for `asked`; else an empty stack."""
    data, repo = asked.data.resolve(), asked.repo.resolve()
    model = asked.model and asked.model.resolve()
    stack = stack_file.load(data)
    if stack is None:
        return Stack(data, repo, model)
    dead = [name for name in stack.children if not stack.alive(name)]
    if len(dead) == len(stack.children):
        say(f"{data}/stack.json is stale, none of its processes runs any more: starting anew")
        return Stack(data, repo, model)
    if lost := [name for name in SERVERS if not stack.alive(name)]:
        raise Refused(
            f"{lost[0]} of the stack in {data} does not run, while other processes of it do."
            f" Its log: {stack.log(lost[0])}. Start over: headrace down, then headrace up"
        )
    _refuse_other_ports(stack, asked)
    if repo != stack.repo and any(stack.alive(name) for name in WORKERS):
        raise Refused(f"the stack in {data} runs with the feature repo {stack.repo}, not {repo}")
    if model and model != stack.model and stack.alive("ranker"):
        say(f"the ranker starts again, with the model {model}")
        processes.stop([stack.children["ranker"]])
    for name in (name for name in dead if name in asked.workers):
        say(f"{name} had ended and is started again; its log: {stack.log(name)}")
    return replace(stack, repo=repo, model=model or stack.model)


def _refuse_other_ports(stack: Stack, asked: Asked) -> None:
    ports_asked = {
        "broker": asked.kafka_port,
        "valkey": asked.redis_port,
        "ranker": asked.http_port,
    }
    for name, port in ports_asked.items():
        if port is not None and stack.alive(name) and stack.children[name].port != port:
            raise Refused(
                f"{name} of the stack in {stack.folder} runs on port"
                f" {stack.children[name].port}, not {port}. To move it: headrace down first"
            )


def _choose_port(name: str, asked: Asked, before: int | None) -> int:
    """A port for one process; the ranker, started again, keeps the one its callers know."""
    match name:
        case "broker":
            return ports.choose(asked.kafka_port, 9092, "--kafka-port")
        case "valkey":
            return ports.choose(asked.redis_port, 6379, "--redis-port")
        case "ranker":
            return ports.choose(asked.http_port, before or 8080, "--http-port")
        case _:
            return ports.free_port()


def _environment(stack: Stack, port: Mapping[str, int]) -> dict[str, str]:
    found = {
        "HEADRACE_KAFKA": f"{HOST}:{port['broker']}",
        "HEADRACE_REDIS": f"redis://{HOST}:{port['valkey']}/0",
        "HEADRACE_REPO": str(stack.repo),
        "FEAST_FS_YAML_FILE_PATH": str(stack.feature_store),
    }
    if stack.model is not None:
        found["HEADRACE_MODEL"] = str(stack.model)
    if "ranker" in port:
        found |= {
            "HEADRACE_HTTP_HOST": HOST,
            "HEADRACE_HTTP_PORT": str(port["ranker"]),
            "HEADRACE_RANKER": f"http://{HOST}:{port['ranker']}",
            "HEADRACE_GRPC_PORT": str(stack.grpc_port or 0),
            "HEADRACE_RANKER_GRPC": f"{HOST}:{stack.grpc_port or 0}",
        }
    return found


def _servers(stack: Stack, missing: Sequence[str], port: Mapping[str, int]) -> list[Program]:
    programs = [
        replace(servers.broker(port["broker"]), gives_way=True),
        servers.valkey(port["valkey"], stack.folder / "valkey"),
    ]
    return [program for program in programs if program.name in missing]


def _workers(
    stack: Stack, names: Sequence[str], port: Mapping[str, int], asked: Asked
) -> list[Program]:
    programs = []
    for name in names:
        environment = _environment(stack, port) | servers.BROKER_SETTINGS
        if name == "ranker":
            environment[KEPT_WHOLE] = os.environ.get(KEPT_WHOLE, "1")
        else:  # the ranker serves /healthz on its own port
            environment["HEADRACE_METRICS_PORT"] = str(port[name])
        command, behind = asked.command(name), name != "ranker"
        program = Program(name, command, port[name], probes.is_healthy, environment, behind)
        programs.append(program)
    return programs


def _start(programs: Sequence[Program], stack: Stack, undo: ExitStack, timeout_s: float) -> None:
    """Starts the programs together and waits for all; each is in stack.json from its start."""
    started = []
    for program in programs:
        child = processes.spawn(program, stack.log(program.name))
        stack.children[program.name] = child
        undo.callback(_undo, stack, child)
        stack.save()
        started.append((program, child))
    processes.wait_until_ready(started, timeout_s)


def _undo(stack: Stack, child: Child) -> None:
    processes.stop([child])
    del stack.children[child.name]


@contextmanager
def _applied(stack: Stack, apply: Apply | None, say: Say) -> Iterator[Callable[[], None]]:
    """`feast apply` beside the start of the servers; nothing when no worker needs it."""
    if apply is None:
        yield lambda: None
        return
    say(f"feast apply in {stack.repo}")
    with apply(stack.repo, stack.feature_store, stack.log("apply")) as wait:
        yield wait


def _probe(name: str) -> Callable[[int], bool]:
    return PROBES.get(name, probes.is_healthy)
