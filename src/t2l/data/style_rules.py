"""What an answer style is, and the functions on answers that styles are made of.

Level 3. This file knows no style (`t2l.data.style_variants`), no task and no file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

EVALUATION_WORDINGS = 2  # the last ones of every style


@dataclass(frozen=True)
class AnswerStyle:
    """A way to write an answer down.

    Args:
        name: unique, part of a variant's name.
        apply: the plain answer -> the styled one; None where it does not fit this answer.
        wordings: sentences that ask for it, before or after a description.
    """

    name: str
    apply: Callable[[str], str | None]
    wordings: tuple[str, ...]

    @property
    def training(self) -> tuple[str, ...]:
        """The wordings to train with."""
        return self.wordings[:-EVALUATION_WORDINGS]

    @property
    def evaluation(self) -> tuple[str, ...]:
        """The wordings kept for evaluation."""
        return self.wordings[-EVALUATION_WORDINGS:]


def style(name: str, apply: Callable[[str], str | None], wordings: str) -> AnswerStyle:
    """A style with its wordings, one a line."""
    return AnswerStyle(name, apply, tuple(line.strip() for line in wordings.strip().splitlines()))


def with_letters(change: Callable[[str], str]) -> Callable[[str], str | None]:
    """The change, for answers that hold a letter."""
    return lambda answer: change(answer) if any(letter.isalpha() for letter in answer) else None


def of_words(change: Callable[[list[str]], str], least: int = 2) -> Callable[[str], str | None]:
    """A change of the list of words, for answers of at least so many."""

    def apply(answer: str) -> str | None:
        words = answer.split()
        return change(words) if len(words) >= least else None

    return apply


def one_word(change: Callable[[str], str], longest: int = 12) -> Callable[[str], str | None]:
    """A change of a single word; longer answers do not fit."""

    def apply(answer: str) -> str | None:
        word = answer.strip().removesuffix(".")
        return change(word) if 1 < len(word) <= longest and not word.count(" ") else None

    return apply


def ended(end: str) -> Callable[[str], str | None]:
    """The answer with another end, where it does not have it yet."""
    return lambda answer: None if answer.rstrip()[-1:] in tuple(end) else answer.rstrip(" .") + end
