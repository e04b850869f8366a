"""Prometheus rules: the objectives' ratios, their burn-rate alerts, and the alerts on causes."""

from collections.abc import Iterator
from typing import Any

from deploy.monitoring.alerts import ALERTS
from deploy.monitoring.slo import BURNS, OBJECTIVES, RATIO, WINDOWS, Burn, Objective


def rules() -> dict[str, Any]:
    """A rules file."""
    return {
        "groups": [
            {
                "name": "headrace-objectives",
                "interval": "30s",
                "rules": [ratio(one, window) for one in OBJECTIVES for window in WINDOWS],
            },
            {"name": "headrace-burn", "rules": list(_burning())},
            {"name": "headrace-causes", "rules": list(_causes())},
        ]
    }


def ratio(objective: Objective, window: str) -> dict[str, Any]:
    """The share of bad events in a window; 0 in one without events is no division by zero."""
    bad, every = (part.format(window=window) for part in (objective.bad, objective.all))
    return {
        "record": RATIO.format(window=window),
        "labels": {"slo": objective.label},
        "expr": f"({bad}) / ({every} > 0)",
    }


def burn_alert(objective: Objective, burn: Burn) -> str:
    """What the alert of a burn is called: fast ones wake somebody, slow ones do not."""
    pace = "Fast" if burn.severity == "page" else "Slowly"
    return f"Headrace{objective.name}BudgetBurns{pace}"


def runbook(alert: str) -> str:
    """The page of an alert, inside `deploy/guides/runbooks`; one for both paces of a burn."""
    return f"{alert.partition('BudgetBurns')[0]}.md"


def _burning() -> Iterator[dict[str, Any]]:
    for objective in OBJECTIVES:
        for burn in BURNS:
            limit = f"{burn.factor * objective.budget:g}"
            long, short = (
                f'{RATIO.format(window=window)}{{slo="{objective.label}"}} > {limit}'
                for window in (burn.long, burn.short)
            )
            name = burn_alert(objective, burn)
            summary = (
                f"in {burn.long} the budget burnt {burn.factor:g} times too fast: {objective.says}"
            )
            alert = _alert(name, f"{long} and {short}", burn.wait, burn.severity, summary)
            alert["labels"]["window"] = burn.long
            yield alert


def _causes() -> Iterator[dict[str, Any]]:
    for one in ALERTS:
        yield _alert(one.name, one.expr, one.wait, one.severity, one.summary)


def _alert(name: str, expr: str, wait: str, severity: str, summary: str) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expr,
        "for": wait,
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "runbook": f"deploy/guides/runbooks/{runbook(name)}"},
    }
