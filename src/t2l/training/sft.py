"""SFT training (Text-to-LoRA, arXiv 2506.06105, section 3.2): the base's loss, through generated adapters.

Axis letters: N conditions, S samples, T tokens, E condition width, W hidden width, K labelled positions, V vocabulary.

Level 4. Serves any `LoraSource`: a hypernetwork, a multi-task LoRA, a task-specific LoRA. It knows token ids and
labels; it does not know tasks, texts or where batches come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.batched import apply_batched
from t2l.errors import T2LError
from t2l.lora import LoraSource, LoraSpec, LoraWeights

IGNORED = -100
"""Label of positions that are not predicted."""


@dataclass(frozen=True)
class SftConfig:
    """The terms of the SFT loss.

    Args:
        label_smoothing: 0.1 in the paper's runs.
        weight_penalty: times the mean square of A plus that of B, per module group; 1e-3 in the paper's runs.
        lora_dropout: chance of dropping an input of the LoRA branch.
    """

    label_smoothing: float = 0.0
    weight_penalty: float = 1e-3
    lora_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("label_smoothing", self.label_smoothing), ("lora_dropout", self.lora_dropout)):
            if not 0 <= value < 1:
                raise T2LError(f"{name} is {value}; it must be at least 0 and below 1.")


@dataclass(frozen=True)
class Batch:
    """Samples of about the same length.

    Args:
        ids_ST: right-padded token ids (under causal attention, padding after the end changes nothing before it).
        labels_ST: ids to predict, -100 elsewhere.
        index_S: which of the N conditions each sample belongs to.
    """

    ids_ST: Tensor
    labels_ST: Tensor
    index_S: Tensor


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
        with apply_batched(base, spec, weights, batch.index_S, dropout=config.lora_dropout):
            loss = answer_loss(base, batch.ids_ST, batch.labels_ST, config.label_smoothing)
        total = total + loss * (len(batch.ids_ST) / samples)
    return total


def answer_loss(base: Any, ids_ST: Tensor, labels_ST: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Next-token cross-entropy on labelled positions, averaged within each sample, then over samples.

    Logits are computed for labelled positions alone.
    """
    logits_KV, targets_K, sample_K = labelled_logits(base, ids_ST, labels_ST)
    loss_K = F.cross_entropy(logits_KV.float(), targets_K, reduction="none", label_smoothing=label_smoothing)
    length_S = torch.bincount(sample_K, minlength=len(ids_ST)).clamp_min(1)
    return (loss_K / length_S[sample_K]).sum() / len(ids_ST)


def labelled_logits(base: Any, ids_ST: Tensor, labels_ST: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits where a label follows: logits_KV, targets_K, and the sample that each position belongs to."""
    hidden_STW = base.base_model(input_ids=ids_ST).last_hidden_state[:, :-1]
    wanted_ST = labels_ST[:, 1:] != IGNORED
    logits_KV = base.get_output_embeddings()(hidden_STW[wanted_ST])
    softcap = getattr(base.config, "final_logit_softcapping", None)  # Gemma 2
    if softcap:
        logits_KV = softcap * torch.tanh(logits_KV / softcap)
    return logits_KV, labels_ST[:, 1:][wanted_ST], wanted_ST.nonzero()[:, 0]


def mean_squares(weights: LoraWeights) -> Tensor:
    """Sum over module groups of mean A^2 + mean B^2."""
    terms = [weights.a[key].square().mean() + weights.b[key].square().mean() for key in weights.a]
    return torch.stack(terms).sum()
