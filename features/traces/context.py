"""The trace of whoever calls us, as OpenTelemetry's API has it: no more is asked of a caller."""

from opentelemetry import trace

from features.traces import HEADER


def header_of(span: trace.Span) -> str:
    """What hands a span on."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def current() -> tuple[tuple[str, str], ...]:
    """The header of the span that is open here, for a call to another process; () without one."""
    span = trace.get_current_span()
    return ((HEADER, header_of(span)),) if span.get_span_context().is_valid else ()
