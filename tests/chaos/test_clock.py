"""A process whose clock a test sets: what it reads, and what it measures all the same."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from deploy.ports import HOST
from tests.chaos.clock import Clock

YEAR_S = 31_536_000
LIVING = """
import asyncio, json, sys, time
import grpc

async def left(content, context):
    return str(context.time_remaining()).encode()

async def live():
    server = grpc.aio.server()
    calls = {"Left": grpc.unary_unary_rpc_method_handler(left)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Clock", calls),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    while await asyncio.to_thread(sys.stdin.readline):
        before = time.monotonic()
        time.sleep(0.01)
        slept_s = time.monotonic() - before
        print(json.dumps([time.time(), time.time_ns(), slept_s]), flush=True)
    await server.stop(None)

asyncio.run(live())
"""
"""Tells what its clocks say when it is asked, and over gRPC how long its caller still waits."""


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


@pytest.fixture
def living(clock: Clock) -> Iterator[tuple[int, Callable[[], list[float]]]]:
    """A process that lives by the clock: its port, and what its clocks say."""
    process = subprocess.Popen(
        [sys.executable, "-c", LIVING],
        env={**os.environ, **clock.environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    into, out = process.stdin, process.stdout

    def say() -> list[float]:
        print(file=into, flush=True)
        told: list[float] = json.loads(out.readline())
        return told

    with process:
        yield int(out.readline()), say
        into.close()
    assert process.returncode == 0


def test_a_clock_leaps_while_a_process_lives_by_it_and_what_it_measures_does_not(
    clock: Clock, living: tuple[int, Callable[[], list[float]]]
) -> None:
    _, say = living
    for ahead_s in (0, 300, -300, YEAR_S, -YEAR_S, 0):
        clock.set(ahead_s)
        began = time.time()
        now_s, now_ns, slept_s = say()
        passed_s = time.time() - began
        assert -0.1 <= now_s - ahead_s - began <= passed_s + 0.1
        assert -0.1 <= now_ns / 1e9 - now_s <= passed_s
        assert 0 < slept_s <= passed_s + 0.1


def test_a_wrong_clock_changes_nothing_of_what_is_left_of_a_call(
    clock: Clock, living: tuple[int, Callable[[], list[float]]]
) -> None:
    port, _ = living
    with grpc.insecure_channel(f"{HOST}:{port}") as channel:
        left: Callable[..., bytes] = channel.unary_unary("/Clock/Left")
        for ahead_s in (0, 300, -300):
            clock.set(ahead_s)
            assert 0 < float(left(b"", timeout=20)) <= 20.1
