"""Keys and values of every request in a slot of its own, and attention over them that treats every row alike.

Axis letters: S slots (or rows of one pass), H heads, G heads of keys and values, Q heads that share one of them
(H = G Q), T tokens of a pass, C columns, D width of a head.

Level 5. Column t of a slot belongs to token t of its request; one more slot than is used, and the last column, take
what padding writes. So no request ever moves another, and where a request lies in memory does not depend on who else is
served. This file knows no tokens and no requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "t2l_rows"
"""The attention implementation's name; importing this module makes it known to transformers."""

ALIGNED = 64
"""Columns come in multiples of this, so that every slot begins at a like address: matrix libraries may add in another
order where it does not."""

_OTHER_SCORES = ("softcap", "position_bias", "s_aux", "head_mask")  # what a base may do besides products and a mask


@dataclass
class Places:
    """Where the next pass writes and reads; all layers share one.

    Args:
        slots: S.
        columns: C, a multiple of `ALIGNED`; the last is for padding.
        rows_S: the slot of each row of the pass; None where row i is slot i.
        columns_ST: where each token is written; ``columns`` the last for padding.
        visible: how many columns the pass reads.
    """

    slots: int
    columns: int
    rows_S: Tensor | None = None
    columns_ST: Tensor | None = None
    visible: int = 0


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, (S + 1, H, C, D) each, made at the first pass."""

    is_compileable = False
    is_sliding = False

    def __init__(self, places: Places) -> None:
        super().__init__()
        self.places = places

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        def empty(states_SHTD: Tensor) -> Tensor:
            _, heads, _, width = states_SHTD.shape
            return states_SHTD.new_zeros(self.places.slots + 1, heads, self.places.columns, width)

        self.keys, self.values = empty(key_states), empty(value_states)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Writes the pass's states and gives all that the pass may read, (S, H, visible, D) each."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None and self.places.columns_ST is not None
        rows_S, columns_ST = self.places.rows_S, self.places.columns_ST
        count = key_states.shape[0]
        where_S1 = (torch.arange(count, device=key_states.device) if rows_S is None else rows_S)[:, None]
        self.keys[where_S1, :, columns_ST] = key_states.transpose(1, 2)
        self.values[where_S1, :, columns_ST] = value_states.transpose(1, 2)
        visible = self.places.visible
        if rows_S is None:
            return self.keys[:count, :, :visible], self.values[:count, :, :visible]
        return self.keys[:, :, :visible].index_select(0, rows_S), self.values[:, :, :visible].index_select(0, rows_S)

    def clear(self, slot: int) -> None:
        """Zeroes a slot: even NaN that an earlier request left there cannot reach the next one."""
        if self.keys is not None and self.values is not None:
            self.keys[slot].zero_()
            self.values[slot].zero_()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.places.visible, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self.places.columns

    def get_max_cache_shape(self) -> int:
        """As `get_max_length`, by its earlier name."""
        return self.places.columns


class SlotCache(Cache):
    """A cache for transformers' models with one `SlotLayer` a layer."""

    def __init__(self, layers: int, slots: int, columns: int) -> None:
        self.places = Places(slots, columns)
        self._own = [SlotLayer(self.places) for _ in range(layers)]
        super().__init__(layers=[*self._own])

    def clear(self, slot: int) -> None:
        """Zeroes a slot in every layer."""
        for layer in self._own:
            layer.clear(slot)

    def tensors(self) -> list[Tensor]:
        """Keys and values of every layer that has been used."""
        return [tensor for layer in self._own for tensor in (layer.keys, layer.values) if tensor is not None]


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
    """As transformers' attention functions: (S, H, T, D), (S, G, C, D) twice and an additive mask to (S, T, H, D).

    torch's fused kernel on the CPU gives each thread a scratch buffer of its own, and for one token a row the second
    one is aligned unlike the first: the bits of a row then depend on which thread had it. Batched products treat all
    rows alike, and are as fast. Whatever is not such a pass goes to transformers' ``sdpa``.
    """
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


AttentionInterface.register(ATTENTION, rows_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
