"""One operation of the embedded world: what it is called and how an example of it is drawn.

This file knows nothing of styles, descriptions, splits or models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

MAX_INPUT_CHARS = 44
MAX_OUTPUT_CHARS = 30


@dataclass(frozen=True)
class Operation:
    """A skill the tiny base learns from examples: a name and a generator of (input, output) pairs.

    Args:
        name: unique, in kebab case (``"antonym"``, ``"give-first-word"``).
        family: the name of the wording file that holds its phrases (``"lexicon"``).
        draw: takes a seeded generator, returns one (input, output) pair of printable ASCII without
            newline or ``>``; at most 44 and 30 characters.
        reveals: whether the input alone half-reveals the task (a sentence, a date, key=value), so that one
            static adapter is a strong baseline there.
        closed: whether the inputs are a finite table of knowledge (capitals, antonyms): the base must have
            seen every row to know it, as a pretrained model would have.
    """

    name: str
    family: str
    draw: Callable[[Random], tuple[str, str]]
    reveals: bool = False
    closed: bool = False

    @classmethod
    def table(cls, name: str, family: str, rows: Mapping[str, str], reveals: bool = False) -> Operation:
        """An operation that looks its answer up: one example is one row, drawn uniformly."""
        pairs = tuple(rows.items())
        return cls(name, family, lambda rng: rng.choice(pairs), reveals=reveals, closed=True)
