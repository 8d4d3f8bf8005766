"""Hyperdecoder (arXiv 2203.08304): the hypernetwork reads the input to be answered instead of a task description.

Every input gets an adapter of its own, from the frozen base's last hidden state at the last token of the prompt. What
names the task must then be visible in the input itself.

Axis letters: S samples, T tokens, W hidden width of the base.

Level 5. The source is a plain `t2l.hypernet.HyperNetwork` with E = W; this file gives it its conditions and its
folder: ``config.json`` (structure, settings) and ``model.safetensors``. It does not know tasks or texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2l.errors import CheckpointError, T2LError
from t2l.heads import Variant
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.storage import new_folder, read_json, read_tensors, write_json, write_tensors

CONFIG_FILE, TENSOR_FILE = "config.json", "model.safetensors"


def new_hyperdecoder(
    spec: LoraSpec, width: int, variant: Variant, *, trunk_dim: int, head_dim: int, dropout: float = 0.05, seed: int = 0
) -> HyperNetwork:
    """One that has learned nothing: it gives adapters that change nothing.

    Args:
        width: W of the base.
    """
    return HyperNetwork(spec, width, variant, trunk_dim=trunk_dim, head_dim=head_dim, dropout=dropout, seed=seed)


def save_hyperdecoder(
    source: HyperNetwork, folder: str | Path, settings: Mapping[str, Any], *, force: bool = False
) -> Path:
    """Writes it as a folder, whole or not at all.

    Args:
        settings: how it was trained, as plain JSON values.

    Raises:
        OutputError: the folder exists (and ``force`` is not set) or cannot be written.
    """
    with new_folder(folder, marker=CONFIG_FILE, force=force) as inside:
        write_tensors(inside / TENSOR_FILE, source.state_dict())
        write_json(inside / CONFIG_FILE, {"structure": source.to_config(), "settings": dict(settings)})
    return Path(folder)


def load_hyperdecoder(folder: str | Path) -> HyperNetwork:
    """The hyperdecoder of a folder, frozen.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    folder = Path(folder).expanduser()
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"'{folder}' holds no hyperdecoder.", "Train one: t2l train hyperdecoder RECIPE")
    config = read_json(folder / CONFIG_FILE, CheckpointError)
    if not isinstance(config.get("structure"), dict):
        raise CheckpointError(f"'{folder}' is no hyperdecoder.", "Train one: t2l train hyperdecoder RECIPE")
    tensors = read_tensors(folder / TENSOR_FILE, CheckpointError)
    return HyperNetwork.from_tensors(config["structure"], tensors, source=folder).eval().requires_grad_(False)


@torch.no_grad()
def input_states(base: Any, ids_ST: Tensor, labels_ST: Tensor) -> Tensor:
    """The plain base's last hidden state at the last token before each sample's answer: (S, W), float32.

    Under causal attention the state does not depend on what follows it, so the answer may stand in the batch: nothing
    of it gets into the condition.

    Args:
        labels_ST: negative where nothing is predicted, as in the prompt.

    Raises:
        T2LError: a sample without an answer, or one that begins with it.
    """
    labelled_ST = labels_ST >= 0
    first_S = labelled_ST.int().argmax(dim=1)
    if not bool(labelled_ST.any(dim=1).all()) or not bool((first_S > 0).all()):
        raise T2LError("A hyperdecoder's sample needs a prompt and, after it, an answer.")
    with torch.autocast(ids_ST.device.type, enabled=False):  # the same state in training and in use
        hidden_STW = base.base_model(input_ids=ids_ST).last_hidden_state
    return hidden_STW[torch.arange(len(first_S), device=hidden_STW.device), first_S - 1].float()
