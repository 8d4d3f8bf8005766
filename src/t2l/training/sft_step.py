"""The SFT loss of one micro-batch on any base, with backward inside the adapters' context.

Axis letters: C conditions, S samples, T tokens, E condition width, W hidden width, K labelled positions.

Level 4. Backward runs while the adapters are applied, so that activation checkpointing, which runs the base again
there, is exact. The answers' loss and the distillation read one forward pass of the adapted base. Serves every
`LoraSource`; knows token ids and conditions, not tasks or files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

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
class MicroBatch:
    """Samples that go through the base together.

    Args:
        batch: ids, labels, and for each sample the condition whose adapter it gets.
        condition_CE: what the adapters are made from.
        teacher: the same answers after the teacher's prompts, in the same order; where there is distillation.
    """

    batch: Batch
    condition_CE: Tensor
    teacher: Batch | None = None

    def to(self, device: torch.device) -> MicroBatch:
        """On another device; the index stays where it is, as it is read on the CPU."""

        def moved(batch: Batch) -> Batch:
            return replace(
                batch,
                ids_ST=batch.ids_ST.to(device, non_blocking=True),
                labels_ST=batch.labels_ST.to(device, non_blocking=True),
            )

        teacher = None if self.teacher is None else moved(self.teacher)
        return MicroBatch(moved(self.batch), self.condition_CE.to(device), teacher)


def backward_through(
    base: Any,
    source: LoraSource,
    micro: MicroBatch,
    terms: Terms,
    *,
    share: float = 1.0,
    adapters: BatchedLora | None = None,
) -> float:
    """Adds the gradient of ``share`` times the loss of a micro-batch to the source's parameters; gives the loss.

    Args:
        base: frozen causal LM, in training mode where its activations are checkpointed.
        share: 1 / micro-batches of a step, so that a step's gradient is that of their mean.
        adapters: a context to apply the adapters with, kept from step to step where the base is compiled.

    Raises:
        T2LError: a contrast is asked of a source without task features; a teacher scores other answers.
    """
    teacher_KW, teacher_target_K = _teacher(base, micro.teacher) if terms.distill else (None, None)
    weights, contrast = _weights(source, micro.condition_CE, terms)
    batch, config = micro.batch, terms.sft
    lengths_S = batch.lengths_S if config.neftune else batch.index_S
    if adapters is None:
        adapters = apply_batched(base, source.spec, weights, batch.index_S, dropout=config.lora_dropout)
    with adapters.rebind(weights, batch.index_S):
        with noisy_embeddings(base, lengths_S, config.neftune):
            hidden_KW, target_K, sample_K = labelled_hidden(base, batch.ids_ST, batch.labels_ST)
        count = len(batch.ids_ST)
        loss = mean_cross_entropy(base, hidden_KW, target_K, sample_K, count, config.label_smoothing)
        if teacher_KW is not None and teacher_target_K is not None:
            if not torch.equal(target_K, teacher_target_K):
                raise T2LError("Teacher and student must score the same answers in the same order.")
            divergence = mean_divergence(base, hidden_KW, teacher_KW, sample_K, count)
            loss = (1 - terms.distill) * loss + terms.distill * divergence
        loss = loss + config.weight_penalty * mean_squares(weights)
        if contrast is not None:
            loss = loss + terms.contrast * contrast
        (loss * share).backward()
    return float(loss.detach())


@torch.no_grad()
def sample_losses(base: Any, source: LoraSource | None, micro: MicroBatch) -> float:
    """The plain cross-entropy of a micro-batch's answers under the source's adapters; under none where it is None."""
    batch = micro.batch
    if source is None:
        return float(answer_loss(base, batch.ids_ST, batch.labels_ST))
    with apply_batched(base, source.spec, source(micro.condition_CE), batch.index_S):
        return float(answer_loss(base, batch.ids_ST, batch.labels_ST))


def _weights(source: LoraSource, condition_CE: Tensor, terms: Terms) -> tuple[LoraWeights, Tensor | None]:
    """The adapters of the conditions, and the contrast between their features where it is asked for."""
    if not terms.contrast:
        return source(condition_CE), None
    if not isinstance(source, HyperNetwork):
        raise T2LError("loss.contrast compares task features, which a static LoRA has not.", "Set loss.contrast=0.")
    features_CK = source.encode(condition_CE)
    return source.output_affine(source.decode(features_CK)), contrastive_loss(features_CK, terms.views)


@torch.no_grad()
def _teacher(base: Any, teacher: Batch | None) -> tuple[Tensor, Tensor]:
    if teacher is None:
        raise T2LError("Distillation needs what the teacher reads, and the batch has none.")
    hidden_KW, target_K, _ = labelled_hidden(base, teacher.ids_ST, teacher.labels_ST)
    return hidden_KW, target_K
