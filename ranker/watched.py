"""A file that takes effect when it changes, without a restart; a bad one changes nothing."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from features.errors import Refused

log = logging.getLogger("headrace.ranker")

T = TypeVar("T")


class Watched(Generic[T]):
    """What a file says, as of the last time it was right.

    `read` raises Refused for a bad file; `use` takes what is new, and may refuse it too.
    """

    def __init__(
        self, path: Path, read: Callable[[Path], T], use: Callable[[T], None] = lambda _: None
    ) -> None:
        self.path = path
        self._read = read
        self._use = use
        self._seen = _content(path)
        self.value = read(path)
        self.reloads = 0
        self.refused = 0
        """How often the file changed into something that could not be used."""
        self.bad = False
        """Whether it is something of that kind now."""

    def check(self) -> None:
        """Take the file's content if it is another one; cheap when it is not."""
        seen = _content(self.path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            if seen is None:
                raise Refused(f"{self.path} is gone")
            value = self._read(self.path)
            self._use(value)
        except Refused as error:
            self.refused, self.bad = self.refused + 1, True
            log.error("what was read before stays: %s", error)
            return
        self.value, self.bad = value, False
        self.reloads += 1
        log.info("%s took effect", self.path)


def _content(path: Path) -> bytes | None:
    """A hash of the file: a mounted ConfigMap changes without a new time or size."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return None
