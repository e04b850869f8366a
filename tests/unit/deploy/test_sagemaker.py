"""Models on SageMaker: the archive's layout, and scores that are the ranker's to the bit."""

import importlib.util
import json
import subprocess
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import lightgbm
import numpy as np
import pytest

from deploy.sagemaker.export import export
from features.errors import Refused
from ranker.scoring.calibration import Isotonic, Platt
from ranker.scoring.model import DataSpan, TrainedHead, load_model, save_model
from ranker.scoring.value import ValueModel, ValueWeights

COLUMNS = ["a", "b", "c"]
WEIGHTS = ValueWeights(
    default={"click": 1.0, "save": 3.0, "hide": -2.5, "order": 0.1},
    surfaces={"quiet": {"save": 1.0}},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a head of each kind: plain, two calibrations, a ranking."""
    made = tmp_path_factory.mktemp("model")
    generator = np.random.default_rng(3)
    rows = generator.normal(size=(400, 3))
    rows[generator.random(rows.shape) < 0.1] = np.nan
    label = (np.nan_to_num(rows[:, 0]) + generator.normal(size=400) > 0).astype(float)

    def text(objective: str) -> str:
        group = [20] * 20 if objective == "lambdarank" else None
        settings = {"objective": objective, "verbose": -1, "num_leaves": 7, "min_data_in_leaf": 5}
        data = lightgbm.Dataset(rows, label, group=group, feature_name=COLUMNS)
        return str(lightgbm.train(settings, data, 12).model_to_string())

    binary, isotonic = text("binary"), Isotonic(raw=[-0.5, 0.1, 0.6], chance=[0.2, 0.5, 0.7])
    save_model(
        made,
        [
            TrainedHead("click", "binary", "click", binary, {}),
            TrainedHead("save", "binary", "save", binary, {}, Platt(slope=0.7, intercept=-1.5)),
            TrainedHead("hide", "binary", "hide", binary, {}, isotonic),
            TrainedHead("order", "lambdarank", "click", text("lambdarank"), {}),
        ],
        feature_service="feed",
        features=COLUMNS,
        data_span=DataSpan(from_ms=0, to_ms=1, events=1, requests=1),
        code_version="0",
        plan="p",
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    return made


def unpacked(archive: Path, to: Path) -> ModuleType:
    """The handler of an archive, loaded from where SageMaker unpacks it."""
    with tarfile.open(archive) as files:
        files.extractall(to, filter="data")
    spec = importlib.util.spec_from_file_location("inference", to / "code" / "inference.py")
    assert spec is not None
    assert spec.loader is not None
    handler = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(handler)
    return handler


def test_scores_are_those_of_the_ranker(folder: Path, tmp_path: Path) -> None:
    handler = unpacked(export(folder, WEIGHTS, tmp_path / "models" / "home.tar.gz"), tmp_path / "m")
    matrix = np.random.default_rng(4).normal(size=(200, 3))
    matrix[::7, 1] = np.nan
    shuffled = [["b", "extra", "c", "a"], matrix[:, [1, 0, 2, 0]]]
    body = {"columns": shuffled[0], "rows": shuffled[1].tolist(), "surface": "home"}  # type: ignore[attr-defined]
    text = json.dumps(body).replace("NaN", "null")
    model = handler.model_fn(str(tmp_path / "m"))
    asked = handler.input_fn(text, "application/json; charset=utf-8")
    answer, kind = handler.output_fn(handler.predict_fn(asked, model), "*/*")
    told: Any = json.loads(answer)
    heads = load_model(folder, COLUMNS).score(matrix)
    value = ValueModel(WEIGHTS, list(heads))
    assert kind == "application/json"
    assert told["model"] == "2026-01-02T00:00:00Z"
    assert told["heads"].keys() == heads.keys()
    for name, scores in heads.items():
        assert told["heads"][name] == scores.tolist(), name
    assert told["value"] == value.value(heads, "home").tolist()
    quiet = handler.predict_fn({**asked, "surface": "quiet"}, model)
    assert quiet["value"] == value.value(heads, "quiet").tolist() == heads["save"].tolist()


def test_the_handler_needs_nothing_of_ours(folder: Path, tmp_path: Path) -> None:
    unpacked(export(folder, WEIGHTS, tmp_path / "m.tar.gz"), tmp_path / "m")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1] + '/code'); import inference\n"
        "inference.model_fn(sys.argv[1])\n"
        "print(sorted(m for m in sys.modules if m.partition('.')[0] in"
        " ('features', 'ranker', 'deploy', 'streaming', 'pydantic')))"
    )
    command = [sys.executable, "-I", "-c", script, str(tmp_path / "m")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_the_same_model_is_the_same_archive(folder: Path, tmp_path: Path) -> None:
    first, second = (export(folder, WEIGHTS, tmp_path / f"{n}.tar.gz") for n in "ab")
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as files:
        assert sorted(files.getnames()) == [
            "click.txt", "code/inference.py", "code/requirements.txt", "hide.txt", "manifest.json",
            "order.txt", "save.txt", "weights.json",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("a,b", "text/csv", "send application/json"),
        ('{"columns": ["a"]}', "application/json", "rows: missing"),
        ('{"columns": ["a", "b"], "rows": [[1, 2]]}', "application/json", "columns lack c"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    folder: Path, tmp_path: Path, body: str, kind: str, words: str
) -> None:
    handler = unpacked(export(folder, WEIGHTS, tmp_path / "m.tar.gz"), tmp_path / "m")
    with pytest.raises(ValueError, match=words):
        handler.predict_fn(handler.input_fn(body, kind), handler.model_fn(str(tmp_path / "m")))


def test_what_could_not_serve_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"NAME\.tar\.gz"):
        export(folder, WEIGHTS, tmp_path / "model.zip")
    with pytest.raises(Refused, match="give one of them a weight"):
        export(folder, ValueWeights(default={"like": 1.0}), tmp_path / "m.tar.gz")
