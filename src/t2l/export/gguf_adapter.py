"""An adapter as the GGUF file that llama.cpp puts on a base (``--lora``), its scale right.

Axis letters: R rank, I in-features, O out-features.

Level 5. llama.cpp computes ``W x + s * alpha / R * B A x`` with ``s`` the strength that its user gives; it does not
know rank-stabilised scaling. So the portable form is written, B with the scaling inside and ``alpha = R``: ``s = 1`` is
the adapter as it was generated, whatever its form.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2l.adapter import Adapter
from t2l.base_structure import empty_base
from t2l.bases import base_config
from t2l.export.gguf_file import add_provenance, gguf_dtype, write_gguf
from t2l.export.gguf_names import Layout, layout_of, require_gguf
from t2l.storage import check_file


def write_gguf_adapter(
    adapter: Adapter, base: str | Path, out: str | Path, *, dtype: str | None = None, force: bool = False
) -> Path:
    """The adapter as one file; of the base only the config is read. See `t2l.export.export_adapter`."""
    check_file(out, force=force)
    config = base_config(base)
    layout = layout_of(config)
    _check_shapes(adapter, config)
    kind = gguf_dtype(dtype, torch.float32)

    def describe(writer: Any) -> None:
        gguf = require_gguf()
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(adapter.spec.rank))
        if adapter.spec.base_model:
            writer.add_base_model_count(1)
            writer.add_base_model_name(0, adapter.spec.base_model)
        add_provenance(writer, adapter.provenance)

    tensors = list(_tensors(adapter, layout))  # a module without a name is refused before the file is begun
    return write_gguf(out, layout.name, describe, tensors, dtype=kind, force=force)


def _tensors(adapter: Adapter, layout: Layout) -> Iterator[tuple[str, Tensor]]:
    """A as (R, I) and B as (O, R), which GGUF's reversed axes turn into what llama.cpp multiplies with."""
    weights = adapter.portable().weights
    for group in adapter.spec.groups:
        for depth, path in enumerate(group.module_paths()):
            name = layout.tensor(f"{path}.weight")
            yield f"{name}.lora_a", weights.a[group.key][0, depth]
            yield f"{name}.lora_b", layout.rows(path, weights.b[group.key][0, depth])


def _check_shapes(adapter: Adapter, config: Any) -> None:
    """Compares the adapter with a base that has no weights."""
    adapter.spec.check_base(empty_base(config))
