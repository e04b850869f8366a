"""Rows of KuaiRand's requests, made by the code that serves, matched with the yardstick's.

To replay takes minutes, so what came of it is kept in `.headrace/quality`, under a hash of all that
decides it: the plan, the code of `features/`, `streaming/` and the row maker, the data.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.training.factored import Nights, with_factors
from features.plan import FeatureRepo
from features.spec import Plan
from ranker.training.rows import RowMaker, TrainingRows
from streaming.adapters import kuairand
from streaming.replay import Timeline
from tests.benchmarks.ground import KUAIRAND, SERVICE, applied, scratch
from tests.benchmarks.yardstick_kuairand import judged_rows

ROOT = Path(__file__).parents[2]
KEPT = Path(".headrace") / "quality"
LABELS = {"click": "is_click", "long_view": "long_view", "like": "is_like"}
"""Action → the outcome of the data that it is."""
FIRST_MIDNIGHT_MS = 1_650_729_600_000  # 24 April in Beijing
NIGHTS = Nights(utc_offset_hours=8, from_ms=FIRST_MIDNIGHT_MS)
"""Factors are learnt at the midnights between the days of DATA.md, and the first before them."""
NO_REDIS = 1
"""A port that nothing is asked of: replay needs the registry alone."""


class JudgedRows(NamedTuple):
    """Ours, and where each is among the yardstick's."""

    rows: TrainingRows
    test: NDArray[np.bool_]
    """[row]: whether the yardstick tests on it."""
    place: NDArray[np.int64]
    """[test row]: its place among the yardstick's test rows."""


def declared_plan() -> Plan:
    """The plan of our feature repository, from a registry that `feast apply` wrote."""
    with scratch() as folder, applied(folder, NO_REDIS) as apply:
        return FeatureRepo(apply()).open().read()


def rows_of(plan: Plan, delay_ms: int = 0) -> JudgedRows:
    """Rows of all requests, with state as it was `delay_ms` before each; replayed or kept."""
    kept = KEPT / f"{_state(plan)}-{delay_ms}.npz"
    if not kept.is_file():
        _replay(plan, delay_ms, kept)
    with np.load(kept) as found:
        arrays = {name: found[name] for name in found.files}
    rows = TrainingRows(
        tuple(arrays["columns"].tolist()),
        arrays["matrix"],
        {action: arrays[action] for action in LABELS},
        arrays["request"],
        arrays["now"],
    )
    return JudgedRows(rows, *_matched(rows, arrays["request_id"].tolist(), arrays["item"].tolist()))


def _replay(plan: Plan, delay_ms: int, kept: Path) -> None:
    timeline = Timeline(plan, with_factors(kuairand.events(KUAIRAND), NIGHTS))
    maker = RowMaker(plan, SERVICE, timeline.tables, list(LABELS))
    request_ids: list[str] = []
    items: list[str] = []
    for request in timeline.requests:
        timeline.fold_until(request.now - delay_ms)
        maker.add(request.now, request.user_id, request.surface, request.items, request.outcomes)
        request_ids.extend([request.request_id] * len(request.items))
        items.extend(request.items)
    rows = maker.rows()
    kept.parent.mkdir(parents=True, exist_ok=True)
    whole = kept.with_name(f"{kept.name}.part.npz")
    np.savez(
        whole,
        columns=np.array(rows.columns),
        matrix=rows.matrix,
        request=rows.request,
        now=rows.now,
        request_id=np.array(request_ids),
        item=np.array(items),
        **rows.labels,  # type: ignore[arg-type]
    )
    whole.replace(kept)


def _state(plan: Plan) -> str:
    """A hash of what decides the rows."""
    found = hashlib.sha256(plan.model_dump_json().encode())
    code = [*ROOT.glob("features/*.py"), *ROOT.glob("streaming/**/*.py")]
    code += [*ROOT.glob("ranker/training/factors/*.py"), ROOT / "deploy/training/factored.py"]
    for file in sorted([*code, ROOT / "ranker" / "training" / "rows.py", Path(__file__)]):
        found.update(file.read_bytes())
    for file in sorted(KUAIRAND.iterdir()):
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


def _matched(
    rows: TrainingRows, request_ids: Sequence[str], shown: Sequence[str]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether each of our rows is a test row, and the place of each of those among the yardstick's
    test rows, after checking that the rows are the yardstick's."""
    judged = judged_rows()
    frame = judged.rows
    request = [
        f"{user}-{tab}-{start}"
        for user, tab, start in zip(
            frame["user_id"].tolist(), frame["tab"].tolist(), judged.start_ms.tolist(), strict=True
        )
    ]
    theirs = np.argsort(np.array(request), kind="stable")
    ours = np.argsort(np.array(request_ids), kind="stable")
    items = frame["video_id"].astype(str).tolist()
    made = list(zip(request_ids, shown, strict=True))
    assert [made[i] for i in ours] == [(request[i], items[i]) for i in theirs]
    for action, label in rows.labels.items():
        assert np.array_equal(label[ours], frame[LABELS[action]].to_numpy()[theirs]), action
    other = np.empty(len(made), np.int64)
    other[ours] = theirs
    test = judged.test[other]
    assert len(np.unique(rows.request[test])) == len(np.unique(judged.request[judged.test]))
    return test, (np.cumsum(judged.test) - 1)[other[test]]
