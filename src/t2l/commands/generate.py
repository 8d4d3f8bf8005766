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
    AsJson,
    Checkpoint,
    Device,
    Dtype,
    Force,
    FormOption,
    Strength,
    checked_device,
    checked_strength,
)
from t2l.commands.terminal import Notes, messages, print_json, results, say
from t2l.errors import OutputError

if TYPE_CHECKING:
    from t2l.adapter import Adapter
    from t2l.commands.descriptions import Request
    from t2l.commands.examples import Examples
    from t2l.guidance.fallback import Policy, TaskAdapters
    from t2l.guidance.guide import Guide
    from t2l.model import TextToLora

DEFAULT_FOLDER = Path("adapters")


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
            help="Descriptions: one a line, or JSON or CSV with description and optional name; - reads stdin.",
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
        FormOption, typer.Option(help="portable: right in every runtime. rslora: the scaling is left to the runtime.")
    ] = FormOption.portable,
    strength: Strength = 1.0,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Average the description with rewordings of it, before generation.")
    ] = False,
    fallback: Annotated[
        str,
        typer.Option(
            metavar="POLICY",
            help="For a description that is not to be trusted. warn: generate all the same. none: no adapter. static: "
            "the multi-task adapter. nearest: the adapter of the nearest training task. blend: less strength, by the "
            "expected gain.",
        ),
    ] = "warn",
    threshold: Annotated[
        float, typer.Option(help="Confidence, 0 to 1, below which a description is not trusted.")
    ] = 0.5,
    library: Annotated[
        Path | None,
        typer.Option(
            "--library",
            metavar="FOLDER",
            help="With --fallback nearest: trained adapters of training tasks, as t2l train library makes them.",
        ),
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(
            "--examples",
            metavar="FILE",
            help="A few inputs, or inputs with outputs (JSON Lines or CSV): of the descriptions, their rewordings and "
            "those of the nearest training tasks, the one that fits best is taken. Needs the base.",
        ),
    ] = None,
    tune: Annotated[
        int,
        typer.Option(
            "--tune-embedding", metavar="STEPS", help="With --examples: improve the description's embedding on them."
        ),
    ] = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make a LoRA adapter from each description, as a folder that PEFT, vLLM and SGLang load as it is."""
    from t2l.commands.descriptions import read_requests
    from t2l.encoders import CachedEncoder
    from t2l.guidance.guide import calibrate_command
    from t2l.model import TextToLora

    notes = Notes()
    strength = checked_strength(strength)
    requests = read_requests(descriptions or [], file, notes.add)
    given = _read(examples, tune)
    if len(requests) == 1 and out is not None:
        check_place(out, force)  # before the checkpoint is read
    t2l = TextToLora.from_pretrained(checkpoint, device=checked_device(device))
    t2l.encoder = CachedEncoder(t2l.encoder)
    guide = _guide(t2l, fallback, threshold)
    trained = None if library is None else _library(library, t2l, fallback)
    if given is not None:
        from t2l.commands.from_examples import generate_from_examples

        with notes.of_warnings():
            found = generate_from_examples(
                t2l,
                guide,
                requests,
                given,
                DEFAULT_FOLDER if out is None else out,
                named=out is not None,
                steps=tune,
                strength=strength,
                dtype=dtype.value,
                form=form.value,
                force=force,
            )
        found["notes"] = notes.texts
        if as_json:
            print_json(found)
        else:
            show_chosen(found)
        return
    folders = _folders(requests, out, t2l.digest)
    for folder in folders:
        check_place(folder, force)
    with notes.of_warnings():
        start = time.perf_counter()
        t2l.encoder.encode([request.description for request in requests])  # `stream` finds them in the cache
        encode_s = time.perf_counter() - start
        source = _source(t2l, requests, ensemble)
        made, generate_s, write_s = _make(
            source,
            requests,
            folders,
            lambda request, adapter: _guided(guide, request, adapter, fallback, threshold, notes, trained),
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


def _source(t2l: TextToLora, requests: Sequence[Request], together: bool) -> Iterator[Adapter]:
    """The generated adapters, one after the other."""
    texts = [request.description for request in requests]
    if not together:
        return t2l.stream(texts)
    from t2l.guidance.ensemble import ensemble

    return (adapter for text in texts for adapter in ensemble(t2l, [text]))


def _guide(t2l: TextToLora, policy: str, threshold: float) -> Guide | None:
    """The checkpoint's guide; None where it has not been calibrated and the policy does not need it."""
    from t2l.guidance.fallback import check_policy
    from t2l.guidance.guide import Guide, is_calibrated

    if policy == "warn" and not is_calibrated(t2l):
        return None
    guide = Guide.of(t2l)
    check_policy(guide, policy, threshold)
    return guide


def _library(folder: Path, t2l: TextToLora, policy: str) -> TaskAdapters:
    """Trained adapters for the policy ``nearest``, refused where they are of other modules or another rank."""
    from t2l.errors import T2LError
    from t2l.library import Library

    if policy != "nearest":
        raise T2LError(f"--library has no effect on the policy '{policy}'.", "Use it with --fallback nearest.")
    library = Library.open(folder)
    if library.spec.groups != t2l.spec.groups or library.spec.rank != t2l.spec.rank:
        raise T2LError(f"The adapters in '{folder}' adapt other modules or have another rank than the checkpoint.")
    return library


def _guided(
    guide: Guide | None,
    request: Request,
    adapter: Adapter,
    policy: str,
    threshold: float,
    notes: Notes,
    library: TaskAdapters | None,
) -> tuple[Adapter | None, dict[str, Any]]:
    """What the policy makes of a generated adapter, and what is said of it."""
    from t2l.guidance.fallback import guided

    if guide is None:
        return adapter, {"confidence": None, "action": "generated"}
    texts, chosen = [request.description], cast("Policy", policy)
    (found,) = guided(guide, texts, chosen, threshold, adapters=[adapter], library=library)
    if found.warning is not None:
        notes.add(found.warning)
    return found.adapter, {"confidence": found.confidence.to_dict(), "action": found.action}


def _read(examples: Path | None, tune: int) -> Examples | None:
    from t2l.commands.examples import read_examples
    from t2l.errors import T2LError

    if not 0 <= tune <= 10_000:
        raise T2LError(f"--tune-embedding is {tune}; it must be between 0 and 10000.")
    if examples is None:
        if tune:
            raise T2LError("--tune-embedding has no effect without --examples.", "Give a file of examples.")
        return None
    found = read_examples(examples)
    if tune:
        found.pairs()
    return found


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
        say_confidence(adapter)
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


def say_confidence(entry: dict[str, Any]) -> None:
    """A line about how far the description of an entry is to be trusted, where that is known."""
    confidence, action = entry["confidence"], entry["action"]
    if confidence is not None:
        instead = "" if action == "generated" else f"; instead: {action}"
        say(
            f"  confidence {confidence['value']:.2f}, expected gain {100 * confidence['expected_gain']:+.0f} points"
            f"{instead}",
            "dim",
            console=results(),
        )


def show_chosen(report: dict[str, Any]) -> None:
    """What `generate_from_examples` reported, for people."""
    out, chosen = results(), report["chosen"]
    say(report["adapters"][0]["folder"], "bold green", console=out)
    say(f"  {_shortened(chosen['description'])}", "dim", console=out)
    say_confidence(report["adapters"][0])
    better = "loss" if chosen["by"] == "loss" else "agreement"
    say(
        f"The best of {len(report['candidates'])} candidates by {better} on {report['examples']} examples: "
        f"{chosen['score']:.3f}, against {chosen['first_score']:.3f} of the description as given.",
        console=out,
    )
    if chosen["tuned_score"] is not None:
        say(f"After {chosen['steps']} steps on its embedding: {chosen['tuned_score']:.3f}.", console=out)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 90 else f"{line[:87]}..."
