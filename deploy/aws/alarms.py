"""Alarms of CloudWatch, declared once: the stack makes them, the collector sends what they watch.

Nothing here is an estimate of a quantile. CloudWatch knows no buckets of Prometheus, and the
largest of several processes' percentiles is not the percentile of their requests: so the ranker's
latency is a share as well, of slow feeds among all, which sums over processes exactly.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

NAMESPACE: Final = "Headrace"
MSK: Final = "AWS/Kafka"
ELASTICACHE: Final = "AWS/ElastiCache"
CLUSTER: Final = "ClusterName"
"""The dimension that every metric of ours has."""
EVENTS_BEHIND: Final = 50_000
"""Of one partition: some 3 s of what a core routes."""
BLOCKS_BEHIND: Final = 500
"""Of one partition; a block holds up to some thousands of updates."""


@dataclass(frozen=True)
class Series:
    """A metric of CloudWatch: all series of the processes with this name and these labels.

    Its dimensions are the labels, and for ours CLUSTER.
    """

    metric: str
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Share:
    """Rings when, minute after minute, too many of the events in `every` are among `bad`."""

    name: str
    bad: tuple[Series, ...]
    every: tuple[Series, ...]
    above: float
    minutes: int
    silence_rings: bool = False
    """Whether no word is as bad as a bad one."""

    @property
    def series(self) -> dict[str, Series]:
        """What it counts, by the names in `expression`."""
        return {f"m{n}": one for n, one in enumerate(_distinct((*self.bad, *self.every)))}

    @property
    def expression(self) -> str:
        """The share, in CloudWatch's metric math; a minute without events has none that are bad.

        A counter that is not sent leaves no value, which `silence_rings` is for: so nothing is
        filled in.
        """
        names = {one: name for name, one in self.series.items()}
        bad, every = (" + ".join(names[one] for one in part) for part in (self.bad, self.every))
        return f"({bad}) / IF(({every}) > 0, {every}, 1)"


@dataclass(frozen=True)
class Level:
    """Rings when, minute after minute, the largest value of any process is too large."""

    name: str
    of: Series
    above: float
    minutes: int
    namespace: str = NAMESPACE

    @property
    def series(self) -> dict[str, Series]:
        """What it watches."""
        return {"m0": self.of}


def _distinct(series: Iterable[Series]) -> tuple[Series, ...]:
    return tuple(dict.fromkeys(series))


def _requests(*outcomes: str) -> tuple[Series, ...]:
    return tuple(Series("headrace_rank_requests_total", (("outcome", o),)) for o in outcomes)


def _answers(*whole: str) -> tuple[Series, ...]:
    return tuple(Series("headrace_rank_answers_total", (("whole", w),)) for w in whole)


def _routed(*kinds: str) -> tuple[Series, ...]:
    labels = [(("kind", kind), ("process", "route")) for kind in kinds]
    return tuple(Series("headrace_events_total", one) for one in labels)


def _lag(process: str) -> Series:
    return Series("headrace_lag_records", (("process", process),))


FEEDS: Final = _answers("yes", "no")

RANKER: Final[tuple[Share, ...]] = (
    # The 99th percentile of all rankers' feeds is above the limit of `headrace_rank_slow_total`.
    Share("RankerSlow", (Series("headrace_rank_slow_total"),), FEEDS, 0.01, 3, silence_rings=True),
    Share(
        "RankerFails",
        _requests("failed", "late", "overloaded"),
        _requests("ok", "failed", "late", "overloaded"),
        0.01,
        2,
        silence_rings=True,
    ),
    Share("RankerDegraded", _answers("no"), FEEDS, 0.05, 5, silence_rings=True),
)
"""What users would notice first: they stop an experiment."""

STREAM: Final[tuple[Share | Level, ...]] = (
    Share("DeadLetters", _routed("dead"), _routed("accepted", "repeated", "dead"), 0.01, 10),
    Level("EventsBehind", _lag("route"), EVENTS_BEHIND, 5),
    Level("BlocksBehind", _lag("aggregate"), BLOCKS_BEHIND, 5),
    Level("PartitionStopped", Series("headrace_partition_stopped"), 0, 1),
)
OURS: Final[tuple[Share | Level, ...]] = (*RANKER, *STREAM)
WATCHED: Final = _distinct(one for alarm in OURS for one in alarm.series.values())
"""All that CloudWatch is told: each is one custom metric, which costs by the month."""


def of_services(cluster: str, brokers: int, cache: str) -> Iterator[Level]:
    """Alarms on what MSK and ElastiCache tell of themselves."""
    kafka = ("Cluster Name", cluster)
    for broker in range(1, brokers + 1):
        one = (kafka, ("Broker ID", str(broker)))
        disk = Series("KafkaDataLogsDiskUsed", one)
        yield Level(f"BrokerDisk{broker}", disk, 75, 15, MSK)
        yield Level(f"BrokerBusy{broker}", Series("CpuUser", one), 60, 15, MSK)
    away = Series("UnderReplicatedPartitions", (kafka,))
    yield Level("BrokerAway", away, 0, 10, MSK)
    group = (("ReplicationGroupId", cache),)
    # `noeviction`: a full cache refuses writes, and the stream waits.
    full = Series("DatabaseMemoryUsagePercentage", group)
    yield Level("CacheFull", full, 70, 10, ELASTICACHE)
    yield Level("CacheBusy", Series("EngineCPUUtilization", group), 70, 10, ELASTICACHE)
    yield Level("CacheReplicaBehind", Series("ReplicationLag", group), 5, 5, ELASTICACHE)
