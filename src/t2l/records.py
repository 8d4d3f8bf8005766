"""Records as people keep them: JSON Lines, a JSON or YAML list, or a table with named columns (CSV, TSV), told apart.

Level 0. Which form a file has is seen from its name, or from how its text begins; every record says where it stands.
This file does not know what the records mean.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from t2l.errors import T2LError, did_you_mean
from t2l.storage import parse_yaml, read_input

_LINES, _JSON, _TABLES, _YAML = (".jsonl", ".ndjson"), ".json", (".csv", ".tsv"), (".yaml", ".yml")
_DELIMITERS = ",;\t"
_LOOKS_JSON = re.compile(r"""\s*(\[\s*(["{\]]|$)|\{\s*(["}]|$))""")
_BEGINS_LINES = re.compile(r'\s*\{\s*"')


@dataclass(frozen=True)
class Record:
    """One record: what it holds, and where it stands ("line 3 of a.jsonl"), for error messages."""

    value: Any
    place: str


def read_objects(path: PurePath, fields: Sequence[str], form: str, error: type[T2LError]) -> list[Record]:
    """The records of a file, each an object without a field but ``fields``; places begin with a capital letter.

    Raises:
        error: the file cannot be read, holds no record, or one of another form.
    """
    try:
        text = read_input(str(path), error).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(f"'{path}' cannot be read: {problem}.", form) from problem
    found = parse_records(text, str(path), fields, form, error)
    if not found:
        raise error(f"'{path}' holds {'plain text, not records' if text.strip() else 'no record'}.", form)
    records = [Record(record.value, f"{record.place[:1].upper()}{record.place[1:]}") for record in found]
    for record in records:
        if not isinstance(record.value, dict):
            raise error(f"{record.place} is not a JSON object.", form)
        unknown = next((str(name) for name in record.value if name not in fields), None)
        if unknown is not None:
            raise error(f"{record.place}: there is no field '{unknown[:40]}'.", did_you_mean(unknown, fields))
    return records


def parse_records(
    text: str, name: str, columns: Sequence[str], form: str, error: type[T2LError], *, others: bool = False
) -> list[Record] | None:
    """The records of a file's text; None where it has none of these forms, so that it is plain text.

    Args:
        text: without a byte-order mark.
        name: of the file; its ending decides where it says something.
        columns: the fields that are read; a table must have the first of them.
        form: how to write them, for error messages.
        others: keep a table's further columns.

    Raises:
        error: the text has one of the forms by its name or its beginning, and is broken.
    """
    ending = PurePath(name).suffix.lower()
    lines = text.split("\n")
    first = next((line for line in lines if line.strip()), "")
    if ending in _TABLES or (not ending.startswith(_JSON) and _is_header(first, columns)):
        return _from_table(text, name, columns, form, error, others)
    if ending in _YAML:
        return _from_value(parse_yaml(text, f"'{name}'", error), name, columns, form, error)
    if ending not in _LINES:
        if ending != _JSON and not _LOOKS_JSON.match(first):
            return None
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError) as problem:
            if not _BEGINS_LINES.match(first):
                raise error(f"'{name}' is not JSON: {problem}.", form) from problem
        else:
            return _from_value(whole, name, columns, form, error)
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    return [_from_line(line, f"line {number} of {name}", form, error) for number, line in numbered]


def _from_line(line: str, place: str, form: str, error: type[T2LError]) -> Record:
    try:
        return Record(json.loads(line), place)
    except (ValueError, RecursionError) as problem:
        raise error(f"{place[:1].upper()}{place[1:]} is not JSON: {problem}.", form) from problem


def _from_value(value: Any, name: str, columns: Sequence[str], form: str, error: type[T2LError]) -> list[Record]:
    """The items of a list, each an object or the text of the first column; one object stands for a list of itself."""
    if isinstance(value, dict) and columns[0] in value:
        return [Record(value, f"the object in {name}")]
    if not isinstance(value, list):
        held = f"an object without '{columns[0]}'" if isinstance(value, dict) else type(value).__name__
        raise error(f"'{name}' holds {held}, not a list of records.", form)
    return [
        Record({columns[0]: item} if isinstance(item, str) else item, f"item {number} of {name}")
        for number, item in enumerate(value, start=1)
    ]


def split_header(line: str) -> list[list[str]]:
    """The names that a table's first line would have, for each delimiter that tables are written with."""
    return [_cells(line, delimiter) for delimiter in _DELIMITERS]


def _is_header(line: str, columns: Sequence[str]) -> bool:
    """Whether a line is nothing but names of columns, two or more, the first of ``columns`` among them."""
    return any(
        len(cells) > 1 and columns[0] in cells and all(re.fullmatch(r"[\w-]+", cell) for cell in cells)
        for cells in split_header(line)
    )


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip().strip('"').strip().lower() for cell in line.strip("\r").split(delimiter)]


def _from_table(
    text: str, name: str, columns: Sequence[str], form: str, error: type[T2LError], others: bool
) -> list[Record]:
    first = next((line for line in text.split("\n") if line.strip()), "")
    delimiter = next((sign for sign in _DELIMITERS if columns[0] in _cells(first, sign)), ",")
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    except csv.Error as problem:
        raise error(f"'{name}' is not CSV: {problem}.", form) from problem
    if not rows:
        return []
    names = [cell.strip() for cell in rows[0]]
    names = [name if others and name.lower() not in columns else name.lower() for name in names]
    if others and (len(set(names)) != len(names) or "" in names):
        raise error(f"The columns are called {', '.join(repr(cell) for cell in names)}.", "Each needs its own name.")
    if columns[0] not in names:
        near = did_you_mean(columns[0], names)
        raise error(
            f"The first line of '{name}' names no column '{columns[0]}'.",
            near if near.startswith("Did you mean") else form,
        )
    found = []
    for number, row in enumerate(rows[1:], start=2):
        place = f"row {number} of {name}"
        if len(row) != len(names):
            raise error(f"{place[:1].upper()}{place[1:]} has {len(row)} columns; the first has {len(names)}.", form)
        named = zip(names, row, strict=True)
        found.append(Record({key: cell for key, cell in named if others or key in columns}, place))
    return found
