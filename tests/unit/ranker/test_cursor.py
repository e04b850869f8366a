"""Cursors: what was shown comes back as it was, and anything else is refused with the way out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from features.errors import BadInput
from ranker.cursor import CURSOR_CHARS_MAX, SESSION_ITEMS_MAX, first, read_cursor, unseen
from ranker.request import TIME_MS_MAX, RankRequest

ids = st.lists(st.text(min_size=1, max_size=20), max_size=50, unique=True)
instants = st.integers(0, TIME_MS_MAX)


@given(instants, ids, ids, st.text(min_size=1), st.text(min_size=1))
def test_a_cursor_says_its_instant_and_which_items_were_shown(
    now: int, shown: list[str], others: list[str], user: str, surface: str
) -> None:
    cursor = first(now).after(shown)
    assert cursor is not None
    found = read_cursor(cursor.text(user, surface), user, surface)
    assert found.now == now
    items = [*others, *shown]
    assert unseen(found.shown, items).tolist() == [item not in shown for item in items]


@given(instants, ids, st.data())
def test_a_changed_cursor_is_refused(now: int, shown: list[str], data: st.DataObject) -> None:
    cursor = first(now).after(shown)
    assert cursor is not None
    text = cursor.text("u", "home")
    place = data.draw(st.integers(0, len(text) - 2))
    letter = data.draw(st.sampled_from(sorted(set("AZaz09-_") - {text[place]})))
    for bad in (text[:place], text[:place] + letter + text[place + 1 :], text + "AAAA"):
        with pytest.raises(BadInput, match="leave the cursor out"):
            read_cursor(bad, "u", "home")


@pytest.mark.parametrize(("user", "surface"), [("other", "home"), ("u", "search")])
def test_a_cursor_serves_its_own_user_and_surface_only(user: str, surface: str) -> None:
    with pytest.raises(BadInput, match="this user on this surface"):
        read_cursor(first(7).text("u", "home"), user, surface)


def test_a_session_ends_when_its_cursor_is_full() -> None:
    cursor = first(TIME_MS_MAX).after(f"i{n}" for n in range(SESSION_ITEMS_MAX - 1))
    assert cursor is not None
    assert len(cursor.text("u", "home")) <= CURSOR_CHARS_MAX
    assert cursor.rest() == 1
    assert cursor.after(["the last"]) is None


@pytest.mark.parametrize("bad", ["x", "!!", "é", "a" * 100])
def test_a_request_names_the_bad_cursor_and_how_to_mend_it(bad: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RankRequest(user_id="u", cursor=bad)
    (found,) = caught.value.errors()
    assert (found["type"], found["loc"]) == ("bad_cursor", ("cursor",))
    assert "next_cursor" in found["msg"]
