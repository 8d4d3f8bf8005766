"""Any sentence-transformers model as description encoder, with the pooling that the model itself states.

Level 1. Code that a model brings runs only where the user has said so. The encoder of the paper,
``Alibaba-NLP/gte-large-en-v1.5``, needs none: `t2l.encoders.gte` reads its files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from t2l.base_structure import mend_buffers
from t2l.encoders.description import warn_unseen
from t2l.encoders.encoder import DescriptionEncoder, check_dim, loading, model_identity, read_fields, to_sphere
from t2l.encoders.gte import FILES, MODEL_TYPE, GteReader
from t2l.errors import EncoderError
from t2l.hub import download, may_run_code
from t2l.storage import read_json

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class SentenceTransformerEncoder(DescriptionEncoder):
    """A sentence-transformers model in float32.

    Args:
        model: hub id or folder.
        revision: branch, tag or commit on the hub; name a commit where results must stay the same.
        dim: E, where it is known, so that it can be asked without loading the model.
        device: where the model runs.
        trust_remote_code: let code from the hub run in this process, for models that need it (gte-large-en-v1.5 does
            not). The environment variable ``T2L_TRUST_REMOTE_CODE=1`` says the same.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        dim: int | None = None,
        device: str = "cpu",
        trust_remote_code: bool = False,
    ) -> None:
        self.model = str(model)
        self.revision = revision
        self.device = device
        self.trust_remote_code = trust_remote_code
        self._stated_dim = dim

    @cached_property
    def identity(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"sentence-transformer/{model_identity(self.model, self.revision)}"

    @property
    def dim(self) -> int:
        return self._stated_dim if self._stated_dim is not None else self._loaded_dim

    def to_config(self) -> dict[str, Any]:
        return {"kind": "sentence-transformer", "model": self.model, "revision": self.revision, "dim": self.dim}

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, device: str, trust_remote_code: bool
    ) -> SentenceTransformerEncoder:
        optional = type(None)
        fields = read_fields(config, "sentence-transformer", model=str, revision=(str, optional), dim=(int, optional))
        return cls(**fields, device=device, trust_remote_code=trust_remote_code)

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        check_dim(self._loaded_dim, self._stated_dim, self.model)
        return to_sphere(self._reader.embed(texts))

    @cached_property
    def _reader(self) -> GteReader | _LibraryReader:
        with loading(self.model, extra="encoders"):
            folder = self._gte_folder()
            if folder is not None:
                return GteReader(folder, self.device)
            from sentence_transformers import SentenceTransformer

            model = SentenceTransformer(
                self.model,
                revision=self.revision,
                device=self.device,
                trust_remote_code=may_run_code(self.trust_remote_code),
            )
            model = model.float().eval()
            mend_buffers(model, self.model, EncoderError)
            return _LibraryReader(model)

    def _gte_folder(self) -> Path | None:
        """Where the files lie that `t2l.encoders.gte` reads; None for a model of another kind."""
        place = Path(self.model).expanduser()
        here = place.is_dir()
        try:
            folder = (
                place if here else download(self.model, ["config.json"], revision=self.revision, error=EncoderError)
            )
            if read_json(folder / "config.json", EncoderError).get("model_type") != MODEL_TYPE:
                return None
        except EncoderError:  # the library says better what is wrong with a model that is not there
            return None
        return place if here else download(self.model, FILES, revision=self.revision, error=EncoderError)

    @cached_property
    def _loaded_dim(self) -> int:
        return self._reader.dim


class _LibraryReader:
    """A model of the library sentence-transformers."""

    def __init__(self, model: SentenceTransformer) -> None:
        self._model = model

    @property
    def dim(self) -> int:
        ask = getattr(self._model, "get_embedding_dimension", None) or self._model.get_sentence_embedding_dimension
        return int(ask() or self._model.encode(["."], show_progress_bar=False).shape[-1])

    def embed(self, texts: Sequence[str]) -> Tensor:
        window = self._model.max_seq_length
        for text in texts:
            if window and len(text.encode()) > window:  # a token is at least a byte
                tokens = len(self._model.tokenizer(text, verbose=False)["input_ids"])
                if tokens > window:
                    warn_unseen(text, tokens, window)
        return self._model.encode(list(texts), convert_to_tensor=True, show_progress_bar=False)
