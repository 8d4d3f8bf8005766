"""The sections of docs/results.md about studies: tables from stored runs, what they answer, and their plots.

`results.py` writes the page; this file knows the forms of the stored runs of ``t2l world study``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from t2l.errors import T2LError
from t2l.storage import read_json
from t2l.world import plots
from t2l.world.studies import PROBES, STUDIES
from t2l.world.studies_composition import composition_rows
from t2l.world.studies_figures import COLUMNS, Row, difference, rows_of
from t2l.world.studies_guidance_figures import (
    examples_tables,
    guidance_tables,
)
from t2l.world.studies_probes import probe_summary
from t2l.world.studies_run import finished
from t2l.world.tasks import tasks_of

Runs = Mapping[str, Mapping[str, Any]]
"""Name of a study -> what is stored of it."""
PROBE_PLOTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "distance": plots.distance_plot,
    "encodings": plots.encodings_plot,
    "interpolation": plots.interpolation_plot,
    "composition": plots.composition_plot,
    "two-ways": plots.two_ways_plot,
    "guidance": plots.guidance_plot,
    "examples": plots.examples_plot,
}
_SHOWN = 6  # tasks of a table of examples


def gather(folder: Path, runs: Path) -> list[str]:
    """Copies what is done of the studies in ``folder`` to ``runs/study-<name>.json``; returns the names."""
    found = []
    for name, study in STUDIES.items():
        arms = finished(folder, study)
        if arms:
            lines = [f"{json.dumps(label)}: {json.dumps(result)}" for label, result in arms.items()]
            head = f'"study": {json.dumps(name)},\n"question": {json.dumps(study.question)},\n"arms": '
            (runs / f"study-{name}.json").write_text("{" + head + "{\n" + ",\n".join(lines) + "\n}}\n")
            found.append(name)
    for name in PROBES:
        path = folder / "studies" / name / "result.json"
        if path.is_file():
            (runs / f"study-{name}.json").write_text(json.dumps(read_json(path, T2LError)) + "\n")
            found.append(name)
    return found


def stored(runs: Path) -> dict[str, dict[str, Any]]:
    """The stored studies, in the order of the page."""
    paths = {name: runs / f"study-{name}.json" for name in (*STUDIES, *PROBES)}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}


def section(name: str, document: Mapping[str, Any], table: Callable[[list[list[str]]], str]) -> str:
    """What the page says of one study."""
    parts = [f"### {document['question']}"]
    if name in PROBES:
        result = document["result"]
        parts.append(probe_summary(name, result) + " " + _PROBE_NOTES[name])
        if name == "composition":
            parts.append(table(composition_rows(result)))
        if name == "two-ways":
            parts.append(table(_two_ways_rows(result)))
        if name == "guidance":
            parts += [table(rows) for rows in guidance_tables(result)]
        if name == "examples":
            parts += [table(rows) for rows in examples_tables(result)]
        parts += [_picture(name, document["question"]), _origin(document, [document["command"]])]
        return "\n\n".join(parts)
    rows = rows_of(document["arms"])
    columns = [column for column in COLUMNS if any(column in row.figures for row in rows)]
    cells = [["", *columns, "steps", "CPU minutes", "parameters"]]
    for row in rows:
        figures = [_cell(row, column) for column in columns]
        cells.append(
            [f"**{row.name}**: {row.varies}", *figures, f"{row.steps:,}", f"{row.cpu_seconds / 60:.1f}", _millions(row)]
        )
    first = next(iter(document["arms"].values()))
    seeds = "; ".join(f"{row.name}: seeds {', '.join(map(str, row.seeds))}" for row in rows if len(row.seeds) > 1)
    parts += [
        f"Exact match, %, with 95% bootstrap intervals over tasks. {_NOTES[name]}".strip(),
        table(cells),
        *_answers(name, rows),
        _picture(name, document["question"]),
        _origin(first, [f"t2l world study {name} --steps {first['budget']}"])
        + f" {first['effort']['examples']} inputs and {first['effort']['wordings']} descriptions a task and condition; "
        + (seeds or f"seed {first['seed']}")
        + ".",
    ]
    missing = [arm.label for arm in STUDIES[name].arms if arm.label not in document["arms"]]
    if missing:
        parts.append(f"Not run: {', '.join(missing)}.")
    return "\n\n".join(parts)


def pictures(studies: Runs) -> dict[str, str]:
    """Name of a study -> its plot as SVG."""
    return {name: _plot(name, document) for name, document in studies.items()}


def objective_gap(studies: Runs) -> tuple[float, float, float] | None:
    """Points by which SFT is above reconstruction on near held-out tasks, where both were run."""
    rows = {row.name: row for row in rows_of(studies["objective"]["arms"])} if "objective" in studies else {}
    return difference(rows["sft"], rows["reconstruction"]) if {"sft", "reconstruction"} <= set(rows) else None


def growth(studies: Runs) -> list[tuple[int, float]] | None:
    """(training tasks, exact match on near held-out tasks) at equal compute, where the study was run."""
    if "tasks" not in studies:
        return None
    rows = {row.name: row for row in rows_of(studies["tasks"]["arms"])}
    points = [(_tasks(name), row.figures["near"][0]) for name, row in rows.items() if not name.endswith("-scaled")]
    return sorted(points) if len(points) > 1 else None


_NOTES = {
    "size": "The heads have different numbers of parameters; trunk and encoder are the same.",
    "recipe": "",
    "tasks": "Equal compute: the same steps and examples a step; in proportion: steps by the number of tasks.",
    "descriptions": "The steps are the same; a task with fewer descriptions sees each more often.",
    "quality": "Evaluated on natural descriptions, whatever was trained on.",
    "encoder": "A one-hot row stands for a trained task and can describe no other.",
    "targets": "The rank-stabilised scaling follows the rank.",
    "objective": "Reconstruction trains for the processor time that SFT with the same seed took; making the library of "
    "adapters that it learns is not counted.",
}
_PROBE_NOTES = {
    "distance": "A point is a task: the mean over its descriptions, in MiniLM's sentence vectors.",
    "encodings": "t-SNE of the hypernetwork's task features, averaged over descriptions.",
    "interpolation": "Pairs of training tasks of one family; task features are blended, then decoded.",
    "composition": "Near held-out tasks and pairs of them, of different operations; exact match, %, with 95% bootstrap "
    "intervals over tasks or pairs.",
    "guidance": "The calibration saw none of these tasks and texts; near and far tasks are described in phrases of the "
    "training kind and in unseen ones. 95% intervals resample tasks, and texts of controls.",
    "examples": "Every second near held-out task, from one description in unseen phrases; 95% intervals over tasks.",
    "two-ways": "One wording is of the training kind, the other in phrases and a frame never seen in training.",
}


def _answers(name: str, rows: list[Row]) -> list[str]:
    """The comparison that a study was made for, paired over tasks."""
    by_name = {row.name: row for row in rows}
    baseline = {"recipe": "paper", "objective": "reconstruction"}.get(name)
    if baseline not in by_name:
        return []
    lines = []
    for row in rows:
        if row.name != baseline:
            gaps = [
                "{} {:+.1f} ({:+.1f} to {:+.1f})".format(column, *difference(row, by_name[baseline], column))
                for column in ("near", "near, paraphrase")
                if column in row.shares and column in by_name[baseline].shares
            ]
            lines.append(f"- {row.name} minus {baseline}, points: {'; '.join(gaps)}.")
    return ["\n".join(lines)]


def _cell(row: Row, column: str) -> str:
    if column not in row.figures:
        return ""
    text = "{:.1f} ({:.1f} to {:.1f})".format(*row.figures[column])
    if len(row.seeds) > 1:
        text += "; by seed " + ", ".join(f"{mean:.1f}" for mean in row.by_seed[column])
    return text


def _millions(row: Row) -> str:
    return f"{row.parameters / 1e6:.1f}M"


def _picture(name: str, question: str) -> str:
    return f"![{question}](images/{name}.svg)"


def _origin(document: Mapping[str, Any], commands: list[str]) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in document["versions"].items())
    return f"{', '.join(f'`{command}`' for command in commands)}, {document['machine']}, {versions}."


def _two_ways_rows(result: Mapping[str, Any]) -> list[list[str]]:
    rows = [["in training phrases", "in phrases never seen", "similarity", "same answers", "right"]]
    held_out = [point for point in result["points"] if point["split"] != "train"]
    for point in held_out[:: max(1, len(held_out) // _SHOWN)][:_SHOWN]:
        one, other = (f"{100 * share:.0f}%" for share in point["accuracy"])
        texts = [text.replace("|", "\\|") for text in point["texts"]]
        rows.append([*texts, f"{point['similarity']:.2f}", f"{100 * point['agreement']:.0f}%", f"{one}, {other}"])
    return rows


def _plot(name: str, document: Mapping[str, Any]) -> str:
    if name in PROBES:
        return PROBE_PLOTS[name](document["result"])
    rows = rows_of(document["arms"])
    if name == "tasks":
        whole = [row for row in rows if not row.name.endswith("-scaled")]
        parts = [row for row in rows if row.name.endswith("-scaled") or row.name == "all"]
        series = {
            label: sorted((_tasks(row.name), row.figures["near"]) for row in some)
            for label, some in (("equal compute", whole), ("compute in proportion", parts))
            if some
        }
        return plots.count_plot(series, "training tasks")
    if name == "descriptions":
        series = {
            column: sorted((int(row.name), row.figures[column]) for row in rows)
            for column in ("near", "near, paraphrase")
        }
        return plots.count_plot(series, "descriptions of each task")
    return plots.rows_plot(rows)


def _tasks(name: str) -> int:
    count = name.removesuffix("-scaled")
    return len(tasks_of("train")) if count == "all" else int(count)
