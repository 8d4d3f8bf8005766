"""Which tasks train, validate and test, which are omitted, and why: by name, and by a draw that names decide.

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
from typing import Literal, cast, get_args

from t2l.errors import DataError, did_you_mean
from t2l.storage import read_json

Split = Literal["train", "validation", "test"]

PAPER_REMOVED = {
    (33, "winogrande"): "WinoGrande",
    (34, "winogrande"): "WinoGrande",
    (80, "piqa"): "PIQA",
    (81, "piqa"): "PIQA",
    (228, "arc"): "ARC-easy",
    (380, "boolq"): "BoolQ",
    (381, "boolq"): "BoolQ",
    (1286, "openbookqa"): "OpenBookQA",
    (1389, "hellaswag"): "HellaSwag",
    (1391, "winogrande"): "WinoGrande",
}
"""A task's number, and the data set in its name -> the benchmark it was made from: the ten that the paper removed.

The collection gives four numbers to two tasks each (184, 672, 861, 868), so a number alone names a task only where a
name says no more (``lol_033``).
"""

PAPER_VALIDATION = frozenset(
    {
        (35, "winogrande"),
        (39, "qasc"),
        (202, "mnli"),
        (304, "numeric_fused_head"),
        (362, "spolin"),
        (614, "glucose"),
        *((number, "mmmlu") for number in (701, 706, 710, 726)),
        (1557, "jfleg"),
    }
)
"""The paper's eleven validation tasks: number, and the data set in the name."""

_WORD_PROBLEMS = {
    "aqua": [750],
    "ai2_arithmetic": [745],
    "asdiv": [861, 862, 863],
    "mathqa": [1419, 1420, 1421],
    "mawps": [865, 866, 867, 868],
    "svamp": [751, 753, 754],
}
LEFT_IN = {
    **{(number, "obqa"): "made from OpenBookQA" for number in (1398, 1400, 1401)},
    (47, "science_questions"): "science questions like those of ARC",
    (35, "winogrande"): "rewrites WinoGrande",
    **{(number, "swag"): "made from SWAG, the parent of HellaSwag" for number in (453, 454, 455)},
    **{(number, "sciq"): "SciQ: science questions like those of ARC" for number in (591, 592, 593, 594)},
    **{(number, "scitail"): "SciTail: built from science exam questions, as ARC is" for number in (1529, 1530, 1552)},
    **{(number, "qasc"): "QASC: science facts and questions by the makers of OpenBookQA" for number in (38, 39, 40)},
    **{(number, "eqasc"): "eQASC: explanations of QASC's science questions" for number in (1580, 1581)},
    **{
        (number, source): "word problems like those of GSM8K"
        for source, numbers in _WORD_PROBLEMS.items()
        for number in numbers
    },
    **{
        (number, "conala"): "made from CoNaLa: programming like HumanEval and MBPP"
        for number in (79, 93, 94, 95, 122, 123, 124)
    },
    (956, "leetcode"): "LeetCode: programming like HumanEval and MBPP",
    **{(number, "prost"): "PROST: physical commonsense like that of PIQA" for number in (859, 860, 861)},
    (1660, "super_glue"): "made from SuperGLUE, of which BoolQ is a part",
}
"""Number and data set of a task -> how it is near a benchmark though the paper trained on it, or on one like it."""

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


def task_title(name: str) -> str:
    """What a name says beyond its number, in lower case; empty for ``lol_022``."""
    match = _NUMBER.match(name)
    return name[match.end() if match else 0 :].lower()


def _listed(name: str, table: Iterable[tuple[int, str]]) -> tuple[int, str] | None:
    """The entry of a table that means this task: its number, and its data set where the name says more than that."""
    number, title = task_number(name), task_title(name)
    return next((entry for entry in table if entry[0] == number and (not title or entry[1] in title)), None)


def removed_by_paper(name: str) -> str | None:
    """Why the paper trained without this task; None where it did not omit it."""
    entry = _listed(name, PAPER_REMOVED)
    return f"the paper removed it: made from {PAPER_REMOVED[entry]}" if entry else None


def near_benchmark(name: str) -> str | None:
    """How a task is near a benchmark, by its number or its name; None where nothing is known."""
    if entry := _listed(name, PAPER_REMOVED):
        return f"made from {PAPER_REMOVED[entry]}"
    if entry := _listed(name, LEFT_IN):
        return LEFT_IN[entry]
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
            elif self.paper and _listed(name, PAPER_VALIDATION):
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


def as_split(name: str) -> Split:
    """``name``, if it is a split.

    Raises:
        DataError: it is not.
    """
    if name not in get_args(Split):
        raise DataError(f"There is no split '{name}'.", did_you_mean(name, get_args(Split)))
    return cast(Split, name)


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
