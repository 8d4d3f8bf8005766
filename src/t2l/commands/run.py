"""``t2l run``: the base's answers and the adapted answers, side by side.

Level 6.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from t2l.commands.options import AsJson, BaseModel, Checkpoint, Device, Strength, checked_device, checked_strength
from t2l.commands.terminal import Notes, print_json, results, say
from t2l.errors import BaseModelError, T2LError


def run(
    description: Annotated[str, typer.Argument(metavar="DESCRIPTION", help="The task, in plain words.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Further inputs.")] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", "-i", metavar="TEXT...", help="What the task is done to; repeatable.")
    ] = None,
    checkpoint: Checkpoint = None,
    base: BaseModel = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="The longest answer.")] = 64,
    strength: Strength = 1.0,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Put a task to the base model with and without the adapter that its description gives."""
    from t2l.bases import load_base
    from t2l.composition import scale
    from t2l.encoders import CachedEncoder
    from t2l.model import TextToLora

    texts = [*(inputs or ()), *(more or ())]
    if not texts:
        raise T2LError("There is no input to do the task to.", 'Add one: --input "some text"')
    notes = Notes()
    strength = checked_strength(strength)
    device = checked_device(device)
    t2l = TextToLora.from_pretrained(checkpoint, device=device)
    t2l.encoder = CachedEncoder(t2l.encoder)
    name = base or t2l.spec.base_model
    if name is None:
        raise BaseModelError("The checkpoint does not say which base it is for.", "Name it: --base FOLDER|HUB_ID")
    with notes.of_warnings():
        start = time.perf_counter()
        (adapter,) = t2l.generate([description.strip()])
        adapter = adapter if strength == 1 else scale(adapter, strength)
        adapter_s = time.perf_counter() - start
        loaded = load_base(name, device=device)
        if loaded.note:
            notes.add(loaded.note)
        rows = [-1] * len(texts) + [0] * len(texts)  # plain and adapted answers come out of one batch
        start = time.perf_counter()
        answers = loaded.answer(
            [*texts, *texts], spec=adapter.spec, weights=adapter.weights, index=rows, max_new_tokens=max_new_tokens
        )
        answer_s = time.perf_counter() - start
    pairs = zip(texts, answers[: len(texts)], answers[len(texts) :], strict=True)
    report = {
        "description": description.strip(),
        "checkpoint": checkpoint,
        "base": name,
        "strength": strength,
        "answers": [{"input": text, "base": plain, "adapted": adapted} for text, plain, adapted in pairs],
        "milliseconds": {"adapter": round(1000 * adapter_s, 3), "answers": round(1000 * answer_s, 3)},
        "notes": notes.texts,
    }
    if as_json:
        print_json(report)
    else:
        _show(report)


def _show(report: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    out, times = results(), report["milliseconds"]
    say(report["description"], "bold", console=out)
    table = Table("input", header_style="bold")
    table.add_column(Text(report["base"]))
    table.add_column("with the adapter")
    for row in report["answers"]:
        table.add_row(Text(row["input"]), Text(row["base"], "dim"), Text(row["adapted"], "green"))
    out.print(table)
    say(f"The adapter took {times['adapter']:.0f} ms, the answers {times['answers']:.0f} ms.", console=out)
