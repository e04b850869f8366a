"""All parts in order; one that cannot be looked at keeps none of the others from it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydantic import ValidationError

from deploy.doctor import definitions, ranker, redis, stream
from deploy.doctor.finding import Finding, Look, looked, ok
from features.plan import FeatureRepo
from features.spec import Plan
from features.version import VERSION
from ranker.settings import RankerSettings
from streaming.settings import StreamingSettings
from streaming.wiring import open_store

PARTS: Final = ("settings", "registry", "redis", "kafka", "model", "ranker", "workers")


@dataclass(frozen=True)
class Asked:
    """What to look at; a ranker's URL of None is the one of the settings."""

    parts: Sequence[str] = PARTS
    ranker: str | None = None
    workers: Sequence[str] = ()
    lag_records_max: int = 100_000


def rounds(asked: Asked) -> Iterator[Finding]:
    """Every finding, as soon as it is known. The settings and the registry are read always."""
    try:
        streaming, ranking = StreamingSettings(), RankerSettings()
    except ValidationError as error:
        for one in error.errors(include_url=False, include_input=False, include_context=False):
            name = "_".join(map(str, one["loc"])).upper()
            says = f"HEADRACE_{name}: {one['msg']}" if name else one["msg"]
            yield Finding(
                "settings", "fault", says, "set it right; the operator's guide has a table"
            )
        return
    if "settings" in asked.parts:
        yield ok("settings", f"version {VERSION}; every process can read its settings")
    patient = _Patient(streaming, ranking, asked)
    for part in PARTS[1:]:
        if part in asked.parts:
            yield from looked(part, patient.looks[part])


@dataclass
class _Patient:
    """What one round looks at; the plan is read once, whoever needs it first."""

    streaming: StreamingSettings
    ranking: RankerSettings
    asked: Asked
    _plan: Plan | None = field(default=None)

    @property
    def looks(self) -> dict[str, Look]:
        return {
            "registry": self._registry,
            "redis": self._redis,
            "kafka": self._kafka,
            "model": lambda: ranker.look_at_files(self.ranking, self._known()),
            "ranker": self._ranker,
            "workers": self._workers,
        }

    def _known(self) -> Plan:
        if self._plan is None:
            self._plan = FeatureRepo(self.streaming.repo).open().read()
        return self._plan

    def _registry(self) -> Iterator[Finding]:
        yield from definitions.look(FeatureRepo(self.streaming.repo), self._known())

    def _redis(self) -> Iterator[Finding]:
        plan, settings = self._known(), self.streaming
        yield from redis.look(settings.redis_url(), plan.project, settings.durability)
        store = open_store(settings, plan.project)
        try:
            yield from definitions.look_in_force(store, plan)
        finally:
            store.close()

    def _kafka(self) -> Iterator[Finding]:
        yield from stream.look(
            self.streaming, self._known(), self.ranking.rankings_topic, self.asked.lag_records_max
        )

    def _ranker(self) -> Iterator[Finding]:
        settings = self.ranking
        scheme = "http" if settings.tls_cert_file is None else "https"
        usual = f"{scheme}://{settings.http_host}:{settings.http_port}"
        yield from ranker.look_at_ranker((self.asked.ranker or usual).rstrip("/"))

    def _workers(self) -> Iterator[Finding]:
        for url in self.asked.workers:
            yield from looked(f"worker {url}", _of_worker(url.rstrip("/")))


def _of_worker(url: str) -> Callable[[], Iterator[Finding]]:
    return lambda: ranker.look_at_worker(url)


def verdict(findings: Sequence[Finding]) -> int:
    """The exit status: 1 when anything is at fault."""
    return int(any(one.level == "fault" for one in findings))
