"""Descriptions to begin with: some the embedded world does well, one that is too vague to do anything.

Level 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from t2l.bases import EMBEDDED_BASE


@dataclass(frozen=True)
class Example:
    """A description, an input for it, and the few words that name it."""

    title: str
    description: str
    text: str


_EMBEDDED = (
    Example("Add 3", "Add 3 to the number.", "14"),
    Example("German", "Translate the English word into German.", "dog"),
    Example("Plural", "Give the plural of the noun.", "child"),
    Example("Capital city", "Name the capital of the country.", "France"),
    Example("Past tense", "Give the past tense of the verb.", "go"),
    Example("Spell it", "Spell the word with dashes between the letters.", "lamp"),
    Example("Next ten", "Round the number up to the next ten.", "87"),
    Example("Vowel?", "Say whether the word starts with a vowel.", "apple"),
    Example("Too vague", "Make it nice.", "red green blue"),
)
_ANY = (
    Example("Sentiment", "Say whether the review is positive or negative. Answer in one word.", "The food was cold."),
    Example("Entity", "Name the person that the sentence is about.", "In 1903 Marie Curie won the Nobel prize."),
    Example("Arithmetic", "Solve the word problem step by step.", "Ana has 3 bags of 12 apples and eats 5. How many?"),
    Example("Too vague", "Make it nice.", "The food was cold."),
)


def gallery(base: str | None) -> Sequence[Example]:
    """Examples that suit a base."""
    return _EMBEDDED if base == EMBEDDED_BASE else _ANY
