"""Errors for people: what is wrong, the values, the rule, and the command that fixes it.

Level 0: imports nothing of t2l. The command line prints one of these as a sentence; Python users catch `T2LError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class T2LError(ValueError):
    """Something the user gave cannot be used. ``fix`` says what to do about it, where that is known."""

    def __init__(self, message: str, fix: str | None = None) -> None:
        super().__init__(message if fix is None else f"{message}\n{fix}")
        self.message = message
        self.fix = fix


class DescriptionError(T2LError):
    """A task description (or a file of them) that cannot be encoded."""


class DescriptionWarning(UserWarning):
    """Task descriptions of which a part is not read.

    Args:
        unread: description -> (its tokens, those that the encoder reads); at least one.
    """

    def __init__(self, unread: Mapping[str, tuple[int, int]]) -> None:
        self.unread = dict(unread)
        text, (tokens, window) = max(self.unread.items(), key=lambda item: item[1][0])
        part = f"the last {100 * (tokens - window) / tokens:.0f}% is not seen"
        if len(self.unread) == 1:
            told = (
                f"The description '{text[:40]}...' has {tokens} tokens; the encoder reads {window} of them, so {part}."
            )
            super().__init__(f"{told} Shorten it or put what matters first.")
        else:
            told = f"{len(self.unread):,} descriptions are longer than the {window} tokens that the encoder reads."
            told = f"{told} Of the longest, '{text[:40]}...', {part}."
            super().__init__(f"{told} Shorten them or put what matters first.")


class EncoderError(T2LError):
    """A description encoder that is unknown, cannot be loaded, or requires trust_remote_code."""


class CheckpointError(T2LError):
    """A hypernetwork checkpoint that is missing, damaged, foreign or unsafe to read."""


class AdapterError(T2LError):
    """An adapter folder that is missing, damaged or of another kind."""


class UnsupportedAdapterError(AdapterError):
    """A whole adapter of PEFT's, of a kind other than plain LoRA of one rank on linear modules of the layers."""


class BaseModelError(T2LError):
    """A base model that cannot be found, or whose shapes do not fit."""


class RecipeError(T2LError):
    """A training recipe that does not exist, or a key or value in it that is not right."""


class DataError(T2LError):
    """Training data that cannot be found, read or used."""


class TrainingStopped(T2LError):
    """A training run was asked to stop (SIGTERM, Ctrl-C) and has saved its state.

    Args:
        done: steps that were made.
        steps: of the whole run.
    """

    def __init__(self, done: int, steps: int) -> None:
        super().__init__(f"Stopped after step {done} of {steps}; the same command goes on from there.")


class OutputError(T2LError):
    """A result that cannot be written where it was asked for."""


def did_you_mean(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Names the nearest known names, or lists the first few: ``"Did you mean 'q_proj' or 'k_proj'?"``."""
    known = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, known, n=limit, cutoff=0.5)
    if near:
        return "Did you mean " + " or ".join(f"'{n}'" for n in near) + "?"
    if not known:
        return ""
    shown = ", ".join(f"'{n}'" for n in known[:12])
    return f"Known: {shown}{', ...' if len(known) > 12 else ''}."


def bullets(items: Iterable[str], most: int) -> str:
    """A line for each of the first few items, and how many more there are; begins with a line break."""
    items = list(items)
    more = [f"and {len(items) - most} more"] if len(items) > most else []
    return "".join(f"\n  - {item}" for item in [*items[:most], *more])
