"""``t2l generate``: from descriptions to adapter folders.

Level 6. Everything that can be refused is refused before the first adapter is made; each folder is whole or absent.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from t2l.commands.options import (
    MORE,
    AsJson,
    Checkpoint,
    Device,
    Dtype,
    Force,
    FormOption,
    StoredAs,
    StoredForm,
    Strength,
    checked_device,
    checked_strength,
)
from t2l.commands.terminal import Notes, messages, print_json, results, say
from t2l.errors import OutputError

if TYPE_CHECKING:
    from t2l.adapter import Adapter
    from t2l.commands.descriptions import Request
    from t2l.guidance.guide import Guide, Policy
    from t2l.model import TextToLora

DEFAULT_FOLDER = Path("adapters")
_File = Annotated[
    str | None,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE|-",
        help="Descriptions: one a line, or JSON or CSV with description and optional name; - reads stdin.",
    ),
]
_Fallback = Annotated[
    str,
    typer.Option(
        metavar="POLICY",
        help="For a description that is not to be trusted. warn: generate all the same. none: no adapter. "
        "blend: less strength, by the expected gain.",
        rich_help_panel=MORE,
    ),
]


def generate(
    descriptions: Annotated[
        list[str] | None, typer.Argument(metavar="DESCRIPTION", help="What each adapter should do, in plain words.")
    ] = None,
    file: _File = None,
    checkpoint: Checkpoint = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="The adapter's folder, or the one that several go into; by default below 'adapters'.",
        ),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    strength: Strength = 1.0,
    fallback: _Fallback = "warn",
    threshold: Annotated[
        float,
        typer.Option(help="Confidence, 0 to 1, below which a description is not trusted.", rich_help_panel=MORE),
    ] = 0.5,
    dtype: StoredAs = Dtype.float32,
    form: StoredForm = FormOption.portable,
    device: Device = "cpu",
) -> None:
    """Make a LoRA adapter from each description, as a folder that PEFT, vLLM and SGLang load as it is."""
    from t2l.commands.descriptions import read_requests
    from t2l.encoders import CachedEncoder
    from t2l.guidance.guide import calibrate_command
    from t2l.model import TextToLora

    notes = Notes()
    strength = checked_strength(strength)
    requests = read_requests(descriptions or [], file, notes.add)
    if len(requests) == 1 and out is not None:
        check_place(out, force)  # before the checkpoint is read
    t2l = TextToLora.from_pretrained(checkpoint, device=checked_device(device))
    t2l.encoder = CachedEncoder(t2l.encoder)
    guide = _guide(t2l, fallback, threshold)
    folders = _folders(requests, out, t2l.digest)
    for folder in folders:
        check_place(folder, force)
    with notes.of_warnings():
        start = time.perf_counter()
        t2l.encoder.encode([request.description for request in requests])  # `stream` finds them in the cache
        encode_s = time.perf_counter() - start
        made, generate_s, write_s = _make(
            t2l.stream([request.description for request in requests]),
            requests,
            folders,
            lambda request, adapter: _guided(guide, request, adapter, fallback, threshold, notes),
            strength,
            dtype=dtype.value,
            form=form.value,
            force=force,
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
        "calibrate": calibrate_command(t2l) if guide is None else None,
        "notes": notes.texts,
    }
    if as_json:
        print_json(report)
    else:
        _show(report)


def _guide(t2l: TextToLora, policy: str, threshold: float) -> Guide | None:
    """The checkpoint's guide; None where it has not been calibrated and the policy does not need it."""
    from t2l.guidance.guide import Guide, check_policy, is_calibrated

    check_policy(policy, threshold)
    return Guide.of(t2l) if policy != "warn" or is_calibrated(t2l) else None


def _guided(
    guide: Guide | None, request: Request, adapter: Adapter, policy: str, threshold: float, notes: Notes
) -> tuple[Adapter | None, dict[str, Any]]:
    """What the policy makes of a generated adapter, and what is said of it."""
    from t2l.guidance.guide import guided

    if guide is None:
        return adapter, {"confidence": None, "action": "generated"}
    (found,) = guided(guide, [request.description], cast("Policy", policy), threshold, adapters=[adapter])
    if found.warning is not None:
        notes.add(found.warning)
    return found.adapter, {"confidence": found.confidence.to_dict(), "action": found.action}


def _make(
    adapters: Iterator[Adapter],
    requests: Sequence[Request],
    folders: Sequence[Path],
    decide: Callable[[Request, Adapter], tuple[Adapter | None, dict[str, Any]]],
    strength: float,
    **how_to_save: Any,
) -> tuple[list[dict[str, Any]], float, float]:
    """Generates and writes the adapters one by one; what became of each, and the seconds for both."""
    from rich.progress import track

    from t2l.composition import scale

    made: list[dict[str, Any]] = []
    generate_s = write_s = 0.0
    console = messages()
    pairs = list(zip(requests, folders, strict=True))
    hidden = len(pairs) == 1 or not console.is_terminal
    try:
        for request, folder in track(pairs, "Generating", console=console, transient=True, disable=hidden):
            start = time.perf_counter()
            adapter, said = decide(request, next(adapters))
            entry = {"description": request.description, "name": request.name, "folder": None, "digest": None, **said}
            generated = time.perf_counter()
            if adapter is not None:
                adapter = adapter if strength == 1 else scale(adapter, strength)
                adapter.save(folder, **how_to_save)
                entry |= {"folder": str(folder), "digest": adapter.digest}
            generate_s, write_s = generate_s + generated - start, write_s + time.perf_counter() - generated
            made.append(entry)
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
    out, adapters, times = results(), report["adapters"], report["milliseconds"]
    for adapter in adapters:
        folder = adapter["folder"]
        say(folder or f"(no adapter for '{_shortened(adapter['description'])}')", "bold green", console=out)
        if folder and len(adapters) > 1:
            say(f"  {_shortened(adapter['description'])}", "dim", console=out)
        if (confidence := adapter["confidence"]) is not None:
            instead = "" if adapter["action"] == "generated" else f"; instead: {adapter['action']}"
            say(f"  {confidence['in_words']}{instead}\n  {confidence['known']}", "dim", console=out)
    plural = "adapter" if len(adapters) == 1 else "adapters"
    each = f" ({times['generate_per_adapter']:.1f} ms each)" if len(adapters) > 1 else ""
    say(
        f"{len(adapters)} {plural}: encoding {times['encode']:.0f} ms, generation {times['generate']:.0f} ms{each}, "
        f"writing {times['write']:.0f} ms.",
        console=out,
    )
    if report["calibrate"]:
        say(
            f"The checkpoint is not calibrated, so nothing is said about trust: {report['calibrate']}",
            "dim",
            console=out,
        )
    first, source = next((one for one in adapters if one["folder"]), None), report["checkpoint"]
    if first is None:
        return
    chosen = f" --checkpoint {shlex.quote(source)}" if source else ""
    base = report["base_model"] or "BASE_MODEL"
    say("\nNext, see it work:", "bold", console=out)
    say(f"  t2l run {shlex.quote(first['description'])} --input TEXT{chosen}", console=out)
    say("or load it in Python:", "bold", console=out)
    say(f"  base = AutoModelForCausalLM.from_pretrained({base!r})", console=out)
    say(f"  model = PeftModel.from_pretrained(base, {first['folder']!r})", console=out)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 90 else f"{line[:87]}..."
