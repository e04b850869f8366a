"""The yardstick of `quality_ranklens`: counters in dictionaries and LightGBM, nothing of ours.

Rankings and clicks are walked through in the order of the file's clock, each row made of what was
known before its ranking: the film's own numbers, its clicks per showing, what the user clicked of
its genres, director and actors, and the counts.
"""

import gzip
import json
from collections import Counter, defaultdict
from functools import cache
from typing import Any, NamedTuple

import lightgbm
import numpy as np
from numpy.typing import NDArray

from tests.data import FOLDER

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DATA = FOLDER / "ranklens" / "events.jsonl.gz"
NUMBERS = ("popularity", "vote_avg", "vote_cnt", "budget", "runtime", "release_date")
LISTS = ("genres", "actors", "tags")
TEST_SHARE = 0.2
PARAMETERS = {
    "objective": "lambdarank",
    "num_leaves": 15,
    "learning_rate": 0.05,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbose": -1,
}
TREES = 150


class Ranking(NamedTuple):
    """One ranking that somebody clicked in."""

    id: str
    items: list[str]
    clicked: list[int]  # 0 or 1 per item


@cache
def records() -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Rankings and clicks in order of time, a ranking before its clicks; and the films' fields."""
    if not DATA.is_file():
        raise FileNotFoundError(f"the data set ranklens is absent: no file {DATA}")
    told: list[dict[str, Any]] = []
    films: dict[str, dict[str, Any]] = {}
    with gzip.open(DATA) as lines:
        for line in lines:
            record = json.loads(line)
            if record["event"] == "item":
                films[record["item"]] = {f["name"]: f["value"] for f in record["fields"]}
            else:
                told.append(record)
    order = {"ranking": 0, "interaction": 1}
    return sorted(told, key=lambda r: (int(r["timestamp"]), order[r["event"]])), films


@cache
def clicked_rankings() -> list[Ranking]:
    """The rankings with a click, in order of time; the last fifth of them is the test."""
    told, _ = records()
    clicks: dict[str, set[str]] = defaultdict(set)
    for record in told:
        if record["event"] == "interaction":
            clicks[record["ranking"]].add(record["item"])
    return [
        Ranking(r["id"], ids, [int(i in clicks[r["id"]]) for i in ids])
        for r in told
        if r["event"] == "ranking" and clicks.get(r["id"])
        for ids in [[item["id"] for item in r["items"]]]
    ]


def yardstick_scores(seed: int) -> Floats:
    """Scores of the items of the test rankings, ranking after ranking."""
    rankings = clicked_rankings()
    columns = features()
    sizes = np.array([len(r.items) for r in rankings])
    first = int(len(rankings) * (1 - TEST_SHARE))
    cut = int(sizes[:first].sum())
    label = np.concatenate([r.clicked for r in rankings])
    training = lightgbm.Dataset(columns[:cut], label[:cut], group=sizes[:first])
    booster = lightgbm.train(PARAMETERS | {"seed": seed}, training, TREES)
    return np.asarray(booster.predict(columns[cut:]), np.float64)


@cache
def features() -> Floats:
    """One row per item of each clicked ranking."""
    told, films = records()
    wanted = {ranking.id for ranking in clicked_rankings()}
    shown, clicked = Counter[str](), Counter[str]()
    liked: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    rows: list[list[float]] = []
    for record in told:
        user = record.get("user") or record["id"]
        if record["event"] == "interaction":
            clicked[record["item"]] += 1
            liked[user].update(_words(films.get(record["item"], {})))
            liked[user]["all", ""] += 1
            continue
        ids = [item["id"] for item in record["items"]]
        if record["id"] in wanted:
            rows += [_row(films.get(i, {}), i, shown, clicked, liked[user]) for i in ids]
        shown.update(ids)
    return np.array(rows)


def _row(
    film: dict[str, Any],
    item: str,
    shown: Counter[str],
    clicked: Counter[str],
    mine: Counter[tuple[str, str]],
) -> list[float]:
    words, all_mine = _words(film), mine["all", ""]
    by_kind = [
        sum(mine[word] for word in words if word[0] == kind) for kind in (*LISTS, "director")
    ]
    return [
        *(float(film.get(name, np.nan)) for name in NUMBERS),
        float(len(film.get("genres", ()))),
        (clicked[item] + 1) / (shown[item] + 10),
        float(clicked[item]),
        float(shown[item]),
        *(float(count) for count in by_kind),
        *((count + 0.1) / (all_mine + 1) for count in by_kind),
        float(all_mine),
    ]


def _words(film: dict[str, Any]) -> list[tuple[str, str]]:
    words = [(kind, word) for kind in LISTS for word in film.get(kind, ())]
    return [*words, ("director", film["director"])] if "director" in film else words
