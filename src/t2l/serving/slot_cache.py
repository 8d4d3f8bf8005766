"""Keys and values of every request in a slot of its own: column t of a slot belongs to token t of its request.

Axis letters: S slots (or rows of one pass), H heads, T tokens of a pass, C columns, D width of a head.

Level 5. One more slot than is used, and the last column, take what padding writes. So no request ever moves another,
and where a request lies in memory does not depend on who else is served. This file knows no tokens and no requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

ALIGNED = 64
"""Columns come in multiples of this, so that every slot begins at a like address: matrix libraries may add in another
order where it does not."""


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
