"""Settings of the streaming processes, read once from the environment (prefix HEADRACE_)."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from features.kafka_security import KafkaSecuritySettings
from features.log_settings import LogSettings
from features.port_security import PortSecuritySettings
from features.redis_rows import Durability
from features.redis_security import RedisSettings
from features.traces.settings import TraceSettings


class StreamingSettings(
    PortSecuritySettings, KafkaSecuritySettings, RedisSettings, LogSettings, TraceSettings
):
    """Everything `route`, `aggregate` and `archive` can be told."""

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    kafka: str = "127.0.0.1:9092"
    repo: Path = Path("feature_repo")
    events_topic: str | None = None
    """Default: the topic the feature repository names."""
    updates_topic: str = "updates"
    dead_letters_topic: str = "dead-letters"
    events_partitions: int = Field(4, ge=1, le=4096)
    updates_partitions: int = Field(4, ge=1, le=4096)
    replication_factor: int = Field(1, ge=1)
    durability: Durability = "aof"
    dedup_horizon_offsets: int = Field(100_000, ge=0)
    max_ahead_ms: int = Field(300_000, ge=0)
    late_after_ms: int = Field(3_600_000, ge=0)
    """How far behind the newest event of its partition an event counts as late, in metrics."""
    poll_timeout_ms: int = Field(50, ge=1)
    fetch_wait_ms: int = Field(100, ge=1)
    """How long the broker may hold a fetch for which there is nothing yet. Apache Kafka answers as
    soon as there is; one that holds it to the end, as the embedded one does, wants little."""
    checkpoint_interval_ms: int = Field(1_000, ge=10)
    plan_refresh_ms: int = Field(2_000, ge=100)
    cached_rows_max: int = Field(200_000, ge=1_000)
    archive_state: Path = Path(".headrace/archive-state")
    """Folder of the archiver's own rows; what is lost there is made again from the archive."""
    archive_span_blocks: int = Field(1_000, ge=1)
    """A row gets at most one version within so many offsets of `updates`."""
    archive_span_ms: int = Field(600_000, ge=1)
    """And one at least in such a time by the log, if it changed."""
    rankings_topic: str = "rankings"
    archive_log_records: int = Field(50_000, ge=1)
    """A file of an archived log ends at the latest where the offset is a multiple of this."""
    archive_log_ms: int = Field(60_000, ge=1)
    """And where append time passes a multiple of this; past hours are joined into larger files."""
    metrics_port: int = Field(0, ge=0)
    """HTTP port of /metrics and /healthz; 0 is off."""
