"""A model folder: a LightGBM model text per head, and the manifest that says what they expect.

The manifest is `manifest.json`; it names the head files and holds their checksums.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue, ValidationError

from features.errors import Refused
from ranker.scoring.calibration import Calibration, Isotonic, Platt, sigmoid
from ranker.scoring.forest import Forest

Floats = NDArray[np.float64]

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
# What LightGBM writes for an objective whose raw score means what `Model.score` takes it to mean.
WRITTEN_OBJECTIVE = {"binary": "binary sigmoid:1", "lambdarank": "lambdarank"}

Objective = Literal["binary", "lambdarank"]
HEAD_NAME = r"^[a-z][a-z0-9_]{0,63}$"
HeadName = Annotated[str, Field(pattern=HEAD_NAME)]
FileName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}\.txt$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSpan(_Part):
    """The events that a model was trained on."""

    from_ms: int
    to_ms: int
    events: int
    requests: int


class HeadManifest(_Part):
    """One head: what it predicts, and the file that holds it."""

    name: HeadName
    objective: Objective
    label: str
    file: FileName
    sha256: str
    trees: int
    metrics: dict[str, FiniteFloat] = {}
    calibration: Calibration | None = None
    """What the raw score of a binary head means; None: log-odds."""
    importance: dict[str, FiniteFloat] = {}
    """Column → the share of all gain that its splits made, of those that were split on."""

    def prediction(self, raw: Floats) -> Floats:
        """What raw scores [n] say: a probability, or for lambdarank the raw score itself."""
        if self.objective == "lambdarank":
            return raw
        return sigmoid(raw) if self.calibration is None else self.calibration.probability(raw)


class Manifest(_Part):
    """What a model expects of whoever loads it, and where it comes from."""

    format_version: int = FORMAT_VERSION
    feature_service: str
    features: list[str]
    heads: list[HeadManifest] = Field(min_length=1)
    data_span: DataSpan
    code_version: str
    plan: str
    created_at: datetime
    fitting: dict[str, JsonValue] = {}
    """How it was fitted: seed, trees, what was held back, and the like."""


@dataclass(frozen=True)
class TrainedHead:
    """A head fresh from training; `model_text` is `Booster.model_to_string()`."""

    name: str
    objective: Objective
    label: str
    model_text: str
    metrics: dict[str, float]
    calibration: Platt | Isotonic | None = None
    gain: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A loaded model: its manifest and a forest per head, in the manifest's order."""

    manifest: Manifest
    forests: dict[str, Forest]

    def score(self, matrix: Floats) -> dict[str, Floats]:
        """Each head's score [n] of the rows of `matrix` [n, features].

        A probability for a binary head, the raw score for lambdarank.
        """
        return {
            head.name: head.prediction(self.forests[head.name].predict(matrix))
            for head in self.manifest.heads
        }


def save_model(
    folder: Path,
    heads: Sequence[TrainedHead],
    *,
    feature_service: str,
    features: Sequence[str],
    data_span: DataSpan,
    code_version: str,
    plan: str,
    created_at: datetime,
    fitting: dict[str, JsonValue] | None = None,
) -> Manifest:
    """Write a model folder, the manifest last; Refused when a head could not be served."""
    manifest = Manifest(
        feature_service=feature_service,
        features=list(features),
        heads=[
            HeadManifest(
                name=head.name,
                objective=head.objective,
                label=head.label,
                file=f"{head.name}.txt",
                sha256=hashlib.sha256(head.model_text.encode()).hexdigest(),
                trees=Forest.from_model_text(head.model_text).trees,
                metrics=head.metrics,
                calibration=head.calibration,
                importance=_strongest_first(head.gain),
            )
            for head in heads
        ],
        data_span=data_span,
        code_version=code_version,
        plan=plan,
        created_at=created_at,
        fitting=fitting or {},
    )
    names = [head.name for head in heads]
    for head, entry in zip(heads, manifest.heads, strict=True):
        if names.count(head.name) > 1:
            raise Refused(f"head {head.name!r} comes twice; give each head its own name")
        _forest(entry, head.model_text, manifest.features)
    folder.mkdir(parents=True, exist_ok=True)
    for head, entry in zip(heads, manifest.heads, strict=True):
        _write(folder / entry.file, head.model_text)
    _write(folder / MANIFEST_FILE, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def load_model(folder: Path, columns: Sequence[str]) -> Model:
    """The model of `folder`, to be fed matrices with these `columns`.

    Refused when they are not the columns it was trained on, in that order, or when a file is
    missing, changed, or of a kind that this version does not read.
    """
    manifest = read_manifest(folder)
    misfit = _first_misfit(manifest.features, columns)
    if misfit:
        raise Refused(f"model {folder}, feature service {manifest.feature_service!r}: {misfit}")
    forests = {}
    for head in manifest.heads:
        path = folder / head.file
        if not path.is_file():
            raise Refused(f"{path}: missing, though the manifest names it; copy the whole folder")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != head.sha256:
            raise Refused(
                f"{path}: its checksum is not the manifest's, so the file was changed or cut "
                "short; copy the folder again, or train again"
            )
        forests[head.name] = _forest(head, content.decode(), manifest.features)
    return Model(manifest, forests)


def read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise Refused(f"{path}: missing; name a folder that `headrace train` wrote")
    try:
        fields = json.loads(path.read_bytes())
        version = fields["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{path}: not a manifest with a format_version; train again") from error
    if version != FORMAT_VERSION:
        raise Refused(
            f"{path}: format_version {version!r}, and this version of Headrace reads "
            f"{FORMAT_VERSION}; train again, or use the version that wrote it"
        )
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise Refused(f"{path}: {where}: {first['msg']}; train again") from error


def _strongest_first(gain: dict[str, float]) -> dict[str, float]:
    some = [(name, share) for name, share in gain.items() if share > 0]
    return dict(sorted(some, key=lambda one: -one[1]))


def _first_misfit(trained: Sequence[str], served: Sequence[str]) -> str | None:
    """The first column in which the two differ, in words, with the way out."""
    for place in range(max(len(trained), len(served))):
        expected = trained[place] if place < len(trained) else None
        given = served[place] if place < len(served) else None
        if expected == given:
            continue
        if expected is not None and expected not in served:
            return (
                f"column {expected!r} (number {place}) is missing: the model was trained on it; "
                "declare it again and `feast apply`, or train again"
            )
        if given is not None and given in served[:place]:
            return (
                f"column {given!r} (number {place}) comes twice; name it once in the feature "
                "service and `feast apply`"
            )
        if given is not None and given not in trained:
            return (
                f"column {given!r} (number {place}) is unexpected: the model was trained without "
                "it; take it out of the feature service and `feast apply`, or train again"
            )
        return (
            f"column number {place} is {given!r} and should be {expected!r}: the columns are out "
            "of order; restore their order in the feature service and `feast apply`, or train again"
        )
    return None


def _forest(head: HeadManifest, model_text: str, features: Sequence[str]) -> Forest:
    forest = Forest.from_model_text(model_text)
    misfit = _first_misfit(features, forest.feature_names)
    if misfit:
        raise Refused(f"head {head.name!r} and its manifest disagree: {misfit}")
    if forest.objective != WRITTEN_OBJECTIVE[head.objective]:
        raise Refused(
            f"head {head.name!r} is {head.objective!r} in the manifest and "
            f"{forest.objective!r} in {head.file}; train it with "
            f"objective={head.objective!r} and its default sigmoid"
        )
    return forest


def _write(path: Path, text: str) -> None:
    """Replace a file whole: a reader sees the old one or the new one."""
    unfinished = path.with_suffix(path.suffix + ".part")
    unfinished.write_text(text, encoding="utf-8", newline="")
    unfinished.replace(path)
