"""Adapters: each turns the files of one data set into events, in the order of `event_time`.

An adapter is one small file with a function `events(folder) -> Iterator[Event]`: items and users
first, at their own times but before their first use, then what was shown and done. Add it here by
name and `headrace adapt NAME` knows it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from features.events import Event
from streaming.adapters import kuairand, movielens, ranklens

ADAPTERS: dict[str, Callable[[Path], Iterator[Event]]] = {
    "kuairand": kuairand.events,
    "movielens": movielens.events,
    "ranklens": ranklens.events,
}
