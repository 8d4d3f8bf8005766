"""``t2l world study``: what it prints. `studies_run` does the training runs, `studies_probes` looks at a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from t2l.errors import T2LError
from t2l.world.evaluate import Score, bootstrap
from t2l.world.studies import PROBES, STUDIES, STUDY_STEPS, find_study
from t2l.world.studies_run import finished, run_study
from t2l.world.tasks import NEAR

ALL = "all"


def list_studies(folder: Path, as_json: bool, console: Console) -> None:
    """Names, questions, and how many arms are done."""
    done = {name: len(finished(folder, study)) for name, study in STUDIES.items()}
    if as_json:
        rows = [
            {"name": name, "question": s.question, "arms": [arm.label for arm in s.arms], "done": done[name]}
            for name, s in STUDIES.items()
        ]
        console.print_json(json.dumps(rows + [{"name": name, "question": text} for name, text in PROBES.items()]))
        return
    for name, study in STUDIES.items():
        console.print(f"{name:<14} {done[name]} of {len(study.arms)} arms done. {study.question}", soft_wrap=True)
    for name, question in PROBES.items():
        console.print(f"{name:<14} on a checkpoint, no training. {question}", soft_wrap=True)


def run(
    name: str,
    label: str | None,
    folder: Path,
    steps: int | None,
    checkpoint: str | None,
    as_json: bool,
    console: Console,
    notes: Console,
) -> None:
    """Runs what is not done of a study (or of all), and prints its table."""
    if name in PROBES:
        raise T2LError(f"The study '{name}' needs a trained checkpoint.")
    studies = list(STUDIES.values()) if name == ALL else [find_study(name)]
    if label is not None and name == ALL:
        raise T2LError("--arm goes with one study.", "Name the study: t2l world study NAME --arm LABEL")
    for study in studies:
        arms = None if label is None else [study.arm(label)]
        run_study(
            study, folder, arms=arms, steps=steps or STUDY_STEPS, say=lambda line: notes.print(line, soft_wrap=True)
        )
    for study in studies:
        results = finished(folder, study)
        if as_json:
            console.print_json(json.dumps({"study": study.name, "question": study.question, "arms": results}))
        elif results:
            _print_table(study.question, results, console)


def arm_figures(result: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Exact match of one arm, percent with its interval: on training tasks, on near ones, and near in other words."""
    scores = [Score(**score) for score in result["scores"]]
    figures = {}
    for name, splits, condition in (
        ("train", ("train",), "matched"),
        ("near", NEAR, "matched"),
        ("near, paraphrase", NEAR, "paraphrase"),
        ("near, other task", NEAR, "other-task"),
    ):
        shares = [s.right / s.total for s in scores if s.split in splits and s.condition == condition]
        if shares:
            figures[name] = bootstrap(shares, result["seed"])
    return figures


def _print_table(question: str, results: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    columns = ("train", "near", "near, paraphrase", "near, other task")
    table = Table(title=f"{question} Exact match, % (95% interval over tasks)")
    for column in ("", "steps", "CPU min", *columns):
        table.add_column(column, justify="left" if not column else "right")
    for result in results.values():
        figures = arm_figures(result)
        cells = ["{:.0f} ({:.0f}-{:.0f})".format(*figures[column]) if column in figures else "-" for column in columns]
        seed = f" (seed {result['seed']})" if result["seed"] else ""
        minutes = f"{result['cpu_seconds'] / 60:.1f}"
        table.add_row(result["varies"] + seed, str(result["steps"]), minutes, *cells)
    console.print(table)
