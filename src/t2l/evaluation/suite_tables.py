"""Tables of a suite's run, as lists of cells: the terminal, the report and the results page show the same ones.

Level 5. This file knows the documents of `t2l.evaluation.suite`, whole or with the number of tasks in place of their
scores; it measures nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

SCORES = {"rouge_l": "ROUGE-L", "exact_match": "exact match"}
TERMINAL_ROWS = ("base", "description-in-prompt", "t2l", "multi-task-prompt")

SuiteResult = Mapping[str, Any]


def tasks_of(run: SuiteResult) -> int:
    """How many tasks a run has."""
    return run["tasks"] if isinstance(run["tasks"], int) else len(run["tasks"])


def by_row(
    run: SuiteResult, *, short: bool = False, name: Callable[[str, str], str] = lambda row, title: title
) -> list[list[str]]:
    """Every row with its intervals and the paired differences.

    Args:
        short: for a terminal: what its width allows.
        name: of a row, from its name and its title.
    """
    if short:
        table = [["", "ROUGE-L", "exact match", "t2l minus it", "labels", "tokens"]]
    else:
        gaps = [f"t2l minus it, {score}" for score in SCORES.values()]
        table = [["", "tasks", *SCORES.values(), *gaps, "in the label set, %", "prompt tokens", "without an end"]]
    for row, title in run["rows"].items():
        one, gap, labels = run["summary"][row], run["differences"].get(row), run["summary"][row]["in_labels"]
        tokens = "" if one["prompt_tokens"] is None else f"{one['prompt_tokens']:.0f}"
        scores = [interval(one[score]) for score in SCORES]
        gaps = ["" if gap is None else interval(gap[score], "+") for score in SCORES]
        if short:
            table.append([row, *scores, gaps[0], "" if labels is None else f"{labels['mean']:.1f}", tokens])
        else:
            share = "" if labels is None else interval(labels)
            table.append([name(row, title), str(one["tasks"]), *scores, *gaps, share, tokens, str(one["not_ended"])])
    return table


def by_category(run: SuiteResult, rows: Sequence[str] | None = None) -> list[list[str]]:
    """ROUGE-L / exact match of each category, for all rows or some."""
    rows = [row for row in rows or run["rows"] if row in run["rows"]]
    table = [["", "tasks", *rows]]
    for category, found in run["categories"].items():
        cells = ["" if (one := found["rows"].get(row)) is None else _both(one) for row in rows]
        table.append([category or "(none)", str(found["tasks"]), *cells])
    return table


def by_task(run: SuiteResult) -> list[list[str]]:
    """ROUGE-L / exact match of each task; not of a run without its scores."""
    table = [["ROUGE-L / exact match", "n", *run["rows"]]]
    for name, task in run["tasks"].items():
        scores = [run["scores"][row].get(name) for row in run["rows"]]
        cells = ["" if one is None else _both({score: 100 * one[score] for score in SCORES}) for one in scores]
        table.append([name, str(task["items"]), *cells])
    return table


def not_ended(run: SuiteResult) -> list[str]:
    """A line about answers that reached their bound, where there are any."""
    counts = ", ".join(f"{row} {one['not_ended']}" for row, one in run["summary"].items() if one["not_ended"])
    most = run["settings"]["max_new_tokens"]
    return [f"Answers that reached {most} tokens without an end: {counts}."] if counts else []


def provenance(run: SuiteResult, mark: str = "") -> str:
    """What was measured, on what, and by which commands (between ``mark``s)."""
    settings = run["settings"]
    weights = f" ({settings['base_weights']})" if settings.get("base_weights") else ""
    checkpoint = f"checkpoint {run['checkpoint'][:12]}, " if run.get("checkpoint") else ""
    items = max((one["answers"] for one in run["summary"].values()), default=0)
    cut = f"; {run['inputs_cut']} inputs were cut after {settings['input_tokens']} tokens" if run["inputs_cut"] else ""
    commands = "; ".join(
        f"{mark}{one['command'] if isinstance(one['command'], str) else shlex.join(one['command'])}{mark} "
        f"({one['answers']:,} answers in {one['seconds']:,.0f} s, {one['device']})"
        for one in run.get("answering", ())
        if one["answers"]
    )
    return (
        f"{tasks_of(run)} tasks, {items} instances, by the official protocol of Super-Natural-Instructions: one greedy "
        f"answer of at most {settings['max_new_tokens']} tokens, ROUGE-L (F-measure with stemming) and exact match, "
        f"the best of the references{cut}. Base {settings['base']}{weights}, {settings['dtype']}, {checkpoint}"
        f"seed {settings['seed']}. Means are over instances; 95% intervals resample tasks, and differences are paired "
        f"task by task. A task with at most 8 different references is a classification; they are its label set. "
        f"Answered by: {commands}."
    )


def interval(value: Mapping[str, float], sign: str = "") -> str:
    """A mean with its interval."""
    return f"{value['mean']:{sign}.1f} ({value['low']:{sign}.1f} to {value['high']:{sign}.1f})"


def _both(scores: Mapping[str, float]) -> str:
    return f"{scores['rouge_l']:.1f} / {scores['exact_match']:.1f}"
