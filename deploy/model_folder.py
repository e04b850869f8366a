"""A model folder brought from where models are kept: an object store, or a file system."""

import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from features.errors import BadInput, Unavailable
from ranker.scoring.model import MANIFEST_FILE, load_model, read_manifest


def fetch(source: str, target: Path) -> str:
    """Copy a model folder to `target`, whole or not at all, and return when it was made.

    `source` is a URI (s3://bucket/prefix, file:///folder). Credentials are the environment's:
    in AWS those of the pod's role. Raises BadInput for no URI and where no model is, Unavailable
    when the store does not answer, and Refused for a model that does not load.
    """
    try:
        store, path = fs.FileSystem.from_uri(source)
    except (pa.ArrowInvalid, ValueError) as error:
        raise BadInput(f"{source}: no URI of a model folder ({error})") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        arriving = Path(scratch) / "model"
        arriving.mkdir()
        try:
            if store.get_file_info(f"{path}/{MANIFEST_FILE}").type != fs.FileType.File:
                raise BadInput(f"{source}: it holds no {MANIFEST_FILE}, so it is no model folder")
            fs.copy_files(path, str(arriving), source_filesystem=store)
        except OSError as error:
            raise Unavailable(f"{source} cannot be read: {error}") from error
        manifest = read_manifest(arriving)
        load_model(arriving, manifest.features)
        if target.exists():
            shutil.rmtree(target)
        arriving.rename(target)
    return manifest.created_at.isoformat()
