"""The tasks of the demo: descriptions, inputs and answers written by hand, and the rules by which answers are judged.

Level 6. This file knows no models: it reads ``tasks.yaml`` and says whether an answer is right.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import resources
from random import Random
from typing import Any

CHECKS = {
    "same": "equal to a stated answer, but for case, spaces, enclosing quotation marks and a final full stop",
    "exact": "equal to a stated answer, character for character",
    "words": "holds the words of a stated answer",
    "json": "JSON with the stated content",
}
"""How an answer may be judged, in words."""

_QUOTES = "\"'`“”‘’«»"
_ENDINGS = "s|es|d|ed|ing|led|ling|lation"  # of a word that counts in whatever form it stands


@dataclass(frozen=True)
class DemoExample:
    """An input, and the answers that are right."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class DemoTask:
    """A task of the demo.

    Args:
        name: a few words for a table.
        kind: which tasks it is like; a screen shows one task a kind.
        description: what the adapter is made from.
        check: one of `CHECKS`.
        examples: three of them.
        longest: words that a right answer has at most; None for any number.
        ends: what a right answer ends with.
    """

    name: str
    kind: str
    description: str
    check: str
    examples: tuple[DemoExample, ...]
    longest: int | None = None
    ends: str = ""

    @property
    def rule(self) -> str:
        """How answers are judged, in words."""
        limits = ([f"at most {self.longest} words"] if self.longest else []) + (
            [f"ends with '{self.ends}'"] if self.ends else []
        )
        return ", ".join([CHECKS[self.check], *limits])

    def is_right(self, answer: str, example: DemoExample) -> bool:
        """Whether an answer keeps to the task's rule."""
        if self.longest is not None and len(answer.split()) > self.longest:
            return False
        if not answer.rstrip().endswith(self.ends):
            return False
        return any(_matches(self.check, answer, wanted, example.text) for wanted in example.answers)

    def mentions(self, answer: str, example: DemoExample) -> bool:
        """Whether an answer is right, or says the right thing in other words around it.

        For `CHECKS` that ask for equality alone: a right answer stands in it, and no other example's answer does.
        """
        if self.is_right(answer, example) or self.check not in ("same", "exact"):
            return self.is_right(answer, example)
        own = {normalised(wanted) for wanted in example.answers}
        others = {normalised(wanted) for other in self.examples for wanted in other.answers} - own
        return any(_stands_in(wanted, answer) for wanted in own) and not any(_stands_in(o, answer) for o in others)

    def wanted(self, example: DemoExample) -> str:
        """A right answer, for a person whose adapter gave a wrong one."""
        return f"should hold: {example.answers[0]}" if self.check == "words" else f"should be {example.answers[0]}"


@cache
def demo_tasks() -> tuple[DemoTask, ...]:
    """Every task, in the order of the file."""
    import yaml

    text = (resources.files("t2l.demo") / "tasks.yaml").read_text(encoding="utf-8")
    return tuple(_task(record) for record in yaml.safe_load(text))


def normalised(text: str) -> str:
    """A text without what a check of kind ``same`` does not count."""
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    while text and text != (bare := text.strip(_QUOTES).removesuffix(".").strip()):
        text = bare
    return text.casefold()


def tasks_digest() -> str:
    """SHA-256 of the file of tasks, so that a measurement can name what was measured."""
    return sha256((resources.files("t2l.demo") / "tasks.yaml").read_bytes()).hexdigest()


def chosen(seed: int, count: int) -> list[DemoTask]:
    """Tasks drawn by a seed, one of each kind before a second of any, in the order of the file."""
    rng = Random(f"demo/{seed}")
    tasks = list(demo_tasks())
    rng.shuffle(tasks)
    turns = sorted(tasks, key=lambda task: [other for other in tasks if other.kind == task.kind].index(task))
    picked = turns[:count]
    return [task for task in demo_tasks() if task in picked]


def _task(record: dict[str, Any]) -> DemoTask:
    examples = tuple(DemoExample(one["input"], tuple(one["answers"])) for one in record["examples"])
    return DemoTask(**{**record, "examples": examples})


def _stands_in(wanted: str, answer: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", normalised(answer)) is not None


def _matches(check: str, answer: str, wanted: str, text: str) -> bool:
    if check == "exact":
        return answer.strip() == wanted
    if check == "same":
        return normalised(answer) == normalised(wanted)
    if check == "json":
        try:
            return bool(json.loads(answer) == json.loads(wanted))
        except (ValueError, RecursionError):
            return False
    if normalised(answer) == normalised(text):  # an echo holds every word
        return False
    return all(re.search(rf"\b{re.escape(word)}(?:{_ENDINGS})?\b", answer, re.IGNORECASE) for word in wanted.split())
