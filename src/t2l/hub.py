"""The hub: files of a repository as a folder here, and leave to run the Python code that a model may bring.

Level 0. Downloads and uploads of checkpoints, adapters and encoders go through here; what the files mean is not known.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from t2l.errors import T2LError

LEAVE = "T2L_TRUST_REMOTE_CODE"
LEAVE_FIX = (
    f"If you trust its authors with everything this account may do, set {LEAVE}=1, or in Python pass "
    "trust_remote_code=True."
)


def may_run_code(trust_remote_code: bool) -> bool:
    """Whether the user lets a model's own code run: by argument, or by the environment."""
    return trust_remote_code or os.environ.get(LEAVE, "") == "1"


def first_line(problem: Exception) -> str:
    """What an exception says first, without its final stop."""
    lines = str(problem).strip().splitlines()
    return (lines[0] if lines else type(problem).__name__)[:300].rstrip(".")


def is_hub_id(name: str) -> bool:
    """Whether this has the form ``organisation/name``."""
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and not name.startswith((".", "/", "~"))


def download(repository: str, patterns: Sequence[str], *, revision: str | None, error: type[T2LError]) -> Path:
    """The folder of the hub's cache that holds those files of a repository whose names match a pattern.

    Raises:
        error: the repository is not there, or neither the hub nor its cache can give it.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except Exception as problem:  # the network, the hub and its cache each raise their own kinds
        raise _unreachable(repository, problem, error) from problem


def list_files(repository: str, *, revision: str | None, error: type[T2LError]) -> list[str]:
    """The names of a repository's files; without a network, of those that were downloaded before.

    Raises:
        error: the repository is not there, or neither the hub nor its cache can be asked.
    """
    from huggingface_hub import list_repo_files, snapshot_download

    try:
        return list_repo_files(repository, revision=revision)
    except Exception as problem:
        try:
            root = Path(snapshot_download(repository, revision=revision, local_files_only=True))
        except Exception:
            raise _unreachable(repository, problem, error) from problem
        return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]


def _unreachable(repository: str, problem: Exception, error: type[T2LError]) -> T2LError:
    return error(
        f"'{repository}' is no folder here and cannot be read from the hub: {first_line(problem)}.",
        "Check the name and the network (for a private or gated one: hf auth login), or give a folder.",
    )
