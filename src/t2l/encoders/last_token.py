"""A causal language model as description encoder: its last hidden state at the last token of the description.

Axis letters: N texts, E hidden size.

Level 1. The second encoder of Text-to-LoRA (arXiv 2506.06105): the base model reads the description itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from t2l.encoders.causal import CausalReader
from t2l.encoders.encoder import DescriptionEncoder, check_dim, read_fields, to_sphere

_BATCH = 8  # texts
_WINDOW = 8192  # tokens, as in the reference implementation


class BaseModelEncoder(DescriptionEncoder):
    """The hidden state of the last token in the last layer, after the final norm.

    Args:
        model: hub id, short name, folder or GGUF file of a causal language model.
        revision: branch, tag or commit on the hub.
        dim: E, where it is known, so that it can be asked without loading the model.
        dtype: ``"auto"`` (as stored), ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        device: where the model runs.
        trust_remote_code: let code from the hub run in this process, for models that need it. The environment
            variable ``T2L_TRUST_REMOTE_CODE=1`` says the same.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        dim: int | None = None,
        dtype: str = "auto",
        device: str = "cpu",
        trust_remote_code: bool = False,
    ) -> None:
        self.reader = CausalReader(
            model, revision=revision, dtype=dtype, device=device, trust_remote_code=trust_remote_code
        )
        self._stated_dim = dim

    @property
    def identity(self) -> str:
        return f"base-model/{self.reader.identity}"

    @property
    def dim(self) -> int:
        return self._stated_dim if self._stated_dim is not None else self._loaded_dim

    def to_config(self) -> dict[str, Any]:
        return {
            "kind": "base-model",
            "model": self.reader.name,
            "revision": self.reader.revision,
            "dim": self.dim,
            "dtype": self.reader.dtype,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, device: str, trust_remote_code: bool) -> BaseModelEncoder:
        optional = type(None)
        fields = read_fields(
            {"dtype": "auto", **config},
            "base-model",
            model=str,
            revision=(str, optional),
            dim=(int, optional),
            dtype=str,
        )
        return cls(**fields, device=device, trust_remote_code=trust_remote_code)

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        check_dim(self._loaded_dim, self._stated_dim, self.reader.name)
        tokens = self.reader.tokens(texts, self.reader.readable(_WINDOW))
        order = sorted(range(len(texts)), key=lambda index: len(tokens[index]))
        embedding_NE = torch.empty(len(texts), self.dim)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            (hidden_NTE,), real_NT = self.reader.states([tokens[index] for index in batch])
            last_N = real_NT.sum(dim=1) - 1
            embedding_NE[batch] = hidden_NTE[torch.arange(len(batch), device=last_N.device), last_N].to(
                "cpu", torch.float32
            )
        return to_sphere(embedding_NE)

    @cached_property
    def _loaded_dim(self) -> int:
        return self.reader.hidden_size
