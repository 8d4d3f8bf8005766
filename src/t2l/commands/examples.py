"""Examples as a user gives them: inputs with outputs, as records of any form.

Level 6. Every complaint says where the example stands.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from t2l.data.sources import as_text
from t2l.errors import T2LError, did_you_mean
from t2l.records import Record, parse_records
from t2l.storage import read_input

_FIELDS = ("input", "output")
_FORM = 'JSON Lines such as {"input": "b a", "output": "a b"}, a list of such, or CSV with the columns input and output'


@dataclass(frozen=True)
class Examples:
    """What a file of examples holds.

    Args:
        pairs: (input, output) of each; at least one, no input empty.
        digest: SHA-256 of the pairs, for a provenance.
    """

    pairs: tuple[tuple[str, str], ...]
    digest: str


def read_examples(path: Path) -> Examples:
    """The examples in a file of any form of `t2l.records`; a number stands for its text.

    Raises:
        T2LError: the file cannot be read, holds no example, or one that is not whole.
    """
    try:
        text = read_input(path, T2LError).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise T2LError(f"The examples in '{path}' cannot be read: {problem}.", f"They are {_FORM}.") from problem
    found = parse_records(text, str(path), _FIELDS, f"Give {_FORM}.", T2LError)
    if found is None and text.strip():
        raise T2LError(f"'{path}' holds plain text, not examples.", f"Give {_FORM}.")
    if not found:
        raise T2LError(f"'{path}' holds no example.", f"Give {_FORM}.")
    pairs = tuple(_checked(record) for record in found)
    digest = hashlib.sha256(json.dumps([list(column) for column in zip(*pairs, strict=True)]).encode()).hexdigest()
    return Examples(pairs, digest)


def _checked(given: Record) -> tuple[str, str]:
    record, place = given.value, f"{given.place[:1].upper()}{given.place[1:]}"
    if not isinstance(record, dict):
        raise T2LError(f"{place} is not a JSON object.", f"Give {_FORM}.")
    unknown = next((name for name in record if name not in _FIELDS), None)
    if unknown is not None:
        raise T2LError(f"{place}: there is no field '{str(unknown)[:40]}'.", did_you_mean(str(unknown), _FIELDS))
    question, answer = as_text(record.get("input")), record.get("output")
    if question is None or not question.strip():
        raise T2LError(f"{place} has no input.", f"Give {_FORM}.")
    if answer is None:
        raise T2LError(f"{place} has no output.", f"Give {_FORM}.")
    if as_text(answer) is None:
        raise T2LError(f"{place}: the output is {json.dumps(answer)[:40]}, not text.")
    return question, str(as_text(answer))
