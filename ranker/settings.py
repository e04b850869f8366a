"""Settings of the ranker, read once from the environment (prefix HEADRACE_)."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from features.kafka_security import KafkaSecuritySettings
from features.log_settings import LogSettings
from features.port_security import PortSecuritySettings
from features.redis_security import RedisSettings
from features.traces.settings import TraceSettings
from ranker.stages.neighbours import EXACT_MAX


class RankerSettings(
    PortSecuritySettings, KafkaSecuritySettings, RedisSettings, LogSettings, TraceSettings
):
    """Everything the ranker can be told."""

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_",
        frozen=True,
        extra="ignore",
        protected_namespaces=(),
        hide_input_in_errors=True,
    )

    kafka: str = "127.0.0.1:9092"
    """Where the serving log goes; empty turns it off."""
    rankings_topic: str = "rankings"
    log_candidates_share: float = Field(0.05, ge=0, le=1)
    """Of how many requests the log keeps all candidates, and not only what was shown."""
    repo: Path = Path("feature_repo")
    feature_service: str = "home_feed"
    model: Path | None = None
    """Model folder; without one the feed is ranked by popularity and says so."""
    value_weights: Path | None = None
    """YAML of head weights per surface; default: `value.yaml` of the feature repository."""
    http_host: str = "127.0.0.1"
    http_port: int = Field(8080, ge=1, le=65535)
    grpc_port: int = Field(8081, ge=0, le=65535)
    """On the host that HTTP listens on; 0 turns gRPC off."""
    rank_tokens: SecretStr | None = None
    """Bearer tokens that may rank, comma-separated so that one can follow another; none: open."""
    share_ports: bool = False
    """Other rankers on this machine listen on the same ports; the kernel shares connections out."""
    requests_running_max: int = Field(4, ge=1)
    queue_wait_ms_max: int = Field(50, ge=1)
    """How long a request may wait for its turn; who would wait longer is turned away."""
    stop_notice_ms: int = Field(500, ge=0)
    """How long requests are still taken after readiness has flipped, so that none comes later."""
    stop_drain_ms: int = Field(10_000, ge=0)
    """How long those that were taken may take."""
    feed_rules: Path | None = None
    """YAML of feed rules per surface; default: `feed.yaml` of the feature repository."""
    files_refresh_ms: int = Field(2_000, ge=100)
    """How often the weights and the rules are looked at; a change takes effect then."""
    deadline_ms: int = Field(250, ge=10, le=10_000)
    """For requests that name none; the budgets of the stages are made for it."""
    rank_threads: int = Field(4, ge=1, le=64)
    user_read_timeout_ms: int = Field(50, ge=1)
    """What the user's row may take of `deadline_ms`; less in proportion when that is shorter."""
    popular_refresh_ms: int = Field(10_000, ge=100)
    """How often the last resort is made anew."""
    item_staleness_ms: int = Field(250, ge=1)
    items_max: int = Field(1_000_000, ge=1_000, le=100_000_000)
    """Rows held of each entity but the user; who was neither asked for nor changed for longest
    makes way."""
    read_through_max: int = Field(100, ge=1, le=10_000)
    """Candidates of one request that may be read because the table does not hold them."""
    read_through_ms: int = Field(20, ge=1)
    neighbours_exact_max: int = Field(EXACT_MAX, ge=0)
    """Items up to which every product is computed; more need usearch."""
    explore_max: int = Field(5, ge=0, le=100)
    """Fresh items that exploration draws for a request; 0 turns it off."""
    explore_age_s: int = Field(172_800, ge=1)
    explore_impressions_max: int = Field(100, ge=0)
    """Which items are fresh: created so lately, and shown at most so often."""
    load_timeout_s: float = Field(60.0, gt=0)
    sourced_max: int = Field(500, ge=1)
    """Candidates that each source of our own may bring."""
    plan_refresh_ms: int = Field(2_000, ge=100)
