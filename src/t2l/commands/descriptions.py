"""Descriptions as a user gives them: on the command line, in a file, or through a pipe; and the folders they name.

Level 6. Every complaint says where the text stands: which argument, or which line of which file.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from t2l.encoders.description import prepare
from t2l.errors import DescriptionError, did_you_mean
from t2l.records import Record, parse_records
from t2l.storage import read_input

_FORM = (
    'Give one description a line, or records such as {"description": "Sort the words.", "name": "sort"}: JSON Lines, '
    "a JSON list, or CSV with the columns description and name."
)
_SLUG_CHARS = 40
_DIGEST_CHARS = 8


@dataclass(frozen=True)
class Request:
    """One adapter that is wanted.

    Args:
        description: stripped.
        name: what the user calls it, where they do.
        place: where the description stands, for error messages.
    """

    description: str
    name: str | None
    place: str

    def folder_name(self, checkpoint: str) -> str:
        """The slug of the name or description, and a digest of description and checkpoint: known before generation."""
        digest = hashlib.blake2b(f"{self.description}\0{checkpoint}".encode()).hexdigest()[:_DIGEST_CHARS]
        return f"{slug(self.name or self.description)}-{digest}"


def slug(text: str) -> str:
    """``text`` as a part of a file name: lower-case ASCII letters and digits joined by hyphens, at whole words."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", plain)
    short = ""
    for word in words:
        if short and len(short) + 1 + len(word) > _SLUG_CHARS:
            break
        short = f"{short}-{word}" if short else word[:_SLUG_CHARS]
    return short or "adapter"


def read_requests(arguments: Sequence[str], file: str | None, note: Callable[[str], None]) -> list[Request]:
    """All descriptions, arguments first, each once; ``note`` is told of those that repeat.

    Args:
        file: path of a text file with a description a line, or of records with ``description`` and optional ``name``
            in a form of `t2l.records`; ``"-"`` reads stdin.

    Raises:
        DescriptionError: no description at all, or one that cannot be used; the file is missing, not UTF-8 or not
            of the form that its name or its beginning promises.
    """
    requests = [Request(text, None, f"argument {number}") for number, text in enumerate(arguments, start=1)]
    if file is not None:
        requests += _read_file(file)
    if not requests:
        raise DescriptionError(
            f"'{file}' holds no description." if file else "There is no description.",
            'Say what the adapter should do: t2l generate "Sort the words by length."',
        )
    distinct: dict[str, Request] = {}
    for request in requests:
        request = Request(_checked(request), request.name, request.place)
        first = distinct.setdefault(request.description, request)
        if first is not request:
            note(f"{_capital(request.place)} repeats {first.place}; its adapter is made once.")
    return list(distinct.values())


def _checked(request: Request) -> str:
    try:
        prepare([request.description])
    except DescriptionError as problem:
        raise DescriptionError(f"{_capital(request.place)}: {problem.message}", problem.fix) from problem
    return request.description.strip()


def _read_file(file: str) -> list[Request]:
    name = "stdin" if file == "-" else file
    lines = list(_lines(read_input(file, DescriptionError), name))
    records = parse_records(
        "\n".join(line for _, line in lines), name, ("description", "name"), _FORM, DescriptionError
    )
    if records is not None:
        return [_from_record(record) for record in records]
    return [Request(line, None, f"line {number} of {name}") for number, line in lines if line.strip()]


def _lines(data: bytes, name: str) -> Iterator[tuple[int, str]]:
    """(number, text) of each line, decoded one by one so that an error can say which."""
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            yield number, line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as problem:
            raise DescriptionError(
                f"Line {number} of {name} is not UTF-8: byte 0x{line[problem.start]:02x} at place {problem.start + 1}.",
                "Save the file as UTF-8.",
            ) from problem


def _from_record(given: Record) -> Request:
    record, place = given.value, given.place
    if not isinstance(record, dict):
        raise DescriptionError(f"{_capital(place)} holds {type(record).__name__}, not a JSON object.", _FORM)
    if "description" not in record:
        near = did_you_mean("description", record) if record else ""
        raise DescriptionError(f"{_capital(place)} has no 'description'.", near or None)
    return Request(_text(record, "description", place), _text(record, "name", place).strip() or None, place)


def _text(record: dict[str, Any], field: str, place: str) -> str:
    value = record.get(field)
    if value is None and field == "name":
        return ""
    if not isinstance(value, str):
        raise DescriptionError(f"{_capital(place)}: '{field}' is {json.dumps(value)[:60]}, not text.")
    return value


def _capital(place: str) -> str:
    return place[:1].upper() + place[1:]
