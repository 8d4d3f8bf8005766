"""``t2l explain`` and ``t2l calibrate``: a checkpoint's confidence in a description, and how it is fitted.

Level 6.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2l.commands.options import AsJson, BaseModel, Checkpoint, Device, checked_device, open_base, open_checkpoint
from t2l.commands.terminal import Notes, messages, print_json, tell
from t2l.errors import T2LError

if TYPE_CHECKING:
    from t2l.guidance.calibration import GuidedTask, Score
    from t2l.guidance.guide import Explanation
    from t2l.model import TextToLora
    from t2l.records import Record

_SHOWN = 4  # nearest tasks
_ANSWER_TOKENS = 32
_FIELDS = ("task", "descriptions", "label", "examples")
_FORM = (
    'Each is a task such as {"task": "date", "descriptions": ["Copy the date out of the message."], '
    '"examples": [{"input": "The meeting is on 3 June.", "output": "3 June"}]}'
)


def explain(
    description: Annotated[str, typer.Argument(metavar="DESCRIPTION", help="What an adapter should do.")],
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Say how far a description is to be trusted, why, and how to word it better."""
    from t2l.encoders.description import prepare
    from t2l.guidance.guide import Guide, explain_uncalibrated, is_calibrated

    prepare([description])  # before the checkpoint is read
    t2l = open_checkpoint(checkpoint)
    notes = Notes()
    with notes.of_warnings():
        found = Guide.of(t2l).explain(description) if is_calibrated(t2l) else explain_uncalibrated(t2l, description)
    if as_json:
        print_json({**found.to_dict(), "notes": notes.texts})
    else:
        _show(found)


def calibrate(
    tasks: Annotated[
        Path,
        typer.Option(
            "--tasks",
            metavar="FILE",
            help="JSON Lines, a task each: task and descriptions, and a label to show instead of a description; those "
            "with examples are the validation tasks.",
        ),
    ],
    checkpoint: Checkpoint = None,
    base: BaseModel = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Measure on validation tasks when descriptions can be trusted, and keep it beside the checkpoint."""
    from t2l.guidance.calibration import calibrate as fit
    from t2l.model import TextToLora

    known = read_tasks(tasks)
    t2l = TextToLora.from_pretrained(checkpoint, device=checked_device(device))
    assert t2l.folder is not None
    loaded = open_base(t2l, base, checked_device(device))
    found = fit(t2l, known, _scorer(t2l, loaded), facts={"measure": "ROUGE-L"}, report=messages().print)
    found.save(t2l.folder)
    facts = found.facts
    if as_json:
        print_json({"folder": str(t2l.folder), **facts, "score": found.scale.score, "gain": found.scale.gain})
        return
    tell(f"Calibrated: {t2l.folder}", "bold green")
    tell(
        f"{facts['training_tasks']} training tasks are known. Adapters of {facts['descriptions']} descriptions of "
        f"{facts['validation_tasks']} validation tasks add {100 * facts['mean_gain']:+.1f} ROUGE-L points to the base, "
        f"those of {facts['controls']} vague, senseless or foreign texts {100 * facts['mean_gain_of_controls']:+.1f}."
    )


def read_tasks(path: Path) -> list[GuidedTask]:
    """Training tasks with their descriptions, and validation tasks, from records of any form.

    Raises:
        T2LError: the file cannot be read, or a record is not a task; the message says which.
    """
    from t2l.records import read_objects

    tasks: dict[str, GuidedTask] = {}
    for record in read_objects(path, _FIELDS, _FORM, T2LError):
        task = _task(record)
        if task.name in tasks:
            raise T2LError(f"{record.place}: the task '{task.name}' is there already.")
        tasks[task.name] = task
    return list(tasks.values())


def _task(given: Record) -> GuidedTask:
    from t2l.data.sources import as_text
    from t2l.guidance.calibration import GuidedTask

    record, place, form = given.value, given.place, _FORM
    name, texts, label, examples = (record.get(field) for field in _FIELDS)
    if not isinstance(name, str) or not name:
        raise T2LError(f"{place} has no 'task'.", form)
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise T2LError(f"{place}: 'descriptions' is not a list of texts.", form)
    if label is not None and (not isinstance(label, str) or not label):
        raise T2LError(f"{place}: 'label' is {json.dumps(label)[:40]}, not text.", form)
    pairs = []
    for example in (examples if isinstance(examples, list) else [None]) if examples is not None else []:
        pair = example if isinstance(example, dict) else {}
        outputs = pair.get("output")
        asked, right = (
            as_text(pair.get("input")),
            tuple(map(as_text, outputs if isinstance(outputs, list) else [outputs])),
        )
        if asked is None or not right or None in right:
            raise T2LError(f"{place}: an example lacks an 'input' or an 'output'.", form)
        pairs.append((asked, right))
    return GuidedTask(name, tuple(texts), label, tuple(pairs))


def _scorer(t2l: TextToLora, base: Any) -> Score:
    """ROUGE-L of greedy answers; inputs of like length share a batch."""
    from t2l.evaluation.scores import RougeL

    rouge = RougeL()

    def score(weights: Any, asked: Any) -> list[float]:
        order = sorted(range(len(asked)), key=lambda number: len(asked[number][1][0]))
        rows = [asked[number] for number in order]
        adapted = {} if weights is None else {"spec": t2l.spec, "weights": weights, "index": [row for row, _ in rows]}
        answers = base.answer([text for _, (text, _) in rows], max_new_tokens=_ANSWER_TOKENS, **adapted)
        scores = [rouge(answer, right) for answer, (_, (_, right)) in zip(answers, rows, strict=True)]
        return [scores[place] for place in sorted(range(len(order)), key=order.__getitem__)]

    return score


def _show(found: Explanation) -> None:
    confidence = found.confidence
    if confidence is None:
        tell(found.note or "", "yellow")
    else:
        style = "green" if confidence.value >= 0.5 else "yellow" if confidence.value >= 0.2 else "red"
        words = confidence.in_words()
        tell(f"{words[:1].upper()}{words[1:]}.", f"bold {style}")
        tell("Known, the nearest of this checkpoint's training tasks:", "bold")
        for neighbour in confidence.nearest[:_SHOWN]:
            tell(f"  {neighbour.similarity:.2f}  {neighbour.description}")
    tell("Wording:" if found.findings else "Wording: nothing vague or contradictory was found.", "bold")
    for finding in found.findings:
        about = f" ('{finding.text}')" if finding.text else ""
        tell(f"  {finding.kind}{about}: {finding.advice}")
    if found.rewrite is not None:
        tell(f"Try: {found.rewrite[0]}", "bold")
        tell(f"  as a training task says it; confidence {found.rewrite[1]:.2f}")
