"""``t2l explain`` and ``t2l calibrate``: a checkpoint's confidence in a description, and how it is fitted.

Level 6.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2l.commands.options import AsJson, Checkpoint, Device, checked_device
from t2l.commands.terminal import Notes, messages, print_json, results, say
from t2l.data.sources import as_text
from t2l.errors import T2LError, did_you_mean

if TYPE_CHECKING:
    from t2l.guidance.calibrate import Score, ValidationTask
    from t2l.guidance.guide import Explanation
    from t2l.lora import LoraWeights
    from t2l.model import TextToLora

_SHOWN = 4  # nearest tasks
_ANSWER_TOKENS = 64
_FORM = '{"task": "sort", "descriptions": ["Sort the words."], "examples": [{"input": "b a", "output": "a b"}]}'


def explain(
    description: Annotated[str, typer.Argument(metavar="DESCRIPTION", help="What an adapter should do.")],
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Say how far a description is to be trusted, why, and how to word it better."""
    from t2l.encoders import CachedEncoder
    from t2l.encoders.description import prepare
    from t2l.guidance.guide import Guide, explain_uncalibrated, is_calibrated
    from t2l.model import TextToLora

    prepare([description])  # before the checkpoint is read
    t2l = TextToLora.from_pretrained(checkpoint)
    t2l.encoder = CachedEncoder(t2l.encoder)
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
            help="JSON Lines, a task each: task and descriptions; those with examples are the validation tasks.",
        ),
    ],
    checkpoint: Checkpoint = None,
    base: Annotated[
        str | None,
        typer.Option("--base", "-b", metavar="FOLDER|HUB_ID", help="The base model; by default the checkpoint's own."),
    ] = None,
    static: Annotated[
        Path | None,
        typer.Option("--static", metavar="ADAPTER", help="A multi-task adapter, kept for the policy 'static'."),
    ] = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Measure on validation tasks when descriptions can be trusted, and keep it beside the checkpoint."""
    from t2l.bases import load_base
    from t2l.encoders import CachedEncoder
    from t2l.guidance.calibrate import calibrate as fit
    from t2l.model import TextToLora

    training, validation = read_tasks(tasks)
    t2l = TextToLora.from_pretrained(checkpoint, device=checked_device(device))
    t2l.encoder = CachedEncoder(t2l.encoder)
    assert t2l.folder is not None
    name = t2l.spec.base_name(base)
    fallback = None if static is None else _static(static, t2l)
    loaded = load_base(name, device=checked_device(device)).with_system(t2l.system)
    t2l.spec.check_base(loaded.model)
    facts = {"tasks": str(tasks)}
    score = _scorer(t2l, loaded)
    found = fit(t2l, training, validation, score, static=fallback, facts=facts, report=messages().print)
    found.save(t2l.folder)
    if as_json:
        print_json({"folder": str(t2l.folder), **found.facts, "score": found.scale.score, "gain": found.scale.gain})
        return
    facts = found.facts
    say(f"Calibrated: {t2l.folder}", "bold green", console=results())
    say(
        f"{facts['training_tasks']} training tasks are known. Adapters of {facts['descriptions']} descriptions of "
        f"{len(facts['validation_tasks'])} validation tasks add {100 * facts['mean_gain']:+.1f} points, those of "
        f"{facts['controls']} vague, senseless or foreign ones {100 * facts['mean_gain_of_controls']:+.1f}.",
        console=results(),
    )


def read_tasks(path: Path) -> tuple[dict[str, list[str]], list[ValidationTask]]:
    """Training tasks with their descriptions, and validation tasks, from JSON Lines.

    Every training task keeps as many descriptions as the one with the fewest.

    Raises:
        T2LError: the file cannot be read, or a line is not a task; the message says which.
    """
    from t2l.guidance.calibrate import ValidationTask

    try:
        lines = path.expanduser().read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as problem:
        raise T2LError(f"The tasks in '{path}' cannot be read: {problem}.") from problem
    training: dict[str, list[str]] = {}
    validation: list[ValidationTask] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, texts, examples = _task(line, f"Line {number} of {path}")
        if name in training or any(task.name == name for task in validation):
            raise T2LError(f"Line {number} of {path}: the task '{name}' is there already.")
        if examples:
            validation.append(ValidationTask(name, tuple(texts), tuple(examples)))
        else:
            training[name] = texts
    fewest = min((len(texts) for texts in training.values()), default=0)
    return {name: texts[:fewest] for name, texts in training.items()}, validation


def _task(line: str, place: str) -> tuple[str, list[str], list[tuple[str, str]]]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as problem:
        raise T2LError(f"{place} is not JSON: {problem}.", f"Each line is a task such as {_FORM}") from problem
    if not isinstance(record, dict):
        raise T2LError(f"{place} is not a JSON object.", f"Each line is a task such as {_FORM}")
    unknown = next((key for key in record if key not in ("task", "descriptions", "examples")), None)
    if unknown is not None:
        near = did_you_mean(str(unknown), ("task", "descriptions", "examples"))
        raise T2LError(f"{place}: there is no field '{unknown}'.", near)
    name, texts, examples = record.get("task"), record.get("descriptions"), record.get("examples", [])
    if not isinstance(name, str) or not name:
        raise T2LError(f"{place} has no 'task'.", f"Each line is a task such as {_FORM}")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise T2LError(f"{place}: 'descriptions' is not a list of texts.", f"Each line is a task such as {_FORM}")
    pairs = []
    for example in examples if isinstance(examples, list) else [None]:
        pair = example if isinstance(example, dict) else {}
        asked, said = as_text(pair.get("input")), as_text(pair.get("output"))
        if asked is None or said is None:
            raise T2LError(f"{place}: an example lacks an 'input' or an 'output'.", f"Such as {_FORM}")
        pairs.append((asked, said))
    return name, texts, pairs


def _scorer(t2l: TextToLora, base: Any) -> Score:
    """Exact match of greedy answers, but for the spaces around them."""

    def score(weights: LoraWeights | None, asked: Any) -> list[bool]:
        inputs = [example[0] for _, example in asked]
        adapted = {} if weights is None else {"spec": t2l.spec, "weights": weights, "index": [row for row, _ in asked]}
        answers = base.answer(inputs, max_new_tokens=_ANSWER_TOKENS, **adapted)
        return [said.strip() == example[1].strip() for said, (_, example) in zip(answers, asked, strict=True)]

    return score


def _static(folder: Path, t2l: TextToLora) -> LoraWeights:
    from t2l.adapter import Adapter
    from t2l.library import INDEX_FILE, Library

    if (folder / INDEX_FILE).is_file():  # of 't2l train library'
        library = Library.open(folder)
        if len(library) != 1:
            raise T2LError(f"The library in '{folder}' holds {len(library)} adapters; one is a fallback.")
        adapter = library.adapter(library.names[0])
    else:
        adapter = Adapter.load(folder)
    if adapter.spec.groups != t2l.spec.groups or adapter.spec.rank != t2l.spec.rank:
        raise T2LError(f"The adapter in '{folder}' adapts other modules or has another rank than the checkpoint.")
    ratio = adapter.spec.scaling / t2l.spec.scaling
    weights = adapter.weights
    return type(weights)(dict(weights.a), {key: b_NLOR * ratio for key, b_NLOR in weights.b.items()})


def _show(found: Explanation) -> None:
    out = results()
    confidence = found.confidence
    if confidence is None:
        say(found.note or "", "yellow", console=out)
    else:
        style = "green" if confidence.value >= 0.5 else "yellow" if confidence.value >= 0.2 else "red"
        say(
            f"Confidence {confidence.value:.2f}; the adapter is expected to add "
            f"{100 * confidence.expected_gain:+.0f} points.",
            f"bold {style}",
            console=out,
        )
        say("Nearest training tasks:", "bold", console=out)
        for neighbour in confidence.nearest[:_SHOWN]:
            say(f"  {neighbour.similarity:.2f}  {neighbour.task}: {neighbour.description}", console=out)
    say("Wording:" if found.findings else "Wording: nothing vague or contradictory was found.", "bold", console=out)
    for finding in found.findings:
        about = f" ('{finding.text}')" if finding.text else ""
        say(f"  {finding.kind}{about}: {finding.advice}", console=out)
    say(f"Said in other words, its encoding turns by {found.rewording:.3f} (0: not at all).", console=out)
    if found.rewrite is not None:
        say(f"Try: {found.rewrite[0]}", "bold", console=out)
        say(f"  as a training task says it; confidence {found.rewrite[1]:.2f}", console=out)
