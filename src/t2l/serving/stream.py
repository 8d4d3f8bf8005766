"""A request's output as it is decoded: written by the engine's thread, read by another thread or an event loop.

Level 5. A reader that is slow holds nobody up: what it has not read yet waits here, and is no longer than its answer.
This file knows one answer and a function that decodes tokens; no model and no scheduler.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a decoder gives for the first bytes of a longer character


@dataclass(frozen=True)
class Completion:
    """A whole answer.

    Args:
        text: without the stop text or the token that ended it.
        tokens: what the model gave, the end token left out.
        finish_reason: ``"stop"`` for an end token or a stop text, ``"length"`` where max_tokens was reached.
        prompt_tokens: how long the prompt was.
        completion_tokens: how many tokens were computed, the end token counted.
        first_token_s: seconds from the request to its first token.
        total_s: seconds from the request to its end.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    first_token_s: float
    total_s: float


class Stream:
    """The answer to one request. Read it once: `pieces`, ``async`` `apieces`, or wait for `result` or `aresult`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._texts: deque[str] = deque()
        self._completion: Completion | None = None
        self._error: Exception | None = None
        self._wake: Callable[[], None] | None = None
        self.cancelled = False

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self._completion is not None or self._error is not None

    def cancel(self) -> None:
        """Nobody waits for the answer any more; its slot is freed before the next pass."""
        self.cancelled = True

    def write(self, text: str) -> None:
        """More of the answer."""
        if text:
            self._put(lambda: self._texts.append(text))

    def finish(self, completion: Completion) -> None:
        """The end of the answer."""

        def put() -> None:
            self._completion = completion

        self._put(put)

    def fail(self, error: Exception) -> None:
        """The end, because of an error that the reader will get."""

        def put() -> None:
            self._error = error

        self._put(put)

    def pieces(self) -> Iterator[str]:
        """The text as it comes. Leaving early cancels the request."""
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._texts or self.done)
                    texts, done = list(self._texts), self.done
                    self._texts.clear()
                yield from texts
                if done:
                    self._outcome()
                    return
        finally:
            self._leave()

    def result(self, timeout: float | None = None) -> Completion:
        """The whole answer, when it is there; `TimeoutError` and a cancelled request after ``timeout`` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.done, timeout):
                self.cancel()
                raise TimeoutError(f"no answer within {timeout} s")
        return self._outcome()

    async def apieces(self) -> AsyncIterator[str]:
        """As `pieces`, on an event loop."""
        loop, ready = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(ready.set)

        try:
            with self._changed:
                self._wake = wake
            while True:
                ready.clear()
                with self._changed:
                    texts, done = list(self._texts), self.done
                    self._texts.clear()
                for text in texts:
                    yield text
                if done:
                    self._outcome()
                    return
                await ready.wait()
        finally:
            self._leave()

    async def aresult(self) -> Completion:
        """As `result`, on an event loop."""
        async for _ in self.apieces():
            pass
        return self._outcome()

    def _outcome(self) -> Completion:
        if self._error is not None:
            raise self._error
        assert self._completion is not None
        return self._completion

    def _leave(self) -> None:
        if not self.done:
            self.cancel()

    def _put(self, change: Callable[[], object]) -> None:
        with self._changed:
            if not self.done:
                change()
            wake = self._wake
            self._changed.notify_all()
        if wake is not None:
            wake()


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
