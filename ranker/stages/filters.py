"""Which candidates may be shown. Each filter is pure, over columns; unknown items pass."""

from collections.abc import Callable

import numpy as np

from features.activity import ActivityTable
from features.layout import ACTION, ENTRY, ITEM, TIME, Ints
from features.relations import RelationsTable
from features.spec import IMPRESSION
from ranker.rules import Rules
from ranker.stages.roles import GIVEN, Candidates, Filter, Mask, Query, User

NOTHING: Ints = np.zeros(0, np.int64)


class EndedFilter:
    """Drops items that were taken down."""

    name, vouches = "ended", True

    def keep(self, query: Query, candidates: Candidates) -> Mask:
        """False for ended items."""
        del query
        ended: Mask = candidates.numbers("ended") == 1.0
        return ~ended


class EligibleFilter:
    """Drops known items that lack a number which the surface requires of them."""

    name, vouches = "eligible", True

    def __init__(self, rules: Callable[[], Rules]) -> None:
        self._rules = rules

    def keep(self, query: Query, candidates: Candidates) -> Mask:
        """False where a required number is absent or another."""
        keep = np.ones(len(candidates), np.bool_)
        for path, number in self._rules().of(query.request.surface).require.items():
            keep &= (candidates.numbers(path) == number) | (candidates.rows < 0)
        return keep


class TooOldFilter:
    """Drops items that were created too long ago for the surface."""

    name, vouches = "too_old", False

    def __init__(self, rules: Callable[[], Rules]) -> None:
        self._rules = rules

    def keep(self, query: Query, candidates: Candidates) -> Mask:
        """False for items past the surface's `age_max`; those without a time of creation pass."""
        age_max = self._rules().of(query.request.surface).age_max
        if age_max is None:
            return np.ones(len(candidates), np.bool_)
        old: Mask = query.now - candidates.numbers("created_at") > age_max
        return ~old


class SeenFilter:
    """Drops items that the user was shown lately, by their list of impressions."""

    name, vouches = "seen", False

    def __init__(self, rules: Callable[[], Rules]) -> None:
        self._rules = rules

    def keep(self, query: Query, candidates: Candidates) -> Mask:
        """False for items shown within the surface's window."""
        seen = self._rules().of(query.request.surface).seen
        given = candidates.sources == (GIVEN,)
        if seen is None or query.user is None or (given and seen.candidates == "sourced"):
            return np.ones(len(candidates), np.bool_)
        entries = listed(query.user, candidates, IMPRESSION)
        lately = entries[entries[:, TIME] > query.now - seen.window, ITEM]
        return _not_among(candidates.codes, lately)


class HiddenFilter:
    """Drops items that the user hid: in a durable relation, or among the actions listed last."""

    name, vouches = "hidden", False

    def __init__(self, action: str = "hide") -> None:
        self._action = action

    def keep(self, query: Query, candidates: Candidates) -> Mask:
        """False for hidden items."""
        if query.user is None:
            return np.ones(len(candidates), np.bool_)
        hidden = listed(query.user, candidates, self._action)[:, ITEM]
        related = related_codes(query.user, "item", (self._action,))
        return _not_among(candidates.codes, np.concatenate([hidden, related]))


class BlockedAuthorFilter:
    """Drops what is by an author whom the user blocked or muted."""

    name, vouches = "blocked_author", True
    relations = ("block", "mute")

    def keep(self, query: Query, candidates: Candidates) -> Mask:
        """False for items of those authors; items without an author pass."""
        if query.user is None:
            return np.ones(len(candidates), np.bool_)
        blocked = related_codes(query.user, "author", self.relations)
        return _not_among(candidates.authors, blocked)


class MutedCategoryFilter:
    """Drops what is of a category that the user muted; an item's first category counts."""

    name, vouches = "muted_category", False
    relations = ("mute", "mute_category")

    def keep(self, query: Query, candidates: Candidates) -> Mask:
        """False for items of those categories."""
        if query.user is None:
            return np.ones(len(candidates), np.bool_)
        muted = related_codes(query.user, "category", self.relations)
        return _not_among(candidates.categories, muted)


def all_filters(rules: Callable[[], Rules]) -> list[Filter]:
    """Every filter there is, the cheapest first."""
    return [
        EndedFilter(),
        EligibleFilter(rules),
        TooOldFilter(rules),
        BlockedAuthorFilter(),
        MutedCategoryFilter(),
        HiddenFilter(),
        SeenFilter(rules),
    ]


def listed(user: User, candidates: Candidates, action: str) -> Ints:
    """[entry, arena column] of one action in the longest of the user's lists that keeps it."""
    found = np.zeros((0, ENTRY), np.int64)
    actions = candidates.reading.plan.actions
    if user.row < 0 or action not in actions:
        return found
    for table in user.table.tables.values():
        if not isinstance(table, ActivityTable):
            continue
        for sequence in table.view.sequences:
            if action in sequence.actions:
                entries = table.entries(user.row, table.sequences.index(sequence.name))
                if len(sequence.actions) > 1:
                    entries = entries[entries[:, ACTION] == actions.index(action)]
                found = entries if len(entries) > len(found) else found
    return found


def related_codes(user: User, target: str, relations: tuple[str, ...]) -> Ints:
    """The targets that any of the relations holds with now, as codes."""
    texts = related_texts(user, target, relations)
    return user.table.strings.codes(texts) if texts else NOTHING


def related_texts(user: User, target: str, relations: tuple[str, ...]) -> set[str]:
    """The targets of one kind that any of the relations holds with now."""
    found: set[str] = set()
    if user.row < 0:
        return found
    for table in user.table.tables.values():
        if isinstance(table, RelationsTable) and table.view.target == target:
            for relation in table.view.relations:
                if relation.on in relations:
                    found |= table.related(user.row, relation.on)
    return found


def _not_among(codes: Ints, unwanted: Ints) -> Mask:
    if not len(unwanted):
        return np.ones(len(codes), np.bool_)
    # What `np.isin` does to find its way for so few takes longer than to look each of them up.
    known = np.sort(unwanted)
    places = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    passed: Mask = known[places] != codes
    return passed
