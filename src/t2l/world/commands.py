"""The ``t2l world`` verbs: what they print. The work is in `build`, `evaluate`, `tasks` and `wording`."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from t2l.errors import T2LError, did_you_mean
from t2l.world.tasks import SPLITS, Part, all_tasks, find_task

SEED = 0
"""Of the evaluation: inputs, descriptions and resampling."""
DESCRIPTIONS_SHOWN: dict[Part, int] = {"train": 40, "evaluation": 12}


def build(stage: str | None, folder: Path, install: bool, console: Console) -> None:
    """Rebuilds the assets, or one stage of them."""
    from t2l.world.build import STAGES
    from t2l.world.build import build as run

    if stage is not None and stage not in STAGES:
        raise T2LError(f"No stage is called '{stage}'.", did_you_mean(stage, STAGES))
    assets = run(folder, STAGES if stage is None else [s for s in STAGES if s == stage], install=install)
    console.print(f"Done: {assets if assets.exists() else folder}")


def evaluate(quick: bool, checkpoint: str | None, as_json: bool, console: Console, notes: Console) -> None:
    """Prints exact match by split and condition."""
    from t2l.bases import load_base
    from t2l.model import TextToLora
    from t2l.world.evaluate import CONDITIONS, FULL, QUICK, summarize
    from t2l.world.evaluate import evaluate as run

    t2l = TextToLora.from_pretrained(checkpoint)
    base = load_base(t2l.spec.base_model or "").model
    t2l.spec.check_base(base)
    effort = QUICK if quick else FULL
    scores = run(base, t2l.encoder, t2l.hypernetwork, effort=effort, seed=SEED, report=notes.print)
    summary = summarize(scores, SEED)
    if as_json:
        document = {
            "checkpoint": t2l.digest,
            "seed": SEED,
            "effort": vars(effort),
            "conditions": CONDITIONS,
            "percent": {
                split: {name: {"mean": mean, "low": low, "high": high} for name, (mean, low, high) in row.items()}
                for split, row in summary.items()
            },
            "tasks": [vars(score) for score in scores],
        }
        console.print_json(json.dumps(document))
        return
    table = Table(title="Exact match, % (95% interval over tasks)")
    table.add_column("")
    for split in summary:
        table.add_column(split, justify="right")
    for condition, name in CONDITIONS.items():
        cells = [summary[split][condition] for split in summary]
        table.add_row(name, *(f"{mean:.0f} ({low:.0f}-{high:.0f})" for mean, low, high in cells))
    console.print(table)


def tasks(query: str | None, split: str | None, as_json: bool, console: Console) -> None:
    """Lists the tasks whose name, family or descriptions hold every word of the query."""
    from t2l.world.wording import descriptions

    if split is not None and split not in SPLITS:
        raise T2LError(f"No split is called '{split}'.", did_you_mean(split, SPLITS))
    words = (query or "").lower().split()
    found = []
    for task in all_tasks():
        if split is not None and task.split != split:
            continue
        texts = descriptions(task, DESCRIPTIONS_SHOWN["train"] if words or as_json else 1, part="train")
        searched = " ".join([task.name, task.family, *texts]).lower()
        if all(word in searched for word in words):
            found.append((task, texts))
    if as_json:
        rows = [
            {
                "name": task.name,
                "family": task.family,
                "style": task.style.name,
                "split": task.split,
                "reveals": task.operation.reveals,
                "descriptions": texts,
                "evaluation_descriptions": descriptions(task, DESCRIPTIONS_SHOWN["evaluation"], part="evaluation"),
            }
            for task, texts in found
        ]
        console.print_json(json.dumps(rows))
        return
    for task, texts in found:
        line = Text.assemble(f"{task.name:<34} ", (f"{task.split:<18} ", "dim"), texts[0])
        console.print(line, no_wrap=True, overflow="ellipsis")
    console.print(f"{len(found)} of {len(all_tasks())} tasks.", style="bold")


def examples(name: str, n: int, seed: int, as_json: bool, console: Console) -> None:
    """Shows seeded evaluation examples of a task."""
    if n < 1:
        raise T2LError(f"-n is {n}; it must be at least 1.")
    pairs = find_task(name).examples(n, seed=seed)
    if as_json:
        console.print_json(json.dumps([{"input": question, "output": answer} for question, answer in pairs]))
        return
    table = Table(title=name)
    table.add_column("input")
    table.add_column("output")
    for question, answer in pairs:
        table.add_row(question, answer)
    console.print(table)
