"""`headrace dead-letters` over a real broker."""

import gc
from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from deploy.cli import app
from deploy.commands import dead_letters as commands
from streaming.dead_letters import dead_letter, distinct, read_dead_letter
from streaming.kafka import Broker
from streaming.records import Outgoing, Record

BAD = b'{"type":"us\xffer"}\x1b[2J'


@pytest.fixture
def topics(
    any_broker: str, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> tuple[Broker, str, str]:
    """A broker with a topic of events and one of dead letters, which the settings name."""
    events, letters = unique("events"), unique("dead-letters")
    monkeypatch.setenv("HEADRACE_KAFKA", any_broker)
    monkeypatch.setenv("HEADRACE_DEAD_LETTERS_TOPIC", letters)
    monkeypatch.setenv("COLUMNS", "200")
    reached = Broker(any_broker, {})
    reached.topics({events: 1, letters: 1})
    return reached, events, letters


def bury(topics: tuple[Broker, str, str], *records: tuple[int, bytes | None, bytes, str]) -> None:
    broker, events, letters = topics
    sink = broker.sink()
    for offset, key, value, reason in records:
        record = Record(0, offset, key, value, 1_650_812_741_436)
        sink.send(dead_letter(letters, events, record, reason))
    sink.flush()
    sink.close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["dead-letters", *arguments])


def words(result: Result) -> str:
    return " ".join(result.output.split())


def arrived(topics: tuple[Broker, str, str]) -> list[tuple[bytes | None, bytes | None]]:
    return [(record.key, record.value) for record in topics[0].scan(topics[1])]


def test_an_empty_topic_says_so(topics: tuple[Broker, str, str]) -> None:
    assert "no dead letters" in run("list").output
    assert "nothing is sent" in run("redrive", "--all").output


def test_list_shows_the_newest_and_counts_all_by_reason(topics: tuple[Broker, str, str]) -> None:
    bury(topics, *((i, b"k", b"value %d" % i, "not JSON") for i in range(30)))
    bury(topics, (30, None, BAD, "unknown type 'x'"), (30, None, BAD, "unknown type 'x'"))
    result = run("list", "--limit", "3")
    assert result.exit_code == 0, result.output
    assert "value 29" in result.output
    assert "value 28" in result.output
    assert "value 27" not in result.output
    assert "2022-04-24 15:05:41+00:00" in result.output
    assert "\x1b" not in result.output
    assert "not JSON │ 30" in words(result)
    assert "unknown type 'x' │ 1" in words(result)
    assert "all │ 31" in words(result)


def test_list_keeps_to_a_reason(topics: tuple[Broker, str, str]) -> None:
    bury(topics, (0, b"k", b"a", "not JSON: line 1"), (1, b"k", b"b", "event_time: too far"))
    result = run("list", "--reason", "NOT json")
    assert "all │ 1" in words(result)
    assert "event_time" not in result.output
    assert "with 'elsewhere'" in run("list", "--reason", "elsewhere").output


def test_redrive_sends_the_very_bytes_and_keys_back(topics: tuple[Broker, str, str]) -> None:
    bury(topics, (0, b"k1", BAD, "not JSON"), (1, None, b"", "empty"), (0, b"k1", BAD, "not JSON"))
    result = run("redrive", "--all")
    assert result.exit_code == 0, result.output
    assert f"2 records sent back to topic {topics[1]}" in words(result)
    assert arrived(topics) == [(b"k1", BAD), (None, b"")]


def test_redrive_keeps_to_a_reason(topics: tuple[Broker, str, str]) -> None:
    bury(topics, (0, b"k1", b"a", "not JSON"), (1, b"k2", b"b", "too far"))
    run("redrive", "--reason", "too far")
    assert arrived(topics) == [(b"k2", b"b")]


def test_a_dry_run_sends_nothing(topics: tuple[Broker, str, str]) -> None:
    bury(topics, (0, b"k1", b"a", "not JSON"))
    assert "1 records would be sent back" in words(run("redrive", "--all", "--dry-run"))
    assert arrived(topics) == []


@pytest.mark.parametrize("arguments", [[], ["--all", "--reason", "x"]])
def test_redrive_wants_to_be_told_which(arguments: list[str]) -> None:
    result = run("redrive", *arguments)
    assert result.exit_code == 1
    assert "either --reason TEXT or --all" in " ".join(result.stderr.split())


def test_what_is_refused_again_is_not_sent_again_and_again(topics: tuple[Broker, str, str]) -> None:
    broker, events, letters = topics
    bury(topics, *((i, b"k", b"bad", "still bad") for i in range(20)))

    class RouteAtOnce:
        """A sink behind which everything is refused again at once, as new dead letters."""

        sent = 0

        def send(self, outgoing: Outgoing) -> None:
            self.sent += 1
            bury(topics, (1000 + self.sent, outgoing.key, outgoing.value, "still bad"))

        def flush(self) -> None:
            """Nothing is queued."""

        def close(self) -> None:
            """Nothing to close."""

    sink = RouteAtOnce()
    found = commands.send_back(
        lambda: distinct(map(read_dead_letter, broker.scan(letters))), "still", sink
    )
    assert found == {events: 20}
    assert sink.sent == 20


# The client that could not bootstrap leaves its sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_without_a_broker_it_says_what_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_KAFKA", "127.0.0.1:1")
    result = run("list")
    gc.collect()
    assert result.exit_code == 1
    assert "127.0.0.1:1 cannot be used" in " ".join(result.stderr.split())
