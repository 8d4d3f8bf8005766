"""Writes the micro world in the general data format: ``python -m lab.micro_world OUT``.

``OUT/tasks/*.json`` and ``OUT/descriptions.jsonl`` go into ``t2l data prepare --split-file OUT/splits.json``;
``OUT/near`` and ``OUT/far`` hold the held-out tasks for ``t2l evaluate --data``. Held-out questions are of the
evaluation part of the inputs, all others of the training part. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from lab.native import write_descriptions, write_task
from lab.world.tasks import NEAR, MicroTask, Split, all_tasks
from lab.world.wording import descriptions
from t2l.data.descriptions import DescriptionSet
from t2l.data.sources import Instance, Task
from t2l.errors import T2LError
from t2l.storage import new_folder, write_json

MARKER = "micro-world.json"
SAMPLES = 60
"""Different training inputs of a task, where it has so many."""
TRAINING_WORDINGS, EVALUATION_WORDINGS = 32, 6
QUESTIONS = 20
"""Of a held-out task."""
STORE_SPLITS: dict[Split, str] = {
    "train": "train",
    "validation": "validation",
    "unseen-combination": "test",
    "unseen-operation": "test",
    "far": "test",
}
EXAMS: dict[str, tuple[Split, ...]] = {"near": NEAR, "far": ("far",)}


def as_task(task: MicroTask, samples: int, seed: int, definition: str) -> Task:
    """A micro-task with different inputs of its training part."""
    drawn = task.examples(4 * samples, seed=seed, part="train")
    pairs = dict(drawn)
    return Task(
        name=task.name,
        definition=definition,
        instances=tuple(Instance(question, (answer,)) for question, answer in list(pairs.items())[:samples]),
        languages=("English",),
        licences=("Apache-2.0",),
        datasets=(task.operation.name,),
        categories=(f"Micro: {task.family}",),
    )


def write_exam(folder: Path, tasks: Iterable[MicroTask], questions: int, seed: int = 0) -> None:
    """A folder a task, as ``t2l evaluate --data`` reads them: questions, examples to show, descriptions."""
    for task in tasks:
        place = folder / task.name
        place.mkdir(parents=True)
        about = {
            "family": task.family,
            "separator": "",  # the base's chat template has it
            "until": ["\n"],
            "max_new_tokens": 48,
            "descriptions": descriptions(task, 4, part="train", seed=seed + 1),
            "paraphrases": descriptions(task, 4, part="evaluation", seed=seed),
        }
        write_json(place / "task.json", about)
        for name, part in (("test", "evaluation"), ("train", "train")):
            pairs = task.examples(questions, seed=seed, part=part)
            lines = [json.dumps({"input": question, "output": answer}) + "\n" for question, answer in pairs]
            (place / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def write(
    output: str | Path,
    *,
    tasks: Iterable[MicroTask] | None = None,
    samples: int = SAMPLES,
    wordings: int = TRAINING_WORDINGS,
    seed: int = 0,
    force: bool = False,
) -> dict[str, int]:
    """Writes the folder, whole or not at all.

    Args:
        tasks: all by default.

    Returns:
        Split -> number of tasks.

    Raises:
        T2LError: the folder exists or cannot be written.
    """
    chosen = list(all_tasks() if tasks is None else tasks)
    with new_folder(output, marker=MARKER, force=force) as folder:
        (folder / "tasks").mkdir()
        splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
        sets = []
        for task in chosen:
            told = descriptions(task, wordings, part="train")
            kept = descriptions(task, EVALUATION_WORDINGS, part="evaluation")
            write_task(folder / "tasks", as_task(task, samples, seed, told[0]))
            sets.append(DescriptionSet(task.name, tuple(told), tuple(kept)))
            splits[STORE_SPLITS[task.split]].append(task.name)
        write_descriptions(folder / "descriptions.jsonl", sets)
        write_json(folder / "splits.json", splits)
        for exam, parts in EXAMS.items():
            write_exam(folder / exam, [task for task in chosen if task.split in parts], QUESTIONS, seed)
        counts = {split: len(names) for split, names in splits.items()}
        write_json(folder / MARKER, {"tasks": counts, "seed": seed})
    return counts


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m lab.micro_world", description="Write the micro world's data.")
    parser.add_argument("output", type=Path, help="the folder to write")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="training inputs of a task (%(default)s)")
    parser.add_argument("--wordings", type=int, default=TRAINING_WORDINGS, help="of a task (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (0)")
    parser.add_argument("--force", action="store_true", help="replace a folder that this command wrote")
    given = parser.parse_args()
    try:
        counts = write(**vars(given))
    except T2LError as problem:
        print(problem, file=sys.stderr)
        return 1
    print(f"{given.output}: " + ", ".join(f"{number} {split}" for split, number in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
