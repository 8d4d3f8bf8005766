"""The folder of `t2l world build`, read: every stage, study and comparison finds the work of earlier stages here.

``base/`` is the tiny Llama, ``descriptions.safetensors`` the token states of the training descriptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from t2l.bases import EMBEDDED_BASE, load_base
from t2l.encoders import MiniLmEncoder
from t2l.errors import T2LError
from t2l.library import INDEX_FILE, Library
from t2l.lora import LoraSpec
from t2l.world.base import base_config
from t2l.world.conditions import DescriptionTable

DESCRIPTIONS = 64
"""Training descriptions of each task, in every table."""


def embedded_spec(target_modules: Sequence[str] | None = None, rank: int = 8) -> LoraSpec:
    """What adapters of the tiny Llama adapt: q_proj and v_proj with rank 8, as in the paper, where nothing is said."""
    config = base_config()
    config._name_or_path = EMBEDDED_BASE
    return LoraSpec.from_base(config, target_modules=target_modules and list(target_modules), rank=rank)


def embedded_encoder() -> MiniLmEncoder:
    """The encoder of the embedded checkpoint."""
    return MiniLmEncoder(pooling="layers")


def built_base(folder: Path) -> Any:
    """The tiny Llama that ``folder`` holds, float32.

    Raises:
        T2LError: it has not been built.
    """
    if not (folder / "base" / "config.json").is_file():
        raise T2LError(
            f"There is no base in '{folder}'.", f"Build it first: t2l world build --stage base --dir {folder}"
        )
    model = load_base(folder / "base", dtype=torch.float32).model
    model.set_attn_implementation("eager")  # on such short sequences faster than torch's fused attention
    return model


def built_library(folder: Path) -> Library | None:
    """The trained adapters of the training tasks that ``folder`` holds; None where it holds none."""
    return Library.open(folder / "library") if (folder / "library" / INDEX_FILE).is_file() else None


def built_token_states(folder: Path) -> DescriptionTable:
    """The token states of the training descriptions that ``folder`` holds.

    Raises:
        T2LError: they have not been built, or the file holds something else.
    """
    path = folder / "descriptions.safetensors"
    if not path.is_file():
        raise T2LError(
            f"There are no embedded descriptions in '{folder}'.",
            f"Build them first: t2l world build --stage descriptions --dir {folder}",
        )
    table = DescriptionTable.load(path)
    if table.width != MiniLmEncoder("tokens").dim:
        raise T2LError(f"'{path}' holds no token states.", "Delete it and build the stage 'descriptions' again.")
    return table
