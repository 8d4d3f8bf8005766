"""The folder of a run: settings, answers as they come, and at the end one JSON document; shared by all evaluations.

Level 5. ``settings.json`` says what decides the answers; ``answers.jsonl`` only grows, so that an interrupted run goes
on where it was; ``facts.json`` says which commands answered, where they are several; ``run.json`` is whole or absent.
This file knows keys, JSON values and folders; it knows no model, no row and no score.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from t2l.bases import Base
from t2l.errors import OutputError, T2LError
from t2l.storage import read_json, tensors_digest, write_json

ANSWERS_FILE, FACTS_FILE, RUN_FILE, SETTINGS_FILE = "answers.jsonl", "facts.json", "run.json", "settings.json"
BENCHMARKS, SUITE = "t2l-evaluation", "t2l-suite"
"""Kinds of documents: benchmarks of lm-evaluation-harness, and a suite of tasks with definitions."""
FORMAT = 1
PACKAGES = ("t2l", "torch", "transformers", "peft", "lm_eval", "datasets", "numpy")


class Answers:
    """Key -> JSON value, in a file that only grows; in memory alone without one.

    Args:
        file: where lines are appended; what is there already is read, a line that the end of a process cut off is
            dropped.

    Raises:
        OutputError: the file cannot be read or written.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self._known: dict[str, Any] = {}
        if file is None:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            whole = file.read_bytes() if file.exists() else b""
            lines = whole.split(b"\n")
            for line in lines[:-1]:
                key, value = json.loads(line)
                self._known[key] = value
            if lines[-1]:  # the process ended in the middle of a line
                with file.open("r+b") as stream:
                    stream.truncate(len(whole) - len(lines[-1]))
        except OSError as problem:
            raise OutputError(f"The answers in '{file}' cannot be kept: {problem}.") from problem
        except (ValueError, TypeError) as problem:
            raise T2LError(
                f"'{file}' is not a file of answers: {problem}.", "Delete it, or write the run elsewhere: --out FOLDER"
            ) from problem

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> Any:
        """The kept value; None where there is none."""
        return self._known.get(key)

    def put(self, values: dict[str, Any]) -> None:
        """Keeps values, on disk before this returns."""
        self._known.update(values)
        if self.file is not None and values:
            try:
                with self.file.open("a", encoding="utf-8") as stream:
                    stream.writelines(json.dumps([key, value]) + "\n" for key, value in values.items())
            except OSError as problem:
                raise OutputError(f"'{self.file}' cannot be written: {problem}.") from problem


def key_of(*parts: Any) -> str:
    """A key that is the same for the same JSON values."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def open_run(
    folder: Path, settings: Mapping[str, Any], rows: Mapping[str, str] | None = None, *, restart: bool = False
) -> tuple[Answers, dict[str, Any]]:
    """The answers that a run's folder has, and its settings with what is added to them.

    Args:
        settings: all that decides every row's answers; the folder must have been made with the same.
        rows: row -> what else decides its answers; rows may be added, but none may change.
        restart: forget what is there.

    Raises:
        OutputError: the folder holds another run, or cannot be written.
    """
    check_folder(folder)
    known = folder / SETTINGS_FILE
    now: dict[str, Any] = json.loads(json.dumps(settings))
    if restart:
        for name in (ANSWERS_FILE, RUN_FILE, FACTS_FILE):
            (folder / name).unlink(missing_ok=True)
    before = {} if restart or not known.is_file() else read_json(known, OutputError)
    other = [name for name in now if before and before.get(name) != now[name]]
    if rows is not None:
        kept = before.get("rows")
        earlier: dict[str, Any] = kept if isinstance(kept, dict) else {}
        other += [f"row '{row}'" for row, identity in rows.items() if earlier.get(row, identity) != identity]
        now["rows"] = {**earlier, **rows}
    if other:
        raise OutputError(
            f"'{folder}' holds a run with another {', '.join(other)}; it was left as it is.",
            "Choose another place (--out FOLDER), or add --restart to lose it.",
        )
    write_json(known, now)
    return Answers(folder / ANSWERS_FILE), now


def kept_run(folder: Path | None) -> tuple[Answers, dict[str, Any]]:
    """Answers and settings of a run that was made before, here or elsewhere.

    Raises:
        T2LError: no folder is named, or it holds no answers.
    """
    if folder is None:
        raise T2LError("--score-only needs the folder of a run.", "Name it: --out FOLDER")
    check_folder(folder)
    if not (folder / ANSWERS_FILE).is_file():
        raise T2LError(f"'{folder}' holds no answers.", "Make some: t2l evaluate --suite sni FOLDER --out RUN")
    return Answers(folder / ANSWERS_FILE), read_json(folder / SETTINGS_FILE, T2LError)


def facts_of(folder: Path) -> dict[str, Any]:
    """What earlier commands that answered say of themselves; empty where none did."""
    return read_json(folder / FACTS_FILE, T2LError) if (folder / FACTS_FILE).is_file() else {}


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
    if run.get("kind") not in (BENCHMARKS, SUITE) or run.get("format") != FORMAT:
        raise T2LError(f"'{file}' is not a run of t2l evaluate that this version reads.")
    return run


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
