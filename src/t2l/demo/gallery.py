"""The gallery: tasks of the demo that work on the shipped checkpoint, and some that do not, by what was measured.

Level 6. The README's table, docs/gallery.md, the demo's last lines and the workbench's examples come from one measured
record (``t2l demo --all --keep``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from t2l.comparison import ROWS
from t2l.demo.measure import RECORD_FILE
from t2l.demo.tasks import demo_tasks, tasks_digest
from t2l.errors import CheckpointError
from t2l.model import shipped_checkpoint

MEASURED = "smollm2-135m"
WORK, FAIL = 12, 4
COMMON = ("restaurant review", "email subject", "support ticket", "question about a table")
"""What people try first: the workbench offers these whatever their score."""


def shipped_record() -> dict[str, Any] | None:
    """What was measured on the real checkpoint that ships, with these tasks; None where nothing of the kind ships."""
    try:
        file = shipped_checkpoint(MEASURED) / RECORD_FILE
        found = json.loads(file.read_text(encoding="utf-8"))
    except (CheckpointError, OSError, ValueError):
        return None
    return found if found.get("tasks_digest") == tasks_digest() else None


def gallery(measured: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The tasks with the most and with the fewest right answers, each kind in its turn; in the order of the demo.

    One whose adapter answers the same to every input does not count among those that work.
    """
    tasks = measured["tasks"]
    works = _in_turn([task for task in tasks if _varied(task)], best=True)[:WORK]
    left = [task for task in tasks if task not in works]
    fails = _in_turn(left, best=False)[:FAIL]
    order = {task.name: number for number, task in enumerate(demo_tasks())}
    return sorted(works, key=lambda task: order[task["name"]]), sorted(fails, key=lambda task: order[task["name"]])


def offered(measured: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """What the workbench offers: those of `COMMON` and the gallery's, each as `scored`; what fails comes last."""
    works, fails = gallery(measured)
    common = [task for task in measured["tasks"] if task["name"] in COMMON]
    good = [task for task in common if task["right"]["adapter"] and _varied(task)]
    bad = [task for task in common if task not in good]
    found = [(task, scored(task)) for task in (*good, *(task for task in works if task not in good))]
    for task in (*bad, *(task for task in fails if task not in common)):
        same = task["right"]["adapter"] and task not in fails  # right as often as its one answer happens to be
        found.append((task, scored(task, "one answer to all, " if same else "fails, ")))
    return found


def scored(task: dict[str, Any], word: str = "") -> str:
    """A task in a few words with its score, as the demo and the workbench show it."""
    return f"{task['name'][:1].upper()}{task['name'][1:]} ({word}{_score(task, 'adapter')})"


def summary(measured: dict[str, Any]) -> str:
    """The README's table: every task of the gallery in a line."""
    works, fails = gallery(measured)
    lines = [f"| description | {' | '.join(ROWS.values())} |", f"|{'---|' * (1 + len(ROWS))}"]
    for title, tasks in ((f"{len(works)} that work best", works), (f"{len(fails)} that do not", fails)):
        lines.append(f"| **{title}** |{' |' * len(ROWS)}")
        lines += [f"| {task['description']} | {' | '.join(_score(task, row) for row in ROWS)} |" for task in tasks]
    return "\n".join(lines) + "\n"


def page(measured: dict[str, Any]) -> str:
    """docs/gallery.md."""
    works, fails = gallery(measured)
    counts = ", ".join(f"{label} {measured['right'][row]}" for row, label in ROWS.items())
    weights = f", {measured['weights']}" if measured["weights"] else ""
    parts = [
        "# Gallery",
        "Written by `python tools/generate_docs.py` from what `t2l demo --all --keep` measured; do not edit.",
        f"The demo has {len(demo_tasks())} everyday tasks with three inputs each, written for it by hand; "
        "none of the descriptions and inputs stands in the training data.",
        f"The {len(works)} were chosen by these very inputs out of {len(demo_tasks())} tasks: "
        "expect less of them on others.",
        f"Right of all {measured['inputs']} on {measured['base']}{weights}: {counts}.",
        "Every answer, and the rule by which it is judged: `t2l demo --all --json`.",
        f"## {len(works)} that work best",
        *(_entry(task) for task in works),
        f"## {len(fails)} that do not",
        *(_entry(task) for task in fails),
    ]
    return "\n\n".join(parts) + "\n"


def _varied(task: dict[str, Any]) -> bool:
    """Whether its adapter answers differently to different inputs."""
    return len({one["adapter"] for one in task["examples"]}) > 1


def _in_turn(tasks: Sequence[dict[str, Any]], *, best: bool) -> list[dict[str, Any]]:
    """By right answers of the adapter; of equally good ones, every kind has its turn."""
    turn: dict[int, int] = {}
    seen: dict[tuple[str, int], int] = {}
    for number, task in enumerate(tasks):
        key = (task["kind"], task["right"]["adapter"])
        turn[number] = seen.get(key, 0)
        seen[key] = turn[number] + 1
    sign = -1 if best else 1
    numbers = sorted(turn, key=lambda number: (sign * tasks[number]["right"]["adapter"], turn[number], number))
    return [tasks[number] for number in numbers]


def _score(task: dict[str, Any], row: str) -> str:
    return f"{task['right'][row]} of {len(task['examples'])}"


def _entry(task: dict[str, Any]) -> str:
    scores = ", ".join(f"{label} {task['right'][row]}" for row, label in ROWS.items())
    lines = [f"**{task['description']}** Right of {len(task['examples'])}: {scores}.", ""]
    lines += ["| input | with the adapter | right |", "|---|---|---|"]
    for example in task["examples"]:
        lines.append(f"| {_cell(example['input'])} | {_cell(example['adapter'])} | {_cell(example['answers'][0])} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    flat = " ".join(text.split()) or " "
    flat = flat if len(flat) <= 100 else f"{flat[:99]}…"
    return f"`{flat.replace('`', chr(39)).replace('|', '/')}`"
