"""What runs in a data folder (`stack.json`), and the lock for whoever changes it."""

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deploy.processes import Child
from features.errors import Refused


@dataclass
class Stack:
    """The processes that `up` started in one data folder, by name, and what they were given."""

    folder: Path
    repo: Path
    model: Path | None = None
    grpc_port: int | None = None
    """The ranker's second port; its first is its child's."""
    children: dict[str, Child] = field(default_factory=dict)

    @property
    def feature_store(self) -> Path:
        """The feature store's settings with this stack's addresses."""
        return self.folder / "feature_store.yaml"

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def alive(self, name: str) -> bool:
        return name in self.children and self.children[name].process() is not None

    def save(self) -> None:
        """Writes `stack.json` whole, or removes it when nothing is left to name."""
        path = _path(self.folder)
        if not self.children:
            path.unlink(missing_ok=True)
            return
        text = {
            "repo": str(self.repo),
            "model": None if self.model is None else str(self.model),
            "grpc_port": self.grpc_port,
            "children": [dataclasses.asdict(child) for child in self.children.values()],
        }
        fresh = path.with_suffix(".tmp")
        fresh.write_text(json.dumps(text, indent=2) + "\n")
        fresh.replace(path)


def load(folder: Path) -> Stack | None:
    """The stack that the folder names, or None. Raises Refused when its file makes no sense."""
    path = _path(folder)
    try:
        text = json.loads(path.read_text())
        children = [Child(**child) for child in text["children"]]
        model = text["model"] and Path(text["model"])
        named = {child.name: child for child in children}
        return Stack(folder, Path(text["repo"]), model, text.get("grpc_port"), named)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(
            f"{path} cannot be read ({error!r}). End the processes it names and delete it."
        ) from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the data folder; raises Refused while another command holds it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Refused(f"another headrace up or down is at work in {folder}: wait for it") from error
    finally:
        os.close(handle)


def _path(folder: Path) -> Path:
    return folder / "stack.json"
