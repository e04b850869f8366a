"""Grafana dashboards: one for the stream, one for the ranker, one for the objectives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

from deploy.monitoring.slo import OBJECTIVES, RATIO

SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${source}")


@dataclass(frozen=True)
class Panel:
    """A graph of some queries, each with what its lines are called."""

    title: str
    unit: str
    says: str
    queries: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Board:
    """A dashboard; rows by title."""

    uid: str
    title: str
    rows: dict[str, Sequence[Panel]]


def _quantiles(metric: str, by: str = "", where: str = "") -> list[tuple[str, str]]:
    labels = ", ".join(part for part in ("le", by) if part)
    named = f" {{{{{by}}}}}" if by else ""
    return [
        (
            f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{where}[5m])))",
            f"p{100 * q:g}{named}",
        )
        for q in (0.5, 0.99)
    ]


def _kind(kind: str) -> tuple[str, str]:
    return f'headrace_ranker_state{{kind="{kind}"}}', f"{kind} {{{{instance}}}}"


BOARDS: Final = (
    Board(
        "headrace-stream",
        "Headrace: the stream",
        {
            "Throughput": [
                Panel(
                    "Events",
                    "ops",
                    "What route did with records: accepted, of them late; repeated; dead.",
                    [
                        (
                            (
                                'sum by (kind) (rate(headrace_events_total{process="route",'
                                'kind=~"accepted|late|repeated|dead"}[5m]))'
                            ),
                            "{{kind}}",
                        )
                    ],
                ),
                Panel(
                    "Rows",
                    "ops",
                    "What aggregate folded, read and wrote.",
                    [
                        (
                            (
                                'sum by (kind) (rate(headrace_events_total{process="aggregate",'
                                'kind=~"folded_updates|rows_read|rows_written|skipped_updates"}[5m]))'
                            ),
                            "{{kind}}",
                        )
                    ],
                ),
                Panel(
                    "Size of a batch",
                    "short",
                    "Half of all batches are smaller; it grows with the lag.",
                    [
                        (
                            (
                                "histogram_quantile(0.5, sum by (le, process, of) "
                                "(rate(headrace_batch_size_bucket[5m])))"
                            ),
                            "{{process}} {{of}}",
                        )
                    ],
                ),
            ],
            "Freshness": [
                Panel(
                    "Age of an update when it is visible",
                    "s",
                    "Since its block's append: what the stream itself takes.",
                    _quantiles("headrace_freshness_seconds", where='{base="append_time"}'),
                ),
                Panel(
                    "Age of an event when it is visible",
                    "s",
                    "Since the event; a replayed past counts by its age.",
                    _quantiles("headrace_freshness_seconds", where='{base="event_time"}'),
                ),
                Panel(
                    "Lag",
                    "short",
                    "Records not read yet, by process.",
                    [("sum by (process) (headrace_lag_records)", "{{process}}")],
                ),
            ],
            "Safety": [
                Panel(
                    "Oldest write without a checkpoint",
                    "s",
                    "Above a minute Redis does not confirm that rows are durable.",
                    [("headrace_checkpoint_age_seconds", "{{instance}}")],
                ),
                Panel(
                    "Stopped partitions, holds",
                    "short",
                    "Anything but 0 asks for somebody.",
                    [
                        ("sum by (process) (headrace_partition_stopped)", "stopped {{process}}"),
                        (
                            'sum by (process) (headrace_state{kind="holding"})',
                            "holding {{process}}",
                        ),
                    ],
                ),
                Panel(
                    "Rebalances and holds",
                    "short",
                    "Workers that come and go; a Redis that does.",
                    [
                        (
                            (
                                "sum by (process, kind) (increase(headrace_events_total{"
                                'kind=~"rebalances|holds"}[5m]))'
                            ),
                            "{{process}} {{kind}}",
                        )
                    ],
                ),
            ],
        },
    ),
    Board(
        "headrace-ranker",
        "Headrace: the ranker",
        {
            "Requests": [
                Panel(
                    "Requests",
                    "reqps",
                    "By outcome.",
                    [("sum by (outcome) (rate(headrace_rank_requests_total[5m]))", "{{outcome}}")],
                ),
                Panel(
                    "Time in the pipeline",
                    "s",
                    "From the front desk to the answer.",
                    _quantiles("headrace_rank_seconds"),
                ),
                Panel(
                    "Feeds that lack something",
                    "ops",
                    "By the stage that was late or missing.",
                    [("sum by (stage) (rate(headrace_rank_degraded_total[5m]))", "{{stage}}")],
                ),
            ],
            "Stages": [
                Panel(
                    "Time of a stage, p99",
                    "s",
                    "Where a slow request spends its time.",
                    _quantiles("headrace_rank_stage_seconds", "stage")[1:],
                ),
                Panel(
                    "Over budget",
                    "ops",
                    "Stages that took more than their share, late or not.",
                    [("sum by (stage) (rate(headrace_rank_over_budget_total[5m]))", "{{stage}}")],
                ),
                Panel("Load", "short", "Requests that run or wait.", [_kind("requests_busy")]),
            ],
            "Tables": [
                Panel(
                    "Age of item features",
                    "ms",
                    "Of the oldest change that is not in the tables.",
                    [_kind("item_staleness_ms")],
                ),
                Panel(
                    "Items", "short", "Rows held.", [_kind("rows_item_id"), _kind("rows_author_id")]
                ),
                Panel(
                    "Serving log",
                    "short",
                    "Records that wait, and those that are lost.",
                    [_kind("serving_log_waiting"), _kind("serving_log_dropped")],
                ),
            ],
        },
    ),
    Board(
        "headrace-objectives",
        "Headrace: objectives",
        {
            objective.says: [
                Panel(
                    "Bad share",
                    "percentunit",
                    f"The budget is {objective.budget:.2%} over 30 days.",
                    [
                        (f'{RATIO.format(window=window)}{{slo="{objective.label}"}}', window)
                        for window in ("5m", "1h", "6h")
                    ],
                ),
                Panel(
                    "Budget burnt in three days",
                    "percentunit",
                    "A tenth of 30 days: at 10 % the budget just lasts.",
                    [
                        (
                            (
                                f'{RATIO.format(window="3d")}{{slo="{objective.label}"}}'
                                f" / {objective.budget:g} / 10"
                            ),
                            "of the budget",
                        )
                    ],
                ),
            ]
            for objective in OBJECTIVES
        },
    ),
)


def queries() -> list[str]:
    """Every query of every panel."""
    return [
        query
        for board in BOARDS
        for panels in board.rows.values()
        for panel in panels
        for query, _ in panel.queries
    ]


def text(board: Board) -> str:
    """The dashboard as Grafana imports it."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .tags(["headrace"])
        .readonly()
        .refresh("30s")
        .time("now-3h", "now")
        .with_variable(
            dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus")
        )
    )
    for title, panels in board.rows.items():
        made = made.with_row(dashboard.Row(title))
        for panel in panels:
            made = made.with_panel(_panel(panel, 24 // len(panels)))
    return str(JSONEncoder(sort_keys=True, indent=2).encode(made.build())) + "\n"


def _panel(panel: Panel, span: int) -> Any:
    graph = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.says)
        .unit(panel.unit)
        .min(0)
        .span(span)
        .height(8)
        .datasource(SOURCE)
        .legend(common.VizLegendOptions().show_legend(True))
    )
    for number, (query, name) in enumerate(panel.queries):
        graph = graph.with_target(
            prometheus.Dataquery().expr(query).legend_format(name).ref_id(chr(ord("A") + number))
        )
    return graph
