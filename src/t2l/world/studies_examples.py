"""What a few examples add on near held-out tasks: to choose a wording, to tune an embedding, to start training from.

Examples come from the training part of a task's inputs, scores from the evaluation part. Adapters start from one
description a task, in phrases never trained on. Learning rates were chosen on the validation tasks.

The study is made of parts, each stored when it is done: a killed study goes on, and several processes share it.

Axis letters: N tasks, E embedding width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from t2l.bases import Base
from t2l.errors import T2LError
from t2l.guidance.choosing import agreement, answer_samples, candidates
from t2l.guidance.guide import Guide, is_calibrated
from t2l.lora import LoraWeights
from t2l.model import TextToLora
from t2l.storage import read_json, write_json
from t2l.training.oracles import Sample
from t2l.training.refinement import (
    EMBEDDING_RATE,
    RefineConfig,
    fit_losses,
    fresh_adapters,
    refine_embeddings,
    tune_adapters,
    tune_with_hypernetwork,
)
from t2l.world.calibration import unseen_wordings
from t2l.world.evaluate import RESAMPLES, bootstrap
from t2l.world.exact_match import Example, Query, exact_match
from t2l.world.studies_run import locked
from t2l.world.tasks import NEAR, MicroTask, tasks_of

EVERY = 2  # near task is used
INPUTS = 20
FEW, MORE = 8, 32  # examples: to choose and to tune the embedding; to fine-tune
NUMBERS = (8,)
"""Of examples, by which accuracy is measured."""
EMBEDDING = RefineConfig(steps=30, learning_rate=0.02, batch=8)
TUNING = {
    "warm": RefineConfig(steps=96, learning_rate=3e-3, batch=4),
    "plain": RefineConfig(steps=96, learning_rate=3e-3, batch=4),
    "fresh": RefineConfig(steps=96, learning_rate=3e-3, batch=4),
}
"""With the hypernetwork, as ``t2l refine`` does; of the generated adapter alone; of a fresh LoRA."""
SHORT = {
    "warm": RefineConfig(steps=32, learning_rate=3e-3, batch=4),
    "fresh": RefineConfig(steps=48, learning_rate=3e-3, batch=4),
}
"""On fewer examples."""
LOOKS = (0, 2, 4, 8, 16, 24, 32, 48, 64, 96)
"""Steps of fine-tuning after which accuracy is measured."""
GOALS = (0.5, 0.75, 0.9, 1.0)
"""Shares of the fresh LoRA's best accuracy."""
NEVER = 9.0
"""In place of a ratio of steps, where the goal is not reached."""
_WAIT = 2.0  # seconds between looks at what other processes have finished
Say = Callable[[str], None]
Curve = dict[int, list[float]]
"""Steps -> accuracy of each task."""


def examples_study(t2l: TextToLora, base: Base, say: Say, seed: int, folder: Path) -> dict[str, Any]:
    """Exact match before and after each use of examples, with paired 95% intervals over tasks.

    Args:
        folder: where finished parts lie.

    Raises:
        T2LError: a part there is of another checkpoint or other settings.
    """
    exam = _Exam(t2l, base, tasks_of(*NEAR)[::EVERY], seed)
    parts = {name: _curve_part(exam, name, say) for name in ("warm", "plain")}
    parts |= {f"third-{name}": _third_part(exam, name) for name in TUNING}
    parts["choosing"] = _Part({"few": FEW}, lambda: _choosing(exam, say))
    parts["fresh"] = _curve_part(exam, "fresh", say)
    for number in sorted(NUMBERS, key=lambda number: number != FEW):
        parts |= _few_parts(exam, number)
    common = {"checkpoint": t2l.digest, "seed": seed, "tasks": [task.name for task in exam.tasks]}
    common |= {"inputs": INPUTS, "embedding_rate": EMBEDDING_RATE}
    found = _computed(parts, folder, common, say)
    curves = {name: {int(step): row for step, row in found[name].items()} for name in ("warm", "plain", "fresh")}
    start = curves["plain"][0]
    after = {
        name: [_interval(found[f"{name}-{number}"], seed) for number in NUMBERS]
        for name in ("embedding", "warm", "fresh")
    }
    tuned = found[f"embedding-{FEW}"]
    chosen = found["choosing"]
    return {
        "tasks": [task.name for task in exam.tasks],
        "few": FEW,
        "more": MORE,
        "as_given": _mean(start),
        "choosing": {
            "candidates": chosen["candidates"],
            **{
                by: {"after": _interval(chosen[by], seed), "gain": _gap(chosen[by], start, seed)}
                for by in ("outputs", "inputs")
            },
        },
        "embedding": {"steps": EMBEDDING.steps, "after": _interval(tuned, seed), "gain": _gap(tuned, start, seed)},
        "by_number": {"numbers": list(NUMBERS), **after, "steps": {name: SHORT[name].steps for name in SHORT}},
        "warm_start": _warm_start(curves, {name: found[f"third-{name}"] for name in TUNING}, seed),
    }


@dataclass(frozen=True)
class _Part:
    """What is computed and stored as one: with its settings, as plain JSON values."""

    settings: Mapping[str, Any]
    run: Callable[[], Any]


class _Exam:
    """The tasks, what is learned from and what is asked."""

    def __init__(self, t2l: TextToLora, base: Base, tasks: Sequence[MicroTask], seed: int) -> None:
        self.t2l, self.base, self.tasks, self.seed = t2l, base, tasks, seed
        self.shown: list[list[Example]] = [task.examples(MORE, seed=seed, part="train") for task in tasks]
        self.samples: list[list[Sample]] = [list(answer_samples(base, shown)) for shown in self.shown]
        self.texts = [unseen_wordings(task, seed, 1)[0] for task in tasks]
        self.embedding_NE = t2l.encoder.encode(self.texts)
        self.generated = self.made(self.embedding_NE)

    def made(self, embedding_NE: Tensor) -> LoraWeights:
        """What the hypernetwork makes of embeddings."""
        with torch.no_grad():
            return self.t2l.hypernetwork(embedding_NE).detach()

    def accuracies(self, weights: LoraWeights) -> list[float]:
        """Share of right answers of each task, task n under adapter n."""
        queries = [
            Query(example, adapter=row)
            for row, task in enumerate(self.tasks)
            for example in task.examples(INPUTS, seed=self.seed)
        ]
        right = exact_match(self.base.model, queries, self.t2l.spec, weights)
        return [sum(right[place * INPUTS : (place + 1) * INPUTS]) / INPUTS for place in range(len(self.tasks))]

    def few(self, number: int) -> list[list[Sample]]:
        """The first examples of each task."""
        return [samples[:number] for samples in self.samples]

    def tuned(self, name: str, config: RefineConfig, number: int, **watch: Any) -> LoraWeights:
        """Fine-tuned on the first examples of each task, in one of the ways of `TUNING`."""
        base, network, samples = self.base.model, self.t2l.hypernetwork, self.few(number)
        if name == "warm":
            return tune_with_hypernetwork(base, network, self.embedding_NE, self.generated, samples, config, **watch)
        fresh = fresh_adapters(self.t2l.spec, len(self.tasks), self.seed)
        start = fresh if name == "fresh" else self.generated
        return tune_adapters(base, self.t2l.spec, start, samples, config, **watch)


def _computed(parts: Mapping[str, _Part], folder: Path, common: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """The results of all parts: those that lie there, and those that no other process is at."""
    found: dict[str, Any] = {}
    while waiting := [name for name in parts if name not in found]:
        before = len(found)
        for name in waiting:
            settings = {**common, **parts[name].settings}
            path = folder / f"{name}.json"
            with locked(path.with_suffix(".lock")) as free:
                if not path.is_file() and free:
                    say(f"examples: {name}, {len(parts) - len(found)} of {len(parts)} parts left")
                    write_json(path, {"settings": settings, "found": parts[name].run()})
            if path.is_file():
                document = read_json(path, T2LError)
                if document.get("settings") != settings:
                    raise T2LError(
                        f"'{path}' is of another checkpoint or other settings.", f"Remove it first: rm {path}"
                    )
                found[name] = document["found"]
        if len(found) == before:
            time.sleep(_WAIT)
    return found


def _curve_part(exam: _Exam, name: str, say: Say) -> _Part:
    """Accuracy of each task after steps of fine-tuning."""

    def run() -> Curve:
        curve: Curve = {}

        def watch(step: int, weights: LoraWeights) -> None:
            if step in LOOKS:
                curve[step] = exam.accuracies(weights)
                say(f"examples: {name}, step {step}: {100 * _mean(curve[step]):.1f}%")

        exam.tuned(name, TUNING[name], MORE, watch=watch)
        return curve

    return _Part({**asdict(TUNING[name]), "examples": MORE, "looks": list(LOOKS)}, run)


def _third_part(exam: _Exam, name: str) -> _Part:
    """Accuracy of each task at the end of a schedule of a third of the steps."""
    config = replace(TUNING[name], steps=TUNING[name].steps // 3)
    return _Part(asdict(config), lambda: exam.accuracies(exam.tuned(name, config, MORE)))


def _few_parts(exam: _Exam, number: int) -> dict[str, _Part]:
    """Accuracy of each task after some examples, used in three ways."""

    def embedding() -> list[float]:
        network = exam.t2l.hypernetwork
        return exam.accuracies(
            exam.made(refine_embeddings(exam.base.model, network, exam.embedding_NE, exam.few(number), EMBEDDING))
        )

    def warm() -> list[float]:
        return exam.accuracies(exam.tuned("warm", SHORT["warm"], number))

    def fresh() -> list[float]:
        return exam.accuracies(exam.tuned("fresh", SHORT["fresh"], number))

    return {
        f"embedding-{number}": _Part(asdict(EMBEDDING), embedding),
        f"warm-{number}": _Part(asdict(SHORT["warm"]), warm),
        f"fresh-{number}": _Part(asdict(SHORT["fresh"]), fresh),
    }


def _choosing(exam: _Exam, say: Say) -> dict[str, Any]:
    """By the loss on outputs and by agreement on inputs, among rewordings and the nearest tasks' descriptions."""
    t2l, base = exam.t2l, exam.base
    guide = Guide.of(t2l) if is_calibrated(t2l) else None
    chosen: dict[str, list[Tensor]] = {"outputs": [], "inputs": []}
    counts = []
    for place, text in enumerate(exam.texts):
        wordings = candidates(guide, [text])
        counts.append(len(wordings))
        embedding_NE = t2l.encoder.encode(wordings)
        weights = exam.made(embedding_NE)
        losses = fit_losses(base.model, t2l.spec, weights, exam.samples[place][:FEW])
        shares = agreement(base, t2l.spec, weights, [question for question, _ in exam.shown[place][:FEW]])
        chosen["outputs"].append(embedding_NE[int(losses.argmin())])
        chosen["inputs"].append(embedding_NE[shares.index(max(shares))])
        say(f"examples: wordings of task {place + 1} of {len(exam.texts)}")
    after = {name: exam.accuracies(exam.made(torch.stack(rows))) for name, rows in chosen.items()}
    return {"candidates": _mean(counts), **after}


def _warm_start(curves: Mapping[str, Curve], thirds: Mapping[str, Sequence[float]], seed: int) -> dict[str, Any]:
    """Accuracy after the same steps, and steps to the same accuracy as a share of the fresh LoRA's."""
    looks = sorted(curves["fresh"])
    rng = Random(seed)
    tasks = range(len(thirds["fresh"]))
    draws = [list(tasks), *(rng.choices(tasks, k=len(tasks)) for _ in range(RESAMPLES))]
    ratios = {
        name: [[goal, *_ratio_interval(curves[name], curves["fresh"], goal, draws)] for goal in GOALS]
        for name in ("warm", "plain")
    }
    best = max(looks, key=lambda step: _mean(curves["fresh"][step]))
    return {
        "looks": looks,
        "examples": MORE,
        "learning_rates": {name: config.learning_rate for name, config in TUNING.items()},
        **{name: [_interval(curve[step], seed) for step in looks] for name, curve in curves.items()},
        "ratios": ratios,
        "third": {
            "steps": {name: config.steps // 3 for name, config in TUNING.items()},
            "fresh_best_step": best,
            **{
                name: {
                    "after": _interval(third, seed),
                    "minus_fresh_best": _gap(third, curves["fresh"][best], seed),
                    "minus_fresh_last": _gap(third, curves["fresh"][looks[-1]], seed),
                    "minus_fresh_third": _gap(third, thirds["fresh"], seed),
                }
                for name, third in thirds.items()
            },
        },
    }


def _ratio_interval(curve: Curve, fresh: Curve, goal: float, draws: Sequence[Sequence[int]]) -> list[float]:
    """The ratio over all tasks (the first draw), and the 95% interval of the others."""
    whole, *drawn = (step_ratio(curve, fresh, goal, rows) for rows in draws)
    drawn.sort()
    return [whole, drawn[int(0.025 * len(drawn))], drawn[int(0.975 * len(drawn)) - 1]]


def step_ratio(curve: Curve, fresh: Curve, goal: float, rows: Sequence[int]) -> float:
    """Steps in which a curve reaches ``goal`` times the fresh LoRA's best accuracy, over those that this took.

    Args:
        rows: the tasks over which accuracy is averaged.
    """
    looks = sorted(fresh)
    own, other = ([_mean([some[step][row] for row in rows]) for step in looks] for some in (curve, fresh))
    accuracy = goal * max(other)
    needed, taken = steps_to(looks, own, accuracy), steps_to(looks, other, accuracy)
    return NEVER if needed is None or not taken else round(needed / taken, 4)


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
