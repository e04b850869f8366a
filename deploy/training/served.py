"""Training rows from the serving log: vectors as they were scored, labels from what followed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from deploy.training.made import Made, Span
from features.errors import BadInput
from ranker.training.rows import ServedRows
from streaming.logs.files import LogFiles
from streaming.logs.outcomes import Outcomes, outcomes
from streaming.logs.served import Head, ServedLog, Where
from streaming.replays.recorded import ArchivedEvents


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What is learnt from one record: places of its items, and what followed each."""

    places: list[int]
    happened: list[set[str]]


def served(
    files: LogFiles,
    name: str,
    columns: Sequence[str],
    span: Span,
    actions: Sequence[str],
    spill: Path | None,
    bar: Progress,
) -> Made:
    """A row for each served item that was seen, once per request, whose window is over.

    An item that was served and never seen is no negative. Records are read twice: first what they
    are about, then their vectors, so that only the rows are held.
    """
    log, recorded = ServedLog(files), ArchivedEvents(files, name)
    heads = sorted(log.heads(), key=lambda head: (head.now, head.request_id, head.where))
    heads = [head for head in heads if span.holds(head.now)]
    if not heads:
        raise BadInput(
            f"{name} holds no rankings {span}: `headrace archive log` keeps what a ranker served"
        )
    known = outcomes(recorded, {head.request_id for head in heads})
    left_out = Counter[str]()
    chosen = _choose(heads, known, span.window_ms, left_out)
    sizes = [len(chosen[head.where].places) for head in heads if head.where in chosen]
    rows = ServedRows(columns, actions, sizes, spill)
    number = {head.where: at for at, head in enumerate(h for h in heads if h.where in chosen)}
    task = bar.add_task("reading what was served", total=len(chosen))
    for where, record in log.records():
        one = chosen.get(where)
        if one is None:
            continue
        vectors = _vectors(record, columns)
        if vectors is None:
            left_out["items served with other columns, or none"] += len(one.places)
        else:
            rows.put(number[where], record["now"], vectors[one.places], one.happened)
        bar.advance(task)
    says = "; ".join(f"{count:,} {why} left out" for why, count in left_out.items())
    return Made(rows.rows(), len(chosen), known.events, says or "nothing left out")


def _choose(
    heads: Sequence[Head], known: Outcomes, window_ms: int | None, left_out: Counter[str]
) -> dict[Where, _Chosen]:
    """By record, the items to learn from: each once per request, where it was served first."""
    met: set[tuple[str, str]] = set()
    found: dict[Where, _Chosen] = {}
    for head in heads:
        one = _Chosen([], [])
        for place, item in enumerate(head.items):
            if (head.request_id, item) in met:
                left_out["repeated items"] += 1
                continue
            met.add((head.request_id, item))
            outcome = known.of(head.request_id, item)
            happened = outcome.followed(known.newest_ms, window_ms)
            if happened is None:
                unseen = outcome.seen_ms is None
                left_out["items nobody saw" if unseen else "items that may be answered yet"] += 1
            else:
                one.places.append(place)
                one.happened.append(happened)
        if one.places:
            found[head.where] = one
    return found


def _vectors(record: dict[str, Any], columns: Sequence[str]) -> "np.ndarray[Any, Any] | None":
    """[item, column]: as they were scored; None when a column was not served then."""
    place = {name: number for number, name in enumerate(record["columns"])}
    if not all(name in place for name in columns):
        return None
    vectors = np.array(record["vectors"], np.float64)  # null is NaN
    return vectors[:, [place[name] for name in columns]]
