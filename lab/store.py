"""The tasks of a real base in one folder: real ones, everyday ones and the variants of both, with splits.

    python -m lab.store OUT --tasks FOLDER --names train_tasks.txt --never test_tasks.txt --never excluded_tasks.txt \\
        -d descriptions.jsonl -d written.jsonl --exclude 'task228_*' --labels 14

``OUT/tasks/*.json`` and ``OUT/descriptions.jsonl`` go into ``t2l data prepare --split-file OUT/splits.json``; the names
of each part stand in ``OUT/splits``. A variant is in its source's split. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from hashlib import blake2b
from pathlib import Path
from random import Random

from lab.everyday import as_task, everyday_tasks
from lab.native import write_descriptions, write_task
from lab.tasks import PREFIX, bare
from lab.variants import Variant, VariantConfig, variants_of
from t2l.data.descriptions import DescriptionFile, DescriptionSet, read_description_files
from t2l.data.sources import Task, open_source
from t2l.errors import DataError, T2LError
from t2l.storage import new_folder

MARKER = "counts.json"
NEAR = 40
PER_CATEGORY = 2
REAL_WORDINGS, REAL_EVALUATION = 40, 6

README = """# Training data of a real base

Written by `python -m lab.store` (seed {seed}); the same command writes the same bytes.

- `tasks/*.json`: Super-Natural-Instructions files. A variant is called `TASK__label_N` or `TASK__style_N` and names its
  source in `Variant_of`.
- `descriptions.jsonl`: descriptions of every task; `evaluation_descriptions` are wordings no training description uses.
- `held_out/PART/*.json`: copies of what is not trained on, for `t2l evaluate --suite sni FOLDER --descriptions FILE`.
- `splits/*.txt`: names, one a line; `splits.json`: the same for `t2l data prepare --split-file`.

{table}

`validation_real`: {near} tasks of categories that training has, drawn by seed; tasks with the definition of one of them
are left out. `exam`: everyday operations that no
training task has under any name. `*_variants`: variants of held-out tasks, held out with them.
Checked when written: no task is one of the {never} names that are never trained on.
"""


def build(
    output: str | Path,
    *,
    tasks: Path,
    names: Path,
    never: Sequence[Path],
    described: Sequence[Path],
    exclude: Sequence[str] = (),
    labels: int = 5,
    descriptions: int | None = None,
    seed: int = 0,
    force: bool = False,
) -> dict[str, int]:
    """Writes the folder, whole or not at all.

    Args:
        tasks: a folder of Super-Natural-Instructions files.
        names: a file with the names of the real tasks to take.
        never: files with the names of tasks that must not be trained on.
        described: files of descriptions of real tasks.
        exclude: names or patterns of tasks to leave out.
        labels: renamings of a task with few labels.
        descriptions: to train with, at most: of a real task (by default 40) and of a variant (by default 24).

    Returns:
        Part -> number of tasks.

    Raises:
        T2LError: a list or a task cannot be read, or a task is one that must not be trained on.
    """
    wanted, forbidden = _names(names), {name for file in never for name in _names(file)}
    sources = [
        source
        for source in open_source(tasks)
        if source.name in wanted and not any(fnmatchcase(source.name, pattern) for pattern in exclude)
    ]
    known = read_description_files(described)
    if bad := sorted(forbidden & {source.name for source in sources}):
        raise DataError(f"'{bad[0]}' is on a list of tasks that are never trained on, and {len(bad) - 1} more are.")
    real = {source.name: source.read() for source in sources}
    near = near_tasks(list(real.values()), seed)
    for twin in twins(real, near):
        del real[twin]
    sets = {name: _real_wordings(task, known, descriptions or REAL_WORDINGS, seed) for name, task in real.items()}
    splits = {name: "validation_real" if name in near else "train_real" for name in real}
    everyday = {PREFIX + given.name: given for given in everyday_tasks(seed)}
    made = dict(real)
    for name, given in everyday.items():
        made[name] = as_task(given, seed)
        sets[name] = DescriptionSet(name, given.descriptions, given.evaluation)
        splits[name] = {"train": "train_everyday", "validation": "validation_everyday", "exam": "exam"}[given.split]
    variants = [
        variant
        for name, task in made.items()
        for variant in variants_of(task, sets[name], _config(task, splits[name], labels, descriptions, seed))
    ]
    with new_folder(output, marker=MARKER, force=force) as folder:
        (folder / "tasks").mkdir()
        (folder / "splits").mkdir()
        for name, task in made.items():
            if name in real:
                shutil.copyfile(Path(tasks) / f"{name}.json", folder / "tasks" / f"{name}.json")
            else:
                write_task(folder / "tasks", task)
        for variant in variants:
            write_task(folder / "tasks", variant.task, variant.source, variant.way)
        all_sets = [*sets.values(), *(variant.descriptions for variant in variants)]
        write_descriptions(folder / "descriptions.jsonl", all_sets)
        counts = _write_splits(folder, splits, variants)
        counts["descriptions"] = sum(len(given.descriptions) for given in all_sets)
        rows = "".join(f"| {part} | {number:,} |\n" for part, number in counts.items())
        text = README.format(
            seed=seed, table=f"| part | number |\n|---|---|\n{rows}", near=len(near), never=len(forbidden)
        )
        (folder / "README.md").write_text(text, encoding="utf-8")
        (folder / MARKER).write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    return counts


def near_tasks(tasks: Sequence[Task], seed: int) -> set[str]:
    """Tasks held out whose categories stay in training: at most two a category, in an order that names decide."""
    categories = Counter(category for task in tasks for category in task.categories[:1])
    drawn: Counter[str] = Counter()
    found: set[str] = set()
    for task in sorted(tasks, key=lambda task: blake2b(f"{seed}/{task.name}".encode()).digest()):
        category = task.categories[0] if task.categories else ""
        if categories[category] < 4 or drawn[category] == PER_CATEGORY or len(task.instances) < 40:
            continue
        drawn[category] += 1
        found.add(task.name)
        if len(found) == NEAR:
            break
    return found


def twins(tasks: Mapping[str, Task], held: set[str]) -> list[str]:
    """Tasks that are not held out and have the definition of one that is: training on them would give it away."""
    definitions = {bare(tasks[name].definition) for name in held}
    return [name for name, task in tasks.items() if name not in held and bare(task.definition) in definitions]


def _config(task: Task, split: str, labels: int, descriptions: int | None, seed: int) -> VariantConfig:
    """How many variants of a task: fewer of everyday tasks, which are many, and of those whose words decide already."""
    usual = VariantConfig(labels=labels, seed=seed)
    if descriptions is not None:
        usual = replace(usual, descriptions=descriptions)
    if any(category.startswith("Everyday: words") for category in task.categories):
        return replace(usual, labels=0, option_labels=0, styles=0.25)
    everyday = split in ("train_everyday", "validation_everyday", "exam")
    return replace(usual, styles=0.8) if everyday else usual


def _real_wordings(task: Task, described: DescriptionFile, most: int, seed: int) -> DescriptionSet:
    """The definition and a draw of the descriptions of a real task, ``most`` to train with."""
    found = described.of(task.name)
    given = list(dict.fromkeys((*found.descriptions, *found.evaluation))) if found else []
    rng = Random(f"{seed}/{task.name}/wordings")
    kept: list[str] = []
    if len(given) > most + REAL_EVALUATION:
        given = rng.sample(given, most - 1 + REAL_EVALUATION)
        given, kept = given[: most - 1], given[most - 1 :]
    return DescriptionSet(task.name, tuple(dict.fromkeys((task.definition, *given))), tuple(kept))


def _write_splits(folder: Path, splits: dict[str, str], variants: Sequence[Variant]) -> dict[str, int]:
    """Lists of names, copies of held-out tasks and ``splits.json``; returns the number of tasks of each part."""
    parts: dict[str, list[str]] = {}
    for name, part in splits.items():
        parts.setdefault(part, []).append(name)
    for variant in variants:
        part = splits[variant.source]
        kept = part if part.startswith("train") else f"{part}_variants"
        parts.setdefault(f"{kept}_{variant.kind}" if part.startswith("train") else kept, []).append(variant.task.name)
    train = sorted(name for part, names in parts.items() if part.startswith("train") for name in names)
    for part, names in sorted(parts.items()):
        if not part.startswith("train"):
            (folder / "held_out" / part).mkdir(parents=True)
            for name in names:
                shutil.copyfile(folder / "tasks" / f"{name}.json", folder / "held_out" / part / f"{name}.json")
        (folder / "splits" / f"{part}.txt").write_text("".join(f"{name}\n" for name in sorted(names)), encoding="utf-8")
    (folder / "splits" / "train.txt").write_text("".join(f"{name}\n" for name in train), encoding="utf-8")
    named = {
        "train": train,
        "validation": sorted(n for part, names in parts.items() if part.startswith("validation") for n in names),
        "test": sorted(n for part, names in parts.items() if part.startswith("exam") for n in names),
    }
    (folder / "splits.json").write_text(json.dumps(named, indent=1) + "\n", encoding="utf-8")
    return {"train": len(train), **{part: len(names) for part, names in sorted(parts.items())}}


def _names(file: Path) -> set[str]:
    try:
        return set(Path(file).read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"'{file}' cannot be read: {getattr(problem, 'strerror', None) or problem}.") from problem


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m lab.store", description="Write the training data of a real base.")
    parser.add_argument("output", type=Path, help="the folder to write")
    parser.add_argument("--tasks", type=Path, required=True, help="a folder of Super-Natural-Instructions files")
    parser.add_argument("--names", type=Path, required=True, help="names of the real tasks to take, one a line")
    parser.add_argument("--never", type=Path, action="append", default=[], help="names that are never trained on")
    parser.add_argument(
        "-d", "--described", type=Path, action="append", default=[], help="a file of descriptions of real tasks"
    )
    parser.add_argument("--exclude", action="append", default=[], help="a name or pattern to leave out")
    parser.add_argument("--labels", type=int, default=5, help="renamings of a task with few labels (5)")
    parser.add_argument(
        "--descriptions", type=int, metavar="N", help="to train with at most: of a real task (40), of a variant (24)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all draws (0)")
    parser.add_argument("--force", action="store_true", help="replace a folder that this command wrote")
    given = parser.parse_args()
    try:
        counts = build(**vars(given))
    except T2LError as problem:
        print(problem, file=sys.stderr)
        return 2
    print(f"{given.output}: " + ", ".join(f"{number:,} {part}" for part, number in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
