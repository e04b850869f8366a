"""What a benchmark found: a table for people, then one JSON object on the last line."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Result:
    """Figures of ours beside those of the yardstick that ran with it, by name with unit."""

    benchmark: str
    ours: dict[str, float]
    yardstick: dict[str, float]
    ratio: dict[str, float]  # how many times better than the yardstick


def percentiles(taken_ms: NDArray[np.float64]) -> dict[str, float]:
    """The median and the 99th percentile."""
    return {f"p{part}_ms": float(np.percentile(taken_ms, part)) for part in (50, 99)}


def print_result(result: Result) -> None:
    table = Table(title=result.benchmark, title_justify="left")
    table.add_column("figure")
    for heading in ("ours", "yardstick", "ratio"):
        table.add_column(heading, justify="right")
    sides = (result.ours, result.yardstick, result.ratio)
    for name in dict.fromkeys(name for side in sides for name in side):
        table.add_row(name, *(_cell(side.get(name)) for side in sides))
    Console().print(table)
    print(json.dumps(asdict(result), allow_nan=False))


def _cell(figure: float | None) -> str:
    return "" if figure is None else f"{figure:,.4g}" if abs(figure) < 1000 else f"{figure:,.0f}"


@contextmanager
def drawn(name: str, panels: int) -> Iterator[list[Any]]:
    """Axes side by side, to be drawn on; saved as `.headrace/NAME.png`."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plot, axes = plt.subplots(1, panels, figsize=(6 * panels, 4), squeeze=False)
    yield list(axes[0])
    path = Path(".headrace") / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    plot.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(plot)
    print(f"the curve: {path}")
