"""Traces across Kafka and RPC: the seam, and the traces that are none.

A trace goes from who sent an event, or asked for a feed, through the processes that have a part in
it: `traceparent` (W3C Trace Context) is a header of Kafka records and of requests.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

HEADER: Final = "traceparent"
PARENTS_MAX: Final = 32
"""Of one span: a batch may hold records of thousands of traces."""
_SAMPLED: Final = b"-01"
_BYTES: Final = 55


class Span(Protocol):
    """Something that is done, while its `with` lasts."""

    def header(self) -> str | None:
        """What to hand on so that what follows belongs to it; None when it is not recorded."""

    def note(self, **values: float | str) -> None:
        """Say something of it."""


class Traces(Protocol):
    """Where spans go. Never blocks and never fails."""

    def span(self, name: str, parents: Iterable[str] = ()) -> AbstractContextManager[Span]:
        """A span below the first of its parents, with links to the others."""

    def note(self, **values: float | str) -> None:
        """Say something of the span that is open here, if one is."""

    def close(self) -> None:
        """Send what was recorded."""


class NoSpan:
    """A span that nobody records."""

    def header(self) -> str | None:
        """Nothing to hand on."""
        return None

    def note(self, **values: float | str) -> None:
        """Forget it."""


_NO_SPAN: Final = NoSpan()


class NoTraces:
    """Traces that are off."""

    @contextmanager
    def span(self, name: str, parents: Iterable[str] = ()) -> Iterator[Span]:
        """Nothing but the `with`."""
        yield _NO_SPAN

    def note(self, **values: float | str) -> None:
        """Forget it."""

    def close(self) -> None:
        """Nothing to send."""


NO_TRACES: Final = NoTraces()


def sampled(headers: Iterable[Sequence[tuple[str, bytes]]]) -> Iterator[str]:
    """The recorded traces that records belong to, each once, and no more than a span may have.

    Nothing is looked at before it is asked for: traces that are off ask for nothing.
    """
    found: set[bytes] = set()
    for one in headers:
        for name, value in one:
            known = name == HEADER and len(value) == _BYTES and value.endswith(_SAMPLED)
            if known and value not in found:
                found.add(value)
                yield value.decode("ascii", "replace")
                if len(found) == PARENTS_MAX:
                    return
