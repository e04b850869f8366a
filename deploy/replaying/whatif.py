"""`--what-if`: recorded rankings made again by another model, weights, rules or features."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from deploy.replaying.skew import rows_of
from features.entities import Hash
from features.spec import Plan
from ranker.judging.lists import Page
from ranker.judging.whatif import SCORE, Judged
from ranker.recount import Ranking, Recounter, Reranked, ranking_of
from ranker.rules import Rules
from ranker.scoring.model import Manifest
from streaming.logs.outcomes import Outcomes
from streaming.replays.versions import Wanted

EXAMPLES: Final = 3
EXAMPLE_ITEMS: Final = 5


@dataclass(slots=True)
class Side:
    """Rankings with what they would be, and those that could not be made again."""

    judged: list[Judged] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def rankings_of(records: Sequence[Mapping[str, Any]], left_out: Counter[str]) -> list[Ranking]:
    """The rankings that can be made again, whatever plan served them."""
    found: list[Ranking] = []
    for record in records:
        if record.get("version", 0) < 3:
            left_out["an older log record: it names no rows"] += 1
            continue
        ranking = ranking_of(record)
        if ranking is None:
            left_out["served without features (the last resort)"] += 1
        else:
            found.append(ranking)
    return found


def labels_of(manifest: Manifest, rankings: Sequence[Ranking], plan: Plan) -> dict[str, str]:
    """Head → the action it foretells: the model's heads, and served ones named after actions."""
    served = {head for ranking in rankings for head in ranking.heads}
    named = {head: head for head in sorted(served) if head in plan.actions}
    return named | {head.name: head.label for head in manifest.heads}


def reranked(
    rankings: Sequence[Ranking],
    recounter: Recounter,
    versions: Mapping[Wanted, Hash],
    known: Outcomes,
    window_ms: int | None,
    rules: Rules,
    left_out: Counter[str],
) -> Side:
    """Each ranking beside what it would be."""
    side = Side(left_out=left_out)
    for ranking in rankings:
        rows = rows_of(ranking, recounter, versions)
        if rows is None:
            side.left_out["a row at its marker is not in the archive"] += 1
            continue
        again = recounter.rerank(ranking, rows, rules)
        side.judged.append(_judged(ranking, again, known, window_ms))
        side.requests.append(ranking.request_id)
    return side


def changed_most(side: Side, overlaps: Sequence[float]) -> Iterator[str]:
    """The pages that would be least like what was served, in words."""
    for number in np.argsort(overlaps, kind="stable")[:EXAMPLES].tolist():
        if overlaps[number] < 1:
            one = side.judged[number]
            before, after = (
                ", ".join(page.items[:EXAMPLE_ITEMS]) for page in (one.logged_page, one.other_page)
            )
            yield (
                f"request {side.requests[number]}, overlap {overlaps[number]:.2f}: served "
                f"{before}; it would be {after}"
            )


def _judged(ranking: Ranking, again: Reranked, known: Outcomes, window_ms: int | None) -> Judged:
    place_of = {item: place for place, item in enumerate(again.items)}
    shown = np.array([place_of[item] for item in ranking.items], np.int64)
    outcomes = [known.of(ranking.request_id, item) for item in ranking.items]
    among = ranking.among
    chances = ranking.propensity if among is None else among.propensity
    return Judged(
        user_id=ranking.user_id,
        happened=[one.followed(known.newest_ms, window_ms) for one in outcomes],
        propensity=ranking.propensity,
        logged={**ranking.heads, SCORE: ranking.score},
        other={head: said[shown] for head, said in (*again.heads.items(), (SCORE, again.score))},
        logged_page=_page(again, shown.tolist()),
        other_page=_page(again, again.page.tolist()),
        other_propensity=chances[again.page],
        candidates=again.items,
        whole=among is not None,
    )


def _page(again: Reranked, places: Sequence[int]) -> Page:
    return Page(
        items=[again.items[place] for place in places],
        authors=[again.authors[place] for place in places],
        categories=[again.categories[place] for place in places],
        ages_s=[float(again.ages_s[place]) for place in places],
    )
