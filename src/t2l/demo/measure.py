"""Puts the demo's tasks to a base with and without adapters, counts right answers, and keeps the counts of all tasks.

Level 6. All tasks together take minutes, so they are measured once (``t2l demo --all --keep``) and lie beside
the checkpoint, with digests of what they were measured on: for another checkpoint or other tasks they do not count.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2l.adapter import Adapter
from t2l.bases import Base
from t2l.comparison import ROWS, Compared, compare
from t2l.demo.tasks import DemoTask, chosen, demo_tasks, tasks_digest
from t2l.errors import CheckpointError, T2LError
from t2l.guidance.guide import Confidence, Guide, is_calibrated
from t2l.model import TextToLora
from t2l.storage import read_json, write_json

RECORD_FILE = "demo.json"
MAX_NEW_TOKENS = 32
_AT_ONCE = 10  # tasks whose inputs share batches
_SEEDS = 100  # looked at for a representative one
_KIND, _FORMAT = "t2l-demo", 1


@dataclass(frozen=True)
class TaskOutcome:
    """What came of one task.

    Args:
        task: of the demo.
        milliseconds: what its adapter took, from the description; of tasks taken together, their mean.
        compared: the answers to its examples, in order.
        confidence: None where the checkpoint is not calibrated.
    """

    task: DemoTask
    milliseconds: float
    compared: tuple[Compared, ...]
    confidence: Confidence | None

    def right(self, row: str) -> list[bool]:
        """Whether each answer of one of `ROWS` is right."""
        pairs = zip(self.compared, self.task.examples, strict=True)
        return [self.task.is_right(one.answer(row), example) for one, example in pairs]

    def mentioned(self, row: str) -> list[bool]:
        """As `right`, where a right answer inside a sentence counts as well."""
        pairs = zip(self.compared, self.task.examples, strict=True)
        return [self.task.mentions(one.answer(row), example) for one, example in pairs]


class Session:
    """A checkpoint and the base that it is for, ready to try tasks.

    Args:
        t2l: makes the adapters; one is made at once, so that none of those that are timed is the first.
        base: gives the answers.
    """

    def __init__(self, t2l: TextToLora, base: Base) -> None:
        self.t2l, self.base = t2l, base
        t2l.spec.check_base(base.model)
        self.guide = _guide(t2l)
        t2l.generate(["warm up"])

    def generate(self, descriptions: Sequence[str]) -> tuple[list[Adapter], float]:
        """Adapters, and the milliseconds that each took on average.

        Raises:
            DescriptionError: a description that cannot be used.
        """
        start = time.perf_counter()
        adapters = self.t2l.generate(descriptions)
        return adapters, 1000 * (time.perf_counter() - start) / len(descriptions)

    def confidence(self, descriptions: Sequence[str]) -> list[Confidence | None]:
        """How far each description is to be trusted; None where that is not known."""
        if self.guide is None:
            return [None] * len(descriptions)
        return list(self.guide.assess(descriptions))

    def answers(self, description: str, adapter: Adapter, inputs: Sequence[str]) -> list[Compared]:
        """Three answers to each input.

        Raises:
            T2LError: an input that is empty or too long for the base.
        """
        asked = [(0, text) for text in inputs]
        return compare(self.base, [adapter], [description], asked, max_new_tokens=MAX_NEW_TOKENS)

    def try_tasks(self, tasks: Sequence[DemoTask]) -> list[TaskOutcome]:
        """What comes of some tasks, whose inputs share batches."""
        descriptions = [task.description for task in tasks]
        adapters, milliseconds = self.generate(descriptions)
        confidences = self.confidence(descriptions)
        asked = [(row, example.text) for row, task in enumerate(tasks) for example in task.examples]
        compared = iter(compare(self.base, adapters, descriptions, asked, max_new_tokens=MAX_NEW_TOKENS))
        answers = [tuple(next(compared) for _ in task.examples) for task in tasks]
        rows = zip(tasks, answers, confidences, strict=True)
        return [TaskOutcome(task, milliseconds, own, confidence) for task, own, confidence in rows]

    def try_all(self) -> Iterator[TaskOutcome]:
        """What comes of every task of the demo, a few at a time."""
        tasks = demo_tasks()
        for start in range(0, len(tasks), _AT_ONCE):
            yield from self.try_tasks(tasks[start : start + _AT_ONCE])


def record(session: Session, outcomes: Sequence[TaskOutcome]) -> dict[str, Any]:
    """All that was measured, as JSON values, with digests of what it was measured on."""
    return {
        "kind": _KIND,
        "format": _FORMAT,
        "checkpoint": session.t2l.digest,
        "tasks_digest": tasks_digest(),
        "base": session.base.name,
        "weights": session.base.weights,
        "inputs": sum(len(outcome.compared) for outcome in outcomes),
        "right": {row: sum(sum(outcome.right(row)) for outcome in outcomes) for row in ROWS},
        "mentioned": {row: sum(sum(outcome.mentioned(row)) for outcome in outcomes) for row in ROWS},
        "tasks": [_task_record(outcome) for outcome in outcomes],
    }


def keep(session: Session, measured: dict[str, Any]) -> Path:
    """Writes a record of all tasks beside the checkpoint.

    Raises:
        T2LError: the checkpoint was not read from a folder.
        OutputError: its folder cannot be written.
    """
    if session.t2l.folder is None:
        raise T2LError("The checkpoint was not read from a folder, so nothing can be kept beside it.")
    write_json(session.t2l.folder / RECORD_FILE, measured)
    return session.t2l.folder / RECORD_FILE


def kept(t2l: TextToLora, base: Base) -> dict[str, Any] | None:
    """The counts of all tasks beside the checkpoint; None where there are none of this very checkpoint and tasks."""
    folder = t2l.folder
    if folder is None or not (folder / RECORD_FILE).is_file():
        return None
    try:
        found = read_json(folder / RECORD_FILE, CheckpointError)
    except CheckpointError:
        return None
    expected = {
        "kind": _KIND,
        "format": _FORMAT,
        "checkpoint": t2l.digest,
        "tasks_digest": tasks_digest(),
        "base": base.name,
        "weights": base.weights,
    }
    return found if all(found.get(key) == value for key, value in expected.items()) else None


def representative_seed(measured: dict[str, Any] | None, count: int) -> int:
    """The first seed whose ``count`` tasks are right as often as all tasks are; 0 where nothing was measured."""
    if measured is None:
        return 0
    right = {task["name"]: task["right"]["adapter"] for task in measured["tasks"]}
    mean = measured["right"]["adapter"] / len(right)
    gaps = [abs(sum(right[task.name] for task in chosen(seed, count)) - count * mean) for seed in range(_SEEDS)]
    return next(seed for seed, gap in enumerate(gaps) if gap <= 0.5 or gap == min(gaps))


def _guide(t2l: TextToLora) -> Guide | None:
    """None where the checkpoint has no calibration, or one that is not its own."""
    try:
        return Guide.of(t2l) if is_calibrated(t2l) else None
    except CheckpointError:
        return None


def _task_record(outcome: TaskOutcome) -> dict[str, Any]:
    return {
        "name": outcome.task.name,
        "kind": outcome.task.kind,
        "description": outcome.task.description,
        "rule": outcome.task.rule,
        "confidence": None if outcome.confidence is None else round(outcome.confidence.value, 4),
        "right": {row: sum(outcome.right(row)) for row in ROWS},
        "examples": [
            {"input": one.text, "answers": list(example.answers), **{row: one.answer(row) for row in ROWS}}
            for one, example in zip(outcome.compared, outcome.task.examples, strict=True)
        ],
    }
