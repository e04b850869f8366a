"""What a worker tells the world, in Prometheus metrics and in faults of a line each."""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client import Counter as Total
from prometheus_client.metrics_core import HistogramMetricFamily, Metric

from features.version import VERSION

BATCH_SIZES: Final = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
SECONDS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 600, 3600, 86_400)


class Observer:
    """Totals, gauges and histograms of one worker.

    Labels are bounded: kinds and bases are few and fixed, partitions are those of one topic, and
    of plan versions only the one in use is shown.
    """

    def __init__(
        self,
        process: str,
        clock: Callable[[], float] = time.time,
        measured: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock`: the time, which may be wrong and leap; `measured`: what ages are told by."""
        self.registry = CollectorRegistry()
        self._process, self._clock, self._measured = process, clock, measured
        self._totals = self._total("headrace_events", "What a streaming worker did, by kind.")
        self._gauges = self._gauge(
            "headrace_state", "Where a streaming worker stands, by kind.", "kind"
        )
        self._lag = self._gauge(
            "headrace_lag_records", "Records of an owned partition not read yet.", "partition"
        )
        self._stops = self._gauge(
            "headrace_partition_stopped", "1: a fault stopped this partition.", "partition"
        )
        self._plans = self._gauge("headrace_plan_info", "The plan in use, by version.", "version")
        build = self._gauge("headrace_build_info", "The version that runs.", "version")
        build.labels(process, VERSION).set(1)
        time_ = self._gauge("headrace_clock_unix_seconds", "The time it is by our clock.")
        time_.labels(process).set_function(clock)
        age = self._gauge(
            "headrace_checkpoint_age_seconds",
            "For how long the oldest write that no checkpoint covers has waited; 0: none does.",
        )
        age.labels(process).set_function(self._unsaved_for)
        self._batches = _Histogram(
            "headrace_batch_size", "Records, updates and rows of one batch.", process, "of"
        )
        self._freshness = _Histogram(
            "headrace_freshness_seconds",
            "Age of an update when its row is visible: since the event, since its block's append.",
            process,
            "base",
        )
        self.registry.register(self._batches)
        self.registry.register(self._freshness)
        self._unsaved_since: float | None = None
        self._stopped: dict[int, str] = {}
        self._held = False
        self._version: str | None = None

    def add(self, counts: Counter[str]) -> None:
        """Count what happened since the last call."""
        for kind, amount in counts.items():
            if amount:
                self._totals.labels(self._process, kind).inc(amount)

    def expect(self, *kinds: str) -> None:
        """Show these kinds from the start, at 0.

        What a series brings when it first appears is no increase to those who look at increases:
        a first dead letter would be lost.
        """
        for kind in kinds:
            self._totals.labels(self._process, kind)

    def set(self, kind: str, value: float) -> None:
        """Say where something stands."""
        self._gauges.labels(self._process, kind).set(value)

    def lag(self, partition: int, records: int) -> None:
        """Say how many records of a partition are not read yet."""
        self._lag.labels(self._process, str(partition)).set(max(0, records))

    def batch(self, of: str, size: int) -> None:
        """Note the size of one batch of records, updates or rows."""
        self._batches.observe(of, np.array([size], np.float64), BATCH_SIZES)

    def visible(self, event_times: NDArray[np.int64], append_times: Sequence[int]) -> None:
        """Note that updates can be read now: their event times, and those of their blocks."""
        now_ms = self._clock() * 1000
        for base, times in (("event_time", event_times), ("append_time", append_times)):
            ages = (now_ms - np.asarray(times, np.float64)) / 1000
            self._freshness.observe(base, np.maximum(ages, 0), SECONDS)

    def unsaved(self, waiting: bool) -> None:
        """Say whether there are writes that no checkpoint covers."""
        if waiting:
            self._unsaved_since = self._unsaved_since or self._measured()
        else:
            self._unsaved_since = None

    def saved(self, rest: bool) -> None:
        """Say that a checkpoint was saved, and whether newer writes wait for the next."""
        self._unsaved_since = self._measured() if rest else None
        self.set("checkpoint_unix_s", self._clock())

    def hold(self, held: bool) -> None:
        """Say whether the worker reads nothing because its store is away."""
        self.add(Counter(holds=int(held and not self._held)))
        self._held = held
        self.set("holding", held)

    def plan(self, version: str) -> None:
        """Say which plan is in use."""
        if version != self._version:
            self._version = version
            with _removing_labels():
                self._plans.clear()
            self._plans.labels(self._process, version).set(1)

    def stopped(self, partition: int, reason: str) -> None:
        """Say that a fault stopped a partition."""
        self._stopped[partition] = reason
        self._stops.labels(self._process, str(partition)).set(1)

    def disowned(self, partition: int) -> None:
        """Say nothing more of a partition."""
        self._stopped.pop(partition, None)
        for gauge in (self._lag, self._stops):
            with _removing_labels():
                gauge.remove_by_labels({"process": self._process, "partition": str(partition)})

    def exposition(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

    def faults(self) -> list[str]:
        """What an operator should know, a line each; empty when all is well."""
        held = ["the store is away, nothing is read"] if self._held else []
        return held + [f"partition {p} is stopped: {why}" for p, why in self._stopped.items()]

    def _unsaved_for(self) -> float:
        since = self._unsaved_since
        return 0.0 if since is None else self._measured() - since

    def _total(self, name: str, text: str) -> Total:
        return Total(name, text, ("process", "kind"), registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, ("process", *labels), registry=self.registry)


@contextmanager
def _removing_labels() -> Iterator[None]:
    """Feast's setting for shared files makes Prometheus warn; our values are in memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


class _Histogram:
    """A histogram that takes many values at once; Prometheus's own takes them one by one."""

    def __init__(self, name: str, text: str, process: str, label: str) -> None:
        self._name, self._text, self._process, self._label = name, text, process, label
        self._series: dict[str, tuple[Sequence[float], NDArray[np.int64], float]] = {}

    def observe(self, label: str, values: NDArray[np.float64], bounds: Sequence[float]) -> None:
        """Note values under a label, with the upper bounds of its buckets."""
        _, counts, total = self._series.get(label, (bounds, np.zeros(len(bounds) + 1, np.int64), 0))
        places = np.searchsorted(bounds, values)
        counts = counts + np.bincount(places, minlength=len(bounds) + 1)
        self._series[label] = bounds, counts, total + float(values.sum())

    def collect(self) -> Iterator[Metric]:
        """What Prometheus asks of a collector."""
        labels = ("process", self._label)
        family = HistogramMetricFamily(self._name, self._text, labels=labels)
        for label, (bounds, counts, total) in list(self._series.items()):
            names = [*(str(float(bound)) for bound in bounds), "+Inf"]
            buckets = list(zip(names, map(float, accumulate(counts.tolist())), strict=True))
            family.add_metric((self._process, label), buckets, total)
        yield family
