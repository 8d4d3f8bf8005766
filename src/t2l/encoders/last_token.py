"""A causal language model as description encoder: its last hidden state at the last token of the description.

Axis letters: N texts, T tokens, E hidden size.

Level 1. The second encoder of Text-to-LoRA (arXiv 2506.06105): the base model reads the description itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from t2l.encoders.description import warn_unseen
from t2l.encoders.encoder import DescriptionEncoder, check_dim, model_identity, read_fields, to_sphere
from t2l.encoders.loading import loading, may_run_code

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BATCH = 8  # texts
_WINDOW = 8192  # tokens, as in the reference implementation


class BaseModelEncoder(DescriptionEncoder):
    """The hidden state of the last token in the last layer, after the final norm.

    Args:
        model: hub id or folder of a causal language model.
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
        self.model = str(model)
        self.revision = revision
        self.dtype = dtype
        self.device = device
        self.trust_remote_code = trust_remote_code
        self._stated_dim = dim

    @cached_property
    def identity(self) -> str:
        return f"base-model/{model_identity(self.model, self.revision)}/dtype={self.dtype}"

    @property
    def dim(self) -> int:
        return self._stated_dim if self._stated_dim is not None else self._loaded_dim

    def to_config(self) -> dict[str, Any]:
        return {
            "kind": "base-model",
            "model": self.model,
            "revision": self.revision,
            "dim": self.dim,
            "dtype": self.dtype,
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
        check_dim(self._loaded_dim, self._stated_dim, self.model)
        tokens = [self._tokens(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda index: len(tokens[index]))
        embedding_NE = torch.empty(len(texts), self.dim)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            embedding_NE[batch] = self._last_states([tokens[index] for index in batch]).to("cpu", torch.float32)
        return to_sphere(embedding_NE)

    def _tokens(self, text: str) -> list[int]:
        ids = list(self._tokenizer(text, verbose=False)["input_ids"])
        window = min(_WINDOW, getattr(self._model.config, "max_position_embeddings", None) or _WINDOW)
        if len(ids) > window:
            warn_unseen(text, len(ids), window)
        return ids[:window]

    def _last_states(self, tokens: list[list[int]]) -> Tensor:
        # Padded on the right whatever the tokenizer's habit: positions then count from the first token and, the model
        # being causal, no token sees the padding, so a text's state does not depend on its neighbours.
        length_N = torch.tensor([len(ids) for ids in tokens])
        tokens_NT = nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in tokens], batch_first=True)
        mask_NT = (torch.arange(tokens_NT.shape[1]) < length_N[:, None]).long()
        hidden_NTE = self._model(
            input_ids=tokens_NT.to(self.device), attention_mask=mask_NT.to(self.device), use_cache=False
        ).last_hidden_state
        return hidden_NTE[torch.arange(len(tokens)), length_N - 1]

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        with loading(self.model):
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(
                self.model, revision=self.revision, trust_remote_code=may_run_code(self.trust_remote_code)
            )

    @cached_property
    def _model(self) -> PreTrainedModel:
        with loading(self.model):
            import transformers

            dtype_argument = "torch_dtype" if transformers.__version__.startswith("4.") else "dtype"
            model = transformers.AutoModel.from_pretrained(
                self.model,
                revision=self.revision,
                trust_remote_code=may_run_code(self.trust_remote_code),
                **{dtype_argument: self.dtype},
            )
        return model.to(self.device).eval()

    @cached_property
    def _loaded_dim(self) -> int:
        return int(self._model.config.get_text_config().hidden_size)
