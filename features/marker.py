"""How far a row is folded: the private field beside its features."""

from typing import NamedTuple, Self

from features.errors import BadInput


class Marker(NamedTuple):
    """Stream generation, `updates` partition and the offset last folded into a row.

    Generations count the lives of the `updates` topic: a broker that came back empty starts a new
    one, whose offsets say nothing about rows of the one before. Markers of one row always name
    one partition, so they compare by (generation, offset).
    """

    generation: int
    partition: int
    offset: int

    def encode(self) -> bytes:
        """ASCII, format version first: `1.generation.partition.offset`."""
        return b"1.%d.%d.%d" % self

    @classmethod
    def decode(cls, value: bytes | None) -> Self | None:
        """The marker in a stored field; None when the row has none."""
        if not value:
            return None
        parts = value.split(b".")
        if len(parts) != 4 or parts[0] != b"1":
            raise BadInput(
                f"row marker {value!r} has a format this version does not know; "
                "use the version of Headrace that wrote it, or backfill into a new project"
            )
        return cls(*map(int, parts[1:]))

    def covers(self, generation: int, offset: int) -> bool:
        """Whether the row holds that block already (rule 2)."""
        return (self.generation, self.offset) >= (generation, offset)
