"""The picture of the demo: quality beside the baselines, and a feed before and after a click."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt


def draw(
    path: Path,
    title: str,
    quality: Mapping[str, tuple[float, float]],
    before: Sequence[str],
    after: Sequence[str],
    clicked: str,
    effect_ms: float,
) -> None:
    """Write the picture as a PNG."""
    figure, (bars, feed) = plt.subplots(1, 2, figsize=(13, 6), width_ratios=(2, 3))
    names = list(quality)
    colours = ["#1b6ca8"] + ["#b8c4ce"] * (len(names) - 1)
    bars.barh(names, [quality[name][0] for name in names], color=colours)
    bars.set_xlim(0.4, 0.85)
    bars.axvline(0.5, color="#888888", linewidth=0.8)
    bars.invert_yaxis()
    bars.set_title(f"AUC on held-back events of {title}")
    for place, name in enumerate(names):
        bars.text(quality[name][0] + 0.005, place, f"{quality[name][0]:.3f}", va="center")
    feed.set_title(f"One feed, before and {effect_ms:.0f} ms after a click on {clicked}")
    feed.axis("off")
    for x, items in ((0.15, before), (0.85, after)):
        for place, item in enumerate(items):
            weight = "bold" if item == clicked else "normal"
            feed.text(x, -place, item, ha="center", va="center", weight=weight)
    for place, item in enumerate(before):
        if item in after:
            to = list(after).index(item)
            colour = "#1b6ca8" if to < place else "#c0392b" if to > place else "#b8c4ce"
            feed.plot((0.28, 0.72), (-place, -to), color=colour, linewidth=1.5)
    feed.set_xlim(0, 1)
    feed.set_ylim(-max(len(before), len(after)) + 0.5, 0.7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
