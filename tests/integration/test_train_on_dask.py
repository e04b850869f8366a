"""Training on the workers of a Dask cluster: what a single process learns, within noise."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import lightgbm
import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from deploy.cli import app
from features.errors import BadInput, Unavailable
from ranker.scoring.forest import Forest
from ranker.scoring.model import load_model, read_manifest
from ranker.training.boosting import Fitting, fit, raw_scores
from ranker.training.cluster.connecting import local_workers, workers_of
from ranker.training.cluster.growing import ClusterGround
from ranker.training.evaluation import log_loss
from ranker.training.fitting import HeadSpec, train_heads
from ranker.training.rows import TrainingRows
from ranker.training.sampling import thinned
from streaming.event_file import write_events
from tests.browsing import browsing
from tests.dask_cluster import DaskCluster, dask_cluster
from tests.serving import replayed

pytestmark = pytest.mark.timeout(600)

SILENCE_S = 120.0
CTR = "item_rates__ctr_short"
HEADS = [HeadSpec.parse("click"), HeadSpec.parse("rank=lambdarank:click")]


@pytest.fixture(scope="module")
def rows() -> TrainingRows:
    """Rows of a recorded stream."""
    return replayed(browsing(1_000), ("click", "skip"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """A scheduler and two workers, all processes of their own."""
    with dask_cluster(tmp_path_factory.mktemp("dask"), 2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ground(cluster: DaskCluster) -> Iterator[ClusterGround]:
    with workers_of(cluster.address, SILENCE_S) as ground:
        yield ground


def test_two_workers_learn_what_one_process_learns_within_the_noise_of_seeds(
    ground: ClusterGround, rows: TrainingRows
) -> None:
    assert ground.workers == 2
    found: dict[str, list[dict[str, float]]] = {"here": [], "there": []}
    for seed in range(4):
        fitting = Fitting(trees=30, seed=seed, held_back=0.3)
        plain = train_heads(rows, HEADS, fitting)
        spread = train_heads(rows, HEADS, fitting, ground=ground)
        for name, heads in (("here", plain), ("there", spread)):
            found[name].append(
                {f"{h.name} {metric}": value for h in heads for metric, value in h.metrics.items()}
            )
    for metric in found["here"][0]:
        here, there = ([one[metric] for one in found[name]] for name in ("here", "there"))
        # Means of four draws each differ by less than this nearly always.
        noise = 3 * np.hypot(np.std(here, ddof=1), np.std(there, ddof=1)) / np.sqrt(len(here))
        assert abs(np.mean(here) - np.mean(there)) < max(noise, 0.01), (metric, here, there)
    assert np.mean([one["click held_back_auc"] for one in found["there"]]) > 0.65


def test_the_same_rows_and_seed_give_the_same_model_and_another_seed_another(
    ground: ClusterGround, cluster: DaskCluster, rows: TrainingRows
) -> None:
    def text(seed: int, where: ClusterGround) -> str:
        return fit(rows, "click", "binary", Fitting(trees=6, seed=seed), ground=where).text

    first = text(1, ground)
    with workers_of(cluster.address, SILENCE_S) as again:
        assert text(1, again) == first
    assert text(2, ground) != first


def test_a_model_text_has_what_one_of_a_single_process_has(
    ground: ClusterGround, rows: TrainingRows
) -> None:
    """The same parameters, threads and places of the metric aside; and nobody's address."""
    fitting = Fitting(trees=6, average=2, monotone={CTR: 1}, parameters={"num_leaves": "15"})
    plain = fit(rows, "click", "binary", fitting)
    spread = fit(rows, "click", "binary", fitting, ground=ground)
    assert parameters(spread.text) == parameters(plain.text)
    assert "127.0.0.1" not in spread.text
    assert list(spread.gain) == list(plain.gain)
    assert sum(spread.gain.values()) == pytest.approx(1)
    assert spread.text.count("\nTree=") == 12


def parameters(text: str) -> dict[str, str]:
    """The parameters that a model text ends with, but for two that change no score."""
    lines = text[text.index("\nparameters:\n") : text.index("\nend of parameters")].splitlines()
    pairs = (line.strip("[]").split(": ", 1) for line in lines[2:] if line)
    return {name: value for name, value in pairs if name not in ("num_threads", "eval_at")}


def test_patience_stops_all_workers_at_the_tree_after_which_the_rows_to_stop_on_gain_nothing(
    ground: ClusterGround, rows: TrainingRows
) -> None:
    late = rows.now >= np.quantile(rows.now, 0.6)
    early, held = rows.part(~late), rows.part(late)
    patience, most = 5, 60
    free = Fitting(trees=most, parameters={"learning_rate": 0.5})
    careful = Fitting(trees=most, patience=patience, parameters=free.parameters)
    whole = lightgbm.Booster(model_str=fit(early, "click", "binary", free, ground=ground).text)
    losses = [
        log_loss(held.labels["click"], np.asarray(whole.predict(held.matrix, num_iteration=n)))
        for n in range(1, most + 1)
    ]
    best = next(
        n for n in range(1, most) if min(losses[n : n + patience], default=2.0) >= losses[n - 1]
    )
    assert best < most - patience
    stopped = fit(early, "click", "binary", careful, stop_on=held, ground=ground)
    assert stopped.trees == stopped.text.count("\nTree=") == best
    ranked = fit(early, "click", "lambdarank", careful, stop_on=held, ground=ground)
    assert 0 < ranked.trees < most


def test_a_monotone_column_moves_the_score_one_way_alone(
    ground: ClusterGround, rows: TrainingRows
) -> None:
    column = rows.columns.index(CTR)
    fitted = fit(rows, "click", "binary", Fitting(trees=20, monotone={CTR: -1}), ground=ground)
    ladder = np.repeat(rows.matrix[:40], 25, axis=0)
    ladder[:, column] = np.tile(np.linspace(0, 1, 25), 40)
    assert np.all(np.diff(raw_scores(fitted.text, ladder).reshape(40, 25), axis=1) <= 0)


def test_thinned_negatives_weigh_there_what_they_weigh_here(
    ground: ClusterGround, rows: TrainingRows
) -> None:
    thin = thinned(rows, 0.3, seed=1)
    chances = [
        1 / (1 + np.exp(-raw_scores(fit(some, "click", "binary", fitting, ground=ground).text, m)))
        for some in (thin, rows)
        for fitting, m in [(Fitting(trees=40), rows.matrix)]
    ]
    rate = rows.labels["click"].mean()
    assert [chance.mean() for chance in chances] == [pytest.approx(rate, rel=0.1)] * 2


def test_the_command_trains_on_a_cluster_and_the_forest_scores_its_model_to_the_bit(
    cluster: DaskCluster, applied_repo: Path, tmp_path: Path
) -> None:
    events = tmp_path / "events.jsonl"
    write_events(events, browsing(300, start_ms=500 * 86_400_000))
    command = ["train", str(events), "--repo", str(applied_repo), "--trees", "8", "--on-disk"]
    command += ["--held-back", "0.3", "--patience", "4", "--dask", cluster.address]
    done = CliRunner().invoke(app, [*command, "--output", str(tmp_path / "model")])
    assert done.exit_code == 0, done.output
    manifest = read_manifest(tmp_path / "model")
    assert [(head.name, head.objective) for head in manifest.heads] == [
        ("click", "binary"),
        ("rank", "lambdarank"),
    ]
    assert manifest.fitting is not None
    assert (manifest.fitting["workers"], manifest.fitting["patience"]) == (2, 4)
    matrix = np.random.default_rng(1).normal(size=(500, len(manifest.features)))
    load_model(tmp_path / "model", tuple(manifest.features)).score(matrix)
    for head in manifest.heads:
        text = (tmp_path / "model" / head.file).read_text()
        expected = np.asarray(lightgbm.Booster(model_str=text).predict(matrix, raw_score=True))
        scored = Forest.from_model_text(text).predict(matrix)
        np.testing.assert_array_equal(scored.view(np.int64), expected.view(np.int64))
        assert head.importance
        assert 0 < head.metrics["held_back_auc"] <= 1
    refused = CliRunner().invoke(
        app, [*command, "--output", str(tmp_path / "no"), "--set", "num_threads=2"]
    )
    assert refused.exit_code == 1
    assert "--set num_threads=2 with a Dask cluster" in " ".join(refused.output.split())


def test_requests_that_do_not_go_round_are_refused(
    ground: ClusterGround, rows: TrainingRows
) -> None:
    one = rows.part(rows.request == rows.request[0])
    with pytest.raises(BadInput, match=r"6 rows of 1 requests .* 2 workers.*take fewer workers"):
        fit(one, "click", "binary", Fitting(trees=2), ground=ground)


def test_a_worker_that_dies_while_it_trains_ends_the_training_with_its_name(
    rows: TrainingRows, tmp_path: Path
) -> None:
    with dask_cluster(tmp_path, 2) as cluster, workers_of(cluster.address, SILENCE_S) as ground:
        victim = cluster.workers[1]

        def kill(tree: int) -> None:
            if victim.process() is not None:
                os.kill(victim.pid, signal.SIGKILL)

        endless = Fitting(trees=1_000_000)
        with pytest.raises(Unavailable, match=f"1 of the Dask workers died.*:{victim.port}"):
            fit(rows, "click", "binary", endless, ground=ground, progress=kill)


def test_workers_started_here_end_with_the_training_whatever_happens(rows: TrainingRows) -> None:
    started: list[psutil.Process] = []

    def fail_on_workers() -> None:
        with local_workers(2, SILENCE_S) as ground:
            started.extend(spawned())
            assert fit(rows, "click", "binary", Fitting(trees=4), ground=ground).trees == 4
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_on_workers()
    assert len(started) == 2
    assert psutil.wait_procs(started, timeout=20)[1] == []


def spawned() -> list[psutil.Process]:
    """Our children that run our code; a child that minds what they leave behind stays."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # another test's, which is ending
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found
