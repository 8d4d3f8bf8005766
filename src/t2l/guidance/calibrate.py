"""Calibrating a checkpoint: signals and gains of descriptions on validation tasks, and the small model fitted to them.

Axis letters: N descriptions, M training tasks, D descriptions a task, E embedding width, W width of one vector a text,
K feature width, F signals.

Level 5. It is given tasks and a way to score answers; it knows no particular base and no files of tasks. What is not to
be trusted is learned from two sides: controls, which are vague, senseless or of other kinds, and the training tasks
that stand most apart, left out of what is known, as if nothing like them had been trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.encoders.encoder import one_vector
from t2l.errors import T2LError
from t2l.guidance.calibration import Calibration, fit_scale
from t2l.guidance.familiarity import TaskSpace, apart
from t2l.guidance.signals import OF_EMBEDDING, SIGNALS, Known, measure, of_embedding
from t2l.lora import LoraWeights
from t2l.model import TextToLora

AXES, PLACES = 192, 96
CONTROLS = ("vague", "junk", "foreign")
APART = 0.2  # share of the training tasks that is left out
ROUNDS = 4  # in each, some of these are left out
LEFT_OUT = 60  # descriptions of those, at most, in each round
_TEXTS_AT_A_TIME = 512
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
    rows_MDW, task_MDK = _read(t2l, training)
    known = _known(t2l, training, rows_MDW, task_MDK)
    report("calibrate: leaving out the training tasks that stand most apart")
    left_NF = _left_out(rows_MDW, known.embedding)
    texts = [(text, task) for task in validation for text in task.descriptions]
    controls = [(kind, text) for kind in CONTROLS for text in control_texts(kind)]
    report(f"calibrate: {len(texts)} descriptions of {len(validation)} tasks, {len(controls)} controls")
    embedding_NE = t2l.encoder.encode([text for text, _ in texts] + [text for _, text in controls])
    signal_NF, weights = _signals(t2l, known, embedding_NE)
    asked = [(row, example) for row, (_, task) in enumerate(texts) for example in task.examples]
    every = [example for task in validation for example in task.examples]
    rng = Random("calibrate/controls")
    for row in range(len(texts), len(texts) + len(controls)):
        asked += [(row, example) for example in rng.sample(every, min(_INPUTS_OF_CONTROL, len(every)))]
    report(f"calibrate: {len(asked)} answers under adapters, {len(every)} without")
    under = score(weights, asked)
    alone = dict(zip(every, score(None, [(-1, example) for example in every]), strict=True))
    gain = _gains(asked, under, alone, len(embedding_NE))
    of_controls = gain[len(texts) :]
    foreign = [one for one, (kind, _) in zip(of_controls, controls, strict=True) if kind == "foreign"]
    kinds = ["task"] * len(texts) + ["control"] * len(controls) + ["left out"] * len(left_NF)
    # Whatever is asked, an adapter of something else answers: what is left out gains as foreign descriptions do
    gains = gain + [sum(foreign) / len(foreign)] * len(left_NF)
    noted = {
        "training_tasks": len(training),
        "validation_tasks": [task.name for task in validation],
        "descriptions": len(texts),
        "controls": len(controls),
        "left_out": len(left_NF),
        "answers": len(asked),
        "mean_gain": round(sum(gain[: len(texts)]) / len(texts), 4),
        "mean_gain_of_controls": round(sum(of_controls) / len(controls), 4),
        **(facts or {}),
    }
    scale = fit_scale(torch.cat([signal_NF, left_NF]), kinds, gains)
    return Calibration(t2l.digest, t2l.encoder.identity, known, scale, static, noted)


def known_tasks(t2l: TextToLora, training: Mapping[str, Sequence[str]]) -> Known:
    """What a calibration keeps of the training tasks."""
    return _known(t2l, training, *_read(t2l, training))


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


@torch.inference_mode()
def _read(t2l: TextToLora, training: Mapping[str, Sequence[str]]) -> tuple[Tensor, Tensor]:
    """One vector for each training description, and its task features: (M, D, W) and (M, D, K)."""
    texts = [text for some in training.values() for text in some]
    rows, tasks = [], []
    for start in range(0, len(texts), _TEXTS_AT_A_TIME):  # token states of all of them would not fit into memory
        embedding_NE = t2l.encoder.encode(texts[start : start + _TEXTS_AT_A_TIME])
        rows.append(one_vector(embedding_NE, t2l.encoder.token_dim))
        tasks.append(t2l.hypernetwork.encode(embedding_NE).float().cpu())
    shape = (len(training), -1)
    return torch.cat(rows).unflatten(0, shape), torch.cat(tasks).unflatten(0, shape)


def _known(t2l: TextToLora, training: Mapping[str, Sequence[str]], rows_MDW: Tensor, task_MDK: Tensor) -> Known:
    texts = [clearest(some, rows_DW) for some, rows_DW in zip(training.values(), rows_MDW, strict=True)]
    embedding, encoding = TaskSpace.of(rows_MDW, AXES, PLACES), TaskSpace.of(task_MDK, PLACES, PLACES)
    return Known(tuple(training), tuple(texts), embedding, encoding, _mean_adapter(t2l, texts))


def _left_out(rows_MDW: Tensor, space: TaskSpace) -> Tensor:
    """Signals (N, F) of descriptions of the training tasks that stand most apart, measured as if they were not known.

    The hypernetwork was trained on them, so that what it makes of them says nothing: those signals are NaN.
    """
    cluster_M = apart(space.place_MJ, APART)
    clusters = Counter(cluster_M[cluster_M >= 0].tolist())
    rounds: list[list[int]] = [[] for _ in range(min(ROUNDS, len(clusters)))]
    for cluster, _ in clusters.most_common():
        min(rounds, key=lambda some: sum(clusters[one] for one in some)).append(cluster)
    rng = Random("calibrate/left out")
    found = []
    for some in rounds:
        outside_M = torch.isin(cluster_M, torch.tensor(some))
        left_NW = rows_MDW[outside_M].flatten(0, 1)
        drawn = rng.sample(range(len(left_NW)), min(LEFT_OUT, len(left_NW)))
        values = of_embedding(TaskSpace.of(rows_MDW[~outside_M], AXES, PLACES), left_NW[drawn])
        signal_NF = torch.full((len(drawn), len(SIGNALS)), torch.nan)
        for name, value_N in zip(OF_EMBEDDING, values, strict=True):
            signal_NF[:, list(SIGNALS).index(name)] = value_N
        found.append(signal_NF)
    return torch.cat(found)


@torch.inference_mode()
def _signals(t2l: TextToLora, known: Known, embedding_NE: Tensor) -> tuple[Tensor, LoraWeights]:
    """All signals of N descriptions, and their adapters."""
    signals, made = [], []
    for part_NE in embedding_NE.split(t2l.chunk_size()):
        weights = t2l.hypernetwork(part_NE)
        task_NK = t2l.hypernetwork.encode(part_NE).float().cpu()
        signals.append(measure(t2l, known, part_NE, task_NK, weights))
        made.append(weights)
    return torch.cat(signals), LoraWeights.cat(made)


@torch.inference_mode()
def _mean_adapter(t2l: TextToLora, texts: Sequence[str]) -> LoraWeights:
    """The mean A and the mean B of the texts' adapters (N = 1)."""
    step, total = min(t2l.chunk_size(), _TEXTS_AT_A_TIME), None
    for start in range(0, len(texts), step):
        part = t2l.hypernetwork(t2l.encoder.encode(texts[start : start + step]))
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
    return total.map(lambda tensor: tensor / len(texts))


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
