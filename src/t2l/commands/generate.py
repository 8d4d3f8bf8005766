"""``t2l generate``: from descriptions to adapter folders.

Level 6. Everything that can be refused is refused before the first adapter is made; each folder is whole or absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from t2l.commands.options import (
    MORE,
    AsJson,
    Checkpoint,
    Device,
    Force,
    StoredAs,
    StoredForm,
    Strength,
    checked_device,
    checked_strength,
    open_checkpoint,
)
from t2l.commands.terminal import Notes, messages, print_json, say, tell
from t2l.errors import DescriptionError, OutputError, did_you_mean

if TYPE_CHECKING:
    from t2l.adapter import Adapter
    from t2l.guidance.guide import Guide, Policy
    from t2l.model import TextToLora
    from t2l.records import Record

DEFAULT_FOLDER = Path("adapters")
_FORM = (
    'Give one description a line, or records such as {"description": "Copy the date out.", "name": "date"}: '
    "JSON Lines, a JSON list, or CSV with the columns description and name."
)
_SLUG_CHARS = 40
_DIGEST_CHARS = 8
_ENCODED_AT_ONCE = 16
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
        float, typer.Option(help="Confidence, 0 to 1, below which a description is not trusted.", rich_help_panel=MORE)
    ] = 0.5,
    dtype: StoredAs = "float32",
    form: StoredForm = "portable",
    device: Device = "cpu",
) -> None:
    """Make a LoRA adapter from each description, as a folder that PEFT, vLLM and SGLang load as it is."""
    from t2l.encoders import EncodingProgress
    from t2l.guidance.guide import calibrate_command

    notes = Notes()
    strength = checked_strength(strength)
    requests = read_requests(descriptions or [], file, notes.add)
    if len(requests) == 1 and out is not None:
        check_place(out, force)  # before the checkpoint is read
    t2l = open_checkpoint(checkpoint, checked_device(device))
    guide = _guide(t2l, fallback, threshold)
    folders = _folders(requests, out, t2l.digest)
    for folder in folders:
        check_place(folder, force)
    with notes.of_warnings():
        start = time.perf_counter()
        texts = [request.description for request in requests]
        progress = EncodingProgress(texts, say)
        for first in range(0, len(texts), _ENCODED_AT_ONCE):
            t2l.encoder.encode(texts[first : first + _ENCODED_AT_ONCE])  # `stream` finds them in the cache
            progress.add(texts[first : first + _ENCODED_AT_ONCE])
        encode_s = time.perf_counter() - start
        made, generate_s, write_s = _make(
            t2l.stream(texts),
            requests,
            folders,
            lambda request, adapter: _guided(guide, request, adapter, fallback, threshold, notes),
            strength,
            dtype=dtype,
            form=form,
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
    (print_json if as_json else _show)(report)


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
    adapters, times = report["adapters"], report["milliseconds"]
    for adapter in adapters:
        folder = adapter["folder"]
        tell(folder or f"(no adapter for '{_shortened(adapter['description'])}')", "bold green")
        if folder and len(adapters) > 1:
            tell(f"  {_shortened(adapter['description'])}", "dim")
        if (confidence := adapter["confidence"]) is not None:
            instead = "" if adapter["action"] == "generated" else f"; instead: {adapter['action']}"
            tell(f"  {confidence['in_words']}{instead}\n  {confidence['known']}", "dim")
    plural = "adapter" if len(adapters) == 1 else "adapters"
    each = f" ({times['generate_per_adapter']:.1f} ms each)" if len(adapters) > 1 else ""
    tell(
        f"{len(adapters)} {plural}: encoding {times['encode']:.0f} ms, generation {times['generate']:.0f} ms{each}, "
        f"writing {times['write']:.0f} ms."
    )
    if report["calibrate"]:
        tell(f"The checkpoint is not calibrated, so nothing is said about trust: {report['calibrate']}", "dim")
    first, source = next((one for one in adapters if one["folder"]), None), report["checkpoint"]
    if first is None:
        return
    chosen = f" --checkpoint {shlex.quote(source)}" if source else ""
    base = report["base_model"] or "BASE_MODEL"
    tell("\nNext, see it work:", "bold")
    tell(f"  t2l run {shlex.quote(first['description'])} --input TEXT{chosen}")
    tell("or load it in Python:", "bold")
    tell(f"  base = AutoModelForCausalLM.from_pretrained({base!r})")
    tell(f"  model = PeftModel.from_pretrained(base, {first['folder']!r})")


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 90 else f"{line[:87]}..."


# --- descriptions as a user gives them: every complaint says which argument, or which line of which file --------------


@dataclass(frozen=True)
class Request:
    """One adapter that is wanted.

    Args:
        description: stripped.
        name: what the user calls it, where they do.
        place: where the description stands, for error messages.
    """

    description: str
    name: str | None
    place: str

    def folder_name(self, checkpoint: str) -> str:
        """The slug of the name or description, and a digest of description and checkpoint: known before generation."""
        digest = hashlib.blake2b(f"{self.description}\0{checkpoint}".encode()).hexdigest()[:_DIGEST_CHARS]
        return f"{slug(self.name or self.description)}-{digest}"


def slug(text: str) -> str:
    """``text`` as a part of a file name: lower-case ASCII letters and digits joined by hyphens, at whole words."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", plain)
    short = ""
    for word in words:
        if short and len(short) + 1 + len(word) > _SLUG_CHARS:
            break
        short = f"{short}-{word}" if short else word[:_SLUG_CHARS]
    return short or "adapter"


def read_requests(arguments: Sequence[str], file: str | None, note: Callable[[str], None]) -> list[Request]:
    """All descriptions, arguments first, each once; ``note`` is told of those that repeat.

    Args:
        file: path of a text file with a description a line, or of records with ``description`` and optional ``name``
            in a form of `t2l.records`; ``"-"`` reads stdin.

    Raises:
        DescriptionError: no description at all, or one that cannot be used; the file is missing, not UTF-8 or not
            of the form that its name or its beginning promises.
    """
    requests = [Request(text, None, f"argument {number}") for number, text in enumerate(arguments, start=1)]
    if file is not None:
        requests += _read_file(file)
    if not requests:
        raise DescriptionError(
            f"'{file}' holds no description." if file else "There is no description.",
            'Say what the adapter should do: t2l generate "Copy the date out of the message."',
        )
    distinct: dict[str, Request] = {}
    for request in requests:
        request = Request(_checked(request), request.name, request.place)
        first = distinct.setdefault(request.description, request)
        if first is not request:
            note(f"{_capital(request.place)} repeats {first.place}; its adapter is made once.")
    return list(distinct.values())


def _checked(request: Request) -> str:
    from t2l.encoders.description import prepare

    try:
        prepare([request.description])
    except DescriptionError as problem:
        raise DescriptionError(f"{_capital(request.place)}: {problem.message}", problem.fix) from problem
    return request.description.strip()


def _read_file(file: str) -> list[Request]:
    from t2l.records import parse_records
    from t2l.storage import read_input

    name = "stdin" if file == "-" else file
    lines = list(_lines(read_input(file, DescriptionError), name))
    records = parse_records(
        "\n".join(line for _, line in lines), name, ("description", "name"), _FORM, DescriptionError
    )
    if records is not None:
        return [_from_record(record) for record in records]
    return [Request(line, None, f"line {number} of {name}") for number, line in lines if line.strip()]


def _lines(data: bytes, name: str) -> Iterator[tuple[int, str]]:
    """(number, text) of each line, decoded one by one so that an error can say which."""
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            yield number, line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as problem:
            raise DescriptionError(
                f"Line {number} of {name} is not UTF-8: byte 0x{line[problem.start]:02x} at place {problem.start + 1}.",
                "Save the file as UTF-8.",
            ) from problem


def _from_record(given: Record) -> Request:
    record, place = given.value, given.place
    if not isinstance(record, dict):
        raise DescriptionError(f"{_capital(place)} holds {type(record).__name__}, not a JSON object.", _FORM)
    if "description" not in record:
        near = did_you_mean("description", record) if record else ""
        raise DescriptionError(f"{_capital(place)} has no 'description'.", near or None)
    return Request(_text(record, "description", place), _text(record, "name", place).strip() or None, place)


def _text(record: dict[str, Any], field: str, place: str) -> str:
    value = record.get(field)
    if value is None and field == "name":
        return ""
    if not isinstance(value, str):
        raise DescriptionError(f"{_capital(place)}: '{field}' is {json.dumps(value)[:60]}, not text.")
    return value


def _capital(place: str) -> str:
    return place[:1].upper() + place[1:]
