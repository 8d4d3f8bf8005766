"""The items of the ten benchmarks, from files in their own schemas or from the hub.

Level 3. JSON Lines, JSON (both also as ``.gz``) and Parquet are read, in the forms that the hub and the benchmarks'
authors publish and in the layouts that people use (`files_of_split`). This file takes an item's text apart from its
answer's letter; it scores nothing.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2l.data.hub import load_rows
from t2l.errors import DataError, did_you_mean

BenchmarkRow = Mapping[str, Any]
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


@dataclass(frozen=True)
class Benchmark:
    """The texts of a benchmark's items: question and choices, passages omitted where many items share one."""

    name: str
    items: tuple[str, ...]


def _choices(row: BenchmarkRow) -> str:
    """The texts of multiple choices, in the hub's form or in that of the authors' files."""
    question = row.get("question")
    choices = row.get("choices", question.get("choices", []) if isinstance(question, dict) else [])
    if isinstance(choices, dict):
        return " ".join(choices["text"])
    return " ".join(choice["text"] for choice in choices)


def _stem(row: BenchmarkRow) -> str:
    question = row.get("question_stem", row.get("question"))
    return question["stem"] if isinstance(question, dict) else question or ""


def _science(row: BenchmarkRow) -> str:
    return f"{_stem(row)} {_choices(row)}"


_READERS: dict[str, Callable[[BenchmarkRow], str]] = {
    "arc_challenge": _science,
    "arc_easy": _science,
    "boolq": lambda row: f"{row['question']} {row['passage']}",
    "gsm8k": lambda row: row["question"],
    "hellaswag": lambda row: f"{row['ctx']} {row['endings'][int(row['label'] or 0)]}",
    "openbookqa": _science,
    "piqa": lambda row: f"{row['goal']} {row['sol1']} {row['sol2']}",
    "winogrande": lambda row: row["sentence"],
    "humaneval": lambda row: row["prompt"],
    "mbpp": lambda row: row.get("text") or row["prompt"],
}
BENCHMARKS = tuple(_READERS)
"""Names of the benchmarks, as options and reports write them."""

_HUB = {
    "arc_challenge": ("allenai/ai2_arc", "ARC-Challenge", "test"),
    "arc_easy": ("allenai/ai2_arc", "ARC-Easy", "test"),
    "boolq": ("google/boolq", None, "validation"),
    "gsm8k": ("openai/gsm8k", "main", "test"),
    "hellaswag": ("Rowan/hellaswag", None, "validation"),
    "openbookqa": ("allenai/openbookqa", "main", "test"),
    "piqa": ("baber/piqa", None, "validation"),
    "winogrande": ("allenai/winogrande", "winogrande_debiased", "validation"),
    "humaneval": ("openai/openai_humaneval", None, "test"),
    "mbpp": ("google-research-datasets/mbpp", "full", "test"),
}
_ALIASES = {"arc": "arc_challenge", "arc_c": "arc_challenge", "arc_e": "arc_easy", "obqa": "openbookqa"}


def benchmark_name(text: str) -> str:
    """``ARC-Challenge`` or ``arc_challenge`` as this file writes it.

    Raises:
        DataError: it is not one of the ten.
    """
    plain = text.strip().lower().replace("-", "_").replace(" ", "_")
    plain = _ALIASES.get(plain, plain)
    if plain not in _READERS:
        raise DataError(f"There is no benchmark '{text}'.", did_you_mean(plain, BENCHMARKS))
    return plain


def read_benchmark(name: str, file: str | Path) -> Benchmark:
    """The items of a local file.

    Raises:
        DataError: the file cannot be read, or its rows are not of this benchmark; the row is named.
    """
    name, path = benchmark_name(name), Path(file).expanduser()
    return Benchmark(name, tuple(_items(name, read_rows(path), str(path))))


def find_benchmarks(folder: str | Path) -> list[Benchmark]:
    """Benchmarks in files, or folders of files, that are named after them: ``arc_easy.jsonl``, ``gsm8k/test.parquet``.

    Of a folder, the split that is scored; where no file is named after it, all that are not for training or prompts.

    Raises:
        DataError: there is none.
    """
    root, found = Path(folder).expanduser(), {}
    for place in sorted(root.iterdir()) if root.is_dir() else []:
        try:
            name = benchmark_name(place.name.removesuffix(ending_of(place)) if place.is_file() else place.name)
        except DataError:
            continue
        files = _scored(name, sorted(place.rglob("*"))) if place.is_dir() else [place]
        items = [item for file in files if ending_of(file) for item in _items(name, read_rows(file), str(file))]
        found[name] = (*found.get(name, ()), *items)
    if not any(found.values()):
        raise DataError(
            f"'{root}' holds no file named after a benchmark.",
            f"Name them so: {', '.join(f'{n}.jsonl' for n in BENCHMARKS[:3])}.",
        )
    return [Benchmark(name, items) for name, items in found.items() if items]


def _scored(name: str, files: list[Path]) -> list[Path]:
    """The files of a benchmark's folder whose items are scored: few-shot examples are not test items."""
    shown = [file for split in ("train", "prompt") for file in files_of_split(files, split)]
    return files_of_split(files, _HUB[name][2]) or [file for file in files if file not in shown]


def fetch_benchmark(name: str) -> Benchmark:
    """The items that the paper scores, from the hub or from the cache of `datasets`.

    Raises:
        DataError: it cannot be fetched, or the hub is switched off.
    """
    name = benchmark_name(name)
    place, config, split = _HUB[name]
    try:
        rows = load_rows(place, config, split)
    except DataError:
        raise
    except Exception as problem:  # the hub, the network and the cache each raise their own kinds
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise DataError(f"The benchmark {name} ('{place}') cannot be fetched from the hub: {reason}") from problem
    return Benchmark(name, tuple(_items(name, rows, place)))


def _items(name: str, rows: Iterable[BenchmarkRow], place: str) -> Iterable[str]:
    reader = _READERS[name]
    for number, row in enumerate(rows, start=1):
        try:
            text = reader(row)
            if not isinstance(text, str):
                raise TypeError("no text")
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as problem:
            have = ", ".join(list(row)[:8]) if isinstance(row, Mapping) else type(row).__name__
            raise DataError(
                f"Row {number} of '{place}' is not one of {name}: {type(problem).__name__} {problem}; it has {have}."
            ) from problem
        if text.strip():
            yield text


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
