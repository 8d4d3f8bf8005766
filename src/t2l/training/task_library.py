"""A library for real tasks (``t2l train library``): a LoRA for each task of a data store, many trained at once.

Level 4. This file knows recipes, stores and bases, and which samples of a task train and which measure; how adapters
train side by side is `t2l.training.rows`. It prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from t2l.data.sampler import permutation
from t2l.data.store import DataStore, TaskEntry
from t2l.errors import BaseModelError, DataError, RecipeError, did_you_mean
from t2l.library import INDEX_FILE, Library
from t2l.lora import LoraSpec
from t2l.prompting import TEMPLATE
from t2l.recipes.reader import Recipe
from t2l.storage import tensors_digest
from t2l.training.batches import Tokens, cut, key_of
from t2l.training.frozen_base import load_frozen_base
from t2l.training.rows import Report, RowTask, row_settings, train_rows
from t2l.training.source import build_spec

_COPIES = 6  # of a table of adapters in float32: itself, its gradient, Adam's two moments, the best so far, rows in use
_ROWS_FOR_DIGEST = 64  # of the token embeddings
_SHARE_HELD = 5  # at most one sample in so many is kept from training


@dataclass(frozen=True)
class LibraryPlan:
    """What a run will do, known before it starts.

    Args:
        spec: of every adapter.
        tasks: those of the store that the recipe chooses.
        there: how many of them have an adapter already.
        memory: bytes of the adapters that train together, the base and its activations aside.
        steps: optimiser steps at most, each of all adapters that train together.
    """

    spec: LoraSpec
    tasks: tuple[TaskEntry, ...]
    there: int
    memory: int
    steps: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for people and for ``--json``."""
        return {
            "base": self.spec.base_model,
            "modules": self.spec.target_modules,
            "layers": self.spec.num_layers,
            "rank": self.spec.rank,
            "parameters_of_an_adapter": self.spec.num_parameters,
            "tasks": len(self.tasks),
            "trained_already": self.there,
            "steps_at_most": self.steps,
            "memory_of_the_adapters_gb": round(self.memory / 1e9, 3),
        }


def plan_library(recipe: Recipe, folder: Path) -> LibraryPlan:
    """What `run_library` will do; loads no weights.

    Raises:
        RecipeError: the recipe names no store.
        DataError: the store cannot be read, or lacks the tasks.
        BaseModelError: the base's config cannot be read.
    """
    store = open_store(recipe)
    tasks = choose_tasks(store, recipe.library.split, recipe.data.tasks)
    spec = build_spec(recipe)
    known = Library.open(folder).names if (folder / INDEX_FILE).is_file() else []
    there = sum(task.name in known for task in tasks)
    together = recipe.library.together
    chunks = -(-(len(tasks) - there) // together)
    memory = min(together, max(1, len(tasks) - there)) * spec.num_parameters * 4 * _COPIES
    return LibraryPlan(spec, tasks, there, memory, chunks * recipe.library.steps)


def run_library(recipe: Recipe, folder: Path, *, device: str = "cpu", report: Report) -> Library:
    """Trains what is missing of the library in ``folder``.

    Raises:
        T2LError: see `plan_library` and `train_task_library`.
    """
    store = open_store(recipe)
    tasks = choose_tasks(store, recipe.library.split, recipe.data.tasks)
    base = load_frozen_base(recipe.base, torch.device(device)).model
    return train_task_library(base, build_spec(recipe), store, folder, recipe, tasks=tasks, report=report)


def open_store(recipe: Recipe) -> DataStore:
    """The store that a recipe names.

    Raises:
        RecipeError: it names none.
        DataError: it cannot be read.
    """
    if recipe.data.store is None:
        raise RecipeError("The recipe names no data.", "Give a store that t2l data prepare made: data.store=FOLDER")
    return DataStore.open(recipe.data.store)


def train_task_library(
    base: Any,
    spec: LoraSpec,
    store: DataStore,
    folder: str | Path,
    recipe: Recipe,
    *,
    tasks: Sequence[TaskEntry] | None = None,
    report: Report,
) -> Library:
    """PEFT folders in ``folder``, one a task, each with its provenance; those that are there are not trained again.

    A killed run goes on where its last saved state was, and ends with the same weights as one that was not (on CPU,
    bit for bit).

    Args:
        base: frozen causal LM.
        recipe: its sections ``library``, ``data.max_length``, and those that `train_rows` reads.
        tasks: of the store; all of them by default.
        report: called after each step with (steps done, steps in all, mean loss of the adapters that train).

    Raises:
        DataError: a task has no samples, or its samples are not those its adapter was trained on.
        BaseModelError: the store was tokenised for another base.
        T2LError: the folder holds a library that was made with other settings or of another base.
        OutputError: the folder cannot be written.
    """
    chosen = store.tasks if tasks is None else tuple(tasks)
    section = recipe.library
    drawn = {"samples": section.samples, "validation": section.validation, "max_length": recipe.data.max_length}
    prompts = {} if store.prompts["system"] == TEMPLATE else store.prompts  # libraries from before it have none
    settings = {**drawn, "base": base_identity(base, spec), **prompts}
    library = Library.create(folder, spec, {**row_settings(recipe), **settings}, peft=True)
    vocabulary = int(base.get_input_embeddings().weight.shape[0])
    wanted = [row_task(store, task, recipe, vocabulary) for task in chosen]
    for task in wanted:
        if task.name in library and library.record(task.name).get("data") != task.record["data"]:
            raise DataError(
                f"The adapter of '{task.name}' in '{folder}' was trained on other samples than those of the store.",
                "Train into another folder, or use the store that it was trained from.",
            )
    return train_rows(base, spec, library, wanted, recipe, report=report)


def row_task(store: DataStore, task: TaskEntry, recipe: Recipe, vocabulary: int) -> RowTask:
    """One task of a store as `train_rows` takes it.

    Args:
        vocabulary: tokens that the base knows.

    Raises:
        DataError: it has no samples.
        BaseModelError: it has a token that the base does not know (said when the sample is read).
    """
    place = store.task_index(task.name)
    if task.samples < 1:
        raise DataError(f"The task '{task.name}' has no samples.", "Leave it out.")
    seed, section = recipe.loop.seed, recipe.library
    order = permutation(task.samples, key_of(seed, task.name, "split"))
    count = min(section.validation, task.samples // _SHARE_HELD)
    held, free = order[:count], order[count:]
    held = held if count else order[: section.validation]

    def read(index: int) -> Tokens:
        sample = store.sample(place, index)
        ids, prompt = cut(sample.input_ids, sample.prompt_length, recipe.data.max_length)
        if ids.max() >= vocabulary:
            raise BaseModelError(
                f"'{task.name}' has token {ids.max()}; the base knows {vocabulary}.",
                f"The store was tokenised for {store.manifest.get('base')!r}; prepare it for this base.",
            )
        return ids, prompt

    def draw(step: int) -> list[Tokens]:
        numbers = range(step * section.samples, (step + 1) * section.samples)
        return [read(int(index)) for index in _endless(free, numbers, lambda turn: key_of(seed, task.name, turn))]

    record = {"data": _data_digest(store, task), "data_samples": task.samples}
    return RowTask(task.name, draw, [read(int(index)) for index in sorted(held)], record)


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
