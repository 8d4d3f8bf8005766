"""What the verbs say and where: results on stdout, everything else on stderr.

Level 6. This file knows consoles; it does not know what is printed. Consoles are made when they are needed, never kept:
the streams may be replaced meanwhile. What is printed may come from a foreign file: control characters of it are shown,
never sent to the terminal, which would obey them.
"""

from __future__ import annotations

import json
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from t2l.errors import DescriptionWarning, T2LError

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, ConsoleRenderable
    from rich.segment import Segment

# all but tab and line feed: C0, C1, and what turns the direction of writing around
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def results() -> Console:
    """The console for results: stdout."""
    return _console(stderr=False)


def messages() -> Console:
    """The console for errors, notes and progress: stderr."""
    return _console(stderr=True)


def shown(text: str) -> str:
    """The text with its control characters written out, as in ``\\x1b``."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def say(text: str, style: str | None = None, *, console: Console | None = None) -> None:
    """Prints ``text`` as it is: no markup is read, no line broken (a path can be copied). On stderr by default."""
    from rich.text import Text

    (console or messages()).print(Text(text, style=style or ""), soft_wrap=True)


def tell(text: str, style: str | None = None) -> None:
    """As `say`, on stdout: what is a result."""
    say(text, style, console=results())


def say_error(error: T2LError) -> None:
    """An error in red: what is wrong, then what to do about it."""
    say(f"Error: {error.message}", "red")
    if error.fix:
        say(error.fix, "red")


def print_json(value: Any) -> None:
    """One JSON document, alone on stdout; in ASCII where stdout cannot take more."""
    wide = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, indent=2, ensure_ascii=not wide, allow_nan=False)
    sys.stdout.write(_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")
    sys.stdout.flush()


def print_table(title: str | None, lines: Sequence[Sequence[str]], **look: Any) -> None:
    """Rows of text on stdout, the first of them the header; all columns but the first stand on the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, **look)
    for place, name in enumerate(lines[0]):
        table.add_column(Text(name), justify="right" if place else "left", no_wrap=not place)
    for line in lines[1:]:
        table.add_row(*map(Text, line))
    results().print(table)


def progress_of(what: str) -> Callable[..., None]:
    """Says how many of all there are, by (done, total, ...): in place on a terminal, every half minute elsewhere."""
    stream, begun, shown = sys.stderr, time.monotonic(), [0.0]

    def report(done: int, total: int, *_: float) -> None:
        seconds = time.monotonic() - begun
        if stream.isatty() or seconds - shown[0] >= 30:
            shown[0] = seconds
            end = "\r" if stream.isatty() and done < total else "\n"
            print(f"{done} of {total} {what}, {seconds:.0f} s", end=end, file=stream, flush=True)

    return report


@contextmanager
def warnings_of_a_verb() -> Iterator[None]:
    """Warnings without the place in our files that they come from; of unread descriptions the first, and their number.

    For what no `Notes` collects: work that takes long says at once what it met, and at its end how often.
    """
    unread: dict[str, tuple[int, int]] = {}
    told = 0

    def show(message: Warning | str, *where: Any, **more: Any) -> None:
        nonlocal told
        if isinstance(message, DescriptionWarning):
            unread.update(message.unread)
            if told:
                return
            told = len(unread)
        say(f"Note: {message}", "yellow")

    with warnings.catch_warnings():
        warnings.simplefilter("always", DescriptionWarning)
        warnings.showwarning = show
        try:
            yield
        finally:
            if len(unread) > told:
                say(f"Note: In all: {DescriptionWarning(unread)}", "yellow")


class Notes:
    """What the user should know besides the result: in yellow on stderr as it comes up, and kept for ``--json``."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._unread: dict[str, tuple[int, int]] = {}

    def add(self, text: str) -> None:
        """One more note; one that was made already is not repeated."""
        if text not in self.texts:
            self.texts.append(text)
            say(f"Note: {text}", "yellow")

    @contextmanager
    def of_warnings(self) -> Iterator[None]:
        """Warnings about descriptions become one note; those of libraries are for developers and are dropped."""
        unread: dict[str, tuple[int, int]] = {}

        def collect(message: Warning | str, *_: Any, **__: Any) -> None:
            if isinstance(message, DescriptionWarning):
                unread.update(message.unread)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", DescriptionWarning)
            warnings.showwarning = collect
            yield
        if new := {text: tokens for text, tokens in unread.items() if text not in self._unread}:
            self._unread |= new
            self.add(str(DescriptionWarning(new)))


class _Shown:
    """Something to be printed, with the control characters of its text written out."""

    def __init__(self, inner: ConsoleRenderable) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        from rich.segment import Segment

        for segment in console.render(self._inner, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console, RenderHook

    class Hook(RenderHook):
        def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
            return [_Shown(renderable) for renderable in renderables]

    console = Console(stderr=stderr, highlight=False)
    console.push_render_hook(Hook())
    return console
