"""The demo, step by step."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from deploy import local, stack_file
from deploy.demo.judge import Judgement, Known, judged_requests
from deploy.demo.picture import draw
from deploy.demo.recording import Recording, find_recording
from deploy.demo.stream import Stream
from deploy.stack_file import Stack
from features.errors import Unavailable
from features.events import EngagementEvent, Event, ImpressionEvent
from ranker.request import RankedItem, RankResponse
from streaming.event_file import write_events
from streaming.kafka import open_sink

REQUESTS_MAX = 2_000
STEPS_MAX = 12
FEED = 10
EFFECT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Effect:
    """A click, and what it did to a feed."""

    user_id: str
    clicked: str
    before: list[RankedItem]
    after: list[RankedItem]
    took_ms: float


def run_demo(data: Path, repo: Path, serve: bool, console: Console) -> None:
    """Stream, train, rank, click; stop everything unless it is to go on serving."""
    began = time.monotonic()
    recording = find_recording(data / "cache", console.print)
    workers = ("route", "aggregate")
    console.rule("1 · the stack")
    try:
        stack = local.up(local.Asked(data=data, repo=repo, workers=workers), console.print)
        _play(data, repo, stack, recording, console)
        console.print(f"\nthe demo took {time.monotonic() - began:.0f} s")
        if serve:
            _invite(data, console)
    except BaseException:
        local.down(data, console.print)
        raise
    if not serve:
        local.down(data, console.print)


def _play(data: Path, repo: Path, stack: Stack, recording: Recording, console: Console) -> None:
    early = [e for e in recording.events if e.event_time < recording.cut_ms]
    late = [e for e in recording.events if e.event_time >= recording.cut_ms]
    sink = open_sink(local.settings(stack)["HEADRACE_KAFKA"])
    try:
        stream = Stream(stack, sink, "events")
        console.rule("2 · real events through Kafka into Redis, at full speed")
        seconds = stream.play(early, console)
        console.print(f"{len(early):,} events folded, {len(early) / seconds:,.0f} events/s")
        console.rule("3 · a model from the earlier part")
        model = _train(data, repo, stack, recording, early)
        console.rule("4 · the ranker, and the later part hour by hour")
        asked = local.Asked(data=data, repo=repo, model=model)
        stack = local.up(asked, console.print)
        ranker = _Ranker(stack)
        judgement, now = _judge(recording, early, late, stream, ranker, console)
        quality = judgement.table()
        _print_quality(judgement, quality, console)
        console.rule("5 · a click, and what it moves")
        effect = _click(early, now, stream, ranker, console)
        picture = data / "demo.png"
        draw(
            picture,
            recording.title,
            quality,
            [item.item_id for item in effect.before],
            [item.item_id for item in effect.after],
            effect.clicked,
            effect.took_ms,
        )
        console.print(f"picture: {picture}")
    finally:
        sink.close()


class _Ranker:
    """The running ranker, over HTTP."""

    def __init__(self, stack: Stack) -> None:
        self._url = f"http://127.0.0.1:{stack.children['ranker'].port}/v1/rank"
        self._client = httpx.Client(timeout=10.0)

    def rank(self, body: dict[str, object]) -> RankResponse:
        answer = self._client.post(self._url, json=body)
        if answer.status_code != 200:
            raise Unavailable(f"the ranker answered {answer.status_code}: {answer.text}")
        return RankResponse.model_validate_json(answer.content)


def _train(
    data: Path, repo: Path, stack: Stack, recording: Recording, early: Sequence[Event]
) -> Path:
    """Train in a process of its own, as a user would, from a file of the earlier events."""
    file, model = data / "earlier.jsonl", data / "model"
    write_events(file, early)
    command = [sys.executable, "-P", "-m", "deploy.cli", "train", str(file), "-o", str(model)]
    command += ["--head", recording.label, "--repo", str(repo)]
    subprocess.run(command, check=True, env={**os.environ, **local.settings(stack)})
    return model


def _judge(
    recording: Recording,
    early: Sequence[Event],
    late: Sequence[Event],
    stream: Stream,
    ranker: _Ranker,
    console: Console,
) -> tuple[Judgement, int]:
    """Step by step: rank the requests of the step live, then stream its events."""
    known, judgement = Known(recording.label), Judgement()
    known.learn(early)
    requests = judged_requests(recording.events, recording.label, recording.cut_ms)
    at, now = 0, recording.cut_ms
    for step in range(STEPS_MAX):
        now = recording.cut_ms + (step + 1) * recording.step_ms
        batch = [r for r in requests if now - recording.step_ms <= r.now < now]
        room = REQUESTS_MAX - len(judgement.took_ms)
        for request in batch[:room]:
            judgement.add(request, known, ranker.rank)
        stop = at
        while stop < len(late) and late[stop].event_time < now:
            stop += 1
        stream.send(late[at:stop])
        stream.wait()
        known.learn(late[at:stop])
        at = stop
        if len(judgement.took_ms) >= REQUESTS_MAX:
            break
    console.print(
        f"{len(judgement.took_ms):,} requests of real users ranked live, each at its own time; "
        f"{at:,} later events streamed meanwhile"
    )
    return judgement, now


def _print_quality(
    judgement: Judgement, quality: dict[str, tuple[float, float]], console: Console
) -> None:
    table = Table("on held-back events", "AUC, all rows", "AUC inside requests")
    for name, (over_all, inside) in quality.items():
        table.add_row(name, f"{over_all:.3f}", f"{inside:.3f}")
    console.print(table)
    took = np.percentile(judgement.took_ms, (50, 99))
    console.print(
        f"{len(judgement.label):,} rows; the ranker took {took[0]:.1f} ms (p50), "
        f"{took[1]:.1f} ms (p99) a request"
    )


def _click(
    early: Sequence[Event], now: int, stream: Stream, ranker: _Ranker, console: Console
) -> Effect:
    """Show a user's feed, click an item low in it, and ask again until the click shows."""
    counts: dict[str, int] = {}
    for event in early[-50_000:]:
        if isinstance(event, ImpressionEvent):
            counts[event.user_id] = counts.get(event.user_id, 0) + 1
    user = max(counts, key=lambda one: counts[one])
    surface = next(
        e.surface for e in reversed(early) if isinstance(e, ImpressionEvent) and e.user_id == user
    )
    body: dict[str, object] = {"user_id": user, "surface": surface, "limit": FEED, "explain": True}
    before = ranker.rank({**body, "now": now})
    target = before.items[-1]
    click = EngagementEvent(
        type="engagement",
        event_id=f"demo-click-{time.time_ns()}",
        event_time=now + 1,
        user_id=user,
        item_id=target.item_id,
        action="click",
        request_id=before.request_id,
        surface=surface,
        position=target.position,
        value=60_000,
        author_id=target.author_id,
        categories=target.categories,
    )
    sent = time.perf_counter()
    stream.send([click])
    while True:
        after = ranker.rank({**body, "now": now + 2})
        took_ms = (time.perf_counter() - sent) * 1000
        if after.freshness.user_updated_at == now + 1:
            break
        if took_ms > EFFECT_TIMEOUT_S * 1000:
            raise Unavailable(f"the click is not visible after {EFFECT_TIMEOUT_S:.0f} s")
    _print_feeds(user, before, after, target, took_ms, console)
    return Effect(user, target.item_id, before.items, after.items, took_ms)


def _print_feeds(
    user: str,
    before: RankResponse,
    after: RankResponse,
    clicked: RankedItem,
    took_ms: float,
    console: Console,
) -> None:
    table = Table("#", "item", "score", "why", title=f"the feed of user {user}")
    for item in before.items:
        reasons = item.reasons or []
        why = "; ".join(f"{r.says} {r.contribution:+.2f}" for r in reasons[:2])
        table.add_row(str(item.position), item.item_id, f"{item.score:.3f}", why)
    console.print(table)
    console.print(f"user {user} clicks item {clicked.item_id} at place {clicked.position}")
    places = {item.item_id: item for item in before.items}
    moved = Table("#", "item", "score", "was", title="the same feed after the click")
    for item in after.items:
        old = places.get(item.item_id)
        was = "new in the feed" if old is None else f"place {old.position}, {old.score:.3f}"
        moved.add_row(str(item.position), item.item_id, f"{item.score:.3f}", was)
    console.print(moved)
    fresh = after.freshness
    console.print(
        f"{took_ms:.0f} ms from sending the click to Kafka until it changed the ranking (features "
        f"of the user are {fresh.user_age_ms} ms old, of items {fresh.item_staleness_ms:.0f} ms)"
    )


def _invite(data: Path, console: Console) -> None:
    stack = stack_file.load(data)
    assert stack is not None
    url = f"http://127.0.0.1:{stack.children['ranker'].port}"
    console.rule("it goes on running; try")
    body = '{"user_id": "712", "surface": "1", "limit": 5, "explain": true}'
    console.print(
        f"curl -s {url}/v1/rank -H 'content-type: application/json' -d '{body}'\n"
        f"curl -s {url}/readyz\n"
        f"curl -s {url}/metrics\n"
        f'eval "$(headrace env --data {data})"\n'
        f"headrace status --data {data}\n"
        f"headrace down --data {data}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
