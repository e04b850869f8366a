"""A registry of models in a plain folder: versions that never change, and which one serves.

    models/0001/manifest.json, click.txt, …     a version: a model folder as it was trained
    models/promoted -> 0001                     the version that serves

A version appears whole or not at all. `promoted` is a link, put in place by one rename, so that a
process which is told to load `models/promoted` finds one version or the other.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from features.errors import BadInput, Refused
from ranker.scoring.model import MANIFEST_FILE, Manifest, load_model, read_manifest

PROMOTED: Final = "promoted"
LATEST: Final = "latest"
DIGITS: Final = 4


class Version(NamedTuple):
    """One version of the registry."""

    name: str
    manifest: Manifest
    sha256: str
    """Of the manifest, which holds the checksums of all heads: one model, one sum."""


class ModelRegistry:
    """The models below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def versions(self) -> list[Version]:
        """Every version, oldest first."""
        found = sorted(path for path in self._folder.glob("[0-9]" * DIGITS) if path.is_dir())
        return [Version(path.name, read_manifest(path), _sum(path)) for path in found]

    def add(self, model: Path) -> Version:
        """Keep a copy of a model folder as the next version; what is there already stays that one.

        Raises Refused for a model that does not load.
        """
        manifest, sha256 = read_manifest(model), _sum(model)
        load_model(model, manifest.features)
        known = self.versions()
        for one in known:
            if one.sha256 == sha256:
                return one
        self._folder.mkdir(parents=True, exist_ok=True)
        number = int(known[-1].name) + 1 if known else 1
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".arriving-") as scratch:
            arriving = Path(scratch) / "model"
            arriving.mkdir()
            for name in (MANIFEST_FILE, *(head.file for head in manifest.heads)):
                shutil.copyfile(model / name, arriving / name)
            target = self._folder / f"{number:0{DIGITS}}"
            try:
                arriving.rename(target)
            except OSError as error:
                raise Refused(f"{target} was made by somebody else meanwhile: add again") from error
        return Version(target.name, manifest, sha256)

    def promote(self, version: str = LATEST) -> Version:
        """Let a version serve, once it is known to load. Raises BadInput for one there is not."""
        known = {one.name: one for one in self.versions()}
        if not known:
            raise BadInput(f"{self._folder} holds no models: `headrace model add` puts one there")
        name = max(known) if version == LATEST else version.zfill(DIGITS)
        if name not in known:
            raise BadInput(f"no version {version} in {self._folder}: it has {', '.join(known)}")
        load_model(self._folder / name, known[name].manifest.features)
        link = self._folder / f".{PROMOTED}"
        link.unlink(missing_ok=True)
        link.symlink_to(name)
        link.replace(self._folder / PROMOTED)
        return known[name]

    def promoted(self) -> str | None:
        """The version that serves."""
        link = self._folder / PROMOTED
        return link.readlink().name if link.is_symlink() else None


def _sum(model: Path) -> str:
    return hashlib.sha256((model / MANIFEST_FILE).read_bytes()).hexdigest()
