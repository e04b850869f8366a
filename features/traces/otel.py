"""Traces by OpenTelemetry: recorded, and sent by OTLP."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, SpanContext, TraceFlags

from features.traces import Span
from features.traces.context import header_of
from features.version import VERSION


def exporter(endpoint: str) -> SpanExporter:
    """Sends spans by OTLP over HTTP."""
    return OTLPSpanExporter(endpoint=endpoint, timeout=2)


class OtelTraces:
    """Spans, recorded when their trace is, and sent from a thread of its own."""

    def __init__(self, exports: SpanExporter, process: str, sample: float) -> None:
        resource = Resource.create(
            {"service.name": f"headrace-{process}", "service.version": VERSION}
        )
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample)), resource=resource
        )
        self._provider.add_span_processor(BatchSpanProcessor(exports))
        self._tracer = self._provider.get_tracer("headrace")

    @contextmanager
    def span(self, name: str, parents: Iterable[str] = ()) -> Iterator[Span]:
        """A span below the first of its parents, with links to the others."""
        known = [found for parent in parents if (found := _context(parent)) is not None]
        above = None
        if known:
            above = trace.set_span_in_context(trace.NonRecordingSpan(known[0]))
        links = [Link(context) for context in known[1:]]
        with self._tracer.start_as_current_span(name, context=above, links=links) as span:
            yield _Open(span)

    def note(self, **values: float | str) -> None:
        """Say something of the span that is open here."""
        trace.get_current_span().set_attributes(values)

    def close(self) -> None:
        """Send what was recorded."""
        self._provider.shutdown()


class _Open:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def header(self) -> str | None:
        return header_of(self._span) if self._span.is_recording() else None

    def note(self, **values: float | str) -> None:
        self._span.set_attributes(values)


def _context(header: str) -> SpanContext | None:
    """Who stands in a header; None when it is none."""
    parts = header.split("-")
    try:
        _, trace_id, span_id, flags = parts[:4]
        flag = TraceFlags(int(flags, 16))
        found = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=flag)
    except ValueError:
        return None
    return found if found.is_valid else None
