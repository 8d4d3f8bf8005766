"""Means with 95% bootstrap intervals, and rank correlation: the one place of the project that resamples.

Level 5. Three means, told apart by what is resampled: items (`single`), tasks and the items within each (`pooled`), or
tasks alone, whose sums are what was measured (`over_tasks`). This file knows numbers; it knows no row and no task.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
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
