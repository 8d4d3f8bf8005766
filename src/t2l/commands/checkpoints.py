"""``t2l import``, ``t2l push`` and ``t2l inspect``: checkpoints and adapters as files.

Level 6. `t2l.reference` imports, `t2l.inspection` measures; this file prints.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2l.commands.options import AsJson, Force
from t2l.commands.terminal import Notes, print_json, print_table, results, tell
from t2l.errors import T2LError

if TYPE_CHECKING:
    from t2l.inspection import NormTable

_BAR = 8  # characters of the longest bar


def import_checkpoint(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Its folder, its hypermod.pt, or a hub id: SakanaAI/text-to-lora.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", "-c", metavar="NAME", help="Which one, where the source holds several."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the hub repository.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Turn a checkpoint of the reference implementation of Text-to-LoRA into one of t2l."""
    from t2l import reference
    from t2l.model import CONFIG_FILE
    from t2l.storage import check_writable

    check_writable(out, marker=CONFIG_FILE, force=force)
    t2l = reference.import_checkpoint(source, checkpoint=checkpoint, revision=revision)
    t2l.save_pretrained(out, force=force)
    spec = t2l.spec
    report = {
        "source": source,
        "folder": str(out),
        "digest": t2l.digest,
        "variant": t2l.hypernetwork.variant,
        "parameters": t2l.hypernetwork.num_parameters,
        "base_model": spec.base_model,
        "rank": spec.rank,
        "modules": [group.key for group in spec.groups],
        "encoder": t2l.encoder.to_config(),
    }
    if as_json:
        print_json(report)
        return
    tell(str(out), "bold green")
    tell(
        f"Variant {report['variant']}, {report['parameters']:,} parameters; rank {spec.rank} for "
        f"{', '.join(report['modules'])} of {spec.base_model or 'a base that it does not name'}."
    )
    tell("\nNext:", "bold")
    tell(f"  t2l generate DESCRIPTION --checkpoint {shlex.quote(str(out))}")


def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A checkpoint of t2l or an adapter.")],
    repository: Annotated[
        str, typer.Argument(metavar="REPOSITORY", help="ORGANISATION/NAME; made where there is none.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Of a repository that is made.")] = False,
    branch: Annotated[str | None, typer.Option(help="To commit to; made where there is none.")] = None,
    create_pr: Annotated[bool, typer.Option("--pull-request", help="Open a pull request instead.")] = False,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Upload with t2l",
    as_json: AsJson = False,
) -> None:
    """Upload a checkpoint or an adapter to the Hugging Face hub, with its model card."""
    from t2l import adapter, hub, inspection, model

    kind = inspection.kind_of(folder)
    if kind == inspection.ADAPTER:
        adapter.Adapter.load(folder)
        files = adapter.FILES
    elif kind == inspection.CHECKPOINT and folder.is_dir():
        model.TextToLora.from_pretrained(folder)
        files = model.FILES
    else:
        raise T2LError(f"'{folder}' is neither a checkpoint of t2l nor an adapter.", "Import it first: t2l import")
    done = hub.push(
        folder, repository, files, private=private or None, branch=branch, create_pr=create_pr, commit_message=message
    )
    if as_json:
        print_json({"folder": str(folder), "repository": repository, "url": done.url, "files": list(done.files)})
        return
    tell(done.url, "bold green")
    tell(f"Uploaded: {', '.join(done.files)}.")


def inspect(
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH",
            help="A checkpoint (ours or the reference's) or an adapter; by default the checkpoint that ships.",
        ),
    ] = None,
    description: Annotated[
        list[str] | None,
        typer.Option(
            "--description", "-d", help="For a checkpoint: make this adapter and measure it; several: compare."
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="For a checkpoint: what do descriptions change, and where?")
    ] = False,
    heatmap: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the norms, layers by modules.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing FILE.png.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a folder is: shapes, sizes, norms in each layer, where it comes from."""
    from t2l.inspection import inspect as measure
    from t2l.inspection import save_heatmap

    notes, texts = Notes(), list(description or ())
    if compare or len(texts) > 1:
        _compare(path, texts, heatmap, as_json, notes)
        return
    with notes.of_warnings():
        report = measure(path, description=texts[0] if texts else None)
    if heatmap is not None:
        if report.norms is None:
            if "unsupported" in report.facts:
                raise T2LError(report.facts["unsupported"], report.facts["fix"])
            raise T2LError("A checkpoint has no heat map of its own.", "Add a description: --description TEXT")
        title = (texts[0] if texts else None) or report.facts.get("provenance", {}).get("description") or str(path)
        save_heatmap(report.norms, heatmap, title=" ".join(str(title).split()), force=force)
    if as_json:
        print_json({**report.to_dict(), "heatmap": None if heatmap is None else str(heatmap), "notes": notes.texts})
        return
    _show_facts(report.kind, report.facts)
    if report.norms is not None:
        _show_norms(report.norms)
    if heatmap is not None:
        tell(f"Heat map: {heatmap}")


def _compare(path: str | None, texts: list[str], heatmap: Path | None, as_json: bool, notes: Notes) -> None:
    """What descriptions change in a checkpoint's adapters."""
    from rich.table import Table
    from rich.text import Text

    from t2l.inspection import ADAPTER, PROBES, REFERENCE, kind_of, sensitivity
    from t2l.model import TextToLora
    from t2l.reference import import_checkpoint

    kind = kind_of(path)
    if kind == ADAPTER:
        raise T2LError(f"'{path}' is an adapter; descriptions are compared in a checkpoint.")
    if heatmap is not None:
        raise T2LError("Descriptions that are compared have no heat map.", "Omit --heatmap, or give one description.")
    with notes.of_warnings():
        t2l = import_checkpoint(str(path)) if kind == REFERENCE else TextToLora.from_pretrained(path)
        found = sensitivity(t2l, texts or PROBES)
    if as_json:
        print_json({"path": path, **found.to_dict(), "notes": notes.texts})
        return
    console = results()
    drift = sum(found.drift) / len(found.drift)
    tell(
        f"An adapter lies {drift:.2f} times the mean adapter's norm away from it, on average over "
        f"{len(found.descriptions)} descriptions: {'they decide much' if drift > 0.5 else 'they decide little'}."
    )
    if found.correlation is None:
        tell("Similarity of descriptions and of adapters cannot be correlated: one does not vary.")
    else:
        tell(f"Similar descriptions, similar adapters: correlation {found.correlation:.2f} ({len(found.pairs)} pairs).")
    lines = [["module", "layer", "norm of the mean change", "spread around it", "share of all spread"]]
    for site in found.sites[:12]:
        numbers = f"{site.mean:.4g}", f"{site.spread:.4g}", f"{100 * site.share:.1f}%"
        lines.append([site.module, str(site.layer), *numbers])
    print_table("Where descriptions change the most", lines, box=None)
    table = Table("drift", "description", title="Distance from the mean adapter", box=None)
    for away, text in sorted(zip(found.drift, found.descriptions, strict=True), reverse=True):
        table.add_row(f"{away:.2f}", Text(text))
    console.print(table)


def _show_facts(kind: str, facts: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = results()
    tell(f"{facts['path'] or 'The checkpoint that ships'}: {kind}", "bold")
    table = Table("", "", show_header=False, box=None, padding=(0, 2))
    table.columns[1].overflow = "fold"  # digests are shown whole
    for name, value in facts.items():
        if value is None or name in ("path", "modules", "parts"):
            continue
        for label, text in _lines(name.replace("_", " "), value):
            table.add_row(Text(label, "dim"), Text(text))
    for part in facts.get("parts", ()):
        table.add_row(Text(part["part"], "dim"), f"{part['parameters']:,} parameters, norm {part['norm']:.4g}")
    for module in facts["modules"]:
        shape = f"{module['in_features']} -> {module['out_features']} in {_ranges(module['layers'])}"
        table.add_row(Text(module["key"], "dim"), Text(shape))
    console.print(table)


def _lines(name: str, value: Any) -> list[tuple[str, str]]:
    """A fact as rows of label and text; objects give a row for each field."""
    if isinstance(value, dict):
        return [row for key, inner in value.items() for row in _lines(f"{name}: {key}", inner) if inner is not None]
    if isinstance(value, list):
        shown = ", ".join(str(item) for item in value[:6])
        return [(name, f"{shown}, ... ({len(value)} in all)" if len(value) > 6 else shown)]
    if isinstance(value, int) and not isinstance(value, bool):
        return [(name, f"{value:,}")]
    return [(name, f"{value:.6g}" if isinstance(value, float) else str(value))]


def _ranges(layers: list[int]) -> str:
    first, last = layers[0], layers[-1]
    if len(layers) == 1:
        return f"layer {first}"
    if layers == list(range(first, last + 1)):
        return f"layers {first} to {last}"
    return f"layers {', '.join(str(layer) for layer in layers)}"


def _show_norms(norms: NormTable) -> None:
    from rich.table import Table
    from rich.text import Text

    console = results()
    table = Table("layer", title="Norm of the weight change", box=None)
    for module in norms.modules:
        table.add_column(Text(module))
    largest = max((norm for row in norms.norm_LM for norm in row if norm is not None), default=0.0)
    for layer, row in zip(norms.layers, norms.norm_LM, strict=True):
        cells = ["-" if norm is None else f"{norm:<8.4g}{_bar(norm, largest)}" for norm in row]
        table.add_row(str(layer), *cells)
    console.print(table)
    tell(f"All together: {norms.total:.4g}")


def _bar(norm: float, largest: float) -> str:
    return "▇" * round(_BAR * norm / largest if largest else 0)
