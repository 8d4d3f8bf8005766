"""A library for real tasks: a task-specific LoRA for each task of a data store, many trained at once.

Level 4. This file knows stores and bases, and which samples of a task train and which measure; how adapters train side
by side is `t2l.training.oracles`. It does not know recipes or commands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from t2l.data.sampler import permutation
from t2l.data.store import DataStore, TaskEntry
from t2l.errors import BaseModelError, DataError, T2LError, did_you_mean
from t2l.library import Library
from t2l.lora import LoraSpec
from t2l.prompting import TEMPLATE
from t2l.storage import tensors_digest
from t2l.training.batches import IGNORED, cut
from t2l.training.loop import Report
from t2l.training.oracles import OracleConfig, OracleTask, Sample, train_oracles

_ROWS_FOR_DIGEST = 64  # of the token embeddings
_SHARE_HELD = 5  # at most one sample in so many is kept from training


@dataclass(frozen=True)
class TaskLibraryConfig:
    """How the adapters of a library are trained from a store.

    Args:
        oracle: steps, schedule, early stopping, how many at once.
        samples: of each task in a step; every sample comes once before any comes twice.
        validation: samples of a task kept from training, for early stopping; a fifth of its samples where it has
            few, and all of them, trained on as well, where it has fewer than five.
        max_length: tokens of a sample; the prompt of a longer one is cut at its beginning, and its response at its
            end where even that is too long. 0: no limit.
    """

    oracle: OracleConfig
    samples: int = 8
    validation: int = 32
    max_length: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.validation < 1:
            raise T2LError(f"samples={self.samples} and validation={self.validation} must be at least 1.")
        if self.max_length < 0 or self.max_length == 1:
            raise T2LError(f"max_length is {self.max_length}; it must be at least 2, or 0 for no limit.")


def train_task_library(
    base: Any,
    spec: LoraSpec,
    store: DataStore,
    folder: str | Path,
    config: TaskLibraryConfig,
    *,
    tasks: Sequence[TaskEntry] | None = None,
    report: Report,
) -> Library:
    """PEFT folders in ``folder``, one a task, each with its provenance; those that are there are not trained again.

    A killed run goes on where its last saved state was, and ends with the same weights as one that was not (on CPU,
    bit for bit).

    Args:
        base: frozen causal LM.
        tasks: of the store; all of them by default.
        report: called after each step with (steps done, steps in all, mean loss of the adapters that train).

    Raises:
        DataError: a task has no samples, or its samples are not those its adapter was trained on.
        BaseModelError: the store was tokenised for another base.
        T2LError: the folder holds a library that was made with other settings or of another base.
        OutputError: the folder cannot be written.
    """
    chosen = store.tasks if tasks is None else tuple(tasks)
    drawn = {"samples": config.samples, "validation": config.validation, "max_length": config.max_length}
    prompts = {} if store.prompts["system"] == TEMPLATE else store.prompts  # libraries from before it have none
    settings = {**drawn, "base": base_identity(base, spec), **prompts}
    library = Library.create(folder, spec, {**config.oracle.settings(), **settings}, peft=True)
    vocabulary = int(base.get_input_embeddings().weight.shape[0])
    wanted = [oracle_task(store, task, config, vocabulary) for task in chosen]
    for task in wanted:
        if task.name in library and library.record(task.name).get("data") != task.record["data"]:
            raise DataError(
                f"The adapter of '{task.name}' in '{folder}' was trained on other samples than those of the store.",
                "Train into another folder, or use the store that it was trained from.",
            )
    return train_oracles(base, spec, library, wanted, config.oracle, report=report)


def oracle_task(store: DataStore, task: TaskEntry, config: TaskLibraryConfig, vocabulary: int) -> OracleTask:
    """One task of a store as `train_oracles` takes it.

    Args:
        vocabulary: tokens that the base knows.

    Raises:
        DataError: it has no samples.
        BaseModelError: it has a token that the base does not know (said when the sample is read).
    """
    place = store.task_index(task.name)
    if task.samples < 1:
        raise DataError(f"The task '{task.name}' has no samples.", "Leave it out.")
    seed = config.oracle.loop.seed
    order = permutation(task.samples, _key(seed, task.name, "split"))
    count = min(config.validation, task.samples // _SHARE_HELD)
    held, free = order[:count], order[count:]
    held = held if count else order[: config.validation]

    def read(index: int) -> Sample:
        sample = store.sample(place, index)
        longest = config.max_length or len(sample.input_ids)
        cut_ids, prompt = cut(sample.input_ids, sample.prompt_length, longest)
        ids = cut_ids.tolist()
        if max(ids) >= vocabulary:
            raise BaseModelError(
                f"'{task.name}' has token {max(ids)}; the base knows {vocabulary}.",
                f"The store was tokenised for {store.manifest.get('base')!r}; prepare it for this base.",
            )
        return ids, [IGNORED] * prompt + ids[prompt:]

    def draw(step: int) -> list[Sample]:
        numbers = range(step * config.samples, (step + 1) * config.samples)
        return [read(int(index)) for index in _endless(free, numbers, lambda turn: _key(seed, task.name, turn))]

    record = {"data": _data_digest(store, task), "data_samples": task.samples}
    return OracleTask(task.name, draw, [read(int(index)) for index in sorted(held)], record)


def choose_tasks(store: DataStore, split: str, names: Sequence[str] = ()) -> tuple[TaskEntry, ...]:
    """Tasks of a store by split ("all": every one), or those named.

    Raises:
        DataError: there is no such task, or none at all.
    """
    by_name = {task.name: task for task in store.tasks}
    unknown = next((name for name in names if name not in by_name), None)
    if unknown is not None:
        raise DataError(f"The store has no task '{unknown}'.", did_you_mean(unknown, by_name))
    if names:
        return tuple(by_name[name] for name in dict.fromkeys(names))
    found = tuple(task for task in store.tasks if split in ("all", task.split))
    if not found:
        raise DataError(f"The store has no {split} task.", "See the splits: t2l data show STORE")
    return found


def base_identity(base: Any, spec: LoraSpec) -> dict[str, Any]:
    """Tells bases apart by little: the name, and a digest of norms, biases and the first rows of the embeddings.

    These are not quantised, so a base has one identity whatever its linear layers are loaded in.
    """
    parts = {name: value for name, value in base.named_parameters() if value.dim() == 1}
    parts["embeddings"] = base.get_input_embeddings().weight[:_ROWS_FOR_DIGEST]
    digest = tensors_digest({name: value.detach().to(torch.float32) for name, value in parts.items()})
    return {"name": spec.base_model, "digest": digest}


def _endless(places: Any, numbers: range, key: Callable[[int], int]) -> list[int]:
    """The samples at the given numbers of an endless order: all of them in turn, another order each time."""
    found, orders = [], {}
    for number in numbers:
        turn, within = divmod(number, len(places))
        if turn not in orders:
            orders[turn] = permutation(len(places), key(turn))
        found.append(int(places[orders[turn][within]]))
    return found


def _data_digest(store: DataStore, task: TaskEntry) -> str | None:
    """What the store says of a task's samples."""
    records = store.manifest.get("tasks", ())
    return next((record.get("digest") for record in records if record.get("name") == task.name), None)


def _key(*parts: str | int) -> int:
    return int.from_bytes(blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest(), "little")
