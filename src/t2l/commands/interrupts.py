"""Ctrl-C in a verb: an end like any other, from the first import on, also where a library makes something else of it.

Level 6. Imports nothing heavy: it is at work before there is a verb.
"""

from __future__ import annotations

import signal
import sys
from _thread import interrupt_main
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

STOPPED = "Stopped. Nothing was left half-written."
_MOMENT_S = 0.01
_DEAF = ("<frozen importlib._bootstrap>", "safetensors/torch.py")
"""Files in whose work Ctrl-C waits: in the middle of an import, libraries drop it or are left half made; what reads
tensors takes it for a damaged file."""


class Interrupts:
    """What Ctrl-C does. Calling it is a signal's handler.

    Attributes:
        came: whether Ctrl-C was raised.
    """

    def __init__(self) -> None:
        self.came = False

    def __call__(self, number: int, frame: Any) -> None:
        while frame is not None:
            if frame.f_code.co_filename.replace("\\", "/").endswith(_DEAF):
                return _once_more()
            frame = frame.f_back
        self.came = True
        raise KeyboardInterrupt


def watch_interrupts() -> None:
    """Takes Ctrl-C over from Python, where nobody else has."""
    sys.unraisablehook = _unraisable
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, Interrupts())


@contextmanager
def interrupts_as_such() -> Iterator[None]:
    """Ctrl-C ends the block as `KeyboardInterrupt`, also where a compiled library made an error of it."""
    try:
        yield
    except Exception as problem:
        from typer import Exit

        handler = signal.getsignal(signal.SIGINT)
        if isinstance(handler, Interrupts) and handler.came and not isinstance(problem, Exit):
            raise KeyboardInterrupt from problem
        raise


def _unraisable(found: Any) -> None:
    """Ctrl-C in a destructor or a callback, where Python can only tell of it and go on, comes a moment later again."""
    if found.exc_type is KeyboardInterrupt:
        _once_more()
    else:
        sys.__unraisablehook__(found)


def _once_more() -> None:
    again = Timer(_MOMENT_S, interrupt_main)
    again.daemon = True
    again.start()
