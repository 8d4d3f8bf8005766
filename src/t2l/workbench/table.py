"""Inputs for a batch, from CSV or one a line, and the answers as CSV.

Level 6. Text in, text out; no files.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t2l.errors import T2LError
from t2l.records import parse_records, split_header

INPUT, EXPECTED, DESCRIPTION = "input", "expected", "description"
ANSWERS = ("base", "prompted", "adapted")
"""The columns of answers, called as in ``t2l run --json``: the base's, when it is told the task, and the adapter's."""
MOST_ROWS = 500
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four are full-width
_NUMBER = re.compile(r"[+-]?\d[\d.,]*(e[+-]?\d+)?%?", re.ASCII | re.IGNORECASE)
_FORM = "Write one input a line, or a CSV table with a column called 'input'."


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
    named = split_header(text.partition("\n")[0])
    others = {EXPECTED, DESCRIPTION}  # a line that names these is a table whose inputs are called something else
    if any(INPUT in names or (len(names) > 1 and others & set(names)) for names in named):
        found = parse_records(text, "table.csv", (INPUT, EXPECTED, DESCRIPTION), _FORM, T2LError, others=True) or []
        rows = [record.value for record in found if record.value[INPUT].strip()]
    else:
        rows = [{INPUT: line} for line in text.split("\n") if line.strip()]
    if not rows:
        raise T2LError("There is no input.", _FORM)
    if taken := set(ANSWERS) & set(rows[0]):
        raise T2LError(f"A column is called '{taken.pop()}', as the answers will be.", "Give it another name.")
    if len(rows) > MOST_ROWS:
        raise T2LError(f"There are {len(rows)} rows; {MOST_ROWS} are answered at a time.", "Cut the table up.")
    return Table(list(rows[0]), rows)


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
