"""Runs the arms of studies: each is one training run and one evaluation, written as one JSON file.

Arms are independent, so that several processes can each take others: an arm is locked by the system while its process
lives, a finished one is not run again, and a killed one goes on from its last saved state. An arm with the settings of
a finished arm of another study takes over its result.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from t2l.errors import T2LError
from t2l.hypernet import HyperNetwork
from t2l.storage import read_json, write_json
from t2l.training.loop import Report, printed_progress
from t2l.training.standardization import Standardization
from t2l.world.evaluate import Effort, evaluate
from t2l.world.sft import SftRecipe, build_hypernetwork, train_hypernetwork
from t2l.world.studies import STUDIES, STUDY_STEPS, Arm, Study
from t2l.world.studies_inputs import StudyInputs
from t2l.world.tasks import MicroTask, Split

STUDY_SPLITS: tuple[Split, ...] = ("train", "validation", "unseen-combination", "unseen-operation")
STUDY_CONDITIONS = ("matched", "paraphrase", "other-task")
STUDY_EFFORT = Effort(examples=10, wordings=2, train_tasks=60)
RECONSTRUCTION_TASKS, RECONSTRUCTION_RATE = 32, 1e-3
_CLOCK_EVERY = 20  # steps
_TIMED_STEPS = 12
_PACKAGES = ("torch", "transformers", "numpy")


def result_path(folder: Path, study: Study, arm: Arm) -> Path:
    """Where the result of an arm lies."""
    return folder / "studies" / study.name / f"{arm.label}.json"


def settings_of(arm: Arm, budget: int) -> dict[str, Any]:
    """All that determines an arm's run, as plain JSON values."""
    recipe = asdict(arm.recipe(budget))
    settings = {
        "recipe": recipe,
        "encoder": arm.encoder,
        "quality": arm.quality,
        "targets": list(arm.targets),
        "rank": arm.rank,
        "objective": arm.objective,
    }
    if arm.objective == "reconstruction":
        settings["reconstruction"] = {"tasks": RECONSTRUCTION_TASKS, "learning_rate": RECONSTRUCTION_RATE}
    return settings


def finished(folder: Path, study: Study) -> dict[str, dict[str, Any]]:
    """Label -> result of the arms that are done, in the study's order."""
    paths = {arm.label: result_path(folder, study, arm) for arm in study.arms}
    return {label: read_json(path, T2LError) for label, path in paths.items() if path.is_file()}


def run_study(
    study: Study,
    folder: Path,
    *,
    arms: Sequence[Arm] | None = None,
    steps: int = STUDY_STEPS,
    inputs: StudyInputs | None = None,
    effort: Effort = STUDY_EFFORT,
    say: Callable[[str], None] = lambda line: print(line, flush=True),
) -> None:
    """Runs the arms that are neither done nor being run by another process.

    Args:
        folder: that of ``t2l world build``.
        arms: some of the study's; all by default.
        steps: of a full arm.
        say: is given a line about the study's progress.

    Raises:
        T2LError: an arm was run with other settings before, or its inputs are missing.
    """
    inputs = inputs or StudyInputs(folder)
    waiting = list(arms or study.arms)
    begun, ran = time.monotonic(), 0
    for number, arm in enumerate(waiting, start=1):
        name = f"{study.name}/{arm.label}"
        path, settings = result_path(folder, study, arm), settings_of(arm, steps)
        if path.is_file():
            _check_same(path, settings)
            continue
        work = _work_path(folder, settings)
        with locked(work.with_suffix(".lock")) as free:
            if not free:
                say(f"{name}: another process is at it")
                continue
            if path.is_file():
                continue
            if (twin := _twin(folder, settings)) is not None:
                say(f"{name}: the same run as {twin['study']}/{twin['arm']}")
                write_json(path, {**twin, "study": study.name, "arm": arm.label, "row": arm.row, "varies": arm.varies})
                continue
            each = (time.monotonic() - begun) / ran if ran else 0.0
            left = f", about {each * (len(waiting) - number + 1) / 60:.0f} min left" if ran else ""
            say(f"{name}: arm {number} of {len(waiting)}{left}")
            write_json(path, _run(study, arm, folder, inputs, steps, effort, work.with_suffix(".pt")))
            work.with_suffix(".pt").unlink(missing_ok=True)
            work.with_suffix(".clock").unlink(missing_ok=True)
            ran += 1


def _run(
    study: Study, arm: Arm, folder: Path, inputs: StudyInputs, budget: int, effort: Effort, state_path: Path
) -> dict[str, Any]:
    clock = _Clock(state_path.with_suffix(".clock"), printed_progress(f"{study.name}/{arm.label}", 50))
    base, encoder, table = inputs.base(), inputs.encoder(arm), inputs.table(arm)
    spec, recipe = inputs.spec(arm), arm.recipe(budget)
    if arm.objective == "sft":
        hypernetwork = train_hypernetwork(
            recipe, base, spec, encoder, inputs.tasks, table, state_path=state_path, report=clock
        )
    else:
        hypernetwork = _reconstruct(study, arm, folder, inputs, recipe, clock, state_path)
    one_hot = arm.encoder == "one-hot"
    scores = evaluate(
        base,
        encoder,
        hypernetwork,
        effort=replace(effort, wordings=1) if one_hot else effort,
        splits=("train",) if one_hot else STUDY_SPLITS,
        conditions=("matched", "other-task") if one_hot else STUDY_CONDITIONS,
        texts_of=_names if one_hot else None,
    )
    return {
        "study": study.name,
        "arm": arm.label,
        "row": arm.row,
        "varies": arm.varies,
        "command": f"t2l world study {study.name} --arm {arm.label} --steps {budget}",
        "settings": settings_of(arm, budget),
        "steps": clock.steps,
        "budget": budget,
        "seed": arm.seed,
        "parameters": sum(parameter.numel() for parameter in hypernetwork.parameters()),
        "seconds": round(clock.seconds, 1),
        "cpu_seconds": round(clock.cpu_seconds, 1),
        "last_loss": clock.loss,
        "effort": asdict(effort),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, {torch.get_num_threads()} thread(s)",
        "versions": {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}},
        "scores": [[s.task, s.split, s.condition, s.right, s.total] for s in scores],
    }


def _reconstruct(
    study: Study,
    arm: Arm,
    folder: Path,
    inputs: StudyInputs,
    recipe: SftRecipe,
    clock: _Clock,
    state_path: Path,
) -> HyperNetwork:
    """Reconstruction of the library for as much processor time as SFT with the same seed took."""
    from t2l.library import Library
    from t2l.training.reconstruction import ReconstructionConfig, train_reconstruction

    rival = result_path(folder, study, study.arm(Arm("sft", "").with_seed(arm.seed).label))
    if not rival.is_file():
        raise T2LError(
            f"The arm {arm.label} trains as long as SFT did, and '{rival}' is not there yet.",
            f"Run it first: t2l world study {study.name} --arm {rival.stem}",
        )
    if not (folder / "library").is_dir():
        raise T2LError(
            f"There is no library of adapters in '{folder}'.",
            f"Build it first: t2l world build --stage library --dir {folder}",
        )
    library = Library.open(folder / "library")
    place = {task.name: index for index, task in enumerate(inputs.tasks) if task.name in library}
    if len(place) < 2:
        raise T2LError(f"The library in '{folder}' holds adapters of {len(place)} training tasks; 2 are the least.")
    encoder, table = inputs.encoder(arm), inputs.table(arm)

    standardize = None if arm.encoder == "tokens" else Standardization.of(table.rows_NDE().flatten(0, 1))

    def condition_of(rng: Random, name: str) -> Tensor:
        (condition_E,) = table.draw(rng, place[name], 1, recipe.descriptions)
        return condition_E if standardize is None else standardize(condition_E)

    def trained(steps: int, path: Path, report: Report) -> HyperNetwork:
        loop = replace(recipe.loop, steps=steps, warmup=steps // 10)
        return train_reconstruction(
            build_hypernetwork(recipe, library.spec, encoder, head_init="linear", output_affine=True),
            library,
            condition_of,
            ReconstructionConfig(loop, tasks=RECONSTRUCTION_TASKS, learning_rate=RECONSTRUCTION_RATE),
            names=list(place),
            state_path=path,
            report=report,
        )

    if clock.steps == 0 or not state_path.is_file():
        trial, times = state_path.with_suffix(".trial"), []
        trial.unlink(missing_ok=True)
        trained(_TIMED_STEPS, trial, lambda done, steps, loss: times.append(time.process_time()))
        trial.unlink(missing_ok=True)
        each = (times[-2] - times[1]) / (len(times) - 3)  # the first warms up, the last saves
        clock.steps = max(_TIMED_STEPS, round(read_json(rival, T2LError)["cpu_seconds"] / max(each, 1e-6)))
    hypernetwork = trained(clock.steps, state_path, clock)
    if standardize is not None:
        standardize.fold_into(hypernetwork)
    return hypernetwork


class _Clock:
    """A report that adds up the time of a run over its interruptions, in a small file beside the state."""

    def __init__(self, path: Path, report: Report) -> None:
        self.path, self.report = path, report
        kept = read_json(path, T2LError) if path.is_file() else {}
        self.seconds, self.cpu_seconds = float(kept.get("seconds", 0.0)), float(kept.get("cpu_seconds", 0.0))
        self.steps, self.loss = int(kept.get("steps", 0)), kept.get("loss")
        self._last: tuple[float, float] | None = None

    def __call__(self, done: int, steps: int, loss: float) -> None:
        now = time.monotonic(), time.process_time()
        if self._last is not None:
            self.seconds += now[0] - self._last[0]
            self.cpu_seconds += now[1] - self._last[1]
        self._last, self.steps, self.loss = now, steps, loss
        if done % _CLOCK_EVERY == 0 or done == steps:
            kept = {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "steps": steps, "loss": loss}
            write_json(self.path, kept)
        self.report(done, steps, loss)


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Whether this process now holds the lock; the system frees it when the process ends, however it ends."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield True


def _work_path(folder: Path, settings: dict[str, Any]) -> Path:
    """Beside which the lock and the state of the run with these settings lie, whatever study it belongs to."""
    digest = blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8).hexdigest()
    return folder / "studies" / "work" / digest


def _check_same(path: Path, settings: dict[str, Any]) -> None:
    found = read_json(path, T2LError).get("settings", {})
    if found == settings:
        return
    one, other = _flat(found), _flat(settings)
    differing = [
        f"{name} {one.get(name)!r} (now {other.get(name)!r})"
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    ]
    raise T2LError(
        f"'{path}' is of a run with other settings: {', '.join(differing[:6])}.",
        "Delete it to run the arm again, or ask for the same --steps.",
    )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {key: item for k, v in value.items() for key, item in _flat(v, f"{name}.{k}" if name else str(k)).items()}


def _twin(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a finished arm, of any study, with the same settings."""
    for study in STUDIES.values():
        for result in finished(folder, study).values():
            if result.get("settings") == settings:
                return result
    return None


def _names(task: MicroTask, condition: str, tasks: Sequence[MicroTask], count: int, seed: int) -> list[str]:
    """What a one-hot encoder reads instead of descriptions: the names of tasks."""
    if condition == "matched":
        return [task.name] * count
    rng = Random(f"{task.name}/{condition}/{seed}")
    others = [other for other in tasks if other.operation is not task.operation]
    return [rng.choice(others).name for _ in range(count)]
