"""`headrace up`, `status`, `down` over the real servers, with stand-ins for the workers."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import redis

from deploy import local, ports, probes, processes, servers, stack_file
from deploy.local import Asked
from features.errors import BadInput, Refused, Unavailable

STANDIN = Path(__file__).parents[1] / "standin_worker.py"
SETTINGS = """\
project: scratch
provider: local
registry: data/registry.db
online_store: {type: redis, connection_string: "elsewhere:1"}
entity_key_serialization_version: 3
"""
ENTITY = (
    "from feast import Entity, ValueType\nuser = Entity(name='user', value_type=ValueType.STRING)\n"
)


def standin(name: str) -> Sequence[str]:
    return (sys.executable, str(STANDIN), name)


@contextlib.contextmanager
def no_apply(repo: Path, settings: Path, log: Path) -> Iterator[Callable[[], None]]:
    yield lambda: None


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(SETTINGS)
    (folder / "entities.py").write_text(ENTITY)
    return folder


@pytest.fixture
def asked(tmp_path: Path, repo: Path) -> Iterator[Asked]:
    """All of the stack with stand-in workers; whatever runs of it is stopped after the test."""
    data = tmp_path / "data"
    yield Asked(data, repo, command=standin, apply=no_apply)
    stack = stack_file.load(data) if data.is_dir() else None
    if stack is not None:
        processes.stop(stack.children.values(), grace_s=1)


def healthy(data: Path) -> dict[str, bool]:
    return {one.child.name: one.healthy for one in local.status(data)}


def settings_seen_by(child: processes.Child) -> dict[str, str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{child.port}/healthz", timeout=5) as answer:
        seen: dict[str, str] = json.load(answer)
        return seen


def orphans_of(data: Path) -> list[list[str]]:
    """Command lines of the living processes that hold a log of the data folder open."""
    logs = str(data / "logs")
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(file.path.startswith(logs) for file in process.open_files()):
                found.append(process.cmdline())
    return found


def silent(message: str) -> None:
    pass


def test_up_applies_the_repo_and_gives_every_worker_the_addresses(asked: Asked) -> None:
    stack = local.up(replace(asked, apply=Asked.apply), silent)

    assert healthy(asked.data) == dict.fromkeys((*local.SERVERS, *local.WORKERS), True)
    registry = sqlite3.connect(asked.data / "registry.db")
    with contextlib.closing(registry):
        entities = registry.execute("select project_id, entity_name from entities").fetchall()
    assert ("scratch", "user") in entities
    broker, valkey, ranker = (stack.children[name].port for name in ("broker", "valkey", "ranker"))
    for worker in local.WORKERS:
        seen = settings_seen_by(stack.children[worker])
        assert seen["HEADRACE_KAFKA"] == f"127.0.0.1:{broker}"
        assert seen["HEADRACE_REDIS"] == f"redis://127.0.0.1:{valkey}/0"
        assert seen["HEADRACE_REPO"] == str(asked.repo)
        assert seen["HEADRACE_HTTP_PORT"] == str(ranker)
        assert seen["HEADRACE_GRPC_PORT"] == str(stack.grpc_port)
        assert seen["HEADRACE_RANKER_GRPC"] == f"127.0.0.1:{stack.grpc_port}"
        assert seen["FEAST_FS_YAML_FILE_PATH"] == str(asked.data / "feature_store.yaml")


def test_down_leaves_no_process_and_no_stack_file(asked: Asked) -> None:
    stack = local.up(asked, silent)
    assert len(orphans_of(asked.data)) == 5
    local.down(asked.data, silent)

    assert orphans_of(asked.data) == []
    assert [child.process() for child in stack.children.values()] == [None] * 5
    assert all(ports.is_free(child.port) for child in stack.children.values())
    assert not (asked.data / "stack.json").exists()
    assert local.status(asked.data) == []


def test_a_second_up_starts_nothing_and_says_what_runs(asked: Asked) -> None:
    said: list[str] = []
    first = local.up(asked, silent)
    second = local.up(asked, said.append)
    assert second.children == first.children
    assert said == [f"all that is asked for runs already in {asked.data}"]


def test_up_adds_the_workers_to_servers_that_run_alone(asked: Asked) -> None:
    first = local.up(replace(asked, workers=()), silent)
    assert list(first.children) == ["broker", "valkey"]
    second = local.up(asked, silent)
    assert second.children.items() >= first.children.items()
    assert all(healthy(asked.data).values())


def test_up_starts_a_worker_that_had_ended_and_leaves_the_others(asked: Asked) -> None:
    said: list[str] = []
    first = local.up(asked, silent)
    os.kill(first.children["route"].pid, signal.SIGKILL)
    processes.stop([first.children["route"]])
    assert healthy(asked.data)["route"] is False

    second = local.up(asked, said.append)

    assert "route had ended" in said[0]
    changed = {name for name in first.children if first.children[name] != second.children[name]}
    assert changed == {"route"}
    assert healthy(asked.data)["route"] is True


def test_another_model_restarts_the_ranker_alone(asked: Asked, tmp_path: Path) -> None:
    first = local.up(asked, silent)
    second = local.up(replace(asked, model=tmp_path / "model"), silent)
    changed = {name for name in first.children if first.children[name] != second.children[name]}
    assert changed == {"ranker"}
    seen = settings_seen_by(second.children["ranker"])
    assert seen["HEADRACE_MODEL"] == str(tmp_path / "model")
    assert second.children["ranker"].port == first.children["ranker"].port
    assert local.up(asked, silent).children == second.children


def test_a_worker_that_dies_while_starting_is_named_and_all_else_is_stopped(asked: Asked) -> None:
    spawned: list[str] = []

    def command(name: str) -> Sequence[str]:
        spawned.append(name)
        return (*standin(name), "dies") if name == "aggregate" else standin(name)

    with pytest.raises(Unavailable, match=r"aggregate ended with exit code 1(?s:.*)cannot go on"):
        local.up(replace(asked, command=command), silent)
    assert spawned == list(local.WORKERS)
    assert not (asked.data / "stack.json").exists()
    assert orphans_of(asked.data) == []


def test_a_failed_apply_is_told_with_its_reason_and_all_is_stopped(asked: Asked) -> None:
    (asked.repo / "broken.py").write_text("raise RuntimeError('no such entity here')\n")
    with pytest.raises(BadInput, match=r"feast apply failed(?s:.*)no such entity here"):
        local.up(replace(asked, apply=Asked.apply), silent)
    assert not (asked.data / "stack.json").exists()
    assert orphans_of(asked.data) == []


def test_a_folder_without_feature_store_yaml_is_refused_before_anything_starts(
    asked: Asked, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=r"is no feature repo(?s:.*)--repo"):
        local.up(replace(asked, repo=tmp_path / "nowhere"), silent)
    assert orphans_of(asked.data) == []


@pytest.mark.parametrize("option", ["kafka", "redis", "http"])
def test_a_taken_port_is_named_with_the_way_out(asked: Asked, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        with pytest.raises(Refused, match=rf"port {taken} (?s:.*)--{option}-port"):
            local.up(replace(asked, **{f"{option}_port": taken}), silent)
    assert orphans_of(asked.data) == []


def test_a_running_stack_refuses_to_move_to_another_port(asked: Asked) -> None:
    local.up(replace(asked, workers=()), silent)
    with pytest.raises(Refused, match=r"valkey(?s:.*)not 1234(?s:.*)headrace down"):
        local.up(replace(asked, workers=(), redis_port=1234), silent)


def test_a_stale_stack_file_is_said_and_replaced(asked: Asked) -> None:
    said: list[str] = []
    servers_alone = replace(asked, workers=())
    first = local.up(servers_alone, silent)
    processes.stop(first.children.values())

    second = local.up(servers_alone, said.append)

    assert "is stale" in said[0]
    assert all(healthy(asked.data).values())
    assert second.children["broker"].pid != first.children["broker"].pid


def test_a_recycled_process_id_is_neither_shown_as_ours_nor_stopped(asked: Asked) -> None:
    said: list[str] = []
    first = local.up(replace(asked, workers=()), silent)
    earlier = {
        name: replace(child, started_at=child.started_at - 60)
        for name, child in first.children.items()
    }
    replace(first, children=earlier).save()

    assert [one.alive for one in local.status(asked.data)] == [False, False]
    local.down(asked.data, said.append)

    assert "stale" in said[0]
    assert not (asked.data / "stack.json").exists()
    assert all(child.process() for child in first.children.values())
    first.save()  # for the fixture, which stops them


def test_a_server_that_died_is_not_quietly_replaced_beside_living_processes(asked: Asked) -> None:
    first = local.up(asked, silent)
    processes.stop([first.children["broker"]])
    with pytest.raises(Refused, match=r"broker(?s:.*)does not run(?s:.*)headrace down"):
        local.up(asked, silent)
    local.down(asked.data, silent)
    assert not (asked.data / "stack.json").exists()


def test_two_commands_at_once_in_one_folder_are_refused(asked: Asked) -> None:
    asked.data.mkdir()
    with stack_file.locked(asked.data), pytest.raises(Refused, match="is at work"):
        local.up(asked, silent)


def test_what_valkey_acknowledged_is_there_after_down_and_up(asked: Asked) -> None:
    servers_alone = replace(asked, workers=())
    for expected in (None, b"kept"):
        port = local.up(servers_alone, silent).children["valkey"].port
        with redis.Redis(port=port) as client:
            assert client.get("row") == expected
            client.set("row", b"kept")
        local.down(asked.data, silent)


def test_valkey_never_evicts_and_keeps_an_append_only_file(valkey: str) -> None:
    with redis.Redis.from_url(valkey) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    deaf = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('deaf', flush=True); signal.pause()"
    )
    program = processes.Program("deaf", [sys.executable, "-c", deaf], 1, lambda port: True)
    child = processes.spawn(program, tmp_path / "log")
    while "deaf" not in (tmp_path / "log").read_text():
        assert child.process()
    processes.stop([child], grace_s=0.2)
    assert child.process() is None


def test_a_child_that_gives_way_has_a_small_share_of_a_busy_processor(tmp_path: Path) -> None:
    sleeps = [sys.executable, "-c", "import signal; signal.pause()"]
    program = processes.Program("sleeps", sleeps, 1, lambda port: True, gives_way=True)
    child = processes.spawn(program, tmp_path / "log")
    try:
        process = child.process()
        assert process is not None
        assert process.nice() == processes.NICENESS
        group = Path(f"/proc/{child.pid}/autogroup")
        if group.exists():
            assert group.read_text().endswith(f"nice {processes.NICENESS}\n")
        if sys.platform == "linux":
            assert os.sched_getscheduler(child.pid) == os.SCHED_BATCH
    finally:
        processes.stop([child])


def test_a_server_that_answers_in_another_ones_stead_is_not_taken_for_it(tmp_path: Path) -> None:
    """The port was free when it was chosen and another process was quicker."""
    port = ports.free_port()
    first = servers.valkey(port, tmp_path / "first")
    second = servers.valkey(port, tmp_path / "second")
    with (
        processes.running(first, tmp_path / "first.log"),
        pytest.raises(Unavailable, match=r"valkey ended with exit code 1(?s:.*)in use"),
        processes.running(second, tmp_path / "second.log"),
    ):
        pass
    assert not probes.speaks_redis(port)


def test_the_command_line_runs_the_whole_turn(tmp_path: Path) -> None:
    def headrace(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deploy.cli", *arguments, "--data", str(tmp_path / "d")]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert headrace("status").returncode == 1
    try:
        up = headrace("up", "--only-servers")
        assert (up.returncode, "broker" in up.stdout, up.stderr.count("Traceback")) == (0, True, 0)
        assert headrace("status").returncode == 0
        refused = headrace("up", "--only-servers", "--kafka-port", "1")
        assert (refused.returncode, refused.stderr[:8]) == (2, "Refused:")
        lines = headrace("env").stdout
        shell = f'{lines}\necho "$HEADRACE_KAFKA $HEADRACE_REDIS"'
        said = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
        assert said.stdout.startswith("127.0.0.1:")
    finally:
        stopped = headrace("down")
    assert (stopped.returncode, stopped.stderr) == (0, "stopped broker, valkey\n")
    failed = headrace("env")
    assert (failed.returncode, failed.stderr[:9], failed.stdout) == (1, "BadInput:", "")
