"""The ranker process, composed as it runs, over a Valkey of its own and the default repository."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from deploy import servers
from deploy.ports import HOST, free_port
from deploy.processes import running
from features.plan import FeatureRepo
from features.redis_rows import RedisRows
from ranker.request import RankRequest, RankResponse
from ranker.settings import RankerSettings
from ranker.training.boosting import Fitting
from ranker.training.fitting import HeadSpec, train_heads, write_model
from ranker.training.rows import RowMaker
from ranker.wiring import Ranker
from streaming.replay import Request, Timeline
from tests.browsing import browsing
from tests.plans import World
from tests.relating import act
from tests.stored import writes_of

ITEMS = [f"i{number}" for number in range(60)]
SERVICE = "home_feed"
NOW = 6_000


@dataclass
class Ground:
    """What a ranker stands on."""

    settings: RankerSettings
    valkey: ExitStack
    """Closing it takes the server away."""

    @property
    def weights(self) -> Path:
        assert self.settings.value_weights is not None
        return self.settings.value_weights

    @property
    def rules(self) -> Path:
        assert self.settings.feed_rules is not None
        return self.settings.feed_rules

    def run(self, body: Callable[[Ranker], Awaitable[None]]) -> None:
        async def during() -> None:
            ranker = Ranker(self.settings)
            async with ranker.running():
                await body(ranker)

        asyncio.run(during())


@pytest.fixture
def ground(applied_repo: Path, tmp_path: Path) -> Iterator[Ground]:
    plan = FeatureRepo(applied_repo).open().read()
    events = [*browsing(300), act("u3", 4, "block", 5_000)]
    timeline = Timeline(plan, browsing(300))
    maker = RowMaker(plan, SERVICE, timeline.tables, ["click"])

    def make(request: Request) -> None:
        maker.add(request.now, request.user_id, request.surface, request.items, request.outcomes)

    timeline.run(make)
    rows = maker.rows()
    heads = train_heads(rows, [HeadSpec.parse("click")], Fitting(trees=10))
    write_model(tmp_path / "model", heads, rows, plan, SERVICE, len(events))
    port = free_port()
    url = f"redis://{HOST}:{port}/0"
    (tmp_path / "value.yaml").write_text("default: {click: 1.0}")
    (tmp_path / "feed.yaml").write_text("default: {}")
    with ExitStack() as valkey:
        valkey.enter_context(running(servers.valkey(port, tmp_path / "valkey"), tmp_path / "log"))
        indexed = [e.join_key for e in plan.entities if e.join_key != "user_id"]
        with closing(RedisRows(url, plan.project, indexed, "none")) as store:
            assert all(store.write(list(writes_of(World(plan).fold(events), 7))))
        settings = RankerSettings(
            redis=SecretStr(url),
            kafka="",
            repo=applied_repo,
            model=tmp_path / "model",
            value_weights=tmp_path / "value.yaml",
            feed_rules=tmp_path / "feed.yaml",
            files_refresh_ms=100,
            popular_refresh_ms=100,
            deadline_ms=2_000,
            user_read_timeout_ms=500,
        )
        yield Ground(settings, valkey)


async def ask(ranker: Ranker, user: str = "u3", **more: object) -> RankResponse:
    body = {"user_id": user, "candidates": ITEMS, "limit": 60, "now": NOW} | more
    return await ranker.rank(RankRequest.model_validate(body))


async def until(met: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await met():  # noqa: ASYNC110 - nothing tells of a file that took effect
            await asyncio.sleep(0.02)


def ids(response: RankResponse) -> list[str]:
    return [item.item_id for item in response.items]


def test_weights_and_rules_take_effect_while_it_runs_and_bad_ones_do_not(ground: Ground) -> None:
    async def body(ranker: Ranker) -> None:
        usual = await ask(ranker)
        assert usual.degraded == []
        assert all(item.categories and item.known for item in usual.items)
        assert not set(ids(usual)) & {f"i{number}" for number in range(4, 60, 10)}
        ground.weights.write_text("default: {click: -1.0}")

        async def turned() -> bool:
            return [item.score for item in (await ask(ranker)).items] == sorted(
                -item.score for item in usual.items
            )[::-1]

        async def said_bad() -> bool:
            ranker.observe()
            return b'{kind="feed_files_bad"} 1.0' in ranker.observer.text()

        await until(turned)
        for bad in ("default: {hide: 1.0}", "default: ["):
            ground.weights.write_text(bad)
            await until(said_bad)
            assert await turned()
        ground.rules.write_text("default: {age_max: 1s}")

        async def fewer() -> bool:
            return len((await ask(ranker)).items) < len(usual.items)

        await until(fewer)

    ground.run(body)


def test_every_stage_is_timed(ground: Ground) -> None:
    async def body(ranker: Ranker) -> None:
        await ask(ranker, candidates=None, explain=True)
        names = ("user_row", "source:trending", "features", "filter:seen", "heads", "value")

        async def timed() -> bool:
            text = ranker.observer.text().decode()
            return all(
                f'headrace_rank_stage_seconds_count{{stage="{name}"}} 1.0' in text
                for name in (*names, "explain", "page")
            )

        await until(timed)

    ground.run(body)


def test_with_redis_gone_there_is_a_feed_within_the_deadline_that_says_so(ground: Ground) -> None:
    async def body(ranker: Ranker) -> None:
        assert (await ask(ranker)).degraded == []
        ground.valkey.close()
        for candidates in (ITEMS, None):
            feed = await ask(ranker, candidates=candidates, deadline_ms=1_000)
            assert feed.took_ms <= 1_000
            assert feed.degraded[0].startswith("user_row: ")
            assert len(feed.items) >= 20

        async def told() -> bool:
            stages = {entry.partition(":")[0] for entry in (await ask(ranker)).degraded}
            return stages == {"user_row", "item_table"}

        await until(told)

    ground.run(body)
