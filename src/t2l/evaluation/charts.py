"""Charts as SVG text: bars and differences with intervals, points on a map, curves.

Level 5. This file knows numbers and names; it knows no run.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence

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
_WIDTH, _LABEL, _NUMBERS, _LINE = 900, 330, 170, 30
_SPACE = _WIDTH - _LABEL - _NUMBERS


def bars(rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """One bar a row, from 0 to 100 %, with its interval, over an axis in %."""
    bottom = 8 + len(rows) * _LINE
    parts = _axis((0, 25, 50, 75, 100), lambda value: _LABEL + _SPACE * value / 100, bottom, "{:g}%")
    for place, (name, value) in enumerate(rows):
        y = 8 + place * _LINE
        width = _SPACE * value["mean"] / 100
        low, high = (_LABEL + _SPACE * value[end] / 100 for end in ("low", "high"))
        parts.append(_label(name, y))
        parts.append(
            f"<rect x='{_LABEL}' y='{y}' width='{max(width, 0.5):.1f}' height='18' fill='{_COLOURS[0]}' opacity='.8'/>"
        )
        parts.append(_whisker(low, high, y + 9))
        parts.append(f"<text x='{max(high, _LABEL + width) + 8:.1f}' y='{y + 14}'>{_numbers(value, '')}</text>")
    return _svg(_WIDTH, bottom + 30, parts)


def intervals(rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Differences around zero, each with its interval, over an axis in points."""
    least = min([0.0, *(value["low"] for _, value in rows)])
    most = max([1.0, *(value["high"] for _, value in rows)])

    def x(value: float) -> float:
        return _LABEL + _SPACE * (value - least) / (most - least)

    bottom = 8 + len(rows) * _LINE
    step = next(size for size in (1, 2, 5, 10, 20, 25, 50) if (most - least) / size <= 8)
    parts = _axis(range(-step * int(-least // step), int(most) + 1, step), x, bottom, "{:+g}")
    parts.append(
        f"<line x1='{x(0):.1f}' x2='{x(0):.1f}' y1='0' y2='{bottom}' stroke='#5b6478' stroke-dasharray='4 3'/>"
    )
    for place, (name, value) in enumerate(rows):
        y = 17 + place * _LINE
        clear = value["low"] > 0 or value["high"] < 0
        parts.append(_label(name, y - 9))
        parts.append(_whisker(x(value["low"]), x(value["high"]), y))
        parts.append(
            f"<circle cx='{x(value['mean']):.1f}' cy='{y}' r='5' fill='{_COLOURS[0] if clear else '#9aa3b5'}'/>"
        )
        parts.append(f"<text x='{_LABEL + _SPACE + 10}' y='{y + 5}'>{_numbers(value, '+')}</text>")
    return _svg(_WIDTH, bottom + 30, parts)


def _axis(ticks: Sequence[float], x: Callable[[float], float], bottom: float, form: str) -> list[str]:
    parts = []
    for tick in ticks:
        parts.append(f"<line x1='{x(tick):.1f}' x2='{x(tick):.1f}' y1='0' y2='{bottom}' stroke='#e3e7ee'/>")
        shown = "0" if tick == 0 and "+" in form else form.format(tick)
        parts.append(f"<text class='dim' x='{x(tick):.1f}' y='{bottom + 18}' text-anchor='middle'>{shown}</text>")
    return parts


def _numbers(value: Mapping[str, float], sign: str) -> str:
    return f"{value['mean']:{sign}.1f} ({value['low']:{sign}.1f} to {value['high']:{sign}.1f})"


def scatter(points: Sequence[Point], *, labels: bool) -> str:
    """The map of tasks, coloured by family; families beyond the colours are grey."""
    width, height, edge = _WIDTH, 420, 24
    x_of, y_of = _scale([p.x for p in points], edge, 640), _scale([p.y for p in points], height - edge, edge)
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
        parts.append(f"<circle cx='690' cy='{y}' r='5' fill='{colour[name]}'/>")
        parts.append(f"<text x='702' y='{y + 5}'>{html.escape(name[:24])}</text>")
    if len(order) > len(_COLOURS):
        parts.append(
            f"<text class='dim' x='702' y='{29 + 22 * len(_COLOURS)}'>{len(order) - len(_COLOURS)} more in grey</text>"
        )
    return _svg(width, height, parts)


def series(curve: Curve) -> str:
    """Points with intervals over an axis, joined where the curve says so; an axis over many sizes is logarithmic."""
    width, height, left, bottom = _WIDTH, 320, 60, 270
    xs = [point[0] for point in curve.points]
    far = curve.joined and min(xs) > 0 and max(xs) / min(xs) >= 8
    scale = _scale([math.log(x) if far else x for x in xs], left + 20, width - 40)
    x_of = (lambda x: scale(math.log(x))) if far else scale
    most = 20 * math.ceil(min(100.0, max(5.0, *(point[3] for point in curve.points))) / 20)

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
        if curve.joined:
            parts.append(f"<text x='{x_of(x) + 8:.1f}' y='{y_of(y) - 8:.1f}'>{y:.1f}</text>")
    ticks = sorted(set(xs)) if curve.joined else [min(xs) + (max(xs) - min(xs)) * part / 4 for part in range(5)]
    shown_at = -math.inf
    for x in ticks:
        if x_of(x) - shown_at >= 48:  # a label that would run into the one before is left away
            shown_at = x_of(x)
            parts.append(
                f"<text class='dim' x='{shown_at:.1f}' y='{bottom + 20}' text-anchor='middle'>{_tick(x)}</text>"
            )
    x_name = f"{curve.x_name}, logarithmic" if far else curve.x_name
    parts.append(
        f"<text x='{(left + width) / 2:.0f}' y='{bottom + 42}' text-anchor='middle'>{html.escape(x_name)}</text>"
    )
    parts.append(f"<text class='dim' x='{left - 46}' y='12'>{html.escape(curve.y_name)}</text>")
    return _svg(width, height, parts)


def _tick(x: float) -> str:
    return f"{x:g}" if x == round(x) else f"{x:.2f}"


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
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
