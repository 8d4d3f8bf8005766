"""A library trained from a data store: each task's adapter learns its task, and a process that is killed goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import Killed, kill_at, silent, tiny_base, tiny_config
from t2l.adapter import Adapter
from t2l.data.prompts import SampleRows
from t2l.data.store import DataStore, TaskEntry
from t2l.data.writer import open_writer
from t2l.errors import BaseModelError, DataError, T2LError, TrainingStopped
from t2l.library import Library
from t2l.lora import LoraSpec
from t2l.recipes.reader import Recipe, recipe_from
from t2l.training.batches import Tokens
from t2l.training.rows import STATE_FILE, collate_rows
from t2l.training.task_library import choose_tasks, row_task, train_task_library

LIBRARY = {
    "steps": 12,
    "warmup": 2 / 12,
    "decay": 0.5,
    "learning_rate": 0.02,
    "check_every": 4,
    "patience": 3,
    "together": 2,
    "pass_tokens": 40,
    "samples": 3,
    "validation": 4,
}


def recipe_of(**changes: Any) -> Recipe:
    """Short training of a library."""
    loss = {"label_smoothing": 0.0}
    return recipe_from(
        {"library": {**LIBRARY, **changes}, "loop": {"save_every": 3}, "loss": loss, "lora": {"dropout": 0.0}}
    )


CONFIG = recipe_of()
SIZES = {"shift-1": 30, "shift-2": 9, "shift-3": 3}


def make_store(target: Path, seed: int = 0) -> DataStore:
    """Tasks whose answer is the prompt's first token, shifted."""
    generator = np.random.default_rng(seed)
    with open_writer(target, {"tokenizer": "x"}, force=False, restart=False) as writer:
        for place, (name, size) in enumerate(SIZES.items()):
            samples, prompts = [], []
            for _ in range(size):
                prompt = generator.integers(2, 30, size=int(generator.integers(2, 6))).tolist()
                samples.append([1, *prompt, 2 + (prompt[0] + place) % 30, 39])
                prompts.append(len(prompt) + 1)
            offsets = np.cumsum([0, *map(len, samples)], dtype=np.int32)
            tokens = np.concatenate([np.array(ids, dtype=np.int32) for ids in samples])
            writer.append(name, SampleRows(offsets, tokens, np.array(prompts, dtype=np.int32)), {})
        records = [{**record, "split": "train"} for record in writer.done.values()]
        records[-1]["split"] = "validation"
        lines = [{"name": name, "descriptions": [f"Do {name}.", f"It is {name}."]} for name in writer.done]
        writer.finish(target, {"tasks": records, "base": "tiny"}, lines)
    return DataStore.open(target)


def tiny_spec() -> LoraSpec:
    return LoraSpec.from_base(tiny_config(), rank=2)


@pytest.fixture(scope="module")
def base() -> Any:
    return tiny_base()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DataStore:
    return make_store(tmp_path_factory.mktemp("store") / "store")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def plain(samples: Sequence[Tokens]) -> list[tuple[list[int], int]]:
    return [(ids.tolist(), prompt) for ids, prompt in samples]


def test_samples_that_measure_are_not_trained_on_and_all_others_come_in_turn(store: DataStore) -> None:
    task = row_task(store, store.tasks[0], CONFIG, 40)
    held = {tuple(ids) for ids, _ in task.validation}
    everything = {tuple(store.sample(0, index).input_ids.tolist()) for index in range(30)}
    first_turn = [tuple(ids) for step in range(8) for ids, _ in task.draw(step)]
    assert len(task.validation) == 4 and len(first_turn) == 24
    assert held <= everything and not held & set(first_turn)
    assert len({*first_turn, *(tuple(ids) for ids, _ in task.draw(8))}) == len(everything - held)
    again = row_task(store, store.tasks[0], CONFIG, 40)
    assert plain(task.draw(5)) == plain(again.draw(5)) != plain(task.draw(6))
    ids, prompt = task.draw(5)[0]
    assert prompt == len(ids) - 2
    few = row_task(store, store.tasks[2], CONFIG, 40)
    assert len(few.validation) == 3  # too few to spare any


def test_every_task_has_a_peft_folder_with_its_provenance(base: Any, store: DataStore, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    library = train_task_library(
        base, tiny_spec(), store, tmp_path / "library", CONFIG, report=lambda done, steps, _: seen.append((done, steps))
    )
    assert library.names == list(SIZES) and seen[-1][0] == seen[-1][1] == 24
    for name in library.names:
        adapter = Adapter.load(tmp_path / "library" / name)
        noted = adapter.provenance
        assert noted["task"] == name and noted["record"]["data_samples"] == SIZES[name]
        assert noted["library"]["base"]["digest"] and noted["record"]["best_step"] > 0
        assert adapter.spec.scaling == tiny_spec().scaling
    before = files(tmp_path / "library")
    train_task_library(base, tiny_spec(), store, tmp_path / "library", CONFIG, report=kill_at(1))  # nothing to train
    assert files(tmp_path / "library") == before


def test_a_process_that_is_killed_goes_on_to_the_same_bytes(base: Any, store: DataStore, tmp_path: Path) -> None:
    """SIGKILL in the second chunk, after a saved state and on the way to the next."""
    train_task_library(base, tiny_spec(), store, tmp_path / "whole", CONFIG, report=silent)
    program = f"""
import os, signal, sys, torch
torch.set_num_threads(1)
from pathlib import Path
from helpers import tiny_base
from t2l.data.store import DataStore
from t2l.training.task_library import train_task_library
from test_task_library import CONFIG, tiny_spec
def report(done, steps, loss):
    if done == 17:
        os.kill(os.getpid(), signal.SIGKILL)
store = DataStore.open({str(store.folder)!r})
train_task_library(tiny_base(), tiny_spec(), store, {str(tmp_path / "killed")!r}, CONFIG, report=report)
"""
    paths = {"PYTHONPATH": ":".join(sys.path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=paths, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "killed" / STATE_FILE).is_file() and len(Library.open(tmp_path / "killed")) == 2
    library = train_task_library(base, tiny_spec(), store, tmp_path / "killed", CONFIG, report=silent)
    assert library.names == list(SIZES)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_sigterm_saves_and_leaves(base: Any, store: DataStore, tmp_path: Path) -> None:
    def report(done: int, steps: int, loss: float) -> None:
        if done == 16:
            signal.raise_signal(signal.SIGTERM)

    train_task_library(base, tiny_spec(), store, tmp_path / "whole", CONFIG, report=silent)
    with pytest.raises(TrainingStopped, match="after step 17"):
        train_task_library(base, tiny_spec(), store, tmp_path / "stopped", CONFIG, report=report)
    seen: list[int] = []
    train_task_library(
        base, tiny_spec(), store, tmp_path / "stopped", CONFIG, report=lambda done, *_: seen.append(done)
    )
    assert seen[0] == 6  # of the second chunk, the first one being there
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_what_does_not_belong_together_is_refused(base: Any, store: DataStore, tmp_path: Path) -> None:
    def attempt(changed: Recipe = CONFIG, own: DataStore = store, model: Any = base) -> None:
        train_task_library(model, tiny_spec(), own, tmp_path / "library", changed, report=kill_at(1))

    train_task_library(base, tiny_spec(), store, tmp_path / "library", CONFIG, tasks=store.tasks[:1], report=silent)
    with pytest.raises(T2LError, match="was made with"):
        attempt(recipe_of(samples=4))
    with pytest.raises(T2LError, match="was made with"):
        attempt(model=tiny_base(seed=1))
    with pytest.raises(DataError, match="'shift-1' .* trained on other samples"):
        attempt(own=make_store(tmp_path / "other", seed=1))
    with pytest.raises(BaseModelError, match=r"(?s)the base knows 12.*tokenised for 'tiny'"):
        row_task(store, store.tasks[0], CONFIG, 12)
    empty = DataStore(store.folder, store.manifest, (TaskEntry("empty", "train", 0, ()),), [], ())
    with pytest.raises(DataError, match="'empty' has no samples"):
        attempt(own=empty)
    with pytest.raises(T2LError, match="library.samples is 0"):
        recipe_of(samples=0)
    with pytest.raises(Killed):
        attempt()


def test_tasks_are_chosen_by_split_or_name(store: DataStore) -> None:
    assert [task.name for task in choose_tasks(store, "train")] == ["shift-1", "shift-2"]
    assert len(choose_tasks(store, "all")) == 3
    assert [task.name for task in choose_tasks(store, "train", ["shift-3", "shift-3"])] == ["shift-3"]
    with pytest.raises(DataError, match="Did you mean 'shift-3'"):
        choose_tasks(store, "train", ["shift-33"])
    with pytest.raises(DataError, match="no test task"):
        choose_tasks(store, "test")


def test_a_pass_holds_no_more_tokens_than_allowed() -> None:
    samples = [(row, (np.ones(length, dtype=int), 0)) for row, length in enumerate([3, 9, 4, 50, 8, 2])]
    batches = collate_rows(samples, 24)
    assert sorted(row for batch in batches for row in batch.index_S.tolist()) == list(range(6))
    assert [tuple(batch.ids_ST.shape) for batch in batches] == [(1, 50), (2, 9), (3, 4)]
    assert torch.equal(batches[2].index_S, torch.tensor([0, 2, 5]))
