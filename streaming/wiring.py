"""Where the streaming processes are put together from their settings."""

import logging
import time
from collections.abc import Callable

from features.errors import HeadraceError, Refused
from features.offline import version_views
from features.plan import FeatureRepo, PlanSource
from features.redis_rows import RedisRows
from streaming.aggregate import Aggregator
from streaming.aggregate_worker import AggregateWorker
from streaming.archive import PartitionArchive, SpanSettings
from streaming.archive_files import ArchiveFiles
from streaming.archive_folder import ArrowFolder
from streaming.archive_worker import ArchiveWorker
from streaming.kafka import Broker, quiet_logs
from streaming.local_rows import LocalRows
from streaming.metrics import Observer, serve_health
from streaming.plans import load_plan
from streaming.route import RouteSettings
from streaming.route_worker import RouteWorker
from streaming.settings import StreamingSettings

log = logging.getLogger("headrace")

BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)


def open_store(settings: StreamingSettings, project: str) -> RedisRows:
    """Rows of a project; every entity but users is indexed, because the ranker loads it whole."""
    indexed = ("item_id", "author_id", "category", "surface")
    url = settings.redis.get_secret_value()
    return RedisRows(url, project, indexed, settings.durability)


def open_broker(settings: StreamingSettings) -> Broker:
    """The Kafka the settings name."""
    return Broker(settings.kafka, settings.kafka_security())


def run_route(settings: StreamingSettings, stopping: Callable[[], bool]) -> None:
    """The `route` process."""
    _run("route", settings, stopping, _route)


def run_aggregate(settings: StreamingSettings, stopping: Callable[[], bool]) -> None:
    """The `aggregate` process."""
    _run("aggregate", settings, stopping, _aggregate)


def run_archive(
    settings: StreamingSettings, stopping: Callable[[], bool], idle_ms: int | None
) -> None:
    """The `archive` process; with `idle_ms` it ends once no block has come for so long."""
    finished: list[bool] = []

    def build(
        settings: StreamingSettings, plans: PlanSource, store: RedisRows, observer: Observer
    ) -> tuple[Worker, Callable[[], None]]:
        return _archive(settings, plans, store, observer, idle_ms, lambda: finished.append(True))

    _run("archive", settings, lambda: stopping() or bool(finished), build)


Worker = RouteWorker | AggregateWorker | ArchiveWorker
Build = Callable[
    [StreamingSettings, PlanSource, RedisRows, Observer], tuple[Worker, Callable[[], None]]
]


def _route(
    settings: StreamingSettings, plans: PlanSource, store: RedisRows, observer: Observer
) -> tuple[Worker, Callable[[], None]]:
    broker, events = open_broker(settings), settings.events_topic or plans.read().topic
    _topics(settings, broker, store, events)
    generation = store.generation(events, broker.topic_id(events))
    source, sink = broker.source(events, f"{plans.project}.route"), broker.sink()
    worker = RouteWorker(
        source,
        sink,
        store,
        plans,
        RouteSettings(
            events=events,
            updates=settings.updates_topic,
            dead_letters=settings.dead_letters_topic,
            targets=settings.updates_partitions,
            horizon=settings.dedup_horizon_offsets,
            max_ahead_ms=settings.max_ahead_ms,
        ),
        generation,
        observer,
        settings.plan_refresh_ms,
    )

    def close() -> None:
        sink.close()
        source.close()

    return worker, close


def _aggregate(
    settings: StreamingSettings, plans: PlanSource, store: RedisRows, observer: Observer
) -> tuple[Worker, Callable[[], None]]:
    broker, plan = open_broker(settings), plans.read()
    _topics(settings, broker, store, settings.events_topic or plan.topic)
    updates = settings.updates_topic
    generation = store.generation(updates, broker.topic_id(updates))
    source = broker.source(updates, f"{plans.project}.aggregate")
    aggregator = Aggregator(plan, store, settings.cached_rows_max)
    worker = AggregateWorker(
        source, store, aggregator, generation, observer, settings.checkpoint_interval_ms
    )
    return worker, source.close


def _archive(
    settings: StreamingSettings,
    plans: PlanSource,
    store: RedisRows,
    observer: Observer,
    idle_ms: int | None,
    finished: Callable[[], None],
) -> tuple[Worker, Callable[[], None]]:
    broker, plan, root = open_broker(settings), plans.read(), plans.archive()
    _topics(settings, broker, store, settings.events_topic or plan.topic)
    updates = settings.updates_topic
    generation = store.generation(updates, broker.topic_id(updates))
    source = broker.source(updates, f"{plans.project}.archive")
    files = ArchiveFiles(ArrowFolder(root))
    files.declare(version_views(plan))
    log.info("row versions go to %s", root)

    def archive_of(partition: int) -> PartitionArchive:
        return PartitionArchive(
            partition,
            generation,
            plan,
            lambda version: load_plan(store, version),
            LocalRows(settings.archive_state / f"{plan.project}-{updates}-{partition}.sqlite"),
            files,
            SpanSettings(settings.archive_span_blocks, settings.archive_span_ms),
            max(1, settings.cached_rows_max // settings.updates_partitions),
        )

    worker = ArchiveWorker(source, archive_of, observer, idle_ms, finished)

    def close() -> None:
        worker.close()
        source.close()

    return worker, close


def _topics(settings: StreamingSettings, broker: Broker, store: RedisRows, events: str) -> None:
    """Create what is missing; refuse other numbers of partitions than were recorded first."""
    wanted = {
        events: settings.events_partitions,
        settings.updates_topic: settings.updates_partitions,
        settings.dead_letters_topic: 1,
    }
    for topic, partitions in wanted.items():
        recorded = int(store.remember("partitions", topic, str(partitions)))
        if recorded != partitions:
            raise Refused(
                f"topic {topic!r} was set up with {recorded} partitions, the settings say "
                f"{partitions}: set it back, or replay into a new project and switch"
            )
    broker.topics(wanted, settings.replication_factor)


def _run(
    process: str, settings: StreamingSettings, stopping: Callable[[], bool], build: Build
) -> None:
    """Incarnation after incarnation: a fault ends one, the next resumes after a pause."""
    quiet_logs()
    log.info("%s starts with %s", process, settings.model_dump(mode="json"))
    plans = FeatureRepo(settings.repo).open()
    observer = Observer(process)
    current: list[Worker] = []
    stop_health = serve_health(
        observer, settings.metrics_port, lambda: any(worker.joined for worker in current)
    )
    failures = 0
    try:
        while not stopping():
            began = time.monotonic()
            try:
                _incarnation(settings, plans, observer, stopping, build, current)
            except Refused:
                raise
            except HeadraceError as error:
                current.clear()
                failures = 1 if time.monotonic() - began > 30 else failures + 1
                pause = BACKOFF_S[min(failures, len(BACKOFF_S)) - 1]
                log.warning("%s: %s; starts again in %s s", process, error, pause)
                _pause(pause, stopping)
    finally:
        stop_health()


def _incarnation(
    settings: StreamingSettings,
    plans: PlanSource,
    observer: Observer,
    stopping: Callable[[], bool],
    build: Build,
    current: list[Worker],
) -> None:
    store = open_store(settings, plans.project)
    try:
        for note in store.check():
            log.warning("%s", note)
        worker, close = build(settings, plans, store, observer)
        current[:] = [worker]
        try:
            worker.run(stopping, settings.poll_timeout_ms)
        finally:
            close()
    finally:
        store.close()


def _pause(seconds: float, stopping: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stopping():
        time.sleep(0.05)
