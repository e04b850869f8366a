"""The seam between a record and the updates it makes, by the kind of project it is for."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from features.events import BadEvent
from features.plain_reader import PlainReader
from features.project import Projection
from features.spec import Plan
from features.updates import Columns

E = TypeVar("E")


class Reader(Protocol[E]):
    """A plan, turned around: from records to what changes. Pure, so that a re-read agrees.

    An event `E` has an `event_time` in milliseconds.
    """

    @property
    def plan(self) -> Plan:
        """The plan it was made from."""

    @property
    def copies(self) -> int:
        """At most how often the content of a record stands in its updates."""

    def parse(self, values: Sequence[bytes | None]) -> Sequence[E | BadEvent]:
        """One result per record, in order; no bytes make it raise."""

    def identity(self, event: E) -> int | None:
        """What an event shares with its repeats; None where nothing tells a repeat."""

    def refusal(self, event: E) -> str | None:
        """Why an event that was parsed cannot be folded."""

    def update_count(self, event: E) -> int:
        """At most how many updates an event makes."""

    def updates(self, events: Iterable[tuple[int, E]]) -> Columns:
        """The updates of (source offset, event) pairs, in their order."""


def reader_of(plan: Plan) -> Reader[Any]:
    """What reads the topic of a plan: Headrace's own events, or somebody's plain records."""
    return PlainReader(plan) if plan.plain else Projection(plan)
