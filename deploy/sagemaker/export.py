"""Model folders as SageMaker's multi-model endpoints take them: one archive a model, side by side.

An archive holds the model folder, the weights of its heads, and the handler with what it needs, as
SageMaker's prebuilt containers look for them (`code/inference.py`, `code/requirements.txt`).
"""

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from features.errors import Refused
from ranker.scoring.model import load_model, read_manifest
from ranker.scoring.value import ValueModel, ValueWeights

HANDLER = Path(__file__).with_name("inference.py")
NEEDED = ("lightgbm", "numpy")


def export(folder: Path, weights: ValueWeights, target: Path) -> Path:
    """Write a model's archive, the same bytes for the same model. Raises Refused for one that does
    not load, or whose heads all weigh nothing."""
    manifest = read_manifest(folder)
    model = load_model(folder, manifest.features)
    ValueModel(weights, list(model.forests))
    files = {
        "manifest.json": (folder / "manifest.json").read_bytes(),
        "weights.json": json.dumps(weights.model_dump(), indent=2).encode(),
        "code/inference.py": HANDLER.read_bytes(),
        "code/requirements.txt": "".join(f"{n}=={version(n)}\n" for n in NEEDED).encode(),
        **{head.file: (folder / head.file).read_bytes() for head in manifest.heads},
    }
    if not target.name.endswith(".tar.gz"):
        raise Refused(f"{target}: SageMaker takes archives named NAME.tar.gz")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(_archive(files))
    return target


def _archive(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)
