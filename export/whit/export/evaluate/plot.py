"""Scatter plots as SVG, written by hand: no library needed, and the same figures give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from whit.export.evaluate.labels import Box, place_labels

_WIDTH, _HEIGHT = 480, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 20, 34, 48
_KEPT, _DOMINATED, _LINE = "#c2410c", "#94a3b8", "#fdba74"


@dataclass(frozen=True, slots=True)
class Point:
    """A package in a panel. ``dominated`` points are grey; the others are joined by the line of the frontier."""

    name: str
    x: float
    y: float
    dominated: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One scatter plot, with a logarithmic horizontal axis. All ``x`` are above 0."""

    title: str
    x_title: str
    y_title: str
    points: Sequence[Point]


def svg(panels: Sequence[Panel], columns: int = 2) -> str:
    """All panels, row by row, in one self-contained SVG document."""
    width, height = _WIDTH * min(columns, len(panels)), _HEIGHT * -(-len(panels) // columns)
    size = f'width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height}">',
        f'<rect {size} fill="white"/><g font-family="sans-serif" fill="#334155">',
    ]
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        parts += [f'<g transform="translate({column * _WIDTH} {row * _HEIGHT})">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</g></svg>", ""])


def html(panels: Sequence[Panel], title: str) -> str:
    """The same as a page for a browser."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title></head>\n'
        f'<body style="font-family: sans-serif"><h1>{escape(title)}</h1>\n{svg(panels)}</body></html>\n'
    )


def _panel(panel: Panel) -> list[str]:
    x_low, x_high = _log_range([point.x for point in panel.points])
    y_ticks = _ticks(min(point.y for point in panel.points), max(point.y for point in panel.points))
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def across(x: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (math.log(x) - x_low) / (x_high - x_low)

    def up(y: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (y - y_low) / (y_high - y_low)

    parts = [_text(_WIDTH / 2, 18, panel.title, size=13), _text(_WIDTH / 2, _HEIGHT - 10, panel.x_title)]
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(f'<g transform="translate(16 {middle:.0f}) rotate(-90)">{_text(0, 0, panel.y_title)}</g>')
    for y in y_ticks:
        parts.append(_stroke([(_LEFT, up(y)), (_WIDTH - _RIGHT, up(y))], "#e2e8f0", 1))
        parts.append(_text(_LEFT - 6, up(y) + 4, f"{y:g}", anchor="end"))
    for x in _log_ticks(x_low, x_high):
        parts.append(_stroke([(across(x), _HEIGHT - _BOTTOM), (across(x), _HEIGHT - _BOTTOM + 4)], "#64748b", 1))
        parts.append(_text(across(x), _HEIGHT - _BOTTOM + 17, f"{x:g}"))
    frontier = sorted((point.x, point.y) for point in panel.points if not point.dominated)
    parts.append(_stroke([(across(x), up(y)) for x, y in frontier], _LINE, 2))
    places = [(across(point.x), up(point.y)) for point in panel.points]
    bounds = Box(_LEFT, _TOP - 8, _WIDTH - 4, _HEIGHT - _BOTTOM)
    labels = place_labels(places, [point.name for point in panel.points], bounds)
    for (x, y), label in zip(places, labels, strict=True):
        if label.is_far:
            parts.append(_stroke([(x, y), (label.x, label.y - 4)], "#94a3b8", 1))
    for point, (x, y), label in zip(panel.points, places, labels, strict=True):
        color = _DOMINATED if point.dominated else _KEPT
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{color}"><title>{escape(point.name)}</title></circle>'
        )
        parts.append(_text(label.x, label.y, point.name, anchor=label.anchor))
    return parts


def _log_range(values: Sequence[float]) -> tuple[float, float]:
    """Logarithms of the ends of an axis that holds ``values`` with some air."""
    low, high = math.log(min(values)), math.log(max(values))
    air = max(0.08 * (high - low), 0.1)
    return low - air, high + air


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers 1, 2, 5, 10, … within an axis; the ends' neighbours if there is none."""
    powers = range(math.floor(low / math.log(10)) - 1, math.ceil(high / math.log(10)) + 2)
    ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 3, 5, 7)]
    return [tick for tick in ticks if low <= math.log(tick) <= high] or [math.exp((low + high) / 2)]


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers from below ``low`` to above ``high``."""
    span = max(high - low, 0.1)
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (factor * step) <= 6)
    first, last = math.floor(low / step - 0.2), math.ceil(high / step + 0.2)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _stroke(points: Sequence[tuple[float, float]], color: str, width: int) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
