"""A run of the suite ``sni`` in a report: its part of the HTML page, and of the Markdown tables.

Level 5. This file knows the documents of `t2l.evaluation.sni_run`; it measures nothing.
"""

from __future__ import annotations

import html
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from t2l.evaluation.charts import bars, intervals

_SCORES = {"rouge_l": "ROUGE-L", "exact_match": "Exact match"}


def suite_title(run: Mapping[str, Any]) -> str:
    """A run in a few words."""
    return f"unseen tasks by their descriptions, {str(run['settings']['base']).rstrip('/').rsplit('/', 1)[-1]}"


def suite_html(run: Mapping[str, Any], *, several: bool) -> list[str]:
    """Scores and paired differences as charts, then tables by row, category and task."""
    rows, summary, differences = run["rows"], run["summary"], run["differences"]
    parts = [f"<h2>{_text(suite_title(run))}</h2>"] if several else []
    parts.append(f"<p class='dim'>{_text(_provenance(run))}</p>")
    parts += [f"<p class='dim'>Note: {_text(note)}</p>" for note in run["notes"]]
    for score, name in _SCORES.items():
        parts.append(f"<h2>{name} over all {len(run['tasks'])} tasks</h2>")
        parts.append(f"<div class='wide'>{bars([(rows[row], summary[row][score]) for row in rows])}</div>")
        if differences:
            parts.append(f"<h3>{name}: {_text(rows['t2l'])} minus ...</h3>")
            gaps = [(rows[row], gap[score]) for row, gap in differences.items()]
            parts.append(f"<div class='wide'>{intervals(gaps)}</div>")
    parts.append(
        "<p class='dim'>Means over instances; lines: 95% intervals, which resample tasks. Differences are paired task "
        "by task; grey, the interval holds zero.</p>"
    )
    parts += ["<h2>By row</h2>", _html(_by_row(run)), "<h2>By category</h2>", _html(_by_category(run))]
    parts += ["<h2>By task</h2>", _html(_by_task(run))]
    settings = "\n".join(f"{name}: {value}" for name, value in run["settings"].items())
    parts.append(
        f"<details><summary>Settings and versions</summary><pre>{_text(settings)}\n"
        f"{_text(str(run['versions']))}</pre></details>"
    )
    return parts


def suite_markdown(run: Mapping[str, Any]) -> list[str]:
    """The same tables, without those of single tasks."""
    parts = [f"## {suite_title(run)}", _provenance(run), *(f"Note: {note}" for note in run["notes"])]
    return [*parts, _markdown(_by_row(run)), "ROUGE-L / exact match by category:", _markdown(_by_category(run))]


def _by_row(run: Mapping[str, Any]) -> list[list[str]]:
    table = [["", "tasks", "ROUGE-L", "exact match", "t2l minus it, ROUGE-L", "t2l minus it, exact match"]]
    table[0] += ["in the label set, %", "prompt tokens", "without an end"]
    for row, title in run["rows"].items():
        one, gap = run["summary"][row], run["differences"].get(row)
        gaps = ["", ""] if gap is None else [_interval(gap[score], "+") for score in _SCORES]
        labels, tokens = one["in_labels"], one["prompt_tokens"]
        table.append(
            [
                title,
                str(one["tasks"]),
                *(_interval(one[score]) for score in _SCORES),
                *gaps,
                "" if labels is None else _interval(labels),
                "" if tokens is None else f"{tokens:.0f}",
                str(one["not_ended"]),
            ]
        )
    return table


def _by_category(run: Mapping[str, Any]) -> list[list[str]]:
    table = [["", "tasks", *run["rows"]]]
    for name, found in run["categories"].items():
        scores = [found["rows"].get(row) for row in run["rows"]]
        cells = ["" if one is None else f"{one['rouge_l']:.1f} / {one['exact_match']:.1f}" for one in scores]
        table.append([name or "(none)", str(found["tasks"]), *cells])
    return table


def _by_task(run: Mapping[str, Any]) -> list[list[str]]:
    table = [["ROUGE-L / exact match", "n", *run["rows"]]]
    for name, task in run["tasks"].items():
        scores = [run["scores"][row].get(name) for row in run["rows"]]
        cells = ["" if s is None else f"{100 * s['rouge_l']:.1f} / {100 * s['exact_match']:.1f}" for s in scores]
        table.append([name, str(task["items"]), *cells])
    return table


def _provenance(run: Mapping[str, Any]) -> str:
    settings = run["settings"]
    weights = f" ({settings['base_weights']})" if settings.get("base_weights") else ""
    checkpoint = f"checkpoint {run['checkpoint'][:12]}, " if run.get("checkpoint") else ""
    items = max((one["answers"] for one in run["summary"].values()), default=0)
    commands = "; ".join(
        f"{shlex.join(one['command'])} ({one['answers']} answers in {one['seconds']:.0f} s, {one['device']})"
        for one in run.get("answering", ())
        if one["answers"]
    )
    return (
        f"Super-Natural-Instructions' protocol: {len(run['tasks'])} tasks, {items} instances, greedy answers of at "
        f"most {settings['max_new_tokens']} tokens. Base {settings['base']}{weights}, {settings['dtype']}, {checkpoint}"
        f"seed {settings['seed']}; {run['date']}. Answered by: {commands}."
    )


def _interval(value: Mapping[str, float], sign: str = "") -> str:
    return f"{value['mean']:{sign}.1f} ({value['low']:{sign}.1f} to {value['high']:{sign}.1f})"


def _html(table: Sequence[Sequence[str]]) -> str:
    head, *body = table
    rows = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in body)
    names = "".join(f"<th>{_text(name)}</th>" for name in head)
    return f"<div class='wide'><table class='tight'><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table></div>"


def _markdown(table: Sequence[Sequence[str]]) -> str:
    head, *body = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in table]
    return "\n".join([f"| {head} |", "|" + " --- |" * len(table[0]), *(f"| {row} |" for row in body)])


def _text(value: object) -> str:
    return html.escape(str(value))
