"""SFT training (Text-to-LoRA, arXiv 2506.06105, section 3.2): the base's loss, through generated adapters.

Axis letters: N conditions, S samples, T tokens, E condition width, W hidden width, K labelled positions, V vocabulary.

Level 4. Serves any `LoraSource`: a hypernetwork, a multi-task LoRA, a task-specific LoRA. It knows token ids and
labels; it does not know tasks, texts or where batches come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.batched import apply_batched
from t2l.errors import T2LError
from t2l.lora import LoraSource, LoraSpec, LoraWeights
from t2l.training.cross_entropy import LOGITS_AT_ONCE, chunked_loss

IGNORED = -100
"""Label of positions that are not predicted."""


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

    @property
    def lengths_S(self) -> Tensor:
        """Tokens of each sample up to its last label: all of it but the padding."""
        places_T = torch.arange(1, self.labels_ST.shape[1] + 1, device=self.labels_ST.device)
        return ((self.labels_ST != IGNORED) * places_T).amax(dim=1).clamp_min(1)


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
            loss = answer_loss(base, batch.ids_ST, batch.labels_ST, config.label_smoothing)
        total = total + loss * (len(batch.ids_ST) / samples)
    return total


def answer_loss(
    base: Any, ids_ST: Tensor, labels_ST: Tensor, label_smoothing: float = 0.0, *, at_once: int = LOGITS_AT_ONCE
) -> Tensor:
    """Next-token cross-entropy on labelled positions, averaged within each sample, then over samples.

    Logits are computed for labelled positions alone, ``at_once`` of them at a time.
    """
    hidden_KW, targets_K, sample_K = labelled_hidden(base, ids_ST, labels_ST)
    return mean_cross_entropy(base, hidden_KW, targets_K, sample_K, len(ids_ST), label_smoothing, at_once=at_once)


def mean_cross_entropy(
    base: Any,
    hidden_KW: Tensor,
    targets_K: Tensor,
    sample_K: Tensor,
    samples: int,
    label_smoothing: float = 0.0,
    *,
    at_once: int = LOGITS_AT_ONCE,
) -> Tensor:
    """Cross-entropy from hidden states at labelled positions, averaged within each sample, then over samples."""
    weight_S = torch.ones(samples, device=hidden_KW.device)
    total = weighted_cross_entropy(base, hidden_KW, targets_K, sample_K, weight_S, label_smoothing, at_once=at_once)
    return total / samples


def weighted_cross_entropy(
    base: Any,
    hidden_KW: Tensor,
    targets_K: Tensor,
    sample_K: Tensor,
    weight_S: Tensor,
    label_smoothing: float = 0.0,
    *,
    at_once: int = LOGITS_AT_ONCE,
) -> Tensor:
    """Cross-entropy averaged within each sample; the sum over samples of these times ``weight_S``."""
    length_S = torch.zeros_like(weight_S).index_add_(0, sample_K, torch.ones_like(sample_K, dtype=weight_S.dtype))
    length_S = length_S.clamp_min(1)

    def loss_of(part_KW: Tensor, start: int, stop: int) -> Tensor:
        logits_KV = logits_of(base, part_KW)
        loss_K = F.cross_entropy(
            logits_KV.float(), targets_K[start:stop], reduction="none", label_smoothing=label_smoothing
        )
        part_K = sample_K[start:stop]
        return (weight_S[part_K] * loss_K / length_S[part_K]).sum()

    return chunked_loss(hidden_KW, loss_of, vocabulary(base), at_once=at_once)


def vocabulary(base: Any) -> int:
    """V, as the config tells it."""
    return int(base.config.get_text_config().vocab_size)


def labelled_logits(base: Any, ids_ST: Tensor, labels_ST: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits where a label follows: logits_KV, targets_K, and the sample that each position belongs to."""
    hidden_KW, targets_K, sample_K = labelled_hidden(base, ids_ST, labels_ST)
    return logits_of(base, hidden_KW), targets_K, sample_K


def labelled_hidden(base: Any, ids_ST: Tensor, labels_ST: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `labelled_logits`, before the output layer: hidden_KW, targets_K, sample_K.

    Labels may lie on the CPU while the ids are on a device: which positions they are is then found without waiting
    for the device.
    """
    device, width = ids_ST.device, ids_ST.shape[1]
    sample_K, place_K = (labels_ST[:, 1:] != IGNORED).nonzero().unbind(dim=1)
    targets_K = labels_ST[sample_K, place_K + 1].to(device, non_blocking=True)
    row_K = (sample_K * width + place_K).to(device, non_blocking=True)
    hidden_STW = base.base_model(input_ids=ids_ST, use_cache=False).last_hidden_state
    return hidden_STW.flatten(0, 1).index_select(0, row_K), targets_K, sample_K.to(device, non_blocking=True)


def logits_of(base: Any, hidden_KW: Tensor) -> Tensor:
    """The output layer, with the soft cap that Gemma 2 has after it."""
    logits_KV = base.get_output_embeddings()(hidden_KW)
    softcap = getattr(base.config, "final_logit_softcapping", None)
    return softcap * torch.tanh(logits_KV / softcap) if softcap else logits_KV


@contextmanager
def noisy_embeddings(base: Any, lengths_S: Tensor, alpha: float) -> Iterator[None]:
    """NEFTune (arXiv 2310.05914, algorithm 1): uniform noise within alpha / sqrt(T W) on the input embeddings.

    Args:
        lengths_S: T, tokens of each sample without its padding.
        alpha: 5 in the paper's runs; with 0 nothing is done.
    """
    if alpha == 0:
        yield
        return

    def add_noise(module: Any, args: Any, embedding_STW: Tensor) -> Tensor:
        bound_S = alpha / (lengths_S.to(embedding_STW.device) * embedding_STW.shape[-1]).sqrt()
        noise_STW = torch.empty_like(embedding_STW).uniform_(-1, 1)
        return embedding_STW + noise_STW * bound_S.view(-1, 1, 1).to(embedding_STW.dtype)

    handle = base.get_input_embeddings().register_forward_hook(add_noise)
    try:
        yield
    finally:
        handle.remove()


def mean_squares(weights: LoraWeights) -> Tensor:
    """Sum over module groups of mean A^2 + mean B^2."""
    terms = [weights.a[key].square().mean() + weights.b[key].square().mean() for key in weights.a]
    return torch.stack(terms).sum()
