"""Where the ranker is put together from its settings; what runs stands in `_stages`."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from features.candidates import ITEM_KEY
from features.errors import HeadraceError, Refused
from features.plan import FeatureRepo
from features.redis_rows import RedisRows
from features.spec import Plan
from features.traces.settings import open_traces
from ranker.admission import Admission
from ranker.front_desk import FrontDesk
from ranker.kafka import KafkaServingLog, NoServingLog, quiet_logs
from ranker.metrics import Observer
from ranker.pipeline import Pipeline, Stages
from ranker.reading import Reading, heads_loader, make_reading
from ranker.request import RankRequest, RankResponse
from ranker.rules import read_rules
from ranker.scoring.value import ValueModel, ValueWeights, read_weights
from ranker.serving import run
from ranker.settings import RankerSettings
from ranker.stages.filters import all_filters
from ranker.stages.fresh import FreshPool
from ranker.stages.hydrators import UserRowHydrator
from ranker.stages.last_resort import Popular, look
from ranker.stages.neighbours import Neighbours, graph_missing
from ranker.stages.read_through import ReadThrough
from ranker.stages.roles import Query
from ranker.stages.serving_log import ServingLogEffect
from ranker.stages.sources import FreshSource, NeighbourSource, TrendingSource
from ranker.switching import FollowedPlans
from ranker.tables.live_feed import redis_feeds
from ranker.tables.live_tables import LiveTables
from ranker.tables.popularity import Popularity, Renewal
from ranker.tables.redis_client import rows_of
from ranker.tables.user_rows import UserRows
from ranker.watched import Watched

log = logging.getLogger("headrace.ranker")


class Ranker:
    """The `ranker` process: live tables, a pipeline over them, and what keeps both up to date."""

    def __init__(self, settings: RankerSettings) -> None:
        self._settings = settings
        self.observer = Observer()
        url = settings.redis_url()
        self._plans = FollowedPlans(
            FeatureRepo(settings.repo).open(), lambda project: RedisRows(url, project)
        )
        self._plan = self._plans.read()
        self._weights = Watched(
            settings.value_weights or settings.repo / "value.yaml", read_weights, self._reweigh
        )
        self._rules = Watched(settings.feed_rules or settings.repo / "feed.yaml", read_rules)
        self._load_heads = heads_loader(settings.model, self._weights.value)
        self._reading: Reading | None = None
        self._popular = Popular()
        self._live = LiveTables(
            self._plan,
            redis_feeds(url),
            staleness_ms=settings.item_staleness_ms,
            rows_max=settings.items_max,
            replaced=self._forget_reading,
        )
        # Refuse at start what cannot serve: a model whose columns the service does not have.
        self._refuse_unfit(self._plan)
        self._log = (
            KafkaServingLog(
                settings.kafka, settings.kafka_security(), topic=settings.rankings_topic
            )
            if settings.kafka
            else NoServingLog()
        )
        self._neighbours = Neighbours(
            lambda: self._live.tables[ITEM_KEY],
            self._embedding_view,
            self._live.lock,
            exact_max=settings.neighbours_exact_max,
        )
        self._renewal = Renewal(self._popularity, self._live.lock, now_ms)
        self._stored = rows_of(url)
        self._pipeline = Pipeline(self._stages())
        admission = Admission(settings.requests_running_max, settings.queue_wait_ms_max)
        self._traces = open_traces(settings, "ranker")
        self.desk = FrontDesk(
            self._pipeline.rank, self.observer, admission, settings.deadline_ms, self._traces
        )
        self._stops = False

    def _stages(self) -> Stages:
        settings = self._settings
        users = UserRows(self._stored, self._live, settings.user_read_timeout_ms)
        fresh = FreshPool(1000 * settings.explore_age_s, settings.explore_impressions_max)
        return Stages(
            live=self._live,
            lock=self._live.lock,
            precedence=self._live.precedence,
            reading=self._current_reading,
            hydrator=ReadThrough(
                UserRowHydrator(users),
                self._live,
                settings.read_through_max,
                settings.read_through_ms,
            ),
            sources=[
                NeighbourSource(self._neighbours, settings.sourced_max),
                TrendingSource(settings.sourced_max),
                FreshSource(fresh, settings.explore_max),
            ],
            filters=all_filters(lambda: self._rules.value),
            side_effects=(
                [ServingLogEffect(self._log, settings.log_candidates_share)]
                if settings.kafka
                else []
            ),
            clock_ms=now_ms,
            rules=lambda: self._rules.value,
            popular=lambda: self._popular,
            observe=self._staged,
            deadline_ms=settings.deadline_ms,
            user_row_ms=settings.user_read_timeout_ms,
            workers=settings.rank_threads,
        )

    def _staged(self, query: Query) -> None:
        """Note where a request's time went."""
        self.observer.staged(query.timings_ms, query.timing.over)
        self._traces.note(**{f"{stage} ms": took for stage, took in query.timings_ms.items()})

    async def rank(self, request: RankRequest) -> RankResponse:
        """The feed for a request, past the front desk."""
        return await self._pipeline.rank(request)

    def stop_soon(self) -> None:
        """Be unready from now on."""
        self._stops = True

    def stopping(self) -> bool:
        """Whether connections should be made elsewhere from now on."""
        return self._stops

    def unready(self) -> str | None:
        """Why requests should not be sent here now."""
        if self._stops:
            return "this ranker is being stopped"
        return None if self._live.rows_loaded else self._live.degraded

    def observe(self) -> None:
        """Bring the gauges up to date."""
        self.observer.set("item_staleness_ms", self._live.staleness_ms())
        self.observer.set("rows_loaded", self._live.rows_loaded)
        self.observer.set("rows_load_s", self._live.load_s)
        self.observer.set("rows_evicted", self._live.evicted)
        self.observer.set("rows_refused", self._live.refused)
        for join_key, table in self._live.tables.items():
            self.observer.set(f"rows_{join_key}", table.held)
            self.observer.set(f"rows_bytes_{join_key}", table.nbytes)
        self.observer.set("neighbours", len(self._neighbours))
        self.observer.set("neighbours_behind", self._neighbours.behind)
        self.observer.set("rows_refreshed", self._live.refreshed)
        self.observer.set("side_effects_dropped", self._pipeline.dropped)
        self.observer.set("value_weights_refused", self._weights.refused)
        self.observer.set("feed_rules_refused", self._rules.refused)
        self.observer.set("feed_files_bad", float(self._weights.bad + self._rules.bad))
        self.observer.set("tables_connected", float(self._live.connected))
        if isinstance(self._log, KafkaServingLog):
            self.observer.set("serving_log_dropped", self._log.dropped)
            self.observer.set("serving_log_sent", self._log.sent)
            self.observer.set("serving_log_waiting", self._log.waiting)
        self.observer.set("requests_busy", self.desk.busy)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start, and stop at the end; what was served is flushed."""
        loaded = await asyncio.to_thread(self._live.start, self._settings.load_timeout_s)
        if not loaded:
            log.warning("rows are not loaded yet: %s", self._live.degraded)
        if (why := graph_missing()) is not None:
            log.warning("%s", why)
        self._neighbours.start()
        self._renewal.start()
        following = [
            asyncio.create_task(following)
            for following in (self._refresh(), self._follow_files(), self._follow_popular())
        ]
        try:
            await self._warm_up()
            yield
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
            await asyncio.to_thread(self._pipeline.close)
            await asyncio.to_thread(self._neighbours.stop)
            await asyncio.to_thread(self._renewal.stop)
            await asyncio.to_thread(self._live.stop)
            await asyncio.to_thread(self._log.close)
            self._plans.close()
            await asyncio.to_thread(self._traces.close)
            await self._stored.aclose()

    async def _warm_up(self) -> None:
        """One request that nobody is told of: what is compiled or read once is then there."""
        unhurried = round(1000 * self._settings.load_timeout_s)
        quiet = Pipeline(
            replace(
                self._pipeline.stages,
                side_effects=(),
                observe=lambda _: None,
                deadline_ms=unhurried,
            )
        )
        try:
            await quiet.rank(RankRequest(user_id="warm-up", limit=1))
        finally:
            quiet.close()

    def _reweigh(self, weights: ValueWeights) -> None:
        """Let other weights take effect, without loading the model again. Raises Refused."""
        with self._live.lock:
            if self._reading is not None and self._reading.heads is not None:
                heads = self._reading.heads
                value = ValueModel(weights, list(heads.model.forests))
                self._reading = replace(self._reading, heads=replace(heads, value=value))
            self._load_heads = heads_loader(self._settings.model, weights)

    def _current_reading(self) -> Reading:
        if self._reading is None:
            self._reading = make_reading(
                self._live.plan,
                self._settings.feature_service,
                self._live.tables,
                self._load_heads,
            )
        return self._reading

    def _embedding_view(self) -> str | None:
        with self._live.lock:
            return self._current_reading().embeddings

    def _popularity(self) -> Popularity:
        with self._live.lock:
            return self._current_reading().popularity

    def _forget_reading(self) -> None:
        self._reading = None

    def _refuse_unfit(self, plan: Plan) -> None:
        service = self._settings.feature_service
        if service not in plan.services:
            raise Refused(
                f"no feature service {service!r} in the registry (it has "
                f"{', '.join(plan.services) or 'none'}): run `feast apply`, or set "
                "HEADRACE_FEATURE_SERVICE"
            )
        self._load_heads([name for name, _ in plan.service_features(service)])

    async def _follow_files(self) -> None:
        """Let the weights and the rules take effect when their files change."""
        while True:
            await asyncio.sleep(self._settings.files_refresh_ms / 1000)
            await asyncio.to_thread(self._weights.check)
            await asyncio.to_thread(self._rules.check)

    async def _follow_popular(self) -> None:
        """Keep what is popular at hand, for requests that have no time to look."""
        while True:
            if self._live.rows_loaded:
                self._popular = await asyncio.to_thread(self._look)
            await asyncio.sleep(self._settings.popular_refresh_ms / 1000)

    def _look(self) -> Popular:
        with self._live.lock:
            reading = self._current_reading()
        rules = self._rules.value
        every = (rules.default, *rules.surfaces.values())
        paths = sorted({path for surface in every for path in surface.require})
        return look(reading, self._live.lock, now_ms(), self._settings.sourced_max, paths)

    async def _refresh(self) -> None:
        """Follow the registry: after `feast apply` the next requests see the new features."""
        while True:
            await asyncio.sleep(self._settings.plan_refresh_ms / 1000)
            try:
                plan = await asyncio.to_thread(self._plans.read)
            except HeadraceError as error:
                log.warning("the registry cannot be used, the plan stays: %s", error)
                continue
            if self._settings.feature_service not in plan.services:
                log.warning("the registry lost our feature service, the plan stays")
            elif plan != self._plan:
                log.info("the registry changed: plan %s, %s", plan.version, plan.services.keys())
                self._plan = plan
                await asyncio.to_thread(self._live.use, plan)


def now_ms() -> int:
    """The clock of requests, ms UTC."""
    return time.time_ns() // 1_000_000


def run_ranker(settings: RankerSettings) -> None:
    """The `ranker` process."""
    quiet_logs()
    log.info("ranker starts with %s", settings.model_dump(mode="json"))
    run(Ranker(settings), settings)
