"""Reports of replay checks: one HTML page with plots, and the same as JSON."""

import base64
import html
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BARS_MAX = 30


@dataclass
class Bars:
    """A bar chart: what, and how many."""

    title: str
    values: dict[str, float]


@dataclass
class Curves:
    """Lines over one axis; a diagonal is what they would be at best."""

    title: str
    across: str
    up: str
    lines: dict[str, tuple[Sequence[float], Sequence[float]]]
    """Name → places across, heights."""
    diagonal: bool = False


Plot = Bars | Curves


@dataclass
class Section:
    """One check: what it found, in words, figures, a table and charts."""

    name: str
    passed: bool | None
    """None: it compares what nobody said should be the same."""
    says: str
    figures: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    plots: Sequence[Plot] = ()
    data: dict[str, Any] = field(default_factory=dict)
    """What the JSON tells beside the page."""

    @property
    def state(self) -> str:
        """In a word."""
        return {None: "compared", True: "passed", False: "failed"}[self.passed]


def write_report(folder: Path, title: str, sections: Sequence[Section]) -> tuple[Path, Path]:
    """Write `replay.html` and `replay.json`; returns where."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data = folder / "replay.html", folder / "replay.json"
    page.write_text("".join(_page(title, sections)), encoding="utf-8")
    content = {
        "title": title,
        "passed": all(section.passed is not False for section in sections),
        "checks": {s.name: _json(s) for s in sections},
    }
    data.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    return page, data


def _json(section: Section) -> dict[str, Any]:
    return {
        "passed": section.passed,
        "says": section.says,
        **section.figures,
        **section.data,
        "notes": section.notes,
        "table": [dict(zip(section.columns, row, strict=True)) for row in section.rows],
    }


def _page(title: str, sections: Sequence[Section]) -> Iterator[str]:
    yield (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><p>{datetime.now(UTC).isoformat(' ', 'seconds')}</p>"
    )
    for section in sections:
        yield f'<h2 class="{section.state}">{html.escape(section.name)}: {section.state}</h2>'
        yield f"<p>{html.escape(section.says)}</p><dl>"
        for name, figure in section.figures.items():
            yield f"<dt>{html.escape(name)}<dd>{html.escape(_text(figure))}"
        yield "</dl><ul>" + "".join(f"<li>{html.escape(note)}" for note in section.notes) + "</ul>"
        yield from map(_plot, section.plots)
        if section.rows:
            yield "<table><tr>" + "".join(f"<th>{html.escape(c)}" for c in section.columns)
            for row in section.rows:
                yield "<tr>" + "".join(f"<td>{html.escape(_text(cell))}" for cell in row)
            yield "</table>"


def _plot(plot: Plot) -> str:
    """The chart as an image inside the page; words where matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        return "<p>No plot: <code>pip install 'headrace[demo]'</code> brings matplotlib.</p>"
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots()
    if isinstance(plot, Bars):
        chosen = dict(sorted(plot.values.items(), key=lambda pair: -pair[1])[:BARS_MAX])
        figure.set_size_inches(9, 1 + 0.28 * len(chosen))
        axes.barh(list(chosen), list(chosen.values()), color="#2b6cb0")
        axes.invert_yaxis()
    else:
        figure.set_size_inches(6, 4)
        for name, (across, up) in plot.lines.items():
            axes.plot(across, up, marker="o", markersize=3, label=name)
        if plot.diagonal:
            axes.axline((0, 0), slope=1, color="#a0aec0", linewidth=1)
        axes.set_xlabel(plot.across)
        axes.set_ylabel(plot.up)
        axes.legend()
    axes.set_title(plot.title, loc="left")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    text = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="{html.escape(plot.title)}" src="data:image/png;base64,{text}">'


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
h2.passed{color:#276749}h2.failed{color:#9b2c2c}
dl{display:grid;grid-template-columns:max-content auto;gap:0 1rem}dd{margin:0}
table{border-collapse:collapse}th,td{border-bottom:1px solid #ddd;padding:.2rem .6rem;
text-align:left;vertical-align:top}img{max-width:100%}
"""
