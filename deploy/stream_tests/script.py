"""A stream test's script: what happens, when time passes, and then features and rankings."""

import uuid
from collections.abc import Sequence
from typing import Any, Final, Protocol

from features.errors import BadInput
from features.events import EngagementEvent, Event, ImpressionEvent, ItemEvent, ShownItem, UserEvent
from features.tags import duration_ms
from ranker.request import RankRequest, RankResponse

START_MS: Final = 1_735_689_600_000
"""2025-01-01: in the past, so that a real broker's clock does not call an event ahead of it."""
SURFACE: Final = "home"

Values = dict[str, float | None]
"""Feature → value, None where there is none."""


class Twin(Protocol):
    """What a script is played on: the system in memory, or a real one."""

    def send(self, events: Sequence[Event], now: int) -> None:
        """Return once the events are in the rows. Raises BadInput for one that is refused."""

    def features(self, user: str, items: Sequence[str], surface: str, now: int) -> list[Values]:
        """By item, every feature of the service as the ranker computes it."""

    def rank(self, request: RankRequest) -> RankResponse:
        """The ranker's own answer, from rows that hold all that was sent."""


class StreamScript:
    """A test's story, told in order; its clock moves only when it is told to.

    What is shown and acted upon carries the author and categories that `item` told, as a feed
    service passes on what the ranker's answer names.
    """

    def __init__(self, twin: Twin, now: int = START_MS) -> None:
        self.now = now
        """The instant of the story, ms UTC."""
        self._twin = twin
        self._unique, self._count = uuid.uuid4().hex[:8], 0
        self._about: dict[str, dict[str, Any]] = {}
        self._request: dict[tuple[str, str], str] = {}

    def given(self, *events: Event) -> None:
        """Let events happen as they are, with times and ids of their own."""
        self._twin.send(events, self.now)

    def item(
        self, item: str, *, author: str | None = None, categories: Sequence[str] = (), **more: Any
    ) -> None:
        """Tell what an item is; `more` as in an item event (created_at, attributes, embedding)."""
        self._about[item] = {"author_id": author, "categories": list(categories)}
        self.given(ItemEvent(**self._fact(), item_id=item, **self._about[item], **more))

    def user(self, user: str, **attributes: Any) -> None:
        """Tell what a user is."""
        self.given(UserEvent(**self._fact(), user_id=user, attributes=attributes))

    def shows(self, user: str, *items: str, surface: str = SURFACE) -> None:
        """Show items to a user, in this order."""
        fact = self._fact()
        self._request |= {(user, item): fact["event_id"] for item in items}
        shown = [ShownItem(item_id=item, **self._about.get(item, {})) for item in items]
        request = {"request_id": fact["event_id"], "surface": surface}
        self.given(ImpressionEvent(**fact, **request, user_id=user, items=shown))

    def does(
        self,
        user: str,
        action: str,
        item: str,
        *,
        value: int | None = None,
        surface: str = SURFACE,
    ) -> None:
        """Let a user act on an item, in answer to where it was shown to them last."""
        self.given(
            EngagementEvent(
                **self._fact(),
                user_id=user,
                item_id=item,
                action=action,
                value=value,
                surface=surface,
                request_id=self._request.get((user, item)),
                **self._about.get(item, {}),
            )
        )

    def passes(self, time: str) -> None:
        """Let time pass: `30s`, `10m`, `2h`, `1d`."""
        self.now += duration_ms(time)

    def features(self, user: str, item: str, *, surface: str = SURFACE) -> Values:
        """Every feature of an item for a user, as the ranker would compute it now.

        Asking for one that is not there raises KeyError with the names there are.
        """
        (found,) = self._twin.features(user, [item], surface, self.now)
        return _Named(found)

    def rank(self, user: str, items: Sequence[str] | None = None, **request: Any) -> RankResponse:
        """The ranker's answer now; without items it finds its own."""
        candidates = None if items is None else list(items)
        asked = {"surface": SURFACE, "now": self.now, **request}
        return self._twin.rank(RankRequest(user_id=user, candidates=candidates, **asked))

    def ranking(self, user: str, items: Sequence[str] | None = None, **request: Any) -> list[str]:
        """The same as a list of ids, best first."""
        return [one.item_id for one in self.rank(user, items, **request).items]

    def _fact(self) -> dict[str, Any]:
        self._count += 1
        return {"event_id": f"{self._unique}-{self._count}", "event_time": self.now}


class _Named(Values):
    """Features by name, which says what names there are."""

    def __missing__(self, name: str) -> float | None:
        raise KeyError(f"no feature {name!r} in the service; it has {', '.join(sorted(self))}")


def refuse(reasons: Sequence[str]) -> None:
    """Raise BadInput for events that became dead letters."""
    if reasons:
        raise BadInput(f"{len(reasons)} of the given events were refused: {'; '.join(reasons)}")
