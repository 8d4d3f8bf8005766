"""``t2l world ...``: the embedded world, from showing it to building it again.

Level 6. Thin wrappers: `t2l.world` does the work and the printing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from t2l.commands.options import AsJson, Checkpoint, Force
from t2l.commands.terminal import messages, results

world = typer.Typer(
    name="world",
    help="The embedded world: micro-tasks, a tiny base and a checkpoint trained on them.",
    no_args_is_help=True,
)


@world.command("demo")
def demo(
    seed: Annotated[int, typer.Option(help="Which tasks and inputs are shown; 5 by default.")] = 5,
    ask: Annotated[
        bool, typer.Option("--ask/--no-ask", help="Ask for a description of your own at the end (on a terminal).")
    ] = True,
) -> None:
    """See the micro world: held-out tasks, and the answers of a tiny model before and after."""
    from t2l.world.demo import demo as show

    show(results(), interactive=ask and sys.stdin.isatty() and sys.stdout.isatty(), seed=seed)


@world.command("build")
def build(
    stage: Annotated[str | None, typer.Option(help="One stage alone; all that are not done by default.")] = None,
    folder: Annotated[Path, typer.Option("--dir", help="Where the stages keep their work.")] = Path("world-build"),
    install: Annotated[bool, typer.Option("--install", help="Put the result into this installation of t2l.")] = False,
) -> None:
    """Train the base and the checkpoint again, from nothing, in stages that resume."""
    from t2l.world import commands

    commands.build(stage=stage, folder=folder, install=install, console=results())


@world.command("evaluate")
def evaluate(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer tasks and inputs.")] = False,
    checkpoint: Checkpoint = None,
    folder: Annotated[Path, typer.Option("--dir", help="Where 'world build' keeps the comparators.")] = Path(
        "world-build"
    ),
    as_json: AsJson = False,
) -> None:
    """Score the checkpoint on trained and held-out tasks, beside the base and its other rivals."""
    from t2l.world import commands

    commands.evaluate(
        quick=quick, checkpoint=checkpoint, folder=folder, as_json=as_json, console=results(), notes=messages()
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


@world.command("study")
def study(
    name: Annotated[str | None, typer.Argument(help="Which study, or 'all'; without it they are listed.")] = None,
    arm: Annotated[str | None, typer.Option(help="One arm alone.")] = None,
    folder: Annotated[Path, typer.Option("--dir", help="Where 'world build' and the studies keep their work.")] = Path(
        "world-build"
    ),
    steps: Annotated[int | None, typer.Option(min=2, help="Optimiser steps of each arm.")] = None,
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question about hypernetworks by training many small ones; several processes share the arms."""
    from t2l.world import studies_commands

    if name is None:
        studies_commands.list_studies(folder=folder, as_json=as_json, console=results())
        return
    studies_commands.run(
        name=name,
        label=arm,
        folder=folder,
        steps=steps,
        checkpoint=checkpoint,
        as_json=as_json,
        console=results(),
        notes=messages(),
    )
