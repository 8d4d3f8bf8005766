"""``t2l report``: runs of ``t2l evaluate`` as one page. Level 6. `t2l.evaluation.report` writes; this file saves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from t2l.commands.options import AsJson
from t2l.commands.terminal import print_json, results, say


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that 't2l evaluate' has made.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.html", help="The page; its tables go beside it as FILE.md.")
    ] = Path("t2l-report.html"),
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained HTML page, and Markdown tables, from finished runs."""
    from t2l.evaluation.report import markdown, page
    from t2l.evaluation.runs import read_run
    from t2l.storage import check_file, write_bytes

    tables = out.with_suffix(".md")
    for file in (out, tables):
        check_file(file, force=force)
    read = [read_run(place.expanduser()) for place in runs]
    write_bytes(out, page(read).encode())
    write_bytes(tables, markdown(read).encode())
    if as_json:
        print_json({"page": str(out), "tables": str(tables), "runs": len(read)})
        return
    say(f"{out} and {tables}", "bold green", console=results())
