"""What users are promised, in numbers, and how fast the error budget may burn."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Objective:
    """A share of good events over 30 days.

    `bad` and `all` are PromQL rates with `{window}` where the window goes.
    """

    name: str
    """As alerts are named: `Freshness`."""
    label: str
    says: str
    target: float
    bad: str
    all: str

    @property
    def budget(self) -> float:
        """The share of events that may be bad."""
        return 1 - self.target


FRESH_S: Final = 2
QUICK_S: Final = 0.1

OBJECTIVES: Final = (
    Objective(
        "Freshness",
        "freshness",
        f"99 % of updates are visible in Redis within {FRESH_S} s of their block's append",
        0.99,
        'sum(rate(headrace_freshness_seconds_count{{process="aggregate",base="append_time"}}[{window}]))'
        ' - sum(rate(headrace_freshness_seconds_bucket{{process="aggregate",base="append_time",'
        f'le="{FRESH_S:.1f}"'
        "}}[{window}]))",
        'sum(rate(headrace_freshness_seconds_count{{process="aggregate",base="append_time"}}[{window}]))',
    ),
    Objective(
        "Latency",
        "latency",
        f"99 % of rankings take {1000 * QUICK_S:.0f} ms or less in the pipeline",
        0.99,
        "sum(rate(headrace_rank_seconds_count[{window}]))"
        f' - sum(rate(headrace_rank_seconds_bucket{{{{le="{QUICK_S}"}}}}'
        "[{window}]))",
        "sum(rate(headrace_rank_seconds_count[{window}]))",
    ),
    Objective(
        "Answers",
        "answers",
        "99.9 % of right requests get a feed: none fails, is late or is turned away",
        0.999,
        'sum(rate(headrace_rank_requests_total{{outcome=~"failed|late|overloaded"}}[{window}]))',
        'sum(rate(headrace_rank_requests_total{{outcome=~"ok|failed|late|overloaded"}}[{window}]))',
    ),
    Objective(
        "WholeAnswers",
        "whole_answers",
        "99 % of feeds are whole: no stage was late or missing",
        0.99,
        'sum(rate(headrace_rank_answers_total{{whole="no"}}[{window}]))',
        "sum(rate(headrace_rank_answers_total[{window}]))",
    ),
    Objective(
        "DeadLetters",
        "dead_letters",
        "99.9 % of records are events that can be folded",
        0.999,
        'sum(rate(headrace_events_total{{process="route",kind="dead"}}[{window}]))',
        'sum(rate(headrace_events_total{{process="route",kind=~"accepted|repeated|dead"}}[{window}]))',
    ),
)


@dataclass(frozen=True)
class Burn:
    """An alert when the budget burns so many times too fast, over a long and a short window.

    The short one ends the alert soon after the trouble ends (Google, "The Site Reliability
    Workbook", chapter 5).
    """

    severity: str
    factor: float
    long: str
    short: str
    wait: str


BURNS: Final = (
    Burn("page", 14.4, "1h", "5m", "2m"),
    Burn("page", 6.0, "6h", "30m", "15m"),
    Burn("ticket", 3.0, "1d", "2h", "1h"),
    Burn("ticket", 1.0, "3d", "6h", "3h"),
)
WINDOWS: Final = tuple(dict.fromkeys(w for burn in BURNS for w in (burn.short, burn.long)))
RATIO: Final = "headrace:slo_bad:ratio_rate{window}"
"""The recording rule of each window; its label `slo` is the objective's."""
