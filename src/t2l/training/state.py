"""The state of a killed run on disk: written whole or not at all, read without running code.

Level 4. This file knows tensors and plain values under names; it does not know what is trained.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from t2l.errors import OutputError, T2LError
from t2l.storage import read_pickled


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes all that the rest of a run depends on; a state that is there already stays until the new one is whole.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(state), temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as problem:  # a full disk is a RuntimeError to torch
        temporary.unlink(missing_ok=True)
        raise OutputError(f"Cannot write the training state '{path}': {problem}.", "Free some space.") from problem


def read_state(path: Path, parts: Sequence[str], *, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """What `write_state` wrote; None where there is no such file.

    Args:
        parts: names that it must have.
        device: where its tensors go.

    Raises:
        T2LError: the file is damaged, of another kind, or holds more than tensors and plain values.
    """
    if not path.exists():
        return None
    try:
        state = read_pickled(path, T2LError, device=device)
        return {**state, **{name: state[name] for name in parts}}
    except Exception as problem:  # torch and zipfile each raise their own kinds
        reason = getattr(problem, "message", str(problem)) or type(problem).__name__
        raise T2LError(f"The training state '{path}' cannot be read: {reason}", afresh(path)) from problem


def afresh(path: Path) -> str:
    """What to do about a state that cannot be used."""
    return f"Delete '{path}' to start afresh."
