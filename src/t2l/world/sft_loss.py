"""The SFT loss as the world's own studies take it: one graph through base and source, no micro-batches.

Axis letters: N conditions, S samples, T tokens, E condition width, W hidden width, K labelled positions.

Level 6. Knows token ids and labels; does not know tasks or texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from t2l.batched import apply_batched
from t2l.errors import T2LError
from t2l.lora import LoraSource, LoraSpec, LoraWeights
from t2l.training.batches import Batch
from t2l.training.sft import labelled_hidden, mean_squares, noisy_embeddings, weighted_loss


@dataclass(frozen=True)
class SftConfig:
    """The terms of the SFT loss.

    Args:
        label_smoothing: 0.1 in the paper's runs.
        weight_penalty: times the mean square of A plus that of B, per module group; 1e-3 in the paper's runs.
        lora_dropout: chance of dropping an input of the LoRA branch.
        neftune: alpha of the noise on the input embeddings; 5 in the paper's runs.
    """

    label_smoothing: float = 0.0
    weight_penalty: float = 1e-3
    lora_dropout: float = 0.0
    neftune: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("label_smoothing", self.label_smoothing), ("lora_dropout", self.lora_dropout)):
            if not 0 <= value < 1:
                raise T2LError(f"{name} is {value}; it must be at least 0 and below 1.")


def sft_loss(
    base: Any, source: LoraSource, condition_NE: Tensor, batches: Sequence[Batch], config: SftConfig
) -> Tensor:
    """Loss under the adapters of N conditions; every sample weighs the same whatever its length.

    The adapters are generated once for all batches: splitting samples by length spares the base their padding.

    Args:
        base: frozen causal LM.
    """
    return adapted_loss(base, source.spec, source(condition_NE), batches, config)


def adapted_loss(
    base: Any, spec: LoraSpec, weights: LoraWeights, batches: Sequence[Batch], config: SftConfig
) -> Tensor:
    """As `sft_loss`, for N adapters that are there already."""
    samples = sum(len(batch.ids_ST) for batch in batches)
    total = config.weight_penalty * mean_squares(weights)
    for batch in batches:
        lengths_S = batch.lengths_S if config.neftune else batch.index_S
        with (
            apply_batched(base, spec, weights, batch.index_S, dropout=config.lora_dropout),
            noisy_embeddings(base, lengths_S, config.neftune),
        ):
            found = labelled_hidden(base, batch.ids_ST, batch.labels_ST)
            loss = weighted_loss(base, *found, torch.ones(len(batch.ids_ST)), config.label_smoothing)
        total = total + loss / samples
    return total


def distillation_loss(
    base: Any, spec: LoraSpec, weights: LoraWeights, batches: Sequence[Batch], teachers: Sequence[Batch]
) -> Tensor:
    """KL divergence of the adapted base from the plain base with a longer prompt, averaged within each sample.

    Context distillation (arXiv 2209.15189): the teacher reads examples (or a description) that the student must do
    without; the answers it scores are the same, token by token.

    Args:
        batches: what the student reads, under the adapters ``weights``.
        teachers: the same answers after the teacher's prompts, in the same order of samples.

    Raises:
        T2LError: teacher and student do not score the same answers.
    """
    samples = sum(len(batch.ids_ST) for batch in batches)
    total = torch.zeros((), device=batches[0].ids_ST.device)
    for batch, teacher in zip(batches, teachers, strict=True):
        with torch.no_grad():
            teacher_KW, teacher_target_K, _ = labelled_hidden(base, teacher.ids_ST, teacher.labels_ST)
        with apply_batched(base, spec, weights, batch.index_S):
            hidden_KW, target_K, sample_K = labelled_hidden(base, batch.ids_ST, batch.labels_ST)
        if not torch.equal(target_K, teacher_target_K):
            raise T2LError("Teacher and student must score the same answers in the same order.")
        none_S, all_S = torch.zeros(len(batch.ids_ST)), torch.ones(len(batch.ids_ST))
        divergence = weighted_loss(
            base, hidden_KW, target_K, sample_K, none_S, teacher_KW=teacher_KW, divergence_S=all_S
        )
        total = total + divergence / samples
    return total
