"""The ranker's files, and the processes that answer over HTTP."""

import re
import time
from collections.abc import Iterator
from typing import Final

import httpx

from deploy.doctor.finding import Finding, ok
from deploy.doctor.redis import clock
from deploy.ranker_link import reaching
from features.errors import Unavailable
from features.spec import Plan
from features.version import VERSION
from ranker.reading import heads_loader
from ranker.rules import read_rules
from ranker.scoring.model import read_manifest
from ranker.scoring.value import read_weights
from ranker.settings import RankerSettings

TIMEOUT_S: Final = 3.0
BUILD: Final = re.compile(r'^headrace_build_info\{.*version="([^"]*)".*\} 1', re.MULTILINE)
CLOCK: Final = re.compile(r"^headrace_clock_unix_seconds(?:\{.*\})? (\S+)$", re.MULTILINE)
GAUGE: Final = r'^headrace_ranker_state\{kind="%s"\} (\S+)$'


def look_at_files(settings: RankerSettings, plan: Plan) -> Iterator[Finding]:
    """Weights, rules, and the model against the registry. Raises Refused as the ranker would."""
    weights = read_weights(settings.value_weights or settings.repo / "value.yaml")
    read_rules(settings.feed_rules or settings.repo / "feed.yaml")
    yield ok("model/files", "weights and rules can be used")
    service = settings.feature_service
    if service not in plan.services:
        says = f"the registry has no feature service {service!r}"
        mend = f"feast apply it, or set HEADRACE_FEATURE_SERVICE ({', '.join(plan.services)})"
        yield Finding("model", "fault", says, mend)
        return
    if settings.model is None:
        mend = "set HEADRACE_MODEL; the feed is ranked by popularity until then"
        yield Finding("model", "note", "no model is named", mend)
        return
    heads_loader(settings.model, weights)([name for name, _ in plan.service_features(service)])
    manifest = read_manifest(settings.model)
    heads = ", ".join(head.name for head in manifest.heads)
    if manifest.plan != plan.version:
        says = f"its rows were folded by plan {manifest.plan}, those of now by {plan.version}"
        mend = "its columns fit; train again where what they count has changed"
        yield Finding("model", "note", says, mend)
    else:
        yield ok("model", f"{heads}: {len(manifest.features)} columns that the registry has")


def look_at_ranker(url: str) -> Iterator[Finding]:
    """A ranker that runs. Raises Unavailable when nothing answers."""
    ready = _get(f"{url}/readyz")
    if ready.status_code == 200:
        yield ok("ranker", f"{url} is ready")
    else:
        why = ready.text.strip()[:200]
        mend = "give it time to load its items; then its log says what holds it up"
        yield Finding("ranker", "fault", f"{url} is not ready: {why}", mend)
    asked, metrics = time.time(), _get(f"{url}/metrics")
    if metrics.status_code != 200:
        yield _closed("ranker/metrics", url, metrics.status_code)
        return
    yield _version("ranker/version", url, metrics.text)
    yield from _clock("ranker/clock", url, metrics.text, asked)
    stale, connected = (_gauge(metrics.text, k) for k in ("item_staleness_ms", "tables_connected"))
    if connected == 0:
        mend = "see redis/rights: it needs CLIENT TRACKING and SUBSCRIBE"
        yield Finding("ranker/tables", "fault", "it hears nothing of changed items", mend)
    else:
        yield ok("ranker/tables", f"its items are {stale:.0f} ms old")
    dropped = _gauge(metrics.text, "serving_log_dropped")
    if dropped > 0:
        mend = "see kafka/topic rankings: it may not WRITE, or Kafka was away"
        says = f"{dropped:.0f} records of what was served were lost"
        yield Finding("ranker/serving log", "note", says, mend)


def look_at_worker(url: str) -> Iterator[Finding]:
    """A route, aggregate or archive that runs. Raises Unavailable when nothing answers."""
    check, health = f"worker {url}", _get(f"{url}/healthz")
    first, *faults = health.text.strip().splitlines() or [""]
    if health.status_code != 200:
        mend = "it joins within seconds; its log says what holds it up"
        yield Finding(check, "fault", first, mend)
    for fault in faults:
        mend = "mend what it names; it goes on by itself or after a restart"
        yield Finding(check, "fault", fault, mend)
    if health.status_code == 200 and not faults:
        yield ok(check, "has joined its group, and nothing is stopped")
    asked, metrics = time.time(), _get(f"{url}/metrics")
    if metrics.status_code != 200:
        yield _closed(check, url, metrics.status_code)
    else:
        yield _version(check, url, metrics.text)
        yield from _clock(check, url, metrics.text, asked)


def _closed(check: str, url: str, status: int) -> Finding:
    mend = "set HEADRACE_RANKER_TOKEN to one of its HEADRACE_ADMIN_TOKENS"
    return Finding(check, "note", f"{url}/metrics answers {status}", mend)


def _version(check: str, url: str, metrics: str) -> Finding:
    found = BUILD.search(metrics)
    theirs = found[1] if found else "unknown"
    if theirs == VERSION:
        return ok(check, f"{url} is of version {theirs}, as this command")
    mend = "let an upgrade come to its end, or run the doctor of its version"
    says = f"{url} is of version {theirs}, this command of {VERSION}"
    return Finding(check, "note", says, mend)


def _clock(check: str, url: str, metrics: str, asked: float) -> Iterator[Finding]:
    """Nothing of a version that does not tell the time."""
    if (told := CLOCK.search(metrics)) is not None:
        yield clock(check, url, float(told[1]) - (asked + time.time()) / 2)


def _gauge(metrics: str, kind: str) -> float:
    found = re.search(GAUGE % kind, metrics, re.MULTILINE)
    return float(found[1]) if found else float("nan")


def _get(url: str) -> httpx.Response:
    try:
        return httpx.get(url, timeout=TIMEOUT_S, trust_env=False, **reaching())
    except (httpx.HTTPError, OSError) as error:
        raise Unavailable(f"{url} does not answer ({error})") from error
