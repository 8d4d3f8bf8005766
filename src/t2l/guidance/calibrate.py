"""Calibrating a checkpoint: signals and gains of descriptions on validation tasks, and the small model fitted to them.

Axis letters: N descriptions, M training tasks, D descriptions a task, E embedding width, W width of one vector a text.

Level 5. It is given tasks and a way to score answers; it knows no particular base and no files of tasks. What is not to
be trusted is learned from controls: texts that are vague, senseless, or of other kinds of task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.encoders import TokenStatesEncoder, prepare
from t2l.errors import T2LError
from t2l.guidance.calibration import Calibration, fit_scale
from t2l.guidance.familiarity import Known, Span, TaskSpace, vectors
from t2l.lora import LoraWeights
from t2l.model import TextToLora

AXES, PLACES = 96, 64
CONTROLS = ("vague", "junk", "foreign")
_TEXTS_AT_ONCE = 32
_INPUTS_OF_CONTROL = 4  # drawn from all validation tasks, for a description that names no task
_LEAST_TASKS = 4
Example = tuple[str, tuple[str, ...]]
"""An input and all outputs that are right."""
Score = Callable[[LoraWeights | None, Sequence[tuple[int, Example]]], Sequence[float]]
"""From N adapters (None: the base alone) and (row of the adapter, example) to how right each answer was, 0 to 1."""


@dataclass(frozen=True)
class GuidedTask:
    """A task that the hypernetwork was trained on, or (with examples) one that it was not.

    Args:
        name: of the task.
        descriptions: in several wordings. Each of a validation task gets an adapter.
        label: what the task is called where it is near a description; by default the clearest of its descriptions.
        examples: inputs with the outputs that count as right.
    """

    name: str
    descriptions: tuple[str, ...]
    label: str | None = None
    examples: tuple[Example, ...] = ()


def calibrate(
    t2l: TextToLora,
    tasks: Sequence[GuidedTask],
    score: Score,
    *,
    facts: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Calibration:
    """A calibration of the checkpoint; nothing is written.

    Args:
        tasks: those with examples are the validation tasks, the others training tasks.
        score: answers with the base that the checkpoint is for.
        facts: what else should be noted.
        report: called with a line about what is being done.

    Raises:
        T2LError: too few tasks, or one without a description.
    """
    training, validation = [task for task in tasks if not task.examples], [task for task in tasks if task.examples]
    _check(training, validation)
    report(f"calibrate: reading the descriptions of {len(training)} training tasks")
    known = known_tasks(t2l, training)
    described = [(text, task) for task in validation for text in task.descriptions]
    controls = [text for kind in CONTROLS for text in control_texts(kind)]
    texts = [text for text, _ in described] + controls
    report(f"calibrate: {len(described)} descriptions of {len(validation)} validation tasks, {len(controls)} controls")
    signal_NF = known.measure(*read(t2l, texts))
    every = [example for task in validation for example in task.examples]
    asked = [(row, example) for row, (_, task) in enumerate(described) for example in task.examples]
    rng = Random("calibrate/controls")
    for row in range(len(described), len(texts)):
        asked += [(row, example) for example in rng.sample(every, min(_INPUTS_OF_CONTROL, len(every)))]
    report(f"calibrate: {len(every)} answers of the base alone, {len(asked)} under adapters")
    alone = dict(zip(every, score(None, [(-1, example) for example in every]), strict=True))
    gains = _gains(t2l, texts, asked, alone, score)
    of_tasks, of_controls = gains[: len(described)], gains[len(described) :]
    scale = fit_scale(signal_NF, [True] * len(described) + [False] * len(controls), gains)
    noted = {
        "training_tasks": len(training),
        "validation_tasks": len(validation),
        "descriptions": len(described),
        "controls": len(controls),
        "answers": len(asked),
        "mean_gain": round(sum(of_tasks) / len(of_tasks), 4),
        "mean_gain_of_controls": round(sum(of_controls) / len(of_controls), 4),
        **(facts or {}),
    }
    return Calibration(t2l.digest, t2l.encoder.identity, known, scale, noted)


def known_tasks(t2l: TextToLora, training: Sequence[GuidedTask]) -> Known:
    """What a calibration keeps of the training tasks; as many descriptions of each count as the one with fewest has."""
    fewest = min(len(task.descriptions) for task in training)
    vector_NW, feature_NW = read(t2l, [text for task in training for text in task.descriptions[:fewest]])
    shape = (len(training), fewest)
    rows = zip(training, vector_NW.unflatten(0, shape), strict=True)
    labels = tuple(task.label or clearest(task.descriptions[:fewest], rows_DW) for task, rows_DW in rows)
    features = TaskSpace.of(feature_NW.unflatten(0, shape), AXES, PLACES)
    return Known(tuple(task.name for task in training), labels, Span.of(vector_NW, AXES), features)


def read(t2l: TextToLora, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """`vectors` of many texts, (N, W) each, read in batches of like length."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    parts = []
    for start in range(0, len(order), _TEXTS_AT_ONCE):
        some = [texts[row] for row in order[start : start + _TEXTS_AT_ONCE]]
        if isinstance(t2l.encoder, TokenStatesEncoder):  # one pass for all, where `encode` takes one for each
            embedding_NE = t2l.encoder.step_conditions(t2l.encoder.step_tokens(prepare(some))).float()
        else:
            embedding_NE = t2l.encoder.encode(some)
        parts.append(vectors(t2l, embedding_NE))
    back_N = torch.tensor(order).argsort()
    first, second = (torch.cat(some)[back_N] for some in zip(*parts, strict=True))
    return first, second


@cache
def control_texts(kind: str) -> tuple[str, ...]:
    """Descriptions that should not be trusted: ``"vague"``, ``"junk"``, or ``"foreign"`` (of tasks of other kinds)."""
    import yaml

    text = resources.files("t2l.guidance").joinpath("controls.yaml").read_text(encoding="utf-8")
    return tuple(yaml.safe_load(text)[kind])


def clearest(texts: Sequence[str], rows_DW: Tensor) -> str:
    """The description that stands for a task: the shortest of the half that lies nearest to the others.

    Args:
        texts: D descriptions.
        rows_DW: their embeddings, one vector a text.
    """
    unit_DW = F.normalize(rows_DW.float(), dim=-1)
    central = (unit_DW @ unit_DW.sum(dim=0)).argsort(descending=True, stable=True)[: (len(texts) + 1) // 2]
    return min((texts[int(index)] for index in central), key=len)


def _gains(
    t2l: TextToLora,
    texts: Sequence[str],
    asked: Sequence[tuple[int, Example]],
    alone: Mapping[Example, float],
    score: Score,
) -> list[float]:
    """Mean over each text's examples of the score under its adapter minus that of the base alone."""
    total, count = [0.0] * len(texts), [0] * len(texts)
    for rows in _spans(len(texts), t2l.chunk_size()):
        adapters = t2l.generate([texts[row] for row in rows])
        weights = LoraWeights.cat([adapter.weights for adapter in adapters])
        some = [(row - rows.start, example) for row, example in asked if row in rows]
        for (row, example), right in zip(some, score(weights, some), strict=True):
            total[row + rows.start] += right - alone[example]
            count[row + rows.start] += 1
    return [sums / number for sums, number in zip(total, count, strict=True)]


def _spans(count: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def _check(training: Sequence[GuidedTask], validation: Sequence[GuidedTask]) -> None:
    if min(len(training), len(validation)) < _LEAST_TASKS:
        raise T2LError(
            f"There are {len(training)} training tasks and {len(validation)} validation tasks; a calibration needs at "
            f"least {_LEAST_TASKS} of each."
        )
    bare = next((task.name for task in (*training, *validation) if not task.descriptions), None)
    if bare is not None:
        raise T2LError(f"The task '{bare}' has no descriptions.")
