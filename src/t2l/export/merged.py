"""A base model with an adapter inside its weights: in memory, and as a model folder that needs no LoRA support.

Axis letters: I in-features, O out-features.

Level 5. This file knows Hugging Face model folders; it does not know GGUF.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from t2l.adapter import PROVENANCE_FILE, Adapter
from t2l.base_structure import base_config
from t2l.bases import Base, load_base
from t2l.errors import BaseModelError, OutputError
from t2l.gguf_base import write_model
from t2l.storage import check_writable, new_folder, write_json

MODEL_CONFIG = "config.json"
_FORMAT = 1  # of the record of a merge


def merge_into(adapter: Adapter, model: Any) -> None:
    """Adds the adapter's weight change to ``model``, in place; the sum is made in float32 and rounded once.

    Any linear module will do: fused projections, and GPT-2's Conv1D, which stores (I, O).

    Raises:
        BaseModelError: other modules or shapes, weights that are quantised, or a sum beyond the range of the dtype.
            Nothing is changed unless the shapes and kinds of all modules fit.
    """
    adapter.spec.check_base(model)
    paths = adapter.spec.module_paths()
    for path in paths:
        weight = model.get_submodule(path).weight
        if not (isinstance(weight, torch.Tensor) and weight.dtype.is_floating_point and weight.element_size() > 1):
            kind = getattr(weight, "dtype", type(weight).__name__)
            raise BaseModelError(
                f"{path} is stored as {kind}; an adapter can be merged into float32, bfloat16 or float16 only.",
                "Give the base in one of these, or keep the adapter apart (--to peft or gguf).",
            )
    with torch.no_grad():
        for path in paths:
            module = model.get_submodule(path)
            change_OI = adapter.delta(path).to(module.weight.device)
            change = change_OI.mT if type(module).__name__ == "Conv1D" else change_OI
            total = (module.weight.float() + change).to(module.weight.dtype)
            if not bool(torch.isfinite(total).all()):
                raise BaseModelError(
                    f"The sum of {path} and its adapter is beyond the range of {module.weight.dtype}.",
                    "Merge as float32 or bfloat16.",
                )
            module.weight.copy_(total)


def load_stored(name: str | Path, dtype: str | None = None) -> Base:
    """A base on the CPU as it is stored, not as it computes best: a bfloat16 file gives a bfloat16 model.

    Raises:
        BaseModelError: it cannot be found or loaded.
    """
    config = base_config(name)
    stored = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    return load_base(name, dtype=dtype or stored or torch.float32)


def write_merged(
    adapter: Adapter, base: str | Path, out: str | Path, *, dtype: str | None = None, force: bool = False
) -> Path:
    """The adapted model as a folder (safetensors, config, tokenizer); see `t2l.export.export_adapter`."""
    check_writable(out, marker=MODEL_CONFIG, force=force)
    if Path(out).expanduser().resolve() == Path(base).expanduser().resolve():
        raise OutputError(f"'{out}' is the base itself, which would be lost.", "Choose another place.")
    loaded = load_stored(base, dtype)
    merge_into(adapter, loaded.model)
    with new_folder(out, marker=MODEL_CONFIG, force=force) as inside:
        write_model(loaded.model, loaded.tokenizer, inside)
        record = {
            "format": _FORMAT,
            "merged": adapter.digest,
            "base_model": loaded.name,
            **({"base_weights": loaded.weights} if loaded.weights else {}),
            "provenance": adapter.provenance,
        }
        write_json(inside / PROVENANCE_FILE, record)
    return Path(out).expanduser()
