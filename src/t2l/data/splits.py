"""Which tasks train, validate and test, which are left out, and why: by name, and by a draw that names decide.

Level 3. This file knows names of tasks; it has read none. The names are those of Super-Natural-Instructions; the
removals and validation tasks are those of the Text-to-LoRA paper (arXiv 2506.06105), and the overlaps it left in are of
our own reading. `t2l.data.audit` looks at the texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from t2l.data.store import Split, as_split
from t2l.errors import DataError
from t2l.storage import read_json

PAPER_REMOVED = {
    33: "WinoGrande",
    34: "WinoGrande",
    80: "PIQA",
    81: "PIQA",
    228: "ARC-easy",
    380: "BoolQ",
    381: "BoolQ",
    1286: "OpenBookQA",
    1389: "HellaSwag",
    1391: "WinoGrande",
}
"""Number of a task -> the benchmark it was made from: the ten that the paper removed."""

PAPER_VALIDATION = frozenset({35, 39, 202, 304, 362, 614, 701, 706, 710, 726, 1557})
"""Numbers of the paper's eleven validation tasks."""

LEFT_IN = {
    **dict.fromkeys([1398, 1400, 1401], "made from OpenBookQA"),
    47: "science questions like those of ARC",
    35: "rewrites WinoGrande",
    **dict.fromkeys([453, 454, 455], "made from SWAG, the parent of HellaSwag"),
    **dict.fromkeys([591, 592, 593, 594], "SciQ: science questions like those of ARC"),
    **dict.fromkeys([1529, 1530, 1552], "SciTail: built from science exam questions, as ARC is"),
    **dict.fromkeys([38, 39, 40], "QASC: science facts and questions by the makers of OpenBookQA"),
    **dict.fromkeys([1580, 1581], "eQASC: explanations of QASC's science questions"),
    **dict.fromkeys(
        [751, 753, 754, 865, 866, 867, 868, 861, 862, 863, 750, 745, *range(1419, 1422)],
        "word problems like those of GSM8K",
    ),
    **dict.fromkeys([79, 93, 94, 95, 122, 123, 124], "made from CoNaLa: programming like HumanEval and MBPP"),
    956: "LeetCode: programming like HumanEval and MBPP",
    859: "PROST: physical commonsense like that of PIQA",
    1660: "made from SuperGLUE, of which BoolQ is a part",
}
"""Number of a task -> how it is near a benchmark though the paper trained on it (or near one that it did)."""

_NUMBER = re.compile(r"(?:task|lol_)0*(\d+)(?:_|$)")
_NAMES = {
    "OpenBookQA": re.compile(r"obqa|openbookqa"),
    "ARC": re.compile(r"(?:^|_)(?:ai2_)?arc(?:_|$)|ai2_science"),
    "WinoGrande": re.compile(r"winogrande"),
    "PIQA": re.compile(r"(?:^|_)piqa"),
    "BoolQ": re.compile(r"boolq"),
    "HellaSwag": re.compile(r"hellaswag|(?:^|_)swag"),
    "GSM8K": re.compile(r"gsm8k"),
    "MBPP": re.compile(r"mbpp"),
    "HumanEval": re.compile(r"humaneval"),
}


def task_number(name: str) -> int | None:
    """The number in ``task022_cosmosqa...`` or ``lol_022``; None for other names."""
    match = _NUMBER.match(name)
    return int(match[1]) if match else None


def removed_by_paper(name: str) -> str | None:
    """Why the paper trained without this task; None where it did not leave it out."""
    number = task_number(name)
    return f"the paper removed it: made from {PAPER_REMOVED[number]}" if number in PAPER_REMOVED else None


def near_benchmark(name: str) -> str | None:
    """How a task is near a benchmark, by its number or its name; None where nothing is known."""
    number = task_number(name)
    if number in PAPER_REMOVED:
        return f"made from {PAPER_REMOVED[number]}"
    if number in LEFT_IN:
        return LEFT_IN[number]
    return next((f"its name speaks of {title}" for title, pattern in _NAMES.items() if pattern.search(name)), None)


@dataclass(frozen=True)
class SplitRule:
    """How tasks are split.

    Args:
        named: task -> split, over everything else.
        paper: the paper's validation tasks are validation tasks here.
        validation, test: how many tasks at least; where fewer are named, others are drawn.
        by_dataset: draw all tasks made from one data set together, so that none of it is trained on.
        seed: of the draw.
    """

    named: Mapping[str, Split] | None = None
    paper: bool = True
    validation: int = 11
    test: int = 0
    by_dataset: bool = False
    seed: int = 0

    def assign(self, tasks: Mapping[str, Sequence[str]]) -> dict[str, Split]:
        """Task -> split, for tasks given with the data sets they were made from.

        The draw goes by the hash of each name: adding a task moves no other from one side to the other, unless it is
        drawn itself.
        """
        splits: dict[str, Split] = {}
        for name in tasks:
            if self.named and name in self.named:
                splits[name] = self.named[name]
            elif self.paper and task_number(name) in PAPER_VALIDATION:
                splits[name] = "validation"
        free = [name for name in tasks if name not in splits]
        # never more than half of what could be trained on
        room = len(free) // 2
        wanted: list[tuple[Split, int]] = [("test", self.test), ("validation", self.validation)]
        for split, number in wanted:
            missing = min(number - sum(1 for given in splits.values() if given == split), room)
            for group in self._groups(free, tasks):
                if missing <= 0:
                    break
                splits.update(dict.fromkeys(group, split))
                missing, room = missing - len(group), room - len(group)
                free = [name for name in free if name not in group]
        return {name: splits.get(name, "train") for name in tasks}

    def _groups(self, names: Iterable[str], tasks: Mapping[str, Sequence[str]]) -> list[list[str]]:
        groups: dict[str, list[str]] = {}
        for name in names:
            key = (tasks[name][0] if tasks[name] else name) if self.by_dataset else name
            groups.setdefault(key, []).append(name)
        return [groups[key] for key in sorted(groups, key=self._draw)]

    def _draw(self, key: str) -> bytes:
        return blake2b(f"{self.seed}/{key}".encode()).digest()


def read_split_file(path: Path) -> dict[str, Split]:
    """Task -> split, from JSON that lists the tasks of each split.

    Raises:
        DataError: it is not such JSON, names a split that does not exist, or one task twice.
    """
    named: dict[str, Split] = {}
    for split, tasks in read_json(path, DataError).items():
        if not isinstance(tasks, list) or not all(isinstance(name, str) for name in tasks):
            raise DataError(f"'{path}': '{split}' is not a list of task names.")
        for name in tasks:
            if name in named:
                raise DataError(f"'{path}' names '{name}' twice.")
            named[name] = as_split(split)
    return named
