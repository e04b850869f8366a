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
class Section:
    """One check: what it found, in words, figures, a table and a chart."""

    name: str
    passed: bool
    says: str
    figures: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    bars: Bars | None = None


def write_report(folder: Path, title: str, sections: Sequence[Section]) -> tuple[Path, Path]:
    """Write `replay.html` and `replay.json`; returns where."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data = folder / "replay.html", folder / "replay.json"
    page.write_text("".join(_page(title, sections)), encoding="utf-8")
    content = {
        "title": title,
        "passed": all(section.passed for section in sections),
        "checks": {s.name: _json(s) for s in sections},
    }
    data.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    return page, data


def _json(section: Section) -> dict[str, Any]:
    return {
        "passed": section.passed,
        "says": section.says,
        **section.figures,
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
        state = "passed" if section.passed else "failed"
        yield f'<h2 class="{state}">{html.escape(section.name)}: {state}</h2>'
        yield f"<p>{html.escape(section.says)}</p><dl>"
        for name, figure in section.figures.items():
            yield f"<dt>{html.escape(name)}<dd>{html.escape(_text(figure))}"
        yield "</dl><ul>" + "".join(f"<li>{html.escape(note)}" for note in section.notes) + "</ul>"
        if section.bars is not None and section.bars.values:
            yield _plot(section.bars)
        if section.rows:
            yield "<table><tr>" + "".join(f"<th>{html.escape(c)}" for c in section.columns)
            for row in section.rows:
                yield "<tr>" + "".join(f"<td>{html.escape(_text(cell))}" for cell in row)
            yield "</table>"


def _plot(bars: Bars) -> str:
    """The chart as an image inside the page; words where matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        return "<p>No plot: <code>pip install 'headrace[demo]'</code> brings matplotlib.</p>"
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    chosen = dict(sorted(bars.values.items(), key=lambda pair: -pair[1])[:BARS_MAX])
    figure, axes = plt.subplots(figsize=(9, 1 + 0.28 * len(chosen)))
    axes.barh(list(chosen), list(chosen.values()), color="#2b6cb0")
    axes.invert_yaxis()
    axes.set_title(bars.title, loc="left")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    text = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="{html.escape(bars.title)}" src="data:image/png;base64,{text}">'


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
