"""The section of docs/results.md about unseen tasks: a run of `t2l evaluate --suite sni` as tables."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
    settings, summary, differences = result["settings"], result["summary"], result["differences"]
    rows = [
        ["row", "ROUGE-L", "exact match", "t2l minus it, ROUGE-L", "t2l minus it, exact match", "in the label set, %"]
    ]
    rows[0] += ["prompt tokens"]
    for row, title in result["rows"].items():
        one, gap = summary[row], differences.get(row)
        tokens, labels = one["prompt_tokens"], one["in_labels"]
        name = f"**{row}**: {title}" + ("" if one["tasks"] == result["tasks"] else f" ({one['tasks']} tasks)")
        gaps = ["", ""] if gap is None else [_signed(gap["rouge_l"]), _signed(gap["exact_match"])]
        rows.append([name, _interval(one["rouge_l"]), _interval(one["exact_match"]), *gaps])
        rows[-1] += ["" if labels is None else _interval(labels), "" if tokens is None else f"{tokens:.0f}"]
    chosen = [row for row in CATEGORY_ROWS if row in result["rows"]]
    categories = [["category", "tasks", *chosen]]
    for name, found in result["categories"].items():
        scores = [found["rows"].get(row) for row in chosen]
        cells = ["" if one is None else f"{one['rouge_l']:.1f} / {one['exact_match']:.1f}" for one in scores]
        categories.append([name or "none", str(found["tasks"]), *cells])
    answers = max(one["answers"] for one in summary.values())
    weights = f" ({settings['base_weights']})" if settings.get("base_weights") else ""
    checkpoint = f"checkpoint `{result['checkpoint'][:12]}`, " if result["checkpoint"] else ""
    cut = (
        f"; {result['inputs_cut']} inputs were cut after {settings['input_tokens']} tokens"
        if result["inputs_cut"]
        else ""
    )
    unended = ", ".join(f"{row} {one['not_ended']}" for row, one in summary.items() if one["not_ended"])
    parts = [
        f"## {TITLE}",
        f"{result['tasks']} tasks of Super-Natural-Instructions, {answers} instances, by the official protocol: one "
        "greedy answer, ROUGE-L (F-measure with stemming) and exact match, the best of the references. "
        f"Base: {settings['base']}{weights}, {settings['dtype']}; {checkpoint}seed {settings['seed']}, answers of at "
        f"most {settings['max_new_tokens']} tokens{cut}. Means are over instances; 95% intervals resample tasks, and "
        "differences are paired task by task. A task with at most 8 different references is a classification; they are "
        "its label set.",
        table(rows),
        *(f"Note: {note}" for note in result["notes"]),
        *([f"Answers without an end: {unended}."] if unended else []),
        "ROUGE-L / exact match by category:",
        table(categories),
        "Answered by "
        + "; ".join(
            f"`{one['command']}` ({one['answers']:,} answers in {one['seconds']:,.0f} s, {one['device']})"
            for one in result["answering"]
            if one["answers"]
        )
        + ".",
    ]
    return "\n\n".join(parts)


def _interval(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.1f} ({value['low']:.1f} to {value['high']:.1f})"


def _signed(value: Mapping[str, float]) -> str:
    return f"{value['mean']:+.1f} ({value['low']:+.1f} to {value['high']:+.1f})"
