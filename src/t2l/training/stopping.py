"""Asking a run to stop: a signal is noted, the step that is being made ends, and the loop saves and leaves.

Level 4. Knows signals; knows no loop.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether the run has been asked to stop."""

    asked = False


@contextmanager
def stop_requests(*numbers: signal.Signals) -> Iterator[StopRequest]:
    """Notes the signals while it is entered; a second Ctrl-C is not waited for. Threads beside the main one hear none.

    Args:
        numbers: what asks for a stop, such as ``signal.SIGTERM``.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, _: FrameType | None) -> None:
        if request.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.asked = True

    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
