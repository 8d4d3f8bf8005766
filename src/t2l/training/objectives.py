"""Terms beside the SFT loss: distillation from a prompted teacher, and a contrast between tasks.

Axis letters: C conditions, N tasks, S samples, K feature width (of features) or labelled positions (of logits),
W hidden width, V vocabulary.

Level 4. Knows token ids, features and adapters; does not know tasks or texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.batched import apply_batched
from t2l.errors import T2LError
from t2l.lora import LoraSpec, LoraWeights
from t2l.training.cross_entropy import LOGITS_AT_ONCE, chunked_loss
from t2l.training.sft import Batch, labelled_hidden, logits_of, vocabulary

TEMPERATURE = 0.1


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
        count = len(batch.ids_ST)
        total = total + mean_divergence(base, hidden_KW, teacher_KW, sample_K, count) * (count / samples)
    return total


def mean_divergence(
    base: Any,
    hidden_KW: Tensor,
    teacher_KW: Tensor,
    sample_K: Tensor,
    samples: int,
    *,
    at_once: int = LOGITS_AT_ONCE,
) -> Tensor:
    """KL divergence of the student's next tokens from the teacher's, averaged within each sample, then over samples.

    Args:
        hidden_KW: of the student, at labelled positions.
        teacher_KW: of the teacher, at the same labels.
    """
    length_S = torch.bincount(sample_K, minlength=samples).clamp_min(1)

    def loss_of(part_KW: Tensor, start: int, stop: int) -> Tensor:
        log_student_KV = logits_of(base, part_KW).float().log_softmax(dim=-1)
        with torch.no_grad():
            log_teacher_KV = logits_of(base, teacher_KW[start:stop]).float().log_softmax(dim=-1)
        divergence_K = F.kl_div(log_student_KV, log_teacher_KV, reduction="none", log_target=True).sum(dim=-1)
        return (divergence_K / length_S[sample_K[start:stop]]).sum()

    return chunked_loss(hidden_KW, loss_of, vocabulary(base), at_once=at_once) / samples


def contrastive_loss(features_CK: Tensor, views: int, temperature: float = TEMPERATURE) -> Tensor:
    """Cross-entropy of finding, among all other descriptions of a batch, those of the same task.

    Supervised contrastive learning (arXiv 2004.11362, equation 2): for every description, the mean over the other
    ``views - 1`` of its task of their log-probability under a softmax of cosine similarities.

    Args:
        features_CK: ``views`` rows for each task, side by side.
    """
    unit_CK = F.normalize(features_CK.float(), dim=-1)
    similarity_CC = unit_CK @ unit_CK.T / temperature
    itself_CC = torch.eye(len(unit_CK), dtype=torch.bool, device=unit_CK.device)
    log_share_CC = similarity_CC.masked_fill(itself_CC, -torch.inf).log_softmax(dim=-1)
    task_C = torch.arange(len(unit_CK), device=unit_CK.device) // views
    same_CC = (task_C[:, None] == task_C[None]) & ~itself_CC
    return -log_share_CC[same_CC].mean()
