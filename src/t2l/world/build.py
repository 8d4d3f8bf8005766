"""Rebuilds every shipped asset of the embedded world from nothing, stage by stage, resuming where it stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

import torch

from t2l.bases import EMBEDDED_BASE, load_base
from t2l.encoders import MiniLmEncoder
from t2l.errors import T2LError
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.model import TextToLora
from t2l.storage import new_folder, read_tensors, write_tensors
from t2l.training.loop import LoopConfig, printed_progress
from t2l.training.standardization import Standardization
from t2l.world.base import base_config
from t2l.world.pretrain import pretrain
from t2l.world.sft import WorldSftConfig, embed_descriptions, train_hypernetwork
from t2l.world.tasks import tasks_of

Stage = Literal["base", "descriptions", "sft", "assets"]
STAGES: tuple[Stage, ...] = get_args(Stage)
SFT = LoopConfig(steps=5000, warmup=200, decay=0.8, save_every=100)
SFT_DATA = WorldSftConfig()
TRUNK_DIM, HEAD_DIM = 320, 512


def build(folder: Path, stages: Sequence[Stage] = STAGES, *, install: bool = False) -> Path:
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
        "assets": _assets,
    }
    for stage in STAGES:
        if stage in stages:
            steps[stage](folder)
    if install:
        _install(folder / "assets")
    return folder / "assets"


def embedded_spec() -> LoraSpec:
    """What the embedded adapters adapt: q_proj and v_proj of the tiny Llama, rank 8, as in the paper."""
    config = base_config()
    config._name_or_path = EMBEDDED_BASE
    return LoraSpec.from_base(config)


def embedded_encoder() -> MiniLmEncoder:
    """The encoder of the embedded checkpoint."""
    return MiniLmEncoder(pooling="layers")


def _base(folder: Path) -> None:
    if not (folder / "base" / "config.json").is_file():
        pretrain(folder, printed_progress("base"))


def _descriptions(folder: Path) -> None:
    if (folder / "descriptions.safetensors").is_file():
        return
    tasks = tasks_of("train")
    print(f"descriptions: embedding {len(tasks) * SFT_DATA.descriptions} texts", flush=True)
    table_NDE = embed_descriptions(embedded_encoder(), tasks, SFT_DATA.descriptions).half()
    temporary = folder / "descriptions.tmp"
    write_tensors(temporary, {"embedding_NDE": table_NDE})
    temporary.rename(folder / "descriptions.safetensors")


def _sft(folder: Path) -> None:
    if (folder / "checkpoint").is_dir():
        return
    table_NDE = read_tensors(folder / "descriptions.safetensors", T2LError)["embedding_NDE"]
    if not (folder / "base" / "config.json").is_file():
        raise T2LError(f"There is no base in '{folder}'.", "Build it first: t2l world build --stage base")
    base = load_base(folder / "base", dtype=torch.float32).model
    standardize = Standardization.of(table_NDE.flatten(0, 1))
    encoder = embedded_encoder()
    hypernetwork = HyperNetwork(
        embedded_spec(), encoder.dim, "L", trunk_dim=TRUNK_DIM, head_dim=HEAD_DIM, seed=SFT.seed
    )
    train_hypernetwork(
        hypernetwork,
        base,
        tasks_of("train"),
        standardize(table_NDE),
        SFT_DATA,
        SFT,
        state_path=folder / "sft-state.pt",
        report=printed_progress("sft"),
    )
    standardize.fold_into(hypernetwork)
    metadata = {"trained": "t2l world build --stage sft", "steps": SFT.steps, "seed": SFT.seed}
    TextToLora(encoder, hypernetwork, metadata).save_pretrained(folder / "checkpoint", dtype=torch.float16)


def _assets(folder: Path) -> None:
    with new_folder(folder / "assets", marker="base/config.json", force=True) as inside:
        for part in ("base", "checkpoint"):
            if not (folder / part).is_dir():
                raise T2LError(f"'{folder / part}' is missing.", "Run the stages before: t2l world build")
            shutil.copytree(folder / part, inside / part)


def _install(assets: Path) -> None:
    package = Path(str(resources.files("t2l"))) / "assets"
    with new_folder(package, marker="base/config.json", force=True) as inside:
        shutil.copytree(assets, inside, dirs_exist_ok=True)
    print(f"Installed in {package}", flush=True)
