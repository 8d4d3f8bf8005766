"""The section of docs/results.md about unseen tasks: a run of `t2l evaluate --suite sni` as tables."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from t2l.evaluation.suite import by_category, by_row, not_ended, provenance, tasks_of

TITLE = "Unseen tasks, from the description alone"
CATEGORY_ROWS = ("base", "description-in-prompt", "t2l", "other-task", "multi-task", "multi-task-prompt")

Table = Callable[[list[list[str]]], str]


def kept(result: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of a run, without the scores of single tasks."""
    names = ("kind", "rows", "summary", "differences", "categories", "checkpoint", "inputs_cut", "notes")
    settings = {**result["settings"], "base": public([result["settings"]["base"]])}
    answering = [{**one, "command": public(one["command"])} for one in result["answering"]]
    return {
        **{name: result[name] for name in names},
        "tasks": len(result["tasks"]),
        "settings": settings,
        "answering": answering,
    }


def public(command: Sequence[str]) -> str:
    """A command without the folders of the machine that it ran on."""
    return shlex.join(
        word.rstrip("/").rsplit("/", 1)[-1] if word.startswith(("/", "..", "~")) else word for word in command
    )


def section(result: Mapping[str, Any], table: Table) -> str:
    """Every row with its intervals, the differences to the adapter from the definition, and categories."""

    def named(row: str, title: str) -> str:
        tasks = result["summary"][row]["tasks"]
        return f"**{row}**: {title}" + ("" if tasks == tasks_of(result) else f" ({tasks} tasks)")

    parts = [
        f"## {TITLE}",
        provenance(result, "`"),
        table(by_row(result, name=named)),
        *(f"Note: {note}" for note in result["notes"]),
        *not_ended(result),
        "ROUGE-L / exact match by category:",
        table(by_category(result, CATEGORY_ROWS)),
    ]
    return "\n\n".join(parts)
