"""The SFT step (Text-to-LoRA, arXiv 2506.06105, section 3.2): the base's loss through generated adapters, on any base.

Axis letters: C conditions, N tasks, S samples, T tokens, E condition width, W hidden width, K labelled positions (or
feature width, of features), V vocabulary.

Level 4. Adapters are generated once a step. Every micro-batch runs forward and backward down to them, and their
gradients add up; then one backward pass takes the sum through the source. So the source runs once a step, and memory
goes by one micro-batch. Backward through the base runs while the adapters are applied, so that activation
checkpointing, which runs the base again there, is exact. Logits are made a few positions at a time: with 128,000 tokens
in the vocabulary, those of 1,000 positions take half a gigabyte in float32. Serves every `LoraSource`; knows token ids
and conditions, not tasks, texts or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.batched import BatchedLora, apply_batched
from t2l.errors import T2LError
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSource, LoraSpec, LoraWeights
from t2l.recipes.sections import LossSection
from t2l.training.batches import IGNORED, Batch

ADAPTERS = -1
"""The number, beside those of the micro-batches, under which the random draws of the adapters' generation go."""
LOGITS_AT_ONCE = 1 << 24
"""Logits (positions x vocabulary) that are made together: 64 MiB in float32."""
TEMPERATURE = 0.1
"""Of the contrast."""

LossOf = Callable[[Tensor, int, int], Tensor]
"""(hidden states of positions start to stop, start, stop) -> the sum of their losses."""


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
    """Forward and backward of micro-batches by recorded graphs; see `t2l.training.frozen_base.GraphedBase`."""

    def begin(self, weights: LoraWeights) -> None:
        """Takes a step's adapters."""

    def learn(self, micro: Batch, part: float, teacher_KW: Tensor | None = None) -> Tensor:
        """Adds ``part`` times the gradient of a micro-batch's mean loss; gives that much loss."""
        ...

    def gradients(self, conditions: int) -> LoraWeights:
        """The gradients of the adapters."""
        ...


class Teacher:
    """What is distilled from: the base after prompts of its own, with an adapter of its own or without.

    Args:
        base: the frozen causal LM that the student is made of.
        spec: of the teacher's adapter.
        weights: the adapter (N = 1); None for the plain base.

    Raises:
        BaseModelError: the adapter is for a base of other modules or shapes.
    """

    def __init__(self, base: Any, spec: LoraSpec | None = None, weights: LoraWeights | None = None) -> None:
        self.base = base
        self._weights = None if weights is None else weights.to(base.dtype).to(next(base.parameters()).device)
        self._adapter: BatchedLora | None = None
        if spec is not None and self._weights is not None:
            self._adapter = apply_batched(base, spec, self._weights, [0])

    @torch.no_grad()
    def states(self, batches: Sequence[Batch], wanted: set[int] | None = None) -> TeacherStates:
        """Its hidden states where the samples have labels.

        Args:
            wanted: numbers of the samples that are needed; all by default.
        """
        states, labels = [], []
        first: dict[int, tuple[int, int]] = {}
        count, device = 0, next(self.base.parameters()).device
        for batch in batches:
            rows = [row for row, number in enumerate(batch.numbers) if wanted is None or number in wanted]
            if not rows:
                continue
            chosen, labels_ST = torch.tensor(rows), batch.labels_ST[rows]
            ids_ST = batch.ids_ST.index_select(0, chosen.to(batch.ids_ST.device)).to(device, non_blocking=True)
            adapted = nullcontext()
            if self._adapter is not None and self._weights is not None:
                adapted = self._adapter.rebind(self._weights, [0] * len(rows))
            with adapted:
                hidden_KW, _, _ = labelled_hidden(self.base, ids_ST, labels_ST)
            states.append(hidden_KW)
            labels.append(labels_ST[:, 1:][labels_ST[:, 1:] != IGNORED])
            for row, length in zip(rows, (labels_ST[:, 1:] != IGNORED).sum(dim=1).tolist(), strict=True):
                first[batch.numbers[row]] = (count, count + length)
                count += length
        if not states:  # a process without a micro-batch
            return TeacherStates(torch.empty(0, device=device), torch.empty(0, dtype=torch.int64), first)
        return TeacherStates(torch.cat(states), torch.cat(labels), first)


@dataclass(frozen=True)
class TeacherStates:
    """A teacher's hidden states at the labels of a step's samples.

    Args:
        hidden_KW: of all samples, one after another.
        label_K: the labels, on the CPU.
        place: number of a sample -> where its own begin and end.
    """

    hidden_KW: Tensor
    label_K: Tensor
    place: dict[int, tuple[int, int]]

    def of(self, batch: Batch) -> Tensor:
        """Those of a micro-batch, (K, W).

        Raises:
            T2LError: the teacher scored other responses.
        """
        row_K = torch.cat([torch.arange(*self.place[number]) for number in batch.numbers])
        labels_ST = batch.labels_ST[:, 1:]
        if not torch.equal(labels_ST[labels_ST != IGNORED], self.label_K[row_K]):
            raise T2LError("Teacher and student must score the same answers in the same order.")
        return self.hidden_KW.index_select(0, row_K.to(self.hidden_KW.device, non_blocking=True))


def learn_step(
    base: Any,
    source: LoraSource,
    condition_CE: Tensor,
    micros: Sequence[Batch],
    loss: LossSection,
    *,
    dropout: float = 0.0,
    teacher: TeacherStates | None = None,
    adapters: BatchedLora | None = None,
    share: Share | None = None,
    seed: Callable[[int], None] | None = None,
    autocast: bool = False,
    graphed: Graphed | None = None,
) -> Tensor:
    """Adds the gradient of a step's loss to the source's parameters; gives the loss, as a number on the device.

    Every sample weighs the same, whatever its length. With several processes, each gets its part of loss and gradient:
    their sums are those of the step, whatever the number of processes.

    Args:
        base: frozen causal LM, in training mode where its activations are checkpointed.
        micros: of the whole step, on the CPU or on the base's device.
        loss: what it is made of. The fractions of teacher and answers are the batches' own.
        dropout: chance of dropping an input of the LoRA branch.
        teacher: of the samples that this process computes, where the batches are taught.
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
    samples = sum(len(micro.ids_ST) for micro in micros)
    if seed is not None:
        seed(ADAPTERS)
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        weights, extra = _weights(source, condition_CE, loss)
        if loss.weight_penalty:
            penalty = loss.weight_penalty * mean_squares(weights.map(lambda tensor: tensor.float()))
            extra = penalty if extra is None else extra + penalty
    gradients = weights.map(lambda tensor: torch.zeros_like(tensor, dtype=torch.float32))
    total = torch.zeros((), device=device)
    if graphed is not None:
        graphed.begin(weights)
    for number, counts in share.numbers(len(micros)):
        micro = micros[number]
        teacher_KW = None if teacher is None else teacher.of(micro)
        if graphed is not None and micro.arrays is not None:
            if counts:
                total = total + graphed.learn(micro, len(micro.ids_ST) / samples, teacher_KW)
            continue
        if seed is not None:
            seed(number)
        part = len(micro.ids_ST) / samples if counts else 0.0
        micro = micro.to(device)
        own = _backward_to_adapters(
            base, source.spec, weights, gradients, micro, loss, part, dropout, adapters, teacher_KW
        )
        total = total + own if counts else total
    if graphed is not None:
        recorded = graphed.gradients(len(condition_CE))
        gradients.map(Tensor.add_, recorded)
    outputs, given = [], []
    for tensor, gradient in zip(weights.tensors, gradients.tensors, strict=True):
        if tensor.requires_grad:
            outputs.append(tensor)
            given.append(gradient.to(tensor.dtype))
    if extra is not None and share.rank == 0:
        total = total + extra.detach()
        if extra.requires_grad:
            outputs.append(extra)
            given.append(torch.ones_like(extra))
    torch.autograd.backward(outputs, given)
    return total


def _backward_to_adapters(
    base: Any,
    spec: LoraSpec,
    weights: LoraWeights,
    gradients: LoraWeights,
    micro: Batch,
    loss: LossSection,
    part: float,
    dropout: float,
    adapters: BatchedLora | None,
    teacher_KW: Tensor | None,
) -> Tensor:
    """Adds ``part`` times the gradient of a micro-batch's mean loss to those of the adapters; gives that much loss."""
    rows_U, index_S = torch.unique(micro.index_S, return_inverse=True)
    chosen_U = rows_U.to(micro.ids_ST.device, non_blocking=True)
    local = weights.map(lambda tensor: tensor.detach().index_select(0, chosen_U).requires_grad_())
    applied = local.to(base.dtype)  # at once, not in every module
    if adapters is None:
        adapters = apply_batched(base, spec, applied, index_S, dropout=dropout)
    lengths_S = micro.lengths_S if loss.neftune else micro.index_S
    with adapters.rebind(applied, index_S):
        with noisy_embeddings(base, lengths_S, loss.neftune):
            hidden_KW, target_K, sample_K = labelled_hidden(base, micro.ids_ST, micro.labels_ST)
        own = weighted_loss(
            base,
            hidden_KW,
            target_K,
            sample_K,
            torch.ones(len(micro.ids_ST)) if micro.weight_S is None else micro.weight_S,
            loss.label_smoothing,
            teacher_KW=teacher_KW,
            divergence_S=micro.divergence_S,
        )
        own = own / len(micro.ids_ST) * part
        own.backward()
    for gradient, tensor in zip(gradients.tensors, local.tensors, strict=True):
        if tensor.grad is not None and part:
            gradient.index_add_(0, chosen_U, tensor.grad.float())
    return own.detach()


def _weights(source: LoraSource, condition_CE: Tensor, loss: LossSection) -> tuple[LoraWeights, Tensor | None]:
    """The adapters of the conditions, and the contrast between their features where it is asked for."""
    if not loss.contrast:
        return source(condition_CE), None
    if not isinstance(source, HyperNetwork):
        raise T2LError("loss.contrast compares task features, which a static LoRA lacks.", "Set loss.contrast=0.")
    features_CK = source.encode(condition_CE)
    contrast = loss.contrast * contrastive_loss(features_CK, loss.views)
    return source.output_affine(source.decode(features_CK)), contrast


def answer_loss(base: Any, ids_ST: Tensor, labels_ST: Tensor) -> Tensor:
    """Next-token cross-entropy on labelled positions, averaged within each sample, then over samples."""
    hidden_KW, targets_K, sample_K = labelled_hidden(base, ids_ST, labels_ST)
    return weighted_loss(base, hidden_KW, targets_K, sample_K, torch.ones(len(ids_ST))) / len(ids_ST)


def weighted_loss(
    base: Any,
    hidden_KW: Tensor,
    targets_K: Tensor,
    sample_K: Tensor,
    weight_S: Tensor,
    label_smoothing: float = 0.0,
    *,
    teacher_KW: Tensor | None = None,
    divergence_S: Tensor | None = None,
    at_once: int = LOGITS_AT_ONCE,
) -> Tensor:
    """Cross-entropy averaged within each sample; the sum over samples of these times ``weight_S``.

    Where there is a teacher, the KL divergence of the student's next tokens from the teacher's is added in the same
    way, times ``divergence_S`` (context distillation, arXiv 2209.15189: the teacher reads what the student must do
    without; the answers that both score are the same, token by token).

    Args:
        hidden_KW: of the student, at labelled positions.
        teacher_KW: of the teacher, at the same labels.
        at_once: logits that are made together.
    """
    weight_S = weight_S.to(hidden_KW.device, non_blocking=True)
    length_S = torch.zeros_like(weight_S).index_add_(0, sample_K, torch.ones_like(sample_K, dtype=weight_S.dtype))
    length_S = length_S.clamp_min(1)
    if divergence_S is not None:
        divergence_S = divergence_S.to(hidden_KW.device, non_blocking=True)

    def loss_of(part_KW: Tensor, start: int, stop: int) -> Tensor:
        logits_KV = logits_of(base, part_KW).float()
        part_K = sample_K[start:stop]
        loss_K = F.cross_entropy(logits_KV, targets_K[start:stop], reduction="none", label_smoothing=label_smoothing)
        loss_K = weight_S[part_K] * loss_K
        if teacher_KW is not None and divergence_S is not None:
            with torch.no_grad():
                teacher_KV = logits_of(base, teacher_KW[start:stop]).float()
            loss_K = loss_K + divergence_S[part_K] * divergence_of(logits_KV, teacher_KV)
        return (loss_K / length_S[part_K]).sum()

    return chunked_loss(hidden_KW, loss_of, vocabulary(base), at_once=at_once)


def divergence_of(student_KV: Tensor, teacher_KV: Tensor) -> Tensor:
    """KL divergence of the student's next tokens from the teacher's, (K,), from their logits."""
    student_KV, teacher_KV = student_KV.log_softmax(dim=-1), teacher_KV.log_softmax(dim=-1)
    return F.kl_div(student_KV, teacher_KV, reduction="none", log_target=True).sum(dim=-1)


def chunked_loss(hidden_KW: Tensor, loss_of: LossOf, vocabulary: int, *, at_once: int = LOGITS_AT_ONCE) -> Tensor:
    """The sum of ``loss_of`` over chunks of positions, with the gradient of ``hidden_KW`` and of nothing else.

    Few positions go through in one piece and as plain autograd. More are cut; each chunk's gradient is computed in the
    forward pass, as its logits are there, and backward only multiplies.

    Args:
        loss_of: must give a sum over positions; parameters that it reads get no gradient.
        vocabulary: V.
        at_once: how many logits may be there at a time.
    """
    count = len(hidden_KW)
    rows = max(1, at_once // max(1, vocabulary))
    if count <= rows or not (torch.is_grad_enabled() and hidden_KW.requires_grad):
        parts = [loss_of(hidden_KW[i : i + rows], i, min(i + rows, count)) for i in range(0, count, rows)]
        return torch.stack(parts).sum() if len(parts) != 1 else parts[0]
    return _Chunked.apply(hidden_KW, loss_of, rows)  # pyright: ignore[reportReturnType]


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_KW: Tensor, loss_of: LossOf, rows: int) -> Tensor:
        gradient_KW = torch.empty_like(hidden_KW)
        total = torch.zeros((), device=hidden_KW.device)
        for start in range(0, len(hidden_KW), rows):
            stop = min(start + rows, len(hidden_KW))
            with torch.enable_grad():
                part_KW = hidden_KW[start:stop].detach().requires_grad_()
                loss = loss_of(part_KW, start, stop)
                (gradient_KW[start:stop],) = torch.autograd.grad(loss, part_KW)
            total += loss.detach()
        ctx.save_for_backward(gradient_KW)
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore
        (gradient_KW,) = ctx.saved_tensors
        return gradient_KW * scale.to(gradient_KW.dtype), None, None


def vocabulary(base: Any) -> int:
    """V, as the config tells it."""
    return int(base.config.get_text_config().vocab_size)


def labelled_logits(base: Any, ids_ST: Tensor, labels_ST: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits where a label follows: logits_KV, targets_K, and the sample that each position belongs to."""
    hidden_KW, targets_K, sample_K = labelled_hidden(base, ids_ST, labels_ST)
    return logits_of(base, hidden_KW), targets_K, sample_K


def labelled_hidden(base: Any, ids_ST: Tensor, labels_ST: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """States before the output layer where a label follows: hidden_KW, targets_K, and each position's sample.

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
    """The output layer, with what some models have after it: a factor (Granite, Cohere), a soft cap (Gemma 2)."""
    logits_KV = base.get_output_embeddings()(hidden_KW)
    config = base.config.get_text_config()
    scaling = getattr(config, "logits_scaling", None) or 1.0
    factor = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None) or 1.0
    # Granite and others divide by logits_scaling; HyperCLOVA X multiplies by what has the same name
    factor *= scaling if config.model_type.startswith("hyperclovax") else 1.0 / scaling
    softcap = getattr(config, "final_logit_softcapping", None)
    if factor != 1.0:
        logits_KV = logits_KV * factor
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
