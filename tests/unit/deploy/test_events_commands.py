"""The commands about events: schema, check, adapt and send."""

import gzip
import json
from pathlib import Path

import pytest
import typer
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner, Result

from deploy import uncounted
from deploy.commands import events as commands
from features.errors import BadInput
from features.events import dump_event, parse_events, record_key
from streaming.event_file import read_events, write_events
from streaming.records import Outgoing
from tests.records import good_events

GOOD = good_events(seed=5, n=2500)


@pytest.fixture(autouse=True)
def _no_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nowhere near a feature repository, unless a test names one."""
    monkeypatch.setenv("HEADRACE_REPO", str(tmp_path / "no-repository"))


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.add_typer(commands.app)
    app.command()(commands.adapt)
    app.command()(commands.send)
    return CliRunner().invoke(app, list(arguments))


def bad_input(result: Result) -> str:
    assert isinstance(result.exception, BadInput), result.output
    return str(result.exception)


class ListSink:
    """Records sent, and how many of them each flush found."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, bytes]] = []
        self.flushed: list[int] = []

    def send(self, outgoing: Outgoing) -> None:
        assert outgoing.key is not None
        self.sent.append((outgoing.topic, outgoing.key, outgoing.value))

    def flush(self) -> None:
        self.flushed.append(len(self.sent))

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    write_events(path, GOOD)
    return path


def test_schema_prints_json() -> None:
    result = run("events", "schema")
    assert result.exit_code == 0
    assert "discriminator" in json.loads(result.stdout)


@pytest.mark.parametrize("name", ["events.jsonl", "events.jsonl.gz"])
def test_check_counts_a_good_file(tmp_path: Path, name: str) -> None:
    write_events(tmp_path / name, GOOD)
    result = run("events", "check", str(tmp_path / name))
    assert result.exit_code == 0, result.output
    assert "2,500 good events, 0 bad lines" in result.output
    assert "impression" in result.output


def test_check_names_the_first_bad_lines_and_exits_with_1(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = b"\n"  # a blank line is no record
    lines[2] = b'{"type":"user"}\n'
    lines[1999] = b"[1,2\n"
    lines[2000] = b"y" * 3_000_000 + b"\n"
    lines[2001] = b"{}\n"
    file.write_bytes(b"".join(lines))
    result = run("events", "check", str(file), "--errors", "3")
    assert result.exit_code == 1
    assert "line 3: event_id: Field required" in result.output
    assert "line 2000: not JSON: " in result.output
    assert "line 2001: record of " in result.output
    assert "line 2002" not in result.output
    assert "and 1 more bad lines" in result.output
    assert "2,495 good events, 4 bad lines" in result.output


def test_check_of_an_empty_file_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_bytes(b"")
    assert run("events", "check", str(tmp_path / "none.jsonl")).exit_code == 1


def test_check_says_what_is_wrong_with_a_file(tmp_path: Path, file: Path) -> None:
    assert "no file" in bad_input(run("events", "check", str(tmp_path / "missing")))
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(file.read_bytes())[:-2000])
    assert "cut.gz cannot be read after line" in bad_input(run("events", "check", str(cut)))


def test_read_events_stops_at_a_bad_line_and_says_which(file: Path) -> None:
    assert list(read_events(file)) == GOOD
    file.write_bytes(file.read_bytes() + b"oops\n")
    with pytest.raises(BadInput, match=r"line 2501: not JSON: .*headrace events check"):
        list(read_events(file))


def test_a_gzipped_file_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    write_events(tmp_path / "a.gz", GOOD)
    write_events(tmp_path / "b.gz", GOOD)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_adapt_writes_a_file_that_checks(tmp_path: Path) -> None:
    folder = tmp_path / "ml"
    movielens(folder)
    output = tmp_path / "out" / "events.jsonl.gz"
    result = run("adapt", "movielens", str(folder), "-o", str(output), "--limit", "3")
    assert result.exit_code == 0, result.output
    assert "3 events written" in result.output
    assert [event.type for event in read_events(output)] == ["item", "user", "impression"]
    assert [path.name for path in output.parent.iterdir()] == ["events.jsonl.gz"]


def test_adapt_leaves_no_half_file_behind(tmp_path: Path) -> None:
    folder = tmp_path / "ml"
    movielens(folder, user_id="x" * 300)
    output = tmp_path / "events.jsonl"
    output.write_bytes(b"kept\n")
    message = bad_input(run("adapt", "movielens", str(folder), "-o", str(output)))
    assert "holds what is no event" in message
    assert output.read_bytes() == b"kept\n"
    assert {path.name for path in tmp_path.iterdir()} == {"ml", "events.jsonl"}


def test_adapt_says_which_adapters_there_are(tmp_path: Path) -> None:
    output = str(tmp_path / "o")
    message = bad_input(run("adapt", "netflix", str(tmp_path), "-o", output))
    assert "kuairand, movielens, ranklens" in message
    message = bad_input(run("adapt", "kuairand", str(tmp_path), "-o", output, "--fetch"))
    assert "only movielens" in message


OWN_ADAPTER = """
from features.events import UserEvent

def events(folder):
    yield UserEvent(event_id="u", event_time=1, user_id=folder.name)
"""


def test_adapt_takes_an_adapter_from_a_file(tmp_path: Path) -> None:
    adapter, output = tmp_path / "mine.py", tmp_path / "out.jsonl"
    adapter.write_text(OWN_ADAPTER)
    result = run("adapt", str(adapter), str(tmp_path), "-o", str(output))
    assert result.exit_code == 0, result.output
    assert [event.event_id for event in read_events(output)] == ["u"]


def test_adapt_says_what_an_adapter_file_lacks(tmp_path: Path) -> None:
    adapter = tmp_path / "mine.py"
    missing = run("adapt", str(adapter), str(tmp_path), "-o", str(tmp_path / "out.jsonl"))
    assert bad_input(missing) == f"no file {adapter}"
    adapter.write_text("def event(folder): ...\n")
    wrong = run("adapt", str(adapter), str(tmp_path), "-o", str(tmp_path / "out.jsonl"))
    assert bad_input(wrong) == f"{adapter} has no function `events(folder)`"


ACTING_ADAPTER = """
from features.events import EngagementEvent

def events(folder):
    for number, action in enumerate(["tap", "click", "zap", "tap", "tap", "unmute"]):
        yield EngagementEvent(event_id=str(number), event_time=number, user_id="u", item_id="i",
                              action=action)
"""


@pytest.fixture
def acting(tmp_path: Path) -> list[str]:
    """How an adapter is called that makes actions of which not all are counted."""
    adapter = tmp_path / "mine.py"
    adapter.write_text(ACTING_ADAPTER)
    return ["adapt", str(adapter), str(tmp_path), "-o", str(tmp_path / "out.jsonl")]


def test_adapt_counts_the_actions_that_no_feature_definition_counts_and_says_how_to_mend_it(
    acting: list[str], applied_repo: Path
) -> None:
    result = run(*acting, "--repo", str(applied_repo))
    assert result.exit_code == 0, result.output
    assert "uncounted actions: tap 3, zap 1\n" in result.output
    assert "counts them: 4 of 6 actions become no feature" in result.output
    stored = (applied_repo / "stored.py").read_text().splitlines()
    (line,) = (n for n, text in enumerate(stored, 1) if "counters(" in text)
    named = f"add the names to counters(*SEEN, *ACTIONS) ({applied_repo}/stored.py:{line})"
    assert named in result.output
    assert f"`feast -c {applied_repo} apply`" in result.output
    assert f"let {acting[1]} give them" in result.output
    counted = result.output.rpartition("is counted: ")[2].split("\n")[0].split(", ")
    assert {"click", "impression", "unmute"} < set(counted)


def test_adapt_says_nothing_of_actions_that_are_all_counted(
    acting: list[str], applied_repo: Path
) -> None:
    adapter = Path(acting[1])
    adapter.write_text(ACTING_ADAPTER.replace("tap", "like").replace("zap", "share"))
    result = run(*acting, "--repo", str(applied_repo))
    assert result.exit_code == 0, result.output
    assert "actions: like 3, " in result.output
    assert "uncounted" not in result.output


def test_adapt_says_so_where_there_are_no_definitions_to_compare_with(
    acting: list[str], tmp_path: Path
) -> None:
    result = run(*acting, "--repo", str(tmp_path / "none"))
    assert result.exit_code == 0, result.output
    assert "uncounted actions: not known" in result.output
    assert f"no feature_store.yaml at {tmp_path}/none" in result.output


def test_calls_that_count_are_found_in_any_file_of_a_repository(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("counters(")
    (tmp_path / "views.py").write_text("import d\n\nmade = [d.counters('tap', rings=R)]\n")
    (tmp_path / "other.py").write_text("from d import counters\nprint('counters(')\n")
    found = list(uncounted.counting_calls(tmp_path))
    assert found == [f"d.counters('tap', rings=R) ({tmp_path}/views.py:3)"]


def test_adapt_help_says_how_to_write_an_adapter() -> None:
    result = run("adapt", "--help")
    assert "events(folder: Path)" in " ".join(result.output.split())


def test_send_keys_each_record_and_waits_for_every_acknowledgement(file: Path) -> None:
    sink = ListSink()
    assert commands.send_file(file, sink, "events", quiet()) == len(GOOD)
    assert sink.flushed[-1] == len(GOOD)
    for event, (topic, key, value) in zip(GOOD, sink.sent, strict=True):
        assert (topic, key, value) == ("events", record_key(event), dump_event(event))


def test_send_stops_at_a_bad_line_with_what_is_before_it_acknowledged(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:1500], b"oops\n", *lines[1500:]]))
    sink = ListSink()
    with pytest.raises(BadInput, match="line 1501: not JSON"):
        commands.send_file(file, sink, "events", quiet())
    assert sink.flushed == [1500]
    assert parse_events([value for _, _, value in sink.sent]) == GOOD[:1500]


def quiet() -> Progress:
    return Progress(console=Console(quiet=True))


def movielens(folder: Path, user_id: str = "1") -> None:
    folder.mkdir()
    files = {
        "inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        f"{user_id}\t1\t5\t9\n",
        "item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tToy Story\t1995\tAnimation\n",
        "user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        "1\t24\tM\ttechnician\t85711\n",
    }
    for part, text in files.items():
        (folder / f"ml-100k.{part}").write_text(text)
