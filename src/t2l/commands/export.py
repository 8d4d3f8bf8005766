"""``t2l export``: an adapter folder in the form that another runtime reads.

Level 6.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from t2l.commands.options import AsJson, Dtype, Force, FormOption, checked_strength
from t2l.commands.terminal import Notes, print_json, tell
from t2l.errors import T2LError

if TYPE_CHECKING:
    from t2l.adapter import Adapter


ExportTarget = Literal["peft", "merged", "gguf"]


def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The adapter's folder.")],
    to: Annotated[
        ExportTarget,
        typer.Option(
            "--to", help="peft: an adapter folder. merged: a whole model folder. gguf: an adapter for llama.cpp."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="PATH", help="The folder or, for GGUF, the file.")],
    base: Annotated[
        str | None,
        typer.Option("--base", "-b", metavar="FOLDER|HUB_ID", help="The base; by default the one the adapter names."),
    ] = None,
    form: Annotated[
        FormOption | None,
        typer.Option(help="With peft. portable (default): right in every runtime. rslora: scaled by the runtime."),
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="By default float32 for adapters, and for whole models as the base is stored.")
    ] = None,
    strength: Annotated[float, typer.Option("--strength", help="Multiplies what the adapter changes.")] = 1.0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write an adapter as another runtime wants it: scaled right, merged into its base, or as GGUF for llama.cpp."""
    from t2l.adapter import Adapter
    from t2l.composition import scale

    if form is not None and to != "peft":
        raise T2LError(f"--form has no effect with --to {to}.", "Omit it.")
    if base is not None and to == "peft":
        raise T2LError("--base has no effect with --to peft, which needs no base.", "Omit it.")
    strength = checked_strength(strength)
    adapter = Adapter.load(folder)
    adapter = adapter if strength == 1 else scale(adapter, strength)
    notes = Notes()
    with notes.of_warnings():
        _write(adapter, to, out, base, form, dtype, force, notes)
    report = {
        "adapter": str(folder),
        "to": to,
        "out": str(out),
        "digest": adapter.digest,
        "base_model": base or adapter.spec.base_model,
        "strength": strength,
        "bytes": _size(out),
        "notes": notes.texts,
    }
    (print_json if as_json else _show)(report)


def _write(
    adapter: Adapter,
    to: ExportTarget,
    out: Path,
    base: str | None,
    form: FormOption | None,
    dtype: str | None,
    force: bool,
    notes: Notes,
) -> None:
    if to == "peft":
        if form == "rslora":  # a folder in the portable form has forgotten its alpha
            adapter = adapter.rank_stabilised()
        adapter.save(out, form=form or "portable", dtype=dtype, force=force)
        return
    from t2l.export import export_adapter

    export_adapter(adapter, out, to, base=base, dtype=dtype, force=force)


def _size(out: Path) -> int:
    out = out.expanduser()
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files)


def _show(report: dict[str, Any]) -> None:
    path = shlex.quote(report["out"])
    tell(report["out"], "bold green")
    tell(f"{report['bytes'] / 1e6:,.1f} MB.")
    use = {
        "peft": f'PeftModel.from_pretrained(base, "{report["out"]}")',
        "merged": f'AutoModelForCausalLM.from_pretrained("{report["out"]}")',
        "gguf": f"llama-cli --model BASE.gguf --lora {path}",
    }
    tell("\nUse it:", "bold")
    tell(f"  {use[report['to']]}")
