"""``t2l world study``: what it prints. `studies_run` does the training runs, `studies_probes` looks at a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from t2l.errors import T2LError
from t2l.world.studies import PROBES, STUDIES, STUDY_STEPS, find_study
from t2l.world.studies_figures import COLUMNS, Row, rows_of
from t2l.world.studies_probes import probe_summary, run_probe
from t2l.world.studies_run import finished, run_study

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
        if label is not None or steps is not None:
            raise T2LError(f"The study '{name}' trains nothing; it has no arms and no steps.")
        found = run_probe(name, folder, checkpoint, say=lambda line: notes.print(line, soft_wrap=True))
        if as_json:
            console.print_json(json.dumps(found))
        else:
            console.print(f"{PROBES[name]} {probe_summary(name, found['result'])}", soft_wrap=True)
        return
    if checkpoint is not None:
        raise T2LError(f"The study '{name}' trains its own hypernetworks; it takes no --checkpoint.")
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


def _print_table(question: str, results: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    table = Table(title=f"{question} Exact match, % (95% interval over tasks)")
    for column in ("", "steps", "CPU min", *COLUMNS):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows_of(results):
        cells = [_cell(row, column) for column in COLUMNS]
        seeds = f" ({len(row.seeds)} seeds)" if len(row.seeds) > 1 else ""
        table.add_row(row.varies + seeds, str(row.steps), f"{row.cpu_seconds / 60:.1f}", *cells)
    console.print(table)


def _cell(row: Row, column: str) -> str:
    figure = row.figures.get(column)
    return "-" if figure is None else f"{figure[0]:.0f} ({figure[1]:.0f}-{figure[2]:.0f})"
