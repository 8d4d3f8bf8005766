"""The folder of a run: its recipe, its checkpoints, its metrics, and the lock that keeps a second process out.

Level 4. ``recipe.yaml``, ``metrics.jsonl`` (a line a step), ``validation.jsonl``, ``incidents.jsonl`` (steps that went
wrong, with their samples), ``steps/00000500/`` (a checkpoint), ``checkpoint/`` (the result). A checkpoint appears
whole, by a rename, or not at all, and an older one goes only when the newer is there. This file does not know what the
tensors mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2l.errors import CheckpointError, OutputError, RecipeError, T2LError
from t2l.recipes.reader import Recipe, load_recipe, recipe_differences
from t2l.storage import new_folder, read_json, read_pickled, read_tensors, write_bytes, write_json, write_tensors

STATE_FILE = "state.json"
_FILES = ("model.safetensors", "training.pt")  # of a checkpoint, besides the state that holds their digests
_STEP = re.compile(r"[0-9]{8,}")
_FORMAT = 1
# what changes nothing of what is computed, so a resume may change it unasked
_FREE = ("about:", "loop.save_every:", "loop.keep:", "loop.log_every:", "loop.trackers:", "hardware.")


class RunFolder:
    """One run's place on disk."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self.result = self.folder / "checkpoint"
        self.metrics = self.folder / "metrics.jsonl"
        self.validation = self.folder / "validation.jsonl"
        self.incidents = self.folder / "incidents.jsonl"
        self.recipe_file = self.folder / "recipe.yaml"
        self.steps = self.folder / "steps"

    def open(self, recipe: Recipe, what: str, *, accept_changes: bool = False) -> list[str]:
        """Begins a run here, or takes up the one that is here; the recipe's differences from it, where accepted.

        Args:
            what: is trained ("sft", "lora", "recon"); part of what must be the same.

        Raises:
            RecipeError: the run here has another recipe; the differences are listed.
            OutputError: the folder holds something else, or cannot be written.
        """
        kind_file = self.folder / "run.json"
        there = self.folder.is_dir() and any(p.name != ".lock" for p in self.folder.iterdir())
        if there and not kind_file.is_file():
            raise OutputError(f"'{self.folder}' holds something else than a training run.", "Choose another: -o FOLDER")
        differences: list[str] = []
        if kind_file.is_file():
            before = read_json(kind_file, CheckpointError).get("trains")
            if before != what:
                raise RecipeError(f"'{self.folder}' is a run of t2l train {before}.", "Choose another: -o FOLDER")
            differences = recipe_differences(load_recipe(self.recipe_file), recipe)
            telling = [line for line in differences if not line.startswith(_FREE)]
            if telling and self.last() is not None and not accept_changes:
                raise RecipeError(
                    f"'{self.folder}' is a run with another recipe:\n" + "\n".join(f"  {line}" for line in telling),
                    "Use the same settings, another folder (-o), or go on with the new ones: --accept-changes",
                )
        write_json(kind_file, {"kind": "t2l-training-run", "format": _FORMAT, "trains": what})
        write_bytes(self.recipe_file, recipe.to_yaml().encode())
        return differences

    def check_prompts(self, prompts: Mapping[str, Any]) -> None:
        """Keeps how the run's data prompts the base, or compares it with what was kept.

        Raises:
            RecipeError: the run here has steps that were made with other prompts.
        """
        file = self.folder / "prompts.json"
        kept = read_json(file, CheckpointError) if file.is_file() else None
        if kept is not None and kept != prompts and self.last() is not None:
            raise RecipeError(
                f"The run in '{self.folder}' was begun with prompts of the form {kept.get('prompt')!r}; those of the "
                f"store now are {prompts.get('prompt')!r}.",
                "Use the store that it was begun with, or begin another run: -o FOLDER",
            )
        write_json(file, dict(prompts))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time; the lock of one that was killed is gone with it.

        Raises:
            OutputError: another process trains here.
        """
        try:
            import fcntl
        except ImportError:  # not a Unix
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as problem:
                raise OutputError(
                    f"Another process trains in '{self.folder}'.", "Wait for it, or choose another folder: -o FOLDER"
                ) from problem
            yield

    def saved(self) -> list[int]:
        """The steps of the whole checkpoints, ascending."""
        if not self.steps.is_dir():
            return []
        return sorted(
            int(p.name) for p in self.steps.iterdir() if _STEP.fullmatch(p.name) and (p / STATE_FILE).is_file()
        )

    def last(self) -> int | None:
        """The step of the newest checkpoint; None where there is none."""
        return max(self.saved(), default=None)

    def place(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.steps / f"{step:08d}"

    def save(
        self, step: int, tensors: Mapping[str, Tensor], training: Mapping[str, Any], state: Mapping[str, Any]
    ) -> None:
        """Writes a checkpoint, whole or not at all.

        Args:
            tensors: the trained module's.
            training: of the optimisers and random generators: what torch saves without pickling code.
            state: plain JSON values.

        Raises:
            OutputError: it cannot be written (a full disk); older checkpoints are untouched.
        """
        try:
            with new_folder(self.place(step), marker=STATE_FILE, force=True) as inside:
                write_tensors(inside / "model.safetensors", tensors)
                torch.save(dict(training), inside / "training.pt")
                digests = {name: _digest(inside / name) for name in _FILES}
                written = {"kind": "t2l-training-state", "format": _FORMAT, "digests": digests}
                write_json(inside / STATE_FILE, {**written, **state})
                for file in inside.iterdir():
                    _to_disk(file)
        except (RuntimeError, OutputError) as problem:  # a full disk is a RuntimeError to torch
            older = self.last()
            fix = "Free some space, then run the same command again"
            fix += f": it goes on from step {older}, whose checkpoint is whole." if older else "."
            raise OutputError(f"The checkpoint of step {step} cannot be written: {problem}", fix) from problem

    def load(self, step: int) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
        """The tensors, the training state and the plain values of a checkpoint.

        Raises:
            CheckpointError: one of its files is missing, damaged or not the one that was saved; says how to go on from
                the checkpoint before it.
        """
        place = self.place(step)
        try:
            state = read_json(place / STATE_FILE, CheckpointError)
            digests = state.get("digests", {})  # checkpoints of before have none
            for name in _FILES:
                if isinstance(digests, dict) and name in digests and digests[name] != _digest(place / name):
                    raise CheckpointError(f"'{place / name}' is not what was saved: the digests differ.")
            tensors = read_tensors(place / "model.safetensors", CheckpointError)
            training = read_pickled(place / "training.pt", CheckpointError)
        except Exception as problem:  # torch, zipfile and the disk each raise their own kinds
            reason = problem.message if isinstance(problem, T2LError) else str(problem) or type(problem).__name__
            older = max((other for other in self.saved() if other < step), default=None)
            way = "To begin anew" if older is None else f"To go on from step {older}"
            raise CheckpointError(
                f"The checkpoint of step {step} is damaged: {' '.join(reason.split())[:400]}", f"{way}: rm -r '{place}'"
            ) from problem
        return tensors, training, state

    def prune(self, keep: int, best: int | None) -> None:
        """Takes away all but the last ``keep`` checkpoints and the best one."""
        for step in self.saved()[:-keep]:
            if step != best:
                shutil.rmtree(self.place(step), ignore_errors=True)

    def forget_after(self, step: int) -> None:
        """Cuts from the metrics what a killed process did after its last checkpoint, half a line included."""
        for path in (self.metrics, self.validation, self.incidents):
            if path.is_file():
                kept = [line for line in path.read_text(encoding="utf-8").split("\n") if _step_of(line) <= step]
                write_bytes(path, "".join(f"{line}\n" for line in kept).encode())

    def note(self, path: Path, record: Mapping[str, Any]) -> None:
        """Adds a line to the metrics or the incidents.

        Raises:
            OutputError: it cannot be written (a full disk); half a line is cut off when the run goes on.
        """
        try:
            with path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")
        except OSError as problem:
            reason = problem.strerror or problem
            fix = "Free some space, then run the same command again: it goes on from its newest checkpoint."
            raise OutputError(f"Cannot write '{path}': {reason}.", fix) from problem


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # half a line, or none


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
