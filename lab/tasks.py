"""An everyday task: what it is called, how examples are drawn, how people ask for it, and the split it is in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Literal

from t2l.data.sources import Instance
from t2l.demo.tasks import demo_tasks

Split = Literal["train", "validation", "exam"]
Draw = Callable[[Random], tuple[str, str | Sequence[str]]]
PREFIX = "everyday_"


@dataclass(frozen=True)
class EverydayTask:
    """A task of everyday life.

    Args:
        name: unique, without the prefix.
        family: what it is about; another task's description is better taken from another family.
        definition: one full wording.
        descriptions: wordings to train with (of a held-out task: to evaluate with).
        evaluation: wordings kept for evaluation.
        draw: one input with its answer, or with all answers that are right.
        split: exam and validation hold operations that no training task has under another name.
    """

    name: str
    family: str
    definition: str
    descriptions: tuple[str, ...]
    draw: Draw
    evaluation: tuple[str, ...] = ()
    split: Split = "train"

    def instances(self, number: int, seed: int) -> list[Instance]:
        """Up to ``number`` different examples; fewer where the task has fewer. The same for the same seed."""
        rng = Random(f"{seed}/{self.name}")
        found: dict[str, Instance] = {}
        for _ in range(number * 20):
            question, answer = self.draw(rng)
            if bare(question) in reserved_inputs():
                continue
            answers = (answer,) if isinstance(answer, str) else tuple(answer)
            found.setdefault(question, Instance(question, answers))
            if len(found) == number:
                break
        return list(found.values())


def bare(text: str) -> str:
    """The letters and digits of a text, without case."""
    return "".join(letter for letter in text.casefold() if letter.isalnum())


@cache
def reserved_inputs() -> frozenset[str]:
    """Inputs that the demo shows, bare: no task draws them."""
    return frozenset(bare(example.text) for task in demo_tasks() for example in task.examples)


class Catalogue:
    """Everyday tasks, written one after the other."""

    def __init__(self) -> None:
        self.tasks: list[EverydayTask] = []

    def task(self, name: str, family: str, wordings: str, split: Split = "train") -> Callable[[Draw], Draw]:
        """A decorator for the function that draws examples.

        Args:
            wordings: one a line; the first is the definition, the last two are kept for evaluation of training tasks.
        """

        def register(draw: Draw) -> Draw:
            lines = tuple(line.strip() for line in wordings.strip().splitlines() if line.strip())
            told, kept = (lines[:-2], lines[-2:]) if split == "train" else (lines, ())
            self.tasks.append(EverydayTask(name, family, lines[0], told, draw, kept, split))
            return draw

        return register

    def table(self, name: str, family: str, wordings: str, pairs: Mapping[str, str], split: Split = "train") -> None:
        """A task that looks its answer up."""
        entries = tuple(pairs.items())
        self.task(name, family, wordings, split)(lambda rng: rng.choice(entries))

    def labels(
        self, name: str, family: str, wordings: str, groups: Mapping[str, Sequence[str]], split: Split = "train"
    ) -> None:
        """A task that sorts inputs into groups; all groups are drawn equally often."""
        names = tuple(groups)

        def draw(rng: Random) -> tuple[str, str]:
            label = rng.choice(names)
            return rng.choice(groups[label]), label

        self.task(name, family, wordings, split)(draw)
