"""The command ``t2l``, also as ``python -m t2l``: Ctrl-C is an end like any other, from the first import on."""

from __future__ import annotations

import signal
import sys
from _thread import interrupt_main
from threading import Timer
from typing import Any

_MOMENT_S = 0.01


def main() -> None:
    """The entry point."""
    sys.unraisablehook = _unraisable
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
    try:
        from t2l.cli import main as run

        run()
    except KeyboardInterrupt:  # before there is a verb, or after its end
        sys.stderr.write("\nStopped. Nothing was left half-written.\n")
        raise SystemExit(130) from None


def _unraisable(found: Any) -> None:
    """Ctrl-C in a destructor or a callback, where Python can only tell of it and go on, comes a moment later again."""
    if found.exc_type is KeyboardInterrupt:
        _once_more()
    else:
        sys.__unraisablehook__(found)


def _interrupted(number: int, frame: Any) -> None:
    """Ctrl-C, once no import is under way: in the middle of one, libraries drop it or are left half made."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return _once_more()
        frame = frame.f_back
    raise KeyboardInterrupt


def _once_more() -> None:
    again = Timer(_MOMENT_S, interrupt_main)
    again.daemon = True
    again.start()


if __name__ == "__main__":
    main()
