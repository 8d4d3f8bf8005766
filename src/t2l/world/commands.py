"""The ``t2l world`` verbs: what they print. Each verb's work is in the module that bears its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from t2l.errors import T2LError, did_you_mean
from t2l.world.tasks import NEAR, SPLITS, Part, all_tasks, find_task, tasks_of

if TYPE_CHECKING:
    from t2l.encoders import DescriptionEncoder
    from t2l.world.evaluate import Score

EXPORT_FILE = "world.json"
SEED = 0
"""Of the evaluation: inputs, descriptions and resampling."""
SLOW_COMPARATORS = ("nearest", "arrow")
"""Left out of a quick evaluation: one embeds thousands of descriptions, the other routes every token."""
DESCRIPTIONS_SHOWN: dict[Part, int] = {"train": 40, "evaluation": 12}


def build(stage: str | None, folder: Path, install: bool, console: Console) -> None:
    """Rebuilds the assets, or one stage of them."""
    from t2l.world.build import SHIPPED, STAGES
    from t2l.world.build import build as run

    if stage is not None and stage not in STAGES:
        raise T2LError(f"No stage is called '{stage}'.", did_you_mean(stage, STAGES))
    assets = run(folder, SHIPPED if stage is None else [s for s in STAGES if s == stage], install=install)
    console.print(f"Done: {assets if assets.exists() else folder}")


def evaluate(
    quick: bool, checkpoint: str | None, folder: Path, as_json: bool, console: Console, notes: Console
) -> None:
    """Prints exact match by split and condition, comparators where they are built, and the headline figures."""
    from t2l.bases import load_base
    from t2l.model import MICRO_WORLD, TextToLora
    from t2l.world.costs import costs
    from t2l.world.evaluate import CONDITIONS, FULL, QUICK, summarize
    from t2l.world.evaluate import evaluate as run
    from t2l.world.headlines import NEAR_GROUPS, headlines, near_groups

    t2l = TextToLora.from_pretrained(checkpoint or MICRO_WORLD)
    base = load_base(t2l.spec.base_model or "").model
    t2l.spec.check_base(base)
    effort = QUICK if quick else FULL
    scores = run(base, t2l.encoder, t2l.hypernetwork, effort=effort, seed=SEED, report=notes.print)
    rivals, names, missing = _comparators(base, t2l.encoder, folder, quick, notes)
    scores += rivals
    conditions = {**CONDITIONS, **names}
    summary = summarize([*scores, *near_groups(scores)], SEED)
    figures = headlines(scores, SEED)
    spent = costs(t2l, base, tasks_of(*NEAR), examples=effort.examples, seed=SEED)
    if as_json:
        document = {
            "checkpoint": t2l.digest,
            "seed": SEED,
            "effort": vars(effort),
            "conditions": conditions,
            "missing": missing,
            "percent": {
                split: {name: {"mean": mean, "low": low, "high": high} for name, (mean, low, high) in row.items()}
                for split, row in summary.items()
            },
            "headlines": [vars(figure) for figure in figures],
            "flops": spent,
            "tasks": [vars(score) for score in scores],
        }
        console.print_json(json.dumps(document))
        return
    for title, columns in (
        ("Exact match, % (95% interval over tasks)", SPLITS),
        ("Near held-out tasks: both splits together, and by what the input says of the task", NEAR_GROUPS),
    ):
        table = Table(title=title)
        table.add_column("")
        for split in columns:
            table.add_column(split.removeprefix("near, "), justify="right")
        for condition, name in conditions.items():
            cells = [summary.get(split, {}).get(condition) for split in columns]
            if any(cells):
                table.add_row(name, *("" if c is None else f"{c[0]:.0f} ({c[1]:.0f}-{c[2]:.0f})" for c in cells))
        console.print(table)
    console.print("An empty description is refused; the full stop stands for it.")
    for figure in figures:
        reached = "reached" if figure.reached else "not reached"
        interval = f"{figure.mean:.1f} ({figure.low:.1f} to {figure.high:.1f})"
        console.print(f"{figure.text}: {interval}; {figure.target}: {reached}.", soft_wrap=True)
    share = 100 * spent["adapter"] / spent["3-shot"]
    answers = spent["generation"] / spent["adapter"]
    console.print(
        f"An answer under an adapter takes {share:.1f}% of the operations of one after 3 examples; "
        f"making an adapter takes as many as {answers:.1f} answers.",
        soft_wrap=True,
    )
    for line in missing:
        console.print(line, soft_wrap=True)


def _comparators(
    base: Any, encoder: DescriptionEncoder, folder: Path, quick: bool, notes: Console
) -> tuple[list[Score], dict[str, str], list[str]]:
    """Scores on near held-out tasks of the comparators that ``folder`` holds, their names, and what is missing."""
    from t2l.world.comparators import BUILT_BY, COMPARATORS, score_comparators
    from t2l.world.evaluate import FULL, QUICK

    scores: list[Score] = []
    missing: list[str] = []
    built = _built_in(folder)
    for condition, name in COMPARATORS.items():
        if quick and condition in SLOW_COMPARATORS:
            continue
        if not built.get(condition, True):
            command = f"t2l world build --stage {BUILT_BY[condition]} --dir {folder}"
            missing.append(f"Not measured: {name}. Build it: {command}")
            continue
        try:
            scores += score_comparators(
                base,
                folder,
                encoder,
                effort=QUICK if quick else FULL,
                splits=NEAR,
                conditions=[condition],
                seed=SEED,
                report=notes.print,
            )
        except T2LError as problem:  # of another base or other settings
            missing.append(f"Not measured: {name}. {problem.message}")
    return (
        scores,
        {name: text for name, text in COMPARATORS.items() if any(s.condition == name for s in scores)},
        missing,
    )


def _built_in(folder: Path) -> dict[str, bool]:
    """Which comparators a folder holds whole; those that need nothing are not named."""
    from t2l.library import INDEX_FILE, Library

    def holds(name: str, adapters: list[str]) -> bool:
        if not (folder / name / INDEX_FILE).is_file():
            return False
        library = Library.open(folder / name)
        return all(adapter in library for adapter in adapters)

    whole = holds("library", [task.name for task in tasks_of("train")])
    return {
        "average": whole,
        "nearest": whole,
        "arrow": whole,
        "multi-task": holds("multi-task", ["multi-task"]),
        "hyperdecoder": (folder / "hyperdecoder" / "config.json").is_file(),
        "oracle": holds("oracle", [task.name for task in tasks_of(*NEAR)]),
    }


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


def export(out: Path, split: str | None, count: int, each: int, force: bool, console: Console) -> None:
    """Writes tasks as folders that ``t2l evaluate --data`` reads: questions, examples to show, descriptions.

    Beside them lie ``tasks.jsonl`` (the training part) and ``descriptions.jsonl``, as ``t2l data prepare`` reads them.
    """
    from t2l.storage import new_folder, write_bytes, write_json
    from t2l.world.wording import descriptions

    if split is not None and split not in SPLITS:
        raise T2LError(f"No split is called '{split}'.", did_you_mean(split, SPLITS))
    chosen = tasks_of(*(NEAR if split is None else (split,)))
    chosen = chosen[:: max(1, len(chosen) // count)][:count] if count else chosen
    with new_folder(out, marker=EXPORT_FILE, force=force) as inside:
        training, described = [], []
        for task in chosen:
            place = inside / task.name
            place.mkdir()
            about = {
                "family": task.family,
                "separator": "",  # the base's chat template has it
                "until": ["\n"],
                "max_new_tokens": 48,
                "descriptions": descriptions(task, 4, part="train", seed=SEED + 1),
                "paraphrases": descriptions(task, 4, part="evaluation", seed=SEED),
            }
            write_json(place / "task.json", about)
            texts = {"descriptions": about["descriptions"], "evaluation_descriptions": about["paraphrases"]}
            described.append({"name": task.name, **texts})
            files: dict[str, Part] = {"test": "evaluation", "train": "train"}
            for name, part in files.items():
                pairs = task.examples(each, seed=SEED, part=part)
                rows = [json.dumps({"input": question, "output": answer}) for question, answer in pairs]
                write_bytes(place / f"{name}.jsonl", ("\n".join(rows) + "\n").encode())
                if part == "train":
                    training += [{"task": task.name, "prompt": asked, "response": said} for asked, said in pairs]
        for name, lines in (("tasks", training), ("descriptions", described)):
            write_bytes(inside / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
        write_json(inside / EXPORT_FILE, {"tasks": [task.name for task in chosen], "seed": SEED})
    console.print(f"{len(chosen)} tasks: t2l evaluate --gate --data {out}", soft_wrap=True)


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
