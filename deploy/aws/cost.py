"""What Headrace costs on AWS: `python -m deploy.aws.cost` writes COST.md.

A model of sizes, not a bill: measured figures of one machine, list prices, and stated assumptions.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from pydantic import BaseModel, ConfigDict

from deploy.aws.alarms import OURS, WATCHED, Level, Share, of_services
from deploy.aws.collector import REPLICAS, SCRAPE_S

HERE: Final = Path(__file__).parent
COST: Final = HERE / "COST.md"
HOURS_A_MONTH: Final = 730
SECONDS_A_MONTH: Final = HOURS_A_MONTH * 3600
GIB: Final = 2**30


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Instance(_Read):
    """An instance type: dollars an hour, cores, memory."""

    dollars: float
    cores: int
    gib: float


class Prices(_Read):
    """`prices.yaml`."""

    as_of: str
    hour: dict[str, Instance]
    eks_hour: float
    nat_hour: float
    spot_share: float
    gib_month: dict[str, float]
    gib_between_zones: float
    cloudwatch: dict[str, float]

    def core_hour(self, instance: str) -> float:
        """Dollars of one core for an hour."""
        return self.hour[instance].dollars / self.hour[instance].cores


class Measured(_Read):
    """`measured.yaml`."""

    events_per_core_second: float
    rank_cpu_ms: float
    event_bytes: float
    update_bytes_per_event: float
    user_row_bytes: float
    item_row_bytes: float
    archive_bytes_per_event: float
    rank_answer_bytes: float
    serving_log_bytes: float
    metric_event_bytes: float


class Assumptions(_Read):
    """How people use a feed, and how much room is kept."""

    active_share: float = 0.2
    """Of all users, on a day."""
    rankings_per_active: float = 15
    events_per_ranking: float = 12
    """An impression event, and what follows it."""
    items_per_user: float = 0.2
    peak_over_mean: float = 2.2
    """KuaiRand's day has 2.1."""
    busy_at_peak: float = 0.6
    """Of the processors."""
    memory_used: float = 0.6
    """Of Redis, at most: the rest is for forks and growth."""
    kafka_days: float = 3
    archive_months: float = 13
    zones: int = 3
    replicas: int = 3
    partitions: int = 24
    """Of `events` and `updates`, whose lag is told."""


@dataclass(frozen=True)
class Size:
    """A deployment: the instance types that it takes."""

    name: str
    users: float
    nodes: str
    brokers: str
    caches: str


SIZES: Final = (
    Size("100 thousand", 1e5, "c7g.large", "kafka.m7g.large", "cache.r7g.large"),
    Size("10 million", 1e7, "c7g.2xlarge", "kafka.m7g.large", "cache.r7g.xlarge"),
    Size("500 million", 5e8, "c7g.4xlarge", "kafka.m7g.2xlarge", "cache.r7g.4xlarge"),
)
BROKER_MIB_S: Final = {"kafka.m7g.large": 20.0, "kafka.m7g.2xlarge": 80.0}
"""What a broker takes in and hands on at half its processors, each; an assumption."""


@dataclass(frozen=True)
class Cost:
    """Dollars a month of one size, by what they pay for, and what is done for them."""

    size: Size
    rankings: float
    events: float
    lines: dict[str, tuple[str, float]]
    serving: float
    """Dollars of the lines that ranking needs; the rest is ingest's."""

    @property
    def total(self) -> float:
        """All of it."""
        return sum(dollars for _, dollars in self.lines.values())

    @property
    def per_thousand_rankings(self) -> float:
        """Rankers' nodes, what CloudWatch is told of them, and their half of what both need."""
        return 1000 * self.serving / self.rankings

    @property
    def per_million_events(self) -> float:
        """All else."""
        return 1e6 * (self.total - self.serving) / self.events


def read_prices() -> Prices:
    """The prices beside this file."""
    return Prices.model_validate(yaml.safe_load((HERE / "prices.yaml").read_text()))


def read_measured() -> Measured:
    """The figures beside this file."""
    return Measured.model_validate(yaml.safe_load((HERE / "measured.yaml").read_text()))


def cost(size: Size, prices: Prices, measured: Measured, given: Assumptions) -> Cost:
    """What a size takes and costs."""
    rankings = size.users * given.active_share * given.rankings_per_active * 365 / 12
    events = rankings * given.events_per_ranking
    peak = given.peak_over_mean / SECONDS_A_MONTH

    def nodes(cores: float) -> int:
        return math.ceil(
            max(given.zones, cores / given.busy_at_peak / prices.hour[size.nodes].cores)
        )

    rank_nodes = nodes(rankings * peak * measured.rank_cpu_ms / 1000)
    stream_nodes = nodes(events * peak / measured.events_per_core_second)
    node_month = prices.hour[size.nodes].dollars * HOURS_A_MONTH
    log_bytes = measured.event_bytes + measured.update_bytes_per_event
    log_bytes += measured.serving_log_bytes / given.events_per_ranking
    written = events * log_bytes / GIB
    broker_mib = written * 1024 * peak * given.replicas / BROKER_MIB_S[size.brokers]
    brokers = given.zones * math.ceil(max(1, broker_mib / given.zones))
    kept = written * given.kafka_days / 30 * given.replicas / given.busy_at_peak
    rows = size.users * (measured.user_row_bytes + given.items_per_user * measured.item_row_bytes)
    cache = prices.hour[size.caches]
    shards = max(1, math.ceil(rows / GIB / (cache.gib * given.memory_used)))
    archived = events * measured.archive_bytes_per_event / GIB * given.archive_months
    # A third of the traffic stays in its zone; blocks and rows cross, and replicas do.
    crossing = written * 2 / 3 * 3 + rankings * measured.rank_answer_bytes / GIB * 2 / 3
    shared = {
        "EKS": ("1 control plane", prices.eks_hour * HOURS_A_MONTH),
        "NAT": (f"{given.zones} gateways", given.zones * prices.nat_hour * HOURS_A_MONTH),
        "Valkey": (
            f"{shards} shards × 2 {size.caches}, {rows / GIB:,.1f} GiB of rows",
            2 * shards * cache.dollars * HOURS_A_MONTH,
        ),
    }
    # Were there a process on every core; each shows so many series of what alarms watch.
    shown = Counter(one.metric.startswith("headrace_rank_") for one in WATCHED)
    cores = prices.hour[size.nodes].cores
    rank_gib = _events_gib(rank_nodes * cores * shown[True], measured)
    stream_gib = _events_gib(stream_nodes * cores * shown[False] + given.partitions, measured)
    serving = rank_nodes * node_month + rank_gib * prices.cloudwatch["log_gib"]
    serving += sum(dollars for _, dollars in shared.values()) / 2
    lines = {
        "Rankers": (f"{rank_nodes} {size.nodes}", rank_nodes * node_month),
        "Workers": (f"{stream_nodes} {size.nodes}", stream_nodes * node_month),
        **shared,
        "Brokers": (
            f"{brokers} {size.brokers}, {kept:,.0f} GiB",
            brokers * prices.hour[size.brokers].dollars * HOURS_A_MONTH
            + kept * prices.gib_month["msk"],
        ),
        "Archive": (f"{archived:,.0f} GiB in S3", archived * prices.gib_month["s3"]),
        "CloudWatch": _cloudwatch(rank_gib + stream_gib, prices, given),
        "Between zones": (f"{crossing:,.0f} GiB", crossing * prices.gib_between_zones),
    }
    return Cost(size, rankings, events, lines, serving)


def _events_gib(series: float, measured: Measured) -> float:
    """Of a month's log of which CloudWatch makes metrics, for so many series of the processes."""
    scrapes = REPLICAS * SECONDS_A_MONTH / SCRAPE_S
    return series * scrapes * measured.metric_event_bytes / GIB


def _cloudwatch(gib: float, prices: Prices, given: Assumptions) -> tuple[str, float]:
    """Metrics, the metrics that alarms watch, and the log that ours are made of."""
    alarms: list[Share | Level] = [*OURS, *of_services("", given.zones, "")]
    watched = sum(len(one.series) for one in alarms)
    price = prices.cloudwatch
    dollars = len(WATCHED) * price["metric_month"] + watched * price["alarm_metric_month"]
    what = f"{len(WATCHED)} metrics, {len(alarms)} alarms on {watched}, {gib:,.1f} GiB of events"
    return what, dollars + gib * price["log_gib"]


HEAD: Final = """# What it costs on AWS

Computed by `python -m deploy.aws.cost` from [measured figures](measured.yaml),
[list prices](prices.yaml) of {as_of} (on demand, eu-central-1) and the assumptions below.
**Not a bill: no account has run this, and the figures are of x86-64, not of Graviton.** Put your
own into the two files and run it again.
"""
SHARES: Final = """
Rankings pay for the rankers' nodes, what CloudWatch is told of them, and half of what both need
(EKS, NAT, Valkey); events pay for the rest. The smallest size is mostly what three zones cost when
idle.
"""
LEFT_OUT: Final = """
Left out: support, taxes, savings plans (some 30 to 50 % less), training and replay (spot, some
{spot} less than on demand), logs, brokers' own detailed metrics, traffic to the internet.
"""
UNITS: Final = (
    *("users", "rankings a month", "events a month"),
    *("$ a month", "$ per 1,000 rankings", "$ per million events"),
)


def report(prices: Prices, measured: Measured, given: Assumptions) -> str:
    """COST.md."""
    costs = [cost(size, prices, measured, given) for size in SIZES]
    parts = [HEAD.format(as_of=prices.as_of), _table(UNITS, [_units(one) for one in costs]), SHARES]
    for one in costs:
        rows = [(name, what, f"{dollars:,.0f}") for name, (what, dollars) in one.lines.items()]
        parts += [f"\n## {one.size.name} users\n", _table(("for", "what", "$ a month"), rows)]
    assumed = [(name.replace("_", " "), f"{value:g}") for name, value in given]
    parts += ["\n## Assumptions\n", _table(("what", "value"), assumed)]
    return "\n".join([*parts, LEFT_OUT.format(spot=f"{1 - prices.spot_share:.0%}").lstrip("\n")])


def _units(one: Cost) -> tuple[str, ...]:
    millions = [f"{number / 1e6:,.0f} million" for number in (one.rankings, one.events)]
    prices = [f"{one.per_thousand_rankings:.4f}", f"{one.per_million_events:.3f}"]
    return (one.size.name, *millions, f"{one.total:,.0f}", *prices)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace(" --- ", "---") + "\n"


if __name__ == "__main__":
    COST.write_text(report(read_prices(), read_measured(), Assumptions()))
    print(COST)
