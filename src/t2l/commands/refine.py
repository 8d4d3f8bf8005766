"""``t2l refine``: learning from a few examples: a generated adapter, made better with its hypernetwork's help.

Level 6.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2l.commands.generate import check_place
from t2l.commands.options import (
    MORE,
    AsJson,
    BaseModel,
    Checkpoint,
    Device,
    Force,
    StoredAs,
    StoredForm,
    checked_device,
)
from t2l.commands.terminal import Notes, messages, print_json, tell
from t2l.errors import CheckpointError, T2LError
from t2l.prompting import RECORDED, TEMPLATE

if TYPE_CHECKING:
    from torch import Tensor

    from t2l.adapter import Adapter
    from t2l.hypernet import HyperNetwork

_FORM = (
    'Give JSON Lines such as {"input": "b a", "output": "a b"}, a list of such, or CSV with the columns input and '
    "output."
)
_LearningRate = Annotated[
    float, typer.Option("--learning-rate", help="Peak, of AdamW, on the adapter.", rich_help_panel=MORE)
]
_EmbeddingRate = Annotated[
    float,
    typer.Option(
        "--embedding-rate",
        help="Peak, of Adam, on the description's embedding, relative to the RMS of its entries.",
        rich_help_panel=MORE,
    ),
]


def refine(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="The adapter's folder.")],
    examples: Annotated[
        Path, typer.Option("--examples", metavar="FILE", help="Inputs with outputs, as JSON Lines or CSV.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The refined adapter's folder.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 60,
    base: BaseModel = None,
    checkpoint: Checkpoint = None,
    force: Force = False,
    as_json: AsJson = False,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Fine-tune the adapter alone, without its hypernetwork.", rich_help_panel=MORE),
    ] = False,
    learning_rate: _LearningRate = 3e-3,
    embedding_rate: _EmbeddingRate = 0.05,
    batch: Annotated[int, typer.Option(min=1, help="Examples in a step.", rich_help_panel=MORE)] = 8,
    seed: Annotated[int, typer.Option(help="Of which examples make a step.", rich_help_panel=MORE)] = 0,
    dtype: StoredAs = "float32",
    form: StoredForm = "portable",
    device: Device = "cpu",
) -> None:
    """Make an adapter better from a few examples, starting where its description has brought it.

    The description's embedding moves through the frozen hypernetwork beside the adapter. Where the checkpoint that
    wrote the adapter is not at hand, the adapter is fine-tuned alone.
    """
    from t2l.adapter import Adapter
    from t2l.bases import load_base
    from t2l.training import refinement

    check_place(out, force)
    if plain and checkpoint is not None:
        raise T2LError("--plain uses no hypernetwork, so no --checkpoint.", "Omit one of them.")
    if not (math.isfinite(embedding_rate) and embedding_rate > 0):
        raise T2LError(f"The embedding's learning rate is {embedding_rate}; it must be above 0.")
    config = refinement.RefineConfig(steps, learning_rate, batch, seed=seed)
    notes = Notes()
    pairs = read_examples(examples)
    start = Adapter.load(adapter)
    name = start.spec.base_name(base)
    device = checked_device(device)
    source = None if plain else _source_of(start, checkpoint, device, notes)
    # without the hypernetwork: were the scaling inside B, steps would be of another size
    warm = start.rank_stabilised() if source is None else _scaled_as(start, source[0])
    loaded = load_base(name, device=device).with_system(start.system or TEMPLATE)
    warm.spec.check_base(loaded.model)
    begun = time.perf_counter()
    with messages().status(f"Learning from {len(pairs)} examples"):
        samples = refinement.answer_samples(loaded, pairs)
        found = refinement.refine(
            loaded.model, warm.spec, warm.weights, samples, config, source=source, embedding_rate=embedding_rate
        )
    lineage = {} if source is None else {"embedding_rate": embedding_rate, "checkpoint": _written_by(start)[0]}
    record = found.record(config, start, pairs, **lineage)
    kept = {key: start.provenance[key] for key in ("description", *RECORDED) if key in start.provenance}
    refined = Adapter(warm.spec, found.weights, {**kept, "base_model": warm.spec.base_model, "refined": record})
    refined.save(out, form=form, dtype=dtype, force=force)
    seconds = round(time.perf_counter() - begun, 3)
    if as_json:
        shown = {key: value for key, value in record.items() if key != "from"}
        print_json({"folder": str(out), "digest": refined.digest, **shown, "notes": notes.texts, "seconds": seconds})
        return
    tell(str(out), "bold green")
    what = "held-out examples" if found.held else "examples themselves"
    tell(
        f"Loss on the {what}: {found.before:.3f} before, {found.loss:.3f} after step {found.step} of {steps} "
        f"({seconds:.1f} s)."
    )


def read_examples(path: Path) -> list[tuple[str, str]]:
    """(input, output) of each example in a file of any form of `t2l.records`; a number stands for its text.

    Raises:
        T2LError: the file cannot be read, holds no example, or one that is not whole; the message says where.
    """
    from t2l.data.sources import as_text
    from t2l.records import read_objects

    pairs = []
    for record in read_objects(path, ("input", "output"), _FORM, T2LError):
        question, answer = (as_text(record.value.get(field)) for field in ("input", "output"))
        if question is None or not question.strip():
            raise T2LError(f"{record.place} has no input.", _FORM)
        if record.value.get("output") is None:
            raise T2LError(f"{record.place} has no output.", _FORM)
        if answer is None:
            raise T2LError(f"{record.place}: the output is {json.dumps(record.value['output'])[:40]}, not text.")
        pairs.append((question, answer))
    return pairs


def _source_of(start: Adapter, checkpoint: str | None, device: str, notes: Notes) -> tuple[HyperNetwork, Tensor] | None:
    """The hypernetwork that wrote an adapter, and the embedding of its description; None (with a note) where not known.

    Raises:
        T2LError: a checkpoint was named, and it did not write this adapter or cannot be used.
    """
    from t2l.model import TextToLora

    digest, description = _written_by(start)
    named = checkpoint is not None
    try:
        if digest is None or description is None:
            raise CheckpointError("The adapter's provenance names no checkpoint with one description.")
        t2l = TextToLora.from_pretrained(checkpoint, device=device)
        if t2l.digest != digest:
            other = f"'{checkpoint}' is another one" if named else "the default one is another"
            raise CheckpointError(f"The adapter was written by the checkpoint {digest[:12]}; {other}.")
        if (t2l.spec.groups, t2l.spec.rank) != (start.spec.groups, start.spec.rank):
            raise CheckpointError("The adapter has another rank or other modules than its checkpoint writes.")
        return t2l.hypernetwork, t2l.encoder.encode([description])
    except T2LError as problem:
        if named:
            raise CheckpointError(problem.message, "Name the checkpoint that wrote it, or say --plain.") from problem
        notes.add(
            f"{problem.message} Fine-tuning without the hypernetwork, where the first steps gain less; "
            "with it: --checkpoint FOLDER|HUB_ID"
        )
        return None


def _written_by(adapter: Adapter) -> tuple[str | None, str | None]:
    """Digest of the checkpoint and the description of a generated adapter, also of one that was refined since."""
    found: Any = adapter.provenance
    while isinstance(found, dict) and "refined" in found:
        before = found["refined"].get("from") if isinstance(found["refined"], dict) else None
        found = before.get("provenance") if isinstance(before, dict) else None
    if not isinstance(found, dict):
        return None, None
    digest, description = found.get("checkpoint"), found.get("description")
    both = isinstance(digest, str) and isinstance(description, str)
    return (digest, description) if both else (None, None)


def _scaled_as(adapter: Adapter, hypernetwork: HyperNetwork) -> Adapter:
    """The same adapter, its B divided for the scaling in which the hypernetwork writes."""
    from t2l.adapter import Adapter
    from t2l.lora import LoraWeights

    factor = adapter.spec.scaling / hypernetwork.spec.scaling
    b = {key: (b_NLOR.double() * factor).float() for key, b_NLOR in adapter.weights.b.items()}
    return Adapter(hypernetwork.spec, LoraWeights(dict(adapter.weights.a), b), adapter.provenance)
