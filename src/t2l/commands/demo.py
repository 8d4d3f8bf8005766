"""``t2l demo``: a real language model does everyday tasks from their descriptions, and then the user's own.

Level 6. The first line is printed before anything is loaded.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from t2l.commands.options import AsJson, BaseModel, Checkpoint, Device, checked_device
from t2l.commands.terminal import Notes, messages, print_json, results, tell
from t2l.demo import TITLE
from t2l.errors import T2LError


def demo(
    seed: Annotated[
        int | None,
        typer.Option(
            help="Which tasks are shown; by default the first seed whose tasks are right as often as all are."
        ),
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many tasks are shown.")] = 4,
    every: Annotated[bool, typer.Option("--all", help="Try every task of the demo, and print a table.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="With --all: keep the counts beside the checkpoint.")] = False,
    ask: Annotated[
        bool, typer.Option("--ask/--no-ask", help="Ask for a description of your own at the end (on a terminal).")
    ] = True,
    checkpoint: Checkpoint = None,
    base: BaseModel = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """See it work: everyday tasks, and the answers of a language model without and with the adapter."""
    interactive = ask and sys.stdin.isatty() and sys.stdout.isatty() and not as_json
    if keep and not every:
        raise T2LError("--keep is for the counts of all tasks.", "Add --all.")
    if not as_json:
        sys.stdout.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    if not as_json:
        tell(TITLE, "bold cyan")
    session = _session(checkpoint, base, checked_device(device))
    if every:
        _all(session, keep=keep, as_json=as_json)
    else:
        _some(session, seed, count, interactive=interactive, as_json=as_json)


def _session(checkpoint: str | None, base: str | None, device: str) -> Any:
    """The checkpoint with its base."""
    from t2l.bases import load_base
    from t2l.demo.measure import Session
    from t2l.model import TextToLora

    with Notes().of_warnings(), messages().status("Loading the base and the checkpoint ..."):
        t2l = TextToLora.from_pretrained(checkpoint, device=device)
        name = t2l.spec.base_name(base)
        return Session(t2l, load_base(name, device=device).with_system(t2l.system))


def _some(session: Any, seed: int | None, count: int, *, interactive: bool, as_json: bool) -> None:
    from t2l.demo import show
    from t2l.demo.measure import kept, record, representative_seed
    from t2l.demo.tasks import chosen

    seed = representative_seed(kept(session.t2l, session.base), count) if seed is None else seed
    if as_json:
        print_json({**record(session, session.try_tasks(chosen(seed, count))), "seed": seed})
        return
    show.show_demo(results(), session, seed, count, waiting=messages())
    if interactive:
        show.ask(results(), session)
    show.show_next(results())


def _all(session: Any, *, keep: bool, as_json: bool) -> None:
    from t2l.demo import measure, show
    from t2l.demo.tasks import demo_tasks

    outcomes, console = [], results()
    if not as_json:
        show.show_facts(console, session, demo_tasks(), 0)
    with messages().status("0 tasks done ...") as status:
        for outcome in session.try_all():
            outcomes.append(outcome)
            status.update(f"{len(outcomes)} of {len(demo_tasks())} tasks done ...")
    measured = measure.record(session, outcomes)
    place = measure.keep(session, measured) if keep else None
    if as_json:
        print_json(measured)
        return
    show.show_table(console, outcomes, measured)
    if place is not None:
        tell(f"Kept: {place}", "dim")
