"""What a matrix reader is told to read: plain words, so that it need not know Feast."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JoinKey:
    """One join key of an entity: its name in the store, its Feast value type, and, when a request
    calls it otherwise, that name."""

    name: str
    value_type: int
    alias: str = ""

    @property
    def asked(self) -> str:
        """Its name in a request."""
        return self.alias or self.name


@dataclass(frozen=True, slots=True)
class Column:
    """One feature to read: its name in the answer, where it is stored, and as what.

    `dtype` is a Feast type such as `Float32`; `keys` are the join keys of its view.
    """

    name: str
    view: str
    feature: str
    dtype: str
    keys: tuple[JoinKey, ...]
