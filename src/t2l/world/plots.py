"""The plots of the studies, as SVG that reads on a light and on a dark page, and is the same each time it is drawn.

Colours are of middle lightness on a transparent ground, texts stay texts. Nothing here knows where figures come from.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from t2l.errors import T2LError
from t2l.world.studies_figures import Interval, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#2f81f7", "#db6d28", "#3aa655", "#a371f7", "#c69026", "#e5534b")
_GREY = "#808080"
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "t2l",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _GREY,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "legend.frameon": False,
    "legend.labelcolor": _GREY,
    "grid.color": _GREY,
    "grid.alpha": 0.25,
}
_SERIES = {"near": "near, as described in training", "near, paraphrase": "near, in unseen phrases"}


def rows_plot(rows: Sequence[Row]) -> str:
    """A line for each row of a study, best read from top to bottom: near held-out tasks, mean and interval."""

    def draw(axes: Axes) -> None:
        for number, (column, label) in enumerate(_SERIES.items()):
            places, figures = _measured(rows, column)
            offset = 0.12 * (2 * number - 1)
            _points(axes, figures, [place + offset for place in places], COLORS[number], label, across=True)
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel("exact match, %")
        axes.grid(axis="x")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.0 + 0.55 / len(rows)), ncols=2)

    return _svg(draw, height=1.1 + 0.36 * len(rows))


def count_plot(series: Mapping[str, Sequence[tuple[int, Interval]]], label: str) -> str:
    """Exact match against a count on a logarithmic axis, a line for each series."""

    def draw(axes: Axes) -> None:
        counts = sorted({count for points in series.values() for count, _ in points})
        axes.set_xscale("log")
        for number, (name, points) in enumerate(series.items()):
            places, figures = [count for count, _ in points], [figure for _, figure in points]
            _points(axes, figures, places, COLORS[number], name, across=False, line=True)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.set_xlabel(label)
        axes.set_ylabel("exact match, %")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        axes.legend()

    return _svg(draw)


def distance_plot(result: Mapping[str, Any]) -> str:
    """Held-out tasks: accuracy against distance from the nearest training description."""

    def draw(axes: Axes) -> None:
        for number, split in enumerate(dict.fromkeys(point["split"] for point in result["points"])):
            some = [point for point in result["points"] if point["split"] == split]
            axes.scatter(
                [point["distance"] for point in some],
                [100 * point["accuracy"] for point in some],
                s=18,
                color=COLORS[number],
                label=split,
            )
        axes.set_xlabel("cosine distance from the nearest training description")
        axes.set_ylabel("exact match, %")
        axes.grid()
        axes.legend()

    return _svg(draw)


def encodings_plot(result: Mapping[str, Any]) -> str:
    """The map of tasks: a colour for each family, training tasks as dots and held-out ones as crosses."""

    def draw(axes: Axes) -> None:
        for number, family in enumerate(sorted({point["family"] for point in result["points"]})):
            some = [point for point in result["points"] if point["family"] == family]
            trained = [point for point in some if point["split"] == "train"]
            others = [point for point in some if point["split"] != "train"]
            color = COLORS[number % len(COLORS)]
            axes.scatter([p["x"] for p in trained], [p["y"] for p in trained], s=6, color=color, label=family)
            axes.scatter([p["x"] for p in others], [p["y"] for p in others], s=30, color=color, marker="x")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="crosses: held out")

    return _svg(draw, height=4.2)


def interpolation_plot(result: Mapping[str, Any]) -> str:
    """Exact match of either task along the way from one description to the other."""

    def draw(axes: Axes) -> None:
        for number, name in enumerate(("first", "second")):
            low, high = zip(*result[f"{name}_interval"], strict=True)
            axes.plot(result["weights"], result[name], color=COLORS[number], label=f"inputs of the {name} task")
            axes.fill_between(result["weights"], low, high, color=COLORS[number], alpha=0.15, linewidth=0)
        axes.set_xlabel("share of the second description")
        axes.set_ylabel("exact match, %")
        axes.set_ylim(0, 100)
        axes.grid()
        axes.legend()

    return _svg(draw)


def composition_plot(result: Mapping[str, Any]) -> str:
    """Left: exact match against strength. Right: of either task along the way between two, in both spaces."""

    def draw(axes: Sequence[Axes]) -> None:
        left, right = axes
        _points(
            left, result["strength"], result["strengths"], COLORS[0], "near held-out tasks", across=False, line=True
        )
        left.set_xlabel("strength of the adapter")
        left.set_ylabel("exact match, %")
        for number, (space, form) in enumerate((("features", "o-"), ("weights", "s--"))):
            for side, name in (("first", "first"), ("second", "second")):
                means = [figure[0] for figure in result["blends"][space][side]]
                color = COLORS[number] if side == "first" else COLORS[number + 2]
                right.plot(result["shares"], means, form, color=color, label=f"{name}, in {space}", markersize=4)
        right.set_xlabel("share of the second task")
        right.legend()
        for one in axes:
            one.set_ylim(bottom=0)
            one.grid()

    return _svg(draw, panels=2)


def two_ways_plot(result: Mapping[str, Any]) -> str:
    """Pairs of adapters: how alike their weight changes are, and how often they answer the same."""

    def draw(axes: Axes) -> None:
        for number, (suffix, label) in enumerate((("", "one task, two wordings"), ("_other", "two tasks"))):
            axes.scatter(
                [point[f"similarity{suffix}"] for point in result["points"]],
                [100 * point[f"agreement{suffix}"] for point in result["points"]],
                s=14,
                color=COLORS[number],
                label=label,
            )
        axes.set_xlabel("cosine similarity of the weight changes")
        axes.set_ylabel("same answer, % of inputs")
        axes.grid()
        axes.legend()

    return _svg(draw)


def _measured(rows: Sequence[Row], column: str) -> tuple[list[int], list[Interval]]:
    found = [(place, row.figures[column]) for place, row in enumerate(rows) if column in row.figures]
    return [place for place, _ in found], [figure for _, figure in found]


def guidance_plot(result: Mapping[str, Any]) -> str:
    """Left: accuracy of the most trusted share. Right: measured against expected gain, group by group."""

    def draw(axes: Sequence[Axes]) -> None:
        left, right = axes
        figures = [row["accuracy"] for row in result["coverage"]]
        places = [100 * row["coverage"] for row in result["coverage"]]
        _points(left, figures, places, COLORS[0], "adapters", across=False, line=True)
        left.set_xlabel("most trusted share, %")
        left.set_ylabel("exact match, %")
        left.set_ylim(bottom=0)
        left.grid()
        for number, group in enumerate(dict.fromkeys(point["group"] for point in result["points"])):
            some = [point for point in result["points"] if point["group"] == group]
            expected = [100 * point["expected_gain"] for point in some]
            gains = [100 * point["gain"] for point in some]
            right.scatter(expected, gains, s=6, color=COLORS[number], label=group, alpha=0.6)
        right.set_xlabel("expected gain, points")
        right.set_ylabel("measured gain, points")
        right.grid()
        right.legend()

    return _svg(draw, width=8.0, panels=2)


def examples_plot(result: Mapping[str, Any]) -> str:
    """Accuracy by steps of fine-tuning, from three starts; where several numbers of examples were tried, by number."""
    warm, few = result["warm_start"], result["by_number"]
    panels = 2 if len(few["numbers"]) > 1 else 1

    def draw(axes: Any) -> None:
        left, *others = axes if panels > 1 else [axes]
        starts = {"warm": "generated, with hypernetwork", "plain": "generated alone", "fresh": "fresh LoRA"}
        for number, (name, label) in enumerate(starts.items()):
            _points(left, warm[name], warm["looks"], COLORS[number], label, across=False, line=True)
        left.set_xlabel(f"optimiser steps on {warm['examples']} examples")
        for right in others:
            uses = {"warm": "generated, with hypernetwork", "embedding": "embedding alone", "fresh": "fresh LoRA"}
            for name, label in uses.items():
                color = COLORS[{"warm": 0, "embedding": 3, "fresh": 2}[name]]
                _points(right, few[name], few["numbers"], color, label, across=False, line=True)
            right.set_xscale("log")
            right.set_xticks(few["numbers"], [str(number) for number in few["numbers"]])
            right.minorticks_off()
            right.set_xlabel("examples")
        for one in (left, *others):
            one.set_ylabel("exact match, %")
            one.set_ylim(0, 100)
            one.grid()
            one.legend()

    return _svg(draw, width=4.0 * panels if panels > 1 else 6.4, panels=panels)


def _points(
    axes: Axes,
    figures: Sequence[Interval],
    places: Sequence[float],
    color: str,
    label: str,
    *,
    across: bool,
    line: bool = False,
) -> None:
    means = [mean for mean, _, _ in figures]
    spread = [[mean - low for mean, low, _ in figures], [high - mean for mean, _, high in figures]]
    form = "o-" if line else "o"
    if across:
        axes.errorbar(means, places, xerr=spread, fmt=form, color=color, label=label, markersize=4, linewidth=1.2)
    else:
        axes.errorbar(places, means, yerr=spread, fmt=form, color=color, label=label, markersize=4, linewidth=1.2)


def _svg(draw: Callable[[Any], None], *, width: float = 6.4, height: float = 3.4, panels: int = 1) -> str:
    """What ``draw`` puts on a pair of axes (or on each of several, side by side), as an SVG document.

    Raises:
        T2LError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as problem:
        raise T2LError("Plots are drawn with matplotlib.", "pip install 't2l[plot]'") from problem
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        canvas = FigureCanvasSVG(figure)
        draw(figure.subplots(1, panels))
        written = io.StringIO()
        canvas.print_svg(written, metadata={"Date": None, "Creator": None})
    text = written.getvalue()
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
