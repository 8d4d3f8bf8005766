"""What the folders and documents of all runs share: names of files, the head of a document, a base's fingerprint.

Level 5. This file knows folders and versions; it knows no benchmark, no row and no score.
"""

from __future__ import annotations

import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from t2l.bases import Base
from t2l.errors import OutputError, T2LError
from t2l.evaluation.answers import ANSWERS_FILE
from t2l.storage import read_json, tensors_digest

RUN_FILE = "run.json"
SETTINGS_FILE = "settings.json"
BENCHMARKS, SUITE = "t2l-evaluation", "t2l-suite"
"""Kinds of documents: benchmarks of lm-evaluation-harness, and a suite of tasks with definitions."""
_FORMAT = 1
PACKAGES = ("t2l", "torch", "transformers", "peft", "lm_eval", "datasets", "numpy")


def fingerprint(base: Base) -> str:
    """Of a base's one-dimensional parameters, norms above all: tells models of one name apart at little cost."""
    small = {name: one for name, one in base.model.named_parameters() if one.dim() == 1 and one.device.type != "meta"}
    return tensors_digest(small)[:16]


def check_folder(folder: Path) -> None:
    """Raises `OutputError` where ``folder`` is a file, or a folder with something else than a run in it."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"'{folder}' is a file; a run is a folder.", "Choose another place: --out FOLDER")
    if folder.is_dir() and not (folder / SETTINGS_FILE).is_file() and any(folder.iterdir()):
        raise OutputError(f"'{folder}' holds something else than a run.", "Choose another place: --out FOLDER")


def head(*packages: str) -> dict[str, Any]:
    """What measured a run, and when: command, date, machine, and versions of `PACKAGES` and of ``packages``."""
    return {
        "command": ["t2l", *sys.argv[1:]],
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in (*PACKAGES, *packages)}},
    }


def read_run(place: Path) -> dict[str, Any]:
    """A run, of either kind, from its folder or its file.

    Raises:
        T2LError: there is none, or it is not a finished run.
    """
    file = place / RUN_FILE if place.is_dir() else place
    if place.is_dir() and not file.is_file() and (place / ANSWERS_FILE).is_file():
        raise T2LError(
            f"The run in '{place}' was interrupted.", f"Give the same command again: t2l evaluate ... --out {place}"
        )
    run = read_json(file, T2LError)
    if run.get("kind") not in (BENCHMARKS, SUITE) or run.get("format") != _FORMAT:
        raise T2LError(f"'{file}' is not a run of t2l evaluate that this version reads.")
    return run


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
