"""What a log line may hold, and how often it comes."""

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest
from pydantic import SecretStr

from deploy.logs import SAME_MAX, SAME_S, Repeats, pseudonym, set_up
from ranker.settings import RankerSettings
from streaming.settings import StreamingSettings

log = logging.getLogger("headrace.test")


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    """The root logger as it was."""
    logger = logging.getLogger()
    before, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = before
    logger.setLevel(level)


@pytest.fixture
def written() -> Callable[..., list[str]]:
    """Sets logging up and returns what some lines come out as."""

    def write(settings: RankerSettings | StreamingSettings, say: Callable[[], None]) -> list[str]:
        stream = io.StringIO()
        set_up("ranker", settings, stream)
        say()
        return stream.getvalue().splitlines()

    return write


SECRET = {
    "redis": SecretStr("rediss://feed:p%40ss-word@redis:6379/0"),
    "rank_tokens": SecretStr("opensesame, other-token"),
}


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_line_holds_a_secret_not_even_a_traceback(
    written: Callable[..., list[str]], form: str
) -> None:
    settings = RankerSettings(**SECRET, log_format=form)  # type: ignore[arg-type]

    def say() -> None:
        url = "rediss://feed:p%40ss-word@redis:6379/0"  # pragma: allowlist secret
        log.warning("cannot reach %s", url)
        try:
            raise ValueError("refused p@ss-word and other-token")
        except ValueError:
            log.exception("a token: %s", "opensesame")

    text = "\n".join(written(settings, say))
    for secret in ("p%40ss-word", "p@ss-word", "opensesame", "other-token"):
        assert secret not in text
    assert "ValueError: refused" in text
    assert "feed:" not in text


def test_a_json_line_says_who_spoke_and_of_whom_only_by_a_pseudonym(
    written: Callable[..., list[str]],
) -> None:
    settings = StreamingSettings(log_format="json", log_ids_key=SecretStr("our key"))

    def say() -> None:
        log.error("it %s", "broke", extra={"user_id": "mia", "request_id": "r-1", "other": "x"})

    (line,) = map(json.loads, written(settings, say))
    assert line["message"] == "it broke"
    assert (line["level"], line["process"], line["logger"]) == ("ERROR", "ranker", "headrace.test")
    assert line["request_id"] == "r-1"
    assert line["user_id"] == pseudonym(b"our key", "mia") != pseudonym(b"another", "mia")
    assert "other" not in line
    assert line["time"].endswith("+00:00")


def test_without_a_key_pseudonyms_hold_for_one_process_alone(
    written: Callable[..., list[str]],
) -> None:
    def say() -> None:
        log.error("once", extra={"user_id": "mia"})
        log.error("twice", extra={"user_id": "mia"})

    lines = [written(StreamingSettings(log_format="json"), say) for _ in range(2)]
    names = [[json.loads(line)["user_id"] for line in some] for some in lines]
    assert names[0][0] == names[0][1]
    assert names[0] != names[1]


def test_a_line_that_repeats_comes_a_few_times_a_minute_and_then_says_how_often() -> None:
    now = [0.0]
    repeats = Repeats(lambda: now[0])

    def passes(template: str, *values: object) -> str | None:
        record = log.makeRecord(log.name, logging.ERROR, "", 0, template, values, None)
        return record.getMessage() if repeats.filter(record) else None

    said = [passes("stage %s failed", number) for number in range(1000)]
    assert [one for one in said if one] == [f"stage {n} failed" for n in range(SAME_MAX)]
    assert passes("another line") == "another line"
    now[0] = SAME_S
    assert passes("stage %s failed", 7) == f"stage 7 failed (and {1000 - SAME_MAX} more like it)"
    assert passes("stage %s failed", 8) == "stage 8 failed"


def test_news_is_not_limited() -> None:
    repeats = Repeats(lambda: 0.0)
    news = [
        log.makeRecord(log.name, logging.INFO, "", 0, "partition %s", (number,), None)
        for number in range(2 * SAME_MAX)
    ]
    assert all(repeats.filter(record) for record in news)
