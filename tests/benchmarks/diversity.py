"""What a varied order costs and gains, beside the order by score alone.

Feeds are cut from made-up candidates that are as alike as real ones: items of a few dozen topics,
authors who keep to theirs, and a user whose scores lean to some topics, so that the best by score
crowd together. Ours is the order by the default product's rules, or by each strategy alone.
"""

from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.as_of_kernels import Floats, Vectors
from features.layout import Ints
from ranker.rules import Diversity, read_rules
from ranker.stages.diversity import reach, varied
from tests.benchmarks.report import Result
from tests.benchmarks.timing import paired_ms

CANDIDATES, LIMIT, DIMENSIONS = 500, 20, 64
TOPICS, AUTHORS = 30, 80
FEEDS, FULL_FEEDS = 200, 2_000
STRENGTH = 0.2
STRATEGIES = ("mmr", "msd", "dpp", "ssd")

Feed = tuple[Floats, Vectors, Ints, Ints]
"""Candidates by falling score: scores, embeddings, authors, categories."""


def run(full: bool) -> Result:
    rng = np.random.default_rng(7)
    feeds = [_feed(rng) for _ in range(FULL_FEEDS if full else FEEDS)]
    product = read_rules(Path(__file__).parents[2] / "feature_repo" / "feed.yaml").default.diversity
    ways = {"product": product} | {
        strategy: Diversity.model_validate({"strategy": strategy, "strength": STRENGTH})
        for strategy in STRATEGIES
    }
    by_score = Diversity()
    calls = {name: Turn(way, feeds) for name, way in {**ways, "off": by_score}.items()}
    taken_ms = paired_ms(calls, runs=1_000 if full else 300)
    off = _measured(by_score, feeds)
    ours: dict[str, float] = {}
    ratio: dict[str, float] = {}
    yardstick = dict(off)
    yardstick["p50_ms"] = float(np.median(taken_ms["off"]))
    for name, way in ways.items():
        found = _measured(way, feeds)
        end = "" if name == "product" else f"_{name}"
        ours |= {f"{figure}{end}": value for figure, value in found.items()}
        ours[f"p50_ms{end}"] = float(np.median(taken_ms[name]))
        ours[f"p99_ms{end}"] = float(np.percentile(taken_ms[name], 99))
        ratio[f"score{end}"] = found["score"] / off["score"]
        ratio[f"spread{end}"] = found["spread"] / off["spread"]
    return Result("diversity", ours, yardstick, ratio)


def _feed(rng: np.random.Generator) -> Feed:
    topics = rng.normal(size=(TOPICS, DIMENSIONS))
    home = rng.integers(0, TOPICS, AUTHORS)
    authors = rng.integers(0, AUTHORS, CANDIDATES)
    categories = np.where(
        rng.random(CANDIDATES) < 0.8, home[authors], rng.integers(0, TOPICS, CANDIDATES)
    )
    vectors = topics[categories] + 0.7 * rng.normal(size=(CANDIDATES, DIMENSIONS))
    likes = np.exp(2.0 * rng.normal(size=TOPICS))[categories] * np.exp(rng.normal(size=CANDIDATES))
    score: Floats = likes / (likes + 5.0)  # between 0 and 1, as chances are
    best = np.argsort(-score)
    return score[best], vectors[best].astype(np.float32), authors[best], categories[best]


def _page(way: Diversity, feed: Feed) -> Ints:
    score, vectors, authors, categories = feed
    near = reach(way, LIMIT)
    return varied(way, score, vectors[:near], authors[:near], categories[:near], LIMIT)[:LIMIT]


class Turn:
    """The page of the next feed at each call."""

    def __init__(self, way: Diversity, feeds: list[Feed]) -> None:
        self._way, self._feeds, self._calls = way, feeds, 0

    def __call__(self) -> object:
        self._calls += 1
        return _page(self._way, self._feeds[self._calls % len(self._feeds)])


def _measured(way: Diversity, feeds: list[Feed]) -> dict[str, float]:
    """Means over the feeds' pages."""
    found: list[NDArray[np.float64]] = []
    for feed in feeds:
        page = _page(way, feed)
        score, vectors, authors, categories = (column[page] for column in feed)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        alike = [float(unit[i] @ unit[j]) for i, j in combinations(range(len(page)), 2)]
        beside = (authors[1:] == authors[:-1]).mean()
        rows = [score.sum(), 1 - np.mean(alike), len(set(categories.tolist())), beside]
        found.append(np.array(rows, np.float64))
    names = ("score", "spread", "categories", "same_author_beside")
    return dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))
