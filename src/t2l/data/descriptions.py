"""Descriptions of tasks in JSON Lines: one line a task, found by its name, its number or its data set.

Level 3. A line holds ``name`` (``task022_...`` or ``lol_022``), ``descriptions``, and where there are some
``hub_dataset``, ``evaluation_descriptions`` and ``split``. Two tasks may have one number: where both names say more
than it, they have to agree. This file does not write descriptions; `t2l.data.describe` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2l.data.splits import task_number, task_title
from t2l.errors import DataError


@dataclass(frozen=True)
class DescriptionSet:
    """The descriptions of one task: those to train on, and those kept for evaluation (may be empty)."""

    name: str
    descriptions: tuple[str, ...]
    evaluation: tuple[str, ...] = ()
    hub_dataset: str | None = None
    split: str | None = None


class DescriptionFile:
    """Descriptions by task.

    Args:
        sets: a name that comes again adds to the first.
    """

    def __init__(self, sets: Iterable[DescriptionSet]) -> None:
        self._by_name: dict[str, DescriptionSet] = {}
        self._by_number: dict[int, dict[str, str]] = {}  # number -> title -> name
        for given in sets:
            if (known := self._by_name.get(given.name)) is not None:
                given = DescriptionSet(
                    known.name,
                    tuple(dict.fromkeys((*known.descriptions, *given.descriptions))),
                    tuple(dict.fromkeys((*known.evaluation, *given.evaluation))),
                    known.hub_dataset or given.hub_dataset,
                    known.split or given.split,
                )
            self._by_name[given.name] = given
            names = (given.name, (given.hub_dataset or "").rpartition("/")[2])
            numbered = sorted(
                (name for name in names if task_number(name) is not None), key=lambda n: not task_title(n)
            )
            if numbered:
                titles = self._by_number.setdefault(task_number(numbered[0]) or 0, {})
                titles.setdefault(task_title(numbered[0]), given.name)

    @property
    def sets(self) -> tuple[DescriptionSet, ...]:
        """All of them, in the files' order."""
        return tuple(self._by_name.values())

    def of(self, task: str) -> DescriptionSet | None:
        """The descriptions of a task by its name, else by its number and what the names say beyond it."""
        if task in self._by_name:
            return self._by_name[task]
        number, title = task_number(task), task_title(task)
        found = self._by_number.get(number, {}) if number is not None else {}
        name = next(iter(found.values()), None) if not title else found.get(title, found.get(""))
        return self._by_name[name] if name is not None else None


def read_description_files(paths: Iterable[str | Path]) -> DescriptionFile:
    """Descriptions from JSON Lines files, or from folders of them.

    Raises:
        DataError: a file is missing, not UTF-8, or a line is not as it should be; the line is named.
    """
    sets: list[DescriptionSet] = []
    for given in paths:
        path = Path(given).expanduser()
        files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not files:
            raise DataError(f"'{path}' holds no .jsonl file of descriptions.")
        for file in files:
            sets += _read(file)
    return DescriptionFile(sets)


def _read(file: Path) -> list[DescriptionSet]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise DataError(f"The descriptions '{file}' cannot be read: {reason}.") from problem
    return [_set(line, f"line {number} of '{file}'") for number, line in enumerate(lines, start=1) if line.strip()]


def _set(line: str, place: str) -> DescriptionSet:
    example = 'A line is such as {"name": "task022_x", "descriptions": ["Tell whether ...", "..."]}.'
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as problem:
        raise DataError(f"{place[:1].upper()}{place[1:]} is not JSON: {problem}.", example) from problem
    if not isinstance(record, dict) or not isinstance(record.get("name"), str):
        raise DataError(f"{place[:1].upper()}{place[1:]} has no 'name'.", example)
    return DescriptionSet(
        record["name"],
        _list(record, "descriptions", place),
        _list(record, "evaluation_descriptions", place),
        record.get("hub_dataset") if isinstance(record.get("hub_dataset"), str) else None,
        record.get("split") if isinstance(record.get("split"), str) else None,
    )


def _list(record: dict[str, Any], key: str, place: str) -> tuple[str, ...]:
    value = record.get(key, [])
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DataError(f"{place[:1].upper()}{place[1:]}: '{key}' is not a list of texts.")
    return tuple(dict.fromkeys(text.strip() for text in value if text.strip()))
