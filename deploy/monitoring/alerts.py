"""Alerts on causes: what will hurt soon, or hurts in a way that no objective sees."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Alert:
    """One alert; its runbook is `deploy/guides/runbooks/<name>.md`."""

    name: str
    expr: str
    wait: str
    severity: str
    summary: str


JOBS: Final = 'job=~"headrace.*"'
"""What the scrape configuration calls our processes."""

ALERTS: Final = (
    Alert(
        "HeadraceProcessDown",
        f"up{{{JOBS}}} == 0",
        "1m",
        "page",
        "{{ $labels.job }} on {{ $labels.instance }} does not answer",
    ),
    Alert(
        "HeadracePartitionStopped",
        "max by (process, partition) (headrace_partition_stopped) > 0",
        "0m",
        "page",
        "{{ $labels.process }} stopped partition {{ $labels.partition }} at a fault",
    ),
    Alert(
        "HeadraceCheckpointLate",
        "max by (instance) (headrace_checkpoint_age_seconds) > 60",
        "1m",
        "page",
        "writes of {{ $labels.instance }} wait {{ $value | humanizeDuration }} to be durable",
    ),
    Alert(
        "HeadraceHolding",
        'max by (process, instance) (headrace_state{kind="holding"}) == 1',
        "1m",
        "page",
        "{{ $labels.process }} on {{ $labels.instance }} reads nothing, because Redis is away",
    ),
    Alert(
        "HeadraceLagGrows",
        "sum by (process) (headrace_lag_records) > 50000"
        " and sum by (process) (delta(headrace_lag_records[15m])) > 0",
        "15m",
        "ticket",
        "{{ $labels.process }} is {{ $value | humanize }} records behind and falls further back",
    ),
    Alert(
        "HeadraceItemsStale",
        'max by (instance) (headrace_ranker_state{kind="item_staleness_ms"}) > 1000'
        ' or min by (instance) (headrace_ranker_state{kind="tables_connected"}) == 0',
        "1m",
        "page",
        "{{ $labels.instance }} ranks with items that are out of date",
    ),
    Alert(
        "HeadraceTurnedAway",
        'sum(rate(headrace_rank_requests_total{outcome="overloaded"}[5m]))'
        " / sum(rate(headrace_rank_requests_total[5m])) > 0.01",
        "5m",
        "page",
        "{{ $value | humanizePercentage }} of requests are turned away: too few rankers",
    ),
    Alert(
        "HeadraceServingLogLost",
        'max by (instance) (increase(headrace_ranker_state{kind="serving_log_dropped"}[10m])) > 0',
        "0m",
        "ticket",
        "{{ $labels.instance }} lost records of what it served",
    ),
    Alert(
        "HeadracePlanRefused",
        'max(headrace_state{kind="plan_refused"}) > 0',
        "1m",
        "ticket",
        "the registry holds definitions that would corrupt rows, and the old ones stay",
    ),
    Alert(
        "HeadraceVersionsDiffer",
        "count(count by (version) (headrace_build_info)) > 1"
        " or count(count by (version) (headrace_plan_info)) > 1",
        "30m",
        "ticket",
        "processes run different versions, or fold by different plans, for half an hour",
    ),
    Alert(
        "HeadraceClock",
        "max by (instance)"
        " (abs(headrace_clock_unix_seconds - timestamp(headrace_clock_unix_seconds))) > 5",
        "5m",
        "ticket",
        "the clock of {{ $labels.instance }} and that of Prometheus differ by"
        " {{ $value | humanizeDuration }}",
    ),
    Alert(
        "HeadraceFileRefused",
        'max by (instance) (headrace_ranker_state{kind="feed_files_bad"}) > 0',
        "1m",
        "ticket",
        "{{ $labels.instance }} refuses the weights or rules on its disk and goes on with the old",
    ),
)
