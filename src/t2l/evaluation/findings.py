"""What a report shows of a run beside its tables: the map of tasks, accuracy against distance, scaling, worst tasks.

Level 5. This file computes from finished runs; it neither runs a model nor draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from t2l.errors import T2LError

_FIRST = ("t2l", "matched")  # the second in gates of earlier versions
WORST = 5
_EXAMPLES = 3


@dataclass(frozen=True)
class Curve:
    """(x, mean, low, high) points with what the axes are."""

    title: str
    x_name: str
    y_name: str
    points: tuple[tuple[float, float, float, float], ...]
    names: tuple[str, ...] = ()
    joined: bool = True


@dataclass(frozen=True)
class Finding:
    """A task with its accuracy, its lead over the base where that was measured, and examples (with ``description``)."""

    name: str
    value: float
    extra: float | None
    examples: tuple[Mapping[str, Any], ...]


def title_of(run: Mapping[str, Any]) -> str:
    """A run in a few words."""
    settings = run["settings"]
    what = "description gate" if run.get("gate") else "benchmarks"
    how = "paper's protocol" if settings["protocol"] == "paper" else "log-likelihood"
    return f"{what} on {Path(settings['base']).name}, {how}"


def first_row(run: Mapping[str, Any]) -> str | None:
    """The row that stands for the checkpoint."""
    return next((row for row in _FIRST if row in run["rows"]), None)


def task_map(run: Mapping[str, Any], seed: int = 0) -> list[tuple[float, float]]:
    """t-SNE (van der Maaten and Hinton, 2008) of the task features; nothing below six descriptions.

    Raises:
        T2LError: scikit-learn is not installed.
    """
    features = np.asarray((run.get("map") or {}).get("features", ()), dtype=float)
    if len(features) < 6:
        return []
    try:
        from sklearn.manifold import TSNE
    except ImportError as problem:
        raise T2LError(f"The map of tasks needs scikit-learn: {problem}.", "pip install 't2l[eval]'") from problem
    perplexity = min(30.0, max(2.0, (len(features) - 1) / 3))
    places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)
    return [(float(x), float(y)) for x, y in places]


def distances(run: Mapping[str, Any]) -> Curve | None:
    """For each task: how far its descriptions are from the nearest training task, and its accuracy.

    Distances are those of a calibration, between embeddings. Without one: cosine distance of the task's mean feature
    from the nearest other task of the run. None for fewer than four tasks.
    """
    row, found = first_row(run), run.get("map") or {}
    if row is None or not found:
        return None
    names = list(dict.fromkeys(found["tasks"]))
    if len(names) < 4:
        return None
    own = [np.asarray([name == task for task in found["tasks"]]) for name in names]
    if found.get("distance"):
        gap = [float(np.asarray(found["distance"])[rows].mean()) for rows in own]
        x_name = "distance from the nearest training task, in standard deviations of the embeddings"
    else:
        features = np.asarray(found["features"], dtype=float)
        mean = np.stack([features[rows].mean(axis=0) for rows in own])
        mean = mean - mean.mean(axis=0)
        mean = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
        apart = 1 - mean @ mean.T
        np.fill_diagonal(apart, np.inf)
        gap, x_name = apart.min(axis=1).tolist(), "distance from the nearest other task of the run (1 - cosine)"
    accuracy = run["findings"]["accuracy"][row]
    kept = [(distance, name) for distance, name in zip(gap, names, strict=True) if name in accuracy]
    points = tuple((d, accuracy[n]["mean"], accuracy[n]["low"], accuracy[n]["high"]) for d, n in kept)
    return Curve("", x_name, "accuracy, %", points, tuple(n for _, n in kept), joined=False)


def scaling(runs: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Curves that the runs allow: over the examples in the prompt, and over the training tasks of their checkpoints.

    Only runs of the same base, tasks and protocol stand in one curve over training tasks.
    """
    curves = []
    for run in runs:
        accuracy = run["findings"]["accuracy"]
        shots = {int(row[: -len("-shot")]): row for row in run["rows"] if row.endswith("-shot")}
        shots |= {0: "base"} if "base" in run["rows"] else {}
        if len(shots) > 2:
            points = tuple((float(n), *_three(accuracy[shots[n]][""])) for n in sorted(shots))
            curves.append(Curve(f"Examples in the prompt: {title_of(run)}", "examples", "accuracy, %", points))
    alike: dict[str, list[tuple[float, Mapping[str, float], Mapping[str, Any]]]] = {}
    for run in runs:
        row, count = first_row(run), run.get("training_tasks")
        if row is not None and count:
            settings = run["settings"]
            key = f"{settings['base']}/{settings['protocol']}/{settings['limit']}/{','.join(run['tasks'])}"
            alike.setdefault(key, []).append((float(count), run["findings"]["accuracy"][row][""], run))
    for found in alike.values():
        counts = [count for count, _, _ in found]
        if len(set(counts)) > 1:
            found.sort(key=lambda one: one[0])
            points = tuple((count, *_three(interval)) for count, interval, _ in found)
            names = tuple(f"checkpoint {run['settings']['checkpoint'][:8]}" for _, _, run in found)
            title = f"More training tasks: {title_of(found[0][2])}, {len(found[0][2]['tasks'])} tasks"
            single = len(set(counts)) == len(counts)
            curves.append(Curve(title, "training tasks", "accuracy, %", points, names, joined=single))
    return curves


def worst_tasks(run: Mapping[str, Any]) -> list[Finding]:
    """The tasks with the lowest accuracy of the checkpoint's row, each with wrong answers first."""
    row = first_row(run)
    if row is None:
        return []
    accuracy = run["findings"]["accuracy"]
    base = accuracy.get("base", {})
    order = sorted((name for name in run["tasks"] if name in accuracy[row]), key=lambda n: accuracy[row][n]["mean"])
    said = {(v["task"], v["row"], v["number"]): v.get("description") for v in run.get("variants", ())}
    found = []
    for name in order[:WORST]:
        items = [item for item in run["items"] if item["row"] == row and item["task"] == name]
        items.sort(key=lambda item: (item["right"], item["number"], item["document"]))
        lead = accuracy[row][name]["mean"] - base[name]["mean"] if name in base else None
        shown = [{**item, "description": said.get((name, row, item["number"]))} for item in items[:_EXAMPLES]]
        found.append(Finding(name, accuracy[row][name]["mean"], lead, tuple(shown)))
    return found


def _three(interval: Mapping[str, float]) -> tuple[float, float, float]:
    return interval["mean"], interval["low"], interval["high"]
