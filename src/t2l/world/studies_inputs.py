"""What the arms of studies share: the base, encoders, and embeddings of the training descriptions, made once.

They lie in the folder of ``t2l world build``: ``base/`` and ``descriptions.safetensors`` (token states) are the work of
its stages, ``tables/`` holds what other arms need. Poolings of MiniLM are computed from its token states, in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch

from t2l.encoders import BaseModelEncoder, DescriptionEncoder, MiniLmEncoder, OneHotEncoder
from t2l.errors import T2LError
from t2l.lora import LoraSpec
from t2l.world.conditions import DescriptionTable
from t2l.world.studies import Arm
from t2l.world.tasks import MicroTask, tasks_of
from t2l.world.wording import descriptions
from t2l.world.workfolder import DESCRIPTIONS, built_base, built_token_states, embedded_spec

FEW_DESCRIPTIONS = 16
"""A task, in tables of other quality than natural."""
_DROPPED_WORDS = 0.25


class StudyInputs:
    """The shared inputs in one folder; each is read or made when it is first asked for.

    Args:
        folder: that of ``t2l world build``.
        tasks: trained on; all training tasks by default.
    """

    def __init__(self, folder: Path, tasks: Sequence[MicroTask] | None = None) -> None:
        self.folder = folder
        self.tasks = tasks_of("train") if tasks is None else list(tasks)
        self._tables: dict[str, DescriptionTable] = {}

    def base(self) -> Any:
        """The tiny Llama, float32.

        Raises:
            T2LError: it has not been built.
        """
        return built_base(self.folder)

    def spec(self, arm: Arm) -> LoraSpec:
        """What the adapters of an arm adapt."""
        return embedded_spec(arm.targets, arm.rank)

    def encoder(self, arm: Arm) -> DescriptionEncoder:
        """What turns a description into the condition of an arm's hypernetwork."""
        if arm.encoder == "one-hot":
            return OneHotEncoder([task.name for task in self.tasks])
        if arm.encoder == "last-token":
            return BaseModelEncoder(str(self.folder / "base"), dtype="float32")
        return MiniLmEncoder(arm.encoder)

    def table(self, arm: Arm) -> DescriptionTable:
        """The embedded training descriptions of an arm.

        Raises:
            T2LError: the token states have not been built, or are of other tasks.
        """
        name = arm.encoder if arm.quality == "natural" else f"{arm.encoder}-{arm.quality}"
        if name not in self._tables:
            self._tables = {name: self._table(arm, name)}  # one at a time: token states take gigabytes
        return self._tables[name]

    def _table(self, arm: Arm, name: str) -> DescriptionTable:
        if arm.encoder in ("tokens", "layers", "mean") and arm.quality != "scrambled":
            table = self._token_states()
            if arm.quality == "terse":
                table = chosen(table, [shortest(self._texts(task)) for task in self.tasks])
            return table if arm.encoder == "tokens" else table.pooled(arm.encoder)
        path = self.folder / "tables" / f"{name}.safetensors"
        if path.is_file():
            return self._checked(DescriptionTable.load(path), path)
        texts = [[task.name] if arm.encoder == "one-hot" else self._texts(task) for task in self.tasks]
        if arm.quality == "scrambled":
            texts = [[scrambled(text) for text in some[:FEW_DESCRIPTIONS]] for some in texts]

        def report(done: int, total: int) -> None:
            print(f"{name}: {done} of {total} descriptions embedded", flush=True)

        table = DescriptionTable.embed(self.encoder(arm), texts, report)
        path.parent.mkdir(parents=True, exist_ok=True)
        table.save(path)
        return table

    def _token_states(self) -> DescriptionTable:
        return self._checked(built_token_states(self.folder), self.folder / "descriptions.safetensors")

    def _checked(self, table: DescriptionTable, path: Path) -> DescriptionTable:
        if len(table) != len(self.tasks):
            raise T2LError(
                f"'{path}' is of {len(table)} tasks; there are {len(self.tasks)}.", "Delete it; it is then made anew."
            )
        return table

    def _texts(self, task: MicroTask) -> list[str]:
        return descriptions(task, DESCRIPTIONS, part="train")


def chosen(table: DescriptionTable, places: Sequence[Sequence[int]]) -> DescriptionTable:
    """A table of some of the descriptions of each task, the same number for each."""
    parts, start = [], [0]
    for task, some in enumerate(places):
        for place in some:
            row = task * table.count + place
            parts.append(table.state_KW[table.start[row] : table.start[row + 1]])
            start.append(start[-1] + len(parts[-1]))
    return DescriptionTable(torch.cat(parts), start, len(places[0]), table.width)


def shortest(texts: Sequence[str], count: int = FEW_DESCRIPTIONS) -> list[int]:
    """Places of the shortest texts, shortest first."""
    return sorted(range(len(texts)), key=lambda place: (len(texts[place]), texts[place]))[:count]


def scrambled(text: str) -> str:
    """The text with a quarter of its words dropped and the others shuffled, the same each time; one word stays."""
    rng = Random(f"scrambled/{text}")
    words = text.split()
    kept = [word for word in words if rng.random() >= _DROPPED_WORDS] or [rng.choice(words)]
    rng.shuffle(kept)
    return " ".join(kept)
