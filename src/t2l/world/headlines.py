"""The headline figures of the embedded world: on near held-out tasks, condition against condition, task by task.

Differences and shares are paired: a bootstrap resamples tasks and compares both conditions on the same ones. This file
knows scores; it knows no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from t2l.world.evaluate import RESAMPLES, Score
from t2l.world.tasks import NEAR, find_task

NEAR_GROUPS = ("near", "near, input half-reveals", "near, input says nothing")
"""Groups that pool both near splits: all of their tasks, and those whose input does or does not hint at the task."""


@dataclass(frozen=True)
class Target:
    """One figure to reach.

    Args:
        name: of the figure.
        text: what a table says of it.
        kind: a difference in points, or a share in percent.
        first: a condition.
        second: the condition it is compared with.
        least: the smallest mean that reaches it, where there is one.
        most: the largest, where there is one.
    """

    name: str
    text: str
    kind: Literal["difference", "share"]
    first: str
    second: str
    least: float | None = None
    most: float | None = None

    @property
    def rule(self) -> str:
        """The target in words."""
        if self.least is not None:
            return f"at least {self.least:g}" if self.least else "above 0"
        return f"at most {self.most:g}"


TARGETS = (
    Target("share-of-oracle", "matched, as % of the task-specific LoRA", "share", "matched", "oracle", least=95),
    Target("minus-multi-task", "matched minus the multi-task LoRA", "difference", "matched", "multi-task", least=25),
    Target("minus-other-task", "matched minus another task's", "difference", "matched", "other-task", least=40),
    Target("minus-paraphrase", "matched minus unseen paraphrases", "difference", "matched", "paraphrase", most=3),
    Target("minus-3-shot", "matched minus 3 examples in the prompt", "difference", "matched", "3-shot", least=0),
)


@dataclass(frozen=True)
class Figure:
    """A measured headline figure: mean and 95% interval over tasks, and whether its mean reaches the target."""

    name: str
    text: str
    mean: float
    low: float
    high: float
    target: str
    reached: bool


def near_groups(scores: Sequence[Score]) -> list[Score]:
    """The scores of near held-out tasks, once for each of `NEAR_GROUPS` that they belong to, which stands as split."""
    near = [score for score in scores if score.split in NEAR]
    found = [replace(score, split=NEAR_GROUPS[0]) for score in near]
    for group, reveals in zip(NEAR_GROUPS[1:], (True, False), strict=True):
        found += [replace(s, split=group) for s in near if find_task(s.task).operation.reveals == reveals]
    return found


def headlines(scores: Sequence[Score], seed: int = 0) -> list[Figure]:
    """Every target whose two conditions were measured, on the near held-out tasks."""
    shares: dict[str, dict[str, float]] = {}
    for score in scores:
        if score.split in NEAR:
            shares.setdefault(score.condition, {})[score.task] = score.right / score.total
    figures = []
    for target in TARGETS:
        one, other = shares.get(target.first, {}), shares.get(target.second, {})
        pairs = [(one[task], other[task]) for task in one if task in other]
        if pairs:
            mean, low, high = compared(pairs, target.kind, seed)
            reached = mean > target.least if target.least == 0 else mean >= (target.least or 0)
            if target.most is not None:
                reached = mean <= target.most
            figures.append(Figure(target.name, target.text, mean, low, high, target.rule, reached))
    return figures


def compared(
    pairs: Sequence[tuple[float, float]], kind: Literal["difference", "share"], seed: int = 0
) -> tuple[float, float, float]:
    """First against second over tasks, in percent: the difference of their means, or their quotient; 95% interval."""
    rng = Random(seed)

    def value(drawn: Sequence[tuple[float, float]]) -> float:
        first, second = (sum(column) for column in zip(*drawn, strict=True))
        if kind == "difference":
            return 100 * (first - second) / len(drawn)
        return 100 * first / second if second else 100.0 if not first else float("inf")

    values = sorted(value(rng.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    return value(pairs), values[int(0.025 * RESAMPLES)], values[int(0.975 * RESAMPLES) - 1]
