"""The table of baselines: what stands in a table of results, what each row needs, and how its answers are made.

Level 5. One table for benchmarks and for suites of tasks. A row becomes variants, one or several for each task: an
adapter (or none), a number of examples, a text in the prompt. This file puts adapters from descriptions and from
folders on a shelf; it knows no task's data and runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from t2l.adapter import Adapter
from t2l.baselines.arrow import arrow_model
from t2l.baselines.hyperdecoder import load_hyperdecoder
from t2l.baselines.static import average_of, nearest_tasks
from t2l.bases import Base
from t2l.data.descriptions import DescriptionFile
from t2l.encoders.description import warned_once
from t2l.encoders.encoder import one_vector
from t2l.errors import AdapterError, DescriptionError, T2LError, did_you_mean
from t2l.evaluation.adapters import Name, Shelf
from t2l.evaluation.decoding import Decoder
from t2l.evaluation.statistics import few_shot
from t2l.evaluation.wording import Wording, texts_for
from t2l.hypernet import HyperNetwork
from t2l.library import INDEX_FILE, Library
from t2l.model import TextToLora
from t2l.storage import tensors_digest

CHECKPOINT = "--checkpoint"


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        title: how a table names it.
        needs: the option that brings what it needs; empty where the base does.
        condition: the description that its adapter is generated from (`t2l.evaluation.wording.CONDITIONS`).
        told: the prompt holds the task's description.
        only: the one kind of run that can measure it.
    """

    title: str
    needs: str = ""
    condition: str = ""
    told: bool = False
    only: str = ""


ROWS = {
    "base": Row("base, input alone"),
    "description-in-prompt": Row("base, description in the prompt", told=True),
    "shots": Row("base, examples in the prompt", only="benchmarks"),
    "t2l": Row("adapter from the task's description", CHECKPOINT, "matched"),
    "paraphrase": Row("adapter from another description of the task", CHECKPOINT, "paraphrase"),
    "other-task": Row("adapter from another task's description", CHECKPOINT, "other-task"),
    "vague": Row("adapter from a vague description", CHECKPOINT, "vague"),
    "junk": Row("adapter from junk", CHECKPOINT, "junk"),
    "empty": Row("adapter from a full stop alone", CHECKPOINT, "empty"),
    "static": Row("adapter of the mean description, for all tasks", CHECKPOINT),
    "t2l-in-prompt": Row("adapter from the description, also in the prompt", CHECKPOINT, "matched", True),
    "copy-input": Row("the input, copied", only="suite"),
    "average": Row("average of the library's adapters", "--library"),
    "nearest": Row("library's adapter of the nearest description", "--library"),
    "arrow": Row("Arrow routing over the library", "--library"),
    "multi-task": Row("one LoRA trained on many tasks, input alone", "--multi-task"),
    "multi-task-prompt": Row("one LoRA trained with descriptions in the prompt", "--multi-task-prompt", told=True),
    "hyperdecoder": Row("hyperdecoder: an adapter from the input alone", "--hyperdecoder"),
    "task-specific": Row("LoRA trained on the task itself", "--task-adapters"),
}
"""Row -> what it is, in the order of a table."""
GATE = ("base", "t2l", "paraphrase", "vague", "other-task", "junk", "empty", "static")
USUAL = {
    "benchmarks": ("base", "description-in-prompt", "shots", "t2l"),
    "suite": (
        *("base", "description-in-prompt", "t2l", "paraphrase", "other-task", "vague", "static", "t2l-in-prompt"),
        "copy-input",
    ),
}
"""Kind of run -> the rows that are measured unasked, where what they need is there."""
_OWN_DECODER = ("arrow", "hyperdecoder")
_FEW_SHOT = re.compile(r"0*([1-9]\d{0,3})-shots?")
_TEXTS_AT_ONCE = 256


def chosen_rows(
    asked: str | None, kind: str, given: Collection[str], shots: Sequence[int] = (), *, gate: bool = False
) -> list[str]:
    """The rows to measure, in the order of a table: those named, else `USUAL` ones and those whose option is given.

    Args:
        asked: names, comma-separated; ``shots`` stands for every number of ``shots``, ``5-shot`` for itself.
        kind: of the run, "benchmarks" or "suite".
        given: the options that are given.
        shots: numbers of examples in few-shot prompts.
        gate: the rows of the gate as well.

    Returns:
        rows of `ROWS`, with ``N-shot`` in place of ``shots``.

    Raises:
        T2LError: an unknown row, one that this kind of run cannot measure, or one that lacks what it needs.
    """
    if asked is None:
        usual = GATE if gate else USUAL[kind]
        named = [n for n in ROWS if n in usual or (ROWS[n].needs in given and ROWS[n].needs != CHECKPOINT)]
        named = [name for name in named if not ROWS[name].needs or ROWS[name].needs in given]
    else:
        named = [*(GATE if gate else ()), *asked.replace(",", " ").split()]
        counts = [int(found[1]) for name in named if (found := _FEW_SHOT.fullmatch(name))]
        shots = [*counts, *(shots if "shots" in named else ())]
        named = ["shots" if _FEW_SHOT.fullmatch(name) else name for name in named]
    for name in named:
        if name not in ROWS:
            raise T2LError(f"No row is called '{name}'.", did_you_mean(name, ROWS))
        if ROWS[name].only not in ("", kind):
            raise T2LError(f"The row '{name}' ({ROWS[name].title}) cannot be measured here, only on {ROWS[name].only}.")
        if ROWS[name].needs not in ("", CHECKPOINT) and ROWS[name].needs not in given:
            raise T2LError(f"The row '{name}' ({ROWS[name].title}) needs {ROWS[name].needs} FOLDER.")
    few = [f"{count}-shot" for count in sorted(set(shots)) if count > 0]
    chosen = [row for name in ROWS if name in named for row in (few if name == "shots" else [name])]
    if not chosen:
        raise T2LError("No row is asked for.", f"Known: {', '.join(ROWS)}.")
    return chosen


def row_of(name: str) -> Row:
    """The row of a name; ``5-shot`` is a few-shot row of its own."""
    found = _FEW_SHOT.fullmatch(name)
    return Row(f"base, {few_shot(found[1])}", only="benchmarks") if found else ROWS[name]


def needs_checkpoint(rows: Sequence[str]) -> bool:
    """Whether one of the rows reads descriptions with a checkpoint."""
    return any(row_of(row).needs == CHECKPOINT or row == "nearest" for row in rows)


@dataclass(frozen=True)
class PromptVariant:
    """One way of putting one task to the base.

    Args:
        number: of the description, where a row has several of a task.
        adapter: its name on the shelf; None for none.
        shots: examples in the prompt.
        told: text in the prompt, before the input.
        text: the description behind the variant, whether it is read by the adapter or in the prompt.
    """

    row: str
    task: str
    number: int = 0
    adapter: Name | None = None
    shots: int | None = 0
    told: str = ""
    text: str | None = None

    @property
    def alias(self) -> str:
        """The name of the harness task that runs it."""
        return f"{self.task}|{self.row}|{self.number}"


class Bench:
    """Rows of one base and one set of tasks, as variants, adapters on a shelf and decoders.

    Args:
        tasks: of the run, with their descriptions.
        base: what all rows run on.
        t2l: makes adapters from descriptions; None where no row needs any.
        folders: option -> what it names, such as ``--library``.
        known: descriptions of a library's tasks, for "nearest".
        showing: tasks that have examples to show.
        wordings: how many descriptions a task has in each condition, each with an adapter of its own.
        seed: of the draw of descriptions.
        note: told what is omitted, and why.
    """

    def __init__(
        self,
        tasks: Sequence[Wording],
        base: Base,
        t2l: TextToLora | None = None,
        folders: Mapping[str, Path | None] | None = None,
        *,
        known: DescriptionFile | None = None,
        showing: Collection[str] = (),
        wordings: int = 1,
        seed: int = 0,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        if wordings < 1:
            raise T2LError(f"{wordings} descriptions a task make no adapter.")
        self.tasks, self.base, self.t2l, self.folders = list(tasks), base, t2l, dict(folders or {})
        self.known, self.showing, self.wordings, self.seed, self.note = known, showing, wordings, seed, note
        self.shelf = Shelf(t2l, device=base.model.device, dtype=base.model.dtype)
        self._libraries: dict[str, Library] = {}
        if t2l is not None:
            t2l.spec.check_base(base.model)

    def variants(self, row: str) -> list[PromptVariant]:
        """What a row puts to each task; tasks without a description for it are omitted, with a note.

        Raises:
            T2LError: the row's folder cannot be read or is for another base, or its tasks have no description.
        """
        name = "shots" if _FEW_SHOT.fullmatch(row) else row
        if name in _ADAPTERS:
            return _ADAPTERS[name](self, row)
        if name == "shots":
            count = int(row.split("-")[0])
            return [PromptVariant(row, task.task, shots=count) for task in self.tasks if task.task in self.showing]
        condition = ROWS[row].condition or ("matched" if ROWS[row].told else "")
        if not condition:  # the base alone, or a decoder of its own
            return [PromptVariant(row, task.task) for task in self.tasks]
        texts = self._texts(row, condition)
        if ROWS[row].condition:
            try:
                self.shelf.describe([text for some in texts.values() for text in some])
            except DescriptionError as problem:
                if condition == "matched":
                    raise
                self.note(f"Not measured: {row}: {problem.message}")
                return []
        return [
            PromptVariant(
                row,
                task,
                number,
                ("text", text) if ROWS[row].condition else (row, "") if ROWS[row].needs else None,
                told=text if ROWS[row].told else "",
                text=text,
            )
            for task, some in texts.items()
            for number, text in enumerate(some)
        ]

    def identity(self, row: str) -> str:
        """What decides a row's answers besides base, tasks and seed."""
        name = row_of(row).needs
        if name == CHECKPOINT:
            assert self.t2l is not None
            return self.t2l.digest
        if row == "hyperdecoder":
            return tensors_digest(self._hyperdecoder.state_dict())
        if name in ("--library", "--task-adapters"):
            library = self._library(name)
            return library.fingerprint() + (self.t2l.digest if row == "nearest" and self.t2l is not None else "")
        return self.shelf.identity((row, "")) if name else ""

    def decoders(self, rows: Sequence[str], batch_tokens: int | None) -> list[tuple[Decoder, str, list[str]]]:
        """What runs the rows, with an identity of what is inside it: one decoder for most, others for themselves."""
        shared = [row for row in rows if row not in _OWN_DECODER]
        found = [(Decoder(self.base, self.shelf, batch_tokens=batch_tokens), "", shared)] if shared else []
        if "arrow" in rows:
            library = self._library("--library")
            library.spec.check_base(self.base.model)
            names = self.foreign()
            routed = replace(self.base, model=arrow_model(self.base.model, library, names))
            decoder = Decoder(routed, batch_tokens=batch_tokens)
            found.append((decoder, f"arrow/{library.fingerprint(names)}", ["arrow"]))
        if "hyperdecoder" in rows:
            decoder = Decoder(self.base, source=self._hyperdecoder, batch_tokens=batch_tokens)
            found.append((decoder, f"hyperdecoder/{self.identity('hyperdecoder')}", ["hyperdecoder"]))
        return found

    def foreign(self) -> list[str]:
        """The library's adapters that were not trained on a task of this run: the others would know the answers.

        Raises:
            T2LError: there is none.
        """
        library, own = self._library("--library"), {task.task for task in self.tasks}
        names = [name for name in library.names if name not in own]
        if not names:
            raise T2LError(
                f"All {len(library)} adapters of the library are of tasks that are measured, so it knows the answers.",
                "Give adapters of other tasks with --library; those of the tasks themselves go to --task-adapters.",
            )
        if left := len(library) - len(names):
            self.note(f"{left} adapters of the library are of tasks that are measured; they were omitted.")
        return names

    def _texts(self, row: str, condition: str) -> dict[str, list[str]]:
        found, lacking = {}, None
        for task in self.tasks:
            try:
                found[task.task] = texts_for(condition, task, self.tasks, self.wordings, self.seed)
            except DescriptionError as problem:
                if condition == "matched":
                    raise
                lacking = problem
        if lacking is not None:
            missing = len(self.tasks) - len(found)
            self.note(f"The row '{row}' has no description for {missing} of {len(self.tasks)} tasks: {lacking.message}")
        return found

    def _static(self, row: str) -> list[PromptVariant]:
        """The mean of the task features that all matched descriptions give."""
        texts = [text for some in self._texts(row, "matched").values() for text in some]
        self.shelf.describe(texts)
        self.shelf.add_mean((row, ""), texts)
        return self._for_all(row)

    def _trained(self, row: str) -> list[PromptVariant]:
        self._put((row, ""), one_adapter(self._folder(ROWS[row].needs)))
        return self._for_all(row)

    def _told(self, row: str) -> list[PromptVariant]:
        made, texts = self._trained(row)[0].adapter, self._texts(row, "matched")
        return [
            PromptVariant(row, task, number, made, told=text, text=text)
            for task, some in texts.items()
            for number, text in enumerate(some)
        ]

    def _average(self, row: str) -> list[PromptVariant]:
        library = self._library("--library")
        self._put((row, ""), average_of(library, self.foreign()))
        return self._for_all(row)

    def _nearest(self, row: str) -> list[PromptVariant]:
        assert self.t2l is not None
        library = self._library("--library")
        sets = {name: self.known.of(name) for name in self.foreign()} if self.known is not None else {}
        known = [(name, text) for name, some in sets.items() if some is not None for text in some.descriptions]
        if not known:
            raise T2LError(
                "No adapter of the library has a description, so none is nearest.",
                "Give them: --descriptions FILE, YAML with matched: {ADAPTER: [TEXT, ...]} or the JSON Lines of "
                "t2l data prepare",
            )
        names, known_ME = [name for name, _ in known], _vectors(self.t2l, [text for _, text in known])
        variants = []
        for task, some in self._texts(row, "matched").items():
            for number, (text, name) in enumerate(
                zip(some, nearest_tasks(names, known_ME, _vectors(self.t2l, some)), strict=True)
            ):
                if ("library", name) not in self.shelf:
                    self._put(("library", name), library.adapter(name))
                variants.append(PromptVariant(row, task, number, ("library", name), text=text))
        return variants

    def _own(self, row: str) -> list[PromptVariant]:
        """Each task's own adapter, by name, for the tasks that the library has."""
        library = self._library("--task-adapters")
        known = [task.task for task in self.tasks if task.task in library]
        if not known:
            near = did_you_mean(self.tasks[0].task, library.names)
            raise T2LError(f"The folder of task adapters has none for '{self.tasks[0].task}' or any other task.", near)
        for name in known:
            self._put((row, name), library.adapter(name))
        return [PromptVariant(row, name, adapter=(row, name)) for name in known]

    def _for_all(self, row: str) -> list[PromptVariant]:
        return [PromptVariant(row, task.task, adapter=(row, "")) for task in self.tasks]

    def _put(self, name: Name, adapter: Adapter) -> None:
        adapter.spec.check_base(self.base.model)
        if adapter.system not in (None, self.base.system):
            shown = repr(str(adapter.system)[:40])
            self.note(f"Some adapters were made for other prompts ({shown}); all are measured as the checkpoint's are.")
        self.shelf.add(name, adapter)

    def _folder(self, option: str) -> Path:
        folder = self.folders.get(option)
        assert folder is not None
        return folder

    def _library(self, option: str) -> Library:
        if option not in self._libraries:
            self._libraries[option] = Library.open(self._folder(option))
        return self._libraries[option]

    @cached_property
    def _hyperdecoder(self) -> HyperNetwork:
        source = load_hyperdecoder(self._folder("--hyperdecoder"))
        source.spec.check_base(self.base.model)
        return source


_ADAPTERS: dict[str, Callable[[Bench, str], list[PromptVariant]]] = {
    "static": Bench._static,
    "average": Bench._average,
    "nearest": Bench._nearest,
    "multi-task": Bench._trained,
    "multi-task-prompt": Bench._told,
    "task-specific": Bench._own,
}
"""How the adapters of rows are made that are no single description's."""


def one_adapter(folder: Path) -> Adapter:
    """One LoRA for all tasks: a PEFT folder, a run of ``t2l train lora``, or a library of one.

    Raises:
        T2LError: a library of several.
        AdapterError: there is no folder, or it holds no adapter.
    """
    if not folder.is_dir():
        raise AdapterError(f"There is no folder '{folder}'.", "Give a PEFT folder, or a run of t2l train lora.")
    if (folder / INDEX_FILE).is_file():
        library = Library.open(folder)
        if len(library) != 1:
            raise T2LError(f"'{folder}' holds {len(library)} adapters; one for all tasks is needed.")
        return library.adapter(library.names[0])
    inside = folder / "adapter"
    return Adapter.load(inside if not (folder / "adapter_config.json").is_file() and inside.is_dir() else folder)


def _vectors(t2l: TextToLora, texts: Sequence[str]) -> torch.Tensor:
    """(N, W), one vector a text; the mean over tokens where the encoder gives their states."""
    starts = range(0, len(texts), _TEXTS_AT_ONCE)
    with warned_once():
        parts = [t2l.encoder.encode(list(texts[start : start + _TEXTS_AT_ONCE])) for start in starts]
    return torch.cat([one_vector(part, t2l.encoder.token_dim) for part in parts])
