"""One `headrace replay`: where events come from, where rows go, and which checks follow."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.replaying import skew as skews
from deploy.replaying import whatif
from deploy.replaying.history import through_feast
from deploy.replaying.report import Section, write_report
from deploy.replaying.sections import rank_section, skew_section, state_section
from deploy.replaying.source import log_files
from deploy.replaying.source import recorded as recorded_from
from deploy.replaying.whatif_section import nothing_compared, what_if_section
from features.errors import BadInput, Refused
from features.plan import FeatureRepo, PlanSource
from features.redis_rows import RedisRows
from features.spec import Plan
from ranker.judging.whatif import what_if
from ranker.reading import heads_loader
from ranker.recount import Recounter
from ranker.rules import read_rules
from ranker.scoring.model import read_manifest
from ranker.scoring.value import read_weights
from streaming.local_rows import LocalRows
from streaming.logs.files import LogFiles
from streaming.logs.outcomes import outcomes
from streaming.plans import REPLAYED
from streaming.replays.clocked import Tick
from streaming.replays.compare import compare
from streaming.replays.engine import Outcome, Phase, Replay, ReplaySettings, phases_of
from streaming.replays.recorded import Recorded
from streaming.replays.versions import BlockIndex, versions
from streaming.settings import StreamingSettings
from streaming.wiring import open_store

Watch = Callable[[Outcome, int | None], None]
OnTick = Callable[[Tick], bool]


@dataclass(frozen=True)
class Asked:
    """What `headrace replay` was asked for."""

    source: str | None
    repo: Path
    state: Path | None = None
    into_redis: bool = False
    resume: bool = False
    until_ms: int | None = None
    check_state: bool = False
    check_skew: bool = False
    check_rank: bool = False
    model: Path | None = None
    service: str = "home_feed"
    what_if: bool = False
    weights: Path | None = None
    feed: Path | None = None
    window_ms: int | None = None
    rankings: int = 1_000
    rows_max: int = 1_000_000
    report: Path | None = None
    tick_ms: int | None = None

    @property
    def checks(self) -> bool:
        """Whether anything is compared with what serves."""
        return self.check_state or self.check_skew or self.check_rank

    @property
    def of_rankings(self) -> bool:
        """Whether the serving log is read."""
        return self.check_skew or self.check_rank or self.what_if


@dataclass(frozen=True)
class Result:
    """What came of it."""

    outcome: Outcome
    sections: list[Section]
    report: Path | None


def run(asked: Asked, watch: Watch, on_tick: OnTick | None = None) -> Result:
    """Replay, then check. Raises Refused where a replay would mix with rows that stand."""
    _refuse_contradictions(asked)
    settings = StreamingSettings(repo=asked.repo)
    repo = FeatureRepo(asked.repo).open()
    plan = repo.read()
    with ExitStack() as closing:
        online = None
        if asked.checks or asked.into_redis:
            online = open_store(settings, plan.project)
            closing.callback(online.close)
        files = log_files(asked.source, repo.archive)
        recorded = recorded_from(asked.source, files, settings)
        store = online if asked.into_redis and online else closing.enter_context(_rows(asked))
        phases = [Phase(plan, {})]
        if asked.checks and online is not None:
            phases = phases_of(online, recorded.places(), plan)
        if asked.into_redis and online is not None and not asked.resume:
            _refuse_taken(online, plan)
        rules = _rules(settings, asked)
        replay = Replay(recorded, phases, store, rules, resume=asked.resume)
        total = recorded.count()
        if on_tick is not None and asked.tick_ms is not None:
            replay.run_clocked(asked.tick_ms, on_tick)
        else:
            replay.run(lambda outcome: watch(outcome, total))
        if asked.into_redis or asked.state or asked.check_state:
            replay.finish()
        outcome = replay.digest()
        if asked.into_redis and files is not None and online is not None:
            _hand_over(online, files, outcome)
        sections = list(_checked(asked, plan, online, store, recorded, files, rules, repo))
    page = None
    if asked.report is not None:
        page, _ = write_report(asked.report, f"Replay of {recorded.name}", sections)
    return Result(outcome, sections, page)


def _checked(
    asked: Asked,
    plan: Plan,
    online: RedisRows | None,
    replayed: Any,
    recorded: Recorded,
    files: LogFiles | None,
    rules: ReplaySettings,
    repo: PlanSource,
) -> Iterator[Section]:
    if asked.check_state:
        assert online is not None
        yield state_section(plan, compare(plan, online, replayed), recorded)
    if asked.of_rankings and files is None:
        raise BadInput(
            "--check-skew, --check-rank and --what-if need an archive, with its rankings"
        )
    if files is not None and (asked.check_skew or asked.check_rank):
        weights = read_weights(asked.repo / "value.yaml")
        recounter = Recounter(plan, asked.service, heads_loader(asked.model, weights))
        skew = skews.Skew()
        records = list(skews.served(files, asked.rankings))
        rankings = skews.rankings_of(records, plan, skew)
        wanted = skews.wanted_by(rankings, recounter)
        found = versions(plan, recorded, BlockIndex(files), wanted, rules)
        rules_served = read_rules(asked.repo / "feed.yaml")
        skews.check(rankings, recounter, found, skew, rules=rules_served)
        if asked.check_skew:
            skew.history = through_feast(repo, rankings, recounter, found, asked.service)
            yield skew_section(skew)
        if asked.check_rank:
            yield rank_section(skew)
    if files is not None and asked.what_if:
        yield _what_if(asked, plan, recorded, files, rules)


def _what_if(
    asked: Asked, plan: Plan, recorded: Recorded, files: LogFiles, rules: ReplaySettings
) -> Section:
    """Recorded rankings beside what the model, the weights and the rules given make of them."""
    assert asked.model is not None
    weights = read_weights(asked.weights or asked.repo / "value.yaml")
    recounter = Recounter(plan, asked.service, heads_loader(asked.model, weights))
    if recounter.model is None:
        raise Refused(f"--what-if cannot rank: {recounter.unfit}")
    left_out = Counter[str]()
    records = list(skews.served(files, asked.rankings))
    rankings = whatif.rankings_of(records, left_out)
    if not rankings:
        return nothing_compared(left_out)
    wanted = skews.wanted_by(rankings, recounter)
    found = versions(plan, recorded, BlockIndex(files), wanted, rules, as_if=True)
    known = outcomes(recorded, {one.request_id for one in rankings})
    feed = read_rules(asked.feed or asked.repo / "feed.yaml")
    side = whatif.reranked(rankings, recounter, found, known, asked.window_ms, feed, left_out)
    if not side.judged:
        return nothing_compared(left_out)
    labels = whatif.labels_of(read_manifest(asked.model), rankings, plan)
    return what_if_section(what_if(side.judged, labels), side)


def _refuse_contradictions(asked: Asked) -> None:
    if asked.state and asked.into_redis:
        raise BadInput("--state and --into-redis exclude each other: rows go to one place")
    if asked.into_redis and asked.checks:
        raise BadInput(
            "--into-redis with a check would hold the rows against themselves: check afterwards, "
            "by a command of its own"
        )
    if asked.resume and not (asked.state or asked.into_redis):
        raise BadInput("--resume goes on where rows were kept: name --state or --into-redis")
    if asked.what_if and asked.model is None:
        raise BadInput("--what-if needs a model to rank with: --model FOLDER")
    if not asked.what_if and (asked.weights or asked.feed or asked.window_ms is not None):
        raise BadInput("--weights, --feed and --window are of --what-if")
    if asked.check_rank and asked.model is None:
        raise BadInput("--check-rank needs the model that served: --model FOLDER")


def _rules(settings: StreamingSettings, asked: Asked) -> ReplaySettings:
    """What `route` goes by, from the same settings."""
    return ReplaySettings(
        horizon=settings.dedup_horizon_offsets,
        max_ahead_ms=settings.max_ahead_ms,
        rows_max=asked.rows_max,
        until_ms=asked.until_ms,
    )


@contextmanager
def _rows(asked: Asked) -> Iterator[LocalRows]:
    """The file that rows go to when they are kept, or when memory is full."""
    with tempfile.TemporaryDirectory(prefix="headrace-replay-") as folder:
        rows = LocalRows(asked.state or Path(folder) / "rows.sqlite")
        try:
            yield rows
        finally:
            rows.close()


def _refuse_taken(online: RedisRows, plan: Plan) -> None:
    """A replay fills an empty project: what stands in rows would be counted twice."""
    for entity in plan.entities:
        if next(online.every(entity.join_key, 1_000), None):
            raise Refused(
                f"project {plan.project!r} has rows in Redis already, and a replay would count "
                "their events again: give the repository another project in feature_store.yaml, "
                "fill that, and go over to it with `headrace switch`"
            )


def _hand_over(online: RedisRows, files: LogFiles, outcome: Outcome) -> None:
    """Tell the project's `route` where the replay ended, so that it goes on from there."""
    lives = files.lives("events")
    for place, offset in outcome.positions.items():
        if place.generation in lives:
            online.remember(REPLAYED, f"{lives[place.generation]}/{place.partition}", str(offset))
