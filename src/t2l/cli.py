"""The command ``t2l``: its verbs, and how errors and Ctrl-C end.

Level 6. Importing this file imports typer and nothing heavier, so that ``t2l --help`` is quick; each verb lives in
`t2l.commands` and imports what it needs when it runs.

Exit codes: 0: done; 1: a bug of t2l; 2: usage error or invalid input; 130: stopped by Ctrl-C; 143: a training run that
saved its state and stopped.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from t2l.commands.chat import chat
from t2l.commands.checkpoints import import_checkpoint, inspect, push
from t2l.commands.combine import combine
from t2l.commands.data import data
from t2l.commands.data_describe import describe
from t2l.commands.demo import demo
from t2l.commands.evaluate import evaluate, report
from t2l.commands.export import export
from t2l.commands.flops import flops
from t2l.commands.generate import generate
from t2l.commands.guidance import calibrate, explain
from t2l.commands.interrupts import STOPPED, interrupts_as_such
from t2l.commands.refine import refine
from t2l.commands.run import run
from t2l.commands.serve import serve, workbench
from t2l.commands.terminal import say, say_error, warnings_of_a_verb
from t2l.commands.train import recipes, train
from t2l.errors import OutputError, T2LError, TrainingStopped

_DEBUG = "T2L_DEBUG"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # of the machine, wherever a library meets them


class Verbs(TyperGroup):
    """Runs a verb; an error that is meant for people becomes two lines, not a traceback."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        try:
            return super().make_context(*args, **options)
        except KeyboardInterrupt as stop:
            raise self._stopped() from stop

    def invoke(self, ctx: Any) -> Any:
        try:
            with interrupts_as_such(), warnings_of_a_verb():
                return super().invoke(ctx)
        except TrainingStopped as stop:
            say(str(stop), "yellow")
            raise typer.Exit(143) from stop
        except T2LError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            say_error(error)
            raise typer.Exit(2) from error
        except OSError as problem:
            if problem.errno == errno.ENAMETOOLONG:
                say_error(T2LError(f"'{str(problem.filename)[:60]}...' is too long for a path."))
                raise typer.Exit(2) from problem
            if problem.errno not in _NO_ROOM:
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            where = f" '{problem.filename}'" if problem.filename else ""
            say_error(OutputError(f"Cannot write{where}: {problem.strerror}.", "Free some space, then run it again."))
            raise typer.Exit(2) from problem
        except KeyboardInterrupt as stop:
            raise self._stopped() from stop

    @staticmethod
    def _stopped() -> typer.Exit:
        say(f"\n{STOPPED}", "red")
        return typer.Exit(130)


app = typer.Typer(
    name="t2l",
    cls=Verbs,
    help="Describe a task in plain words, get the LoRA adapter that makes a frozen language model good at it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.command("demo")(demo)
app.command("generate")(generate)
app.command("explain")(explain)
app.command("run")(run)
app.command("chat")(chat)
app.command("refine")(refine)
app.command("combine")(combine)
app.command("export")(export)
app.command("serve")(serve)
app.command("workbench")(workbench)
app.command("evaluate")(evaluate)
app.command("flops")(flops)
app.command("report")(report)
app.command("inspect")(inspect)
app.command("import")(import_checkpoint)
app.command("push")(push)
app.command("calibrate")(calibrate)
app.add_typer(train, name="train")
app.add_typer(recipes, name="recipes")
data.command("describe")(describe)
app.add_typer(data, name="data")


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"t2l {version('t2l')}")
        except PackageNotFoundError:  # run from a source folder
            print("t2l, run from its source folder")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar=_DEBUG, show_envvar=True, help="Show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """What stands before the verb; `Verbs` reads it."""


def main() -> None:
    """The entry point of the command."""
    try:
        app(prog_name="t2l")
    except Exception as problem:  # every error that people can cause is a T2LError, so this is a bug
        if "--debug" in sys.argv or os.environ.get(_DEBUG):
            raise
        say(f"Error: {type(problem).__name__}: {problem}", "red")
        say("This is a bug in t2l. `t2l --debug ...` shows where it is; please report it.", "red")
        raise SystemExit(1) from None
