"""An adapter as the GGUF file that llama.cpp puts on a base (``--lora``), its scale right.

Axis letters: R rank, I in-features, O out-features.

Level 5. llama.cpp computes ``W x + s * alpha / R * B A x`` with ``s`` the strength that its user gives; it does not
know rank-stabilised scaling. So the portable form is written, B with the scaling inside and ``alpha = R``: ``s = 1`` is
the adapter as it was generated, whatever its form.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2l.adapter import Adapter
from t2l.base_structure import base_config, empty_base
from t2l.errors import OutputError, did_you_mean
from t2l.export.gguf_names import Layout, layout_of
from t2l.storage import check_file, new_file

PROVENANCE_KEY = "t2l.provenance"
"""Where the provenance stands, as JSON text; llama.cpp passes over keys that it does not know."""

_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def write_gguf_adapter(
    adapter: Adapter, base: str | Path, out: str | Path, *, dtype: str | None = None, force: bool = False
) -> Path:
    """The adapter as one file, whole or not at all; of the base only the config is read.

    See `t2l.export.export_adapter`.
    """
    check_file(out, force=force)
    config = base_config(base)
    layout = layout_of(config)
    adapter.spec.check_base(empty_base(config))
    wanted = str(dtype or "float32").removeprefix("torch.")
    if wanted not in _TYPES:
        raise OutputError(f"GGUF files are not written as '{wanted}'.", did_you_mean(wanted, _TYPES))
    import gguf

    kind = gguf.GGMLQuantizationType[_TYPES[wanted]]
    arrays = [(name, _array(name, tensor, getattr(torch, wanted))) for name, tensor in _tensors(adapter, layout)]
    with new_file(out, force=force) as temporary:
        writer = gguf.GGUFWriter(temporary, layout.name)
        try:
            _describe(writer, adapter)
            for name, array in arrays:
                writer.add_tensor(name, array, raw_shape=array.shape, raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
    return Path(out).expanduser()


def _describe(writer: Any, adapter: Adapter) -> None:
    import gguf

    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(adapter.spec.rank))
    if adapter.spec.base_model:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, adapter.spec.base_model)
    writer.add_string(PROVENANCE_KEY, json.dumps(adapter.provenance, ensure_ascii=False))
    description = adapter.provenance.get("description")
    if isinstance(description, str):
        writer.add_description(description)


def _tensors(adapter: Adapter, layout: Layout) -> Iterator[tuple[str, Tensor]]:
    """A as (R, I) and B as (O, R), which GGUF's reversed axes turn into what llama.cpp multiplies with."""
    weights = adapter.portable().weights
    for group in adapter.spec.groups:
        for depth, path in enumerate(group.module_paths()):
            name = layout.tensor(f"{path}.weight")
            yield f"{name}.lora_a", weights.a[group.key][0, depth]
            yield f"{name}.lora_b", layout.rows(path, weights.b[group.key][0, depth])


def _array(name: str, tensor: Tensor, dtype: torch.dtype) -> np.ndarray[Any, Any]:
    whole = tensor.detach().to("cpu", dtype).contiguous()
    if not bool(torch.isfinite(whole).all()):
        raise OutputError(f"'{name}' has values that are NaN, infinite or beyond the range of {dtype}.", "Use float32.")
    return (whole.view(torch.int16) if dtype is torch.bfloat16 else whole).numpy()
