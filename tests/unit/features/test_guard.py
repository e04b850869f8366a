"""Who may ask: what a header must say, and that the scopes keep apart."""

import pytest
from pydantic import SecretStr

from features.guard import OPEN, Guard

GUARD = Guard.of(SecretStr("old, new"), SecretStr("watch"))


@pytest.mark.parametrize(
    ("scope", "shown", "admitted"),
    [
        ("rank", "Bearer new", True),
        ("rank", "bearer old", True),
        ("rank", "Bearer watch", False),
        ("rank", "Bearer ", False),
        ("rank", "Bearer old, new", False),
        ("rank", "Basic new", False),
        ("rank", "new", False),
        ("rank", None, False),
        ("admin", "Bearer watch", True),
        ("admin", "Bearer new", False),
    ],
)
def test_a_scope_opens_to_its_own_tokens_alone(
    scope: str, shown: str | None, admitted: bool
) -> None:
    assert GUARD.admits(scope, shown) is admitted  # type: ignore[arg-type]


def test_without_tokens_a_scope_is_open_and_a_list_of_nothing_is_none() -> None:
    assert OPEN.admits("rank", None)
    assert not OPEN.guards("admin")
    assert not Guard.of(SecretStr(" , "), None).guards("rank")
