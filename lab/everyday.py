"""Writes the everyday tasks as a folder of Super-Natural-Instructions files: ``python -m lab.everyday OUT``.

``OUT/tasks/everyday_*.json``, ``OUT/descriptions.jsonl``, and the names of each split in ``OUT/train.txt``,
``OUT/validation.txt`` and ``OUT/exam.txt``. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from lab.catalogue import written_tasks
from lab.micro import micro_tasks
from lab.native import write_descriptions, write_task
from lab.parametric import parametric_tasks
from lab.tasks import PREFIX, EverydayTask
from t2l.data.descriptions import DescriptionSet
from t2l.data.sources import Task
from t2l.errors import T2LError
from t2l.storage import new_folder

MARKER = "everyday.json"
FEWEST, MOST = 16, 100
"""A task with fewer different examples is refused; of more, so many are drawn."""


def everyday_tasks(seed: int = 0) -> list[EverydayTask]:
    """All everyday tasks, in the order of their names.

    Raises:
        T2LError: two tasks have one name.
    """
    tasks = [*micro_tasks(seed), *written_tasks(), *parametric_tasks(seed)]
    twice = [name for name, number in Counter(task.name for task in tasks).items() if number > 1]
    if twice:
        raise T2LError(f"Two everyday tasks are called '{twice[0]}'.")
    return sorted(tasks, key=lambda task: task.name)


def as_task(given: EverydayTask, seed: int) -> Task:
    """An everyday task with its instances, under its full name."""
    return Task(
        name=PREFIX + given.name,
        definition=given.definition,
        instances=tuple(given.instances(MOST, seed)),
        languages=("English",),
        licences=("Apache-2.0",),
        datasets=(PREFIX + given.name,),
        categories=(f"Everyday: {given.family}",),
    )


def write(output: str | Path, *, seed: int = 0, force: bool = False) -> dict[str, int]:
    """Writes the folder, whole or not at all.

    Returns:
        Split -> number of tasks.

    Raises:
        T2LError: a task has too few examples, or the folder exists or cannot be written.
    """
    tasks = everyday_tasks(seed)
    with new_folder(output, marker=MARKER, force=force) as folder:
        (folder / "tasks").mkdir()
        names: dict[str, list[str]] = {"train": [], "validation": [], "exam": []}
        sets = []
        for given in tasks:
            task = as_task(given, seed)
            if len(task.instances) < FEWEST:
                raise T2LError(f"'{given.name}' has {len(task.instances)} examples, fewer than {FEWEST}.")
            write_task(folder / "tasks", task)
            names[given.split].append(task.name)
            sets.append(DescriptionSet(task.name, given.descriptions, given.evaluation))
        write_descriptions(folder / "descriptions.jsonl", sets)
        for split, listed in names.items():
            (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in listed), encoding="utf-8")
        counts = {split: len(listed) for split, listed in names.items()}
        families = dict(sorted(Counter(task.family for task in tasks).items()))
        summary = {"tasks": counts, "families": families, "seed": seed}
        (folder / MARKER).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return counts


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m lab.everyday", description="Write the everyday tasks.")
    parser.add_argument("output", help="the folder to write")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (0)")
    parser.add_argument("--force", action="store_true", help="replace a folder that this command wrote")
    given = parser.parse_args()
    try:
        counts = write(given.output, seed=given.seed, force=given.force)
    except T2LError as problem:
        print(problem, file=sys.stderr)
        return 2
    print(f"{given.output}: " + ", ".join(f"{number} {split}" for split, number in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
