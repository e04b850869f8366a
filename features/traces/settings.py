"""Whether traces are recorded: the settings that every process shares."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from features.errors import Refused
from features.traces import NO_TRACES, Traces


class TraceSettings(BaseSettings):
    """Where spans are sent, and how many."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", frozen=True, extra="ignore")

    otel_endpoint: str | None = None
    """OTLP over HTTP, `http://collector:4318/v1/traces`; none: no traces."""
    otel_sample: float = Field(0.01, ge=0, le=1)
    """Share of traces that begin here and are recorded; those that began elsewhere decide alone."""


def open_traces(settings: TraceSettings, process: str) -> Traces:
    """The traces of a process. Raises Refused when they are wanted and cannot be made."""
    if settings.otel_endpoint is None:
        return NO_TRACES
    try:
        from features.traces.otel import OtelTraces, exporter
    except ImportError as error:
        raise Refused(
            f"HEADRACE_OTEL_ENDPOINT is set, and OpenTelemetry is not installed ({error}): "
            "pip install 'headrace[otel]'"
        ) from error
    return OtelTraces(exporter(settings.otel_endpoint), process, settings.otel_sample)
