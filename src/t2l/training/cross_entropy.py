"""Losses over a vocabulary without all of the logits: a few positions at a time, their gradients taken on the spot.

Axis letters: K labelled positions, W hidden width, V vocabulary.

Level 4. With 128,000 tokens in the vocabulary, the float32 logits of 1,000 positions take half a gigabyte, and their
gradient as much again. The head is frozen, so all that must outlive a chunk is the gradient of its hidden states.
This file does not know what the loss is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LOGITS_AT_ONCE = 1 << 24
"""Logits (positions x vocabulary) that are made together: 64 MiB in float32."""

LossOf = Callable[[Tensor, int, int], Tensor]
"""(hidden states of positions start to stop, start, stop) -> the sum of their losses."""


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
