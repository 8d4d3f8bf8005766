"""One SFT step on any base: adapters are generated once, samples go through the base in micro-batches.

Axis letters: C conditions, S samples, T tokens, E condition width, W hidden width, K labelled positions.

Level 4. Every micro-batch runs forward and backward down to the generated adapters, whose gradients add up; then one
backward pass takes their sum through the source. So the source runs once a step, and memory goes by one micro-batch.
Backward through the base runs while the adapters are applied, so that activation checkpointing, which runs the base
again there, is exact. Serves every `LoraSource`; knows token ids and conditions, not tasks or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from t2l.batched import BatchedLora, apply_batched
from t2l.errors import T2LError
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSource, LoraWeights
from t2l.training.objectives import contrastive_loss, mean_divergence
from t2l.training.sft import (
    Batch,
    SftConfig,
    answer_loss,
    labelled_hidden,
    mean_cross_entropy,
    mean_squares,
    noisy_embeddings,
)

ADAPTERS = -1
"""The number, beside those of the micro-batches, under which the random draws of the adapters' generation go."""


@dataclass(frozen=True)
class Terms:
    """What the loss is made of.

    Args:
        sft: label smoothing, weight penalty, LoRA dropout, NEFTune.
        contrast: weight of `contrastive_loss` on the task features.
        views: conditions of one task, side by side.
        distill: weight of the divergence from a prompted teacher; the answers get the rest.
    """

    sft: SftConfig
    contrast: float = 0.0
    views: int = 1
    distill: float = 0.0


@dataclass(frozen=True)
class Shape:
    """The size of a micro-batch that is recorded as a graph: S samples of T tokens, half of them labelled at most."""

    samples: int
    width: int

    @property
    def labelled(self) -> int:
        """K, the most labelled positions."""
        return max(1, self.samples * self.width // 2)


@dataclass(frozen=True)
class MicroBatch:
    """Samples that go through the base together.

    Args:
        batch: ids, labels, and for each sample which of the step's conditions its adapter is made from.
        teacher: the same answers after the teacher's prompts, in the same order; where there is distillation.
        shape: of the recorded graph that computes it, where one does.
        arrays: what that graph reads; see `t2l.training.graphs.arrays_of`.
    """

    batch: Batch
    teacher: Batch | None = None
    shape: Shape | None = None
    arrays: tuple[Tensor, ...] | None = None

    def to(self, device: torch.device) -> MicroBatch:
        """Ids on another device; labels and index stay on the CPU, where they are read without waiting for it."""

        def moved(batch: Batch) -> Batch:
            return replace(batch, ids_ST=batch.ids_ST.to(device, non_blocking=True))

        if self.arrays is not None:  # copied into the graph's own memory when it runs
            return self
        return MicroBatch(moved(self.batch), None if self.teacher is None else moved(self.teacher))

    def pinned(self) -> MicroBatch:
        """Ids in page-locked memory, from which a transfer to a CUDA device does not wait."""
        if self.arrays is not None:
            return replace(self, arrays=tuple(array.pin_memory() for array in self.arrays))
        teacher = None if self.teacher is None else replace(self.teacher, ids_ST=self.teacher.ids_ST.pin_memory())
        return MicroBatch(replace(self.batch, ids_ST=self.batch.ids_ST.pin_memory()), teacher)


@dataclass(frozen=True)
class Share:
    """Which part of a step one process computes.

    Args:
        rank: of this process.
        world: processes that share the step.
        in_step: every process runs the base equally often (a base that is spread over them); one that has nothing
            left repeats a micro-batch, which then does not count.
    """

    rank: int = 0
    world: int = 1
    in_step: bool = False

    def numbers(self, count: int) -> list[tuple[int, bool]]:
        """(micro-batch, whether it counts) of this process; all together, each of ``count`` counts once."""
        mine = [(number, True) for number in range(self.rank, count, self.world)]
        if self.in_step:
            mine += [(0, False)] * (-(-count // self.world) - len(mine))
        return mine


class Graphed(Protocol):
    """Forward and backward of micro-batches by recorded graphs; see `t2l.training.graphs.GraphedBase`."""

    def begin(self, weights: LoraWeights) -> None:
        """Takes a step's adapters."""

    def learn(self, micro: MicroBatch, part: float) -> Tensor:
        """Adds ``part`` times the gradient of a micro-batch's mean loss; gives that much loss."""
        ...

    def gradients(self, conditions: int) -> LoraWeights:
        """The gradients of the adapters."""
        ...


def learn_step(
    base: Any,
    source: LoraSource,
    condition_CE: Tensor,
    micros: Sequence[MicroBatch],
    terms: Terms,
    *,
    adapters: BatchedLora | None = None,
    share: Share | None = None,
    seed: Callable[[int], None] | None = None,
    autocast: bool = False,
    graphed: Graphed | None = None,
) -> Tensor:
    """Adds the gradient of a step's loss to the source's parameters; gives the loss, as a number on the device.

    Every sample weighs the same. With several processes, each gets its part of loss and gradient: their sums are those
    of the step, whatever the number of processes.

    Args:
        base: frozen causal LM, in training mode where its activations are checkpointed.
        micros: of the whole step, on the CPU or on the base's device.
        adapters: a context to apply the adapters with, kept from step to step.
        share: which part this process computes; all by default.
        seed: called with a micro-batch's number (`ADAPTERS` before the adapters are generated), so that what is drawn
            does not depend on who computes it.
        autocast: the source computes in bfloat16; its parameters and their gradients stay what they are.
        graphed: computes the micro-batches that have a shape.

    Raises:
        T2LError: a contrast is asked of a source without task features; a teacher scores other answers.
    """
    share = share or Share()
    device = condition_CE.device
    samples = sum(len(micro.batch.ids_ST) for micro in micros)
    if seed is not None:
        seed(ADAPTERS)
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        weights, extra = _weights(source, condition_CE, terms)
        if terms.sft.weight_penalty:
            penalty = terms.sft.weight_penalty * mean_squares(weights.map(lambda tensor: tensor.float()))
            extra = penalty if extra is None else extra + penalty
    gradients = weights.map(lambda tensor: torch.zeros_like(tensor, dtype=torch.float32))
    loss = torch.zeros((), device=device)
    if graphed is not None:
        graphed.begin(weights)
    for number, counts in share.numbers(len(micros)):
        if graphed is not None and micros[number].arrays is not None:
            if counts:
                loss = loss + graphed.learn(micros[number], len(micros[number].batch.ids_ST) / samples)
            continue
        if seed is not None:
            seed(number)
        micro = micros[number].to(device)
        part = len(micro.batch.ids_ST) / samples if counts else 0.0
        own = _backward_to_adapters(base, source, weights, gradients, micro, terms, part, adapters)
        loss = loss + own if counts else loss
    if graphed is not None:
        recorded = graphed.gradients(len(condition_CE))
        for sums, own in ((gradients.a, recorded.a), (gradients.b, recorded.b)):
            for key, tensor in own.items():
                sums[key] += tensor
    outputs, given = [], []
    for tensors, sums in ((weights.a, gradients.a), (weights.b, gradients.b)):
        for key, tensor in tensors.items():
            if tensor.requires_grad:
                outputs.append(tensor)
                given.append(sums[key].to(tensor.dtype))
    if extra is not None and share.rank == 0:
        loss = loss + extra.detach()
        if extra.requires_grad:
            outputs.append(extra)
            given.append(torch.ones_like(extra))
    torch.autograd.backward(outputs, given)
    return loss


def _backward_to_adapters(
    base: Any,
    source: LoraSource,
    weights: LoraWeights,
    gradients: LoraWeights,
    micro: MicroBatch,
    terms: Terms,
    part: float,
    adapters: BatchedLora | None,
) -> Tensor:
    """Adds ``part`` times the gradient of a micro-batch's mean loss to those of the adapters; gives that much loss."""
    batch, config, count = micro.batch, terms.sft, len(micro.batch.ids_ST)
    teacher_KW, teacher_target_K = _teacher(base, micro.teacher) if terms.distill else (None, None)
    rows_U, index_S = torch.unique(batch.index_S, return_inverse=True)
    chosen_U = rows_U.to(batch.ids_ST.device, non_blocking=True)
    local = weights.map(lambda tensor: tensor.detach().index_select(0, chosen_U).requires_grad_())
    applied = local.to(base.dtype)  # at once, not in every module
    if adapters is None:
        adapters = apply_batched(base, source.spec, applied, index_S, dropout=config.lora_dropout)
    lengths_S = batch.lengths_S if config.neftune else batch.index_S
    with adapters.rebind(applied, index_S):
        with noisy_embeddings(base, lengths_S, config.neftune):
            hidden_KW, target_K, sample_K = labelled_hidden(base, batch.ids_ST, batch.labels_ST)
        loss = mean_cross_entropy(base, hidden_KW, target_K, sample_K, count, config.label_smoothing)
        if teacher_KW is not None and teacher_target_K is not None:
            if not torch.equal(target_K, teacher_target_K):
                raise T2LError("Teacher and student must score the same answers in the same order.")
            divergence = mean_divergence(base, hidden_KW, teacher_KW, sample_K, count)
            loss = (1 - terms.distill) * loss + terms.distill * divergence
        loss = loss * part
        loss.backward()
    for sums, own in ((gradients.a, local.a), (gradients.b, local.b)):
        for key, tensor in own.items():
            if tensor.grad is not None and part:
                sums[key].index_add_(0, chosen_U, tensor.grad.float())
    return loss.detach()


@torch.no_grad()
def answers_loss(base: Any, source: LoraSource, weights: LoraWeights | None, micro: MicroBatch) -> float:
    """The plain cross-entropy of a micro-batch's answers under given adapters; under none where they are None."""
    batch = micro.batch
    if weights is None:
        return float(answer_loss(base, batch.ids_ST, batch.labels_ST))
    with apply_batched(base, source.spec, weights, batch.index_S):
        return float(answer_loss(base, batch.ids_ST, batch.labels_ST))


def _weights(source: LoraSource, condition_CE: Tensor, terms: Terms) -> tuple[LoraWeights, Tensor | None]:
    """The adapters of the conditions, and the contrast between their features where it is asked for."""
    if not terms.contrast:
        return source(condition_CE), None
    if not isinstance(source, HyperNetwork):
        raise T2LError("loss.contrast compares task features, which a static LoRA lacks.", "Set loss.contrast=0.")
    features_CK = source.encode(condition_CE)
    contrast = terms.contrast * contrastive_loss(features_CK, terms.views)
    return source.output_affine(source.decode(features_CK)), contrast


@torch.no_grad()
def _teacher(base: Any, teacher: Batch | None) -> tuple[Tensor, Tensor]:
    if teacher is None:
        raise T2LError("Distillation needs what the teacher reads, and the batch has none.")
    hidden_KW, target_K, _ = labelled_hidden(base, teacher.ids_ST, teacher.labels_ST)
    return hidden_KW, target_K
