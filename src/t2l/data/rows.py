"""Rows of data files as people lay them out: which file holds which split, in which form, packed or not.

Level 3. JSON Lines, JSON and Parquet are read whole, the first two also as ``.gz``. This file knows no benchmark and no
task; a row is whatever the file's object holds.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2l.errors import DataError

_LINES, _JSON, _PARQUET = (".jsonl", ".ndjson"), (".json",), (".parquet",)
ENDINGS = (*_LINES, *_JSON, *_PARQUET, *(f"{ending}.gz" for ending in (*_LINES, *_JSON)))
"""Endings of the files that are read."""
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
    "prompt": ("prompt",),
}
"""A split -> the names it has in files, the usual one first."""


def ending_of(path: Path) -> str:
    """The ending of a file that can be read, in lower case (``.jsonl.gz``); empty for others."""
    return next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), "")


def files_of_split(files: Sequence[Path], split: str, prefix: str = "") -> list[Path]:
    """The files that hold a split: ``test.jsonl``, ``test-00000-of-00001.parquet``, ``dev.jsonl.gz`` for validation.

    Where several names of the split are used, the files of the usual one; all have one form.

    Args:
        prefix: what stands before the split's name in files that lie flat (``piqa_``).
    """
    for name in SPLITS.get(split, (split,)):
        found = [file for file in files if ending_of(file) and _is_named(file, f"{prefix}{name}")]
        if found:
            return [file for file in found if ending_of(file) == ending_of(found[0])]
    return []


def _is_named(file: Path, name: str) -> bool:
    stem = file.name[: -len(ending_of(file))].lower()
    return stem == name.lower() or stem.startswith(tuple(f"{name.lower()}{sign}" for sign in "-_."))


def read_rows(path: Path) -> list[Any]:
    """The rows of a file, by its ending.

    Raises:
        DataError: it cannot be read; where a line is at fault, it is named.
    """
    ending = ending_of(path).removesuffix(".gz")
    try:
        if ending in _PARQUET:
            try:
                import pyarrow.parquet as parquet
            except ImportError as problem:
                raise DataError("Parquet needs pyarrow.", "Install it: pip install 't2l[data]'") from problem
            return parquet.read_table(path).to_pylist()
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.name.lower().endswith(".gz") else data).decode("utf-8-sig")
        if ending in _JSON and text.lstrip().startswith("["):
            return json.loads(text)
    except DataError:
        raise
    except (OSError, ValueError, EOFError, RecursionError) as problem:  # Arrow's are kinds of ValueError and OSError
        reason = getattr(problem, "strerror", None) or problem
        raise DataError(f"'{path}' cannot be read: {reason}.") from problem
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError) as problem:
                raise DataError(f"Line {number} of '{path}' cannot be read as JSON: {problem}.") from problem
    return rows
