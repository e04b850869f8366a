"""Candidates of several sources: who brought what, with what chance, and how the log tells it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from ranker.pipeline import Pipeline
from ranker.reading import Reading
from ranker.request import RankRequest
from ranker.rules import Diversity, Rules, Spread, SurfaceRules
from ranker.stages.roles import Query, Source, Sourced
from tests.serving import Serving


@dataclass
class Fixed:
    """A source that brings the same items each time."""

    name: str
    brought: Sequence[str]
    chances: Sequence[float] | None = None

    def items(self, query: Query, reading: Reading) -> Sourced:
        del query, reading
        return Sourced(self.brought, None if self.chances is None else np.array(self.chances))


def logged(serving: Serving, *sources: Source) -> dict[str, tuple[str, float | None]]:
    """Item → who brought it and with what chance, as the serving log has it."""
    pipeline = Pipeline(replace(serving.pipeline.stages, sources=sources))
    response = asyncio.run(pipeline.rank(RankRequest(user_id="u3", limit=50)))
    pipeline.close()
    record = serving.log.newest()
    assert response.degraded == []
    assert record["items"] == [item.item_id for item in response.items]
    return dict(
        zip(record["items"], zip(record["source"], record["propensity"], strict=True), strict=True)
    )


def test_each_item_counts_once_for_the_first_source_that_brought_it(serving: Serving) -> None:
    found = logged(serving, Fixed("near", ["i1", "i2"]), Fixed("far", ["i2", "i3", "i3"]))
    assert found == {"i1": ("near", None), "i2": ("near", None), "i3": ("far", None)}


def test_the_chance_of_an_item_is_that_any_source_brought_it(serving: Serving) -> None:
    found = logged(
        serving,
        Fixed("fresh", ["i1", "i2", "i3"], [0.5, 0.2, 0.1]),
        Fixed("rare", ["i2"], [0.5]),
        Fixed("trending", ["i3", "i4"]),
    )
    chances = {item: chance for item, (_, chance) in found.items()}
    assert chances == {
        "i1": pytest.approx(0.5),
        "i2": pytest.approx(1 - 0.8 * 0.5),
        "i3": pytest.approx(1.0),
        "i4": pytest.approx(1.0),
    }
    assert [found[item][0] for item in ("i1", "i2", "i3", "i4")] == ["fresh"] * 3 + ["trending"]


def test_candidates_of_the_request_say_so(serving: Serving) -> None:
    serving.ask(user_id="u3", candidates=["i1", "i2"])
    record = serving.log.newest()
    assert (record["source"], record["propensity"]) == (["request"] * 2, [None] * 2)
    assert (record["version"], record["variant"]) == (4, "default")


def test_the_log_has_the_place_that_each_item_had_by_score(serving: Serving) -> None:
    candidates = [f"i{number}" for number in range(60)]
    by_score = serving.ask(user_id="u3", candidates=candidates, limit=60)
    assert serving.log.newest()["by_score"] == list(range(60))
    order = [item.item_id for item in by_score.items]
    spread = (Spread(by="author", places=5),)
    serving.rules = Rules(default=SurfaceRules(diversity=Diversity(spread=spread)))
    varied = serving.ask(user_id="u3", candidates=candidates, limit=20)
    shown = [item.item_id for item in varied.items]
    assert shown != order[:20]
    assert serving.log.newest()["by_score"] == [order.index(item) for item in shown]
