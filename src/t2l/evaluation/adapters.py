"""Adapters by name, written when a batch needs them: memory holds conditions, and the adapters made last.

Axis letters: N adapters, E condition width, T tokens, W width of a token's state, K width of the task features.

Level 5. Descriptions are encoded once; their LoRA weights are made batch by batch, because a hundred adapters of a real
base are gigabytes and a hypernetwork makes one in milliseconds. Adapters that are given whole (a multi-task LoRA, those
of a library) stay. This file knows names and weights; it knows no task and no prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from t2l.adapter import Adapter, adapters_from_weights
from t2l.encoders.description import warned_once
from t2l.lora import LoraSpec, LoraWeights
from t2l.model import TextToLora

Name = tuple[str, str]
"""Kind and text: ("text", DESCRIPTION) for a generated adapter, anything else for a given one."""
_TEXTS_AT_ONCE = 32
_FEATURES_AT_ONCE = 8
_KEPT_BYTES = 1 << 30
"""Of generated adapters that stay for the next batch."""


class Shelf:
    """Adapters for one base, in one dtype on one device.

    Args:
        t2l: makes those of descriptions; None where there are none.
        texts: descriptions that will be named; `describe` adds more.
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
        self._condition_E: dict[str, Tensor] = {}
        self._made: dict[Name, LoraWeights] = {}  # the latest use last
        self.describe(texts)

    def describe(self, texts: Sequence[str]) -> None:
        """Encodes descriptions that will be named.

        Raises:
            DescriptionError: one of them cannot be encoded; then none is.
        """
        fresh = sorted(dict.fromkeys(text for text in texts if text not in self._condition_E), key=len)
        if not fresh:
            return
        assert self._t2l is not None
        found: dict[str, Tensor] = {}
        with warned_once():
            for start in range(0, len(fresh), _TEXTS_AT_ONCE):
                some = fresh[start : start + _TEXTS_AT_ONCE]
                found |= zip(some, self._trimmed(self._t2l.encoder.encode(some)), strict=True)
        self._condition_E |= found

    def add(self, name: Name, adapter: Adapter) -> None:
        """A finished adapter under a name."""
        self._given[name] = adapter

    def add_mean(self, name: Name, texts: Sequence[str]) -> None:
        """The adapter of the mean task features of some of the descriptions: a static one, which reads none."""
        assert self._t2l is not None
        network = self._t2l.hypernetwork
        with torch.inference_mode():
            parts = [
                network.encode(self._conditions(texts[start : start + _FEATURES_AT_ONCE])).double().sum(dim=0)
                for start in range(0, len(texts), _FEATURES_AT_ONCE)
            ]
            mean_1K = (torch.stack(parts).sum(dim=0) / len(texts))[None].to(network.dtype)
            weights = network.output_affine(network.decode(mean_1K)).map(torch.clone)
        (self._given[name],) = adapters_from_weights(network.spec, weights, [{"mean_of": len(texts)}])

    def __contains__(self, name: Name) -> bool:
        return name in self._given or (name[0] == "text" and name[1] in self._condition_E)

    def spec(self, name: Name) -> LoraSpec:
        """Shapes and scaling of an adapter."""
        if name in self._given:
            return self._given[name].spec
        assert self._t2l is not None
        return self._t2l.spec

    def identity(self, name: Name) -> str:
        """A digest of what decides an adapter: its tensors, or its checkpoint and description."""
        if name in self._given:
            return self._given[name].digest
        assert self._t2l is not None
        return sha256(f"{self._t2l.digest}/{name[1]}".encode("utf-8", "surrogatepass")).hexdigest()

    def weights(self, names: Sequence[Name]) -> LoraWeights:
        """The adapters of one spec, stacked in this order (N); a name may come twice."""
        self._make([name for name in dict.fromkeys(names) if name not in self._given and name not in self._made])
        parts = {
            name: self._given[name].weights.to(self._device, self._dtype) if name in self._given else self._made[name]
            for name in dict.fromkeys(names)
        }
        for name in parts:
            if name in self._made:
                self._made[name] = self._made.pop(name)
        if self._t2l is not None:
            size = self._t2l.spec.num_parameters * self._dtype.itemsize
            while len(self._made) * size > _KEPT_BYTES:
                del self._made[next(iter(self._made))]
        return LoraWeights.cat([parts[name] for name in names])

    def _make(self, names: Sequence[Name]) -> None:
        if not names:
            return
        assert self._t2l is not None
        step = self._t2l.chunk_size()
        for start in range(0, len(names), step):
            some = names[start : start + step]
            with torch.inference_mode():
                weights = self._t2l.hypernetwork(self._conditions([text for _, text in some]))
            weights = weights.to(self._device, self._dtype)
            self._made |= {name: weights.select(row).map(torch.clone) for row, name in enumerate(some)}

    def _conditions(self, texts: Sequence[str]) -> Tensor:
        """(N, E), as wide as the longest of these texts needs."""
        return pad_sequence([self._condition_E[text] for text in texts], batch_first=True)

    def _trimmed(self, condition_NE: Tensor) -> list[Tensor]:
        """Each row without the padding that longer texts of the call gave it."""
        assert self._t2l is not None
        width = self._t2l.encoder.token_dim
        if not self._t2l.encoder.ragged or width is None:
            return list(condition_NE)
        real_NT = (condition_NE.unflatten(1, (-1, width)) != 0).any(dim=-1)
        place_T = torch.arange(1, real_NT.shape[1] + 1)
        lengths = (real_NT * place_T).amax(dim=1).clamp_min(1).tolist()
        return [row_E[: length * width].clone() for row_E, length in zip(condition_NE, lengths, strict=True)]
