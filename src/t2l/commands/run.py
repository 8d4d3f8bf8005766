"""``t2l run``: what the base answers, what it answers when told the task, and what it answers with the adapter.

Level 6.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2l.commands.options import (
    AsJson,
    BaseModel,
    Checkpoint,
    Device,
    Strength,
    checked_device,
    checked_strength,
    open_base,
    open_checkpoint,
)
from t2l.commands.terminal import Notes, messages, print_json, results, tell
from t2l.errors import CheckpointError, T2LError
from t2l.prompting import NONE, TEMPLATE

if TYPE_CHECKING:
    from t2l.adapter import Adapter
    from t2l.bases import Base
    from t2l.guidance.guide import Confidence
    from t2l.model import TextToLora


def run(
    description: Annotated[
        str, typer.Argument(metavar="DESCRIPTION", help="The task, in plain words; '-' reads stdin.")
    ],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="INPUT", help="What the task is done to; '-' reads stdin.")
    ] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", "-i", metavar="TEXT...", help="Another input; repeatable.")
    ] = None,
    files: Annotated[
        list[Path] | None, typer.Option("--file", "-f", metavar="FILE", help="A text file as input; repeatable.")
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Of files and stdin, take every line as an input.")] = False,
    checkpoint: Checkpoint = None,
    base: BaseModel = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="The longest answer.")] = 64,
    strength: Strength = 1.0,
    all_ways: Annotated[
        bool,
        typer.Option(
            "--all-ways",
            help="Also answer with the description in the prompt: beside the adapter, and of one LoRA for all tasks.",
        ),
    ] = False,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Put a task to the base model: alone, with the task in its prompt, and with the adapter.

    Inputs are arguments, files, or what comes through a pipe.
    """
    from t2l.comparison import compare
    from t2l.composition import scale

    asked = [*(inputs or ()), *(more or ())]
    if description == "-":
        description = _described(asked, files or ())
    texts = read_inputs(asked, files or (), lines=lines)
    notes = Notes()
    strength = checked_strength(strength)
    device = checked_device(device)
    t2l = open_checkpoint(checkpoint, device)
    name = t2l.spec.base_name(base)
    with notes.of_warnings():
        start = time.perf_counter()
        (adapter,) = t2l.generate([description.strip()])
        adapter_s = time.perf_counter() - start
        confidence = _confidence(t2l, description, notes)
        adapter = adapter if strength == 1 else scale(adapter, strength)
        loaded = open_base(t2l, base, device)
        if loaded.note:
            notes.add(loaded.note)
        start = time.perf_counter()
        with messages().status("Answering ..."):
            numbered, told = [(0, text) for text in texts], [(description, text) for text in texts]
            answers = compare(loaded, [adapter], [description], numbered, max_new_tokens=max_new_tokens)
            ways = _more_ways(t2l, loaded, adapter, told, max_new_tokens, notes) if all_ways else {}
        answer_s = time.perf_counter() - start
    report = {
        "description": description.strip(),
        "checkpoint": checkpoint,
        "base": name,
        "system": t2l.system,
        "strength": strength,
        "confidence": None if confidence is None else confidence.to_dict(),
        "answers": [
            {
                "input": one.text,
                "base": one.base,
                "prompted": one.prompted,
                "adapted": one.adapted,
                **{row: found[place] for row, found in ways.items()},
            }
            for place, one in enumerate(answers)
        ],
        "milliseconds": {"adapter": round(1000 * adapter_s, 3), "answers": round(1000 * answer_s, 3)},
        "notes": notes.texts,
    }
    (print_json if as_json else _show)(report)


def _more_ways(
    t2l: TextToLora,
    base: Base,
    adapter: Adapter,
    asked: list[tuple[str, str]],
    max_new_tokens: int,
    notes: Notes,
) -> dict[str, list[str]]:
    """Answers of two rows more, named as in t2l evaluate; the second where such a LoRA lies beside the checkpoint."""
    from t2l.adapter import Adapter
    from t2l.comparison import answer_told
    from t2l.model import reading_lora

    ways = {"t2l-in-prompt": adapter}
    if (folder := reading_lora(t2l.folder)) is not None:
        ways["multi-task-prompt"] = Adapter.load(folder)
    else:
        notes.add("No LoRA that reads descriptions lies beside this checkpoint, so that way is left out.")
    return {row: answer_told(base, asked, lora=lora, max_new_tokens=max_new_tokens) for row, lora in ways.items()}


def read_inputs(arguments: Sequence[str], files: Sequence[Path], *, lines: bool) -> list[str]:
    """Inputs from arguments, files and stdin, in this order; stdin where it is asked for or nothing else is given.

    Args:
        arguments: texts; ``"-"`` stands for stdin.
        files: each is one input.
        lines: take every line of files and stdin that is not blank as an input.

    Raises:
        T2LError: there is none, or a file cannot be read or is not UTF-8.
    """
    from t2l.storage import read_input

    texts = []
    for argument in arguments:
        texts += _parts(read_input("-", T2LError), "stdin", lines) if argument == "-" else [argument]
    for file in files:
        texts += _parts(read_input(file, T2LError), str(file), lines)
    if not arguments and not files and not sys.stdin.isatty():
        texts += _parts(read_input("-", T2LError), "stdin", lines)
    if not texts:
        raise T2LError("There is no input to do the task to.", 'Add one: --input "some text"')
    return texts


def _described(inputs: Sequence[str], files: Sequence[Path]) -> str:
    """The description that comes through a pipe: all of it, so that inputs have to come in another way.

    Raises:
        T2LError: there are no inputs but stdin, or nothing comes.
    """
    if "-" in inputs or not (inputs or files):
        raise T2LError(
            "stdin is the description ('-'), so inputs cannot come from it.", 'Give one: --input "some text"'
        )
    from t2l.storage import read_input

    found = _parts(read_input("-", T2LError), "stdin", lines=False)
    if not found:
        raise T2LError(
            "stdin holds no description.",
            'Say the task: t2l run "Copy the date out of the message." "See you on 3 June."',
        )
    return found[0]


def _parts(data: bytes, name: str, lines: bool) -> list[str]:
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as problem:
        raise T2LError(f"{name} is not UTF-8 (byte {problem.start}).", "Save it as UTF-8.") from problem
    return [part.strip() for part in (text.splitlines() if lines else [text]) if part.strip()]


def _confidence(t2l: TextToLora, description: str, notes: Notes) -> Confidence | None:
    """How far the description is to be trusted; None where the checkpoint is not calibrated."""
    from t2l.guidance.guide import Guide, is_calibrated

    if not is_calibrated(t2l):
        return None
    try:
        (confidence,) = Guide.of(t2l).assess([description.strip()])
    except CheckpointError as problem:
        notes.add(f"{problem.message} {problem.fix or ''}".strip())
        return None
    return confidence


def _show(report: dict[str, Any]) -> None:
    from rich.text import Text

    out, times = results(), report["milliseconds"]
    tell(report["description"], "bold")
    if (confidence := report["confidence"]) is not None:
        tell(f"  {confidence['in_words']}\n  {confidence['known']}", "dim")
    for row in report["answers"]:
        tell(f"\n{row['input']}", "cyan")
        for label, key, style in _ROWS:
            if key not in row:
                continue
            answer = row[key].strip() or "(nothing)"
            hanging = answer.replace("\n", "\n" + " " * _LABEL)
            out.print(Text.assemble((f"{label:<{_LABEL}}", "dim"), (hanging, style)), soft_wrap=True)
    system = _SYSTEM.get(report["system"], "a system message of its own")
    took = f"The adapter took {times['adapter']:.0f} ms (loading included), the answers {times['answers']:.0f} ms."
    tell(f"\nBase: {report['base']}, prompted with {system}. {took}", "dim")


_SYSTEM = {NONE: "no system message", TEMPLATE: "its chat template"}
_LABEL = 22
_ROWS = (
    ("  base alone", "base", "dim"),
    ("  base told the task", "prompted", "dim"),
    ("  with the adapter", "adapted", "green"),
    ("  adapter, told too", "t2l-in-prompt", "dim"),
    ("  one LoRA, told", "multi-task-prompt", "dim"),
)
