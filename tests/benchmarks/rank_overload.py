"""More requests than can be answered: how many are answered whole and in time, up to three times.

Callers come at random instants and wait 250 ms. The yardstick is the same ranker that lets
everybody in: `HEADRACE_QUEUE_WAIT_MS_MAX` and `HEADRACE_REQUESTS_RUNNING_MAX` out of reach.
"""

from tests.benchmarks.offered import Outcome, offer, saturation
from tests.benchmarks.rank import EVENTS, FULL_EVENTS
from tests.benchmarks.report import Result, drawn
from tests.benchmarks.served import Served, World, ranker, world

LOADS = (0.5, 1.0, 2.0, 3.0)
FULL_LOADS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
SECONDS, FULL_SECONDS = 4.0, 10.0
EVERYBODY = {"HEADRACE_REQUESTS_RUNNING_MAX": "100000", "HEADRACE_QUEUE_WAIT_MS_MAX": "600000"}


def run(full: bool) -> Result:
    seconds, loads = (FULL_SECONDS, FULL_LOADS) if full else (SECONDS, LOADS)
    with world(FULL_EVENTS if full else EVENTS) as of:
        with ranker(of) as served:
            warm(served, of)
            most = saturation(served.grpc, of.asked, seconds)
            ours = [offer(served.grpc, of.asked, load * most, seconds) for load in loads]
            assert served.metric("serving_log_dropped") == 0
        with ranker(of, settings=EVERYBODY) as served:
            warm(served, of)
            theirs = [offer(served.grpc, of.asked, load * most, seconds) for load in loads]
    if full:
        draw(ours, theirs, most)
    flat, collapse = (
        {
            f"goodput_per_s_at_{load:g}x": one.goodput_per_s
            for load, one in zip(loads, side, strict=True)
        }
        for side in (ours, theirs)
    )
    return Result(
        benchmark="rank_overload",
        ours=flat
        | {
            "saturation_per_s": most,
            "goodput_kept_at_3x": ours[-1].goodput_per_s / max(one.goodput_per_s for one in ours),
            "p99_ms_at_3x": ours[-1].percentile_ms(99),
        },
        yardstick=collapse
        | {
            "goodput_kept_at_3x": theirs[-1].goodput_per_s
            / max(one.goodput_per_s for one in theirs)
        },
        ratio={"goodput_at_3x": ours[-1].goodput_per_s / max(theirs[-1].goodput_per_s, 1.0)},
    )


def warm(served: Served, of: World) -> None:
    """Every kind of request has been answered before anything is counted."""
    saturation(served.grpc, of.asked, 1.5)


def draw(ours: list[Outcome], theirs: list[Outcome], most: float) -> None:
    """What was answered whole and in time over what was asked for, and how long that took."""
    with drawn("rank_overload", 2) as (good, slow):
        for name, side in (("ours", ours), ("everybody let in", theirs)):
            offered = [one.offered_per_s for one in side]
            good.plot(offered, [one.goodput_per_s for one in side], "o-", label=name)
            slow.plot(offered, [one.percentile_ms(99) for one in side], "o-", label=f"{name}, p99")
        slow.plot(
            [one.offered_per_s for one in ours],
            [one.percentile_ms(50) for one in ours],
            "o--",
            label="ours, p50",
        )
        good.axvline(most, color="grey", linestyle=":")
        good.set(xlabel="requests a second", ylabel="whole feeds within 250 ms, a second")
        slow.set(xlabel="requests a second", ylabel="ms", ylim=(0, 260))
        for axes in (good, slow):
            axes.legend()
