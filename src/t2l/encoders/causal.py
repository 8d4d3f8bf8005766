"""A causal language model that reads texts: tokens in, hidden states out. Two kinds of encoder stand on it.

Axis letters: N texts, T tokens, W hidden size.

Level 1. A Llama in a folder is read on the CPU without transformers (`t2l.encoders.llama`), whose import alone takes
longer than anything else in making an adapter. This file knows no pooling and no cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from t2l.base_names import locate
from t2l.base_structure import load_tokenizer, mend_buffers
from t2l.encoders.description import warn_unseen
from t2l.encoders.encoder import loading, model_identity
from t2l.encoders.llama import LlamaReader
from t2l.errors import EncoderError
from t2l.gguf_base import quiet
from t2l.hub import may_run_code

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from t2l.adapter import Adapter


class CausalReader:
    """A causal language model without its output layer. Tokenizer and weights load at first use.

    Args:
        model: hub id, short name, folder or GGUF file.
        revision: branch, tag or commit on the hub.
        dtype: ``"auto"`` (as stored), ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        device: where the model runs.
        trust_remote_code: let code from the hub run in this process.
        adapter: a PEFT folder; the model reads with this LoRA in its weights.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None,
        dtype: str,
        device: str | torch.device,
        trust_remote_code: bool,
        adapter: str | Path | None = None,
    ) -> None:
        self.name = str(model)
        self.adapter = adapter
        self.revision = revision
        self.dtype = dtype
        self.device = device
        self.trust_remote_code = trust_remote_code

    @cached_property
    def identity(self) -> str:
        """Names the weights: a folder by its content, anything else by hub id and revision."""
        under = "" if self.adapter is None else f"/adapter={self._adapter.digest[:16]}"
        return f"{model_identity(self.name, self.revision)}/dtype={self.dtype}{under}"

    @cached_property
    def _adapter(self) -> Adapter:
        from t2l.adapter import Adapter

        assert self.adapter is not None
        return Adapter.load(self.adapter)

    def tokens(
        self, texts: Sequence[str], window: int, around: tuple[str, str] = ("", ""), *, warn: bool = True
    ) -> list[list[int]]:
        """Token ids of texts between two others (a frame); of a longer one the end is left out, and the frame stays.

        Args:
            warn: say which texts were not read to their end.
        """
        before, after = around
        (end,) = self._ids([after], special=False) if after else ([],)
        found = []
        for text, ids in zip(texts, self._ids([f"{before}{text}{after}" for text in texts]), strict=True):
            if warn and len(ids) > window:
                warn_unseen(text, len(ids), window)
            found.append(list(ids) if len(ids) <= window else [*ids[: window - len(end)], *end])
        return found

    def readable(self, window: int) -> int:
        """How many of ``window`` tokens the model has positions for. Loads it."""
        return min(window, self._size("max_position_embeddings") or window)

    def _ids(self, texts: list[str], *, special: bool = True) -> list[list[int]]:
        if self._plain is not None:
            return [found.ids for found in self._plain.tokenizer.encode_batch(texts, add_special_tokens=special)]
        return self.tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"]  # pyright: ignore[reportReturnType]

    def _size(self, name: str) -> int | None:
        """A number of the model's config."""
        return (
            getattr(self.model.config.get_text_config(), name, None)
            if self._plain is None
            else self._plain.config.get(name)
        )

    @torch.no_grad()
    def states(self, tokens: Sequence[list[int]], layers: Sequence[int] = ()) -> tuple[list[Tensor], Tensor]:
        """Hidden states (N, T, W) of some layers, of the last one where none is named, and which tokens are real.

        Padded on the right whatever the tokenizer's habit: positions then count from the first token and, the model
        being causal, no token sees the padding.

        Args:
            layers: 0 is the input embedding, the model's number of layers its output after the final norm.
        """
        length_N = torch.tensor([len(ids) for ids in tokens])
        tokens_NT = nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in tokens], batch_first=True)
        mask_NT = torch.arange(tokens_NT.shape[1]) < length_N[:, None]
        if self._plain is not None:
            states = self._plain.states(tokens_NT, mask_NT)
            return [states[layer] for layer in layers or (-1,)], mask_NT
        outcome = self.model(
            input_ids=tokens_NT.to(self.device),
            attention_mask=mask_NT.long().to(self.device),
            use_cache=False,
            output_hidden_states=bool(layers),
        )
        chosen = [outcome.hidden_states[layer] for layer in layers] if layers else [outcome.last_hidden_state]
        return chosen, mask_NT.to(self.device)

    @cached_property
    def _plain(self) -> LlamaReader | None:
        """What reads without transformers, where it can."""
        if self.adapter is not None or torch.device(self.device).type != "cpu":
            return None
        with loading(self.name):
            return LlamaReader.of(Path(locate(self.name, self.revision)), self.dtype)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        with loading(self.name):
            return load_tokenizer(self.name, revision=self.revision, trust_remote_code=self.trust_remote_code)

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model, frozen, in evaluation mode."""
        with loading(self.name), quiet():
            import transformers

            key: Any = "torch_dtype" if transformers.__version__.startswith("4.") else "dtype"
            model = transformers.AutoModel.from_pretrained(
                locate(self.name, self.revision),
                revision=self.revision,
                trust_remote_code=may_run_code(self.trust_remote_code),
                **{key: self.dtype},
            )
        with loading(self.name):
            mend_buffers(model, self.name, EncoderError)
        if self.adapter is not None:
            with torch.no_grad():
                for path in self._adapter.spec.module_paths():
                    weight_OI = model.get_submodule(path.removeprefix("model.")).weight
                    weight_OI.copy_(weight_OI.float() + self._adapter.delta(path))
        return model.to(self.device).eval().requires_grad_(False)

    @property
    def hidden_size(self) -> int:
        """W."""
        return int(self._size("hidden_size") or 0)

    @property
    def depth(self) -> int:
        """How many layers the model has."""
        return int(self._size("num_hidden_layers") or 0)
