"""Which texts a task is described by, under each condition of the description gate.

Level 5. "Another task" is never the task itself, nor one whose description says much about it: an equal text, or a
shared tag (its family, a data set both were made from). An empty description is refused by every encoder, so a full
stop stands for it. This file knows texts and tags; it knows no model and no benchmark's data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any

import yaml

from t2l.data.descriptions import DescriptionFile, DescriptionSet, read_description_files
from t2l.errors import DescriptionError, T2LError
from t2l.evaluation.scores import normalised
from t2l.storage import read_yaml

CONDITIONS = ("matched", "paraphrase", "vague", "other-task", "junk", "empty")
_RELATED = {"arc_challenge": "arc", "arc_easy": "arc"}  # benchmarks of one kind of question


@dataclass(frozen=True)
class Wording:
    """How one task may be described.

    Args:
        task: its name.
        matched: its descriptions.
        paraphrase: the same in other words.
        extra: other texts for a condition than those that ship, such as "vague".
        tags: what it shares with tasks that are its kin.
    """

    task: str
    matched: tuple[str, ...]
    paraphrase: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tags: frozenset[str] = frozenset()

    @cached_property
    def _own(self) -> tuple[frozenset[str], frozenset[str]]:
        """The descriptions, and all texts, as they are compared."""
        matched = frozenset(map(normalised, self.matched))
        return matched, matched.union(map(normalised, self.paraphrase))

    def is_kin(self, other: Wording) -> bool:
        """Whether the other's descriptions say much about this task: one name, an equal text, or a shared tag."""
        return self.task == other.task or bool(self.tags & other.tags) or bool(self._own[1] & other._own[0])


@cache
def _texts() -> dict[str, Any]:
    return yaml.safe_load(resources.files("t2l.evaluation").joinpath("descriptions.yaml").read_text("utf-8"))


def paper_wording(benchmark: str) -> Wording | None:
    """The descriptions of one of the paper's ten benchmarks; None for any other name."""
    texts = _texts()
    if benchmark not in texts["matched"]:
        return None
    tags = frozenset({_RELATED[benchmark]} if benchmark in _RELATED else ())
    return Wording(benchmark, tuple(texts["matched"][benchmark]), tuple(texts["paraphrase"][benchmark]), tags=tags)


def texts_for(condition: str, wording: Wording, others: Sequence[Wording], count: int, seed: int = 0) -> list[str]:
    """``count`` texts that describe a task under a condition, the same for the same seed.

    Args:
        condition: of `CONDITIONS`.
        others: every task of the run; "other-task" draws from those that are no kin.

    Raises:
        DescriptionError: the task has no such texts, or there is no other task.
    """
    rng = Random(f"{wording.task}/{condition}/{seed}")
    if condition == "empty":
        return ["."] * count
    if condition in ("vague", "junk"):
        return _some(list(wording.extra.get(condition) or _texts()[condition]), count, rng)
    if condition == "other-task":
        rest = [other for other in others if other.matched and not wording.is_kin(other)]
        if not rest:
            raise DescriptionError(
                f"No task of the run is another one than '{wording.task}': none, or all are its kin (one family, data "
                "set or description).",
                "Give tasks of several kinds.",
            )
        return [rng.choice(rng.choice(rest).matched) for _ in range(count)]
    texts = wording.matched if condition == "matched" else wording.paraphrase
    if not texts:
        raise DescriptionError(
            f"The task '{wording.task}' has no {'description' if condition == 'matched' else 'paraphrases'}.",
            'Give some: --descriptions FILE.yaml with {"matched": {TASK: [...]}, "paraphrase": {TASK: [...]}}',
        )
    if condition == "matched" and len(texts) >= count:
        return list(texts[:count])
    return _some(list(texts), count, rng)


def read_wordings(file: Path) -> DescriptionFile:
    """Descriptions by task from a YAML file: ``matched: {TASK: [...]}``, and ``paraphrase`` in the same way.

    JSON Lines, or a folder of them, are read as ``t2l data prepare`` reads them; ``evaluation_descriptions`` are the
    paraphrases.

    Raises:
        T2LError: it cannot be read or has another form.
    """
    if file.suffix == ".jsonl" or file.is_dir():
        return read_description_files([file])
    try:
        texts = read_yaml(file, T2LError)
        other = {str(name): tuple(map(str, some)) for name, some in (texts.get("paraphrase") or {}).items()}
        return DescriptionFile(
            DescriptionSet(str(name), tuple(map(str, some)), other.get(str(name), ()))
            for name, some in texts["matched"].items()
        )
    except (KeyError, TypeError, AttributeError) as problem:
        raise T2LError(
            f"'{file}' cannot be read as descriptions: {str(problem).splitlines()[0]}",
            "It is YAML: matched: {TASK: [TEXT, ...]}",
        ) from problem


def _some(texts: list[str], count: int, rng: Random) -> list[str]:
    drawn = rng.sample(texts, min(count, len(texts)))
    return drawn + rng.choices(texts, k=count - len(drawn))
