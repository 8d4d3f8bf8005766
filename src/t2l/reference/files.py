"""The three files of a checkpoint of the reference implementation: where they are, and reading them safely.

Level 1. Nothing is executed from a checkpoint: a state dict that needs more than tensors is refused. This file does
not know what the settings or the tensors mean.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2l.errors import CheckpointError
from t2l.hub import download, first_line, list_files
from t2l.storage import MOST_FOREIGN, read_json, read_pickled

STATE_FILE = "hypermod.pt"
ARGS_FILE = "args.yaml"
ADAPTER_FILE = "adapter_config.json"


@dataclass(frozen=True)
class CheckpointFiles:
    """Where the three files of one checkpoint are.

    Args:
        state: ``hypermod.pt``.
        args: ``args.yaml``.
        adapter: ``adapter_config.json``.
    """

    state: Path
    args: Path
    adapter: Path


def find_files(source: str | Path, checkpoint: str | None, revision: str | None) -> CheckpointFiles:
    """The files of one checkpoint: in a folder, below one, beside a ``hypermod.pt``, or downloaded from the hub.

    Raises:
        CheckpointError: there is none, or there are several and ``checkpoint`` does not choose one.
    """
    path = Path(source).expanduser()
    try:
        on_disk = path.exists()
    except (OSError, ValueError) as problem:  # a name too long for a path, or with a null character
        raise CheckpointError(f"{str(source)[:80]!r} is not a path: {first_line(problem)}.") from problem
    if on_disk and path.is_file():
        return _files_beside(path)
    if not on_disk:
        return _download(str(source), checkpoint, revision)
    if checkpoint is None and (path / STATE_FILE).is_file():
        return _files_beside(path / STATE_FILE)
    found = sorted(state.parent.relative_to(path).as_posix() for state in path.rglob(STATE_FILE))
    return _files_beside(path / _choose(found, checkpoint, f"'{source}'") / STATE_FILE)


def _files_beside(state: Path) -> CheckpointFiles:
    """The other two files: beside the state dict, or above ``checkpoints/it_N/`` where training left it."""
    folder = state.parent
    if not (folder / ARGS_FILE).is_file() and folder.parent.name == "checkpoints":
        folder = folder.parent.parent
    for name in (ARGS_FILE, ADAPTER_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"'{folder}' has no {name}.",
                f"A checkpoint of the reference implementation has {STATE_FILE}, {ARGS_FILE} and {ADAPTER_FILE}.",
            )
    return CheckpointFiles(state, folder / ARGS_FILE, folder / ADAPTER_FILE)


def _download(source: str, checkpoint: str | None, revision: str | None) -> CheckpointFiles:
    parts = source.strip("/").split("/")
    if source.startswith(("/", ".", "~")) or len(parts) < 2 or not all(parts):
        raise CheckpointError(
            f"'{source}' does not exist.",
            f"Give a folder with {STATE_FILE}, or a hub repository such as SakanaAI/text-to-lora.",
        )
    repository = "/".join(parts[:2])
    wanted = "/".join([*parts[2:], *([checkpoint] if checkpoint else [])]) or None
    names = list_files(repository, revision=revision, error=CheckpointError)
    found = sorted(name.rpartition("/")[0] or "." for name in names if name.rpartition("/")[2] == STATE_FILE)
    chosen = _choose(found, wanted, f"The hub repository '{repository}'")
    folders = {chosen, chosen.split("/checkpoints/")[0]}  # training leaves the settings above checkpoints/it_N/
    patterns = [
        name if folder == "." else f"{folder}/{name}"
        for folder in sorted(folders)
        for name in (STATE_FILE, ARGS_FILE, ADAPTER_FILE)
    ]
    root = download(repository, patterns, revision=revision, error=CheckpointError)
    return _files_beside(root / chosen / STATE_FILE)


def _choose(found: list[str], wanted: str | None, where: str) -> str:
    """One of the folders found; ``wanted`` is a whole path or its last parts."""
    if not found:
        raise CheckpointError(f"{where} holds no {STATE_FILE}, so no checkpoint of the reference implementation.")
    listed = "\n".join(f"  - {name}" for name in found[:20])
    if wanted is None:
        if len(found) == 1:
            return found[0]
        raise CheckpointError(
            f"{where} holds {len(found)} checkpoints:\n{listed}", f"Choose one: --checkpoint {found[0]}"
        )
    wanted = wanted.strip("/")
    matching = [name for name in found if name == wanted] or [n for n in found if f"/{n}".endswith(f"/{wanted}")]
    if len(matching) != 1:
        problem = "several checkpoints" if matching else "no checkpoint"
        raise CheckpointError(f"{where} holds {problem} called '{wanted}'. It holds:\n{listed}")
    return matching[0]


def read_adapter(path: Path) -> dict[str, Any]:
    """PEFT's config, refused where it asks for what no hypernetwork of the reference gives."""
    config = read_json(path, CheckpointError, most=MOST_FOREIGN)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"'{path}' is of type {kind!r}; only LORA checkpoints can be imported.")
    for name in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save"):
        if config.get(name):
            raise CheckpointError(
                f"'{path}' sets {name}: {config[name]!r}; a hypernetwork of this kind has no such parts."
            )
    return config


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict, read with ``weights_only=True``.

    Raises:
        CheckpointError: it needs code to be run, is damaged, or holds anything but plain tensors.
    """
    try:
        with warnings.catch_warnings():  # about pickle protocols; what matters becomes an error below
            warnings.simplefilter("ignore")
            state = read_pickled(path, CheckpointError)
    except CheckpointError:
        raise
    except Exception as problem:  # a damaged archive may fail anywhere in torch's reader
        reason = _torch_reason(problem)
        if "GLOBAL" in reason:
            raise CheckpointError(
                f"'{path}' asks to run code when it is opened, so it is refused: {reason}.",
                "A checkpoint needs tensors only. Do not open this file in another way unless you trust its author.",
            ) from problem
        raise CheckpointError(
            f"'{path}' is not a whole PyTorch state dict: {reason}.",
            "It may be truncated or of another kind; copy or download it again.",
        ) from problem
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"'{path}' holds {type(state).__name__}, not a state dict.")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"'{path}' is not a state dict: {name!r} is {type(tensor).__name__}.")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise CheckpointError(f"'{path}': {name} is not a plain tensor ({tensor.layout}, {tensor.dtype}).")
    return {name: tensor.detach() for name, tensor in state.items()}


def _torch_reason(problem: Exception) -> str:
    """The line of torch's explanation that says what is wrong, without its advice to load the file unsafely."""
    lines = str(problem).splitlines()
    telling = [line.strip() for line in lines if "GLOBAL" in line or "Unsupported" in line or "unsupported" in line]
    return telling[0][:200].rstrip(".") if telling else first_line(problem)
