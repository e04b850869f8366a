"""`python -m tests.kubernetes.scaling PLOT.png`: lag, latency and cost of each day, drawn."""

import sys
from pathlib import Path

import matplotlib as mpl

from tests.helm import missing
from tests.kubernetes.scaling.scenarios import (
    broker_stall,
    chart_rules,
    recorded_day,
    spike,
    worse_feed,
)
from tests.kubernetes.scaling.world import simulate

mpl.use("Agg")


def main(target: Path) -> None:
    from matplotlib import pyplot as plt

    if (why := missing()) is not None:
        sys.exit(why)
    days = {
        "a recorded day": recorded_day(),
        "ten times as much at noon": spike(),
        "brokers stalled for 10 minutes": broker_stall(),
        "a worse feed at noon": worse_feed(),
    }
    figure, axes = plt.subplots(4, len(days), figsize=(16, 9), sharex=True, layout="constrained")
    for column, (title, load) in enumerate(days.items()):
        moments = simulate(chart_rules()[0], load)
        hours = [m.at_s / 3600 for m in moments]
        rows: dict[str, dict[str, list[float]]] = {
            "replicas": {n: [m.replicas[n] for m in moments] for n in moments[0].replicas},
            "lag, s": {n: [m.lag_s[n] for m in moments] for n in moments[0].lag_s},
            "p99, ms": {"ranker": [m.p99_ms for m in moments]},
            "$ an hour": {"all": [m.dollars_per_hour for m in moments]},
        }
        for place, (label, lines) in zip(axes[:, column], rows.items(), strict=True):
            for name, values in lines.items():
                place.plot(hours, values, label=name, linewidth=0.9)
            place.set_ylabel(label if column == 0 else "")
            place.legend(fontsize=7) if len(lines) > 1 else None
        axes[0, column].set_title(title, fontsize=10)
        cost = sum(m.dollars_per_hour for m in moments) / len(moments) * 24
        refused = sum(m.refused for m in moments) / sum(load.requests(m.at_s) for m in moments)
        print(
            f"{title:32} {cost:6.2f} $ a day, p99 at most {max(m.p99_ms for m in moments):.0f} ms,"
            f" lag at most {max(max(m.lag_s.values()) for m in moments):.0f} s,"
            f" refused {100 * refused:.2f} %"
        )
    figure.savefig(target, dpi=110)
    print(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else sys.exit("name a file: PLOT.png"))
