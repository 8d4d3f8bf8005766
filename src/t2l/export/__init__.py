"""An adapter in the forms that other runtimes read: a merged model folder, a GGUF adapter.

Level 5. The PEFT folder is `t2l.adapter.Adapter.save`; everything here starts from an `Adapter` and knows nothing of
how it was made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from t2l.adapter import Adapter
from t2l.errors import OutputError, did_you_mean

ExportForm = Literal["merged", "gguf"]
"""``merged``: a whole model folder with the adapter in its weights. ``gguf``: the adapter for llama.cpp."""


def export_adapter(
    adapter: Adapter,
    out: str | Path,
    form: ExportForm,
    *,
    base: str | Path | None = None,
    dtype: str | None = None,
    force: bool = False,
) -> Path:
    """Writes what another runtime reads, whole or not at all, and returns its path.

    Args:
        out: the folder or, for GGUF, the file.
        base: folder or hub id; by default the one that the adapter names.
        dtype: float32, bfloat16 or float16; by default float32 for an adapter, and for a whole model (its matrices)
            as the base is stored.
        force: replace what this function wrote there before.

    Raises:
        BaseModelError: no base, one that the adapter does not fit, or one that the form has no words for.
        OutputError: no such form or dtype, or ``out`` exists or cannot be written.

    Example:
        >>> from t2l import TextToLora
        >>> adapter, = TextToLora.from_pretrained().generate(["Copy the date out of the message."])
        >>> export_adapter(adapter, "last-word.gguf", "gguf")  # doctest: +SKIP
    """
    if form not in get_args(ExportForm):
        raise OutputError(f"There is no form '{form}' to export to.", did_you_mean(form, get_args(ExportForm)))
    name = adapter.spec.base_name(base)
    if form == "merged":
        from t2l.export.merged import write_merged

        return write_merged(adapter, name, out, dtype=dtype, force=force)
    from t2l.export.gguf_adapter import write_gguf_adapter

    return write_gguf_adapter(adapter, name, out, dtype=dtype, force=force)
