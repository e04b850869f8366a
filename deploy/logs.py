"""Logs: text or JSON lines, without secrets, and without the same line a thousand times."""

import hashlib
import hmac
import json
import logging
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, TextIO
from urllib.parse import unquote, urlsplit

from features.log_settings import LogSettings
from features.version import VERSION

TEXT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
MASK: Final = "**********"
SAME_MAX, SAME_S = 5, 60.0
KINDS_MAX: Final = 1_000
"""Kinds of lines that are counted at a time."""
PERSONAL: Final = ("user_id",)
"""Fields of a record that are written as pseudonyms."""
PLAIN: Final = ("request_id",)
"""Fields that are written as they are."""


def set_up(process: str, settings: LogSettings, stream: TextIO | None = None) -> None:
    """Let the root logger write to stderr as the settings say."""
    hidden = list(hidden_parts(settings.secrets()))
    key = settings.log_ids_key
    formatter: logging.Formatter = Masked(logging.Formatter(TEXT), hidden)
    if settings.log_format == "json":
        secret = secrets.token_bytes(16) if key is None else key.get_secret_value().encode()
        formatter = Masked(JsonLines(process, secret), hidden)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(Repeats())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)


def hidden_parts(values: Iterable[str]) -> Iterable[str]:
    """Secrets, and the passwords inside secret URLs, as written there and as meant."""
    for value in values:
        if "://" not in value:
            yield from (part.strip() for part in value.split(",") if part.strip())
            continue
        password = value.partition("://")[2].rpartition("@")[0].partition(":")[2]
        if password:
            yield from {password, unquote(password)}
            yield value
        elif urlsplit(value).query:
            yield value


class Masked(logging.Formatter):
    """Another formatter's line, with every secret in it replaced: in tracebacks, too."""

    def __init__(self, inner: logging.Formatter, hidden: Iterable[str]) -> None:
        super().__init__()
        self._inner = inner
        self._hidden = sorted(set(hidden), key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        line = self._inner.format(record)
        for secret in self._hidden:
            line = line.replace(secret, MASK)
        return line


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, process, logger, message, error, and known fields."""

    def __init__(self, process: str, key: bytes) -> None:
        super().__init__()
        self._process, self._key = process, key

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "process": self._process,
            "version": VERSION,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (repeated := getattr(record, "repeated", 0)) > 0:
            line["repeated"] = repeated
        for name in PLAIN:
            if (value := getattr(record, name, None)) is not None:
                line[name] = str(value)
        for name in PERSONAL:
            if (value := getattr(record, name, None)) is not None:
                line[name] = pseudonym(self._key, str(value))
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def pseudonym(key: bytes, person: str) -> str:
    """Who it is cannot be told without the key; that two lines are of the same person can."""
    return hmac.new(key, person.encode(), hashlib.sha256).hexdigest()[:16]


class Repeats(logging.Filter):
    """Lets a few warnings of a kind through each minute; the next one says how many were left out.

    News is not limited: which offset a plan applies from is said once for each partition.
    A kind is a logger, a template and an error's type: a stage that fails at each of a thousand
    requests a second must not cost more by its log than by its failure.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[Any, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        error = record.exc_info[0] if record.exc_info else None
        kind = (record.name, record.levelno, record.msg, error)
        now = self._clock()
        since, count = self._seen.get(kind, (now, 0))
        if now - since >= SAME_S:
            left_out, since, count = max(0, count - SAME_MAX), now, 0
            if left_out:
                record.repeated = left_out
                record.msg = f"{record.msg} (and {left_out} more like it)"
        if len(self._seen) >= KINDS_MAX and kind not in self._seen:
            self._seen.clear()
        self._seen[kind] = since, count + 1
        return count < SAME_MAX
