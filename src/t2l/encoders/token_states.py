"""A causal language model as a reader of words: the states of a description's tokens in several of its layers.

Axis letters: N texts, T tokens of the longest text, W width of one token's state (hidden size times layers).

Level 1. One vector a text says what a task is about; the states of its tokens also say in which words, so that a label
which only the description names can reach an adapter (compare HINT, arXiv 2212.10315). The model may be the base
itself or a small one beside a large base.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from t2l.encoders.causal import CausalReader
from t2l.encoders.encoder import ADAPTER_FOLDER, DescriptionEncoder, check_dim, read_fields
from t2l.errors import EncoderError

_WINDOW = 512  # tokens
_TOKENS_AT_ONCE = 2048  # read in one pass, with padding


class TokenStatesEncoder(DescriptionEncoder):
    """For each token its states in several layers, side by side; rows are as wide as the longest text of a call.

    Args:
        model: hub id, folder, or another name that a base has, of a causal language model.
        layers: which states; 0 is the input embedding.
        token_dim: W, where it is known, so that it can be asked without loading the model.
        window: longest text, in tokens; what follows is not read.
        revision: branch, tag or commit on the hub.
        dtype: ``"auto"`` (as stored), ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        device: where the model runs.
        trust_remote_code: let code from the hub run in this process, for models that need it.
        around: what stands before and after a text when it is read, such as a chat's frame up to where the answer
            begins; the states of the text behind it are then those of a model about to answer.
        adapter: a PEFT folder; the model reads with this LoRA in its weights. A checkpoint that is saved takes a copy
            along (`ADAPTER_FOLDER`).

    Raises:
        EncoderError: no layers, a window below 1, or an ``around`` that is not two texts.
    """

    ragged: ClassVar[bool] = True

    def __init__(
        self,
        model: str,
        layers: Sequence[int],
        *,
        token_dim: int | None = None,
        window: int = _WINDOW,
        revision: str | None = None,
        dtype: str = "bfloat16",
        device: str | torch.device = "cpu",
        trust_remote_code: bool = False,
        around: Sequence[str] = ("", ""),
        adapter: str | Path | None = None,
    ) -> None:
        if len(around) != 2 or not all(isinstance(part, str) for part in around):
            raise EncoderError(f"around is {list(around)!r}; it must be two texts, before and after a description.")
        if not layers or any(isinstance(layer, bool) or not isinstance(layer, int) or layer < 0 for layer in layers):
            raise EncoderError(f"layers is {list(layers)!r}; it must name layers of the model, from 0.")
        if window < 1:
            raise EncoderError(f"window is {window!r}; it must be at least 1.")
        self.reader = CausalReader(
            model,
            revision=revision,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            adapter=adapter,
        )
        self.around = (around[0], around[1])
        self.layers = tuple(layers)
        self.window = window
        self._stated_width = token_dim

    @property
    def token_dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._stated_width if self._stated_width is not None else self._loaded_width

    @property
    def identity(self) -> str:
        around = f"/around={json.dumps(self.around)}" if any(self.around) else ""
        return f"token-states/{self.reader.identity}/layers={list(self.layers)}/window={self.window}{around}"

    @property
    def dim(self) -> int:
        return self.window * self.token_dim

    def to_config(self) -> dict[str, Any]:
        return {
            "kind": "token-states",
            "model": self.reader.name,
            "layers": list(self.layers),
            "token_dim": self.token_dim,
            "window": self.window,
            "revision": self.reader.revision,
            "dtype": self.reader.dtype,
            **({"around": list(self.around)} if any(self.around) else {}),
            **({"adapter": str(self.reader.adapter)} if self.reader.adapter is not None else {}),
        }

    def save(self, folder: Path) -> dict[str, Any]:
        if self.reader.adapter is None:
            return self.to_config()
        shutil.copytree(self.reader.adapter, folder / ADAPTER_FOLDER)
        return self.to_config() | {"adapter": ADAPTER_FOLDER}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, device: str, trust_remote_code: bool) -> TokenStatesEncoder:
        optional = type(None)
        fields = read_fields(
            {"dtype": "bfloat16", "window": _WINDOW, "around": ["", ""], **config},
            "token-states",
            model=str,
            layers=list,
            token_dim=(int, optional),
            window=int,
            revision=(str, optional),
            dtype=str,
            around=list,
            adapter=(str, optional),
        )
        return cls(**fields, device=device, trust_remote_code=trust_remote_code)

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """Token states (N, T * W), float32 on the CPU, zero after a text's end.

        Each text is read on its own, so that its states do not depend on the others of the call.
        """
        states = [self._read(text).squeeze(0).to("cpu", torch.float32) for text in texts]
        return torch.nn.utils.rnn.pad_sequence(states, batch_first=True).flatten(1)

    def step_tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts that `prepare` has been through, for `step_conditions`; truncated silently.

        Needs no device, so it can be done ahead.
        """
        return self.reader.tokens(texts, self.window, self.around, warn=False)

    @torch.no_grad()
    def step_conditions(self, tokens: Sequence[list[int]]) -> Tensor:
        """As `embed`, for training: many texts in one pass, where the model runs and as it computes.

        Args:
            tokens: what `step_tokens` gave.
        """
        order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
        longest = len(tokens[order[-1]])
        condition_NTW: Tensor | None = None
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and len(tokens[order[stop]]) * (stop + 1 - start) <= self._tokens_at_once:
                stop += 1
            rows = order[start:stop]
            part_NTW = self._states([tokens[row] for row in rows])
            if condition_NTW is None:
                condition_NTW = part_NTW.new_zeros(len(tokens), longest, part_NTW.shape[-1])
            condition_NTW[rows, : part_NTW.shape[1]] = part_NTW
            start = stop
        assert condition_NTW is not None
        return condition_NTW.flatten(1)

    @property
    def _tokens_at_once(self) -> int:
        return _TOKENS_AT_ONCE if torch.device(self.reader.device).type == "cpu" else 16 * _TOKENS_AT_ONCE

    def _read(self, text: str) -> Tensor:
        check_dim(self._loaded_width, self._stated_width, self.reader.name)
        return self._states(self.reader.tokens([text], self.reader.readable(self.window), self.around))

    def _states(self, tokens: Sequence[list[int]]) -> Tensor:
        """(N, T, W), zero after a text's end."""
        states, real_NT = self.reader.states(tokens, self.layers)
        return torch.cat(states, dim=-1) * real_NT[..., None]

    @cached_property
    def _loaded_width(self) -> int:
        if max(self.layers) > self.reader.depth:
            raise EncoderError(
                f"The encoder '{self.reader.name}' has {self.reader.depth} layers; layers names {max(self.layers)}.",
                f"Use 0 (input embeddings) to {self.reader.depth}.",
            )
        return len(self.layers) * self.reader.hidden_size
