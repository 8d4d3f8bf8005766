"""``t2l combine``: one adapter from several adapters or descriptions.

Level 6. What stands on the command line is an adapter where it is a folder, and a description otherwise; what looks
like a path that leads nowhere is refused rather than encoded.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from t2l.commands.options import (
    AsJson,
    Checkpoint,
    Device,
    Force,
    StoredAs,
    StoredForm,
    checked_device,
    open_checkpoint,
)
from t2l.commands.terminal import Notes, print_json, tell
from t2l.errors import AdapterError, T2LError

if TYPE_CHECKING:
    from t2l.adapter import Adapter


How = Literal["cat", "svd", "factors", "features"]
"""Where and how the parts are put together."""


def combine(
    parts: Annotated[
        list[str], typer.Argument(metavar="ADAPTER|DESCRIPTION...", help="Adapter folders, or tasks in plain words.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The new adapter's folder.")],
    weight: Annotated[
        list[float] | None,
        typer.Option(
            "--weight",
            "-w",
            help="One for each part, in order; negative ones subtract. By default 1 each; with 'features' 1/n each.",
        ),
    ] = None,
    method: Annotated[
        How,
        typer.Option(
            help="cat: the exact sum, its rank the sum of the ranks. svd: the nearest to it of one rank. factors: A "
            "and B apart. features: descriptions only, mixed before there are weights."
        ),
    ] = "cat",
    rank: Annotated[
        int | None, typer.Option("--rank", min=1, help="Of the result, with svd; by default the largest of the parts.")
    ] = None,
    checkpoint: Checkpoint = None,
    force: Force = False,
    as_json: AsJson = False,
    dtype: StoredAs = "float32",
    form: StoredForm = "portable",
    device: Device = "cpu",
) -> None:
    """Add, average, subtract or blend adapters; every part is an adapter folder or a description."""
    from t2l.commands.generate import check_place

    if weight and len(weight) != len(parts):
        raise T2LError(f"There are {len(weight)} weights for {len(parts)} parts.", "Give --weight once for each part.")
    folders = [_folder(part) for part in parts]
    check_place(out, force)
    notes = Notes()
    with notes.of_warnings():
        made = _combined(parts, folders, weight, method, rank, checkpoint, checked_device(device))
        made.save(out, form=form, dtype=dtype, force=force)
    record = made.provenance["composition"]
    report = {
        "folder": str(out),
        "digest": made.digest,
        "method": method,
        "rank": made.spec.rank,
        "base_model": made.spec.base_model,
        "parts": [
            {"kind": "description" if folder is None else "adapter", "part": part, "weight": share}
            for part, folder, share in zip(parts, folders, record["weights"], strict=True)
        ],
        "kept": record.get("kept"),
        "notes": notes.texts,
    }
    (print_json if as_json else _show)(report)


def _combined(
    parts: Sequence[str],
    folders: Sequence[Path | None],
    weights: Sequence[float] | None,
    method: How,
    rank: int | None,
    checkpoint: str | None,
    device: str,
) -> Adapter:
    from t2l import composition
    from t2l.adapter import Adapter

    adapters = {place: Adapter.load(folder) for place, folder in enumerate(folders) if folder is not None}
    described = [part for part, folder in zip(parts, folders, strict=True) if folder is None]
    if method == "features":
        if adapters or rank is not None:
            raise T2LError(
                "Only descriptions can be mixed as features, and the result has the checkpoint's rank.",
                "Use --method cat or svd for adapters; omit --rank with features.",
            )
        return open_checkpoint(checkpoint, device).blend(described, weights or None)
    made = iter(open_checkpoint(checkpoint, device).generate(described) if described else ())
    whole = [adapters[place] if place in adapters else next(made) for place in range(len(parts))]
    return composition.combine(whole, weights or None, method=method, rank=rank)


def _folder(part: str) -> Path | None:
    """The adapter folder that ``part`` names, or None where it is a description."""
    path = Path(part).expanduser()
    try:
        if path.is_dir():
            return path
    except OSError:  # a description may be longer than any path
        return None
    words = part.split()
    if len(words) == 1 and (os.sep in part or part.startswith(("~", "."))):
        raise AdapterError(f"There is no adapter folder '{part}'.", "A description is a sentence or a few words.")
    return None


def _show(report: dict[str, Any]) -> None:
    tell(report["folder"], "bold green")
    for part in report["parts"]:
        tell(f"  {part['weight']:+.4g} x {part['kind']} {part['part']!r}", "dim")
    kept = "" if report["kept"] is None else f", which keeps {report['kept']:.2%} of the sum's squared norm"
    tell(f"One adapter of rank {report['rank']}{kept}.")
    tell("\nUse it as any other, for example:", "bold")
    tell(f"  t2l export {shlex.quote(report['folder'])} --to gguf --out adapter.gguf")
