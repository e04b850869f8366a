"""Served rankings computed again from replayed rows: what `--check-skew` and `--check-rank` say."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from features.as_of_kernels import Floats
from features.entities import Hash
from features.spec import Plan
from ranker.recount import Counted, Ranking, Recounter, ranking_of
from ranker.rules import Rules
from streaming.logs.files import LogFiles
from streaming.logs.served import ServedLog
from streaming.replays.versions import Wanted

SHIFTS_MS: Final = [sign * half * 1_800_000 for half in range(1, 29) for sign in (1, -1)]
SHIFTS_TRIED: Final = 3
"""Of the rankings that differ, how many are tried at other times of day."""

SHOWN: Final = 5
"""Items of a page that an example tells."""

FORMULA: Final = "most values differ, others of the same rows agree: another formula served"
STATE: Final = "the rows behind it hold other facts: events were lost, doubled or moved in time"
ROUNDED: Final = "the log holds it rounded to single precision"


@dataclass(slots=True)
class Feature:
    """How one feature compares over all items that were shown."""

    name: str
    equal: int = 0
    differing: int = 0
    apart_max: float = 0.0
    rounded: int = 0
    """Of those that differ, how many are the same in single precision alone."""
    example: str = ""
    why: str = ""


@dataclass(slots=True)
class History:
    """Vectors of the serving log against Feast's historical retrieval of the same rows."""

    rankings: int = 0
    items: int = 0
    features: dict[str, Feature] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    """Items that could not be compared, by reason."""

    @property
    def differences(self) -> int:
        """Values of features that are not the same to the bit."""
        return sum(one.differing for one in self.features.values())


@dataclass(slots=True)
class Skew:
    """Vectors and scores of served rankings against those computed again."""

    rankings: int = 0
    items: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Rankings that could not be compared, by reason."""
    features: dict[str, Feature] = field(default_factory=dict)
    shifts: Counter[str] = field(default_factory=Counter)
    scores_equal: int = 0
    scores_differing: int = 0
    score_apart_max: float = 0.0
    orders_differing: int = 0
    pages_equal: int = 0
    """Pages that are the same, item by item, after diversity."""
    pages_differing: int = 0
    page_example: str = ""
    unpaged: Counter[str] = field(default_factory=Counter)
    """Rankings whose pages could not be made again, by reason."""
    history: "History | None" = None
    """The same through Feast's historical retrieval; None where no row versions are archived."""
    unscored: Counter[str] = field(default_factory=Counter)
    """Rankings whose scores could not be compared, by reason."""

    @property
    def differences(self) -> int:
        """Values of features that are not the same to the bit."""
        return sum(one.differing for one in self.features.values())


def served(files: LogFiles, most: int | None) -> Iterator[dict[str, Any]]:
    """The newest records of the serving log, at most so many."""
    found = [record for _, record in ServedLog(files).records()]
    found.sort(key=lambda record: (record["now"], record["request_id"]))
    yield from found if most is None else found[-most:]


def rankings_of(records: Sequence[Mapping[str, Any]], plan: Plan, skew: Skew) -> list[Ranking]:
    """The rankings to compare; those that cannot be are counted with the reason."""
    found = []
    for record in records:
        if record.get("version", 0) < 3:
            skew.left_out["an older log record: it names no rows"] += 1
            continue
        ranking = ranking_of(record)
        if ranking is None:
            skew.left_out["served without features (the last resort)"] += 1
        elif ranking.plan != plan.version:
            skew.left_out[f"served by another plan, {ranking.plan}"] += 1
        else:
            found.append(ranking)
    return found


def wanted_by(rankings: Sequence[Ranking], recounter: Recounter) -> set[Wanted]:
    """Every version of every row that the rankings were computed from."""
    return {
        Wanted(recounter.key_of(*name), marker)
        for ranking in rankings
        for name, marker in ranking.rows.items()
        if marker is not None
    }


def check(
    rankings: Sequence[Ranking],
    recounter: Recounter,
    versions: Mapping[Wanted, Hash],
    skew: Skew,
    watch: Callable[[], None] = lambda: None,
    rules: Rules = Rules(),  # noqa: B008  (frozen)
) -> Skew:
    """Compute each ranking again and compare, value by value; pages are made by the rules."""
    skew.features = {name: Feature(name) for name in recounter.columns}
    for ranking in rankings:
        watch()
        rows = rows_of(ranking, recounter, versions)
        if rows is None:
            skew.left_out["a row at its marker is not in the archive"] += 1
            continue
        if ranking.columns != recounter.columns:
            skew.left_out["served with other columns than the service has now"] += 1
            continue
        again = recounter.count(ranking, rows)
        skew.rankings += 1
        skew.items += len(ranking.items)
        differs = _compare_vectors(ranking, again, skew)
        if differs and sum(skew.shifts.values()) < SHIFTS_TRIED:
            skew.shifts[_shift(ranking, recounter, rows)] += 1
        if _compare_scores(ranking, again, recounter, skew):
            _compare_pages(ranking, recounter, rows, rules, skew)
    _explain(skew)
    return skew


def rows_of(
    ranking: Ranking, recounter: Recounter, versions: Mapping[Wanted, Hash]
) -> dict[bytes, Hash] | None:
    """The rows by key, empty where there was none; None when one is not known."""
    found: dict[bytes, Hash] = {}
    for name, marker in ranking.rows.items():
        key = recounter.key_of(*name)
        if marker is None:
            found[key] = {}
        elif Wanted(key, marker) in versions:
            found[key] = versions[Wanted(key, marker)]
        else:
            return None
    return found


def _compare_vectors(ranking: Ranking, again: Counted, skew: Skew) -> bool:
    return compare_vectors(ranking, range(len(ranking.items)), again.vectors, skew.features)


def compare_vectors(
    ranking: Ranking, places: Sequence[int], counted: Floats, features: Mapping[str, Feature]
) -> bool:
    """Note per feature how items of a ranking compare with vectors [place, column] that were
    computed again; whether any differ."""
    logged = ranking.vectors[list(places)]
    same = _bits(logged) == _bits(counted)
    apart = np.abs(logged - counted)
    rounded = _bits(logged) == _bits(counted.astype(np.float32).astype(np.float64))
    for place, feature in enumerate(features.values()):
        column = same[:, place]
        feature.equal += int(column.sum())
        other = np.flatnonzero(~column)
        if not len(other):
            continue
        feature.differing += len(other)
        feature.rounded += int(rounded[other, place].sum())
        feature.apart_max = max(feature.apart_max, float(np.nan_to_num(apart[other, place]).max()))
        if not feature.example:
            at = int(other[0])
            feature.example = (
                f"request {ranking.request_id}, user {ranking.user_id}, "
                f"item {ranking.items[places[at]]}: "
                f"logged {logged[at, place]!r}, again {counted[at, place]!r}"
            )
    return not same.all()


def _compare_scores(ranking: Ranking, again: Counted, recounter: Recounter, skew: Skew) -> bool:
    """Whether there was something to compare: the model that served."""
    if recounter.model is None or ranking.model != recounter.model:
        skew.unscored[f"scored by {ranking.model}, the model given is {recounter.model}"] += 1
        return False
    heads = all(
        (_bits(values) == _bits(again.heads[head])).all() for head, values in ranking.heads.items()
    )
    same = heads and bool((_bits(ranking.score) == _bits(again.score)).all())
    skew.scores_equal += same
    skew.scores_differing += not same
    apart = float(np.nan_to_num(np.abs(ranking.score - again.score)).max())
    skew.score_apart_max = max(skew.score_apart_max, apart)
    # Ties stand in the order in which candidates came, which `by_score` tells.
    by_score = np.array(ranking.by_score)
    order = np.lexsort((by_score, -again.score))
    skew.orders_differing += not bool((order == np.argsort(by_score, kind="stable")).all())
    return True


def _compare_pages(
    ranking: Ranking, recounter: Recounter, rows: Mapping[bytes, Hash], rules: Rules, skew: Skew
) -> None:
    """The page after diversity, from all candidates."""
    if ranking.among is None:
        skew.unpaged["of which the log keeps what was shown alone"] += 1
    elif not ranking.ordered_by_rules:
        skew.unpaged["of which a stage that orders was late or failed"] += 1
    else:
        again = recounter.rerank(ranking, rows, rules)
        page = [again.items[place] for place in again.page.tolist()]
        same = page == list(ranking.items)
        skew.pages_equal += same
        skew.pages_differing += not same
        if not same and not skew.page_example:
            skew.page_example = (
                f"request {ranking.request_id}: served {', '.join(ranking.items[:SHOWN])}, "
                f"replayed {', '.join(page[:SHOWN])}"
            )


def _shift(ranking: Ranking, recounter: Recounter, rows: Mapping[bytes, Hash]) -> str:
    """By how much the clock would have to be off to explain a ranking."""
    for shift in SHIFTS_MS:
        again = recounter.count(ranking, rows, ranking.now + shift)
        if (_bits(ranking.vectors) == _bits(again.vectors)).all():
            return f"as if `now` had been {shift / 3_600_000:+g} h off when it was served"
    return "no other time of day explains it"


def _explain(skew: Skew) -> None:
    """Say of each feature that differs why it may."""
    views: dict[str, list[Feature]] = {}
    for feature in skew.features.values():
        views.setdefault(feature.name.partition("__")[0], []).append(feature)
    shifted = [said for said in skew.shifts if said.startswith("as if")]
    for mates in views.values():
        for feature in mates:
            if not feature.differing:
                continue
            if feature.rounded == feature.differing:
                feature.why = ROUNDED
            elif shifted:
                feature.why = shifted[0]
            elif 2 * feature.differing > skew.items and any(not m.differing for m in mates):
                feature.why = FORMULA
            else:
                feature.why = STATE


def _bits(values: Floats) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """The bits of numbers; every NaN is one, as in the log."""
    plain = np.where(np.isnan(values), np.nan, values)
    return np.ascontiguousarray(plain).view(np.int64)
