"""The yardstick of `quality_kuairand`: KuaiRand by pandas and LightGBM, nothing of ours.

Counters, rates, similarity and history of a request's candidates are all as of its first
impression, strictly before it, as `../shared/DATA.md` asks; outcomes count at their own times.
One plain binary model of 300 trees × 63 leaves, and three of 400 × 31 at a slower rate whose scores
are averaged, are trained on the requests that start by 1 May and judged on those of 2 to 4 May.
"""

from functools import cache
from typing import NamedTuple

import lightgbm
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tests.data import FOLDER

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

DATA = FOLDER / "kuairand"
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
REQUEST_GAP_MS = 4 * HOUR_MS
LAST_TRAINING_DATE = 20220501
LABELS = ("is_click", "long_view")
PRIOR_IMPRESSIONS = 20.0
RECENT_CLICKS = 20
PARAMETERS = {
    "objective": "binary",
    "num_leaves": 63,
    "learning_rate": 0.03,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "seed": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}
SINGLE, AVERAGED = "single", "averaged"
MODELS: dict[str, list[tuple[dict[str, float], int]]] = {
    SINGLE: [({}, 300)],
    AVERAGED: [({"num_leaves": 31, "learning_rate": 0.02, "seed": s}, 400) for s in (1, 2, 3)],
}
"""Each booster's changes to PARAMETERS, and its trees."""


class Judged(NamedTuple):
    """The rows to be judged, each once, in the order of the file, and their requests."""

    rows: pd.DataFrame  # the file's columns; its index is the row's place in the file
    request: Ints  # [n] number of the row's request
    start_ms: Ints  # [n] time of the first impression of that request
    test: Bools  # [n] whether the request starts on a test day


def yardstick_scores(label: str, sort: str) -> Floats:
    """Scores of the rows of the test days, in order of `judged_rows`, of the single model or of the
    mean of three, trained for `label` (see LABELS)."""
    judged = judged_rows()
    target = judged.rows[label].to_numpy(np.int64)
    columns, test = features(), judged.test
    scores = [
        lightgbm.train(
            PARAMETERS | changes, lightgbm.Dataset(columns[~test], target[~test]), trees
        ).predict(columns[test], raw_score=True)
        for changes, trees in MODELS[sort]
    ]
    return np.asarray(np.mean(scores, axis=0), np.float64)


@cache
def judged_rows() -> Judged:
    """Each distinct row with its request: gaps under 4 h of one user on one surface."""
    if not DATA.is_dir():
        raise FileNotFoundError(f"the data set kuairand is absent: no folder {DATA}")
    rows = pd.read_parquet(DATA / "impressions.parquet").drop_duplicates()
    rows = rows.sort_values("time_ms", kind="stable")
    grouped = rows.sort_values(["user_id", "tab"], kind="stable")
    user, tab = grouped["user_id"].to_numpy(), grouped["tab"].to_numpy()
    time_ms = grouped["time_ms"].to_numpy()
    begins = np.ones(len(rows), dtype=bool)
    begins[1:] = (
        (user[1:] != user[:-1]) | (tab[1:] != tab[:-1]) | (np.diff(time_ms) >= REQUEST_GAP_MS)
    )
    first = np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))
    by_row = pd.DataFrame(
        {
            "request": np.cumsum(begins) - 1,
            "start_ms": time_ms[first],
            "start_date": grouped["date"].to_numpy()[first],
        },
        index=grouped.index,
    ).loc[rows.index]
    return Judged(
        rows,
        by_row["request"].to_numpy(np.int64),
        by_row["start_ms"].to_numpy(np.int64),
        by_row["start_date"].to_numpy() > LAST_TRAINING_DATE,
    )


@cache
def features() -> Floats:
    """One row of features per judged row, as of the start of its request."""
    rows, _, start_ms, _ = judged_rows()
    videos, users = _videos(), pd.read_parquet(DATA / "users.parquet")
    video, user = rows["video_id"].to_numpy(np.int64), rows["user_id"].to_numpy(np.int64)
    about = videos.reindex(video)
    tab = rows["tab"].to_numpy(np.int64)
    author, tag, second_tag = (about[name].to_numpy(np.int64) for name in ("author", "tag", "tag2"))
    counts = AsOfCounts(rows["time_ms"].to_numpy(np.int64), start_ms)
    outcomes = {
        name: rows[name].to_numpy(np.float64) for name in ("is_click", "long_view", "is_like")
    }
    outcomes["finished"] = (rows["play_time_ms"] >= rows["duration_ms"]).to_numpy(np.float64)
    counted: list[Floats] = []
    for key in (video, author, tag, second_tag, user, tab, user * 16 + tab, video * 16 + tab):
        counted += counts.counters(key, outcomes)
    for other in (author, tag, second_tag, video):
        counted += counts.totals(user * 2**24 + other, outcomes)
    local_hour = start_ms // HOUR_MS + 8
    plain = [
        tab,
        local_hour % 24,
        local_hour // 24 % 7,
        tag,
        (start_ms - about["uploaded_ms"].to_numpy()) / DAY_MS,
        *(about[name].to_numpy() for name in ("video_duration", "type", "upload", "music_type")),
    ]
    profile = users.set_index("user_id").select_dtypes("number").reindex(user).to_numpy(np.float64)
    return np.column_stack(
        [
            *(np.asarray(column, dtype=np.float64) for column in plain),
            profile,
            *counted,
            *_similarities(user, video, outcomes, counts),
            *_history_matches(user, video, author, tag, videos),
        ]
    )


class AsOfCounts:
    """Counts over the rows at `time_ms` (rising), asked as of `as_of_ms` of each row."""

    def __init__(self, time_ms: Ints, as_of_ms: Ints) -> None:
        self.begin_ms = int(time_ms.min())
        self.time_ms = time_ms - self.begin_ms
        self.as_of_ms = as_of_ms - self.begin_ms

    def counters(self, key: Ints, outcomes: dict[str, Floats]) -> list[Floats]:
        """Totals and smoothed rates of all time and of the last day, and decayed rates."""
        order, span = self._order(key)
        now = self._before(key, order, span, self.as_of_ms)
        day_ago = self._before(key, order, span, np.maximum(self.as_of_ms - DAY_MS, 0))
        begin = self._before(key, order, span, np.zeros_like(key))
        result: list[Floats] = [(now - begin).astype(float), (now - day_ago).astype(float)]
        last = np.where(now > begin, self.time_ms[order[now - 1]], -DAY_MS * 30)
        result.append((self.as_of_ms - last) / HOUR_MS)
        growth = np.exp(self.time_ms / DAY_MS)
        decay = np.exp(-self.as_of_ms / DAY_MS)
        seen = _between(growth, order, begin, now) * decay
        for outcome in outcomes.values():
            rate = outcome.mean()
            for since in (begin, day_ago):
                hits = _between(outcome, order, since, now)
                smoothed = (hits + PRIOR_IMPRESSIONS * rate) / (now - since + PRIOR_IMPRESSIONS)
                result += [hits, smoothed]
            decayed = _between(growth * outcome, order, begin, now) * decay
            result.append((decayed + 5 * rate) / (seen + 5))
        return result

    def totals(self, key: Ints, outcomes: dict[str, Floats]) -> list[Floats]:
        """How often the pair was shown before, and what came of it."""
        order, span = self._order(key)
        now = self._before(key, order, span, self.as_of_ms)
        begin = self._before(key, order, span, np.zeros_like(key))
        hits = [_between(outcome, order, begin, now) for outcome in outcomes.values()]
        return [(now - begin).astype(float), *hits]

    def recent(self, key: Ints, taken: Bools, most: int) -> tuple[Ints, Ints, Ints]:
        """The taken rows in order of key and time, and each row's newest of them: [first, end)."""
        rows = np.flatnonzero(taken)
        span = self._span()
        order = rows[np.argsort(key[rows] * span + self.time_ms[rows], kind="stable")]
        end = self._before(key, order, span, self.as_of_ms)
        begin = self._before(key, order, span, np.zeros_like(key))
        return order, np.maximum(begin, end - most), end

    def _span(self) -> int:
        return int(self.time_ms.max()) + 1

    def _order(self, key: Ints) -> tuple[Ints, int]:
        # Rows rise in time already, so a stable sort by key orders by key and time.
        return np.argsort(key, kind="stable"), self._span()

    def _before(self, key: Ints, order: Ints, span: int, time_ms: Ints) -> Ints:
        """How many rows, in order of (key, time), come before (key, time_ms) of each row."""
        codes = np.unique(key, return_inverse=True)[1]
        return np.searchsorted(codes[order] * span + self.time_ms[order], codes * span + time_ms)


def _between(values: Floats, order: Ints, begin: Ints, end: Ints) -> Floats:
    sums = np.concatenate([[0.0], np.cumsum(values[order])])
    return np.asarray(sums[end] - sums[begin])


def _similarities(
    user: Ints, video: Ints, outcomes: dict[str, Floats], counts: AsOfCounts
) -> list[Floats]:
    """Cosine of the candidate with the mean of the user's recent clicks, of skips, of history."""
    vectors = _vectors()
    candidate = vectors[video]
    result = []
    for taken in (outcomes["is_click"] > 0, outcomes["is_click"] == 0):
        order, first, end = counts.recent(user, taken, RECENT_CLICKS)
        sums = np.concatenate(
            [np.zeros((1, vectors.shape[1])), np.cumsum(vectors[video[order]], 0)]
        )
        result.append(_cosine(candidate, sums[end] - sums[first]))
    for sequence in ("watch_seq", "long_watch_seq", "like_seq"):
        owner, watched = _history(sequence)
        sums = np.zeros((int(user.max()) + 1, vectors.shape[1]))
        known = owner < len(sums)
        np.add.at(sums, owner[known], vectors[watched[known]])
        result.append(_cosine(candidate, sums[user]))
    return result


def _history_matches(
    user: Ints, video: Ints, author: Ints, tag: Ints, videos: pd.DataFrame
) -> list[Floats]:
    """How often the candidate, its author and its tag stand in the user's history lists."""
    result: list[Floats] = []
    for sequence in ("watch_seq", "long_watch_seq"):
        owner, watched = _history(sequence)
        about = videos.reindex(watched)
        pairs = (
            (video, watched),
            (author, about["author"].to_numpy(np.int64)),
            (tag, about["tag"].to_numpy(np.int64)),
        )
        for candidate, past in pairs:
            result.append(_times_seen(owner * 2**24 + past, user * 2**24 + candidate))
        result.append(_times_seen(owner, user))
    return result


def _times_seen(seen: Ints, asked: Ints) -> Floats:
    counts = pd.Series(seen).value_counts().reindex(asked, fill_value=0)
    return np.asarray(counts, dtype=np.float64)


@cache
def _history(sequence: str) -> tuple[Ints, Ints]:
    history = pd.read_parquet(DATA / "user_history.parquet", columns=["user_id", sequence])
    lengths = history[sequence].map(len).to_numpy()
    owner = np.repeat(history["user_id"].to_numpy(np.int64), lengths)
    return owner, np.concatenate(history[sequence].to_list()).astype(np.int64)


def _videos() -> pd.DataFrame:
    videos = pd.read_parquet(DATA / "videos.parquet").set_index("video_id")
    tags = videos["tag"].fillna("").str.split(",")
    uploaded = pd.to_datetime(videos["upload_dt"]).astype("datetime64[ms]").astype("int64")
    return pd.DataFrame(
        {
            "author": pd.factorize(videos["author_id"])[0],
            "tag": pd.factorize(tags.str[0])[0],
            "tag2": pd.factorize(tags.str[1])[0] + 1,
            "type": pd.factorize(videos["video_type"])[0],
            "upload": pd.factorize(videos["upload_type"])[0],
            "uploaded_ms": uploaded - 8 * HOUR_MS,
            "video_duration": videos["video_duration"],
            "music_type": videos["music_type"],
        },
        index=videos.index,
    )


@cache
def _vectors() -> Floats:
    """Unit vectors by video id; zero where a video has none."""
    with np.load(DATA / "video_embeddings.npz") as stored:
        ids, vectors = stored["video_ids"], stored["vectors"].astype(np.float64)
    by_id = np.zeros((max(int(ids.max()), int(_videos().index.max())) + 1, vectors.shape[1]))
    by_id[ids] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return by_id


def _cosine(candidate: Floats, other: Floats) -> Floats:
    product = np.einsum("ij,ij->i", candidate, other)
    lengths = np.linalg.norm(candidate, axis=1) * np.linalg.norm(other, axis=1)
    return np.where(lengths > 1e-9, product / np.maximum(lengths, 1e-9), np.nan)
