"""One run of an evaluation: the harness drives all variants together, and what came out is one JSON document.

Level 5. A run's folder holds ``settings.json``, ``answers.jsonl`` (as they come, so that a run that was stopped goes
on) and ``run.json`` (at the end, whole or not at all). This file knows the harness and rows; it does not know where
adapters come from.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from t2l.adapter import Adapter
from t2l.bases import Base
from t2l.errors import OutputError, T2LError
from t2l.evaluation.answers import ANSWERS_FILE, Answers
from t2l.evaluation.benchmarks import EvaluationTask
from t2l.evaluation.decoding import Decoder
from t2l.evaluation.harness import MAX_NEW_TOKENS, AdaptedLM
from t2l.evaluation.rows import Variant
from t2l.evaluation.run_files import BENCHMARKS, RUN_FILE, SETTINGS_FILE, check_folder, head
from t2l.lora import LoraSource
from t2l.storage import read_json, write_json

FORMAT = 1
_SHOWN = 1500  # characters of a prompt or an answer that a run keeps


def run_variants(
    base: Base,
    adapters: Sequence[Adapter],
    tasks: Sequence[EvaluationTask],
    variants: Sequence[Variant],
    *,
    answers: Answers | None = None,
    limit: int | None = None,
    chat: bool = False,
    run_code: bool = False,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch: int = 32,
    seed: int = 0,
    source: LoraSource | None = None,
    identity: str = "",
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Every item of every variant: task, row, number, document, prompt, target, answer, ``right`` (0 to 1).

    Args:
        answers: of an earlier, interrupted run; new ones are added.
        limit: items a task.
        chat: put prompts in the base's chat template.
        run_code: leave to run what the model wrote.
        source: a hyperdecoder for the variants without an adapter.
        identity: of the base and what is inside it.
        report: called with (requests done, requests in all) of each kind.

    Raises:
        BaseModelError: an adapter is for another base.
        T2LError: a chat template is asked for and the base has none; a limit below 1.
    """
    from lm_eval.evaluator import evaluate

    if limit is not None and limit < 1:
        raise T2LError(f"The limit is {limit} items a task; it must be at least 1.")
    if chat and not base.has_chat_template:
        raise T2LError(f"'{base.name}' has no chat template.", "Add --no-chat.")
    decoder = Decoder(base, adapters, source=source, batch=batch)
    lm = AdaptedLM(
        decoder,
        {variant.alias: variant.adapter for variant in variants},
        max_new_tokens=max_new_tokens,
        answers=answers,
        identity=identity,
        report=report,
    )
    known = {task.name: task for task in tasks}
    prepared = {
        variant.alias: known[variant.task].variant(variant.alias, shots=variant.shots, prefix=variant.prefix, seed=seed)
        for variant in variants
    }
    stderr = io.StringIO()
    with redirect_stderr(stderr):  # the harness's progress bars, one for each variant
        found: Any = evaluate(
            lm=lm,
            task_dict={"tasks": prepared, "groups": {}, "group_map": {}},
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
            confirm_run_unsafe_code=run_code,
        )
    items = []
    for variant in variants:
        metric, which = known[variant.task].metric
        for sample in found["samples"][variant.alias]:
            if sample["filter"] == which:
                items.append(_item(variant, sample, metric, (variant.alias, sample["doc_id"]) in lm.cut))
    return items


def _item(variant: Variant, sample: Mapping[str, Any], metric: str, cut: bool) -> dict[str, Any]:
    others = {
        name: float(sample[name])
        for name in sample["metrics"]
        if name != metric and isinstance(sample[name], int | float) and math.isfinite(sample[name])
    }
    answer = sample["filtered_resps"][0]
    if not isinstance(answer, str):  # log-likelihoods: the choice that won
        scores = [one[0] for one in sample["filtered_resps"]]
        answer = _choice(sample, scores.index(max(scores)))
    else:
        answer = str(sample["resps"][0][0])
    target = sample["target"]
    chosen = not isinstance(sample["filtered_resps"][0], str)
    if chosen and str(target).isdigit() and int(target) < len(sample["arguments"]):  # HellaSwag has it as text
        target = _choice(sample, int(target))
    return {
        "task": variant.task,
        "row": variant.row,
        "number": variant.number,
        "document": int(sample["doc_id"]),
        "prompt": str(sample["arguments"][0][0])[-_SHOWN:],
        "target": str(target)[:_SHOWN],
        "answer": answer[:_SHOWN],
        "right": float(sample[metric]),
        **({"other_metrics": others} if others else {}),
        **({"cut": True} if cut else {}),
    }


def _choice(sample: Mapping[str, Any], place: int) -> str:
    """What tells a choice apart: its continuation, or (WinoGrande) its context where all continuations are one."""
    contexts, continuations = zip(*((str(one[0]), str(one[1])) for one in sample["arguments"]), strict=True)
    return (contexts if len(set(continuations)) == 1 else continuations)[place].strip()


def open_answers(folder: Path, settings: Mapping[str, Any], *, restart: bool = False) -> Answers:
    """The answers of a run's folder, those of an interrupted run among them.

    Args:
        settings: all that decides the run's figures; the folder must have been made with the same.
        restart: forget what is there.

    Raises:
        OutputError: the folder holds another run, or cannot be written.
    """
    check_folder(folder)
    file, known = folder / ANSWERS_FILE, folder / SETTINGS_FILE
    if restart:
        file.unlink(missing_ok=True)
        (folder / RUN_FILE).unlink(missing_ok=True)
    elif known.is_file():
        before = read_json(known, OutputError)
        other = [name for name in settings if before.get(name) != json.loads(json.dumps(settings[name]))]
        if other:
            raise OutputError(
                f"'{folder}' holds a run with another {', '.join(other)}; it was left as it is.",
                "Choose another place (--out FOLDER), or add --restart to lose it.",
            )
    write_json(known, dict(settings))
    return Answers(file)


def document(
    *,
    settings: Mapping[str, Any],
    tasks: Sequence[EvaluationTask],
    variants: Sequence[Variant],
    rows: Mapping[str, str],
    items: Sequence[Mapping[str, Any]],
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """The run as plain JSON values: command, versions, seeds, tasks, rows, what was asked of each, and every item."""
    return {
        "kind": BENCHMARKS,
        "format": FORMAT,
        **head(),
        "settings": dict(settings),
        "rows": dict(rows),
        "tasks": {
            task.name: {
                "family": task.family,
                "metric": task.metric[0],
                "filter": task.metric[1],
                "runs_code": task.runs_code,
            }
            for task in tasks
        },
        "variants": [
            {"task": v.task, "row": v.row, "number": v.number, "shots": v.shots, "description": v.text}
            for v in variants
        ],
        **more,
        "items": [dict(item) for item in items],
    }


def save_run(folder: Path, run: Mapping[str, Any]) -> Path:
    """Writes ``run.json``, whole or not at all."""
    write_json(folder / RUN_FILE, run)
    return folder / RUN_FILE
