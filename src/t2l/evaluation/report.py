"""A run as one page that a person can read: self-contained HTML, and the same tables as Markdown.

Level 5. The page needs neither network nor JavaScript. Runs by different protocols never share a table. This file
knows the documents of runs; it measures nothing.
"""

from __future__ import annotations

import html
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from t2l.charts import bars, differences, scatter, series
from t2l.errors import T2LError
from t2l.evaluation.runs import SUITE
from t2l.evaluation.statistics import rank_correlation
from t2l.evaluation.suite import SCORES, by_category, by_row, by_task, interval, provenance

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --dim: #5b6478; --line: #d9dee8; --accent: #2458a6; --bad: #a33a2c;
--good: #22703b; --shade: #f3f6fb; --page: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e7ee; --dim: #9aa3b5; --line: #3a4254; --accent: #79a8e8;
--bad: #e58a7c; --good: #6fc48a; --shade: #1f2635; --page: #151a24; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 72rem;
margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1.02rem; margin: 1.4rem 0 .4rem; } p, li { max-width: 60rem; } .dim { color: var(--dim); }
.verdict { border-left: 4px solid var(--accent); padding: .3rem 1rem; background: var(--shade); }
.verdict p { margin: .35rem 0; } .verdict .last { font-weight: 600; font-size: 1.1rem; }
.verdict.no { border-color: var(--bad); } .total tbody tr:last-child { font-weight: 600; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; min-width: 9rem; }
thead th { color: var(--dim); font-weight: 600; } .tight th, .tight td { padding: .25rem .4rem; font-size: .8rem; }
svg { max-width: 100%; height: auto; display: block; }
pre { background: var(--shade); padding: .6rem .8rem; overflow-x: auto; white-space: pre-wrap; margin: .3rem 0; }
pre, code { font: .85rem/1.45 ui-monospace, monospace; } .example { border: 1px solid var(--line); padding: .6rem 1rem;
margin: .6rem 0; border-radius: 6px; } .right { color: var(--good); } .wrong { color: var(--bad); }
details summary { cursor: pointer; color: var(--accent); }
"""
_FIRST = ("t2l", "matched")  # the second in gates of earlier versions
WORST = 5
_EXAMPLES = 3
_WIDE = 9  # columns that stand side by side with their intervals
_INTERVALS = "It resamples tasks, and questions within them, 2,000 times."
_CURVE = "<p class='dim'>Mean accuracy over tasks; lines: 95% bootstrap interval. Each point is a run.</p>"


def page(runs: Sequence[Mapping[str, Any]]) -> str:
    """The HTML page of one run or several."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'><link rel='icon' href='data:,'>",
        f"<title>{_text(_heading(runs))}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_text(_heading(runs))}</h1>",
    ]
    for run in runs:
        draw = _suite_html if run.get("kind") == SUITE else _run_html
        parts += draw(run, several=len(runs) > 1)
    curves = scaling([run for run in runs if run.get("kind") != SUITE])
    if curves:
        parts.append("<h2>Scaling</h2>")
        for curve in curves:
            drawn = series(curve.points, curve.x_name, curve.y_name, joined=curve.joined)
            parts += [f"<h3>{_text(curve.title)}</h3><div class='wide'>{drawn}</div>", _CURVE]
    return "\n".join([*parts, "</body></html>"]) + "\n"


def markdown(runs: Sequence[Mapping[str, Any]]) -> str:
    """The tables and the verdict of one run or several."""
    parts = [f"# {_heading(runs)}"]
    for run in runs:
        if run.get("kind") == SUITE:
            parts += [f"## {_suite_title(run)}", provenance(run), *(f"Note: {note}" for note in run["notes"])]
            parts += [_table(by_row(run)), "ROUGE-L / exact match by category:", _table(by_category(run))]
            parts.append("\n".join(f"- {line}" for line in run.get("gate", {}).get("verdict", ())))
            continue
        parts += [f"## {title_of(run)}", _provenance(run), *(f"Note: {note}" for note in run.get("notes", ()))]
        parts += ["Accuracy, %, with 95% intervals; n: questions.", _table(_cells(run))]
        parts.append("\n".join(f"- {line}" for line in run["findings"]["verdict"]))
        worst = worst_tasks(run)
        if worst:
            rows = [["task", "accuracy, %", "against the base"]]
            rows += [
                [one.name, f"{one.value:.1f}", f"{one.extra:+.1f}" if one.extra is not None else ""] for one in worst
            ]
            parts += ["### Worst tasks", _table(rows)]
    for curve in scaling([run for run in runs if run.get("kind") != SUITE]):
        rows = [
            [curve.x_name, curve.y_name],
            *([f"{x:g}", f"{y:.1f} ({low:.1f} to {high:.1f})"] for x, y, low, high in curve.points),
        ]
        parts += [f"### {curve.title}", _table(rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _heading(runs: Sequence[Mapping[str, Any]]) -> str:
    if len(runs) != 1:
        return "t2l evaluation"
    return f"t2l evaluation: {_suite_title(runs[0]) if runs[0].get('kind') == SUITE else title_of(runs[0])}"


def _run_html(run: Mapping[str, Any], *, several: bool) -> list[str]:
    accuracy, rows = run["findings"]["accuracy"], run["rows"]
    passed, verdict = run["findings"]["passed"], run["findings"]["verdict"]
    parts = [f"<h2>{_text(title_of(run))}</h2>"] if several else []
    parts.append(f"<p class='dim'>{_text(_provenance(run))}</p>")
    parts += [f"<p class='dim'>Note: {_text(note)}</p>" for note in run.get("notes", ())]
    parts += _verdict(verdict, passed, judged=bool(run.get("gate")))
    parts.append(f"<h2>Accuracy over all {len(run['tasks'])} tasks</h2>")
    parts.append(f"<div class='wide'>{bars([(rows[row], accuracy[row]['']) for row in rows])}</div>")
    parts.append(f"<p class='dim'>Mean over tasks, each weighing the same, and its 95% interval. {_INTERVALS}</p>")
    gaps = [(one["against"], one["difference"]) for one in run["findings"]["comparisons"] if one["task"] is None]
    if gaps:
        parts.append(f"<h2>{'The gate: ' if run.get('gate') else ''}the adapter from the description minus ...</h2>")
        parts.append(f"<div class='wide'>{differences([(rows.get(name, name), gap) for name, gap in gaps])}</div>")
        items = [one["items"] for one in run["findings"]["comparisons"] if one["task"] is None]
        counted = f"{min(items)}" if min(items) == max(items) else f"{min(items)} to {max(items)}"
        parts.append(
            f"<p class='dim'>Points of accuracy, paired on the same {counted} questions; lines: 95% interval. Right of "
            "zero, the description is better; grey, the interval holds zero.</p>"
        )
    parts += ["<h2>By task</h2>", _html(_cells(run), "total")]
    parts.append(
        "<p class='dim'>Accuracy in % and 95% interval over the task's n questions, for these descriptions. Where all "
        "answers are alike the bootstrap has no width: with n questions the truth may still be 300/n points away.</p>"
    )
    points = task_map(run)
    if points:
        parts += [
            "<h2>Map of tasks</h2>",
            f"<div class='wide'>{scatter(points, run['map']['tasks'], run['map']['families'])}</div>",
            f"<p class='dim'>t-SNE of the hypernetwork's task features (seed 0): {len(points)} descriptions, coloured "
            "by family. Distances between far groups mean little.</p>",
        ]
    far = distances(run)
    if far is not None:
        parts += [
            "<h2>Accuracy against distance</h2>",
            f"<div class='wide'>{series(far.points, far.x_name, far.y_name, joined=False)}</div>",
            "<p class='dim'>A point is a task: the mean distance of its descriptions, and how well their adapters do. "
            "{} {:.2f}, 95% interval {:.2f} to {:.2f} ({} tasks).</p>".format(
                "Spearman's rank correlation",
                *rank_correlation([point[0] for point in far.points], [point[1] for point in far.points]),
                len(far.points),
            ),
        ]
    worst = worst_tasks(run)
    if worst:
        parts.append(f"<h2>Worst tasks</h2><p class='dim'>By the row '{_text(rows[first_row(run) or ''])}'.</p>")
        parts += [_worst_html(one) for one in worst]
    return [*parts, _settings(run)]


def _verdict(lines: Sequence[str], passed: bool | None, *, judged: bool) -> list[str]:
    """What the comparisons say, the gate's verdict first."""
    if not lines:
        return []
    *others, last = lines if judged else (*lines, "")
    shown = [f"<p class='last'>{_text(last)}</p>"] if last else []
    shown += [f"<p>{_text(line)}</p>" for line in others]
    return [f"<div class='verdict{' no' if passed is False else ''}'>{''.join(shown)}</div>"]


def _settings(run: Mapping[str, Any]) -> str:
    settings = "\n".join(f"{name}: {value}" for name, value in run["settings"].items() if name != "adapters")
    return (
        f"<details><summary>Settings and versions</summary><pre>{_text(settings)}\n"
        f"{_text(str(run['versions']))}</pre></details>"
    )


def _suite_title(run: Mapping[str, Any]) -> str:
    return f"unseen tasks by their descriptions, {str(run['settings']['base']).rstrip('/').rsplit('/', 1)[-1]}"


def _suite_html(run: Mapping[str, Any], *, several: bool) -> list[str]:
    """Scores and paired differences as charts, then tables by row, category and task."""
    rows, summary, gaps = run["rows"], run["summary"], run["differences"]
    parts = [f"<h2>{_text(_suite_title(run))}</h2>"] if several else []
    parts.append(f"<p class='dim'>{_text(provenance(run))}</p>")
    parts += [f"<p class='dim'>Note: {_text(note)}</p>" for note in run["notes"]]
    gate = run.get("gate") or {"verdict": (), "passed": None}
    parts += _verdict(gate["verdict"], gate["passed"], judged=True)
    for score, name in SCORES.items():
        parts.append(f"<h2>{name} over all {len(run['tasks'])} tasks</h2>")
        parts.append(f"<div class='wide'>{bars([(rows[row], summary[row][score]) for row in rows], name)}</div>")
        if gaps:
            parts.append(f"<h3>{name}: {_text(rows['t2l'])} minus ...</h3>")
            parts.append(
                f"<div class='wide'>{differences([(rows[row], gap[score]) for row, gap in gaps.items()])}</div>"
            )
    parts += ["<h2>By row</h2>", _html(by_row(run), "tight"), "<h2>By category</h2>", _html(by_category(run), "tight")]
    return [*parts, "<h2>By task</h2>", _html(by_task(run), "tight"), _settings(run)]


def _worst_html(one: Finding) -> str:
    against = "" if one.extra is None else f", {one.extra:+.1f} points against the base"
    parts = [f"<h3>{_text(one.name)}: {one.value:.1f}%{against}</h3>"]
    for item in one.examples:
        right = item["right"] >= 1
        parts.append(
            f"<div class='example'>{_described(item)}<pre>{_text(item['prompt'])}</pre>"
            f"<p>expected <code>{_text(item['target'])}</code>, answered "
            f"<code class='{'right' if right else 'wrong'}'>{_text(item['answer']) or '(nothing)'}</code>"
            f"{' (cut at its bound)' if item.get('cut') else ''}</p></div>"
        )
    return "".join(parts)


def _described(item: Mapping[str, Any]) -> str:
    return f"<p>Adapter from: {_text(item['description'])}</p>" if item.get("description") else ""


def _provenance(run: Mapping[str, Any]) -> str:
    settings, counts = run["settings"], _questions(run)
    how = "the paper's protocol (greedy answers; the first matching choice, or the exact answer)"
    how = how if settings["protocol"] == "paper" else "log-likelihood (lm-evaluation-harness)"
    most = f"the first {settings['limit']} of each at most, " if settings["limit"] else ""
    cut = sum(1 for item in run["items"] if item.get("cut"))
    cut_text = f" {cut} of {len(run['items'])} answers were cut at their bound." if cut else ""
    checkpoint = f"checkpoint {settings['checkpoint'][:12]}, " if settings["checkpoint"] else ""
    trained = f"trained on {run['training_tasks']} tasks, " if run.get("training_tasks") else ""
    library = f"a library of {run['library']} adapters, " if run.get("library") else ""
    return (
        f"Base {settings['base']}, {checkpoint}{trained}{how}; {len(counts)} tasks, "
        f"{sum(counts.values())} questions, {most}{library}"
        f"{settings.get('wordings', 1)} descriptions a task and condition, seed {settings['seed']}; {run['date']}. "
        f"Command: {shlex.join(run['command'])}.{cut_text}"
    )


def _questions(run: Mapping[str, Any]) -> dict[str, int]:
    """Task -> how many different questions were asked."""
    asked: dict[str, set[int]] = {task: set() for task in run["tasks"]}
    for item in run["items"]:
        asked[item["task"]].add(item["document"])
    return {task: len(documents) for task, documents in asked.items()}


def _cells(run: Mapping[str, Any]) -> list[list[str]]:
    accuracy, counts = run["findings"]["accuracy"], _questions(run)
    table = [["", "n", *run["rows"]]]
    for task, name, count in [*((t, t, counts[t]) for t in run["tasks"]), ("", "all tasks", sum(counts.values()))]:
        found = [accuracy[row].get(task) for row in run["rows"]]
        table.append([name, str(count), *("" if one is None else interval(one) for one in found)])
    return table


def _html(table: Sequence[Sequence[str]], style: str) -> str:
    head, *body = table
    names = "".join(f"<th>{_text(name)}</th>" for name in head)
    rows = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in body)
    style = f"{style} tight" if len(head) > _WIDE else style
    return (
        f"<div class='wide'><table class='{style}'><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join([f"| {head} |", "|" + " --- |" * len(rows[0]), *(f"| {row} |" for row in body)])


def _text(value: object) -> str:
    return html.escape(str(value))


# --- beside tables: the map of tasks, accuracy against distance, scaling, worst tasks ---------------------------------


@dataclass(frozen=True)
class Curve:
    """(x, mean, low, high) points with what the axes are."""

    title: str
    x_name: str
    y_name: str
    points: tuple[tuple[float, float, float, float], ...]
    names: tuple[str, ...] = ()
    joined: bool = True


@dataclass(frozen=True)
class Finding:
    """A task with its accuracy, its lead over the base where that was measured, and examples (with ``description``)."""

    name: str
    value: float
    extra: float | None
    examples: tuple[Mapping[str, Any], ...]


def title_of(run: Mapping[str, Any]) -> str:
    """A run in a few words."""
    settings = run["settings"]
    what = "description gate" if run.get("gate") else "benchmarks"
    how = "paper's protocol" if settings["protocol"] == "paper" else "log-likelihood"
    return f"{what} on {Path(settings['base']).name}, {how}"


def first_row(run: Mapping[str, Any]) -> str | None:
    """The row that stands for the checkpoint."""
    return next((row for row in _FIRST if row in run["rows"]), None)


def task_map(run: Mapping[str, Any], seed: int = 0) -> list[tuple[float, float]]:
    """t-SNE (van der Maaten and Hinton, 2008) of the task features; nothing below six descriptions.

    Raises:
        T2LError: scikit-learn is not installed.
    """
    features = np.asarray((run.get("map") or {}).get("features", ()), dtype=float)
    if len(features) < 6:
        return []
    try:
        from sklearn.manifold import TSNE
    except ImportError as problem:
        raise T2LError(f"The map of tasks needs scikit-learn: {problem}.", "pip install 't2l[eval]'") from problem
    perplexity = min(30.0, max(2.0, (len(features) - 1) / 3))
    places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)
    return [(float(x), float(y)) for x, y in places]


def distances(run: Mapping[str, Any]) -> Curve | None:
    """For each task: how far its descriptions are from the nearest training task, and its accuracy.

    Distances are those of a calibration, between embeddings. Without one: cosine distance of the task's mean feature
    from the nearest other task of the run. None for fewer than four tasks.
    """
    row, found = first_row(run), run.get("map") or {}
    if row is None or not found:
        return None
    names = list(dict.fromkeys(found["tasks"]))
    if len(names) < 4:
        return None
    own = [np.asarray([name == task for task in found["tasks"]]) for name in names]
    if found.get("distance"):
        gap = [float(np.asarray(found["distance"])[rows].mean()) for rows in own]
        x_name = "distance from the nearest training task, in standard deviations of the embeddings"
    else:
        features = np.asarray(found["features"], dtype=float)
        mean = np.stack([features[rows].mean(axis=0) for rows in own])
        mean = mean - mean.mean(axis=0)
        mean = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
        apart = 1 - mean @ mean.T
        np.fill_diagonal(apart, np.inf)
        gap, x_name = apart.min(axis=1).tolist(), "distance from the nearest other task of the run (1 - cosine)"
    accuracy = run["findings"]["accuracy"][row]
    kept = [(distance, name) for distance, name in zip(gap, names, strict=True) if name in accuracy]
    points = tuple((d, accuracy[n]["mean"], accuracy[n]["low"], accuracy[n]["high"]) for d, n in kept)
    return Curve("", x_name, "accuracy, %", points, tuple(n for _, n in kept), joined=False)


def scaling(runs: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Curves that the runs allow: over the examples in the prompt, and over the training tasks of their checkpoints.

    Only runs of the same base, tasks and protocol stand in one curve over training tasks.
    """
    curves = []
    for run in runs:
        accuracy = run["findings"]["accuracy"]
        shots = {int(row[: -len("-shot")]): row for row in run["rows"] if row.endswith("-shot")}
        shots |= {0: "base"} if "base" in run["rows"] else {}
        if len(shots) > 2:
            points = tuple((float(n), *_three(accuracy[shots[n]][""])) for n in sorted(shots))
            curves.append(Curve(f"Examples in the prompt: {title_of(run)}", "examples", "accuracy, %", points))
    alike: dict[str, list[tuple[float, Mapping[str, float], Mapping[str, Any]]]] = {}
    for run in runs:
        row, count = first_row(run), run.get("training_tasks")
        if row is not None and count:
            settings = run["settings"]
            key = f"{settings['base']}/{settings['protocol']}/{settings['limit']}/{','.join(run['tasks'])}"
            alike.setdefault(key, []).append((float(count), run["findings"]["accuracy"][row][""], run))
    for found in alike.values():
        counts = [count for count, _, _ in found]
        if len(set(counts)) > 1:
            found.sort(key=lambda one: one[0])
            points = tuple((count, *_three(interval)) for count, interval, _ in found)
            names = tuple(f"checkpoint {run['settings']['checkpoint'][:8]}" for _, _, run in found)
            title = f"More training tasks: {title_of(found[0][2])}, {len(found[0][2]['tasks'])} tasks"
            single = len(set(counts)) == len(counts)
            curves.append(Curve(title, "training tasks", "accuracy, %", points, names, joined=single))
    return curves


def worst_tasks(run: Mapping[str, Any]) -> list[Finding]:
    """The tasks with the lowest accuracy of the checkpoint's row, each with wrong answers first."""
    row = first_row(run)
    if row is None:
        return []
    accuracy = run["findings"]["accuracy"]
    base = accuracy.get("base", {})
    order = sorted((name for name in run["tasks"] if name in accuracy[row]), key=lambda n: accuracy[row][n]["mean"])
    said = {(v["task"], v["row"], v["number"]): v.get("description") for v in run.get("variants", ())}
    found = []
    for name in order[:WORST]:
        items = [item for item in run["items"] if item["row"] == row and item["task"] == name]
        items.sort(key=lambda item: (item["right"], item["number"], item["document"]))
        lead = accuracy[row][name]["mean"] - base[name]["mean"] if name in base else None
        shown = [{**item, "description": said.get((name, row, item["number"]))} for item in items[:_EXAMPLES]]
        found.append(Finding(name, accuracy[row][name]["mean"], lead, tuple(shown)))
    return found


def _three(interval: Mapping[str, float]) -> tuple[float, float, float]:
    return interval["mean"], interval["low"], interval["high"]
