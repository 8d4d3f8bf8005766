"""What a few examples add on near held-out tasks: to choose a wording, to tune an embedding, to start training from.

Examples come from the training part of a task's inputs, scores from the evaluation part. Adapters start from one
description a task, in phrases never trained on.

Axis letters: N tasks, E embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor

from t2l.bases import Base
from t2l.guidance.choosing import agreement, answer_samples, candidates
from t2l.guidance.guide import Guide, is_calibrated
from t2l.lora import LoraWeights
from t2l.model import TextToLora
from t2l.training.oracles import Sample
from t2l.training.refinement import RefineConfig, fit_losses, fresh_adapters, refine_embeddings, tune_adapters
from t2l.world.calibration import unseen_wordings
from t2l.world.evaluate import RESAMPLES, bootstrap
from t2l.world.exact_match import Example, Query, exact_match
from t2l.world.tasks import NEAR, MicroTask, tasks_of

EVERY = 2  # near task is used
INPUTS = 20
FEW, MORE = 8, 32  # examples: to choose and to tune the embedding; to fine-tune
EMBEDDING = RefineConfig(steps=30, learning_rate=0.02, batch=8)
TUNING = RefineConfig(steps=96, learning_rate=3e-3, batch=4)
LOOKS = (0, 4, 8, 16, 24, 32, 48, 64, 96)
"""Steps of fine-tuning after which accuracy is measured."""
Say = Callable[[str], None]


def examples_study(t2l: TextToLora, base: Base, say: Say, seed: int) -> dict[str, Any]:
    """Exact match before and after each use of examples, with paired 95% intervals over tasks."""
    tasks = tasks_of(*NEAR)[::EVERY]
    exam = _Exam(t2l, base, tasks, seed)
    texts = [unseen_wordings(task, seed, 1)[0] for task in tasks]
    embedding_NE = t2l.encoder.encode(texts)
    with torch.no_grad():
        weights = t2l.hypernetwork(embedding_NE).detach()
    start = exam.accuracies(weights)
    say(f"examples: {len(tasks)} tasks; choosing among wordings")
    found: dict[str, Any] = {"tasks": [task.name for task in tasks], "few": FEW, "more": MORE, "as_given": _mean(start)}
    found["choosing"] = _choosing(t2l, base, exam, texts, start, say, seed)
    say(f"examples: {EMBEDDING.steps} steps on embeddings")
    few = [samples[:FEW] for samples in exam.samples]
    moved_NE = refine_embeddings(base.model, t2l.hypernetwork, embedding_NE, few, EMBEDDING)
    with torch.no_grad():
        tuned = exam.accuracies(t2l.hypernetwork(moved_NE).detach())
    found["embedding"] = {"steps": EMBEDDING.steps, "after": _interval(tuned, seed), "gain": _gap(tuned, start, seed)}
    found["warm_start"] = _warm_start(t2l, base, exam, weights, say, seed)
    return found


class _Exam:
    """The tasks, what is learned from and what is asked."""

    def __init__(self, t2l: TextToLora, base: Base, tasks: Sequence[MicroTask], seed: int) -> None:
        self.t2l, self.base, self.tasks, self.seed = t2l, base, tasks, seed
        self.shown: list[list[Example]] = [task.examples(MORE, seed=seed, part="train") for task in tasks]
        self.samples: list[list[Sample]] = [list(answer_samples(base, shown)) for shown in self.shown]

    def accuracies(self, weights: LoraWeights, rows: Sequence[int] | None = None) -> list[float]:
        """Share of right answers of each task under its adapter, row n by default."""
        rows = range(len(self.tasks)) if rows is None else rows
        queries = [
            Query(example, adapter=row)
            for task, row in zip(self.tasks, rows, strict=True)
            for example in task.examples(INPUTS, seed=self.seed)
        ]
        right = exact_match(self.base.model, queries, self.t2l.spec, weights)
        return [sum(right[place * INPUTS : (place + 1) * INPUTS]) / INPUTS for place in range(len(self.tasks))]


def _choosing(
    t2l: TextToLora, base: Base, exam: _Exam, texts: Sequence[str], start: Sequence[float], say: Say, seed: int
) -> dict[str, Any]:
    """By the loss on outputs and by agreement on inputs, among rewordings and the nearest tasks' descriptions."""
    guide = Guide.of(t2l) if is_calibrated(t2l) else None
    chosen: dict[str, list[Tensor]] = {"outputs": [], "inputs": []}
    counts = []
    for place, text in enumerate(texts):
        wordings = candidates(guide, [text])
        counts.append(len(wordings))
        embedding_NE = t2l.encoder.encode(wordings)
        with torch.no_grad():
            weights = t2l.hypernetwork(embedding_NE).detach()
        losses = fit_losses(base.model, t2l.spec, weights, exam.samples[place][:FEW])
        shares = agreement(base, t2l.spec, weights, [question for question, _ in exam.shown[place][:FEW]])
        chosen["outputs"].append(embedding_NE[int(losses.argmin())])
        chosen["inputs"].append(embedding_NE[shares.index(max(shares))])
        say(f"examples: wordings of task {place + 1} of {len(texts)}")
    found: dict[str, Any] = {"candidates": _mean(counts)}
    for name, rows in chosen.items():
        with torch.no_grad():
            after = exam.accuracies(t2l.hypernetwork(torch.stack(rows)).detach())
        found[name] = {"after": _interval(after, seed), "gain": _gap(after, start, seed)}
    return found


def _warm_start(
    t2l: TextToLora, base: Base, exam: _Exam, generated: LoraWeights, say: Say, seed: int
) -> dict[str, Any]:
    """Accuracy of fine-tuning from the generated adapter and from a fresh one, after the same steps."""
    curves: dict[str, dict[int, list[float]]] = {}
    starts = {"warm": generated, "fresh": fresh_adapters(t2l.spec, len(exam.tasks), seed)}
    for name, start in starts.items():
        curve: dict[int, list[float]] = {}

        def watch(step: int, weights: LoraWeights, curve: dict[int, list[float]] = curve, name: str = name) -> None:
            if step in LOOKS:
                curve[step] = exam.accuracies(weights)
                say(f"examples: {name}, step {step}: {100 * _mean(curve[step]):.1f}%")

        tune_adapters(base.model, t2l.spec, start, exam.samples, TUNING, watch=watch)
        curves[name] = curve
    looks = [step for step in LOOKS if step in curves["warm"]]
    rng = Random(seed)
    tasks = range(len(exam.tasks))
    ratios = sorted(_ratio(curves, looks, rng.choices(tasks, k=len(tasks))) for _ in range(RESAMPLES))
    whole = _ratio(curves, looks, list(tasks))
    return {
        "looks": looks,
        "examples": MORE,
        **{name: [_interval(curve[step], seed) for step in looks] for name, curve in curves.items()},
        "ratio": [whole, ratios[int(0.025 * RESAMPLES)], ratios[int(0.975 * RESAMPLES) - 1]],
    }


def _ratio(curves: dict[str, dict[int, list[float]]], looks: Sequence[int], rows: Sequence[int]) -> float:
    """Steps in which the warm start reaches the fresh LoRA's best accuracy, over those that this took; 9 for never."""
    mean = {name: [_mean([curve[step][row] for row in rows]) for step in looks] for name, curve in curves.items()}
    goal = max(mean["fresh"])
    needed = steps_to(looks, mean["warm"], goal)
    taken = steps_to(looks, mean["fresh"], goal)
    return 9.0 if needed is None or not taken else round(needed / taken, 4)


def steps_to(looks: Sequence[int], accuracy: Sequence[float], goal: float) -> float | None:
    """Steps after which a curve reaches the goal, on the straight line between two looks; None where it never does."""
    for place, value in enumerate(accuracy):
        if value >= goal:
            if place == 0:
                return float(looks[0])
            before = accuracy[place - 1]
            share = (goal - before) / (value - before)
            return looks[place - 1] + share * (looks[place] - looks[place - 1])
    return None


def _interval(values: Sequence[float], seed: int) -> list[float]:
    """Mean and 95% interval in percent, resampling tasks."""
    return [round(value, 2) for value in bootstrap(values, seed)]


def _gap(after: Sequence[float], before: Sequence[float], seed: int) -> list[float]:
    return _interval([one - other for one, other in zip(after, before, strict=True)], seed)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
