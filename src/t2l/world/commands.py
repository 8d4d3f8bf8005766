"""The ``t2l world`` verbs: what they print. Each verb's work is in the module that bears its name."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from t2l.errors import T2LError, did_you_mean
from t2l.world.tasks import NEAR, SPLITS, Part, all_tasks, find_task, tasks_of

EXPORT_FILE = "world.json"
SEED = 0
"""Of inputs and descriptions."""
DESCRIPTIONS_SHOWN: dict[Part, int] = {"train": 40, "evaluation": 12}


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
