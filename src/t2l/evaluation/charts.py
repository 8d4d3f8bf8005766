"""Charts as SVG text: bars and differences with intervals, points on a map, curves.

Level 5. This file knows numbers and names; it knows no run.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from t2l.evaluation.findings import Curve, Point

_COLOURS = (
    "#2458a6",
    "#c8702b",
    "#2c8a57",
    "#a33a2c",
    "#7a55a3",
    "#8a6a3a",
    "#c05c93",
    "#5b6478",
    "#9a9a22",
    "#2596a6",
)
_WIDTH, _LABEL, _LINE = 860, 330, 30


def bars(rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """One bar a row, from 0 to 100 %, with its interval."""
    space = _WIDTH - _LABEL - 110
    parts = []
    for place, (name, value) in enumerate(rows):
        y = 8 + place * _LINE
        left, width = _LABEL, space * value["mean"] / 100
        low, high = (left + space * value[end] / 100 for end in ("low", "high"))
        parts.append(_label(name, y))
        parts.append(
            f"<rect x='{left}' y='{y}' width='{max(width, 0.5):.1f}' height='18' fill='{_COLOURS[0]}' opacity='.8'/>"
        )
        parts.append(_whisker(low, high, y + 9))
        parts.append(f"<text x='{max(high, left + width) + 8:.1f}' y='{y + 14}'>{value['mean']:.1f}</text>")
    return _svg(_WIDTH, 16 + len(rows) * _LINE, parts)


def intervals(rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Differences around zero, each with its interval."""
    least = min([0.0, *(value["low"] for _, value in rows)])
    most = max([1.0, *(value["high"] for _, value in rows)])
    space = _WIDTH - _LABEL - 110

    def x(value: float) -> float:
        return _LABEL + space * (value - least) / (most - least)

    height = 16 + len(rows) * _LINE
    parts = [f"<line x1='{x(0):.1f}' x2='{x(0):.1f}' y1='0' y2='{height}' stroke='#5b6478' stroke-dasharray='4 3'/>"]
    for place, (name, value) in enumerate(rows):
        y = 17 + place * _LINE
        clear = value["low"] > 0 or value["high"] < 0
        parts.append(_label(name, y - 9))
        parts.append(_whisker(x(value["low"]), x(value["high"]), y))
        parts.append(
            f"<circle cx='{x(value['mean']):.1f}' cy='{y}' r='5' fill='{_COLOURS[0] if clear else '#9aa3b5'}'/>"
        )
        parts.append(f"<text x='{x(value['high']) + 10:.1f}' y='{y + 5}'>{value['mean']:+.1f}</text>")
    return _svg(_WIDTH, height, parts)


def scatter(points: Sequence[Point], *, labels: bool) -> str:
    """The map of tasks, coloured by family; families beyond the colours are grey."""
    width, height, edge = _WIDTH, 420, 24
    x_of, y_of = _scale([p.x for p in points], edge, 620), _scale([p.y for p in points], height - edge, edge)
    order = sorted({p.family for p in points}, key=lambda one: (-sum(p.family == one for p in points), one))
    colour = {name: _COLOURS[place] if place < len(_COLOURS) else "#b5bac6" for place, name in enumerate(order)}
    parts = []
    for p in points:
        parts.append(
            f"<circle cx='{x_of(p.x):.1f}' cy='{y_of(p.y):.1f}' r='5' fill='{colour[p.family]}' opacity='.85'>"
            f"<title>{html.escape(p.name)} ({html.escape(p.family)})</title></circle>"
        )
    if labels and len(order) > len(_COLOURS):
        parts += [
            f"<text class='dim' x='{x_of(p.x) + 7:.1f}' y='{y_of(p.y) + 4:.1f}'>{html.escape(p.name)}</text>"
            for p in points
        ]
    for place, name in enumerate(order[: len(_COLOURS)]):
        y = 24 + 22 * place
        parts.append(f"<circle cx='660' cy='{y}' r='5' fill='{colour[name]}'/>")
        parts.append(f"<text x='672' y='{y + 5}'>{html.escape(name[:24])}</text>")
    if len(order) > len(_COLOURS):
        parts.append(
            f"<text class='dim' x='672' y='{29 + 22 * len(_COLOURS)}'>{len(order) - len(_COLOURS)} more in grey</text>"
        )
    return _svg(width, height, parts)


def series(curve: Curve) -> str:
    """Points with intervals over an axis, joined where the curve says so."""
    width, height, left, bottom = _WIDTH, 320, 60, 270
    x_of = _scale([p[0] for p in curve.points], left + 20, width - 40)
    top = max(5.0, *(p[3] for p in curve.points))
    most = min(100.0, 10 * math.ceil(top / 10))

    def y_of(value: float) -> float:
        return bottom - (bottom - 36) * value / most

    parts = [f"<line x1='{left}' x2='{width - 20}' y1='{bottom}' y2='{bottom}' stroke='#5b6478'/>"]
    for value in (0, most / 2, most):
        parts.append(
            f"<line x1='{left}' x2='{width - 20}' y1='{y_of(value):.1f}' y2='{y_of(value):.1f}' stroke='#e3e7ee'/>"
        )
        parts.append(f"<text class='dim' x='{left - 8}' y='{y_of(value) + 5:.1f}' text-anchor='end'>{value:g}</text>")
    if curve.joined:
        line = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y, _, _ in curve.points)
        parts.append(f"<polyline points='{line}' fill='none' stroke='{_COLOURS[0]}' stroke-width='2'/>")
    for place, (x, y, low, high) in enumerate(curve.points):
        name = curve.names[place] if curve.names else f"{x:g}"
        parts.append(
            f"<line x1='{x_of(x):.1f}' x2='{x_of(x):.1f}' y1='{y_of(low):.1f}' y2='{y_of(high):.1f}' stroke='#9aa3b5'/>"
        )
        parts.append(
            f"<circle cx='{x_of(x):.1f}' cy='{y_of(y):.1f}' r='4.5' fill='{_COLOURS[0]}'>"
            f"<title>{html.escape(name)}: {y:.1f}</title></circle>"
        )
    ends = sorted({curve.points[i][0] for i in range(len(curve.points))})
    for x in ends if curve.joined else [ends[0], ends[-1]]:
        parts.append(f"<text class='dim' x='{x_of(x):.1f}' y='{bottom + 20}' text-anchor='middle'>{x:.3g}</text>")
    parts.append(
        f"<text x='{(left + width) / 2:.0f}' y='{bottom + 42}' text-anchor='middle'>{html.escape(curve.x_name)}</text>"
    )
    parts.append(f"<text class='dim' x='{left - 46}' y='12'>{html.escape(curve.y_name)}</text>")
    return _svg(width, height, parts)


def _scale(values: Sequence[float], start: float, end: float):
    low, high = min(values), max(values)
    spread = high - low or 1.0
    return lambda value: start + (end - start) * (value - low) / spread


def _label(name: str, y: float) -> str:
    shown = name if len(name) <= 48 else f"{name[:46]}..."
    return f"<text x='{_LABEL - 12}' y='{y + 14}' text-anchor='end'>{html.escape(shown)}</text>"


def _whisker(low: float, high: float, y: float) -> str:
    ends = "".join(f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{y - 4}' y2='{y + 4}' stroke='#1d2433'/>" for x in (low, high))
    return f"<line x1='{low:.1f}' x2='{high:.1f}' y1='{y}' y2='{y}' stroke='#1d2433'/>{ends}"


def _svg(width: int, height: float, parts: Sequence[str]) -> str:
    return f"<svg viewBox='0 0 {width} {height:.0f}' width='{width}' role='img'>{''.join(parts)}</svg>"
