"""The base model as training wants it: frozen, in few bits, its activations recomputed, compiled or sharded.

Level 4. From the section ``base`` of a recipe to a model. This file does not know what is trained through it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from t2l.base_names import canonical_name
from t2l.base_structure import language_model
from t2l.bases import Base, load_base, load_tokenizer
from t2l.data.prompts import tokenizer_digest
from t2l.errors import BaseModelError
from t2l.recipes.sections import BaseSection
from t2l.training.loop import bfloat16_is_fast


def load_frozen_base(section: BaseSection, device: torch.device) -> Base:
    """The base of a recipe on a device, in training mode and without dropout of its own.

    Raises:
        BaseModelError: it cannot be found or loaded, or bitsandbytes or FlashAttention is asked for and missing.
    """
    loading: dict[str, Any] = {"attn_implementation": attention_of(section, device)}
    if section.quantization != "none":
        loading["quantization_config"] = _few_bits(section)
        loading["device_map"] = {"": str(device)}
    dtype = dtype_of(section, device)
    base = load_base(section.model, device=device, dtype=dtype, revision=section.revision, loading=loading)
    model = base.model
    without_dropout(model)
    if section.activation_checkpointing:
        enable_activation_checkpointing(model)
    if section.compile:
        compile_layers(model)
    model.train()
    return base


def check_base_of_store(manifest: Mapping[str, Any], base: str, revision: str | None = None) -> str | None:
    """Whether a store's tokens are those of a base, by its name, its folder, or its tokenizer; a note where none says.

    Raises:
        BaseModelError: the store was made with another tokenizer or chat template.
    """
    made_for = str(manifest.get("base") or "")
    if canonical_name(made_for) == canonical_name(base):
        return None
    if made_for and Path(made_for).expanduser().resolve() == Path(base).expanduser().resolve():
        return None
    digest = (manifest.get("settings") or {}).get("tokenizer")
    if digest is None:
        return f"The store says that it was made for '{made_for}' and not with which tokenizer; the base is '{base}'."
    if digest != tokenizer_digest(load_tokenizer(base, revision=revision)):
        raise BaseModelError(
            f"The store was made for '{made_for}'; '{base}' has another tokenizer or chat template.",
            f"Prepare the data for this base (t2l data prepare ... --base {base}), or train on '{made_for}'.",
        )
    return None


def dtype_of(section: BaseSection, device: torch.device) -> str:
    """In which dtype the base is held and computes."""
    if section.dtype != "auto":
        return section.dtype
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else bfloat16_is_fast()
    return "bfloat16" if native else "float32"


def attention_of(section: BaseSection, device: torch.device) -> str | None:
    """The attention that transformers is asked for; None where it is to choose what the architecture allows.

    Raises:
        BaseModelError: FlashAttention is asked for by name and cannot be had here.
    """
    there = device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None
    fits = dtype_of(section, device) in ("bfloat16", "float16")
    if section.attention == "flash_attention_2" and not (there and fits):
        why = "it takes bfloat16 or float16" if there else "flash-attn is not installed, or there is no CUDA device"
        raise BaseModelError(
            f"base.attention=flash_attention_2 cannot be had: {why}.", "Use base.attention=sdpa, or auto."
        )
    if section.attention == "auto":
        return "flash_attention_2" if there and fits else "eager" if device.type == "cpu" else None
    return section.attention


def without_dropout(model: nn.Module) -> None:
    """No dropout of the base's own: what is trained is not the base."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            vars(module)["attention_dropout"] = 0.0


def enable_activation_checkpointing(model: Any) -> None:
    """Each layer's activations are recomputed in backward; under whichever name this transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def compile_layers(model: Any) -> None:
    """Compiles each decoder layer in place: one graph serves all layers, and module paths stay what they are."""
    for layer in decoder_layers(model):
        layer.compile(dynamic=True)


def shard(model: Any) -> None:
    """Spreads the weights over the processes (FSDP, `torch.distributed.fsdp.fully_shard`), layer by layer.

    Module paths stay what they are, so per-sample adapters find their modules. Tied embeddings stay whole, since they
    are used both at the beginning and at the end.
    """
    from torch.distributed.fsdp import fully_shard

    for layer in decoder_layers(model):
        fully_shard(layer)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is embeddings.weight:
        fully_shard(model.base_model, ignored_params={embeddings.weight})
    else:
        fully_shard(head)
        fully_shard(model.base_model)


def decoder_layers(model: Any) -> nn.ModuleList:
    """The list of layers of a base's language model: its longest module list.

    Raises:
        BaseModelError: it has none.
    """
    lists = [module for module in language_model(model).modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise BaseModelError("This base has no list of layers.", "Set base.compile=false and base.shard=false.")
    return max(lists, key=len)


def _few_bits(section: BaseSection) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BaseModelError(
            f"base.quantization={section.quantization} needs bitsandbytes, which is not installed.",
            "Install it: pip install bitsandbytes; or set base.quantization=none",
        )
    from transformers import BitsAndBytesConfig

    if section.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype_of(section, torch.device("cuda"))),
    )
