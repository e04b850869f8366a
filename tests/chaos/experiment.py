"""Experiments: what is done to which part, what must hold meanwhile, and what came of it."""

import contextlib
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from features.spec import Plan
from ranker.client import NO_RETRIES, Client, RankError, RankRequest, RankResponse, Retries
from ranker.metrics import stage_of
from tests.chaos.callers import SteadyCallers
from tests.chaos.links import LINKS, RANKERS, WORKERS, Town, full, pressed
from tests.chaos.proxy import Trouble
from tests.chaos.round import Round, Settings

FOLDER = Path(__file__).with_name("experiments")
DEADLINE_MS = 400
PATIENCE_S = 0.6
"""A caller's, for the deadline and the way there and back."""
CALLS_PER_S = 10
EVENTS_PER_S = 100.0
LEAP_S = 0.5
"""How long a clock that leaps stays where it is."""
Share = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pressure(_Strict):
    """What the machine lacks."""

    cores: int = Field(0, ge=0, le=64)
    memory_mb: int = Field(0, ge=0, le=100_000)
    disk_full: bool = False


class Steady(_Strict):
    """What must hold: the hypothesis."""

    answered: Share
    whole: Share
    recovers_s: float = Field(gt=0)


class Experiment(_Strict):
    """One file."""

    says: str
    links: dict[str, Trouble] = {}
    pressure: Pressure = Pressure()
    restart: list[str] = []
    clocks: dict[str, int] = {}
    """By process: how many seconds its clock is ahead."""
    leaps: dict[str, Annotated[list[int], Field(min_length=2)]] = {}
    """By process that runs: how many seconds its clock is ahead, in turn and all over again."""
    for_s: float = Field(gt=0, le=600)
    steady: Steady

    @model_validator(mode="after")
    def _names_what_there_is(self) -> "Experiment":
        processes = {*self.restart, *self.clocks, *self.leaps}
        names = {*self.links} - {*LINKS} | processes - {*WORKERS, *RANKERS}
        if names:
            raise ValueError(f"there is no {', '.join(sorted(names))}")
        if not (self.links or processes or self.pressure != Pressure()):
            raise ValueError("it does nothing")
        return self


@dataclass
class Result:
    """What came of one; `refuted` is empty when the hypothesis held."""

    name: str
    calls: int = 0
    answered: int = 0
    whole: int = 0
    events: int = 0
    lost: int | None = None
    recovered_s: float = 0.0
    lacked: dict[str, int] = field(default_factory=dict)
    """Feeds that lacked a stage, by the stage."""
    unanswered: dict[str, int] = field(default_factory=dict)
    """Calls that got no feed, by the client's error."""
    refuted: list[str] = field(default_factory=list)
    skipped: str | None = None


def read(file: Path) -> Experiment:
    """The experiment in a file. Raises ValueError for one that cannot be made."""
    return Experiment.model_validate(yaml.safe_load(file.read_text()))


def lacking(experiment: Experiment, here: Town) -> str | None:
    """Why an experiment cannot be made on this machine."""
    if experiment.pressure.disk_full and here.disk is None:
        return "only root can make a small disk"
    return None


def run(name: str, experiment: Experiment, here: Town, plan: Plan, seed: str) -> Result:
    """Do it to a town that is well, wait until it is well again, and compare the rows."""
    result = Result(name)
    if (why := lacking(experiment, here)) is not None:
        result.skipped = why
        return result
    one = Round(here, plan, seed, Settings(per_second=EVENTS_PER_S))
    try:
        one.move("start")
        restarts = experiment.restart or experiment.clocks
        retries, answers = Retries() if restarts else NO_RETRIES, Answers()
        with SteadyCallers(
            here.address, answers.ask, per_s=CALLS_PER_S, patience_s=PATIENCE_S, retries=retries
        ):
            _suffer(experiment, here)
        result.recovered_s = one.move(name)
    finally:
        here.mend()
        one.close()
    result.calls, result.answered, result.whole = answers.calls, answers.answered, answers.whole
    result.lacked = dict(answers.lacked.most_common())
    result.unanswered = dict(answers.errors.most_common())
    try:
        one.compare()
        result.lost = 0
    except AssertionError as error:
        result.refuted.append(f"rows: {error}")
    result.events = one.account()["records"]
    result.refuted += list(_refuted(experiment.steady, result))
    return result


def _suffer(experiment: Experiment, here: Town) -> None:
    pressure = experiment.pressure
    with contextlib.ExitStack() as until_the_end:
        if pressure.cores or pressure.memory_mb:
            until_the_end.enter_context(pressed(pressure.cores, pressure.memory_mb))
        if pressure.disk_full:
            assert here.disk is not None
            until_the_end.enter_context(full(here.disk))
        for link, trouble in experiment.links.items():
            here.suffer(link, trouble)
        for name in experiment.restart:
            here.restart(name)
        for name, ahead_s in experiment.clocks.items():
            here.restart(name, ahead_s)
        _last(experiment, here)
        for name in experiment.clocks:
            here.restart(name)
        here.mend()
        fallen = here.fallen()
        assert not fallen, f"{fallen} ended by themselves"


def _last(experiment: Experiment, here: Town) -> None:
    """Let the time of an experiment pass, with clocks that leap."""
    until, turn = time.monotonic() + experiment.for_s, 0
    while (left := until - time.monotonic()) > 0:
        for name, leads_s in experiment.leaps.items():
            here.clocks[name].set(leads_s[turn % len(leads_s)])
        time.sleep(min(left, LEAP_S))
        turn += 1


def _refuted(steady: Steady, result: Result) -> list[str]:
    answered, whole = result.answered / result.calls, result.whole / result.calls
    wrong = []
    if answered < steady.answered:
        wrong.append(f"{answered:.1%} answered, not {steady.answered:.1%}")
    if whole < steady.whole:
        wrong.append(f"{whole:.1%} whole, not {steady.whole:.1%}")
    if result.recovered_s > steady.recovers_s:
        wrong.append(f"recovered in {result.recovered_s:.1f} s, not {steady.recovers_s:g}")
    return wrong


def is_whole(feed: RankResponse) -> bool:
    """Whether no stage was late or missing; that there is no model here is nobody's trouble."""
    return not lacking_in(feed)


def lacking_in(feed: RankResponse) -> list[str]:
    """The stages that a feed lacks."""
    return [stage_of(why) for why in feed.degraded if not why.startswith("model: no model")]


class Answers:
    """What came of what people asked for, in time."""

    def __init__(self) -> None:
        self.calls = self.answered = self.whole = 0
        self.lacked: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._lock = threading.Lock()

    def ask(self, client: Client, rng: random.Random) -> None:
        """One call, from any thread."""
        request = RankRequest(user_id=f"u{rng.randrange(50)}", deadline_ms=DEADLINE_MS)
        feed, why = None, ""
        try:
            feed = client.rank(request)
        except RankError as error:
            why = type(error).__name__
        with self._lock:
            self.calls += 1
            if feed is None:
                self.errors[why] += 1
                return
            self.answered += 1
            self.whole += is_whole(feed)
            self.lacked.update(lacking_in(feed))
