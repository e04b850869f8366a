"""The matrix reader's connection: commands packed by hand, replies left where they arrived.

A client makes an object of every value; here replies stay bytes in one buffer, and a kernel finds
where each value is.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal, NoReturn

import numpy as np
import redis

from features.errors import BadInput, Unavailable
from features.value_kernels import MISSING, Bytes, Ints, scan_fields, scan_rows

Fetch = Literal["auto", "fields", "whole"]
Found = tuple[Ints, Ints]
"""Where each value is in the buffer, and its length (-1: none), both [keys, fields]."""

FIRST_BUFFER: Final = 1 << 20
SAMPLED: Final = 4
"""Hashes looked at to choose between reading fields and reading whole hashes."""


class _Question:
    """What is asked of one entity's hashes: some of their fields."""

    def __init__(self, fields: Sequence[bytes], fetch: Fetch) -> None:
        self.count = len(fields)
        self.whole: bool | None = None if fetch == "auto" else fetch == "whole"
        names = np.array([int.from_bytes(field, "little") for field in fields], np.int64)
        self.columns = np.argsort(names)
        self.codes = names[self.columns]
        self.hints = np.zeros(1024, np.int64)
        named = b"".join(b"$%d\r\n%b\r\n" % (len(field), field) for field in fields)
        self._fields = (b"*%d\r\n$5\r\nHMGET\r\n" % (2 + len(fields)), named)
        self._whole = (b"*2\r\n$7\r\nHGETALL\r\n", b"")

    def packed(self, keys: Sequence[bytes]) -> bytes:
        """The commands for these keys."""
        head, tail = self._whole if self.whole else self._fields
        return b"".join([b"%b$%d\r\n%b\r\n%b" % (head, len(key), key, tail) for key in keys])

    def scan(self, buffer: Bytes, end: int, state: Ints, found: Found) -> int:
        """Find values in what has come of the replies; 1 at one that is no answer."""
        if not self.whole:
            return scan_fields(buffer, end, state, *found)
        return scan_rows(buffer, end, state, *found, self.codes, self.columns, self.hints)


def whole_is_quicker(asked: int, fields: int, compact: bool) -> bool:
    """Whether reading a hash whole costs the server less than reading `asked` of its fields.

    A compact hash (a listpack) is gone through once for HGETALL, and from its start for every
    field of HMGET, which also has a name to send for each: the two cost alike at about 20 fields
    asked, whatever the hash's size. Of a table, either costs as much a field.
    """
    if compact:
        return asked >= 20 and fields <= 6 * asked
    return fields <= asked + asked // 2


class Wire:
    """One connection to one Redis; made when needed, made anew after a fault."""

    def __init__(
        self, url: str, fields: Sequence[Sequence[bytes]], timeout_s: float, fetch: Fetch
    ) -> None:
        # RESP2: the only replies are arrays of strings, and errors.
        self._pool = redis.ConnectionPool.from_url(
            url, protocol=2, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
        )
        self._connection: Any = None
        self._questions = [_Question(part, fetch) for part in fields]
        self.buffer: Bytes = np.empty(FIRST_BUFFER, np.uint8)
        """What came for the last read; the next one overwrites it."""

    def close(self) -> None:
        """Close the connection."""
        self._pool.disconnect()
        self._connection = None

    def read(self, keys: Sequence[Sequence[bytes]]) -> list[Found]:
        """Where the asked fields of hashes are, keys listed for each question."""
        try:
            if self._connection is None:
                self._connection = self._pool.get_connection()
            self._choose(keys)
            return self._exchange(keys)
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            self._drop()
            raise Unavailable(f"Redis does not answer: {error}") from error

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()
            self._pool.release(self._connection)
            self._connection = None

    def _choose(self, keys: Sequence[Sequence[bytes]]) -> None:
        """For questions that have not chosen yet: look at some hashes, and choose."""
        for question, part in zip(self._questions, keys, strict=True):
            if question.whole is not None or question.count == 0:
                continue
            for key in part[:: max(1, len(part) // SAMPLED)]:
                fields = self._ask("HLEN", key)
                if fields:
                    compact = self._ask("OBJECT", "ENCODING", key) in (b"listpack", b"ziplist")
                    question.whole = whole_is_quicker(question.count, fields, compact)
                    break

    def _ask(self, *command: Any) -> Any:
        self._connection.send_command(*command)
        try:
            return self._connection.read_response()
        except redis.ResponseError as error:
            raise _refusal(str(error)) from error

    def _exchange(self, keys: Sequence[Sequence[bytes]]) -> list[Found]:
        self._connection.connect()
        # The client offers no way to leave replies undecoded.
        socket = self._connection._sock  # noqa: SLF001
        pairs = list(zip(self._questions, keys, strict=True))
        socket.sendall(b"".join([question.packed(part) for question, part in pairs]))
        end, state, found = 0, np.zeros(2, np.int64), []
        for question, part in pairs:
            shape = (len(part), question.count)
            one = np.zeros(shape, np.int64), np.full(shape, MISSING, np.int64)
            found.append(one)
            state[1] = 0
            while True:
                if question.scan(self.buffer, end, state, one):
                    self._fail(int(state[0]), end)
                if state[1] == len(part):
                    break
                end = self._receive(socket, end)
        return found

    def _receive(self, socket: Any, end: int) -> int:
        if end == len(self.buffer):
            self.buffer = np.concatenate([self.buffer, np.empty_like(self.buffer)])
        got: int = socket.recv_into(self.buffer.data[end:])
        if got == 0:
            raise redis.ConnectionError("the connection was closed")
        return end + got

    def _fail(self, at: int, end: int) -> NoReturn:
        said = self.buffer[at:end].tobytes().partition(b"\r\n")[0].decode(errors="replace")
        self._drop()
        raise _refusal(said.removeprefix("-"))


def _refusal(said: str) -> Exception:
    """What an error reply means."""
    if said.startswith("WRONGTYPE"):
        return BadInput(f"a key of these entities is no row of Feast's: {said}")
    return Unavailable(f"Redis cannot serve now: {said}")
