"""A Llama-family base, with or without an adapter merged into it, as a GGUF model that llama.cpp runs.

Level 5. What llama.cpp's ``convert_hf_to_gguf.py`` does for Llama and Mistral, unquantised: `t2l.export.gguf_names` has
the names and the order of rows, `t2l.export.gguf_vocab` the tokenizer. Quantise with ``llama-quantize`` afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2l.adapter import Adapter
from t2l.bases import Base, base_config
from t2l.errors import BaseModelError
from t2l.export.gguf_file import TYPES, add_provenance, gguf_dtype, write_gguf
from t2l.export.gguf_names import Layout, layout_of, require_gguf
from t2l.export.gguf_vocab import Vocabulary, read_vocabulary
from t2l.export.merged import load_stored, merge_into
from t2l.storage import check_file

FAMILIES = ("llama", "mistral")
_ROPES = ("default", "linear", "llama3")


def write_gguf_model(
    base: str | Path, adapter: Adapter | None, out: str | Path, *, dtype: str | None = None, force: bool = False
) -> Path:
    """A base, with an adapter inside its weights or alone, as one file; see `t2l.export.export_adapter`.

    Raises:
        BaseModelError: a base of another family, or one whose tokenizer or rotation llama.cpp does not have.
    """
    check_file(out, force=force)
    config = base_config(base)
    check_family(config)
    layout = layout_of(config)
    loaded = load_stored(base)
    vocabulary = read_vocabulary(loaded.tokenizer, len(loaded.model.get_input_embeddings().weight))
    kind = gguf_dtype(dtype, loaded.model.dtype)
    if adapter is not None:
        if kind is torch.float32:
            loaded.model.float()  # so that the sum is not rounded to what the base was stored as
        merge_into(adapter, loaded.model)

    def describe(writer: Any) -> None:
        _describe(writer, loaded, config, vocabulary, kind)
        if adapter is not None:
            add_provenance(writer, {"merged": adapter.digest, **adapter.provenance})

    return write_gguf(out, layout.name, describe, list(_tensors(loaded, layout)), dtype=kind, force=force)


def check_family(config: Any) -> None:
    """Refuses what llama.cpp's Llama would compute differently.

    Raises:
        BaseModelError: another family, a rotation it does not have, or quantised weights.
    """
    kind = str(getattr(config, "model_type", "?"))
    if kind not in FAMILIES:
        raise BaseModelError(
            f"Whole GGUF models are written for the types {' and '.join(FAMILIES)}; this base is of type '{kind}'.",
            "Export --to gguf (the adapter alone), or --to merged and use llama.cpp's convert_hf_to_gguf.py.",
        )
    rope = rotation(config)
    if rope["rope_type"] not in _ROPES:
        raise BaseModelError(f"The base's rotary positions are of kind '{rope['rope_type']}'; {', '.join(_ROPES)} fit.")
    if getattr(config, "quantization_config", None):
        raise BaseModelError("The base is quantised; an adapter is merged into unquantised weights.", "Give those.")


def rotation(config: Any) -> dict[str, Any]:
    """The rotary settings, from where transformers 5 or 4 keeps them."""
    settings = dict(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {})
    settings.setdefault("rope_type", settings.pop("type", None) or "default")
    settings.setdefault("rope_theta", getattr(config, "rope_theta", 10000.0))
    return settings


def window_note(config: Any) -> str | None:
    """What llama.cpp computes differently for texts longer than a sliding window; None where there is none."""
    window = getattr(config, "sliding_window", None)
    if window is None or window >= config.max_position_embeddings:
        return None
    return f"The base attends to the last {window} tokens; llama.cpp's Llama attends to all, which differs beyond that."


def _describe(writer: Any, base: Base, config: Any, vocabulary: Vocabulary, dtype: torch.dtype) -> None:
    gguf = require_gguf()
    heads = int(config.num_attention_heads)
    head = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    rope = rotation(config)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(base.name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(getattr(config, "num_key_value_heads", None) or heads))
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(len(vocabulary.tokens))
    writer.add_file_type(gguf.LlamaFileType[TYPES[dtype][1]])
    vocabulary.write(writer)


def _tensors(base: Base, layout: Layout) -> Iterator[tuple[str, Tensor]]:
    config = layout.config
    tied = bool(getattr(config, "tie_word_embeddings", False))
    for name, tensor in base.model.state_dict().items():
        if tied and name == "lm_head.weight":  # llama.cpp uses the embedding where there is no output tensor
            continue
        yield layout.tensor(name), layout.rows(name, tensor)
    factors = _llama3_factors(config)
    if factors is not None:
        gguf = require_gguf()
        yield f"{gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.ROPE_FREQS]}.weight", factors


def _llama3_factors(config: Any) -> Tensor | None:
    """Llama 3's slower rotation of long wavelengths, as the divisor of each frequency that llama.cpp wants."""
    rope = rotation(config)
    if rope["rope_type"] != "llama3":
        return None
    head = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    low, high, factor = (float(rope[name]) for name in ("low_freq_factor", "high_freq_factor", "factor"))
    context = float(rope["original_max_position_embeddings"])
    frequency = 1.0 / rope["rope_theta"] ** (torch.arange(0, head, 2, dtype=torch.float64) / head)
    turns = context * frequency / (2 * math.pi)  # how often a pair turns around within the original context
    smooth = (turns - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    return torch.where(turns > high, 1.0, torch.where(turns < low, factor, between)).float()
