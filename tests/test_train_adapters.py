"""``t2l train library`` and ``t2l train recon``: from a store to PEFT folders, and from these to a checkpoint."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from helpers import random_weights, save_tiny_llama
from t2l.adapter import Adapter
from t2l.cli import app
from t2l.data.store import DataStore, TaskEntry
from t2l.errors import RecipeError, T2LError
from t2l.library import Library
from t2l.lora import LoraSpec
from t2l.model import TextToLora
from t2l.recipes.reader import Recipe, load_recipe
from t2l.training.loop import accelerator_of
from t2l.training.reconstruction import plan_recon, run_recon, tasks_of
from t2l.training.run_folder import RunFolder
from test_task_library import make_store

NAMES = [f"{words}shift-{number}" for number in (1, 2, 3) for words in ("Do ", "It is ")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a store, a recipe, and a library of random adapters for the store's tasks."""
    folder = tmp_path_factory.mktemp("place")
    base = save_tiny_llama(folder / "base")
    make_store(folder / "store")
    encoder = {"kind": "one-hot", "names": [f"{name}." for name in NAMES]}
    recipe: dict[str, Any] = {
        "base": {"model": str(base), "dtype": "float32", "attention": "eager"},
        "encoder": encoder,
        "lora": {"rank": 2, "dropout": 0.0},
        "data": {"store": str(folder / "store")},
        "hypernetwork": {"trunk_dim": 16, "head_dim": 16, "dropout": 0.0},
        "loop": {"save_every": 5, "log_every": 5},
        "validation": {"every": 5},
        "library": {"split": "all", "steps": 6, "together": 2, "check_every": 2, "learning_rate": 1e-2},
        "recon": {"steps": 12, "tasks": 2, "library": str(folder / "library")},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    spec = LoraSpec.from_base(str(base), rank=2)
    library = Library.create(folder / "library", spec, peft=True)
    weights = random_weights(spec, 3)
    library.add({f"shift-{number}": (weights.select(number - 1), {}) for number in (1, 2, 3)})
    return folder


def recipe_of(place: Path, *changes: str) -> Recipe:
    return load_recipe(place / "recipe.yaml", changes)


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, ["train", *words])


def test_from_a_store_to_a_library_to_a_checkpoint(place: Path, tmp_path: Path) -> None:
    recipe, library, run = str(place / "recipe.yaml"), str(tmp_path / "library"), str(tmp_path / "run")
    planned = invoke("library", recipe, "-o", library, "--dry-run", "--json")
    assert planned.exit_code == 0, planned.output
    plan = json.loads(planned.stdout)
    assert plan["tasks"] == 3 and plan["trained_already"] == 0 and plan["steps_at_most"] == 12
    assert not Path(library).exists()
    trained = invoke("library", recipe, "-o", library, "--cpu", "--json")
    assert trained.exit_code == 0, trained.output
    assert set(json.loads(trained.stdout)["adapters"]) == {"shift-1", "shift-2", "shift-3"}
    assert Adapter.load(Path(library) / "shift-2").provenance["task"] == "shift-2"
    again = invoke("library", recipe, "-o", library, "--dry-run", "--json")
    assert json.loads(again.stdout)["trained_already"] == 3
    given = (f"recon.library={library}", "-o", run, "--cpu", "--json")
    planned = invoke("recon", recipe, *given, "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout)["learned"] == 2 and json.loads(planned.stdout)["held_out"] == 1
    done = invoke("recon", recipe, *given)
    assert done.exit_code == 0, done.output
    t2l = TextToLora.from_pretrained(json.loads(done.stdout)["result"])
    (adapter,) = t2l.generate(["Do shift-1."])
    assert adapter.spec.rank == 2 and t2l.metadata["trained_by"] == "t2l train recon"
    changed = invoke("recon", recipe, *given, "recon.tasks=1")
    assert changed.exit_code == 2 and "recon.tasks: 2 -> 1" in changed.output


def recon(recipe: Recipe, place: Path) -> list[dict[str, Any]]:
    """Trains, saves the checkpoint, and gives the lines of the metrics."""
    folder = RunFolder(place)
    trained = run_recon(recipe, folder, accelerator_of(place, cpu=True), say=lambda line: None)
    trained.save_pretrained(folder.result, force=True)
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def test_reconstruction_that_is_killed_ends_with_the_same_checkpoint(place: Path, tmp_path: Path) -> None:
    program = f"""
import os, signal, torch
torch.set_num_threads(1)
from pathlib import Path
from t2l.recipes.reader import load_recipe
from t2l.training.reconstruction import ReconJob
from test_train_adapters import recon
learn = ReconJob.learn
def learn_until(self, step, rank, world):
    if step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return learn(self, step, rank, world)
ReconJob.learn = learn_until
recon(load_recipe({str(place / "recipe.yaml")!r}), Path({str(tmp_path / "killed")!r}))
"""
    paths = {"PYTHONPATH": ":".join(sys.path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    paths["T2L_CACHE"] = str(tmp_path / "cache")
    done = subprocess.run([sys.executable, "-c", program], env=paths, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with pytest.raises(RecipeError, match=r"recon.learning_rate: 0.001 -> 0.5"):
        recon(recipe_of(place, "recon.learning_rate=0.5"), tmp_path / "killed")
    assert RunFolder(tmp_path / "killed").last() == 5
    assert recon(recipe_of(place), tmp_path / "killed") == recon(recipe_of(place), tmp_path / "whole")
    first, other = ((tmp_path / name / "checkpoint" / "model.safetensors") for name in ("killed", "whole"))
    assert first.read_bytes() == other.read_bytes()


def test_adapters_find_their_tasks_by_name_or_number(place: Path) -> None:
    store = DataStore.open(place / "store")
    tasks = tuple(TaskEntry(name, "train", 1, ()) for name in ("task022_cosmosqa", "task1391_winogrande", "plain"))
    numbered = DataStore(store.folder, store.manifest, tasks, [], ())
    names = ["Mistral-7B-Instruct-v0.2-4b-r16-task022", "lol_1391", "plain", "v0.2-r22", "task23"]
    found = {name: task.name for name, task in tasks_of(names, numbered).items()}
    assert found == {names[0]: "task022_cosmosqa", names[1]: "task1391_winogrande", "plain": "plain"}


def test_what_cannot_be_learned_is_named(place: Path, tmp_path: Path) -> None:
    library = Library.open(place / "library")
    for name in ("shift-1", "shift-2", "shift-3", "unknown"):
        source = "shift-1" if name == "unknown" else name
        library.adapter(source).save(tmp_path / "mixed" / name)
    wide = LoraSpec.from_base(str(place / "base"), rank=2, target_modules=["q_proj", "k_proj", "v_proj"])
    Adapter(wide, random_weights(wide)).save(tmp_path / "mixed" / "wide")
    changes = (f"recon.library={tmp_path / 'mixed'}",)
    with pytest.raises(T2LError, match=r"(?s)1 of 5 adapters do not fit.*wide: it adapts .*k_proj and 1 more as well"):
        plan_recon(recipe_of(place, *changes))
    plan = plan_recon(recipe_of(place, *changes, "recon.skip_odd=true"))
    assert plan.learned == ("shift-1", "shift-2") and plan.held_out == ("shift-3",)
    assert set(plan.left_out) == {"wide", "unknown"} and "no such task" in plan.left_out["unknown"]
    with pytest.raises(RecipeError, match="names no library"):
        plan_recon(recipe_of(place, "recon.library=null"))
    with pytest.raises(RecipeError, match="names no data"):
        plan_recon(recipe_of(place, "data.store=null"))


def test_deltas_without_standardisation_and_held_out_tasks(place: Path, tmp_path: Path) -> None:
    changes = ("recon.target=deltas", "recon.delta_scale=100", "hypernetwork.standardize=false", "validation.every=0")
    recipe = recipe_of(place, *changes, "recon.steps=40", "recon.learning_rate=2e-2")
    losses = [record["loss"] for record in recon(recipe, tmp_path / "run")]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    (adapter,) = TextToLora.from_pretrained(tmp_path / "run" / "checkpoint").generate(["Do shift-1."])
    target = Library.open(place / "library").adapter("shift-1")
    path = target.spec.module_paths()[0]
    assert torch.isfinite(adapter.delta(path)).all()
