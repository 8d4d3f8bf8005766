"""Calibrating a checkpoint: signals and gains of descriptions on validation tasks, and the small model fitted to them.

Axis letters: N descriptions, M training tasks, D descriptions a task, E embedding width.

Level 5. It is given tasks and a way to score answers; it knows no particular base and no files of tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from random import Random
from typing import Any

import torch
from torch import Tensor

from t2l.errors import T2LError
from t2l.guidance.calibration import Calibration, fit_scale
from t2l.guidance.familiarity import TaskSpace
from t2l.guidance.signals import Known, measure
from t2l.lora import LoraWeights
from t2l.model import TextToLora

AXES = 96
CONTROLS = ("vague", "junk", "foreign")
_INPUTS_OF_CONTROL = 16  # drawn from all validation tasks, for a description that names no task
_LEAST_TASKS = 4
Example = tuple[str, str]
Score = Callable[[LoraWeights | None, Sequence[tuple[int, Example]]], Sequence[bool]]
"""From N adapters (None: the base alone) and (row of the adapter, example) to whether each answer was right."""


@dataclass(frozen=True)
class ValidationTask:
    """A task that the hypernetwork was not trained on.

    Args:
        name: of the task.
        descriptions: each gets an adapter.
        examples: inputs with the outputs that count as right.
    """

    name: str
    descriptions: tuple[str, ...]
    examples: tuple[Example, ...]


def calibrate(
    t2l: TextToLora,
    training: Mapping[str, Sequence[str]],
    validation: Sequence[ValidationTask],
    score: Score,
    *,
    static: LoraWeights | None = None,
    facts: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Calibration:
    """A calibration of the checkpoint; nothing is written.

    Args:
        training: name of each training task -> its descriptions, as many for each.
        validation: held-out tasks with examples.
        score: answers with the base that the checkpoint is for.
        static: a multi-task adapter to fall back on.
        facts: what else should be noted.
        report: called with a line about what is being done.

    Raises:
        T2LError: too few tasks, or training tasks with different numbers of descriptions.
    """
    _check(training, validation)
    report(f"calibrate: embedding the descriptions of {len(training)} training tasks")
    known = known_tasks(t2l, training)
    texts = [(text, task) for task in validation for text in task.descriptions]
    controls = [text for kind in CONTROLS for text in control_texts(kind)]
    report(f"calibrate: {len(texts)} descriptions of {len(validation)} tasks, {len(controls)} controls")
    embedding_NE = t2l.encoder.encode([text for text, _ in texts] + controls)
    with torch.inference_mode():
        weights = t2l.hypernetwork(embedding_NE)
        task_NK = t2l.hypernetwork.encode(embedding_NE).float().cpu()
    signal_NF = measure(t2l, known, embedding_NE, task_NK, weights)
    asked = [(row, example) for row, (_, task) in enumerate(texts) for example in task.examples]
    every = [example for task in validation for example in task.examples]
    rng = Random("calibrate/controls")
    for row in range(len(texts), len(texts) + len(controls)):
        asked += [(row, example) for example in rng.sample(every, min(_INPUTS_OF_CONTROL, len(every)))]
    report(f"calibrate: {len(asked)} answers under adapters, {len(every)} without")
    under = score(weights, asked)
    alone = dict(zip(every, score(None, [(-1, example) for example in every]), strict=True))
    gain = _gains(asked, under, alone, len(embedding_NE))
    trusted = [True] * len(texts) + [False] * len(controls)
    noted = {
        "training_tasks": len(training),
        "validation_tasks": [task.name for task in validation],
        "descriptions": len(texts),
        "controls": len(controls),
        "answers": len(asked),
        "mean_gain": round(sum(gain[: len(texts)]) / len(texts), 4),
        "mean_gain_of_controls": round(sum(gain[len(texts) :]) / len(controls), 4),
        **(facts or {}),
    }
    scale = fit_scale(signal_NF, trusted, gain)
    return Calibration(t2l.digest, t2l.encoder.identity, known, scale, static, noted)


@torch.inference_mode()
def known_tasks(t2l: TextToLora, training: Mapping[str, Sequence[str]]) -> Known:
    """What a calibration keeps of the training tasks."""
    texts = [text for some in training.values() for text in some]
    embedding_MDE = t2l.encoder.encode(texts).unflatten(0, (len(training), -1))
    if t2l.encoder.token_dim is not None:
        raise T2LError(f"Checkpoints that read tokens ({t2l.encoder.identity}) cannot be calibrated yet.")
    encoding_MDK = t2l.hypernetwork.encode(embedding_MDE.flatten(0, 1)).float().cpu().unflatten(0, (len(training), -1))
    first = [some[0] for some in training.values()]
    mean = _mean_adapter(t2l, embedding_MDE[:, 0])
    return Known(
        tuple(training), tuple(first), TaskSpace.of(embedding_MDE, AXES), TaskSpace.of(encoding_MDK, AXES), mean
    )


@cache
def control_texts(kind: str) -> tuple[str, ...]:
    """Descriptions that should not be trusted: ``"vague"``, ``"junk"``, or ``"foreign"`` (of tasks of other kinds)."""
    import yaml

    text = resources.files("t2l.guidance").joinpath("controls.yaml").read_text(encoding="utf-8")
    return tuple(yaml.safe_load(text)[kind])


def _mean_adapter(t2l: TextToLora, embedding_ME: Tensor) -> LoraWeights:
    step, total = t2l.chunk_size(), None
    for start in range(0, len(embedding_ME), step):
        part = t2l.hypernetwork(embedding_ME[start : start + step])
        sums = part.map(lambda tensor: tensor.float().sum(dim=0, keepdim=True).cpu())
        total = (
            sums
            if total is None
            else LoraWeights(
                {key: total.a[key] + value for key, value in sums.a.items()},
                {key: total.b[key] + value for key, value in sums.b.items()},
            )
        )
    assert total is not None
    return total.map(lambda tensor: tensor / len(embedding_ME))


def _gains(
    asked: Sequence[tuple[int, Example]], under: Sequence[bool], alone: Mapping[Example, bool], rows: int
) -> list[float]:
    """Mean over each row's examples of right under the adapter minus right without."""
    total, count = [0.0] * rows, [0] * rows
    for (row, example), right in zip(asked, under, strict=True):
        total[row] += float(right) - float(alone[example])
        count[row] += 1
    return [sums / number for sums, number in zip(total, count, strict=True)]


def _check(training: Mapping[str, Sequence[str]], validation: Sequence[ValidationTask]) -> None:
    if len(training) < _LEAST_TASKS or len(validation) < _LEAST_TASKS:
        raise T2LError(
            f"There are {len(training)} training tasks and {len(validation)} validation tasks; a calibration needs at "
            f"least {_LEAST_TASKS} of each."
        )
    counts = {len(some) for some in training.values()}
    if len(counts) != 1 or 0 in counts:
        raise T2LError(f"The training tasks have {sorted(counts)} descriptions; each must have as many.")
    bare = next((task.name for task in validation if not task.descriptions or not task.examples), None)
    if bare is not None:
        raise T2LError(f"The validation task '{bare}' has no descriptions or no examples.")
