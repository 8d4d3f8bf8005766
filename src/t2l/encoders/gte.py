"""The encoder of the published checkpoints, gte-large-en-v1.5, in plain torch: no code of the hub is run.

Axis letters: T tokens, E width, H heads, D width of a head, V vocabulary.

Level 1. Config ``model_type: new``: BERT with rotary positions and a gated feed-forward layer; the state of the first
token is the embedding. `t2l.encoders.sentence` uses it where a model has this config.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2l.encoders.description import warn_unseen
from t2l.errors import EncoderError
from t2l.storage import check_tensors, parse_yaml, read_json, read_tensors, read_text

MODEL_TYPE = "new"
FILES = (
    *("config.json", "model.safetensors", "tokenizer.json"),
    *("modules.json", "sentence_bert_config.json", "*_Pooling/config.json"),
)

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}
_EXPECTED = {
    "position_embedding_type": "rope",
    "layer_norm_type": "layer_norm",
    "logn_attention_scale": False,
    "pack_qkv": True,
}
_UNUSED = ("pooler.", "lm_head.", "classifier.", "embeddings.position_ids", "embeddings.rotary_emb.")


class GteReader:
    """Tokenizer and weights of a folder, in float32.

    Args:
        folder: as a sentence-transformers model lies on the hub.
        device: where it computes.

    Raises:
        EncoderError: a file is missing or damaged, or the config asks for what no published model of this kind has.
    """

    def __init__(self, folder: Path, device: str) -> None:
        from tokenizers import Tokenizer

        config = read_json(folder / "config.json", EncoderError)
        _check_pooling(folder)
        with torch.device("meta"):
            self._model = _Gte(config)
        limits = folder / "sentence_bert_config.json"
        stated = read_json(limits, EncoderError).get("max_seq_length") if limits.is_file() else None
        self.window = min(int(config.get("max_position_embeddings", 8192)), int(stated or 8192))
        self.device = device
        stored = read_tensors(folder / "model.safetensors", EncoderError)
        tensors = {name.removeprefix("new."): tensor for name, tensor in stored.items()}
        tensors = {name: tensor.float() for name, tensor in tensors.items() if not name.startswith(_UNUSED)}
        shapes = {name: tuple(tensor.shape) for name, tensor in self._model.state_dict().items()}
        check_tensors(tensors, shapes, source=folder / "model.safetensors", error=EncoderError)
        self._model.load_state_dict(tensors, assign=True)
        self._model.to(device).eval().requires_grad_(False)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    @property
    def dim(self) -> int:
        """E."""
        return self._model.width

    def embed(self, texts: Sequence[str]) -> Tensor:
        """The state of each text's first token, (N, E); one text at a time, so that none depends on the others."""
        return torch.stack([self._model(torch.tensor(self._tokens(text), device=self.device))[0] for text in texts])

    def _tokens(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(text).ids  # [CLS] words [SEP]
        if len(ids) > self.window:
            warn_unseen(text, len(ids), self.window)
            ids = [*ids[: self.window - 1], ids[-1]]
        return ids


class _Gte(nn.Module):
    """The token states of one text; its modules have the names that the published files have."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        for name, value in _EXPECTED.items():
            if config.get(name, value) != value:
                raise EncoderError(f"The encoder's config says {name}: {config[name]!r}; only {value!r} is supported.")
        try:
            self.width, segments = int(config["hidden_size"]), int(config["type_vocab_size"])
            words, eps = int(config["vocab_size"]), float(config["layer_norm_eps"])
            self.inverse_frequency_D = inverse_frequencies(config)
            parts = {"word_embeddings": nn.Embedding(words, self.width), "LayerNorm": nn.LayerNorm(self.width, eps)}
            if segments:
                parts["token_type_embeddings"] = nn.Embedding(segments, self.width)
            self.embeddings = nn.ModuleDict(parts)
            layers = nn.ModuleList(_Layer(config) for _ in range(int(config["num_hidden_layers"])))
        except EncoderError:
            raise
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as problem:
            raise EncoderError(
                f"The encoder's config cannot be used: {type(problem).__name__}: {problem}."
            ) from problem
        self.encoder = nn.ModuleDict({"layer": layers})

    def forward(self, token_T: Tensor) -> Tensor:
        """(T, E)."""
        state_TE = self.embeddings["word_embeddings"](token_T)
        if "token_type_embeddings" in self.embeddings:  # a description is one segment
            state_TE = state_TE + self.embeddings["token_type_embeddings"](torch.zeros_like(token_T))
        state_TE = self.embeddings["LayerNorm"](state_TE)
        place_T = torch.arange(len(token_T), dtype=torch.float32)
        angle_TD = torch.outer(place_T, self.inverse_frequency_D).repeat(1, 2).to(state_TE.device)
        cos_TD, sin_TD = angle_TD.cos(), angle_TD.sin()
        for layer in self.encoder["layer"]:  # pyright: ignore[reportGeneralTypeIssues]
            state_TE = layer(state_TE, cos_TD, sin_TD)
        return state_TE


class _Layer(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, inner, eps = (
            int(config["hidden_size"]),
            int(config["intermediate_size"]),
            float(config["layer_norm_eps"]),
        )
        self.heads = int(config["num_attention_heads"])
        self.activation = _ACTIVATIONS[config["hidden_act"]]
        self.attention = nn.ModuleDict({"qkv_proj": nn.Linear(width, 3 * width), "o_proj": nn.Linear(width, width)})
        feed_forward = {"up_gate_proj": nn.Linear(width, 2 * inner, bias=False), "down_proj": nn.Linear(inner, width)}
        self.mlp = nn.ModuleDict(feed_forward)
        self.attn_ln, self.mlp_ln = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)

    def forward(self, state_TE: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
        query_HTD, key_HTD, value_HTD = (
            part_TE.unflatten(-1, (self.heads, -1)).transpose(0, 1)
            for part_TE in self.attention["qkv_proj"](state_TE).chunk(3, dim=-1)
        )
        query_HTD, key_HTD = (part * cos_TD + _turned(part) * sin_TD for part in (query_HTD, key_HTD))
        read_HTD = F.scaled_dot_product_attention(query_HTD[None], key_HTD[None], value_HTD[None])[0]
        state_TE = self.attn_ln(state_TE + self.attention["o_proj"](read_HTD.transpose(0, 1).flatten(1)))
        up, gate = self.mlp["up_gate_proj"](state_TE).chunk(2, dim=-1)
        return self.mlp_ln(state_TE + self.mlp["down_proj"](self.activation(gate) * up))


def _turned(part_HTD: Tensor) -> Tensor:
    first, second = part_HTD.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def inverse_frequencies(config: Mapping[str, Any]) -> Tensor:
    """Radians a token for each half of a head's pairs, (D / 2,) float32, whatever the length of the text.

    With ``rope_scaling`` of type "ntk" and factor f, theta is f times as large and every inverse frequency divided by
    f^(2 / D). With ``mixed_b`` b, theta stays, and inverse frequency i, from 1, is divided by exp(a i^b) with
    a = ln f / (D / 2)^b.

    Raises:
        EncoderError: another kind of scaling, or a factor below 1.
    """
    size = int(config["hidden_size"]) // int(config["num_attention_heads"])
    scaling, theta = config.get("rope_scaling") or {}, float(config["rope_theta"])
    kind = scaling.get("type", scaling.get("rope_type", "ntk"))
    factor, mixed = float(scaling.get("factor", 1.0)), scaling.get("mixed_b")
    if kind != "ntk" or factor < 1:
        raise EncoderError(f"The encoder's config says rope_scaling: {scaling}; only 'ntk' by 1 or more is supported.")
    pair_D = torch.arange(0, size, 2, dtype=torch.float64, device="cpu")
    if mixed is None:
        found_D = (theta * factor) ** (-pair_D / size) / factor ** (2 / size)
    else:
        slope = math.log(factor) / (size / 2) ** float(mixed)
        found_D = theta ** (-pair_D / size) / (slope * (pair_D / 2 + 1) ** float(mixed)).exp()
    return found_D.float()


def _check_pooling(folder: Path) -> None:
    """Only the first token's state, perhaps scaled to one length, is what this reads."""
    listed = folder / "modules.json"
    steps = parse_yaml(read_text(listed, EncoderError), f"'{listed}'", EncoderError) if listed.is_file() else []
    asked = [str(step.get("type", "")).rpartition(".")[2] for step in steps]
    for place in sorted(folder.glob("*_Pooling/config.json")):
        pooling = read_json(place, EncoderError)
        asked += [name for name, on in pooling.items() if name.startswith("pooling_mode_") and on is True]
        asked.append(str(pooling.get("pooling_mode", "cls")))
    other = set(asked) - {"Transformer", "Pooling", "Normalize", "cls", "pooling_mode_cls_token"}
    if other:
        asks = ", ".join(sorted(other))
        raise EncoderError(f"The encoder '{folder}' asks for {asks}; only the first token's state is supported.")
