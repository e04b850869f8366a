"""A TCP proxy between two processes, which is slow, lossy, narrow or silent when it is told so."""

import asyncio
import contextlib
import random
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from deploy.ports import HOST, free_port

T = TypeVar("T")

CHUNK_BYTES = 16 * 1024
RESENT_AFTER_S = 0.2
"""What a lost packet costs a TCP connection at least."""


@dataclass(frozen=True)
class Trouble:
    """What a link suffers from, in both directions; none by default."""

    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    """Share of chunks that arrive only when they are sent again."""
    bytes_per_s: float = 0.0
    """0: as many as there are."""
    silent: bool = False
    """Nothing passes and nothing is refused: a partition."""
    reset: bool = False
    """Connections are reset when they are made, and those there are at once."""


NONE = Trouble()


class Proxy:
    """Forwards a port of its own to another, in an event loop of its own."""

    def __init__(self, upstream: int, port: int | None = None, seed: int = 1) -> None:
        self.port = port or free_port()
        self._upstream = upstream
        self._trouble = NONE
        self._rng = random.Random(seed)
        self._writers: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy {self.port}")
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._serve, HOST, self.port))

    def suffer(self, trouble: Trouble) -> None:
        """From now on the link is so."""
        self._do(self._set(trouble))

    def close(self) -> None:
        """Drop all connections and listen no more."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _set(self, trouble: Trouble) -> None:
        self._trouble = trouble
        self._changed.set()
        self._changed = asyncio.Event()
        if trouble.reset:
            self._drop_all()

    async def _end(self) -> None:
        self._server.close()
        self._trouble = NONE
        self._changed.set()
        self._drop_all()
        tasks = [one for one in asyncio.all_tasks() if one is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _drop_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._trouble.reset:
                return
            there, back = await asyncio.open_connection(HOST, self._upstream)
            self._writers.add(back)
            try:
                # Whichever side ends first ends both.
                pumps = [
                    asyncio.ensure_future(self._pump(reader, back)),
                    asyncio.ensure_future(self._pump(there, writer)),
                ]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
            finally:
                self._writers.discard(back)
                back.transport.abort()
        except OSError:
            return  # upstream is away: so is the link
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Chunks in order, each at its time: a delay holds up the answer, not the throughput."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)

        async def deliver() -> None:
            while True:
                due, chunk = await queue.get()
                while self._trouble.silent:
                    await self._changed.wait()
                if (rest := due - loop.time()) > 0:
                    await asyncio.sleep(rest)
                writer.write(chunk)
                await writer.drain()
                queue.task_done()

        delivering = asyncio.ensure_future(deliver())
        free_at = 0.0
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                trouble, now = self._trouble, loop.time()
                delay = trouble.latency_ms + self._rng.uniform(0, trouble.jitter_ms)
                due = now + delay / 1000
                while self._rng.random() < trouble.loss:
                    due += RESENT_AFTER_S
                if trouble.bytes_per_s:
                    free_at = max(free_at, now) + len(chunk) / trouble.bytes_per_s
                    due = max(due, free_at)
                    if free_at - now > 1.0:  # a narrow link has a short queue
                        await asyncio.sleep(free_at - now - 1.0)
                await queue.put((due, chunk))
            emptied = asyncio.ensure_future(queue.join())
            await asyncio.wait((emptied, delivering), return_when=asyncio.FIRST_COMPLETED)
            emptied.cancel()
        except OSError:
            pass
        finally:
            delivering.cancel()
            await asyncio.gather(delivering, return_exceptions=True)


@contextlib.contextmanager
def proxied(upstream: int, port: int | None = None) -> Iterator[Proxy]:
    """A `Proxy` that is closed at the end."""
    made = Proxy(upstream, port)
    try:
        yield made
    finally:
        made.close()
