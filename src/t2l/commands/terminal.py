"""What the verbs say and where: results on stdout, everything else on stderr.

Level 6. This file knows consoles; it does not know what is printed. Consoles are made when they are needed, never kept:
the streams may be replaced meanwhile.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from t2l.errors import DescriptionWarning, T2LError

if TYPE_CHECKING:
    from rich.console import Console


def results() -> Console:
    """The console for results: stdout."""
    from rich.console import Console

    return Console(highlight=False)


def messages() -> Console:
    """The console for errors, notes and progress: stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(text: str, style: str | None = None, *, console: Console | None = None) -> None:
    """Prints ``text`` as it is: no markup is read, no line broken (a path can be copied). On stderr by default."""
    from rich.text import Text

    (console or messages()).print(Text(text, style=style or ""), soft_wrap=True)


def say_error(error: T2LError) -> None:
    """An error in red: what is wrong, then what to do about it."""
    say(f"Error: {error.message}", "red")
    if error.fix:
        say(error.fix, "red")


def print_json(value: Any) -> None:
    """One JSON document, alone on stdout; in ASCII where stdout cannot take more."""
    wide = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=not wide, allow_nan=False) + "\n")
    sys.stdout.flush()


class Notes:
    """What the user should know besides the result: in yellow on stderr as it comes up, and kept for ``--json``."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, text: str) -> None:
        """One more note; one that was made already is not repeated."""
        if text not in self.texts:
            self.texts.append(text)
            say(f"Note: {text}", "yellow")

    @contextmanager
    def of_warnings(self) -> Iterator[None]:
        """Warnings about descriptions become notes; those of libraries are for developers and are dropped."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", DescriptionWarning)
            warnings.showwarning = lambda message, *_, **__: self.add(str(message))
            yield
