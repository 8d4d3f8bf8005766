"""From signals to a confidence and an expected gain: a small model, fitted on validation tasks, kept with a checkpoint.

Axis letters: N descriptions, F signals, B steps of the gain.

Level 5. A logistic regression tells descriptions of tasks from those of training tasks that are left out and from
vague, senseless and foreign ones; the gain that adapters brought, as a function of that score, is made monotone by
isotonic regression. About forty numbers in all, and what is kept of the training tasks (`t2l.guidance.signals.Known`).
Files: ``calibration.json`` and ``calibration.safetensors`` in the checkpoint's folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.errors import CheckpointError, T2LError
from t2l.guidance.familiarity import TaskSpace
from t2l.guidance.signals import SIGNALS, Known
from t2l.lora import LoraSpec, LoraWeights
from t2l.storage import new_file, read_json, read_tensors, tensors_digest, write_json, write_tensors

JSON_FILE, TENSOR_FILE = "calibration.json", "calibration.safetensors"
THRESHOLD = 0.5
KIND, FORMAT = "t2l-calibration", 2
_PENALTY = 0.01  # on the weights of standardised signals
_BIAS_PENALTY = 1e-6  # so that there is one solution
_STEPS = 8  # of the gain, before neighbours that fall are joined
KINDS = ("task", "left out", "control")
"""A task that may be trusted; a training task that is held to be unknown; a text that names no such task."""
_SHARES: dict[str, float] = dict(zip(KINDS, (0.5, 0.25, 0.25), strict=True))
"""Of the weight in the confidence; the last two share half of it."""
_SMALLEST_SPREAD = 1e-6


@dataclass(frozen=True)
class Scale:
    """The small model.

    Args:
        mean: of each signal.
        spread: standard deviation of each.
        weight: of each signal, standardised.
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

    @property
    def without_weight(self) -> set[str]:
        """The signals that the confidence does not hang on."""
        return {name for name, weight in zip(SIGNALS, self.weight, strict=True) if weight == 0}

    def confidence(self, signal_NF: Tensor) -> Tensor:
        """(N,) between 0 and 1: is this the description of a task of the kind that the checkpoint was trained on."""
        weight_F = torch.tensor(self.weight).double()
        standard_NF = (signal_NF.double() - torch.tensor(self.mean).double()) / torch.tensor(self.spread).double()
        standard_NF = torch.where(weight_F == 0, 0.0, standard_NF)  # such a signal need not have been measured
        return torch.sigmoid(standard_NF @ weight_F + self.bias)

    def expected_gain(self, confidence: float) -> float:
        """Points of exact match (a share, -1 to 1) that the adapter adds to the base, by this confidence."""
        if confidence <= self.score[0]:
            return self.gain[0]
        for low, high, below, above in zip(self.score, self.score[1:], self.gain, self.gain[1:], strict=False):
            if confidence <= high:
                return below + (above - below) * (confidence - low) / max(high - low, 1e-12)
        return self.gain[-1]

    def share_of_best(self, confidence: float) -> float:
        """The expected gain over the highest one, at most 1; 0 where no confidence promises a gain."""
        return self.expected_gain(confidence) / self.gain[-1] if self.gain[-1] > 0 else 0.0


def fit_scale(signal_NF: Tensor, kinds: Sequence[str], gain: Sequence[float]) -> Scale:
    """The small model of N descriptions with known gains.

    A signal may speak in its own direction alone (see `SIGNALS`): a distance never raises the confidence. For the
    confidence, tasks weigh as much as all that is not to be trusted; for the expected gain, each kind weighs the same.

    Args:
        signal_NF: NaN where a signal has no say in a row.
        kinds: which of `KINDS` each describes.
        gain: what its adapter added to the base, as a share.

    Raises:
        T2LError: there are no tasks, or nothing else.
    """
    label_N = torch.tensor([kind == "task" for kind in kinds], dtype=torch.float64)
    if not 0 < float(label_N.sum()) < len(label_N):
        raise T2LError("A calibration needs descriptions of both kinds: of tasks, and such that name none.")
    signal_NF = signal_NF.double()
    said_NF = ~signal_NF.isnan()
    count_F = said_NF.sum(dim=0)
    mean_F = signal_NF.nansum(dim=0) / count_F
    spread_F = ((signal_NF - mean_F).square().nansum(dim=0) / (count_F - 1).clamp_min(1)).sqrt()
    spread_F = spread_F.clamp_min(_SMALLEST_SPREAD)
    # where nothing is known of a signal, it is taken to look as it does for tasks: it cannot help to tell those apart
    usual_F = torch.where(said_NF & (label_N[:, None] > 0), signal_NF, torch.nan).nanmean(dim=0)
    signal_NF = torch.where(said_NF, signal_NF, usual_F)
    share_N = _weights_of(kinds, _SHARES)
    for trusted in (0, 1):
        share_N[label_N == trusted] *= 0.5 / share_N[label_N == trusted].sum()
    sign_F = torch.tensor([*SIGNALS.values()]).double()
    weight_F, bias = _signed_logistic((signal_NF - mean_F) / spread_F, label_N, share_N, sign_F)
    scale = Scale(_numbers(mean_F), _numbers(spread_F), _numbers(weight_F), bias, (0.0,), (0.0,))
    equal_N = _weights_of(kinds, dict.fromkeys(_SHARES, 1.0)).tolist()
    score, steps = _isotonic(scale.confidence(signal_NF).tolist(), gain, equal_N)
    return Scale(scale.mean, scale.spread, scale.weight, scale.bias, score, steps)


@dataclass(frozen=True, eq=False)
class Calibration:
    """All that a calibrated checkpoint knows of itself.

    Args:
        checkpoint: digest of the hypernetwork that it was made for.
        encoder: identity of the encoder.
        known: the training tasks.
        scale: the small model.
        static: a multi-task adapter (N = 1) to fall back on, where there is one.
        facts: plain JSON values: on what it was fitted.
    """

    checkpoint: str
    encoder: str
    known: Known
    scale: Scale
    static: LoraWeights | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes both files; the JSON, which alone counts, last.

        Raises:
            OutputError: the folder cannot be written.
        """
        tensors = {**self.known.embedding.tensors("embedding"), **self.known.encoding.tensors("encoding")}
        for prefix, weights in (("mean", self.known.mean), ("static", self.static)):
            if weights is not None:
                tensors |= {f"{prefix}.a.{key}": value[0].half() for key, value in weights.a.items()}
                tensors |= {f"{prefix}.b.{key}": value[0].half() for key, value in weights.b.items()}
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
    def load(cls, folder: Path, *, checkpoint: str, encoder: str, spec: LoraSpec) -> Calibration:
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
            embedding = TaskSpace.from_tensors(tensors, "embedding")
            encoding = TaskSpace.from_tensors(tensors, "encoding")
            mean = _weights(tensors, "mean", spec)
            static = _weights(tensors, "static", spec) if any(name.startswith("static.") for name in tensors) else None
            if not len(names) == len(embedding.place_MJ) == len(encoding.place_MJ):
                raise CheckpointError("there are not as many tasks as places")
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            reason = problem.message if isinstance(problem, T2LError) else f"{type(problem).__name__}: {problem}"
            raise CheckpointError(f"The calibration in '{folder}' cannot be used: {reason}", again) from problem
        return cls(
            checkpoint, encoder, Known(names, texts, embedding, encoding, mean), scale, static, dict(value["facts"])
        )


def _signed_logistic(standard_NF: Tensor, label_N: Tensor, share_N: Tensor, sign_F: Tensor) -> tuple[Tensor, float]:
    """As `_logistic`, without the signals whose weight would have the wrong sign, left out one by one, worst first."""
    kept = torch.ones(len(sign_F), dtype=torch.bool)
    while True:
        some_F, bias = _logistic(standard_NF[:, kept], label_N, share_N)
        weight_F = torch.zeros(len(sign_F), dtype=torch.float64)
        weight_F[kept] = some_F
        wrong_F = -weight_F * sign_F
        if float(wrong_F.max()) <= 0:
            return weight_F, bias
        kept[int(wrong_F.argmax())] = False


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


def _weights_of(kinds: Sequence[str], shares: Mapping[str, float]) -> Tensor:
    """(N,): each kind's share, spread over its rows."""
    return torch.tensor([shares[kind] / kinds.count(kind) for kind in kinds], dtype=torch.float64)


def _weights(tensors: Mapping[str, Tensor], prefix: str, spec: LoraSpec) -> LoraWeights:
    weights = LoraWeights(
        {group.key: tensors[f"{prefix}.a.{group.key}"].float().unsqueeze(0) for group in spec.groups},
        {group.key: tensors[f"{prefix}.b.{group.key}"].float().unsqueeze(0) for group in spec.groups},
    )
    weights.check(spec)
    return weights


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
