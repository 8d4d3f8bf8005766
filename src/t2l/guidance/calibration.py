"""Calibrating a checkpoint: from signals of descriptions to a confidence and an expected gain, kept beside it.

Axis letters: N descriptions, M training tasks, D descriptions a task, F signals, E embedding width, W width of one
vector a text.

Level 5. A logistic regression tells descriptions of tasks from vague, senseless and foreign texts; the gain that
adapters brought, as a function of that score, is made monotone by isotonic regression. Some twenty numbers in all, and
what is kept of the training tasks (`t2l.guidance.familiarity.Known`). Files: ``calibration.json`` and
``calibration.safetensors`` in the checkpoint's folder. `calibrate` is given tasks and a way to score answers; it knows
no particular base and no files of tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.encoders import TokenStatesEncoder, prepare
from t2l.errors import CheckpointError, T2LError
from t2l.guidance.familiarity import SIGNALS, Known, Span, TaskSpace, restored, stored, vectors
from t2l.lora import LoraWeights
from t2l.model import TextToLora
from t2l.storage import new_file, read_json, read_tensors, tensors_digest, write_json, write_tensors

JSON_FILE, TENSOR_FILE = "calibration.json", "calibration.safetensors"
THRESHOLD = 0.5
KIND, FORMAT = "t2l-calibration", 3
_PENALTY = 0.01  # on the weights of standardised signals
_BIAS_PENALTY = 1e-6  # so that there is one solution
_STEPS = 8  # of the gain, before neighbours that fall are joined
_SMALLEST_SPREAD = 1e-6


@dataclass(frozen=True)
class Scale:
    """The small model.

    Args:
        mean: of each signal.
        spread: standard deviation of each.
        weight: of each signal, standardised; none is above 0.
        bias: added.
        score: B scores, rising.
        gain: the expected gain at each, not falling; between them it is interpolated.
    """

    mean: tuple[float, ...]
    spread: tuple[float, ...]
    weight: tuple[float, ...]
    bias: float
    score: tuple[float, ...]
    gain: tuple[float, ...]

    def confidence(self, signal_NF: Tensor) -> Tensor:
        """(N,) between 0 and 1: is this the description of a task of the kind that the checkpoint was trained on."""
        mean_F, spread_F, weight_F = (torch.tensor(part).double() for part in (self.mean, self.spread, self.weight))
        return torch.sigmoid((signal_NF.double() - mean_F) / spread_F @ weight_F + self.bias)

    def expected_gain(self, confidence: float) -> float:
        """How much better (-1 to 1) an answer with the adapter is expected to be than the base's."""
        return float(np.interp(confidence, self.score, self.gain))

    def share_of_best(self, confidence: float) -> float:
        """The expected gain over the highest one, at most 1; 0 where no confidence promises a gain."""
        return self.expected_gain(confidence) / self.gain[-1] if self.gain[-1] > 0 else 0.0


def fit_scale(signal_NF: Tensor, is_task: Sequence[bool], gain: Sequence[float]) -> Scale:
    """The small model of N descriptions with known gains.

    No signal may raise the confidence (see `SIGNALS`). Tasks together weigh as much as all that names none.

    Args:
        is_task: whether each describes a task that may be trusted.
        gain: what its adapter added to the base.

    Raises:
        T2LError: there are no tasks, or nothing else.
    """
    label_N = torch.tensor(is_task, dtype=torch.float64)
    if not 0 < float(label_N.sum()) < len(label_N):
        raise T2LError("A calibration needs descriptions of both kinds: of tasks, and such that name none.")
    share_N = torch.where(label_N > 0, 0.5 / label_N.sum(), 0.5 / (1 - label_N).sum())
    signal_NF = signal_NF.double()
    mean_F = signal_NF.mean(dim=0)
    spread_F = signal_NF.std(dim=0).clamp_min(_SMALLEST_SPREAD)
    weight_F, bias = _falling_logistic((signal_NF - mean_F) / spread_F, label_N, share_N)
    plain = Scale(_numbers(mean_F), _numbers(spread_F), _numbers(weight_F), bias, (0.0,), (0.0,))
    score, steps = _isotonic(plain.confidence(signal_NF).tolist(), gain, share_N.tolist())
    return Scale(plain.mean, plain.spread, plain.weight, plain.bias, score, steps)


@dataclass(frozen=True, eq=False)
class Calibration:
    """All that a calibrated checkpoint knows of itself.

    Args:
        checkpoint: digest of the hypernetwork that it was made for.
        encoder: identity of the encoder.
        known: the training tasks.
        scale: the small model.
        facts: plain JSON values: on what it was fitted.
    """

    checkpoint: str
    encoder: str
    known: Known
    scale: Scale
    facts: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes both files; the JSON, which alone counts, last.

        Raises:
            OutputError: the folder cannot be written.
        """
        tensors = {**stored(self.known.span, "span"), **stored(self.known.features, "features")}
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        with new_file(folder / TENSOR_FILE, force=True) as path:
            write_tensors(path, tensors)
        value = {
            "kind": KIND,
            "format": FORMAT,
            "checkpoint": self.checkpoint,
            "encoder": self.encoder,
            "tensors": tensors_digest(tensors),
            "signals": list(SIGNALS),
            "scale": {name: _plain(getattr(self.scale, name)) for name in Scale.__dataclass_fields__},
            "facts": self.facts,
            "tasks": [[name, text] for name, text in zip(self.known.names, self.known.descriptions, strict=True)],
        }
        write_json(folder / JSON_FILE, value)

    @classmethod
    def load(cls, folder: Path, *, checkpoint: str, encoder: str) -> Calibration:
        """The calibration of the checkpoint in ``folder``.

        Raises:
            CheckpointError: there is none, it is damaged, or it was made for other parameters.
        """
        again = f"Calibrate again: t2l calibrate --checkpoint {folder}"
        value = read_json(folder / JSON_FILE, CheckpointError)
        if value.get("kind") != KIND or value.get("format") != FORMAT or value.get("signals") != list(SIGNALS):
            raise CheckpointError(f"'{folder / JSON_FILE}' is not a calibration that this version reads.", again)
        if value.get("checkpoint") != checkpoint or value.get("encoder") != encoder:
            raise CheckpointError(f"The calibration in '{folder}' was made for another checkpoint or encoder.", again)
        tensors = read_tensors(folder / TENSOR_FILE, CheckpointError)
        if tensors_digest(tensors) != value.get("tensors"):
            raise CheckpointError(f"'{folder / TENSOR_FILE}' is not what {JSON_FILE} was written for.", again)
        try:
            names, texts = zip(*((str(name), str(text)) for name, text in value["tasks"]), strict=True)
            scale = _scale(value["scale"])
            span = restored(Span, tensors, "span")
            features = restored(TaskSpace, tensors, "features")
            if len(names) != len(features.place_MJ):
                raise CheckpointError("there are not as many tasks as places")
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            reason = problem.message if isinstance(problem, T2LError) else f"{type(problem).__name__}: {problem}"
            raise CheckpointError(f"The calibration in '{folder}' cannot be used: {reason}", again) from problem
        return cls(checkpoint, encoder, Known(names, texts, span, features), scale, dict(value["facts"]))


def _falling_logistic(standard_NF: Tensor, label_N: Tensor, share_N: Tensor) -> tuple[Tensor, float]:
    """As `_logistic`, without the signals whose weight would be above 0, left out one by one, worst first."""
    kept_F = torch.ones(standard_NF.shape[1], dtype=torch.bool)
    while True:
        weight_F = torch.zeros(len(kept_F), dtype=torch.float64)
        weight_F[kept_F], bias = _logistic(standard_NF[:, kept_F], label_N, share_N)
        if float(weight_F.max()) <= 0:
            return weight_F, bias
        kept_F[int(weight_F.argmax())] = False


def _logistic(standard_NF: Tensor, label_N: Tensor, share_N: Tensor) -> tuple[Tensor, float]:
    """Weights and bias of a logistic regression with a quadratic penalty on the weights."""
    solution = torch.zeros(standard_NF.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [solution], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logit_N = standard_NF @ solution[:-1] + solution[-1]
        value = F.binary_cross_entropy_with_logits(logit_N, label_N, share_N, reduction="sum")
        value = value + _PENALTY * solution[:-1].square().sum() + _BIAS_PENALTY * solution[-1].square()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    *weights, bias = solution.tolist()
    return torch.tensor(weights, dtype=torch.float64), bias


def _isotonic(
    score: Sequence[float], gain: Sequence[float], weight: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean score and mean gain of equally heavy groups by score; groups whose gain falls are joined (PAV)."""
    by_score: dict[float, list[float]] = {}  # score -> weighted gains and weight: equal scores stay together
    for one, gained, share in zip(score, gain, weight, strict=True):
        gains, total = by_score.get(one, (0.0, 0.0))
        by_score[one] = [gains + share * gained, total + share]
    blocks: list[list[float]] = []  # weighted sum of scores, of gains, and weight
    parts: list[list[float]] = []
    passed, group = 0.0, -1
    for one, (gains, total) in sorted(by_score.items()):
        place = min(_STEPS - 1, int(_STEPS * (passed + total / 2) / sum(weight)))
        if place != group:
            group = place
            parts.append([0.0, 0.0, 0.0])
        parts[-1] = [was + more for was, more in zip(parts[-1], (total * one, gains, total), strict=True)]
        passed += total
    for part in parts:
        blocks.append(part)
        while len(blocks) > 1 and blocks[-2][1] / blocks[-2][2] >= blocks[-1][1] / blocks[-1][2]:
            last = blocks.pop()
            blocks[-1] = [one + other for one, other in zip(blocks[-1], last, strict=True)]
    return (
        tuple(round(scores / total, 6) for scores, _, total in blocks),
        tuple(round(gains / total, 6) for _, gains, total in blocks),
    )


def _scale(value: Mapping[str, Any]) -> Scale:
    numbers = {
        name: tuple(float(number) for number in value[name]) for name in Scale.__dataclass_fields__ if name != "bias"
    }
    bias = float(value["bias"])
    if any(len(numbers[name]) != len(SIGNALS) for name in ("mean", "spread", "weight")):
        raise ValueError("not one number for each signal")
    if not numbers["score"] or len(numbers["score"]) != len(numbers["gain"]):
        raise ValueError("not one gain for each score")
    if not all(math.isfinite(number) for some in (*numbers.values(), (bias,)) for number in some):
        raise ValueError("numbers that are not finite")
    return Scale(bias=bias, **numbers)


def _plain(value: Any) -> Any:
    return [round(number, 8) for number in value] if isinstance(value, tuple) else round(value, 8)


def _numbers(tensor: Tensor) -> tuple[float, ...]:
    return tuple(tensor.tolist())


# --- fitting: signals and gains of descriptions on validation tasks ---------------------------------------------------

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
    size = t2l.chunk_size()
    for rows in (range(start, min(start + size, len(texts))) for start in range(0, len(texts), size)):
        adapters = t2l.generate([texts[row] for row in rows])
        weights = LoraWeights.cat([adapter.weights for adapter in adapters])
        some = [(row - rows.start, example) for row, example in asked if row in rows]
        for (row, example), right in zip(some, score(weights, some), strict=True):
            total[row + rows.start] += right - alone[example]
            count[row + rows.start] += 1
    return [sums / number for sums, number in zip(total, count, strict=True)]


def _check(training: Sequence[GuidedTask], validation: Sequence[GuidedTask]) -> None:
    if min(len(training), len(validation)) < _LEAST_TASKS:
        raise T2LError(
            f"There are {len(training)} training tasks and {len(validation)} validation tasks; a calibration needs at "
            f"least {_LEAST_TASKS} of each."
        )
    bare = next((task.name for task in (*training, *validation) if not task.descriptions), None)
    if bare is not None:
        raise T2LError(f"The task '{bare}' has no descriptions.")
