"""Does the description do the work? Conditions compared item by item, with paired intervals and a verdict in words.

Level 5. Every condition answers the same items, so differences are paired: per task a bootstrap resamples items, pooled
it resamples tasks (each task counts the same), and items within them where there are few tasks. Only then is "the
adapter helps" told apart from "the description helps" (LANDSCAPE of this project, section 0). This file knows items
and their scores; it knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
AGAINST = ("static", "other-task", "vague", "junk", "empty", "paraphrase", "base")
"""What matched descriptions are compared with, the most telling first."""
_NAMES = {
    "static": "a static adapter",
    "other-task": "another task's description",
    "vague": "a vague description",
    "junk": "junk",
    "empty": "an empty description",
    "paraphrase": "a paraphrase",
    "base": "the base without an adapter",
    "multi-task": "one multi-task LoRA",
    "average": "the average adapter",
    "nearest": "the nearest task's adapter",
    "description-in-prompt": "the description in the prompt",
    "task-specific": "a LoRA trained on the task itself",
    "arrow": "Arrow routing",
    "hyperdecoder": "a hyperdecoder",
}
_TELLING = ("static", "multi-task", "other-task")
"""Conditions that give an adapter all the same: only a lead over all of these that were measured passes the gate."""


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% interval, in percent or percentage points."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Matched descriptions minus another condition; ``task`` is None for all tasks pooled."""

    task: str | None
    against: str
    difference: Interval
    items: int


@dataclass(frozen=True)
class Gate:
    """What `gate_of` found."""

    accuracy: dict[str, dict[str, Interval]]
    comparisons: tuple[Comparison, ...]
    verdict: tuple[str, ...]
    passed: bool | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def scores_of(items: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[int, float]]]:
    """Row -> task -> document -> score, averaged over the row's descriptions of the task."""
    sums: dict[str, dict[str, dict[int, list[float]]]] = {}
    for item in items:
        place = sums.setdefault(item["row"], {}).setdefault(item["task"], {})
        place.setdefault(item["document"], []).append(item["right"])
    return {
        row: {task: {doc: sum(some) / len(some) for doc, some in docs.items()} for task, docs in tasks.items()}
        for row, tasks in sums.items()
    }


def pooled(tasks: Sequence[Sequence[float]], seed: int = 0) -> Interval:
    """Mean over tasks of the mean over their items, in percent; resamples tasks, then items within each."""
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(values, dtype=float) for values in tasks]
    drawn = np.empty(RESAMPLES)
    means = np.stack([_resampled(values, rng) for values in arrays])  # (tasks, RESAMPLES)
    for number in range(RESAMPLES):
        chosen = rng.integers(0, len(arrays), len(arrays)) if len(arrays) > 1 else np.zeros(1, dtype=int)
        drawn[number] = means[chosen, number].mean()
    return _interval(float(np.mean([values.mean() for values in arrays])), drawn)


def single(values: Sequence[float], seed: int = 0) -> Interval:
    """Mean over items, in percent; resamples items."""
    array = np.asarray(values, dtype=float)
    return _interval(float(array.mean()), _resampled(array, np.random.default_rng(seed)))


def accuracies(items: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, dict[str, Interval]]:
    """Row -> task -> accuracy; the empty task name stands for all tasks pooled."""
    found: dict[str, dict[str, Interval]] = {}
    for row, tasks in scores_of(items).items():
        values = {task: list(docs.values()) for task, docs in tasks.items()}
        found[row] = {task: single(some, seed) for task, some in values.items()}
        found[row][""] = pooled(list(values.values()), seed)
    return found


def compared(
    items: Sequence[Mapping[str, Any]], first: str, second: str, seed: int = 0
) -> tuple[dict[str, Comparison], Comparison] | None:
    """``first`` minus ``second`` on the items that both answered: per task, and pooled; None without such items."""
    scores = scores_of(items)
    gaps: dict[str, list[float]] = {}
    for task, docs in scores.get(first, {}).items():
        other = scores.get(second, {}).get(task, {})
        shared = [docs[doc] - other[doc] for doc in docs if doc in other]
        if shared:
            gaps[task] = shared
    if not gaps:
        return None
    each = {task: Comparison(task, second, single(some, seed), len(some)) for task, some in gaps.items()}
    return each, Comparison(None, second, pooled(list(gaps.values()), seed), sum(map(len, gaps.values())))


def gate_of(items: Sequence[Mapping[str, Any]], seed: int = 0, first: str = "matched") -> Gate:
    """Accuracies, paired comparisons of ``first`` with every other condition, and the verdict."""
    comparisons: list[Comparison] = []
    overall: dict[str, Comparison] = {}
    measured = list(dict.fromkeys(item["row"] for item in items))
    for other in [*AGAINST, *(row for row in measured if row not in AGAINST and row != first)]:
        found = compared(items, first, other, seed)
        if found is not None:
            each, together = found
            overall[other] = together
            comparisons += [together, *each.values()]
    return Gate(accuracies(items, seed), tuple(comparisons), *_verdict(overall))


def _verdict(overall: Mapping[str, Comparison]) -> tuple[tuple[str, ...], bool | None]:
    lines = []
    for other, comparison in overall.items():
        subject = "The description" if other in AGAINST and other != "base" else "The adapter from the description"
        lines.append(f"{subject} {_in_words(comparison.difference, other)}")
    telling = [overall[other] for other in _TELLING if other in overall]
    if not telling:
        return tuple(lines), None
    passed = all(one.difference.low > 0 for one in telling)
    if passed:
        lines.append("The gate is passed: the description does the work.")
    elif any(one.difference.high < 0 for one in telling):
        lines.append("The gate is not passed: the right description does worse than none.")
    else:
        lines.append(
            "The gate is not passed: what the adapter gives cannot be told apart from a description's absence."
        )
    return tuple(lines), passed


def _in_words(gap: Interval, other: str) -> str:
    interval = f"95% interval {gap.low:.1f} to {gap.high:.1f}"
    if gap.low > 0:
        return f"adds {gap.mean:.1f} points over {_name(other)}, {interval}."
    if gap.high < 0:
        return f"loses {-gap.mean:.1f} points against {_name(other)}, {interval}."
    return (
        f"makes no difference that can be told from chance against {_name(other)}: {gap.mean:+.1f} points, {interval}."
    )


def _name(row: str) -> str:
    return _NAMES.get(row, f"{row.removesuffix('-shot')} examples in the prompt" if row.endswith("-shot") else row)


def _resampled(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of resamples of one list."""
    if len(values) == 0:
        return np.zeros(RESAMPLES)
    unique, counts = np.unique(values, return_counts=True)  # a draw of items is a draw of how often each value comes
    drawn = rng.multinomial(len(values), counts / len(values), size=RESAMPLES)
    return drawn @ unique / len(values)


def _interval(mean: float, drawn: np.ndarray) -> Interval:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(100 * mean, 100 * float(low), 100 * float(high))
