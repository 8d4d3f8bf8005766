"""The micro-tasks of the embedded world: an operation with an answer style, in one of five splits.

    train               the hypernetwork learns from these
    validation          held out on the training side, to choose settings and checkpoints
    unseen-combination  operation and style each seen in training, never together
    unseen-operation    never seen in any style, but with neighbours that differ from it in one aspect
    far                 nothing like it in training

Splits concern the hypernetwork. The base saw every skill in pretraining, as a real model would (see `lab.world.base`).
This file knows no descriptions (`lab.world.wording`) and no models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import islice
from random import Random
from typing import Literal

from lab.world.operations import arithmetic, classify, convert, extract, lexicon, selection
from lab.world.operations.operation import MAX_OUTPUT_CHARS, Operation
from lab.world.styles import PLAIN, STYLES, Style
from t2l.errors import T2LError, did_you_mean

Split = Literal["train", "validation", "unseen-combination", "unseen-operation", "far"]
SPLITS: tuple[Split, ...] = ("train", "validation", "unseen-combination", "unseen-operation", "far")
NEAR: tuple[Split, ...] = ("unseen-combination", "unseen-operation")
Part = Literal["train", "evaluation"]

OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for family in (selection, lexicon, classify, extract, convert, arithmetic)
    for operation in family.OPERATIONS
}

UNSEEN_OPERATIONS: tuple[str, ...] = (
    "give-next-to-last-word",
    "give-last-two-digit",
    "drop-second-item",
    "drop-first-two-letter",
    "capitalize-third-word",
    "double-last-letter",
    "mask-second-digit",
    "front-third-item",
    "back-second-letter",
    "reverse-last-item",
    "add-7",
    "subtract-3",
    "multiply-4",
    "purchase-city",
    "date-month",
    "record-surname",
    "words-to-kebab",
    "list-to-semicolons",
    "previous-month",
    "english-to-italian",
)
FAR_OPERATIONS: tuple[str, ...] = (
    "is-palindrome",
    "sentiment",
    "element-symbol",
    "sort-letters",
    "minutes-to-hours",
    "thing-color",
    "hot-or-cold",
    "language",
    "formal-or-casual",
    "animal-sound",
)
VALIDATION_OPERATIONS: tuple[str, ...] = (
    "give-third-item",
    "drop-last-letter",
    "back-first-word",
    "capitalize-second-letter",
    "add-4",
    "purchase-day",
    "list-to-dashes",
    "english-to-dutch",
)
_PRETRAINING_SHARES = {  # knowledge tables take more repetition per operation than rules
    "selection": 0.42,
    "lexicon": 0.20,
    "arithmetic": 0.12,
    "convert": 0.11,
    "extract": 0.08,
    "classify": 0.07,
}
_STYLED_TASKS = 240
_UNSEEN_COMBINATIONS = 20
_VALIDATION_COMBINATIONS = 8
_EVALUATION_SHARE = 5  # one input in five is kept for evaluation


@dataclass(frozen=True)
class MicroTask:
    """An operation with an answer style; an unlimited, seeded source of examples.

    Example:
        >>> task = find_task("give-last-word+twice")
        >>> question, answer = task.examples(1, seed=0)[0]
        >>> answer == " ".join([question.split()[-1]] * 2)
        True
    """

    operation: Operation
    style: Style
    split: Split

    @property
    def name(self) -> str:
        """``"give-last-word"``, or ``"give-last-word+brackets"`` with a style."""
        return self.operation.name if self.style is PLAIN else f"{self.operation.name}+{self.style.name}"

    @property
    def family(self) -> str:
        """The operation's family: selection, lexicon, classify, extract, convert or arithmetic."""
        return self.operation.family

    def draw(self, rng: Random) -> tuple[str, str]:
        """One (input, output) pair, of either part."""
        question, answer = self.operation.draw(rng)
        return question, self.style.apply(answer)

    def stream(self, rng: Random, part: Part) -> Iterator[tuple[str, str]]:
        """Endless examples whose inputs belong to one part; no input is ever in both parts."""
        while True:
            question, answer = self.draw(rng)
            if part_of(self.operation.name, question) == part:
                yield question, answer

    def examples(self, n: int, *, seed: int, part: Part = "evaluation") -> list[tuple[str, str]]:
        """``n`` examples, the same for the same seed."""
        return list(islice(self.stream(Random(f"{self.name}/{part}/{seed}"), part), n))


def part_of(operation: str, question: str) -> Part:
    """Whether an input is for training or for evaluation: a fixed fifth of all inputs, by digest."""
    digest = blake2b(f"{operation}\0{question}".encode(), digest_size=4).digest()
    return "evaluation" if int.from_bytes(digest, "big") % _EVALUATION_SHARE == 0 else "train"


@cache
def all_tasks() -> tuple[MicroTask, ...]:
    """Every task of the world, in a fixed order."""
    held_out: dict[str, Split] = {
        **dict.fromkeys(UNSEEN_OPERATIONS, "unseen-operation"),
        **dict.fromkeys(FAR_OPERATIONS, "far"),
        **dict.fromkeys(VALIDATION_OPERATIONS, "validation"),
    }
    tasks = [MicroTask(operation, PLAIN, held_out.get(name, "train")) for name, operation in OPERATIONS.items()]
    rng = Random("styled tasks")
    pairs = [
        (operation, style)
        for name, operation in OPERATIONS.items()
        if name not in held_out
        for style in STYLES.values()
        if style is not PLAIN and _fits(operation, style)
    ]
    rng.shuffle(pairs)
    reserved = _UNSEEN_COMBINATIONS + _VALIDATION_COMBINATIONS
    for index, (operation, style) in enumerate(pairs[: reserved + _STYLED_TASKS]):
        split: Split = "train"
        if index < _UNSEEN_COMBINATIONS:
            split = "unseen-combination"
        elif index < reserved:
            split = "validation"
        tasks.append(MicroTask(operation, style, split))
    return tuple(tasks)


def tasks_of(*splits: Split) -> list[MicroTask]:
    """The tasks of some splits."""
    return [task for task in all_tasks() if task.split in splits]


def find_task(name: str) -> MicroTask:
    """The task called ``name``; an unknown one is a `T2LError` with near names."""
    for task in all_tasks():
        if task.name == name:
            return task
    raise T2LError(f"No task is called '{name}'.", did_you_mean(name, (task.name for task in all_tasks())))


def pretraining_draw(rng: Random) -> Iterator[tuple[str, str]]:
    """Endless examples of one task for the base: any operation, held out or not, plain or in a style that fits.

    Of knowledge tables and sums the base sees every row, or it could not know them; of everything else only the
    training part of the inputs.
    """
    (family,) = rng.choices(list(_PRETRAINING_SHARES), list(_PRETRAINING_SHARES.values()))
    operation = rng.choice(_operations_of(family))
    styles = [style for style in STYLES.values() if _fits(operation, style)]
    style = PLAIN if rng.random() < 0.6 else rng.choice(styles)
    task = MicroTask(operation, style, "train")
    if operation.closed or operation.family == "arithmetic":
        while True:
            yield task.draw(rng)
    yield from task.stream(rng, "train")


@cache
def _operations_of(family: str) -> tuple[Operation, ...]:
    return tuple(operation for operation in OPERATIONS.values() if operation.family == family)


@cache
def _fits(operation: Operation, style: Style) -> bool:
    """Whether the styled answer stays short and differs from the plain one."""
    rng = Random(f"fits/{operation.name}/{style.name}")
    answers = [operation.draw(rng)[1] for _ in range(40)]
    letters = sum(answer != answer.upper() for answer in answers) >= 30
    short = max(len(style.apply(answer)) for answer in answers) <= MAX_OUTPUT_CHARS
    return style is PLAIN or (short and (letters or not style.needs_letters))
