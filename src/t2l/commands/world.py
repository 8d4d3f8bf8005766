"""``t2l world ...``: the embedded world's tasks and examples.

Level 6. Thin wrappers: `t2l.world` does the work and the printing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from t2l.commands.options import AsJson, Force
from t2l.commands.terminal import results

world = typer.Typer(
    name="world",
    help="The embedded world's micro-tasks.",
    no_args_is_help=True,
)


@world.command("tasks")
def tasks(
    query: Annotated[str | None, typer.Argument(help="Part of a task's name or description.")] = None,
    split: Annotated[str | None, typer.Option(help="One split alone.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the micro-tasks."""
    from t2l.world import commands

    commands.tasks(query=query, split=split, as_json=as_json, console=results())


@world.command("examples")
def examples(
    task: Annotated[str, typer.Argument(help="The task's name.")],
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many.")] = 5,
    seed: Annotated[int, typer.Option(help="Which ones.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show a task's descriptions and some of its examples."""
    from t2l.world import commands

    commands.examples(name=task, n=count, seed=seed, as_json=as_json, console=results())


@world.command("export")
def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make, one folder a task.")],
    split: Annotated[str | None, typer.Option(help="One split alone; both near ones by default.")] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=0, help="How many tasks, evenly spread; 0: all.")] = 0,
    each: Annotated[int, typer.Option(min=1, help="Questions a task.")] = 20,
    force: Force = False,
) -> None:
    """Write micro-tasks as local data for 't2l evaluate --data'."""
    from t2l.world import commands

    commands.export(out=out, split=split, count=count, each=each, force=force, console=results())
