"""Faults for the stages of a pipeline: each fails, or hangs until it is let go."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from features.errors import Unavailable
from ranker.pipeline import Pipeline, Stages
from ranker.rules import Diversity, Rules, SurfaceRules
from ranker.stages.diversity import BLOCK
from ranker.stages.roles import Query, Served, SideEffect
from tests.serving import Serving

Kind = Literal["fails", "hangs"]
DEADLINE_MS = 250


@dataclass
class Trouble:
    """What befalls a stage each time it is entered."""

    kind: Kind
    error: type[Exception] = ZeroDivisionError
    let_go: threading.Event = field(default_factory=threading.Event)

    def strike(self) -> None:
        if self.kind == "fails":
            raise self.error("injected")
        self.let_go.wait(20)


class Around:
    """An object of which one method is struck first."""

    def __init__(self, inner: Any, method: str, trouble: Trouble) -> None:
        self._inner, self._method, self._trouble = inner, method, trouble

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name != self._method:
            return found

        def struck(*arguments: Any, **more: Any) -> Any:
            self._trouble.strike()
            return found(*arguments, **more)

        return struck


def around(inner: Any, method: str, trouble: Trouble) -> Any:
    """An object of which one method is struck first, for a place that wants the object."""
    return Around(inner, method, trouble)


class AroundFetch(Around):
    """A hydrator whose store fails, or never answers."""

    async def fetch(self, query: Query) -> Any:
        if self._trouble.kind == "hangs":
            await asyncio.Event().wait()
        raise Unavailable(f"no store for {query.request.user_id}")


class Struck:
    """Spread rules that cannot be read."""

    def __init__(self, trouble: Trouble) -> None:
        self._trouble = trouble

    def __iter__(self) -> Iterator[Any]:
        self._trouble.strike()
        return iter(())


class StruckLock:
    """A table lock that somebody else holds."""

    def __init__(self, trouble: Trouble) -> None:
        self._trouble = trouble

    def __enter__(self) -> None:
        self._trouble.strike()

    def __exit__(self, *_: object) -> None:
        pass


class StruckEffect:
    """A side effect in trouble."""

    name = "serving_log"

    def __init__(self, trouble: Trouble) -> None:
        self._trouble = trouble

    def served(self, query: Query, served: Served) -> None:
        del query, served
        self._trouble.strike()

    def trouble(self) -> str | None:
        return None


NAMED = {
    "lock": "waiting",
    "reading": "waiting",
    "decode": "user_row",
    "seen": "filter:seen",
    "blocked_author": "filter:blocked_author",
    "trending": "source:trending",
}
"""What an answer calls a stage whose fault goes by another name."""
STAGES = (
    "user_row",
    "lock",
    "reading",
    "decode",
    "trending",
    "features",
    "blocked_author",
    "seen",
    "heads",
    "value",
    "diversity",
)
"""In the order in which a request meets them."""


def struck(serving: Serving, troubles: dict[str, Trouble]) -> Pipeline:
    """A pipeline with troubles, for requests of DEADLINE_MS."""
    stages = replace(serving.pipeline.stages, deadline_ms=DEADLINE_MS, user_row_ms=50.0)
    for name, trouble in troubles.items():
        stages = _struck(stages, name, trouble)
    return Pipeline(stages)


def _struck(stages: Stages, name: str, trouble: Trouble) -> Stages:
    if name == "user_row":
        return replace(stages, hydrator=AroundFetch(stages.hydrator, "fetch", trouble))
    if name == "decode":
        return replace(stages, hydrator=around(stages.hydrator, "hydrate", trouble))
    if name == "lock":
        return replace(stages, lock=StruckLock(trouble))
    if name == "serving_log":
        effect: SideEffect = StruckEffect(trouble)
        return replace(stages, side_effects=[effect])
    if name == "trending":
        return replace(stages, sources=[around(s, "items", trouble) for s in stages.sources])
    if name in ("seen", "blocked_author"):
        filters = [around(f, "keep", trouble) if f.name == name else f for f in stages.filters]
        return replace(stages, filters=filters)
    if name == "diversity":
        rules = Diversity.model_construct(
            strategy="off", strength=0.2, spread=cast(Any, Struck(trouble)), places=BLOCK
        )
        varied = SurfaceRules.model_construct(seen=None, age_max=None, require={}, diversity=rules)
        return replace(stages, rules=lambda: Rules.model_construct(default=varied, surfaces={}))
    return replace(stages, reading=_reading(stages, name, trouble))


def _reading(stages: Stages, name: str, trouble: Trouble) -> Any:
    def read() -> Any:
        if name == "reading":
            trouble.strike()
        found = stages.reading()
        heads = found.heads
        assert heads is not None
        if name == "features":
            return replace(found, reader=around(found.reader, "read", trouble))
        if name == "heads":
            return replace(found, heads=replace(heads, model=around(heads.model, "score", trouble)))
        if name == "value":
            return replace(found, heads=replace(heads, value=around(heads.value, "value", trouble)))
        if name == "explain":
            explainer = around(heads.explainer, "reasons", trouble)
            return replace(found, heads=replace(heads, explainer=explainer))
        return found

    return read
