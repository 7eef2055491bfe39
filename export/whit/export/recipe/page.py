"""``report.html`` of a recipe: one file, plots in inline SVG, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 58rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
code { background: #f4f4f4; padding: 0 .25rem; }
svg text { font: 12px system-ui, sans-serif; fill: #222; }
.bar { fill: #3b6ea5; } .float32 { fill: #b8b8b8; } .smoothed { fill: #6fa8dc; } .row { fill: #e08e45; }
"""
_WIDTH, _LABEL, _BAR, _STEP = 860, 230, 14, 22


def page(report: Mapping[str, Any]) -> str:
    """The page of a report (``RecipeReport`` as plain JSON)."""
    points: Sequence[Mapping[str, Any]] = report["points"]
    plots = [
        ("Size", [(p["name"], p["size_bytes"] / 1e6, f"{p['size_bytes'] / 1e6:.1f} MB") for p in points]),
        ("Speed, times the first", [(p["name"], p["speed_ratio"], f"{p['speed_ratio']:.2f} times") for p in points]),
        (
            "Lost rank agreement, points",
            [(p["name"], 100 - p["agreement"], f"{100 - p['agreement']:.2f}") for p in points],
        ),
    ]
    if points[0]["sts"] is not None:
        plots.append(("STS, Spearman x 100", [(p["name"], p["sts"], f"{p['sts']:.2f}") for p in points]))
    introduction = (
        f"<p>Recipe <code>{escape(report['recipe'])}</code>, package <code>{escape(report['package'])}</code>. "
        "Checkpoints are measured as float32 packages, beside each other on one machine, one thread; the last line is the "
        "package itself. Rank agreement is with the first: Spearman &times; 100 over the cosines of all pairs of calibration "
        "texts.</p>"
    )
    sections = [
        introduction,
        _table(points),
        *(f"<h2>{escape(title)}</h2>{_bars(rows)}" for title, rows in plots),
        *_linears(report["export"]),
        "<h2>Steps</h2>",
        *(_step(step) for step in report["steps"]),
    ]
    title = escape(f"whit recipe: {report['export']['name']}")
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n<style>{_STYLE}</style>\n'
        f"<h1>{title}</h1>\n" + "\n".join(sections) + "\n</html>\n"
    )


def _table(points: Sequence[Mapping[str, Any]]) -> str:
    has_sts = points[0]["sts"] is not None
    head = ["stage", "size", "speed", "rank agreement", *(["STS"] if has_sts else [])]
    rows = [
        [
            point["name"],
            f"{point['size_bytes'] / 1e6:.2f} MB",
            f"{point['speed_ratio']:.2f} times",
            f"{point['agreement']:.2f}",
            *([f"{point['sts']:.2f}"] if has_sts else []),
        ]
        for point in points
    ]
    return _rows(head, rows)


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"


def _bars(rows: Sequence[tuple[str, float, str]], kinds: Sequence[str] = ()) -> str:
    """A horizontal bar for each (name, value >= 0, label); ``kinds`` are their classes."""
    largest = max((value for _, value, _ in rows), default=0) or 1
    room = _WIDTH - _LABEL - 90
    parts = []
    for i, (name, value, label) in enumerate(rows):
        top, length = i * _STEP, max(room * value / largest, 1)
        kind = kinds[i] if kinds else ""
        parts.append(
            f'<text x="{_LABEL - 8}" y="{top + 12}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="bar {escape(kind)}" x="{_LABEL}" y="{top}" width="{length:.1f}" height="{_BAR}"/>'
            f'<text x="{_LABEL + length + 6:.1f}" y="{top + 12}">{escape(label)}</text>'
        )
    return f'<svg width="{_WIDTH}" height="{len(rows) * _STEP}" role="img">{"".join(parts)}</svg>'


def _linears(export: Mapping[str, Any]) -> list[str]:
    """What each linear layer costs: its own error, and what it alone takes from the rank agreement where that was measured."""
    linears = export.get("linears", [])  # a static package has none
    if not linears:
        return []
    kinds = [linear["scheme"] for linear in linears]
    rows = [(linear["name"], linear["error"], f"{linear['error']:.4f} {linear['scheme']}") for linear in linears]
    found = ["<h2>Error of each linear layer in int8</h2>", _bars(rows, kinds)]
    if export["sensitivities"]:
        lost = [(name, max(points, 0.0), f"{points:.3f}") for name, points in export["sensitivities"].items()]
        found += ["<h2>Rank agreement that each linear layer costs alone, points</h2>", _bars(lost)]
    return found


def _step(step: Mapping[str, Any]) -> str:
    pairs = [(key, value) for key, value in step["options"].items() if value is not None]
    told = [(key, value) for key, value in step["report"].items() if not isinstance(value, list | dict)]
    return (
        f"<h3>{escape(step['step'])}</h3>"
        + _rows(["option", "value"], [(key, str(value)) for key, value in pairs])
        + _rows(["outcome", "value"], [(key, str(value)) for key, value in told])
    )
