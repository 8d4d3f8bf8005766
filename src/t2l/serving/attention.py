"""Attention of one new token over the slots' keys and values, computed alike for every row.

Axis letters: S rows of a pass, H heads, G heads of keys and values, Q heads that share one of them (H = G Q), T tokens
of a pass, C columns, D width of a head.

Level 5. torch's fused kernel on the CPU gives each thread a scratch buffer of its own, and for one token a row the
second one is aligned unlike the first: the bits of a row then depend on which thread had it. Batched products treat all
rows alike, and are as fast. Whatever is not such a pass goes to transformers' ``sdpa``. This file knows no slots.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "t2l_rows"
"""The attention implementation's name; importing this module makes it known to transformers."""

_OTHER_SCORES = ("softcap", "position_bias", "s_aux", "head_mask")  # what a base may do besides products and a mask


def rows_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """As transformers' attention functions: (S, H, T, D), (S, G, C, D) twice and an additive mask to (S, T, H, D)."""
    rows, heads, length, width = query.shape
    shared = key.shape[1]
    other = length != 1 or dropout > 0 or any(options.get(name) is not None for name in _OTHER_SCORES)
    if other or heads % shared or attention_mask is None or not attention_mask.is_floating_point():
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options
        )
    query_NQD = (query * (width**-0.5 if scaling is None else scaling)).reshape(rows * shared, heads // shared, width)
    score_NQC = torch.bmm(query_NQD, key.flatten(0, 1).mT)
    score_SGQC = score_NQC.view(rows, shared, heads // shared, -1) + attention_mask
    weight_SGQC = score_SGQC.softmax(-1, dtype=torch.float32).to(value.dtype)
    seen_NQD = torch.bmm(weight_SGQC.flatten(0, 1), value.flatten(0, 1))
    return seen_NQD.view(rows, 1, heads, value.shape[-1]), None


AttentionInterface.register(NAME, rows_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
