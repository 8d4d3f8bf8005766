"""The hub: files of a repository as a local folder, and whether a model's own Python code may run.

Level 0. Downloads and uploads of checkpoints, adapters and encoders go through here; what the files mean is not known.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2l.errors import OutputError, T2LError

TRUST = "T2L_TRUST_REMOTE_CODE"
TRUST_FIX = (
    f"If you trust its authors with everything this account may do, set {TRUST}=1, or in Python pass "
    "trust_remote_code=True."
)


def may_run_code(trust_remote_code: bool) -> bool:
    """Whether the user lets a model's own code run: by argument, or by the environment."""
    return trust_remote_code or os.environ.get(TRUST, "") == "1"


def first_line(problem: Exception) -> str:
    """What an exception says first, without its final stop."""
    lines = str(problem).strip().splitlines()
    return (lines[0] if lines else type(problem).__name__)[:300].rstrip(".")


def is_hub_id(name: str) -> bool:
    """Whether this has the form ``organisation/name``."""
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and not name.startswith((".", "/", "~"))


def download(
    repository: str, patterns: Sequence[str], *, revision: str | None, error: type[T2LError], **hub: Any
) -> Path:
    """The folder of the hub's cache that holds those files of a repository whose names match a pattern.

    Args:
        hub: more for huggingface_hub's ``snapshot_download``: ``token``, ``cache_dir``, ``local_files_only``, ...

    Raises:
        error: the repository is not there, or neither the hub nor its cache can give it.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns), **hub))
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


@dataclass(frozen=True)
class Pushed:
    """What `push` did.

    Args:
        url: of the commit, or of the pull request where one was asked for.
        files: that were uploaded.
    """

    url: str
    files: tuple[str, ...]


def push(
    folder: Path,
    repository: str,
    patterns: Sequence[str],
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    branch: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload with t2l",
) -> Pushed:
    """Uploads the files of a folder that match a pattern, in one commit; the repository is made where there is none.

    Args:
        private: of a repository that is made; the account's habit by default.
        token: of the account; by default the one that ``hf auth login`` keeps.
        branch: to commit to, made where there is none; the main one by default.
        create_pr: open a pull request instead.

    Raises:
        OutputError: the name is no hub id, the hub refuses, or it cannot be reached.
    """
    if not is_hub_id(repository):
        raise OutputError(f"'{repository}' is not the id of a hub repository.", "Write ORGANISATION/NAME.")
    files = tuple(
        sorted(
            {
                path.relative_to(folder).as_posix()
                for pattern in patterns
                for path in folder.glob(pattern)
                if path.is_file()
            }
        )
    )
    from huggingface_hub import HfApi

    try:
        api = HfApi(token=token)
        api.create_repo(repository, private=private, exist_ok=True)
        if branch is not None:
            api.create_branch(repository, branch=branch, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository,
            folder_path=str(folder),
            allow_patterns=list(files),
            revision=branch,
            create_pr=create_pr,
            commit_message=commit_message,
        )
    except Exception as problem:  # the network and the hub each raise their own kinds
        raise OutputError(
            f"'{folder}' cannot be uploaded to '{repository}': {first_line(problem)}.",
            "Check the network and the name; to say who you are: hf auth login",
        ) from problem
    return Pushed(str(done.pr_url if create_pr else done.commit_url), files)


def _unreachable(repository: str, problem: Exception, error: type[T2LError]) -> T2LError:
    return error(
        f"'{repository}' is not a folder here and cannot be read from the hub: {first_line(problem)}.",
        "Check the name and the network (for a private or gated one: hf auth login), or give a folder.",
    )
