"""``t2l train recon``: from a recipe and a library of adapters to a checkpoint.

Level 4. Reads the recipe, finds each adapter's task and its descriptions, and hands them to
`t2l.training.reconstruction`. Adapters come from disk batch by batch and descriptions' embeddings from the cache on
disk, so memory does not grow with the library. It prints nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2l.data.sampler import permutation
from t2l.data.store import DataStore, TaskEntry
from t2l.encoders import DescriptionEncoder, encoder_from_config
from t2l.encoders.cache import CachedEncoder, default_cache_folder
from t2l.encoders.description import warned_once
from t2l.errors import RecipeError, T2LError
from t2l.hypernet import HyperNetwork
from t2l.library import Library
from t2l.lora import LoraSpec
from t2l.model import TextToLora
from t2l.prompting import recorded
from t2l.recipes.reader import Recipe
from t2l.training.conditions import EncodingProgress, Standardization
from t2l.training.fresh_hypernetwork import fresh_hypernetwork
from t2l.training.library_run import loop_config, open_store
from t2l.training.loop import Report
from t2l.training.reconstruction import HeldOut, ReconstructionConfig, train_reconstruction
from t2l.training.run_folder import RunFolder

STATE_FILE, BEST_FILE = "state.pt", "best.safetensors"
_TEXTS_AT_A_TIME = 256
_NUMBER = re.compile(r"(?:^|[-_])(?:task|lol_?)0*(\d+)(?:[-_]|$)", re.IGNORECASE)
_SHOWN = 8

Watch = Callable[[int, float, bool], None]
"""Called with (steps done, loss on held-out tasks, whether it is the lowest so far)."""


@dataclass(frozen=True)
class ReconPlan:
    """What a run will do, known before it starts.

    Args:
        library: the adapters, those that were left out named in its ``odd``.
        tasks: adapter -> its task.
        learned: adapters that are learned.
        held_out: adapters to measure on.
        left_out: adapter -> why it is neither.
    """

    library: Library
    tasks: Mapping[str, TaskEntry]
    learned: tuple[str, ...]
    held_out: tuple[str, ...]
    left_out: Mapping[str, str]

    @property
    def spec(self) -> LoraSpec:
        """In which the adapters are read."""
        return self.library.spec


def plan_recon(recipe: Recipe) -> ReconPlan:
    """Which adapters are learned and which measure; reads headers, no weights.

    Raises:
        RecipeError: the recipe names no library or no store.
        AdapterError: adapters do not fit the others, or are without descriptions; they are named.
        T2LError: the library or the store cannot be read.
    """
    if recipe.recon.library is None:
        raise RecipeError(
            "The recipe names no library of adapters.",
            "Give a folder: recon.library=FOLDER (t2l train library makes one).",
        )
    store = open_store(recipe)
    library = Library.open(recipe.recon.library, skip_odd=recipe.recon.skip_odd)
    tasks = tasks_of(library.names, store)
    left_out = dict(library.odd)
    for name in library.names:
        if name not in tasks:
            left_out[name] = "the store has no such task"
        elif not tasks[name].descriptions:
            left_out[name] = "its task has no description"
    missing = [name for name in left_out if name not in library.odd]
    if missing and not recipe.recon.skip_odd:
        listed = "\n".join(f"  - {name}: {left_out[name]}" for name in missing[:_SHOWN])
        more = f"\n  - and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise T2LError(
            f"{len(missing)} of {len(library)} adapters cannot be learned:\n{listed}{more}",
            "Prepare a store with these tasks, or leave the adapters out: recon.skip_odd=true",
        )
    usable = [name for name in library.names if name not in left_out]
    held_out = [name for name in usable if tasks[name].split == "validation"]
    learned = [name for name in usable if tasks[name].split == "train"]
    for name in usable:
        if tasks[name].split == "test":
            left_out[name] = "its task is a test task"
    if not held_out and recipe.recon.held_out > 0 and len(learned) > 3:
        count = max(1, round(recipe.recon.held_out * len(learned)))
        key = int.from_bytes(blake2b(f"held out/{recipe.loop.seed}".encode(), digest_size=8).digest(), "little")
        drawn = {learned[int(place)] for place in permutation(len(learned), key)[:count]}
        held_out = [name for name in learned if name in drawn]
        learned = [name for name in learned if name not in drawn]
    if len(learned) < 2:
        raise T2LError(f"{len(learned)} adapters of '{library.folder}' can be learned; it takes at least 2.")
    return ReconPlan(library, tasks, tuple(learned), tuple(held_out), left_out)


def run_recon(
    recipe: Recipe,
    run: RunFolder,
    *,
    device: str = "cpu",
    accept_changes: bool = False,
    report: Report,
    watch: Watch = lambda done, loss, best: None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Trains into the run's folder and gives the checkpoint in it; goes on where a killed run stopped.

    Args:
        accept_changes: go on though the recipe is not the one that the run began with.
        watch: told what is measured on held-out tasks.
        say: told how far the encoding of the descriptions is, before the first step.

    Raises:
        RecipeError: the folder's run began with another recipe; the differences are named.
        T2LError: see `plan_recon` and `train_reconstruction`.
    """
    folder, checkpoint = run.folder, run.result
    plan = plan_recon(recipe)
    begun = checkpoint.is_dir() or (folder / STATE_FILE).is_file()
    run.open(recipe, "recon", accept_changes=accept_changes, begun=begun)
    if checkpoint.is_dir():
        return checkpoint
    encoder = CachedEncoder(encoder_from_config(recipe.encoder, device=device))
    texts = {name: described(recipe, plan.tasks[name]) for name in (*plan.learned, *plan.held_out)}
    scale = embed_all(encoder, [text for name in plan.learned for text in texts[name]], say)
    standardize = scale if recipe.hypernetwork.standardize else None

    def embed(some: Sequence[str]) -> Tensor:
        embedding_NE = encoder.encode(some)
        return embedding_NE if standardize is None else standardize(embedding_NE)

    held_out = None
    if plan.held_out and recipe.validation.every:
        measured = plan.held_out[: recipe.validation.tasks]
        conditions = {name: embed(texts[name][: recipe.validation.descriptions]) for name in measured}
        held_out = HeldOut(conditions, recipe.validation.every, folder / BEST_FILE, watch)
    hypernetwork = train_reconstruction(
        new_hypernetwork(recipe, plan.spec, encoder).to(device),
        plan.library,
        lambda rng, name: embed([rng.choice(texts[name])])[0],
        recon_config(recipe),
        names=plan.learned,
        held_out=held_out,
        statistics_folder=default_cache_folder() / "statistics",
        state_path=folder / STATE_FILE,
        report=report,
    ).to("cpu")
    if standardize is not None:
        standardize.fold_into(hypernetwork)
    metadata = {
        "trained": "t2l train recon",
        "training_tasks": len(plan.learned),
        "recipe": recipe.to_dict(),
        "seed": recipe.loop.seed,
        **recorded(plan.library.settings),
    }
    TextToLora(encoder.encoder, hypernetwork, metadata).save_pretrained(checkpoint)
    for name in (STATE_FILE, BEST_FILE):
        (folder / name).unlink(missing_ok=True)
    return checkpoint


def new_hypernetwork(recipe: Recipe, spec: LoraSpec, encoder: DescriptionEncoder) -> HyperNetwork:
    """The recipe's hypernetwork at its start; it speaks in z-scores."""
    return fresh_hypernetwork(recipe, spec, encoder, head_init="linear", output_gain=True, output_shift=True)


def recon_config(recipe: Recipe) -> ReconstructionConfig:
    """The recipe's settings as the training takes them."""
    recon = recipe.recon
    return ReconstructionConfig(
        loop_config(recipe, recon),
        tasks=recon.tasks,
        learning_rate=recon.learning_rate,
        weight_decay=recon.weight_decay,
        noise=recon.noise,
        target=recon.target,
        z_scores=recon.z_scores,
        delta_scale=recon.delta_scale,
    )


def tasks_of(names: Sequence[str], store: DataStore) -> dict[str, TaskEntry]:
    """Adapter -> task of the store: of the same name, else of the same number (``...-task022`` is ``task022_x``)."""
    by_name = {task.name: task for task in store.tasks}
    by_number: dict[int, TaskEntry] = {}
    for task in store.tasks:
        if (number := _number(task.name)) is not None:
            by_number.setdefault(number, task)
    found = {}
    for name in names:
        number = _number(name)
        task = by_name.get(name) or (by_number.get(number) if number is not None else None)
        if task is not None:
            found[name] = task
    return found


def described(recipe: Recipe, task: TaskEntry) -> tuple[str, ...]:
    """The descriptions of a task that the recipe trains on."""
    return task.descriptions[: recipe.data.descriptions_per_task or len(task.descriptions)]


def embed_all(encoder: DescriptionEncoder, texts: Sequence[str], say: Callable[[str], None]) -> Standardization:
    """Embeds every description once, into the encoder's cache, and gives what standardises them.

    The sums are taken in float64 as the embeddings pass by; none is kept in memory.
    """
    count, total_E, squares_E = 0, torch.zeros(encoder.dim).double(), torch.zeros(encoder.dim).double()
    distinct = list(dict.fromkeys(texts))
    progress = EncodingProgress(distinct, say)
    with warned_once():
        for start in range(0, len(distinct), _TEXTS_AT_A_TIME):
            some = distinct[start : start + _TEXTS_AT_A_TIME]
            embedding_NE = encoder.encode(some).double()
            count += len(embedding_NE)
            total_E += embedding_NE.sum(dim=0)
            squares_E += embedding_NE.square().sum(dim=0)
            progress.add(some)
    return Standardization.from_sums(count, total_E, squares_E)


def _number(name: str) -> int | None:
    match = _NUMBER.search(name)
    return int(match[1]) if match else None


def plan_figures(recipe: Recipe, plan: ReconPlan, encoder: DescriptionEncoder) -> dict[str, Any]:
    """Plain values for people and for ``--json``: shapes, parameters, memory, steps."""
    with torch.device("meta"):
        hypernetwork = new_hypernetwork(recipe, plan.spec, encoder)
    parameters, adapter = hypernetwork.num_parameters, plan.spec.num_parameters
    # weights, gradient, Adam's two moments; the affine's two; the batch's targets, outputs and their gradients
    memory = 4 * (4 * parameters + 2 * adapter + 4 * recipe.recon.tasks * adapter)
    return {
        "library": str(plan.library.folder),
        "adapters": len(plan.library),
        "learned": len(plan.learned),
        "held_out": len(plan.held_out),
        "left_out": dict(plan.left_out),
        "rank": plan.spec.rank,
        "modules": plan.spec.target_modules,
        "parameters_of_an_adapter": adapter,
        "parameters_of_the_hypernetwork": parameters,
        "target": recipe.recon.target,
        "steps": recipe.recon.steps,
        "memory_gb": round(memory / 1e9, 3),
    }
