"""From stored results of arms to the figures of tables and plots: rows with intervals, and paired differences.

Intervals are bootstrapped over tasks; where a row was run with several seeds, a task's share is its mean over them.
This file knows stored results; it knows no models and draws nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t2l.world.evaluate import Score, bootstrap
from t2l.world.headlines import compared
from t2l.world.tasks import NEAR, Split

COLUMNS: dict[str, tuple[tuple[Split, ...], str]] = {
    "train": (("train",), "matched"),
    "unseen-combination": (("unseen-combination",), "matched"),
    "unseen-operation": (("unseen-operation",), "matched"),
    "near": (NEAR, "matched"),
    "near, paraphrase": (NEAR, "paraphrase"),
    "near, other task": (NEAR, "other-task"),
}
"""Column of a study's table -> splits and condition."""
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Row:
    """One line of a study's table.

    Args:
        name: of the row.
        varies: what it says.
        seeds: of its runs.
        steps: of each run.
        parameters: of the hypernetwork.
        cpu_seconds: of training, on average.
        figures: column -> mean and 95% interval over tasks, percent; columns that were not measured are left out.
        by_seed: column -> the mean of each seed's run.
        shares: column -> task -> share of right answers, averaged over seeds.
        commands: that ran it.
    """

    name: str
    varies: str
    seeds: tuple[int, ...]
    steps: int
    parameters: int
    cpu_seconds: float
    figures: Mapping[str, Interval]
    by_seed: Mapping[str, Sequence[float]]
    shares: Mapping[str, Mapping[str, float]]
    commands: tuple[str, ...]


def rows_of(results: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The rows of a study from its finished arms (label -> result), in their order."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for result in results.values():
        runs.setdefault(result["row"], []).append(result)
    return [_row(name, some) for name, some in runs.items()]


def difference(first: Row, second: Row, column: str = "near") -> Interval:
    """Points by which one row is above another in a column, paired over tasks, with its 95% interval."""
    one, other = first.shares[column], second.shares[column]
    return compared([(one[task], other[task]) for task in one if task in other], "difference")


def _row(name: str, runs: Sequence[Mapping[str, Any]]) -> Row:
    shares: dict[str, dict[str, float]] = {}
    by_seed: dict[str, list[float]] = {}
    for column, (splits, condition) in COLUMNS.items():
        each = [_shares(run, splits, condition) for run in runs]
        if each[0]:
            shares[column] = {task: sum(run[task] for run in each) / len(each) for task in each[0]}
            by_seed[column] = [100 * sum(run.values()) / len(run) for run in each]
    first = runs[0]
    return Row(
        name,
        first["varies"],
        tuple(run["seed"] for run in runs),
        first["steps"],
        first["parameters"],
        sum(run["cpu_seconds"] for run in runs) / len(runs),
        {column: bootstrap(list(by_task.values())) for column, by_task in shares.items()},
        by_seed,
        shares,
        tuple(run["command"] for run in runs),
    )


def _shares(result: Mapping[str, Any], splits: Sequence[str], condition: str) -> dict[str, float]:
    scores = [Score(*row) for row in result["scores"]]
    return {s.task: s.right / s.total for s in scores if s.split in splits and s.condition == condition}
