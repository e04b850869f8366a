"""The yardstick of `quality_ranklens`: RankLens by numpy and LightGBM, nothing of ours.

Static metadata, the click-through rates of films, how a film's words match those of the films that
its user clicked, and counts, all strictly before a ranking; one plain LambdaMART.
"""

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import lightgbm
import numpy as np
from numpy.typing import NDArray

from tests.data import FOLDER

Floats = NDArray[np.float64]

FILE = FOLDER / "ranklens" / "events.jsonl.gz"
NUMBERS = ("popularity", "vote_avg", "vote_cnt", "budget", "runtime", "release_date")
WORDS = ("genres", "tags", "actors")
SHOWN = 24
TREES = 150
PARAMETERS = {
    "objective": "lambdarank",
    "num_leaves": 15,
    "learning_rate": 0.05,
    "min_data_in_leaf": 50,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "lambdarank_truncation_level": 10,
    "num_threads": 1,
    "verbose": -1,
}


class Clicked(NamedTuple):
    """The rankings that have a click, in order of time, 24 rows each."""

    ids: list[str]
    films: list[str]  # [row]
    columns: Floats  # [row, column]
    label: NDArray[np.int64]  # [row]


def yardstick_scores(train: int, seed: int) -> Floats:
    """Scores of all rows by a model of the first `train` rankings."""
    rows = clicked()
    data = lightgbm.Dataset(
        rows.columns[: train * SHOWN], rows.label[: train * SHOWN], group=np.full(train, SHOWN)
    )
    model = lightgbm.train({**PARAMETERS, "seed": seed}, data, TREES)
    return np.asarray(model.predict(rows.columns), np.float64)


@cache
def clicked() -> Clicked:
    """Rows of the rankings that have a click, by a replay that sees what came strictly before."""
    films, rankings, clicks = _read()
    genres = sorted({genre for film in films.values() for genre in film["genres"]})
    static = {
        film: [about[name] for name in NUMBERS] + [float(g in about["genres"]) for g in genres]
        for film, about in films.items()
    }
    unknown = [np.nan] * (len(NUMBERS) + len(genres))
    counts = _Counts(films)
    found = Clicked([], [], np.zeros((0, 0)), np.zeros(0, np.int64))
    columns: list[list[float]] = []
    labels: list[bool] = []
    for ranking in _in_time(rankings, clicks, counts):
        shown = [item["id"] for item in ranking["items"]]
        chosen = {click["item"] for click in clicks[ranking["id"]]}
        if not chosen:
            continue
        matches = counts.of_user(ranking["user"])
        found.ids.append(ranking["id"])
        found.films.extend(shown)
        labels.extend(film in chosen for film in shown)
        columns.extend(static.get(f, unknown) + counts.of_film(f) + matches(f) for f in shown)
    return found._replace(columns=np.array(columns), label=np.array(labels, np.int64))


class _Counts:
    """What was shown and clicked so far."""

    def __init__(self, films: dict[str, dict[str, Any]]) -> None:
        self._films = films
        self._shown: Counter[str] = Counter()
        self._clicked: Counter[str] = Counter()
        self._by_user: dict[str, list[str]] = defaultdict(list)

    def add(self, record: dict[str, Any]) -> None:
        if record["event"] == "ranking":
            self._shown.update(item["id"] for item in record["items"])
        else:
            self._clicked[record["item"]] += 1
            self._by_user[record["user"]].append(record["item"])

    def of_film(self, film: str) -> list[float]:
        clicked, shown = self._clicked[film], self._shown[film]
        return [(clicked + 2) / (shown + 10), clicked, shown]

    def of_user(self, user: str) -> Any:
        """A function of a film: how it matches what the user clicked."""
        past = self._by_user[user]
        about = [self._films[film] for film in past if film in self._films]
        liked = {name: Counter(w for film in about for w in film[name]) for name in WORDS}
        directors = Counter(film["director"] for film in about)
        seen = Counter(past)

        def matches(film: str) -> list[float]:
            known = self._films.get(film)
            if known is None:
                return [np.nan] * (len(WORDS) + 1) + [float(len(past)), seen[film]]
            of_words = [
                sum(words[word] for word in known[name]) / max(sum(words.values()), 1)
                for name, words in liked.items()
            ]
            return [*of_words, directors[known["director"]], float(len(past)), seen[film]]

        return matches


def _in_time(
    rankings: list[dict[str, Any]], clicks: dict[str, list[dict[str, Any]]], counts: _Counts
) -> Iterator[dict[str, Any]]:
    """The rankings in order of time, when all that came strictly before each was counted."""
    facts = rankings + [click for listed in clicks.values() for click in listed]
    waiting = sorted(facts, key=lambda record: int(record["timestamp"]))
    done = 0
    for ranking in rankings:
        while int(waiting[done]["timestamp"]) < int(ranking["timestamp"]):
            counts.add(waiting[done])
            done += 1
        yield ranking


def _read() -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Films by id, rankings in order of time, clicks by ranking."""
    films: dict[str, Any] = {}
    rankings: list[dict[str, Any]] = []
    clicks: dict[str, list[dict[str, Any]]] = defaultdict(list)
    if not FILE.is_file():
        raise FileNotFoundError(f"the data set ranklens is absent: no file {FILE}")
    with gzip.open(FILE) as lines:
        for record in map(json.loads, lines):
            if record["event"] == "item":
                films[record["item"]] = {f["name"]: f["value"] for f in record["fields"]}
            elif record["event"] == "ranking":
                rankings.append(record)
            else:
                clicks[record["ranking"]].append(record)
    return films, sorted(rankings, key=lambda record: int(record["timestamp"])), clicks
