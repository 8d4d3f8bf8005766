"""The answers that a run has, kept as they come, so that an interrupted run goes on where it was.

Level 5. One JSON line a request; a line that the end of a process cut off is dropped. This file knows keys and JSON
values; it knows no model and no task.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from t2l.errors import OutputError, T2LError

ANSWERS_FILE = "answers.jsonl"


class Answers:
    """Key -> JSON value, in a file that only grows; in memory alone without one.

    Args:
        file: where lines are appended; what is there already is read.

    Raises:
        OutputError: the file cannot be read or written.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self._known: dict[str, Any] = {}
        if file is None:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            whole = file.read_bytes() if file.exists() else b""
            lines = whole.split(b"\n")
            for line in lines[:-1]:
                key, value = json.loads(line)
                self._known[key] = value
            if lines[-1]:  # the process ended in the middle of a line
                with file.open("r+b") as stream:
                    stream.truncate(len(whole) - len(lines[-1]))
        except OSError as problem:
            raise OutputError(f"The answers in '{file}' cannot be kept: {problem}.") from problem
        except (ValueError, TypeError) as problem:
            raise T2LError(
                f"'{file}' is not a file of answers: {problem}.", "Delete it, or write the run elsewhere: --out FOLDER"
            ) from problem

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> Any:
        """The kept value; None where there is none."""
        return self._known.get(key)

    def put(self, values: dict[str, Any]) -> None:
        """Keeps values, on disk before this returns."""
        self._known.update(values)
        if self.file is not None and values:
            try:
                with self.file.open("a", encoding="utf-8") as stream:
                    stream.writelines(json.dumps([key, value]) + "\n" for key, value in values.items())
            except OSError as problem:
                raise OutputError(f"'{self.file}' cannot be written: {problem}.") from problem


def key_of(*parts: Any) -> str:
    """A key that is the same for the same JSON values."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
