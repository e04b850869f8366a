"""What may be shown on a surface, and how varied a feed is: the product's rules, from YAML."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
)

from features.errors import Refused
from features.tags import duration_ms

M = TypeVar("M", bound=BaseModel)


def _duration(value: Any) -> Any:
    return duration_ms(value) if isinstance(value, str) else value


Duration = Annotated[int, BeforeValidator(_duration), Field(gt=0)]
"""Milliseconds; written `90s`, `12h`, `7d`."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Seen(_Part):
    """What the user was shown lately is not shown again."""

    window: Duration
    candidates: Literal["sourced", "all"] = "sourced"
    """Whether candidates that came with the request are held to it as well."""


class Spread(_Part):
    """At most so many items of one author or category among so many places in a row."""

    by: Literal["author", "category"]
    most: int = Field(1, ge=1)
    places: int = Field(ge=2, le=100)


class Diversity(_Part):
    """How much of the score is given for variety."""

    strategy: Literal["off", "mmr", "msd", "dpp", "ssd"] = "off"
    """A strategy of pyversity, over the items' embeddings."""
    strength: float = Field(0.2, ge=0.0, le=1.0)
    """0: by score alone; 1: by variety alone."""
    spread: tuple[Spread, ...] = Field((), max_length=8)
    places: int = Field(100, ge=1, le=500)
    """The first places of a session are made varied; the rest stand by score."""

    @property
    def off(self) -> bool:
        """Whether feeds stand by score alone."""
        return self.strategy == "off" and not self.spread


class SurfaceRules(_Part):
    """The rules of one surface."""

    seen: Seen | None = None
    age_max: Duration | None = None
    """Items created longer ago are too old."""
    require: dict[str, FiniteFloat] = Field({}, max_length=16)
    """Path in the item event → the number an item needs there to be eligible."""
    diversity: Diversity = Diversity()


class Rules(_Part):
    """The rules of every surface; a surface named here has its own whole, not a part of them."""

    default: SurfaceRules = SurfaceRules()
    surfaces: dict[str, SurfaceRules] = {}

    def of(self, surface: str) -> SurfaceRules:
        """The rules of a surface."""
        return self.surfaces.get(surface, self.default)


def read_rules(path: Path) -> Rules:
    """The rules in a YAML file; without the file, none. Raises Refused."""
    if not path.exists():
        return Rules()
    return read_yaml(path, Rules, "feed rules", "`default:` and optionally `surfaces:`")


def read_yaml(path: Path, kind: type[M], what: str, holds: str) -> M:
    """A checked YAML file. Raises Refused, saying what is wrong and what the file holds."""
    try:
        return kind.model_validate(yaml.safe_load(path.read_text()) or {})
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{what} {path} cannot be read: {error}") from error
    except (yaml.YAMLError, ValidationError) as error:
        raise Refused(f"{what} {path}: {error}; it holds {holds}") from error
