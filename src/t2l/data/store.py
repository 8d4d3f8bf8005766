"""The tokenised store: a folder that training reads sample by sample, memory-mapped, whatever its size.

Level 3. A store is ``samples.arrow`` (an Arrow IPC stream, one record batch a task; `datasets.Dataset.from_file`
opens it as well), ``descriptions.jsonl`` (a line a task) and ``manifest.json`` (what it was made of, counts, digests).
Reading a sample touches its own pages and no others. This file does not know where samples come from; `t2l.data.writer`
writes what is read here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from t2l import prompting
from t2l.data.descriptions import DescriptionSet, read_description_files
from t2l.data.splits import Split
from t2l.errors import DataError, did_you_mean
from t2l.storage import read_json

if TYPE_CHECKING:
    from types import ModuleType

MANIFEST_FILE = "manifest.json"
SAMPLES_FILE = "samples.arrow"
DESCRIPTIONS_FILE = "descriptions.jsonl"
FORMAT = 1
"""The version of the store's format, in its manifest."""


@dataclass(frozen=True)
class TaskEntry:
    """One task of a store.

    Args:
        name: unique in its store, such as ``task022_cosmosqa_passage_inappropriate_binary``.
        split: of tasks, not of samples: a validation task is one that nothing was trained on.
        samples: how many it has.
        descriptions: of the task, for people and for the hypernetwork; may be empty.
    """

    name: str
    split: Split
    samples: int
    descriptions: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Sample:
    """One (prompt, response) pair as tokens.

    Args:
        input_ids: int32 (T,), the prompt and then the response with its end-of-answer token; read-only memory.
        prompt_length: how many of them are the prompt, on which no loss is computed.
    """

    input_ids: np.ndarray
    prompt_length: int


class DataStore:
    """Samples by task and place, read from disk when asked for.

    Example:
        >>> store = DataStore.open("work/data")  # doctest: +SKIP
        >>> store.sample(0, 5).input_ids.shape  # doctest: +SKIP
        (143,)
    """

    def __init__(
        self,
        folder: Path,
        manifest: dict[str, Any],
        tasks: tuple[TaskEntry, ...],
        columns: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
        evaluation: tuple[tuple[str, ...], ...],
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.tasks = tasks
        self._columns = columns  # of each task: row offsets, token ids, prompt lengths; views of the mapped file
        self._evaluation = evaluation
        self._index = {task.name: place for place, task in enumerate(tasks)}

    @property
    def prompts(self) -> dict[str, Any]:
        """How its samples prompt the base: ``system`` and ``prompt``, as `t2l.prompting.RECORDED` names them."""
        frame = self.manifest.get("frame", {"before": "", "after": ""})
        usual = {  # of older stores
            "system": prompting.TEMPLATE,
            "prompt": f"{frame['before']}{prompting.INPUT}{frame['after']}",
        }
        return {**usual, **prompting.recorded(self.manifest)}

    @classmethod
    def open(cls, folder: str | Path) -> DataStore:
        """Opens a store that ``t2l data prepare`` finished; no sample is read yet.

        Raises:
            DataError: the folder is no store, is unfinished, damaged, or of a newer format.
        """
        folder = Path(folder).expanduser()
        manifest = _manifest(folder)
        described = read_description_files([folder / DESCRIPTIONS_FILE])
        recorded = manifest["tasks"]
        path = folder / SAMPLES_FILE
        size = path.stat().st_size if path.is_file() else 0
        if size != manifest["bytes"]:
            raise DataError(
                f"'{path}' has {size:,} bytes; its manifest says {manifest['bytes']:,}.",
                "It was copied in part or changed; copy it again, or run t2l data prepare again.",
            )
        batches = read_batches(path)
        if len(batches) != len(recorded):
            raise DataError(f"'{path}' holds {len(batches)} tasks; its manifest names {len(recorded)}.")
        tasks, columns, evaluation = [], [], []
        for record in recorded:
            told = described.of(record["name"]) or DescriptionSet(record["name"], ())
            tasks.append(TaskEntry(record["name"], record["split"], record["samples"], told.descriptions))
            evaluation.append(told.evaluation)
            columns.append(_views(batches[record["batch"]]))
            if len(columns[-1][2]) != record["samples"]:
                raise DataError(f"'{path}' does not hold the {record['samples']} samples of '{record['name']}'.")
        return cls(folder, manifest, tuple(tasks), columns, tuple(evaluation))

    def task_index(self, name: str) -> int:
        """The place in `tasks` of the task of this name.

        Raises:
            DataError: there is no such task; near names are offered.
        """
        if name not in self._index:
            raise DataError(f"'{self.folder}' has no task '{name}'.", did_you_mean(name, self._index))
        return self._index[name]

    def evaluation_descriptions(self, task_index: int) -> tuple[str, ...]:
        """Descriptions of a task that are kept for evaluation and never trained on; may be empty."""
        return self._evaluation[task_index]

    def split(self, split: Split) -> tuple[int, ...]:
        """The places in `tasks` of one split's tasks."""
        return tuple(place for place, task in enumerate(self.tasks) if task.split == split)

    def sample(self, task_index: int, sample_index: int) -> Sample:
        """One sample; its tokens are a view of the mapped file, not a copy.

        Raises:
            IndexError: the task has no such sample.
        """
        offsets, tokens, prompts = self._columns[task_index]
        if not 0 <= sample_index < len(prompts):
            raise IndexError(f"task {task_index} has {len(prompts)} samples, asked for {sample_index}")
        begin, end = offsets[sample_index], offsets[sample_index + 1]
        return Sample(tokens[begin:end], int(prompts[sample_index]))

    def lengths(self, task_index: int) -> np.ndarray:
        """int32 (samples,): the tokens of each sample of a task, prompt and response together."""
        return np.diff(self._columns[task_index][0])

    def verify(self) -> None:
        """Reads every sample and compares digests.

        Raises:
            DataError: a task's samples are not those that were written.
        """
        for record, (offsets, tokens, prompts) in zip(self.manifest["tasks"], self._columns, strict=True):
            if samples_digest(offsets, tokens, prompts) != record["digest"]:
                raise DataError(
                    f"The samples of '{record['name']}' in '{self.folder}' are not those that were written.",
                    "The file is damaged; copy it again, or run t2l data prepare again.",
                )


def samples_digest(offsets: np.ndarray, tokens: np.ndarray, prompts: np.ndarray) -> str:
    """SHA-256 over a task's row offsets, tokens and prompt lengths."""
    total = hashlib.sha256()
    for column in (offsets, tokens, prompts):
        total.update(np.ascontiguousarray(column, dtype="<i4").data)
        total.update(b"|")
    return total.hexdigest()


def read_batches(path: Path) -> list[Any]:
    """The record batches of an Arrow stream, memory-mapped.

    Raises:
        DataError: it is not a whole Arrow stream.
    """
    arrow = pyarrow()
    try:
        with arrow.memory_map(str(path)) as source, arrow.ipc.open_stream(source) as stream:
            return list(stream)
    except (OSError, arrow.ArrowException) as problem:
        raise DataError(f"'{path}' is not a whole Arrow file: {problem}.", "Run t2l data prepare again.") from problem


def pyarrow() -> ModuleType:
    """The module pyarrow, or an error that says how to get it."""
    try:
        import pyarrow.ipc

        return pyarrow
    except ImportError as problem:
        raise DataError(
            "Training data needs pyarrow, which is not installed.", "Install it: pip install 't2l[data]'"
        ) from problem


def _manifest(folder: Path) -> dict[str, Any]:
    if not (folder / MANIFEST_FILE).is_file():
        if not folder.exists():
            unfinished = folder.with_name(f"{folder.name}.partial")
            fix = (
                f"'{unfinished}' is an unfinished one: run its t2l data prepare again." if unfinished.is_dir() else None
            )
            raise DataError(
                f"There is no data store '{folder}'.", fix or f"Make one: t2l data prepare SOURCE -o {folder}"
            )
        raise DataError(f"'{folder}' is no data store: it has no {MANIFEST_FILE}.", "Make one: t2l data prepare")
    manifest = read_json(folder / MANIFEST_FILE, DataError)
    version = manifest.get("format")
    if manifest.get("kind") != "t2l-data" or not isinstance(version, int):
        raise DataError(f"'{folder / MANIFEST_FILE}' is not the manifest of a data store.")
    if version > FORMAT:
        raise DataError(
            f"'{folder}' has format {version}; this t2l reads up to {FORMAT}.", "Update t2l, or prepare the data again."
        )
    return manifest


def _views(batch: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = batch.column("input_ids")
    offsets = rows.offsets.to_numpy(zero_copy_only=True)
    return offsets, rows.values.to_numpy(zero_copy_only=True), batch.column("prompt_length").to_numpy()
