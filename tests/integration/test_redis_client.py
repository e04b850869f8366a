"""Rows of users from a real Valkey: over connections that are kept, and never mixed up."""

import asyncio
from pathlib import Path
from typing import cast

import pytest
import redis

from deploy import servers
from deploy.ports import HOST, free_port
from deploy.processes import running
from ranker.tables.redis_client import OneRedis, rows_of
from tests.waiting import until


def test_one_connection_reads_rows_one_after_the_other(empty_valkey: str) -> None:
    with redis.Redis.from_url(empty_valkey) as client:
        client.hset("a", mapping={"x": 1, "y": b"\xff"})
        before = _connected(client)

        async def read() -> None:
            stored = rows_of(empty_valkey)
            for _ in range(5):
                assert await stored.hgetall(b"a") == {b"x": b"1", b"y": b"\xff"}
                assert await stored.hgetall(b"nobody") == {}
            assert _connected(client) == before + 1
            together = await asyncio.gather(*(stored.hgetall(b"a") for _ in range(3)))
            assert together == [{b"x": b"1", b"y": b"\xff"}] * 3
            assert _connected(client) == before + 3
            await stored.aclose()

        asyncio.run(read())
        until(lambda: _connected(client) == before)


@pytest.mark.parametrize("protocol", [2, 3])
def test_both_protocols_give_the_same_rows(empty_valkey: str, protocol: int) -> None:
    with redis.Redis.from_url(empty_valkey) as client:
        client.hset("a", "x", "1")

    async def read() -> object:
        stored = rows_of(f"{empty_valkey}?protocol={protocol}")
        try:
            return await stored.hgetall(b"a"), await stored.hgetall(b"b")
        finally:
            await stored.aclose()

    assert asyncio.run(read()) == ({b"x": b"1"}, {})


def test_an_answer_that_nobody_waited_for_is_not_the_next_ones(empty_valkey: str) -> None:
    with redis.Redis.from_url(empty_valkey) as client:
        for name in ("late", "next"):
            client.hset(name, "is", name)

        async def read() -> None:
            stored = rows_of(empty_valkey)
            await stored.hgetall(b"next")
            client.client_pause(200)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await stored.hgetall(b"late")
            for name in (b"next", b"late", b"next"):
                assert await stored.hgetall(name) == {b"is": name}
            await stored.aclose()

        asyncio.run(read())


def test_a_fault_of_the_row_costs_no_connection(empty_valkey: str) -> None:
    with redis.Redis.from_url(empty_valkey) as client:
        client.set("text", "1")
        client.hset("a", "x", "1")
        before = _connected(client)

        async def read() -> None:
            stored = rows_of(empty_valkey)
            with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
                await stored.hgetall(b"text")
            assert await stored.hgetall(b"a") == {b"x": b"1"}
            assert _connected(client) == before + 1
            await stored.aclose()

        asyncio.run(read())


def test_rows_are_read_again_after_a_restart(tmp_path: Path) -> None:
    port = free_port()
    url = f"redis://{HOST}:{port}/0"

    async def read(stored: OneRedis) -> None:
        with (
            running(servers.valkey(port, tmp_path), tmp_path / "log"),
            redis.Redis.from_url(url) as client,
        ):
            client.hset("a", "x", "1")
            found = await asyncio.gather(*(stored.hgetall(b"a") for _ in range(3)))
            assert found == [{b"x": b"1"}] * 3

    async def twice() -> None:
        stored = rows_of(url)
        assert isinstance(stored, OneRedis)
        async with stored:
            await read(stored)
            with pytest.raises(redis.ConnectionError):
                await stored.hgetall(b"a")
            await read(stored)

    asyncio.run(twice())


def _connected(client: redis.Redis) -> int:
    return len(cast(list[object], client.client_list()))
