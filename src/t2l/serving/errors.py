"""Errors of a request, in words for its sender.

Level 5. This file knows no HTTP: which status an error becomes is said in ``openai_schema.py``.
"""

from __future__ import annotations

from t2l.errors import T2LError


class RequestError(T2LError):
    """A request that cannot be carried out as it stands. ``field`` names the part of it that is at fault."""

    def __init__(self, message: str, fix: str | None = None, *, field: str | None = None) -> None:
        super().__init__(message, fix)
        self.field = field


class PromptTooLongError(RequestError):
    """The prompt and the tokens that may follow do not fit into the context."""


class UnknownModelError(T2LError):
    """Neither the base nor an adapter that is kept has this name."""


class BusyError(T2LError):
    """Too much is waiting already; ``retry_after_s`` says when to try again."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message, "Try again a little later.")
        self.retry_after_s = retry_after_s


class OutOfTimeError(T2LError):
    """A request that was not done when its time was up."""


class StoppedError(T2LError):
    """The engine is shutting down."""
