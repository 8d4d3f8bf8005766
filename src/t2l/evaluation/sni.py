"""The suite ``sni``: tasks with definitions, as Super-Natural-Instructions keeps them, and the rows of its table.

Level 5. The official protocol: the first 100 instances of a task, one greedy answer each. A row says which adapter
answers (from which text, or a trained one) and whether the prompt holds the definition. This file knows tasks and
texts; it knows no tokenizer, no model and no score beyond what makes a label set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random

from t2l.data.descriptions import DescriptionFile
from t2l.data.prompts import prompt_text
from t2l.data.sources import Instance, Task, open_source, unique
from t2l.errors import DataError, T2LError, did_you_mean
from t2l.evaluation.sni_scores import normalised

INSTANCES = 100
"""Instances of a task in the official evaluation: the first ones."""
MOST_LABELS = 8
"""A task whose references are at most so many different answers is a classification task."""
VAGUE = "Do the task."
STATIC, MULTI_TASK, MULTI_TASK_PROMPT = "static", "multi-task", "multi-task-prompt"


@dataclass(frozen=True)
class SuiteRow:
    """One line of the table.

    Args:
        title: how a table names it.
        needs: "checkpoint", or the option that brings its adapter; empty where the base does.
        included: the prompt holds the task's definition before the input.
    """

    title: str
    needs: str = ""
    included: bool = False


SUITE_ROWS = {
    "base": SuiteRow("base, input alone"),
    "description-in-prompt": SuiteRow("base, definition in the prompt", included=True),
    "t2l": SuiteRow("adapter from the definition", "checkpoint"),
    "paraphrase": SuiteRow("adapter from another description of the task", "checkpoint"),
    "other-task": SuiteRow("adapter from another task's definition", "checkpoint"),
    "vague": SuiteRow(f'adapter from "{VAGUE}"', "checkpoint"),
    "static": SuiteRow("adapter of the mean condition, for all tasks", "checkpoint"),
    "t2l-in-prompt": SuiteRow("adapter from the definition, and the definition in the prompt", "checkpoint", True),
    "copy-input": SuiteRow("the input, copied"),
    "multi-task": SuiteRow("one LoRA trained on many tasks, input alone", "--multi-task"),
    "multi-task-prompt": SuiteRow(
        "one LoRA trained with definitions, definition in the prompt", "--multi-task-prompt", True
    ),
}
"""Row -> what it is, in the order of a table."""


@dataclass(frozen=True)
class SuiteTask:
    """A task of the suite.

    Args:
        name: the stem of its file.
        definition: what describes it.
        instances: those that are asked, the first ones of the file.
        category: the first that the source names; "" where it names none.
        datasets: that it was made from, as the source names them.
        labels: the `normalised` answers of a classification task; empty for any other.
        dropped: instances that cannot be used.
    """

    name: str
    definition: str
    instances: tuple[Instance, ...]
    category: str = ""
    datasets: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()
    dropped: int = 0

    @classmethod
    def of(cls, task: Task, limit: int = INSTANCES) -> SuiteTask:
        """The task with its first ``limit`` instances; whether it is a classification shows in the first 100.

        Raises:
            DataError: it has no definition.
        """
        if not task.definition.strip():
            raise DataError(f"The task '{task.name}' has no definition, so there is nothing to make an adapter from.")
        official = task.instances[:INSTANCES]
        labels = frozenset(normalised(output) for instance in official for output in instance.outputs)
        return cls(
            task.name,
            task.definition.strip(),
            official[: min(limit, INSTANCES)],
            task.categories[0] if task.categories else "",
            task.datasets,
            labels if 1 < len(labels) <= MOST_LABELS else frozenset(),
            sum(task.dropped.values()),
        )

    @property
    def stem(self) -> str:
        """What its name begins with after the number: tasks made from one data set mostly share it."""
        match = re.match(r"task\d+_([A-Za-z]+)", self.name)
        return match.group(1).lower() if match else ""


def load_suite(places: Sequence[Path], limit: int = INSTANCES) -> tuple[list[SuiteTask], str]:
    """The tasks of folders or files in the order of their names, and a digest of what was read.

    Raises:
        DataError: nothing there, a task that cannot be read (none is left out quietly), or one that comes twice.
        T2LError: a limit below 1.
    """
    if limit < 1:
        raise T2LError(f"The limit is {limit} instances a task; it must be at least 1.")
    if not places:
        raise DataError(
            "No folder of tasks was given.",
            "Name it: t2l evaluate --suite sni FOLDER (Super-Natural-Instructions, JSON)",
        )
    sources = unique(source for place in places for source in open_source(place))
    tasks = [SuiteTask.of(source.read(), limit) for source in sources]
    return tasks, sha256("/".join(source.digest() for source in sources).encode()).hexdigest()


def are_siblings(one: SuiteTask, other: SuiteTask) -> bool:
    """Whether a definition of the one says much about the other: equal texts, a shared data set, or one name stem."""
    same_text = normalised(one.definition) == normalised(other.definition)
    shared = {name.lower() for name in one.datasets} & {name.lower() for name in other.datasets}
    return one.name == other.name or same_text or bool(shared) or bool(one.stem and one.stem == other.stem)


def other_task(task: SuiteTask, tasks: Sequence[SuiteTask], seed: int = 0) -> SuiteTask | None:
    """A task drawn from those that are not `are_siblings` of ``task``; None where there is none."""
    rest = [other for other in tasks if not are_siblings(task, other)]
    return Random(f"{task.name}/other-task/{seed}").choice(rest) if rest else None


def paraphrase_of(task: SuiteTask, descriptions: DescriptionFile, seed: int = 0) -> str | None:
    """A description of the task other than its definition: one kept for evaluation where there are such."""
    known = descriptions.of(task.name)
    texts = [] if known is None else list(known.evaluation or known.descriptions)
    texts = [text for text in texts if normalised(text) != normalised(task.definition)]
    return Random(f"{task.name}/paraphrase/{seed}").choice(texts) if texts else None


@dataclass(frozen=True)
class Asked:
    """One answer that is wanted: document ``document`` of a task, in a row.

    Args:
        text: the user's message.
        adapter: the description it is made from, as ("text", DESCRIPTION); ("static", ""), ("multi-task", ""),
            ("multi-task-prompt", ""); None for the base alone.
    """

    row: str
    task: str
    document: int
    text: str
    adapter: tuple[str, str] | None = None


def asked_of(
    row: str,
    tasks: Sequence[SuiteTask],
    inputs: Mapping[str, Sequence[str]],
    *,
    descriptions: DescriptionFile | None = None,
    seed: int = 0,
) -> list[Asked]:
    """Everything that a row is asked; tasks for which it has no adapter are left out.

    Args:
        inputs: of each task, cut where they are too long; the same for every row.
        descriptions: other descriptions, for the row "paraphrase".
    """
    wanted = []
    for task in tasks:
        adapter = _adapter_of(row, task, tasks, descriptions, seed)
        if adapter is None and SUITE_ROWS[row].needs:
            continue
        for document, text in enumerate(inputs[task.name]):
            message = prompt_text(text, task.definition, included=SUITE_ROWS[row].included)
            wanted.append(Asked(row, task.name, document, message, adapter))
    return wanted


def _adapter_of(
    row: str, task: SuiteTask, tasks: Sequence[SuiteTask], descriptions: DescriptionFile | None, seed: int
) -> tuple[str, str] | None:
    if row in (STATIC, MULTI_TASK, MULTI_TASK_PROMPT):
        return row, ""
    if row in ("t2l", "t2l-in-prompt"):
        return "text", task.definition
    if row == "vague":
        return "text", VAGUE
    if row == "other-task":
        other = other_task(task, tasks, seed)
        return None if other is None else ("text", other.definition)
    if row == "paraphrase" and descriptions is not None:
        text = paraphrase_of(task, descriptions, seed)
        return None if text is None else ("text", text)
    return None


def chosen_rows(asked: str | None, available: Mapping[str, bool]) -> list[str]:
    """The rows to measure, in the order of a table: those named, else all whose needs are met.

    Args:
        available: need -> whether it is met.

    Raises:
        T2LError: an unknown row, or one that lacks what it needs.
    """
    if asked is None:
        return [
            name
            for name, row in SUITE_ROWS.items()
            if available.get(row.needs, True) and (name != "paraphrase" or available.get("--descriptions", False))
        ]
    names = asked.replace(",", " ").split()
    for name in names:
        if name not in SUITE_ROWS:
            raise T2LError(f"No row is called '{name}'.", did_you_mean(name, SUITE_ROWS))
        needs = "--descriptions" if name == "paraphrase" else SUITE_ROWS[name].needs
        if needs.startswith("--") and not available.get(needs, False):
            raise T2LError(f"The row '{name}' ({SUITE_ROWS[name].title}) needs {needs}.")
    if not names:
        raise T2LError("No row is asked for.", f"Known: {', '.join(SUITE_ROWS)}.")
    return [name for name in SUITE_ROWS if name in names]
