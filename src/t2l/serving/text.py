"""From tokens to text as it becomes certain, up to the first stop text.

Level 5. This file knows one answer and a function that decodes tokens; no model and no scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a decoder gives for the first bytes of a longer character


class Writer:
    """Takes tokens and gives the text that they add, holding back what a later token may still change.

    Args:
        decode: tokens -> text.
        stop: texts at which the answer ends.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._tokens: list[int] = []
        self._context = self._read = 0  # tokens before `_read` are written; those from `_context` on go along
        self._held = ""  # may be the beginning of a stop text
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that is certain now."""
        self._tokens.append(token)
        before = self._decode(self._tokens[self._context : self._read])
        now = self._decode(self._tokens[self._context :])
        if len(now) <= len(before) or now.endswith(_UNFINISHED):
            return ""
        self._context, self._read = self._read, len(self._tokens)
        return self._release(now[len(before) :], last=False)

    def end(self) -> str:
        """What is left when no token follows."""
        before = self._decode(self._tokens[self._context : self._read])
        rest = self._decode(self._tokens[self._context :])[len(before) :]
        self._context = self._read = len(self._tokens)
        return self._release(rest, last=True)

    def _release(self, text: str, *, last: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        self._held = ""
        places = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if places:
            self.stopped = True
            return text[: min(places)]
        keep = 0 if last else max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that begins ``stop``."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-size:])), 0)
