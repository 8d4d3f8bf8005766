"""The suite ``sni``: tasks with definitions, as Super-Natural-Instructions keeps them; their questions and scores.

Level 5. The official protocol: the first 100 instances of a task, one greedy answer each, ROUGE-L and exact match.
Answering needs a model and no scorer, scoring needs the answers and no model, so the two may happen on different
machines. This file does not know where adapters come from.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from t2l.bases import Base
from t2l.data.descriptions import DescriptionFile
from t2l.data.prompts import Frame, SampleCounts, SampleTokenizer, prompt_text
from t2l.data.sources import Instance, Task, open_source, unique
from t2l.errors import DataError, T2LError
from t2l.evaluation.decoding import Answer, Decoder, Prompted
from t2l.evaluation.rows import ROWS, PromptVariant, row_of
from t2l.evaluation.runs import FORMAT, SUITE, Answers, head
from t2l.evaluation.scores import RougeL, exact_match, normalised
from t2l.evaluation.statistics import gate_of, over_tasks
from t2l.evaluation.wording import Wording

INSTANCES = 100
"""Instances of a task in the official evaluation: the first ones."""
NEW_TOKENS = 64
"""Of an answer, at most."""
MOST_LABELS = 8
"""A task whose references are at most so many different answers is a classification task."""
VAGUE = "Do the task."
FIRST = "t2l"
"""The row that differences are taken from."""
SCORES = {"rouge_l": "ROUGE-L", "exact_match": "exact match"}
TERMINAL_ROWS = ("base", "description-in-prompt", "t2l", "multi-task-prompt")

SuiteResult = Mapping[str, Any]
"""A run's document, whole or with the number of tasks in place of their scores."""


@dataclass(frozen=True)
class SuiteTask:
    """A task of the suite.

    Args:
        name: the stem of its file.
        definition: what describes it.
        instances: those that are asked, the first ones of the file.
        category: the first that the source names; "" where it names none.
        datasets: that it was made from, as the source names them.
        labels: the `normalised` answers of a classification task; empty for any other.
        dropped: instances that cannot be used.
    """

    name: str
    definition: str
    instances: tuple[Instance, ...]
    category: str = ""
    datasets: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()
    dropped: int = 0

    @classmethod
    def of(cls, task: Task, limit: int = INSTANCES) -> SuiteTask:
        """The task with its first ``limit`` instances; whether it is a classification shows in the first 100.

        Raises:
            DataError: it has no definition.
        """
        if not task.definition.strip():
            raise DataError(f"The task '{task.name}' has no definition, so there is nothing to make an adapter from.")
        official = task.instances[:INSTANCES]
        labels = frozenset(normalised(output) for instance in official for output in instance.outputs)
        return cls(
            task.name,
            task.definition.strip(),
            official[: min(limit, INSTANCES)],
            task.categories[0] if task.categories else "",
            task.datasets,
            labels if 1 < len(labels) <= MOST_LABELS else frozenset(),
            sum(task.dropped.values()),
        )

    def wording(self, known: DescriptionFile | None = None) -> Wording:
        """Its definition, and what other descriptions are known: those kept for evaluation where there are such.

        Tasks made from one data set, or whose names begin alike after the number, are kin.
        """
        found = None if known is None else known.of(self.name)
        others = () if found is None else found.evaluation or found.descriptions
        others = tuple(text for text in others if normalised(text) != normalised(self.definition))
        stem = re.match(r"task\d+_([A-Za-z]+)", self.name)
        tags = {name.lower() for name in self.datasets} | ({f"task_{stem[1].lower()}"} if stem else set())
        return Wording(self.name, (self.definition,), others, {"vague": (VAGUE,)}, frozenset(tags))


def load_suite(places: Sequence[Path], limit: int = INSTANCES) -> tuple[list[SuiteTask], str]:
    """The tasks of folders or files in the order of their names, and a digest of what was read.

    Raises:
        DataError: nothing there, a task that cannot be read (none is omitted silently), or one that comes twice.
        T2LError: a limit below 1.
    """
    if limit < 1:
        raise T2LError(f"The limit is {limit} instances a task; it must be at least 1.")
    if not places:
        raise DataError(
            "No folder of tasks was given.",
            "Name it: t2l evaluate --suite sni FOLDER (Super-Natural-Instructions, JSON)",
        )
    sources = unique(source for place in places for source in open_source(place))
    tasks = [SuiteTask.of(source.read(), limit) for source in sources]
    return tasks, sha256("/".join(source.digest() for source in sources).encode()).hexdigest()


class Prompts:
    """From a user's message to the tokens that a base reads, exactly as training prepares them.

    Args:
        base: with its tokenizer.
        frame: what stands around a message: that of the checkpoint.
        input_tokens: tokens of an instance's input, whatever else the prompt holds.
        max_new_tokens: that have to fit into the base's window after a prompt.
    """

    def __init__(self, base: Base, frame: Frame, *, input_tokens: int = 1024, max_new_tokens: int = 64) -> None:
        if input_tokens < 1:
            raise T2LError(f"An input of {input_tokens} tokens says nothing; it must be at least 1.")
        window = base.window or 1 << 20
        if window <= max_new_tokens:
            raise T2LError(f"Answers of {max_new_tokens} tokens leave no room in '{base.name}', which reads {window}.")
        self.max_new_tokens = max_new_tokens
        self._base, self._input_tokens = base, input_tokens
        self._tokenizer = SampleTokenizer(base.tokenizer, frame, max_prompt=window - max_new_tokens)
        self.counts = SampleCounts()
        """What the window cut, over all prompts."""

    def cut(self, text: str) -> tuple[str, bool]:
        """The input's first tokens as text, and whether it had more."""
        given = self._base.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ends = [int(end) for _, end in given["offset_mapping"]]
        return (text[: ends[self._input_tokens - 1]], True) if len(ends) > self._input_tokens else (text, False)

    def tokens(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """The prompt of each message.

        Raises:
            T2LError: a message is empty.
        """
        if not texts:
            return []
        empty = next((place for place, text in enumerate(texts) if not text.strip()), None)
        if empty is not None:
            raise T2LError(f"Message {empty} is empty.")
        rows = self._tokenizer.rows([(text, "a") for text in texts], self.counts)
        starts = rows.offsets[:-1].tolist()
        return [
            tuple(rows.tokens[start : start + length].tolist())
            for start, length in zip(starts, rows.prompt_lengths.tolist(), strict=True)
        ]


def answer_key(row: str, task: str, document: int) -> str:
    """Under which an answer is kept."""
    return f"{row}/{task}/{document}"


def answer_all(
    variants: Sequence[PromptVariant],
    inputs: Mapping[str, Sequence[str]],
    prompts: Prompts,
    decoder: Decoder,
    answers: Answers,
    report: Callable[[int, int, float], None] = lambda done, total, seconds: None,
) -> None:
    """Answers what has no answer yet; each batch is on disk before the next begins.

    Args:
        inputs: of each task, cut where they are too long; the same for every row.
        report: called with (answers that are there, answers in all, seconds of this call).
    """
    asked = [(one, document, text) for one in variants for document, text in enumerate(inputs[one.task])]
    keys = [answer_key(one.row, one.task, document) for one, document, _ in asked]
    copied = {key: text for key, (one, _, text) in zip(keys, asked, strict=True) if one.row == "copy-input"}
    answers.put({key: {"answer": text.strip()} for key, text in copied.items() if answers.get(key) is None})
    wanted = [number for number, key in enumerate(keys) if answers.get(key) is None]
    texts = [prompt_text(text, one.told, included=bool(one.told)) for one, _, text in (asked[n] for n in wanted)]
    requests = [
        Prompted(prompt, (), prompts.max_new_tokens, asked[number][0].adapter)
        for number, prompt in zip(wanted, prompts.tokens(texts), strict=True)
    ]
    begun, here = time.monotonic(), len(asked) - len(wanted)

    def keep(found: Mapping[int, Answer]) -> None:
        nonlocal here
        answers.put(
            {
                keys[wanted[number]]: {
                    "answer": made.text.strip(),
                    "prompt_tokens": len(requests[number].prompt),
                    "new_tokens": made.tokens,
                    "ended": made.ended,
                }
                for number, made in found.items()
            }
        )
        here += len(found)
        report(here, len(asked), time.monotonic() - begun)

    decoder.answers(requests, keep)


def scored(
    rows: Collection[str], tasks: Sequence[SuiteTask], answers: Answers, *, seed: int = 0, judged: bool = False
) -> dict[str, Any]:
    """Scores, intervals and paired differences of the rows that are answered, as plain JSON values.

    A task counts for a row where its instances are answered, and for a difference where both rows have it. Means are
    over instances, as in the official evaluation, so a task of 26 instances counts as 26; intervals resample tasks.

    Args:
        judged: the gate's verdict as well, by ROUGE-L, each task weighing the same.

    Raises:
        T2LError: rouge_score is missing, or a row that was begun lacks answers.
    """
    rouge, items = RougeL(), []
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for row in (row for row in ROWS if row in rows):
        for task in tasks:
            kept = [answers.get(answer_key(row, task.name, document)) for document in range(len(task.instances))]
            if all(one is None for one in kept):
                continue
            if any(one is None for one in kept):
                raise T2LError(
                    f"The row '{row}' lacks {sum(one is None for one in kept)} answers of the task '{task.name}'.",
                    "Give the command that answers again; it goes on where it stopped.",
                )
            each = [rouge(one["answer"], instance.outputs) for one, instance in zip(kept, task.instances, strict=True)]
            table.setdefault(row, {})[task.name] = _task_scores(task, kept, each)
            items += [{"row": row, "task": task.name, "document": n, "right": score} for n, score in enumerate(each)]
    summary = {row: _summary(of_tasks, seed) for row, of_tasks in table.items()}
    differences = {
        row: {
            "tasks": len(table[row]),
            **{name: _interval(_gaps(table[FIRST], of_tasks, name), seed) for name in ("rouge_l", "exact_match")},
        }
        for row, of_tasks in table.items()
        if FIRST in table and row != FIRST and set(of_tasks) & set(table[FIRST])
    }
    return {
        "scores": table,
        "summary": summary,
        "differences": differences,
        "categories": _categories(table, tasks),
        **({"gate": asdict(gate_of(items, seed, judged=True))} if judged else {}),
    }


def _task_scores(task: SuiteTask, kept: Sequence[Mapping[str, Any]], rouge: Sequence[float]) -> dict[str, Any]:
    texts = [one["answer"] for one in kept]
    pairs = zip(texts, (instance.outputs for instance in task.instances), strict=True)
    prompt_tokens = [one["prompt_tokens"] for one in kept if "prompt_tokens" in one]
    return {
        "items": len(kept),
        "rouge_l": sum(rouge) / len(kept),
        "exact_match": sum(exact_match(text, right) for text, right in pairs) / len(kept),
        "in_labels": sum(normalised(text) in task.labels for text in texts) / len(kept) if task.labels else None,
        "prompt_tokens": sum(prompt_tokens) / len(kept) if prompt_tokens else None,
        "not_ended": sum(not one.get("ended", True) for one in kept),
    }


def _summary(of_tasks: Mapping[str, Mapping[str, Any]], seed: int) -> dict[str, Any]:
    items = sum(one["items"] for one in of_tasks.values())
    tokens = [one["prompt_tokens"] * one["items"] for one in of_tasks.values() if one["prompt_tokens"] is not None]
    labelled = [
        (one["in_labels"] * one["items"], one["items"]) for one in of_tasks.values() if one["in_labels"] is not None
    ]
    return {
        "tasks": len(of_tasks),
        "answers": items,
        **{
            name: _interval([(one[name] * one["items"], one["items"]) for one in of_tasks.values()], seed)
            for name in ("rouge_l", "exact_match")
        },
        "in_labels": _interval(labelled, seed) if labelled else None,
        "prompt_tokens": sum(tokens) / items if tokens else None,
        "not_ended": sum(one["not_ended"] for one in of_tasks.values()),
    }


def _interval(tasks: Sequence[tuple[float, int]], seed: int) -> dict[str, float]:
    return asdict(over_tasks(tasks, seed))


def _gaps(
    first: Mapping[str, Mapping[str, Any]], second: Mapping[str, Mapping[str, Any]], name: str
) -> list[tuple[float, int]]:
    """Of each task that both have, the sum of the differences and how many instances it has."""
    shared = [task for task in first if task in second]
    return [((first[task][name] - second[task][name]) * first[task]["items"], first[task]["items"]) for task in shared]


def _categories(table: Mapping[str, Mapping[str, Mapping[str, Any]]], tasks: Sequence[SuiteTask]) -> dict[str, Any]:
    """Category -> how many tasks it has, and row -> means over its instances, in percent."""
    found: dict[str, Any] = {}
    for category in sorted({task.category for task in tasks}):
        names = [task.name for task in tasks if task.category == category]
        found[category] = {"tasks": len(names), "rows": {}}
        for row, of_tasks in table.items():
            some = [of_tasks[name] for name in names if name in of_tasks]
            if some:
                items = sum(one["items"] for one in some)
                found[category]["rows"][row] = {
                    name: 100 * sum(one[name] * one["items"] for one in some) / items
                    for name in ("rouge_l", "exact_match")
                }
    return found


def document(
    settings: Mapping[str, Any], tasks: Sequence[SuiteTask], scores: Mapping[str, Any], more: Mapping[str, Any]
) -> dict[str, Any]:
    """The run as plain JSON values: command, versions, settings, tasks, and what `scored` found."""
    return {
        "kind": SUITE,
        "format": FORMAT,
        "suite": "sni",
        **head("rouge_score"),
        "settings": dict(settings),
        "rows": {row: row_of(row).title for row in scores["scores"]},
        "tasks": {
            task.name: {"category": task.category, "items": len(task.instances), "labels": len(task.labels)}
            for task in tasks
        },
        **more,
        **scores,
    }


# --- tables, as lists of cells: the terminal, the report and the results page show the same ones ----------------------


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
        scores = [interval(one[score], short=short) for score in SCORES]
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


def interval(value: Mapping[str, float], sign: str = "", *, short: bool = False) -> str:
    """A mean with its interval."""
    to = "-" if short else " to "
    return f"{value['mean']:{sign}.1f} ({value['low']:{sign}.1f}{to}{value['high']:{sign}.1f})"


def _both(scores: Mapping[str, float]) -> str:
    return f"{scores['rouge_l']:.1f} / {scores['exact_match']:.1f}"
