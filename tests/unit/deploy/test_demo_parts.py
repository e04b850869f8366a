"""The parts of the demo: where a recording is cut, what is folded, and the picture."""

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from rich.console import Console

from deploy.demo.picture import draw
from deploy.demo.recording import HOUR_MS, find_recording
from deploy.demo.stream import BATCH, Stream
from deploy.ports import free_port
from deploy.processes import Child
from deploy.stack_file import Stack
from features.errors import Unavailable
from features.events import ImpressionEvent
from streaming.metrics import Observer
from streaming.records import Outgoing
from tests.browsing import browsing

RATINGS = 500
HEADERS = {
    "inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float",
    "item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
    "user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
}


def test_without_kuairand_movielens_is_played_and_cut_at_a_whole_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratings = [f"{n % 20}\t{n % 40}\t{1 + n % 5}\t{880_000_000 + 600 * n}" for n in range(RATINGS)]
    lines = {
        "inter": ratings,
        "item": [f"{n}\tFilm\t1995\tDrama" for n in range(40)],
        "user": [f"{n}\t30\tF\twriter\t0" for n in range(20)],
    }
    (tmp_path / "cache" / "movielens").mkdir(parents=True)
    for part, rest in lines.items():
        text = "\n".join([HEADERS[part], *rest])
        (tmp_path / "cache" / "movielens" / f"ml-100k.{part}").write_text(text)
    monkeypatch.chdir(tmp_path)
    said: list[str] = []

    recording = find_recording(tmp_path / "cache", said.append)

    assert (recording.title, recording.label) == ("MovieLens-100K", "like")
    assert "MovieLens-100K" in said[0]
    times = [e.event_time for e in recording.events if isinstance(e, ImpressionEvent)]
    assert len(times) == RATINGS
    assert recording.cut_ms % HOUR_MS == 0
    earlier = sum(time < recording.cut_ms for time in times) / len(times)
    assert 0.78 < earlier <= 0.8
    assert [e.event_time for e in recording.events] == sorted(
        e.event_time for e in recording.events
    )


class Sink:
    """A record sink that lets a worker count what it flushed."""

    def __init__(self, workers: "Workers") -> None:
        self.sent: list[Outgoing] = []
        self._workers, self._flushed = workers, 0

    def send(self, record: Outgoing) -> None:
        self.sent.append(record)

    def flush(self) -> None:
        counts = {"updates": self._workers.updates, "accepted": len(self.sent) - self._flushed}
        self._workers.route.add(Counter(counts))
        self._flushed = len(self.sent)

    def close(self) -> None:
        """Nothing to close."""


class Workers:
    """The metrics of route and aggregate, as they say them, on ports of their own."""

    def __init__(self) -> None:
        self.updates = 0
        """How many updates route makes of what is flushed."""
        self.route, self.aggregate = Observer("route"), Observer("aggregate")
        self.servers = {"route": _served(self.route), "aggregate": _served(self.aggregate)}

    def stack(self) -> Stack:
        ports = {name: server.server_port for name, server in self.servers.items()}
        children = {name: Child(name, 1, 0.0, port, "") for name, port in ports.items()}
        return Stack(Path(), Path(), None, children)


def _served(observer: Observer) -> ThreadingHTTPServer:
    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(generate_latest(observer.registry))

        def log_message(self, *_: object) -> None:
            """Nobody reads along."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


@pytest.fixture
def workers() -> Iterator[Workers]:
    found = Workers()
    yield found
    for server in found.servers.values():
        server.shutdown()
        server.server_close()


def test_events_count_as_folded_once_route_and_aggregate_are_done(workers: Workers) -> None:
    sink = Sink(workers)
    stream = Stream(workers.stack(), sink, "events")
    events = browsing(10)
    workers.updates = 100
    stream.send(events)
    assert [record.topic for record in sink.sent] == ["events"] * len(events)
    assert stream.folded() == 0
    workers.aggregate.add(Counter({"folded_updates": 40, "skipped_updates": 10}))
    assert stream.folded() == len(events) // 2
    workers.aggregate.add(Counter({"repeated_updates": 49}))
    assert stream.folded() < len(events)
    workers.aggregate.add(Counter({"folded_updates": 1}))
    assert stream.folded() == len(events)
    stream.wait()


def test_dead_and_repeated_events_are_not_waited_for(workers: Workers) -> None:
    stream = Stream(workers.stack(), Sink(workers), "events")
    stream.send(browsing(1))
    workers.route.add(Counter({"dead": 2, "repeated": 3, "updates": 5}))
    workers.aggregate.add(Counter({"folded_updates": 5}))
    stream.wait()


def test_playing_shows_both_bars_to_the_end(workers: Workers) -> None:
    printed = Console(file=StringIO(), width=120, force_terminal=False)
    sink = Sink(workers)
    events = browsing(1, items=BATCH)
    seconds = Stream(workers.stack(), sink, "events").play(events, printed)
    assert len(sink.sent) == len(events) > BATCH
    assert seconds > 0
    assert isinstance(printed.file, StringIO)
    assert printed.file.getvalue().count(f"{len(events)}/{len(events)}") == 2


def test_a_worker_that_is_gone_is_named(workers: Workers) -> None:
    stack = workers.stack()
    stack.children["route"] = Child("route", 1, 0.0, free_port(), "")
    with pytest.raises(Unavailable, match="route does not answer"):
        Stream(stack, Sink(workers), "events").folded()


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    path = tmp_path / "demo.png"
    quality = {"Headrace": (0.73, 0.61), "newest first": (0.52, 0.5)}
    draw(path, "KuaiRand", quality, ["a", "b", "c"], ["c", "a", "new"], "c", 115.0)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) > 10_000
