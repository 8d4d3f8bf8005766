"""One GGUF file, written whole or not at all, one tensor at a time.

Level 5. This file knows the container: keys, tensors and their types. What they mean is for its users.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2l.errors import OutputError, did_you_mean
from t2l.export.gguf_names import require_gguf
from t2l.storage import new_file

TYPES = {
    torch.float32: ("F32", "ALL_F32"),
    torch.float16: ("F16", "MOSTLY_F16"),
    torch.bfloat16: ("BF16", "MOSTLY_BF16"),
}
"""torch's dtype -> the tensor type, and the file type that llama.cpp shows."""

PROVENANCE_KEY = "t2l.provenance"
"""Where the provenance stands, as JSON text; llama.cpp passes over keys that it does not know."""


def gguf_dtype(name: str | torch.dtype | None, default: torch.dtype) -> torch.dtype:
    """The dtype called ``name``.

    Raises:
        OutputError: GGUF files are not written in it here.
    """
    if name is None:
        return default if default in TYPES else torch.float32
    known = {str(dtype).removeprefix("torch."): dtype for dtype in TYPES}
    wanted = str(name).removeprefix("torch.")
    if wanted not in known:
        raise OutputError(f"GGUF files are not written as '{wanted}'.", did_you_mean(wanted, known))
    return known[wanted]


def write_gguf(
    out: str | Path,
    architecture: str,
    describe: Callable[[Any], None],
    tensors: Iterable[tuple[str, Tensor]],
    *,
    dtype: torch.dtype,
    force: bool = False,
) -> Path:
    """Writes a GGUF file and returns its path. Vectors are float32 whatever the dtype, as llama.cpp computes with them.

    Args:
        architecture: ``general.architecture``.
        describe: adds keys and values to the ``gguf.GGUFWriter`` that it is given.
        tensors: name and value; they are converted one by one while they are written.

    Raises:
        OutputError: the file exists or cannot be written, or values beyond the range of the dtype.
    """
    gguf = require_gguf()
    kinds = {kind: gguf.GGMLQuantizationType[names[0]] for kind, names in TYPES.items()}
    with new_file(out, force=force) as temporary:
        writer = gguf.GGUFWriter(temporary, architecture)
        try:
            describe(writer)
            planned = [(name, tensor, dtype if tensor.ndim > 1 else torch.float32) for name, tensor in tensors]
            for name, tensor, kind in planned:
                size = tensor.numel() * kind.itemsize
                writer.add_tensor_info(name, tuple(tensor.shape), np.dtype(np.float32), size, raw_dtype=kinds[kind])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name, tensor, kind in planned:
                writer.write_tensor_data(_array(name, tensor, kind))
        finally:
            writer.close()
    return Path(out).expanduser()


def add_provenance(writer: Any, provenance: dict[str, Any]) -> None:
    """Records where the content comes from."""
    writer.add_string(PROVENANCE_KEY, json.dumps(provenance, ensure_ascii=False))
    description = provenance.get("description")
    if isinstance(description, str):
        writer.add_description(description)


def _array(name: str, tensor: Tensor, dtype: torch.dtype) -> np.ndarray[Any, Any]:
    whole = tensor.detach().to("cpu", dtype).contiguous()
    if not bool(torch.isfinite(whole).all()):
        raise OutputError(f"'{name}' has values that are NaN, infinite or beyond the range of {dtype}.", "Use float32.")
    return (whole.view(torch.int16) if dtype is torch.bfloat16 else whole).numpy()
