"""A Headrace model behind SageMaker: the four functions that its inference toolkit calls.

It is copied into each archive and runs where Headrace is not installed: LightGBM and numpy are all
it needs. Scores are those of the ranker, to the bit (`tests/unit/deploy/test_sagemaker.py`).
"""

import json
import math
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

JSON = "application/json"
ROWS_MAX = 100_000


def model_fn(model_dir: str) -> dict[str, Any]:
    """The model of an archive: its manifest, the weights of its heads, a booster per head."""
    folder = Path(model_dir)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    weights = json.loads((folder / "weights.json").read_bytes())
    boosters = {
        head["name"]: lightgbm.Booster(model_file=str(folder / head["file"]))
        for head in manifest["heads"]
    }
    return {"manifest": manifest, "weights": weights, "boosters": boosters}


def input_fn(body: str | bytes, content_type: str) -> dict[str, Any]:
    """A request: `{"columns": […], "rows": [[…], …], "surface": "home"}`; null: unknown."""
    if content_type.partition(";")[0].strip() != JSON:
        raise ValueError(f"content type {content_type}: send {JSON}")
    asked = json.loads(body)
    missing = [name for name in ("columns", "rows") if not isinstance(asked.get(name), list)]
    if missing:
        raise ValueError(f"{', '.join(missing)}: missing, or no list")
    if len(asked["rows"]) > ROWS_MAX:
        raise ValueError(f"{len(asked['rows'])} rows: at most {ROWS_MAX} a request")
    return dict(asked)


def predict_fn(asked: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """Each head's prediction of each row, and what they are worth together."""
    wanted = model["manifest"]["features"]
    absent = [name for name in wanted if name not in asked["columns"]]
    if absent:
        raise ValueError(f"columns lack {', '.join(absent[:5])}: the model takes {len(wanted)}")
    matrix = np.array(asked["rows"], np.float64).reshape(-1, len(asked["columns"]))
    matrix = matrix[:, [asked["columns"].index(name) for name in wanted]]
    weights = model["weights"]["surfaces"].get(asked.get("surface"), model["weights"]["default"])
    heads, value = {}, np.zeros(len(matrix))
    for head in model["manifest"]["heads"]:
        raw = model["boosters"][head["name"]].predict(matrix, raw_score=True)
        heads[head["name"]] = prediction = _prediction(head, np.asarray(raw, np.float64))
        if weight := weights.get(head["name"], 0.0):
            value += weight * prediction
    created = model["manifest"]["created_at"]
    told = {name: scores.tolist() for name, scores in heads.items()}
    return {"model": created, "heads": told, "value": value.tolist()}


def output_fn(prediction: dict[str, Any], accept: str) -> tuple[str, str]:
    """The answer, as JSON whatever is asked for."""
    return json.dumps(prediction), JSON


def _prediction(head: dict[str, Any], raw: Any) -> Any:
    """What raw scores mean: see ranker/scoring/calibration.py, which this follows."""
    learnt = head["calibration"]
    if head["objective"] == "lambdarank":
        return raw
    if learnt is None:
        return _sigmoid(raw)
    if learnt["method"] == "platt":
        return _sigmoid(learnt["slope"] * raw + learnt["intercept"])
    knots, chances = np.array(learnt["raw"]), np.array(learnt["chance"])
    found = np.interp(raw, knots, chances)
    for outside, end in ((raw < knots[0], 0), (raw > knots[-1], -1)):
        if outside.any():
            odds = math.log(chances[end] / (1 - chances[end]))
            found[outside] = _sigmoid(raw[outside] - knots[end] + odds)
    return found


def _sigmoid(raw: Any) -> Any:
    decay = np.array([math.exp(-abs(one)) for one in raw.tolist()])
    return np.where(raw >= 0, 1.0, decay) / (1.0 + decay)
