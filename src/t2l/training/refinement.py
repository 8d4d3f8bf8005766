"""Learning from a few examples: a generated adapter and its description's embedding move together, a warm start.

Axis letters: N adapters, S samples, E embedding width, L layers, R rank, I in-features, O out-features.

Level 4. Base and hypernetwork are frozen. It knows token ids and labels, no files. N adapters are tuned side by side in
shared passes, and each goes the way that it would go alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2l.adapter import Adapter
from t2l.bases import Base
from t2l.errors import T2LError
from t2l.hypernet import HyperNetwork
from t2l.lora import AdapterTable, LoraSpec, LoraWeights
from t2l.recipes.sections import LossSection
from t2l.training.batches import Tokens
from t2l.training.rows import clip_rows, collate_rows, row_losses, rows_backward

_CLIP = 1.0
EMBEDDING_RATE = 0.05
"""Peak learning rate of an embedding that moves beside its adapter, relative to the RMS of its entries."""
WARM_RATE = 3e-3
"""Peak learning rate of an adapter that was generated."""
_HELD_OUT = 5  # one sample in so many tells which step was best, where there are at least twice as many


@dataclass(frozen=True)
class RefineConfig:
    """Settings of a refinement.

    Args:
        steps: optimiser steps.
        learning_rate: peak, of AdamW.
        batch: samples of each adapter in a step; all of them where there are no more.
        warmup: steps over which the learning rate rises.
        seed: of which samples make a step.
    """

    steps: int = 100
    learning_rate: float = 2e-3
    batch: int = 8
    warmup: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.warmup < 0:
            raise T2LError(f"steps={self.steps} and batch={self.batch} must be at least 1, warmup={self.warmup} 0.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise T2LError(f"The learning rate is {self.learning_rate}; it must be above 0.")

    def rate(self, step: int) -> float:
        """Learning rate in the given step (counted from 0): it rises, then falls to a tenth in a straight line."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.learning_rate * rise * (1 - 0.9 * step / self.steps)


Watch = Callable[[int, LoraWeights], None]
"""Called with (steps done, the adapters as they are), before the first step and after each."""


def held_out(count: int) -> tuple[int, ...]:
    """The numbers of the samples that tell which step was best; all of them where there are too few to spare any."""
    return tuple(range(0, count, _HELD_OUT if count >= 2 * _HELD_OUT else 1))


class BestStep:
    """Looks at samples now and then while an adapter is tuned, and keeps the weights that fit them best.

    Args:
        spec: of the adapter.
        samples: mostly those that are `held_out`.
        steps: of the run.
        looks: how often, about.
    """

    def __init__(self, base: Any, spec: LoraSpec, samples: Sequence[Tokens], steps: int, looks: int = 20) -> None:
        self._base, self._spec, self._samples = base, spec, samples
        self._steps, self._every = steps, max(1, steps // looks)
        self.before = self.loss = math.inf
        self.step = 0
        self.weights: LoraWeights | None = None

    def watch(self, step: int, weights: LoraWeights) -> None:
        """A `Watch`: ``before`` is the loss at its first call, ``loss`` the least, of ``weights`` after ``step``."""
        if step % self._every and step != self._steps:
            return
        loss = float(fit_losses(self._base, self._spec, weights, self._samples)[0])
        if self.weights is None:
            self.before = loss
        if self.weights is None or loss < self.loss:
            self.loss, self.step, self.weights = loss, step, weights.to("cpu").map(torch.clone)


def answer_samples(base: Base, pairs: Sequence[tuple[str, str]]) -> list[Tokens]:
    """Token ids of each prompt with its answer and the end of it, and how many of them are the prompt.

    Raises:
        T2LError: the base's tokenizer has no end, or an example is longer than its window.
    """
    end = base.tokenizer.eos_token_id
    if not isinstance(end, int):
        raise T2LError(f"The tokenizer of '{base.name}' has no token that ends an answer, so it cannot be trained on.")
    window = base.window
    samples: list[Tokens] = []
    for question, answer in pairs:
        asked = base.tokens(base.prompt(question))
        response = [*base.tokenizer(answer, add_special_tokens=False)["input_ids"], end]
        if window is not None and len(asked) + len(response) > window:
            raise T2LError(
                f"The example {question[:40]!r} has {len(asked) + len(response)} tokens; "
                f"'{base.name}' has room for {window}."
            )
        samples.append((np.array(asked + response), len(asked)))
    return samples


def fit_losses(base: Any, spec: LoraSpec, weights: LoraWeights, samples: Sequence[Tokens]) -> Tensor:
    """The loss of each of N adapters on the same samples, (N,): the lower, the better it fits them."""
    pairs = [(row, sample) for row in range(weights.num_samples) for sample in samples]
    return row_losses(base, spec, weights, collate_rows(pairs))


def tune_adapters(
    base: Any,
    spec: LoraSpec,
    start: LoraWeights,
    samples: Sequence[Sequence[Tokens]],
    config: RefineConfig,
    *,
    watch: Watch = lambda step, weights: None,
) -> LoraWeights:
    """N adapters fine-tuned from where they start, each on its own samples.

    Args:
        start: generated adapters for a warm start, `fresh_adapters` for a cold one.
        samples: those of each of the N.

    Raises:
        T2LError: not samples for each adapter, or a loss that is not finite.
    """
    _check(samples, start.num_samples)
    start.check(spec)
    device = next(base.parameters()).device
    tuned = start.map(lambda tensor: tensor.detach().float().to(device).clone().requires_grad_(True))
    tensors = tuned.tensors
    optimizer = _adamw(tensors, config)
    watch(0, tuned.detach())
    for step in range(config.steps):
        optimizer.param_groups[0]["lr"] = config.rate(step)
        optimizer.zero_grad(set_to_none=True)
        _backward(base, spec, tuned, samples, config, step)
        clip_rows(tensors, _CLIP)
        optimizer.step()
        watch(step + 1, tuned.detach())
    return tuned.detach().to("cpu").map(torch.clone)


def tune_with_hypernetwork(
    base: Any,
    hypernetwork: HyperNetwork,
    embedding_NE: Tensor,
    start: LoraWeights,
    samples: Sequence[Sequence[Tokens]],
    config: RefineConfig,
    *,
    embedding_rate: float = EMBEDDING_RATE,
    watch: Watch = lambda step, weights: None,
) -> LoraWeights:
    """N generated adapters fine-tuned, each as what the hypernetwork makes of its embedding plus a rest.

    Every step moves both: the embedding along the few directions in which adapters of tasks differ, which is fast, and
    the rest wherever the loss falls, as plain fine-tuning does. Their sum is a LoRA of the same rank; it begins as
    ``start`` exactly, whether or not the embedding alone would give that.

    Args:
        hypernetwork: frozen.
        embedding_NE: of the descriptions; each keeps its length.
        start: the generated adapters, in the scaling of the hypernetwork's spec.
        samples: those of each of the N.
        config: its learning rate is that of the rest.
        embedding_rate: peak, relative to the root mean square of an embedding's entries; the schedule is the same.

    Raises:
        T2LError: not samples for each adapter, or a loss that is not finite.
    """
    _check(samples, start.num_samples)
    start.check(hypernetwork.spec)
    if len(embedding_NE) != start.num_samples:
        raise T2LError(f"There are {len(embedding_NE)} embeddings for {start.num_samples} adapters.")
    if not (math.isfinite(embedding_rate) and embedding_rate > 0):
        raise T2LError(f"The embedding's learning rate is {embedding_rate}; it must be above 0.")
    moved = _MovedEmbeddings(embedding_NE)
    with _frozen(hypernetwork):
        with torch.no_grad():
            made = _made(hypernetwork, moved.point_NE)
        rest = _combined(start.detach().to(hypernetwork.device).map(Tensor.float), made, -1.0)
        rest = rest.map(lambda tensor: tensor.requires_grad_(True))
        tensors = rest.tensors
        optimizer = _adamw(tensors, config)
        for step in range(config.steps):
            weights = _combined(_made(hypernetwork, moved.point_NE), rest)
            watch(step, weights.detach())
            for each in (optimizer, moved.optimizer):
                each.zero_grad(set_to_none=True)
            _backward(base, hypernetwork.spec, weights, samples, config, step)
            moved.step(config.rate(step) / config.learning_rate * embedding_rate)
            optimizer.param_groups[0]["lr"] = config.rate(step)
            clip_rows(tensors, _CLIP)
            optimizer.step()
        with torch.no_grad():
            weights = _combined(_made(hypernetwork, moved.point_NE), rest).detach()
    watch(config.steps, weights)
    return weights.to("cpu").map(torch.clone)


@dataclass(frozen=True, eq=False)
class Refined:
    """What `refine` came to.

    Args:
        weights: those of the best step.
        held: numbers of the samples that nothing was learned from, by which the step was chosen; none where there were
            too few to spare any, and the samples themselves chose.
        before: loss on these at the start.
        loss: of ``weights``.
        step: the best one.
    """

    weights: LoraWeights
    held: tuple[int, ...]
    before: float
    loss: float
    step: int

    def record(
        self, config: RefineConfig, start: Adapter, pairs: Sequence[tuple[str, str]], **lineage: Any
    ) -> dict[str, Any]:
        """For a provenance.

        Args:
            start: the adapter that was refined.
            pairs: (input, output) of the examples.
            lineage: of the hypernetwork that moved it as well: its checkpoint and the embedding's rate.
        """
        columns = [list(column) for column in zip(*pairs, strict=True)]
        return {
            "from": {"digest": start.digest, "provenance": start.provenance},
            "method": "hypernetwork" if lineage else "plain",
            **lineage,
            "examples": sha256(json.dumps(columns).encode()).hexdigest(),
            "number_of_examples": len(pairs),
            "held_out": len(self.held),
            "best_step": self.step,
            **{name: getattr(config, name) for name in ("steps", "learning_rate", "batch", "seed")},
            "loss_before": round(self.before, 6),
            "loss_after": round(self.loss, 6),
        }


def refine(
    base: Any,
    spec: LoraSpec,
    start: LoraWeights,
    samples: Sequence[Tokens],
    config: RefineConfig,
    *,
    source: tuple[HyperNetwork, Tensor] | None = None,
    embedding_rate: float = EMBEDDING_RATE,
    watch: Watch = lambda step, weights: None,
) -> Refined:
    """One adapter fine-tuned on some samples and stopped where it fits the others best (`held_out`, `BestStep`).

    Args:
        start: one adapter.
        source: the hypernetwork that wrote it and the embedding (1, E) of its description, which then move it as well
            (`tune_with_hypernetwork`); else it is tuned alone (`tune_adapters`).
        watch: called with (steps done, the adapter as it is).

    Raises:
        T2LError: no samples, or a loss that is not finite.
    """
    numbers = held_out(len(samples))
    spared = len(numbers) < len(samples)
    own = [sample for number, sample in enumerate(samples) if not spared or number not in numbers]
    best = BestStep(base, spec, [samples[number] for number in numbers], config.steps)

    def both(step: int, weights: LoraWeights) -> None:
        watch(step, weights)
        best.watch(step, weights)

    if source is None:
        tune_adapters(base, spec, start, [own], config, watch=both)
    else:
        tune_with_hypernetwork(base, *source, start, [own], config, embedding_rate=embedding_rate, watch=both)
    assert best.weights is not None
    return Refined(best.weights, numbers if spared else (), best.before, best.loss, best.step)


def fresh_adapters(spec: LoraSpec, count: int, seed: int = 0) -> LoraWeights:
    """``count`` untrained adapters, LoRA's usual start: A Kaiming-uniform, B zero."""
    return AdapterTable(spec, [seed + row for row in range(count)]).table().detach()


class _MovedEmbeddings:
    """N embeddings under Adam, each of the length that it had; rates are relative to the RMS of its own entries."""

    def __init__(self, embedding_NE: Tensor) -> None:
        start_NE = embedding_NE.detach().float()
        self.typical_N1 = start_NE.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
        self.unit_NE = (start_NE / self.typical_N1).requires_grad_(True)
        self.length_N1 = self.unit_NE.detach().norm(dim=1, keepdim=True)
        self.optimizer = torch.optim.Adam([self.unit_NE])

    @property
    def point_NE(self) -> Tensor:
        """Where they are now; gradients reach them."""
        return self.unit_NE * self.typical_N1

    def step(self, rate: float) -> None:
        """One step down the gradients that have reached them."""
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        with torch.no_grad():
            self.unit_NE *= self.length_N1 / self.unit_NE.norm(dim=1, keepdim=True).clamp_min(1e-12)


@contextmanager
def _frozen(hypernetwork: HyperNetwork) -> Iterator[None]:
    """No parameter gathers gradients meanwhile."""
    wanted = [(parameter, parameter.requires_grad) for parameter in hypernetwork.parameters()]
    hypernetwork.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, before in wanted:
            parameter.requires_grad_(before)


def _made(hypernetwork: HyperNetwork, point_NE: Tensor) -> LoraWeights:
    return hypernetwork(point_NE).map(Tensor.float)


def _combined(one: LoraWeights, other: LoraWeights, share: float = 1.0) -> LoraWeights:
    """``one + share * other``, A to A and B to B."""
    return one.map(lambda tensor, more: tensor + share * more, other)


def _adamw(tensors: Sequence[Tensor], config: RefineConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(tensors, lr=config.learning_rate, weight_decay=0.0, betas=(0.9, 0.98))


def _backward(
    base: Any,
    spec: LoraSpec,
    weights: LoraWeights,
    samples: Sequence[Sequence[Tokens]],
    config: RefineConfig,
    step: int,
) -> None:
    """The gradient of each adapter's loss on the samples of its step, which depend on the seed and the step alone.

    Raises:
        T2LError: the loss is not finite.
    """
    pairs = []
    for row, own in enumerate(samples):
        count = min(config.batch, len(own))
        pairs += [(row, sample) for sample in Random(f"{config.seed}/{step}").sample(list(own), count)]
    loss = rows_backward(base, spec, weights, collate_rows(pairs), LossSection(label_smoothing=0.0))
    if not math.isfinite(loss):
        raise T2LError(f"The loss is not finite in step {step + 1}.", "Lower the learning rate.")


def _check(samples: Sequence[Sequence[Tokens]], rows: int) -> None:
    if len(samples) != rows or not all(samples):
        raise T2LError(f"There are samples for {sum(map(bool, samples))} of {rows}; each needs at least one.")
