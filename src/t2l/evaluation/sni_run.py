"""One run of the suite ``sni``: questions become answers in a folder, and answers become one JSON document of scores.

Level 5. The folder holds ``settings.json``, ``answers.jsonl`` (as they come: a run that was stopped goes on, and rows
can be added), ``facts.json`` (which command answered, where, in what time) and ``run.json`` (the scores). Answering
needs a model and no scorer, scoring needs the answers and no model, so the two may happen on different machines. This
file does not know where adapters or tasks come from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from t2l.bases import Base
from t2l.data.prompts import Frame, SampleCounts, SampleTokenizer
from t2l.errors import OutputError, T2LError
from t2l.evaluation.answers import ANSWERS_FILE, Answers
from t2l.evaluation.gate import over_tasks
from t2l.evaluation.grouped import GroupedDecoder, Question
from t2l.evaluation.run_files import RUN_FILE, SETTINGS_FILE, SUITE, check_folder, head
from t2l.evaluation.sni import SUITE_ROWS, Asked, SuiteTask
from t2l.evaluation.sni_scores import RougeL, exact_match, normalised
from t2l.storage import read_json, write_json

FACTS_FILE = "facts.json"
FORMAT = 1
FIRST = "t2l"
"""The row that differences are taken from."""


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
        window = getattr(base.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 20
        if window <= max_new_tokens:
            raise T2LError(f"Answers of {max_new_tokens} tokens leave no room in '{base.name}', which reads {window}.")
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
        empty = next((place for place, text in enumerate(texts) if not text.strip()), None)
        if empty is not None:
            raise T2LError(f"Message {empty} is empty.")
        rows = self._tokenizer.rows([(text, "a") for text in texts], self.counts)
        starts = rows.offsets[:-1].tolist()
        return [
            tuple(rows.tokens[start : start + length].tolist())
            for start, length in zip(starts, rows.prompt_lengths.tolist(), strict=True)
        ]


def open_run(
    folder: Path, settings: Mapping[str, Any], rows: Mapping[str, str], *, restart: bool = False
) -> tuple[Answers, dict[str, Any]]:
    """The answers that a run's folder has, and its settings with what is added to them.

    Args:
        settings: all that decides every row's answers; the folder must have been made with the same.
        rows: row -> what else decides its answers; rows may be added, but none may change.
        restart: forget what is there.

    Raises:
        OutputError: the folder holds another run, or cannot be written.
    """
    check_folder(folder)
    known = folder / SETTINGS_FILE
    now: dict[str, Any] = {**json.loads(json.dumps(settings)), "rows": dict(rows)}
    if restart:
        for name in (ANSWERS_FILE, RUN_FILE, FACTS_FILE):
            (folder / name).unlink(missing_ok=True)
    elif known.is_file():
        before = read_json(known, OutputError)
        other = [name for name in settings if before.get(name) != now[name]]
        kept = before.get("rows")
        earlier: dict[str, Any] = kept if isinstance(kept, dict) else {}
        other += [f"row '{row}'" for row, identity in rows.items() if earlier.get(row, identity) != identity]
        if other:
            raise OutputError(
                f"'{folder}' holds a run with another {', '.join(other)}; it was left as it is.",
                "Choose another place (--out FOLDER), or add --restart to lose it.",
            )
        now["rows"] = {**earlier, **rows}
    write_json(known, now)
    return Answers(folder / ANSWERS_FILE), now


def key_of(row: str, task: str, document: int) -> str:
    """Under which an answer is kept."""
    return f"{row}/{task}/{document}"


def answer_all(
    asked: Sequence[Asked],
    prompts: Prompts,
    decoder: GroupedDecoder,
    answers: Answers,
    report: Callable[[int, int, float], None] = lambda done, total, seconds: None,
) -> None:
    """Answers what has no answer yet; each batch is on disk before the next begins.

    Args:
        report: called with (answers that are there, answers in all, seconds of this call).
    """
    wanted = [one for one in asked if answers.get(key_of(one.row, one.task, one.document)) is None]
    tokens = prompts.tokens([one.text for one in wanted]) if wanted else []
    questions = [Question(prompt, one.adapter) for prompt, one in zip(tokens, wanted, strict=True)]
    begun, here = time.monotonic(), len(asked) - len(wanted)
    ends, tokenizer = decoder.base.ends(), decoder.base.tokenizer

    def keep(found: Mapping[int, Sequence[int]]) -> None:
        nonlocal here
        records = {}
        for number, made in found.items():
            one, ended = wanted[number], bool(made) and made[-1] in ends
            text = tokenizer.decode(list(made[:-1] if ended else made), skip_special_tokens=True)
            records[key_of(one.row, one.task, one.document)] = {
                "answer": str(text).strip(),
                "prompt_tokens": len(questions[number].prompt),
                "new_tokens": len(made),
                "ended": ended,
            }
        answers.put(records)
        here += len(found)
        report(here, len(asked), time.monotonic() - begun)

    decoder.answers(questions, keep)


def copies(tasks: Sequence[SuiteTask], inputs: Mapping[str, Sequence[str]], answers: Answers) -> None:
    """The row "copy-input": every input as its own answer."""
    answers.put(
        {
            key_of("copy-input", task.name, document): {"answer": text.strip()}
            for task in tasks
            for document, text in enumerate(inputs[task.name])
            if answers.get(key_of("copy-input", task.name, document)) is None
        }
    )


def scored(rows: Sequence[str], tasks: Sequence[SuiteTask], answers: Answers, *, seed: int = 0) -> dict[str, Any]:
    """Scores, intervals and paired differences of the rows that are answered, as plain JSON values.

    A task counts for a row where its instances are answered, and for a difference where both rows have it. Means are
    over instances, as in the official evaluation, so a task of 26 instances counts as 26; intervals resample tasks.

    Raises:
        T2LError: rouge_score is missing, or a row that was begun lacks answers.
    """
    rouge = RougeL()
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        for task in tasks:
            kept = [answers.get(key_of(row, task.name, document)) for document in range(len(task.instances))]
            if all(one is None for one in kept):
                continue
            if any(one is None for one in kept):
                raise T2LError(
                    f"The row '{row}' lacks {sum(one is None for one in kept)} answers of the task '{task.name}'.",
                    "Give the command that answers again; it goes on where it stopped.",
                )
            table.setdefault(row, {})[task.name] = _task_scores(task, kept, rouge)
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
    }


def _task_scores(task: SuiteTask, kept: Sequence[Mapping[str, Any]], rouge: RougeL) -> dict[str, Any]:
    texts = [one["answer"] for one in kept]
    references = [instance.outputs for instance in task.instances]
    pairs = list(zip(texts, references, strict=True))
    prompt_tokens = [one["prompt_tokens"] for one in kept if "prompt_tokens" in one]
    return {
        "items": len(kept),
        "rouge_l": sum(rouge(text, right) for text, right in pairs) / len(kept),
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
        "rows": {row: SUITE_ROWS[row].title for row in SUITE_ROWS if row in scores["scores"]},
        "tasks": {
            task.name: {"category": task.category, "items": len(task.instances), "labels": len(task.labels)}
            for task in tasks
        },
        **more,
        **scores,
    }
