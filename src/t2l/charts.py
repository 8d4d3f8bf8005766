"""Charts as SVG text, drawn with matplotlib: bars and differences with intervals, points on a map, curves.

Colours are of middle lightness on a transparent ground and texts stay texts, so a chart reads on a light and on a dark
page and is the same each time it is drawn. Level 0. This file knows numbers and names; it knows no run.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from t2l.errors import T2LError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#2f81f7", "#db6d28", "#3aa655", "#a371f7", "#c69026", "#e5534b", "#39a0a8", "#c05c93")
GREY = "#808080"
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "t2l",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": GREY,
    "text.parse_math": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    "legend.labelcolor": GREY,
    "grid.color": GREY,
    "grid.alpha": 0.25,
}
_NAME = 52  # characters of a row's name
_WIDTH = 8.6  # inches

Value = Mapping[str, float]
"""``mean``, ``low`` and ``high``."""


def bars(rows: Sequence[tuple[str, Value]], unit: str = "%") -> str:
    """One bar a row, from 0 to 100, with its interval and its figures.

    Raises (as every chart does):
        T2LError: matplotlib is not installed.
    """

    def draw(axes: Axes) -> None:
        places = range(len(rows))
        axes.barh(places, [value["mean"] for _, value in rows], height=0.6, color=COLORS[0], alpha=0.8)
        _whiskers(axes, rows, GREY)
        axes.set_xlim(0, 100)
        axes.set_xlabel(unit)
        _named(axes, rows, "")

    return svg(draw, height=0.7 + 0.28 * len(rows))


def differences(rows: Sequence[tuple[str, Value]]) -> str:
    """Differences around zero, each with its interval and its figures; grey where the interval holds zero."""

    def draw(axes: Axes) -> None:
        _whiskers(axes, rows, GREY)
        clear = [value["low"] > 0 or value["high"] < 0 for _, value in rows]
        colors = [COLORS[0] if one else GREY for one in clear]
        axes.scatter([value["mean"] for _, value in rows], range(len(rows)), s=28, c=colors, zorder=3)
        axes.axvline(0, color=GREY, linestyle="--", linewidth=0.8)
        axes.set_xlabel("points")
        _named(axes, rows, "+")

    return svg(draw, height=0.7 + 0.28 * len(rows))


def scatter(points: Sequence[tuple[float, float]], names: Sequence[str], groups: Sequence[str]) -> str:
    """Points on a map without axes, the largest groups coloured; named where there are few."""
    order = sorted(set(groups), key=lambda group: (-list(groups).count(group), group))
    color = {group: COLORS[place] if place < len(COLORS) else GREY for place, group in enumerate(order)}

    def draw(axes: Axes) -> None:
        for group in order:
            some = [point for point, own in zip(points, groups, strict=True) if own == group]
            label = group[:24] if color[group] != GREY else None
            axes.scatter(*zip(*some, strict=True), s=22, color=color[group], alpha=0.85, label=label)
        if len(points) <= 40 and len(order) > len(COLORS):
            for point, name in zip(points, names, strict=True):
                axes.annotate(name, point, xytext=(4, 3), textcoords="offset points", fontsize=7)
        axes.set_axis_off()
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return svg(draw, height=4.0)


def series(
    points: Sequence[tuple[float, float, float, float]], x_name: str, y_name: str, *, joined: bool = True
) -> str:
    """Points (x, mean, low, high) over an axis, joined or not; over many sizes the axis is logarithmic."""
    xs, means, lows, highs = zip(*points, strict=True)
    far = joined and min(xs) > 0 and max(xs) / min(xs) >= 8

    def draw(axes: Axes) -> None:
        spread = [
            [m - low for m, low in zip(means, lows, strict=True)],
            [h - m for m, h in zip(means, highs, strict=True)],
        ]
        axes.errorbar(
            xs,
            means,
            yerr=spread,
            fmt="o-" if joined else "o",
            color=COLORS[0],
            ecolor=GREY,
            markersize=4,
            linewidth=1.2,
        )
        if far:
            axes.set_xscale("log")
        if joined:
            axes.set_xticks(sorted(set(xs)), [f"{x:g}" for x in sorted(set(xs))], minor=False)
            axes.minorticks_off()
            for x, mean in zip(xs, means, strict=True):
                axes.annotate(f"{mean:.1f}", (x, mean), xytext=(5, 5), textcoords="offset points")
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"{x_name}, logarithmic" if far else x_name)
        axes.set_ylabel(y_name)
        axes.grid(axis="y")

    return svg(draw, height=3.0)


def svg(draw: Callable[[Any], None], *, width: float = _WIDTH, height: float = 3.4, panels: int = 1) -> str:
    """What ``draw`` puts on a pair of axes (or on each of several, side by side), as an SVG element.

    Raises:
        T2LError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as problem:
        raise T2LError(
            "Charts are drawn with matplotlib, which is not installed.", "pip install 't2l[plot]'"
        ) from problem
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        canvas = FigureCanvasSVG(figure)
        axes = figure.subplots(1, panels)
        for one in axes if panels > 1 else [axes]:
            one.patch.set_alpha(0)
        draw(axes)
        written = io.StringIO()
        canvas.print_svg(written, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = written.getvalue()
    return "\n".join(line.rstrip() for line in text[text.index("<svg") :].splitlines()) + "\n"


def _whiskers(axes: Axes, rows: Sequence[tuple[str, Value]], color: str) -> None:
    lows, highs = ([value[end] for _, value in rows] for end in ("low", "high"))
    axes.hlines(range(len(rows)), lows, highs, color=color, linewidth=1.4, zorder=2)


def _named(axes: Axes, rows: Sequence[tuple[str, Value]], sign: str) -> None:
    """Rows from top to bottom: names on the left, figures on the right."""
    names = [name if len(name) <= _NAME else f"{name[: _NAME - 3]}..." for name, _ in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    for place, (_, value) in enumerate(rows):
        figures = f"{value['mean']:{sign}.1f} ({value['low']:{sign}.1f} to {value['high']:{sign}.1f})"
        axes.annotate(figures, (1.01, place), xycoords=("axes fraction", "data"), va="center", annotation_clip=False)
