"""Descriptions to begin with: what the checkpoint does well, by what was measured, and what it does not.

Level 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from t2l.bases import EMBEDDED_BASE
from t2l.demo.gallery import gallery as measured_gallery
from t2l.demo.gallery import shipped_record
from t2l.model import TextToLora


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


def gallery(t2l: TextToLora) -> Sequence[Example]:
    """Examples that suit a checkpoint: those of the demo with their scores, where they were measured on it."""
    record = shipped_record()
    if record is not None and record["checkpoint"] == t2l.digest:
        works, fails = measured_gallery(record)
        return [*(_measured(task) for task in works), *(_measured(task, "fails, ") for task in fails)]
    return _EMBEDDED if t2l.spec.base_model == EMBEDDED_BASE else _ANY


def _measured(task: dict[str, Any], word: str = "") -> Example:
    examples = task["examples"]
    title = f"{task['name'][0].upper()}{task['name'][1:]} ({word}{task['right']['adapter']} of {len(examples)})"
    return Example(title, task["description"], examples[0]["input"])
