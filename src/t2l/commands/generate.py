"""``t2l generate``: from descriptions to adapter folders.

Level 6. Everything that can be refused is refused before the first adapter is made; each folder is whole or absent.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2l.commands.options import (
    AsJson,
    Checkpoint,
    Device,
    Dtype,
    Force,
    Form,
    Strength,
    checked_device,
    checked_strength,
)
from t2l.commands.terminal import Notes, messages, print_json, results, say
from t2l.errors import OutputError

if TYPE_CHECKING:
    from t2l.commands.descriptions import Request
    from t2l.model import TextToLora

DEFAULT_FOLDER = Path("adapters")
_MEMORY = 1 << 28  # bytes a forward pass may take: more adapters at a time are hardly faster to write


def generate(
    descriptions: Annotated[
        list[str] | None, typer.Argument(metavar="DESCRIPTION", help="What each adapter should do, in plain words.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE|-",
            help="Descriptions, one a line, or JSON Lines with description and optional name; - reads stdin.",
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="The adapter's folder; for several descriptions, the folder that theirs go into. "
            "By default below 'adapters'.",
        ),
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="How the adapter's tensors are stored.")] = Dtype.float32,
    form: Annotated[
        Form, typer.Option(help="portable: right in every runtime. rslora: the scaling is left to the runtime.")
    ] = Form.portable,
    strength: Strength = 1.0,
    device: Device = "cpu",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make a LoRA adapter from each description, as a folder that PEFT, vLLM and SGLang load as it is."""
    from t2l.commands.descriptions import read_requests
    from t2l.encoders import CachedEncoder
    from t2l.model import TextToLora

    notes = Notes()
    strength = checked_strength(strength)
    requests = read_requests(descriptions or [], file, notes.add)
    if len(requests) == 1 and out is not None:
        check_place(out, force)  # before the checkpoint is read
    t2l = TextToLora.from_pretrained(checkpoint, device=checked_device(device))
    t2l.encoder = CachedEncoder(t2l.encoder)
    folders = _folders(requests, out, t2l.digest)
    for folder in folders:
        check_place(folder, force)
    with notes.of_warnings():
        start = time.perf_counter()
        t2l.encoder.encode([request.description for request in requests])  # `stream` finds them in the cache
        encode_s = time.perf_counter() - start
        made, generate_s, write_s = _make(
            t2l, requests, folders, strength, dtype=dtype.value, form=form.value, force=force
        )
    report = {
        "checkpoint": checkpoint,
        "checkpoint_digest": t2l.digest,
        "base_model": t2l.spec.base_model,
        "adapters": made,
        "milliseconds": {
            "encode": round(1000 * encode_s, 3),
            "generate": round(1000 * generate_s, 3),
            "write": round(1000 * write_s, 3),
            "generate_per_adapter": round(1000 * generate_s / len(made), 3),
        },
        "notes": notes.texts,
    }
    if as_json:
        print_json(report)
    else:
        _show(report)


def _make(
    t2l: TextToLora, requests: Sequence[Request], folders: Sequence[Path], strength: float, **how_to_save: Any
) -> tuple[list[dict[str, Any]], float, float]:
    """Generates and writes the adapters one by one; what became of each, and the seconds for both."""
    from rich.progress import track

    from t2l.composition import scale

    made: list[dict[str, Any]] = []
    generate_s = write_s = 0.0
    console = messages()
    adapters = t2l.stream([request.description for request in requests], memory=_MEMORY)
    pairs = list(zip(requests, folders, strict=True))
    hidden = len(pairs) == 1 or not console.is_terminal
    try:
        for request, folder in track(pairs, "Generating", console=console, transient=True, disable=hidden):
            start = time.perf_counter()
            adapter = next(adapters)
            adapter = adapter if strength == 1 else scale(adapter, strength)
            generated = time.perf_counter()
            adapter.save(folder, **how_to_save)
            generate_s, write_s = generate_s + generated - start, write_s + time.perf_counter() - generated
            entry = {"description": request.description, "name": request.name, "folder": str(folder)}
            made.append({**entry, "digest": adapter.digest})
    except BaseException:
        if len(pairs) > 1:
            say(f"{len(made)} of {len(pairs)} adapters were written, each whole.", "yellow")
        raise
    return made, generate_s, write_s


def _folders(requests: Sequence[Request], out: Path | None, checkpoint: str) -> list[Path]:
    if len(requests) == 1 and out is not None:
        return [out]
    parent = DEFAULT_FOLDER if out is None else out
    return [parent / request.folder_name(checkpoint) for request in requests]


def check_place(folder: Path, force: bool) -> None:
    """Refuses a folder that exists or cannot be made, before any work."""
    from t2l.peft_format import CONFIG_FILE
    from t2l.storage import check_writable

    check_writable(folder, marker=CONFIG_FILE, force=force)
    above = folder.expanduser().absolute().parent
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        raise OutputError(f"Cannot write '{folder}': '{above}' is a file.", "Choose another place.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"Cannot write '{folder}': no right to write in '{above}'.", "Choose another place.")


def _show(report: dict[str, Any]) -> None:
    from t2l.bases import EMBEDDED_BASE

    out, adapters, times = results(), report["adapters"], report["milliseconds"]
    for adapter in adapters:
        say(adapter["folder"], "bold green", console=out)
        if len(adapters) > 1:
            say(f"  {_shortened(adapter['description'])}", "dim", console=out)
    plural = "adapter" if len(adapters) == 1 else "adapters"
    each = f" ({times['generate_per_adapter']:.1f} ms each)" if len(adapters) > 1 else ""
    say(
        f"{len(adapters)} {plural}: encoding {times['encode']:.0f} ms, generation {times['generate']:.0f} ms{each}, "
        f"writing {times['write']:.0f} ms.",
        console=out,
    )
    first, source = adapters[0], report["checkpoint"]
    chosen = f" --checkpoint {shlex.quote(source)}" if source else ""
    base = report["base_model"] or "BASE_MODEL"
    say("\nNext, see it work:", "bold", console=out)
    say(f"  t2l run {shlex.quote(first['description'])} --input TEXT{chosen}", console=out)
    if base == EMBEDDED_BASE:  # a name that only t2l knows
        return
    say("or load it in Python:", "bold", console=out)
    say(f"  base = AutoModelForCausalLM.from_pretrained({base!r})", console=out)
    say(f"  model = PeftModel.from_pretrained(base, {first['folder']!r})", console=out)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 90 else f"{line[:87]}..."
