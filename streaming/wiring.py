"""Where the streaming processes are put together from their settings."""

import gc
import logging
import time
from collections.abc import Callable
from typing import Final

from features.errors import HeadraceError, Refused
from features.offline import version_views
from features.plan import FeatureRepo, PlanSource
from features.redis_rows import RedisRows
from features.traces import Traces
from features.traces.settings import open_traces
from streaming.aggregate_worker import AggregateWorker
from streaming.archive import PartitionArchive, SpanSettings
from streaming.archive_files import ArchiveFiles
from streaming.archive_folder import ArrowFolder
from streaming.archive_worker import ArchiveWorker
from streaming.health import serve_health
from streaming.kafka import Broker, KafkaSource, quiet_logs
from streaming.local_rows import LocalRows
from streaming.logs.files import LogFiles
from streaming.logs.schema import BLOCK_LOG, EVENT_LOG, RANKING_LOG, LogKind
from streaming.logs.worker import LogWorker, TopicLog
from streaming.logs.writer import CutSettings, PartitionLog
from streaming.metrics import Observer
from streaming.pace import TURN_S
from streaming.plans import load_plan
from streaming.route import RouteSettings
from streaming.route_worker import RouteWorker
from streaming.settings import StreamingSettings
from streaming.store_link import BACKOFF_S, Opened

log = logging.getLogger("headrace")

FORGETS: Final = (
    "this broker keeps its topics in memory: each event counts once through crashes of workers and "
    "of Redis, but when the broker stops, events that were not folded yet are gone, and an event "
    "sent again afterwards counts again"
)

RANKINGS_PARTITIONS: Final = 4
"""Of the topic of rankings, when no ranker has made it yet; any number will do."""


def open_store(settings: StreamingSettings, project: str) -> RedisRows:
    """Rows of a project; every entity but users is indexed, because the ranker loads it whole."""
    indexed = ("item_id", "author_id", "category", "surface")
    return RedisRows(settings.redis_url(), project, indexed, settings.durability)


def open_broker(settings: StreamingSettings) -> Broker:
    """The Kafka the settings name."""
    return Broker(settings.kafka, settings.kafka_security(), settings.fetch_wait_ms)


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
    _run_until_idle("archive", settings, stopping, idle_ms, _archive)


def run_log_archive(
    settings: StreamingSettings, stopping: Callable[[], bool], idle_ms: int | None
) -> None:
    """The process that archives logs; with `idle_ms` it ends once no record came for so long."""
    _run_until_idle("archive-log", settings, stopping, idle_ms, _log_archive)


Worker = RouteWorker | AggregateWorker | ArchiveWorker | LogWorker
Build = Callable[
    [StreamingSettings, PlanSource, Observer, Traces], tuple[Worker, Callable[[], None]]
]
BuildArchiver = Callable[
    [StreamingSettings, PlanSource, Observer, int | None, Callable[[], None]],
    tuple[Worker, Callable[[], None]],
]
"""Is told after how much idleness, in milliseconds, to call what ends the process."""


def _run_until_idle(
    process: str,
    settings: StreamingSettings,
    stopping: Callable[[], bool],
    idle_ms: int | None,
    build_archiver: BuildArchiver,
) -> None:
    finished: list[bool] = []

    def build(
        settings: StreamingSettings, plans: PlanSource, observer: Observer, _: Traces
    ) -> tuple[Worker, Callable[[], None]]:
        return build_archiver(settings, plans, observer, idle_ms, lambda: finished.append(True))

    _run(process, settings, lambda: stopping() or bool(finished), build)


def _route(
    settings: StreamingSettings, plans: PlanSource, observer: Observer, traces: Traces
) -> tuple[Worker, Callable[[], None]]:
    observer.expect("accepted", "repeated", "dead")
    broker, events = open_broker(settings), settings.events_topic or plans.read().topic
    _topics(settings, plans.project, broker, events)
    topic_id = broker.topic_id(events)
    source, sink = broker.source(events, f"{plans.project}.route"), broker.sink()
    worker = RouteWorker(
        source,
        sink,
        _connecting(settings, plans.project, events, topic_id),
        plans,
        RouteSettings(
            events=events,
            updates=settings.updates_topic,
            dead_letters=settings.dead_letters_topic,
            targets=settings.updates_partitions,
            horizon=settings.dedup_horizon_offsets,
            max_ahead_ms=settings.max_ahead_ms,
            late_after_ms=settings.late_after_ms,
        ),
        observer,
        settings.plan_refresh_ms,
        turn_s=TURN_S,
        topic_id=topic_id,
        traces=traces,
    )

    def close() -> None:
        sink.close()
        source.close()
        worker.close()

    return worker, close


def _aggregate(
    settings: StreamingSettings, plans: PlanSource, observer: Observer, traces: Traces
) -> tuple[Worker, Callable[[], None]]:
    broker, plan = open_broker(settings), plans.read()
    _topics(settings, plans.project, broker, settings.events_topic or plan.topic)
    updates = settings.updates_topic
    source = broker.source(updates, f"{plans.project}.aggregate")
    worker = AggregateWorker(
        source,
        _connecting(settings, plans.project, updates, broker.topic_id(updates)),
        plan,
        observer,
        settings.checkpoint_interval_ms,
        settings.cached_rows_max,
        turn_s=TURN_S,
        traces=traces,
    )

    def close() -> None:
        source.close()
        worker.close()

    return worker, close


def _archive(
    settings: StreamingSettings,
    plans: PlanSource,
    observer: Observer,
    idle_ms: int | None,
    finished: Callable[[], None],
) -> tuple[Worker, Callable[[], None]]:
    broker, plan, root = open_broker(settings), plans.read(), plans.archive()
    if plan.plain:
        raise Refused(
            f"view {plan.plain[0].name!r} is of plain records, whose versions are not archived: "
            "their offline source is the one that Feast was given"
        )
    _topics(settings, plans.project, broker, settings.events_topic or plan.topic)
    updates = settings.updates_topic
    files = ArchiveFiles(ArrowFolder(root))
    files.declare(version_views(plan))
    log.info("row versions go to %s", root)
    source = broker.source(updates, f"{plans.project}.archive")
    store, generation = _connecting(settings, plans.project, updates, broker.topic_id(updates))()

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
        store.close()

    return worker, close


def _log_archive(
    settings: StreamingSettings,
    plans: PlanSource,
    observer: Observer,
    idle_ms: int | None,
    finished: Callable[[], None],
) -> tuple[Worker, Callable[[], None]]:
    broker, plan, root = open_broker(settings), plans.read(), plans.archive()
    events = settings.events_topic or plan.topic
    _topics(settings, plans.project, broker, events)
    files = LogFiles(ArrowFolder(root))
    cut = CutSettings(settings.archive_log_records, settings.archive_log_ms)
    log.info("logs go to %s", root)
    store = open_store(settings, plans.project)
    rankings = settings.rankings_topic
    topics = {events: EVENT_LOG, settings.updates_topic: BLOCK_LOG, rankings: RANKING_LOG}
    if not broker.has(rankings):  # a ranker takes the topic as it finds it
        broker.topics({rankings: RANKINGS_PARTITIONS}, settings.replication_factor)
    sources: list[KafkaSource] = []

    def close() -> None:
        for source in sources:
            source.close()
        store.close()

    try:
        archived = []
        for topic, kind in topics.items():
            sources.append(broker.source(topic, f"{plans.project}.archive-{kind.name}"))
            generation = _life(topic, kind, broker, store, files)
            archived.append(_topic_log(topic, kind, sources[-1], generation, files, cut))
    except BaseException:
        close()
        raise
    worker = LogWorker(archived, observer, idle_ms, finished)
    return worker, close


def _life(topic: str, kind: LogKind, broker: Broker, store: RedisRows, files: LogFiles) -> int:
    """The number of a topic's life, noted in the archive."""
    topic_id = broker.topic_id(topic)
    generation = store.generation(topic, topic_id)
    files.name_life(kind.name, generation, topic_id)
    return generation


def _topic_log(
    topic: str,
    kind: LogKind,
    source: KafkaSource,
    generation: int,
    files: LogFiles,
    cut: CutSettings,
) -> TopicLog:
    def log_of(partition: int) -> PartitionLog:
        return PartitionLog(partition, generation, kind, files, cut)

    return TopicLog(topic, source, log_of)


def _connecting(
    settings: StreamingSettings, project: str, topic: str, topic_id: str
) -> Callable[[], Opened]:
    """What opens a new connection to the store, and checks who answers there now."""
    said: set[str] = set()

    def connect() -> Opened:
        store = open_store(settings, project)
        try:
            for note in store.check():
                if note not in said:
                    log.warning("%s", note)
                    said.add(note)
            generation = store.generation(topic, topic_id)  # safe when it is new
        except BaseException:
            store.close()
            raise
        return Opened(store, generation)

    return connect


def _topics(settings: StreamingSettings, project: str, broker: Broker, events: str) -> None:
    """Create what is missing; refuse other numbers of partitions than were recorded first."""
    if broker.forgets():
        log.warning("%s", FORGETS)
    wanted = {
        events: settings.events_partitions,
        settings.updates_topic: settings.updates_partitions,
        settings.dead_letters_topic: 1,
    }
    store = open_store(settings, project)
    try:
        for topic, partitions in wanted.items():
            recorded = int(store.remember("partitions", topic, str(partitions)))
            if recorded != partitions:
                raise Refused(
                    f"topic {topic!r} was set up with {recorded} partitions, the settings say "
                    f"{partitions}: set it back, or replay into a new project and switch"
                )
    finally:
        store.close()
    broker.topics(wanted, settings.replication_factor)


def _run(
    process: str, settings: StreamingSettings, stopping: Callable[[], bool], build: Build
) -> None:
    """Incarnation after incarnation: a fault ends one, the next resumes after a pause."""
    quiet_logs()
    _collect_rarely()
    log.info("%s starts with %s", process, settings.model_dump(mode="json"))
    plans = FeatureRepo(settings.repo).open()
    observer = Observer(process)
    traces = open_traces(settings, process)
    current: list[Worker] = []
    stop_health = serve_health(observer, settings, lambda: any(w.joined for w in current))
    failures = 0
    try:
        while not stopping():
            began = time.monotonic()
            try:
                _incarnation(settings, plans, observer, traces, stopping, build, current)
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
        traces.close()


def _incarnation(
    settings: StreamingSettings,
    plans: PlanSource,
    observer: Observer,
    traces: Traces,
    stopping: Callable[[], bool],
    build: Build,
    current: list[Worker],
) -> None:
    worker, close = build(settings, plans, observer, traces)
    current[:] = [worker]
    try:
        worker.run(stopping, settings.poll_timeout_ms)
    finally:
        close()


def _collect_rarely() -> None:
    """Let the garbage collector look at young objects in larger batches, and seldom at old ones.

    Cached rows are many and live long, and there are hardly any cycles: a look at all of them
    takes longer than a turn, and finds nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 1_000)
    gc.enable()  # it rests while a process starts


def _pause(seconds: float, stopping: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stopping():
        time.sleep(0.05)
