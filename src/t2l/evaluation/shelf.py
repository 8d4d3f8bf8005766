"""Adapters by name, written when a batch needs them: memory holds conditions, and the adapters of one batch.

Axis letters: N adapters, E condition width.

Level 5. Descriptions are encoded once, together; their LoRA weights are made batch by batch, because a hundred adapters
of a real base are gigabytes and a hypernetwork makes one in milliseconds. Adapters that are given whole (a multi-task
LoRA) stay. This file knows names and weights; it knows no task and no prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from t2l.adapter import Adapter
from t2l.lora import LoraSpec, LoraWeights
from t2l.model import TextToLora

Name = tuple[str, str]
"""Kind and text: ("text", DESCRIPTION) for a generated adapter, anything else for a given one."""
_TEXTS_AT_ONCE = 256


class Shelf:
    """Adapters for one base, in one dtype on one device.

    Args:
        t2l: makes those of descriptions; None where there are none.
        texts: every description that will be named.
    """

    def __init__(
        self,
        t2l: TextToLora | None = None,
        texts: Sequence[str] = (),
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._t2l, self._device, self._dtype = t2l, device, dtype
        self._given: dict[Name, Adapter] = {}
        self._place = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        self._conditions: list[Any] = []
        if t2l is not None:
            known = list(self._place)
            for start in range(0, len(known), _TEXTS_AT_ONCE):
                self._conditions.append(t2l.encoder.encode(known[start : start + _TEXTS_AT_ONCE]))

    def add(self, name: Name, adapter: Adapter) -> None:
        """A finished adapter under a name."""
        self._given[name] = adapter

    def spec(self, name: Name) -> LoraSpec:
        """Shapes and scaling of an adapter."""
        if name in self._given:
            return self._given[name].spec
        assert self._t2l is not None
        return self._t2l.spec

    def weights(self, names: Sequence[Name]) -> LoraWeights:
        """The adapters of one spec, stacked in this order (N); a name may come twice."""
        distinct = list(dict.fromkeys(names))
        made = [name for name in distinct if name not in self._given]
        parts = {name: self._given[name].weights.to(self._device, self._dtype) for name in distinct if name not in made}
        if made:
            assert self._t2l is not None
            step = self._t2l.chunk_size()
            for start in range(0, len(made), step):
                some = made[start : start + step]
                with torch.inference_mode():
                    condition_NE = torch.cat([self._condition(text) for _, text in some])
                    weights = self._t2l.hypernetwork(condition_NE).to(self._device, self._dtype)
                parts |= {name: weights.select(row) for row, name in enumerate(some)}
        return LoraWeights.cat([parts[name] for name in names])

    def _condition(self, text: str) -> torch.Tensor:
        part, row = divmod(self._place[text], _TEXTS_AT_ONCE)
        return self._conditions[part][row : row + 1]
