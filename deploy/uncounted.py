"""Actions that events name and no feature definition counts: what is lost, and where to mend it."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from features.errors import HeadraceError

SHOWN_MAX: Final = 20
_COUNTING: Final = "counters"
"""The word of `features.declare` whose arguments are the actions of a view."""


def report(actions: Mapping[str, int], repo: Path, adapter: str) -> str | None:
    """What a person is told of actions and how often they came; None where all of them count.

    Where the definitions cannot be read, it says that nothing was compared, and why.
    """
    from features.plan import FeatureRepo

    try:
        counted = FeatureRepo(repo).open().read().actions
    except HeadraceError as error:
        return f"uncounted actions: not known, as the feature definitions cannot be read: {error}"
    lost = {action: times for action, times in actions.items() if action not in counted}
    if not lost:
        return None
    listed = [f"{action} {times:,}" for action, times in by_frequency(lost)]
    rest = f" and {len(listed) - SHOWN_MAX:,} more" if len(listed) > SHOWN_MAX else ""
    calls = list(counting_calls(repo))
    where = " and ".join(calls) or f"{_COUNTING}(…) of an activity_view in a file of {repo}"
    return (
        f"uncounted actions: {', '.join(listed[:SHOWN_MAX])}{rest}\n"
        f"no feature definition in {repo} counts {'it' if len(lost) == 1 else 'them'}: "
        f"{sum(lost.values()):,} of {sum(actions.values()):,} actions become no feature. Either "
        f"add the names to {where}, then `feast -c {repo} apply`; or let {adapter} give them a "
        f"name that is counted: {', '.join(counted) or 'none is'}"
    )


def by_frequency(actions: Mapping[str, int]) -> list[tuple[str, int]]:
    """Actions with their numbers, the most frequent first."""
    return sorted(actions.items(), key=lambda one: (-one[1], one[0]))


def counting_calls(repo: Path) -> Iterator[str]:
    """Where a repository's files say which actions are counted, and how they say it."""
    for file in sorted(repo.glob("*.py")):
        try:
            tree = ast.parse(file.read_text())
        except (SyntaxError, UnicodeDecodeError):
            continue  # Feast says what is wrong with it
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _named(node.func) == _COUNTING:
                yield f"{ast.unparse(node)} ({file}:{node.lineno})"


def _named(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
