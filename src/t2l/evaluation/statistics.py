"""What the scores of rows say: means with 95% bootstrap intervals, and whether the description does the work.

Level 5. The one place of the project that resamples. Three means, told apart by what is resampled: items (`single`),
tasks and the items within each (`pooled`), or tasks alone, whose sums are what was measured (`over_tasks`). Every row
of a run answers the same items, so differences are paired, per task and pooled (each task counts the same): only then
is "the adapter helps" told apart from "the description helps". This file knows numbers and names of rows; it knows no
model.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
_CORRELATIONS = 1000


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% interval, in percent or percentage points."""

    mean: float
    low: float
    high: float


def single(values: Sequence[float], seed: int = 0) -> Interval:
    """Mean over items, in percent; resamples items."""
    array = np.asarray(values, dtype=float)
    return _interval(float(array.mean()), _resampled(array, np.random.default_rng(seed), np.ones(RESAMPLES, dtype=int)))


def pooled(tasks: Sequence[Sequence[float]], seed: int = 0) -> Interval:
    """Mean over tasks of the mean over their items, in percent; resamples tasks, then items within each.

    A task that is drawn twice has its items drawn twice. That is rather too wide than too narrow: what items add by
    chance is in the spread of the tasks already.
    """
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(values, dtype=float) for values in tasks]
    times = _times(len(arrays), rng)  # (RESAMPLES, tasks)
    drawn = sum((_resampled(values, rng, times[:, place]) for place, values in enumerate(arrays)), np.zeros(RESAMPLES))
    return _interval(float(np.mean([values.mean() for values in arrays])), drawn / len(arrays))


def over_tasks(tasks: Sequence[tuple[float, int]], seed: int = 0) -> Interval:
    """Mean over all items of all tasks, in percent; resamples tasks alone.

    Args:
        tasks: of each the sum over its items, and how many they are.
    """
    sums, counts = (np.asarray(values, dtype=float) for values in zip(*tasks, strict=True))
    times = _times(len(sums), np.random.default_rng(seed))
    return _interval(float(sums.sum() / counts.sum()), (times @ sums) / (times @ counts))


def rank_correlation(x: Sequence[float], y: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Spearman's, with a 95% bootstrap interval over the pairs; 0 where one of the two does not vary."""
    both, rng = np.asarray([x, y], dtype=float), np.random.default_rng(seed)
    drawn = [_spearman(*both[:, rng.integers(0, both.shape[1], both.shape[1])]) for _ in range(_CORRELATIONS)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return _spearman(*both), float(low), float(high)


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.stats import spearmanr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that do not vary
        found: Any = spearmanr(x, y)
    return float(np.nan_to_num(found.statistic))


def _times(tasks: int, rng: np.random.Generator) -> np.ndarray:
    """How often each task comes in each resample: (RESAMPLES, tasks)."""
    return rng.multinomial(tasks, np.full(tasks, 1 / tasks), size=RESAMPLES)


def _resampled(values: np.ndarray, rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """Sums of the means of so many resamples of one list, each of its length: (RESAMPLES,)."""
    unique, counts = np.unique(values, return_counts=True)  # a draw of items is a draw of how often each value comes
    drawn = rng.multinomial(len(values) * times, counts / len(values))  # (RESAMPLES, unique values)
    return drawn @ unique / len(values)


def _interval(mean: float, drawn: np.ndarray) -> Interval:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(100 * mean, 100 * float(low), 100 * float(high))


# --- the gate: rows compared item by item, and a verdict in words -----------------------------------------------------

AGAINST = ("static", "other-task", "vague", "junk", "empty", "paraphrase", "base")
"""What the description's own adapter is compared with, the most telling first."""
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
    "multi-task-prompt": "one multi-task LoRA with the description in its prompt",
    "t2l-in-prompt": "the adapter with the description in the prompt as well",
    "task-specific": "a LoRA trained on the task itself",
    "arrow": "Arrow routing",
    "hyperdecoder": "a hyperdecoder",
}
_TELLING = ("static", "multi-task", "other-task")
"""Conditions that give an adapter all the same: only a lead over all of these that were measured passes the gate."""
LEAST_ITEMS = 30
"""Fewer paired items than these neither pass nor fail the gate: resampled, a handful of lucky answers looks certain."""


@dataclass(frozen=True)
class Comparison:
    """The first row minus another; ``task`` is None for all tasks pooled."""

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


def gate_of(items: Sequence[Mapping[str, Any]], seed: int = 0, first: str = "t2l", *, judged: bool = False) -> Gate:
    """Accuracies, paired comparisons of ``first`` with every other row, and the verdict.

    Args:
        judged: say whether the gate is passed. It is open (``passed`` is None) unless an adapter for all tasks as well
            as another task's description were measured, on `LEAST_ITEMS` items or more.
    """
    comparisons: list[Comparison] = []
    overall: dict[str, Comparison] = {}
    measured = list(dict.fromkeys(item["row"] for item in items))
    for other in [*AGAINST, *(row for row in measured if row not in AGAINST and row != first)]:
        found = compared(items, first, other, seed)
        if found is not None:
            each, together = found
            overall[other] = together
            comparisons += [together, *each.values()]
    lines = [_line(other, comparison) for other, comparison in overall.items()]
    last, passed = _verdict(overall) if judged else ("", None)
    verdict = (*lines, last) if last else tuple(lines)
    return Gate(accuracies(items, seed), tuple(comparisons), verdict, passed)


def _line(other: str, comparison: Comparison) -> str:
    subject = "The description" if other in AGAINST and other != "base" else "The adapter from the description"
    return f"{subject} {_in_words(comparison.difference, other)}"


def _verdict(overall: Mapping[str, Comparison]) -> tuple[str, bool | None]:
    """The last line, and whether the gate is passed."""
    telling = [overall[other] for other in _TELLING if other in overall]
    if "other-task" not in overall or len(telling) < 2:
        lacking = "another task's description" if "other-task" not in overall else "an adapter for all tasks"
        return f"The gate is open: {lacking} was not measured.", None
    items = min(one.items for one in telling)
    if items < LEAST_ITEMS:
        return f"The gate is open: {items} items are too few to judge by, {LEAST_ITEMS} are the least.", None
    if all(one.difference.low > 0 for one in telling):
        return "The gate is passed: the description does the work.", True
    if any(one.difference.high < 0 for one in telling):
        return "The gate is not passed: the right description does worse than none.", False
    return (
        "The gate is not passed: what the adapter gives cannot be told apart from a description's absence.",
        False,
    )


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
    return few_shot(row.removesuffix("-shot")) if row.endswith("-shot") else _NAMES.get(row, row)


def few_shot(count: str) -> str:
    """So many examples in the prompt, in words."""
    return f"{count} example{'' if count == '1' else 's'} in the prompt"
