"""Inputs for a batch, from CSV or one a line, and the answers as CSV.

Level 6. Text in, text out; no files.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t2l.errors import T2LError, did_you_mean

INPUT, EXPECTED, DESCRIPTION = "input", "expected", "description"
BASE, ADAPTED = "base", "adapted"
MOST_ROWS = 500
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four are full-width
_NUMBER = re.compile(r"[+-]?\d[\d.,]*(e[+-]?\d+)?%?", re.ASCII | re.IGNORECASE)
_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Args:
        columns: in order; `INPUT` is among them.
        rows: column -> value.
    """

    columns: list[str]
    rows: list[dict[str, str]]

    @property
    def checked(self) -> bool:
        """Whether any row says what is expected."""
        return any(row.get(EXPECTED) for row in self.rows)


def read_table(text: str) -> Table:
    """CSV whose first line names a column ``input`` (commas, semicolons or tabs), or else one input a line.

    Further columns are kept; ``expected`` is compared with the answers, ``description`` replaces the page's in its row.

    Raises:
        T2LError: no input, too many, or a table that cannot be read.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    first = text.partition("\n")[0]
    table = None
    for delimiter in _DELIMITERS:
        names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
        if INPUT in names:
            table = _csv(text, delimiter, names)
            break
    if table is None:
        _check_header(first)
        table = Table([INPUT], [{INPUT: line} for line in text.split("\n") if line.strip()])
    if not table.rows:
        raise T2LError("There is no input.", "Write one input a line, or a CSV table with a column called 'input'.")
    if len(table.rows) > MOST_ROWS:
        raise T2LError(f"There are {len(table.rows)} rows; {MOST_ROWS} are answered at a time.", "Cut the table up.")
    return table


def write_table(columns: Sequence[str], rows: Sequence[Mapping[str, str | None]]) -> str:
    """CSV with commas. A cell that a spreadsheet would compute stands behind an apostrophe, so that it stays text."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(columns), extrasaction="ignore", restval="", lineterminator="\r\n")
    writer.writerow({name: _inert(name) for name in columns})
    writer.writerows({name: _inert(value or "") for name, value in row.items()} for row in rows)
    return out.getvalue()


def _inert(cell: str) -> str:
    """The cell; with an apostrophe before it where it is a formula and no number."""
    formula = cell.lstrip(" \n").startswith(_FORMULA) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if formula else cell


def _csv(text: str, delimiter: str, names: list[str]) -> Table:
    if len(set(names)) != len(names) or "" in names:
        raise T2LError(f"The columns are called {', '.join(repr(name) for name in names)}.", "Each needs its own name.")
    taken = {BASE, ADAPTED} & set(names)
    if taken:
        raise T2LError(f"A column is called '{taken.pop()}', as the answers will be.", "Give it another name.")
    rows = []
    try:
        for values in csv.reader(io.StringIO(text), delimiter=delimiter, strict=True):
            if len(values) > len(names):
                told = f"Row {len(rows)} has {len(values)} values for {len(names)} columns."
                raise T2LError(told, 'Put a value that holds the delimiter in "quotes".')
            rows.append(dict(zip(names, values + [""] * (len(names) - len(values)), strict=True)))
    except csv.Error as problem:
        raise T2LError(f"The table cannot be read: {problem}, after row {len(rows)}.") from None
    return Table(names, [row for row in rows[1:] if row[INPUT].strip()])


def _check_header(first: str) -> None:
    """A line that names the other columns is a table whose inputs are called something else."""
    for delimiter in _DELIMITERS:
        names = [name.strip().lower() for name in first.split(delimiter)]
        if len(names) > 1 and {EXPECTED, DESCRIPTION} & set(names):
            raise T2LError("The table has no column called 'input'.", did_you_mean(INPUT, names))
