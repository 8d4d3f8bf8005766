"""The request for descriptions of a task, and which of the descriptions in the answer are kept.

Level 3. The styles differ in person, length, order and register, because a hypernetwork that has seen one wording of a
task learns that wording. A description is omitted where it gives an answer away, quotes an example, or says what
another says. This file sends no request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from random import Random

from t2l.data.sources import Instance, Task

STYLES = {
    "imperative": "a direct order in one sentence, beginning with a verb",
    "second-person": "two or three sentences that tell 'you' what will be given and what to do with it",
    "input-output": "first what comes in, then what has to come out, without addressing anyone",
    "goal": "what the result is good for, and what makes a good result",
    "skill": "which knowledge or ability is needed, and on what it is used",
    "everyday": "the plain words of somebody who asks a colleague for a favour",
    "formal": "one long sentence in the register of a specification",
    "terse": "at most twelve words",
}
"""Style -> how it is asked for."""

_EXAMPLES_SHOWN = 5
_EXAMPLE_CHARS = 600
_WORD = re.compile(r"\w+")
_SPOKEN_OF = re.compile(r"\b(?:the|these|this|above|given|provided|following) examples?\b|\bexample \d", re.IGNORECASE)
_REFUSAL = re.compile(r"^(?:sorry|i'm sorry|i am sorry|i cannot|i can't|as an ai)\b", re.IGNORECASE)
_QUOTED_RUN = 5  # words in a row that a description may not share with an example
_OPEN_ENDED = 20  # distinct outputs from which on an output is an answer, not a label
_SIMILAR = 0.6  # Jaccard index of 4-letter runs
_WORDS = (3, 120)


def question(task: Task, style: str, number: int, seed: int) -> tuple[str, tuple[Instance, ...]]:
    """The text that asks for ``number`` descriptions, and the examples that it shows."""
    rng = Random(seed)
    shown = tuple(rng.sample(task.instances, min(_EXAMPLES_SHOWN, len(task.instances))))
    examples = "\n\n".join(f"Input: {_short(example.input)}\nOutput: {_short(example.outputs[0])}" for example in shown)
    definition = f"The task, as its authors define it:\n{task.definition}\n\n" if task.definition else ""
    text = (
        "You write descriptions of tasks. From a description alone, without any example, a system will adapt a "
        f"language model to the task.\n\n{definition}Some of its inputs and outputs:\n{examples}\n\n"
        f"Write {number} descriptions of this task. Each describes the task as a whole, for every input of its kind. "
        f"Style: {STYLES[style]}. Let them differ in verbs, order, length and the form of their sentences. "
        "Quote nothing from the inputs and outputs above, give no answer away, and do not speak of examples.\n\n"
        f"Reply with a JSON array of {number} strings and nothing else."
    )
    return text, shown


def parse(text: str) -> list[str]:
    """The descriptions in an answer: a JSON array, else a line each without its number or bullet."""
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    begin, end = text.find("["), text.rfind("]")
    if 0 <= begin < end:
        try:
            value = json.loads(text[begin : end + 1])
            if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
                return [" ".join(each.split()) for each in value if each.strip()]
        except (ValueError, RecursionError):
            pass
    lines = re.findall(r"^\s*(?:\d+[.):]|[-*•])\s+(.+?)\s*$", text, flags=re.MULTILINE)
    return [" ".join(line.strip().strip('"').split()) for line in lines]


class DescriptionFilter:
    """Keeps the descriptions of one task that say something new and give nothing away.

    Args:
        task: whose descriptions they are.
    """

    def __init__(self, task: Task) -> None:
        self._definition = set(_runs(task.definition, _QUOTED_RUN))
        self._definition_text = _plain(task.definition)
        outputs = {_plain(instance.outputs[0]) for instance in task.instances}
        self._open_ended = len(outputs) > _OPEN_ENDED
        self._kept: list[set[str]] = []

    def refuse(self, text: str, shown: Iterable[Instance] = ()) -> str | None:
        """Why a description is omitted; None keeps it, and later ones are compared with it."""
        words = _WORD.findall(text)
        if not _WORDS[0] <= len(words) <= _WORDS[1]:
            return "too short or too long"
        if _REFUSAL.match(text):
            return "a refusal"
        if _SPOKEN_OF.search(text):
            return "speaks of examples"
        if any(self._leaks(text, example) for example in shown):
            return "leaks an example"
        letters = _plain(text)
        pieces = {letters[place : place + 4] for place in range(max(1, len(letters) - 3))}
        if any(len(pieces & kept) >= _SIMILAR * len(pieces | kept) for kept in self._kept):
            return "nearly the same as another"
        self._kept.append(pieces)
        return None

    def _leaks(self, text: str, example: Instance) -> bool:
        """A run of words of an example that the definition lacks, or a whole answer of an open-ended task."""
        runs = set(_runs(text, _QUOTED_RUN)) - self._definition
        if runs & {run for part in (example.input, *example.outputs) for run in _runs(part, _QUOTED_RUN)}:
            return True
        if not self._open_ended:
            return False
        plain = f" {_plain(text)} "
        answers = {_plain(output) for output in example.outputs}
        return any(
            len(answer) >= 4 and f" {answer} " in plain and f" {answer} " not in f" {self._definition_text} "
            for answer in answers
        )


def _runs(text: str, n: int) -> Sequence[tuple[str, ...]]:
    words = _WORD.findall(text.lower())
    return [tuple(words[place : place + n]) for place in range(len(words) - n + 1)]


def _plain(text: str) -> str:
    return " ".join(_WORD.findall(text.lower()))


def _short(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _EXAMPLE_CHARS else f"{text[:_EXAMPLE_CHARS]} ..."
