"""How well adapters from descriptions do on the embedded world, against the base and under wrong descriptions.

Every condition answers the same evaluation inputs, which neither the base's pretraining (knowledge tables and sums
aside) nor the hypernetwork's training has seen. Scores are exact match; intervals are bootstrapped over tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from t2l.encoders import DescriptionEncoder
from t2l.lora import LoraSource
from t2l.world.exact_match import Query, exact_match
from t2l.world.tasks import SPLITS, MicroTask, Split, tasks_of
from t2l.world.wording import control_descriptions, descriptions

SHOTS = {"base": 0, "1-shot": 1, "3-shot": 3, "5-shot": 5}
"""Conditions without an adapter -> examples in the prompt."""
CONDITIONS = {
    "base": "base, no examples",
    "1-shot": "base, 1 example in the prompt",
    "3-shot": "base, 3 examples in the prompt",
    "5-shot": "base, 5 examples in the prompt",
    "matched": "adapter from the task's description",
    "paraphrase": "... in phrases never seen in training",
    "other-task": "... of another task",
    "vague": "... that is vague",
    "junk": "... that is junk",
    "empty": "... that says nothing: a full stop alone",
}
"""Condition -> how a table names it. An empty description is refused, so a full stop stands for it."""
TextsOf = Callable[[MicroTask, str, Sequence[MicroTask], int, int], list[str]]
"""From task, condition, all tasks measured, how many, and seed, to the descriptions that are encoded."""
RESAMPLES = 1000
"""Of every bootstrap."""


@dataclass(frozen=True)
class Score:
    """Exact match of one condition on one task."""

    task: str
    split: str
    condition: str
    right: int
    total: int


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Args:
        examples: evaluation inputs a task.
        wordings: descriptions a task in each condition, each with its own adapter.
        train_tasks: how many of the training tasks are measured, evenly spread.
    """

    examples: int = 20
    wordings: int = 4
    train_tasks: int = 100


FULL, QUICK = Effort(), Effort(examples=10, wordings=2, train_tasks=30)


def evaluate(
    base: Any,
    encoder: DescriptionEncoder,
    source: LoraSource,
    *,
    effort: Effort = FULL,
    splits: Sequence[Split] = SPLITS,
    conditions: Sequence[str] = tuple(CONDITIONS),
    seed: int = 0,
    texts_of: TextsOf | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[Score]:
    """Scores of every condition on every task of the splits.

    Args:
        base: the tiny Llama.
        texts_of: other texts than the world's descriptions, for an encoder that reads no language.
        report: called with a line about what is being measured.
    """
    scores: list[Score] = []
    for split in splits:
        tasks = tasks_of(split)
        if split == "train":
            tasks = measured_of(tasks, effort)
        report(f"{split}: {len(tasks)} tasks")
        for condition in conditions:
            if condition in SHOTS:
                scores += _prompted(base, tasks, condition, effort, seed)
            else:
                words = texts_of or described_by
                texts = [words(task, condition, tasks, effort.wordings, seed) for task in tasks]
                scores += _described(base, encoder, source, tasks, texts, condition, effort, seed)
    return scores


def measured_of(tasks: Sequence[MicroTask], effort: Effort) -> list[MicroTask]:
    """The training tasks that are measured, evenly spread."""
    return list(tasks[:: max(1, len(tasks) // effort.train_tasks)])


def summarize(scores: Sequence[Score], seed: int = 0) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Split -> condition -> mean exact match over tasks and its 95% bootstrap interval, in percent."""
    table: dict[str, dict[str, tuple[float, float, float]]] = {}
    for split in dict.fromkeys(score.split for score in scores):
        for condition in dict.fromkeys(score.condition for score in scores):
            shares = [s.right / s.total for s in scores if s.split == split and s.condition == condition]
            if shares:
                table.setdefault(split, {})[condition] = bootstrap(shares, seed)
    return table


def bootstrap(shares: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean and 95% interval in percent, resampling tasks."""
    rng = Random(seed)
    means = sorted(sum(rng.choices(shares, k=len(shares))) / len(shares) for _ in range(RESAMPLES))
    low, high = means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]
    return 100 * sum(shares) / len(shares), 100 * low, 100 * high


def described_by(task: MicroTask, condition: str, tasks: Sequence[MicroTask], count: int, seed: int) -> list[str]:
    """The descriptions from which a condition makes the adapters for a task, the same for the same seed."""
    rng = Random(f"{task.name}/{condition}/{seed}")
    if condition == "matched":
        return descriptions(task, count, part="train", seed=seed + 1)
    if condition == "paraphrase":
        return descriptions(task, count, part="evaluation", seed=seed)
    if condition == "other-task":
        others = [other for other in tasks if other.operation is not task.operation]
        return [descriptions(rng.choice(others), 1, part="train", seed=seed + i)[0] for i in range(count)]
    if condition == "empty":
        return ["."] * count
    return rng.sample(control_descriptions(condition), count)


def _described(
    base: Any,
    encoder: DescriptionEncoder,
    source: LoraSource,
    tasks: Sequence[MicroTask],
    texts: Sequence[Sequence[str]],
    condition: str,
    effort: Effort,
    seed: int,
) -> list[Score]:
    place = {text: row for row, text in enumerate(dict.fromkeys(text for some in texts for text in some))}
    with torch.inference_mode():
        weights = source(encoder.encode(list(place)))  # vague, junk and empty ones recur: one adapter for equal texts
    queries = [
        Query(example, adapter=place[text])
        for task, some in zip(tasks, texts, strict=True)
        for text in some
        for example in task.examples(effort.examples, seed=seed)
    ]
    right = exact_match(base, queries, source.spec, weights)
    return _scores(tasks, condition, right, effort.wordings * effort.examples)


def _prompted(base: Any, tasks: Sequence[MicroTask], condition: str, effort: Effort, seed: int) -> list[Score]:
    shots = SHOTS[condition]
    queries = []
    for task in tasks:
        shown = task.examples(shots * effort.examples, seed=seed, part="train")
        for i, example in enumerate(task.examples(effort.examples, seed=seed)):
            queries.append(Query(example, shots=tuple(shown[i * shots : (i + 1) * shots])))
    return _scores(tasks, condition, exact_match(base, queries), effort.examples)


def _scores(tasks: Sequence[MicroTask], condition: str, right: Sequence[bool], each: int) -> list[Score]:
    return [
        Score(task.name, task.split, condition, sum(right[row * each : (row + 1) * each]), each)
        for row, task in enumerate(tasks)
    ]
