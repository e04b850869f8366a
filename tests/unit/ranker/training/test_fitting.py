"""Training: heads learn what followed, are judged on later requests, and land in a folder."""

from pathlib import Path

import numpy as np
import pytest

from features.errors import BadInput
from ranker.scoring.model import load_model, read_manifest
from ranker.training.boosting import Fitting
from ranker.training.evaluation import auc
from ranker.training.fitting import HeadSpec, train_heads, write_model
from ranker.training.rows import TrainingRows
from tests.serving import SERVED_PLAN, trained


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("click", HeadSpec("click", "binary", "click")),
        ("rank=lambdarank:click", HeadSpec("rank", "lambdarank", "click")),
        ("liked=binary:like", HeadSpec("liked", "binary", "like")),
    ],
)
def test_a_head_is_an_action_or_name_objective_action(text: str, expected: HeadSpec) -> None:
    assert HeadSpec.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "a=", "a=poisson:click", "a=binary", "a=binary:", "=", "=binary:click", "A b"]
)
def test_a_head_that_says_too_little_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(BadInput, match="name=objective:action"):
        HeadSpec.parse(text)


def test_what_is_learnt_holds_for_later_requests(rows: TrainingRows) -> None:
    heads = [HeadSpec.parse("click"), HeadSpec.parse("rank=lambdarank:click")]
    click, rank = train_heads(rows, heads, Fitting(trees=8, held_back=0.2))
    for head in (click, rank):
        assert head.metrics["held_back_auc"] > 0.65, head.name
        assert head.metrics["held_back_request_gauc"] > 0.65
        assert 0 < head.metrics["held_back_ndcg10"] <= 1


def test_metrics_are_of_a_twin_that_saw_no_later_request(rows: TrainingRows) -> None:
    """Shuffled labels before the cut teach nothing, however good those after it are."""
    cut = np.quantile(rows.now, 0.8)
    early, found = rows.now < cut, []
    for seed in range(7):
        label = rows.labels["click"].copy()
        label[early] = np.random.default_rng(seed).permutation(label[early])
        shuffled = TrainingRows(rows.columns, rows.matrix, {"click": label}, rows.request, rows.now)
        (head,) = train_heads(shuffled, [HeadSpec.parse("click")], Fitting(trees=8, held_back=0.2))
        found.append(head.metrics["held_back_auc"])
    assert 0.35 < np.mean(found) < 0.62


def test_the_same_rows_and_seed_give_the_same_model(rows: TrainingRows) -> None:
    heads = [HeadSpec.parse("click")]
    texts = {train_heads(rows, heads, Fitting(trees=5, seed=s))[0].model_text for s in (7, 7, 8)}
    assert len(texts) == 2


@pytest.mark.parametrize("every", [0, 1])
def test_an_action_that_always_or_never_follows_is_refused(rows: TrainingRows, every: int) -> None:
    labels = {"like": np.full(len(rows), every, np.int8)}
    flat = TrainingRows(rows.columns, rows.matrix, labels, rows.request, rows.now)
    with pytest.raises(BadInput, match=r"'like' follows \d+ of \d+ .*nothing to learn"):
        train_heads(flat, [HeadSpec.parse("like")])


def test_progress_tells_every_tree(rows: TrainingRows) -> None:
    told: list[tuple[str, int]] = []
    train_heads(
        rows, [HeadSpec.parse("click")], Fitting(trees=3), progress=lambda *tree: told.append(tree)
    )
    assert told == [("click", 1), ("click", 2), ("click", 3)]


def test_the_folder_says_what_the_model_is_of(rows: TrainingRows, tmp_path: Path) -> None:
    folder = trained(tmp_path / "m", rows, "click", "rank=lambdarank:click", trees=3)
    manifest = read_manifest(folder)
    assert [head.name for head in manifest.heads] == ["click", "rank"]
    assert manifest.features == list(rows.columns)
    assert manifest.plan == SERVED_PLAN.version
    assert manifest.data_span.requests == 500
    assert manifest.data_span.from_ms == rows.now.min()
    assert manifest.data_span.to_ms == rows.now.max()
    scores = load_model(folder, rows.columns).score(rows.matrix)
    assert auc(rows.labels["click"], scores["click"]) > 0.7


def test_a_model_can_be_written_over_an_older_one(rows: TrainingRows, tmp_path: Path) -> None:
    folder = trained(tmp_path, rows, "click", trees=2)
    heads = train_heads(rows, [HeadSpec.parse("click")], Fitting(trees=4))
    write_model(folder, heads, rows, SERVED_PLAN, "feed", 1)
    assert load_model(folder, rows.columns).manifest.heads[0].trees == 4
