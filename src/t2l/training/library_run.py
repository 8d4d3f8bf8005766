"""``t2l train library``: from a recipe to a library of PEFT folders.

Level 4. Reads the recipe, loads what it names and hands it to `t2l.training.task_library`. It prints nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from t2l.data.store import DataStore, TaskEntry
from t2l.errors import RecipeError
from t2l.library import INDEX_FILE, Library
from t2l.lora import LoraSpec
from t2l.recipes.reader import Recipe
from t2l.recipes.sections import LibrarySection, ReconSection
from t2l.training.frozen_base import load_frozen_base
from t2l.training.loop import LoopConfig, Report
from t2l.training.oracles import OracleConfig
from t2l.training.sft_run import build_spec
from t2l.training.task_library import TaskLibraryConfig, choose_tasks, train_task_library

_COPIES = 6  # of a table of adapters in float32: itself, its gradient, Adam's two moments, the best so far, rows in use
_MAX_SAMPLES = 256  # in one forward pass; tokens are what limits it


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
        DataError: the store cannot be read, or has not the tasks.
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
    config = library_config(recipe)
    base = load_frozen_base(recipe.base, torch.device(device)).model
    return train_task_library(base, build_spec(recipe), store, folder, config, tasks=tasks, report=report)


def library_config(recipe: Recipe) -> TaskLibraryConfig:
    """The recipe's settings as the training takes them."""
    library, loss = recipe.library, recipe.loss
    oracle = OracleConfig(
        loop_config(recipe, library),
        learning_rate=library.learning_rate,
        weight_decay=library.weight_decay,
        check_every=library.check_every,
        patience=library.patience,
        chunk=library.together,
        max_samples=_MAX_SAMPLES,
        max_tokens=library.pass_tokens,
        loss=loss,
        dropout=recipe.lora.dropout,
    )
    return TaskLibraryConfig(oracle, library.samples, library.validation, recipe.data.max_length)


def loop_config(recipe: Recipe, section: LibrarySection | ReconSection) -> LoopConfig:
    """Steps and schedule of a section of its own; what every kind of training shares is the recipe's.

    A library's state is small and its runs are short: it is saved at every look at the validation samples as well.
    """
    loop, warmup = recipe.loop, round(section.warmup * section.steps)
    often = min(loop.save_every, section.check_every) if isinstance(section, LibrarySection) else loop.save_every
    return LoopConfig(section.steps, warmup, section.decay, loop.clip, often, loop.seed)


def open_store(recipe: Recipe) -> DataStore:
    """The store that a recipe names.

    Raises:
        RecipeError: it names none.
        DataError: it cannot be read.
    """
    if recipe.data.store is None:
        raise RecipeError("The recipe names no data.", "Give a store that t2l data prepare made: data.store=FOLDER")
    return DataStore.open(recipe.data.store)
