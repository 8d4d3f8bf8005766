"""A Llama that reads texts, in plain torch: hidden states bit for bit as transformers' give them, without importing it.

Axis letters: N texts, T tokens, W hidden size, H heads, C channels of a head.

Level 1. `t2l.encoders.causal` uses it where a folder holds such a model; transformers reads all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.errors import EncoderError
from t2l.storage import read_json, read_tensors

_EXPECTED = {"model_type": "llama", "attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}
_FAST = ("PreTrainedTokenizerFast", "TokenizersBackend")  # what transformers 4 and 5 call tokenizer.json as it is
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LlamaReader:
    """Tokenizer and weights of a Llama, on the CPU.

    Args:
        folder: as transformers 5 writes it.
        config: its ``config.json``.
        dtype: of the weights, whatever they are stored as.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        from tokenizers import Tokenizer

        self.config = config
        self._groups = config["num_attention_heads"] // config["num_key_value_heads"]
        place_C = torch.arange(0, config["head_dim"], 2, dtype=torch.float) / config["head_dim"]
        self._frequency_C = 1.0 / (config["rope_parameters"]["rope_theta"] ** place_C)
        stored = read_tensors(folder / "model.safetensors", EncoderError)
        self._weights = {name.removeprefix("model."): tensor.to(dtype) for name, tensor in stored.items()}
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    @classmethod
    def of(cls, folder: Path, dtype: str) -> LlamaReader | None:
        """The reader of a folder; None where it holds anything else than such a model with a fast tokenizer.

        Args:
            dtype: ``"auto"`` (as stored), ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        """
        files = ("config.json", "tokenizer_config.json", "model.safetensors", "tokenizer.json")
        if not all((folder / name).is_file() for name in files):
            return None
        config, words = (read_json(folder / name, EncoderError) for name in files[:2])
        rope, wanted = config.get("rope_parameters"), config.get("dtype") if dtype == "auto" else dtype
        fits = words.get("tokenizer_class") in _FAST and wanted in _DTYPES
        fits = fits and isinstance(rope, dict) and rope.get("rope_type") == "default" and "rope_theta" in rope
        fits = fits and isinstance(config.get("head_dim"), int)
        fits = fits and all(config.get(name) == value for name, value in _EXPECTED.items())
        return cls(folder, config, _DTYPES[str(wanted)]) if fits else None

    @torch.inference_mode()
    def states(self, tokens_NT: Tensor, mask_NT: Tensor) -> list[Tensor]:
        """The input embeddings and each layer's output (the last after the final norm), (N, T, W) each.

        Args:
            mask_NT: which tokens are real; of each text the first ones.
        """
        x_NTW = F.embedding(tokens_NT, self._weights["embed_tokens.weight"])
        angle_TC = torch.outer(torch.arange(tokens_NT.shape[1]).float(), self._frequency_C).repeat(1, 2)
        turn = (angle_TC.cos().to(x_NTW), angle_TC.sin().to(x_NTW))
        causal_TT = torch.ones(tokens_NT.shape[1], tokens_NT.shape[1], dtype=torch.bool).tril()
        seen_N1TT = None if bool(mask_NT.all()) else (causal_TT & mask_NT[:, None, :])[:, None]
        states = [x_NTW]
        for layer in range(self.config["num_hidden_layers"]):
            x_NTW = self._layer(f"layers.{layer}.", x_NTW, turn, seen_N1TT)
            states.append(x_NTW)
        states[-1] = self._norm("norm", x_NTW)
        return states

    def _layer(self, at: str, x_NTW: Tensor, turn: tuple[Tensor, Tensor], seen_N1TT: Tensor | None) -> Tensor:
        y_NTW = self._norm(f"{at}input_layernorm", x_NTW)
        q_NHTC, k_NHTC, v_NHTC = (self._linear(f"{at}self_attn.{name}_proj", y_NTW) for name in "qkv")
        q_NHTC, k_NHTC, v_NHTC = (
            part.unflatten(-1, (-1, self.config["head_dim"])).transpose(1, 2) for part in (q_NHTC, k_NHTC, v_NHTC)
        )
        q_NHTC, k_NHTC = _turned(q_NHTC, *turn), _turned(k_NHTC, *turn)
        if seen_N1TT is not None:
            k_NHTC, v_NHTC = (part.repeat_interleave(self._groups, dim=1) for part in (k_NHTC, v_NHTC))
        causal = seen_N1TT is None and q_NHTC.shape[2] > 1
        y_NHTC = F.scaled_dot_product_attention(
            *(q_NHTC, k_NHTC, v_NHTC), attn_mask=seen_N1TT, is_causal=causal, enable_gqa=seen_N1TT is None
        )
        x_NTW = x_NTW + self._linear(f"{at}self_attn.o_proj", y_NHTC.transpose(1, 2).flatten(2))
        y_NTW = self._norm(f"{at}post_attention_layernorm", x_NTW)
        gate_NTF = F.silu(self._linear(f"{at}mlp.gate_proj", y_NTW))
        return x_NTW + self._linear(f"{at}mlp.down_proj", gate_NTF * self._linear(f"{at}mlp.up_proj", y_NTW))

    def _linear(self, name: str, x_NTW: Tensor) -> Tensor:
        return F.linear(x_NTW, self._weights[f"{name}.weight"])

    def _norm(self, name: str, x_NTW: Tensor) -> Tensor:
        wide_NTW = x_NTW.float()
        wide_NTW = wide_NTW * torch.rsqrt(wide_NTW.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"])
        return self._weights[f"{name}.weight"] * wide_NTW.to(x_NTW.dtype)


def _turned(x_NHTC: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
    """Rotary positions."""
    first_NHTC, second_NHTC = x_NHTC.chunk(2, dim=-1)
    return x_NHTC * cos_TC + torch.cat((-second_NHTC, first_NHTC), dim=-1) * sin_TC
