"""A trace, from who sent an event to the row it changes, and from a caller to its feed."""

import contextlib
import http.server
import random
import sys
import threading
from collections.abc import Iterator, Sequence

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from deploy.ports import HOST
from features.errors import Refused
from features.events import dump_event
from features.row_store import MemoryRows
from features.traces import HEADER, NO_TRACES, PARENTS_MAX, sampled
from features.traces.otel import OtelTraces
from features.traces.settings import TraceSettings, open_traces
from ranker.admission import Admission
from ranker.api import make_app
from ranker.client import NO_RETRIES, Client, RankRequest
from ranker.front_desk import FrontDesk
from streaming.aggregate_worker import AggregateWorker
from streaming.metrics import Observer
from streaming.records import Outgoing, Record
from streaming.route_worker import RouteWorker
from streaming.store_link import Opened
from tests.browsing import browsing
from tests.chaos.history import PLAN
from tests.chaos.simulated_kafka import Group, SimulatedSource, Topic
from tests.chaos.simulation import FixedPlan
from tests.pipeline import SETTINGS, final_rows, unmarked
from tests.records import good_events
from tests.serving import Serving, folded
from tests.unit.ranker.test_rpc import Faces

EVENTS = good_events(3, 60)
SENDER = f"00-{'ab' * 16}-{'cd' * 8}-01"
UNRECORDED = f"00-{'ef' * 16}-{'cd' * 8}-00"


class Recorded:
    """Traces that are kept, all of those that others began and none of our own."""

    def __init__(self, process: str, sample: float = 0.0) -> None:
        self._kept = InMemorySpanExporter()
        self.traces = OtelTraces(self._kept, process, sample)

    def spans(self) -> Sequence[ReadableSpan]:
        self.traces.close()
        return self._kept.get_finished_spans()


class Sink:
    """Passes records on with their headers."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic

    def send(self, outgoing: Outgoing) -> None:
        if outgoing.partition is not None:
            log = self._topic.logs[outgoing.partition]
            record = Record(outgoing.partition, len(log), None, outgoing.value, 0, outgoing.headers)
            log.append(record)
            self._topic.shown[outgoing.partition] = len(log)

    def flush(self) -> None: ...

    def close(self) -> None: ...


def _source(topic: Topic) -> SimulatedSource:
    group = Group(topic, dict.fromkeys(range(len(topic.logs)), "one"))
    return SimulatedSource(group, "one", random.Random(1), lambda _: None, lambda: 0.0)


def _streamed(header: str, route: Recorded, aggregate: Recorded) -> MemoryRows:
    """Events of which the first bears a header, routed and folded."""
    events, updates, store = Topic.empty(1), Topic.empty(SETTINGS.targets), MemoryRows()
    for event in EVENTS:
        events.append(0, dump_event(event))
    late = [r._replace(append_time=9 * 10**12) for r in events.logs[0]]
    events.logs[0] = [late[0]._replace(headers=((HEADER, header.encode()),)), *late[1:]]
    routing = RouteWorker(
        source := _source(events),
        Sink(updates),
        lambda: Opened(store, 1),
        FixedPlan(),
        SETTINGS,
        Observer("route"),
        60_000,
        traces=route.traces,
    )
    source.subscribe(routing)
    for _ in range(60):
        routing.turn(0)
    folding = AggregateWorker(
        source := _source(updates),
        lambda: Opened(store, 1),
        PLAN,
        Observer("aggregate"),
        100,
        traces=aggregate.traces,
    )
    source.subscribe(folding)
    for _ in range(100):
        folding.turn(0)
    return store


def test_a_trace_goes_from_an_event_through_its_blocks_to_the_fold() -> None:
    route, aggregate = Recorded("route"), Recorded("aggregate")
    store = _streamed(SENDER, route, aggregate)
    assert unmarked(store.rows) == final_rows(EVENTS, PLAN)
    (routed,) = route.spans()
    folded = aggregate.spans()
    assert folded
    assert routed.parent is not None
    assert f"{routed.parent.span_id:016x}" == "cd" * 8
    assert routed.context is not None
    for span in folded:
        assert span.parent is not None
        assert span.parent.span_id == routed.context.span_id
        assert f"{span.parent.trace_id:032x}" == "ab" * 16
    assert routed.attributes is not None
    assert routed.attributes["accepted"] == routed.attributes["records"]


@pytest.mark.parametrize("header", [UNRECORDED, "nonsense", SENDER[:-1], "00-x-y-01"])
def test_what_belongs_to_no_recorded_trace_is_not_recorded(header: str) -> None:
    route, aggregate = Recorded("route"), Recorded("aggregate")
    store = _streamed(header, route, aggregate)
    assert unmarked(store.rows) == final_rows(EVENTS, PLAN)
    assert not route.spans()
    assert not aggregate.spans()


def test_a_span_has_a_bounded_number_of_parents() -> None:
    headers = [((HEADER, f"00-{n:032x}-{'cd' * 8}-01".encode()),) for n in range(1, 1000)]
    assert len(list(sampled(headers))) == PARENTS_MAX
    recorded = Recorded("route")
    with recorded.traces.span("route", sampled(headers)) as span:
        assert span.header() is not None
    (one,) = recorded.spans()
    assert len(one.links) == PARENTS_MAX - 1


@pytest.fixture
def traced() -> Iterator[tuple[Faces, Recorded]]:
    """Both faces of a ranker without a model; its requests are recorded if their callers' are."""
    serving = Serving(folded(browsing(50)))
    recorded = Recorded("ranker")
    serving.desk = FrontDesk(
        serving.pipeline.rank, serving.observer, Admission(4, 1000), 300_000, recorded.traces
    )
    made = Faces(serving)
    try:
        yield made, recorded
    finally:
        made.close()


def test_a_request_belongs_to_the_trace_of_its_caller_over_both_faces(
    traced: tuple[Faces, Recorded],
) -> None:
    faces, recorded = traced
    caller = Recorded("feed", sample=1.0)
    with Client(faces.address, timeout_s=60, retries=NO_RETRIES) as client:
        client.rank(RankRequest(user_id="mia"))  # of no trace
        with caller.traces.span("page"):
            client.rank(RankRequest(user_id="mia"))

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(make_app(faces.serving))
        async with httpx.AsyncClient(transport=transport, base_url="http://ranker") as http:
            return await http.post("/v1/rank", json={"user_id": "mia"}, headers={HEADER: SENDER})

    assert faces.do(post()).status_code == 200
    (page,) = caller.spans()
    over_grpc, over_http = recorded.spans()
    assert page.context is not None
    assert over_grpc.parent is not None
    assert over_grpc.parent.span_id == page.context.span_id
    assert over_http.parent is not None
    assert f"{over_http.parent.trace_id:032x}" == "ab" * 16
    assert over_http.attributes is not None
    assert "items" in over_http.attributes


def test_spans_arrive_at_a_collector() -> None:
    came: list[bytes] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = http.server.HTTPServer((HOST, 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    endpoint = f"http://{HOST}:{server.server_port}/v1/traces"
    traces = open_traces(TraceSettings(otel_endpoint=endpoint, otel_sample=1.0), "route")
    with traces.span("route"), contextlib.suppress(ValueError):
        traces.note(records=3)
        raise ValueError
    traces.close()
    server.shutdown()
    server.server_close()
    thread.join()
    assert b"headrace-route" in b"".join(came)


def test_traces_are_off_without_an_endpoint() -> None:
    assert open_traces(TraceSettings(), "route") is NO_TRACES
    with NO_TRACES.span("route") as span:
        assert span.header() is None


def test_an_extra_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "features.traces.otel", None)
    with pytest.raises(Refused, match=r"headrace\[otel\]"):
        open_traces(TraceSettings(otel_endpoint="http://collector:4318"), "route")
