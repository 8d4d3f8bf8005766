"""Rebuilds every shipped asset of the embedded world from nothing, stage by stage, resuming where it stopped."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from random import Random
from typing import Literal, get_args

import torch
from torch import Tensor

from t2l.encoders import MiniLmEncoder
from t2l.errors import T2LError
from t2l.guidance.guide import is_calibrated
from t2l.hypernet import HyperNetwork
from t2l.library import Library
from t2l.model import TextToLora
from t2l.storage import new_folder
from t2l.training.loop import LoopConfig, printed_progress
from t2l.training.reconstruction import ReconstructionConfig, train_reconstruction
from t2l.training.standardization import Standardization
from t2l.world.calibration import calibrate_world
from t2l.world.comparators import ComparatorConfig, train_hyperdecoder, train_library, train_multi_task
from t2l.world.conditions import DescriptionTable
from t2l.world.pretrain import pretrain
from t2l.world.sft import SftRecipe, build_hypernetwork, train_hypernetwork
from t2l.world.tasks import SPLITS, tasks_of
from t2l.world.wording import descriptions
from t2l.world.workfolder import DESCRIPTIONS, built_base, built_token_states, embedded_encoder, embedded_spec

Stage = Literal["base", "descriptions", "sft", "library", "recon", "comparators", "calibration", "assets"]
STAGES: tuple[Stage, ...] = get_args(Stage)
SHIPPED: tuple[Stage, ...] = ("base", "descriptions", "sft", "calibration", "assets")
"""The stages that the shipped assets come from; the others are for comparisons."""
SFT = SftRecipe(LoopConfig(steps=6300, restart=3500, warmup=200, decay=0.8, save_every=100))
RECONSTRUCTION = ReconstructionConfig(LoopConfig(steps=6000, warmup=300, save_every=500), tasks=64, learning_rate=8e-4)


def build(folder: Path, stages: Sequence[Stage] = SHIPPED, *, install: bool = False) -> Path:
    """Runs the stages in order; what is finished in ``folder`` is not done again.

    Args:
        install: replace the assets of this installation of the package by the new ones.

    Returns:
        ``folder/assets``, which holds ``base`` and ``checkpoint``.

    Raises:
        T2LError: a stage is asked for whose predecessors are missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    steps: dict[Stage, Callable[[Path], None]] = {
        "base": _base,
        "descriptions": _descriptions,
        "sft": _sft,
        "library": _library,
        "recon": _recon,
        "comparators": _comparators,
        "calibration": _calibration,
        "assets": _assets,
    }
    for stage in STAGES:
        if stage in stages:
            steps[stage](folder)
    if install:
        _install(folder / "assets")
    return folder / "assets"


def _base(folder: Path) -> None:
    if not (folder / "base" / "config.json").is_file():
        pretrain(folder, printed_progress("base"))


def _descriptions(folder: Path) -> None:
    path = folder / "descriptions.safetensors"
    if path.is_file():
        return
    texts = [descriptions(task, DESCRIPTIONS, part="train") for task in tasks_of("train")]
    begun = time.monotonic()

    def report(done: int, total: int) -> None:
        left = (time.monotonic() - begun) * (total - done) / done / 60
        print(f"descriptions: {done} of {total} texts embedded, {left:.1f} min left", flush=True)

    # token states, from which the studies take what they want; the recipe reads them pooled
    DescriptionTable.embed(MiniLmEncoder("tokens"), texts, report).save(path)


def _sft(folder: Path) -> None:
    if (folder / "checkpoint").is_dir():
        return
    table, base = _table(folder), built_base(folder)
    hypernetwork = train_hypernetwork(
        SFT,
        base,
        embedded_spec(),
        embedded_encoder(),
        tasks_of("train"),
        table,
        state_path=folder / "sft-state.pt",
        report=printed_progress("sft"),
    )
    metadata = {
        "trained": "t2l world build --stage sft",
        "training_tasks": len(tasks_of("train")),
        "steps": SFT.loop.steps,
        "seed": SFT.loop.seed,
    }
    TextToLora(embedded_encoder(), hypernetwork, metadata).save_pretrained(folder / "checkpoint", dtype=torch.float16)


def _library(folder: Path) -> None:
    train_library(built_base(folder), folder / "library", tasks_of("train"), ComparatorConfig().library)


def _recon(folder: Path) -> None:
    if (folder / "recon").is_dir():
        return
    table = _table(folder)
    if not (folder / "library" / "index.json").is_file():
        raise T2LError(f"There is no library in '{folder}'.", "Build it first: t2l world build --stage library")
    library = Library.open(folder / "library")
    place = {task.name: index for index, task in enumerate(tasks_of("train"))}

    standardize = Standardization.of(table.rows_NDE().flatten(0, 1))

    def condition_of(rng: Random, name: str) -> Tensor:
        return standardize(table.draw(rng, place[name], 1)[0])

    hypernetwork: HyperNetwork = train_reconstruction(
        build_hypernetwork(SFT, embedded_spec(), embedded_encoder(), head_init="linear", output_affine=True),
        library,
        condition_of,
        RECONSTRUCTION,
        names=list(place),
        state_path=folder / "recon-state.pt",
        report=printed_progress("recon", 100),
    )
    standardize.fold_into(hypernetwork)
    metadata = {
        "trained": "t2l world build --stage recon",
        "training_tasks": len(place),
        "steps": RECONSTRUCTION.loop.steps,
    }
    TextToLora(embedded_encoder(), hypernetwork, metadata).save_pretrained(folder / "recon")


def _comparators(folder: Path) -> None:
    base, config = built_base(folder), ComparatorConfig()
    held_out = [task for split in SPLITS if split != "train" for task in tasks_of(split)]
    train_library(base, folder / "oracle", held_out, config.oracle)
    train_multi_task(base, folder / "multi-task", config.multi_task)
    train_hyperdecoder(base, folder / "hyperdecoder", config.hyperdecoder)


def _calibration(folder: Path) -> None:
    if not (folder / "checkpoint").is_dir():
        raise T2LError(
            f"There is no checkpoint in '{folder}'.", f"Build it first: t2l world build --stage sft --dir {folder}"
        )
    t2l = TextToLora.from_pretrained(folder / "checkpoint")
    if is_calibrated(t2l):
        return
    base = built_base(folder)
    static = train_multi_task(base, folder / "multi-task", ComparatorConfig().multi_task)  # done where it is there
    calibrate_world(t2l, base, static=static.weights().detach(), report=print).save(folder / "checkpoint")


def _assets(folder: Path) -> None:
    with new_folder(folder / "assets", marker="base/config.json", force=True) as inside:
        for part in ("base", "checkpoint"):
            if not (folder / part).is_dir():
                raise T2LError(f"'{folder / part}' is missing.", "Run the stages before: t2l world build")
            shutil.copytree(folder / part, inside / part)


def _table(folder: Path) -> DescriptionTable:
    return built_token_states(folder).pooled(embedded_encoder().pooling)


def _install(assets: Path) -> None:
    package = Path(str(resources.files("t2l"))) / "assets"
    for part in ("base", "checkpoint"):  # one by one: another checkpoint lies beside them
        with new_folder(package / part, marker="config.json", force=True) as inside:
            shutil.copytree(assets / part, inside, dirs_exist_ok=True)
    print(f"Installed in {package}", flush=True)
