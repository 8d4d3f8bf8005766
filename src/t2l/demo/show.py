"""``t2l demo`` on a screen: tasks drawn by a seed, every answer with its tick, counts, and then the user's own.

Level 6. Texts fit 80 columns; without a terminal they are plain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from t2l.comparison import ROWS, Compared
from t2l.demo.gallery import gallery, scored
from t2l.demo.measure import Session, TaskOutcome, kept
from t2l.demo.tasks import DemoTask, chosen, demo_tasks
from t2l.errors import T2LError
from t2l.guidance.guide import Confidence

_LABEL = max(len(label) for label in ROWS.values()) + 2
NEXT = (
    ('t2l run "Is this message spam? Answer yes or no." "You won a free phone!"', "the three answers to your own text"),
    ('t2l generate "Is this message spam? Answer yes or no." --out spam', "an adapter folder for PEFT, vLLM, SGLang"),
    ("t2l workbench", "all of it in the browser"),
    ("t2l demo --all", "every task of the demo, and the counts"),
)


def show_demo(console: Console, session: Session, seed: int, count: int, *, waiting: Console) -> None:
    """Tasks drawn by a seed, one after the other, and the counts.

    Args:
        waiting: where is said what is being done.
    """
    tasks, outcomes = chosen(seed, count), []
    show_facts(console, session, tasks, seed)
    for task in tasks:
        with waiting.status(f"{task.name} ..."):
            outcomes += session.try_tasks([task])
        show_outcome(console, outcomes[-1])
    show_counts(console, outcomes, kept(session.t2l, session.base))


def show_facts(console: Console, session: Session, tasks: Sequence[DemoTask], seed: int) -> None:
    """Which base, which tasks, and what they are."""
    base = session.base
    size = sum(parameter.numel() for parameter in base.model.parameters()) / 1e6
    weights = f" ({base.weights})" if base.weights else ""
    name = base.name.rsplit("/", 1)[-1]
    console.print(_line(f"Base: {name}, {size:.0f} million parameters{weights}, frozen.", console, "dim"))
    total = len(demo_tasks())
    if len(tasks) == total:
        line = f"All {total} tasks of the demo."
    else:
        line = f"{len(tasks)} of the demo's {total} tasks, drawn by seed {seed} (others: --seed {seed + 1})."
    written = "Descriptions and inputs were written for the demo; none of them stands in the training data."
    console.print(Text(f"{line} {written}", "dim"))


def show_outcome(console: Console, outcome: TaskOutcome) -> None:
    """A task: its description, what is known of it, and three answers to each input."""
    console.print()
    console.print(Text(f"“{outcome.task.description}”", "bold"))
    _show_made(console, outcome.milliseconds, outcome.confidence)
    right = {row: outcome.right(row) for row in ROWS}
    for number, (one, example) in enumerate(zip(outcome.compared, outcome.task.examples, strict=True)):
        console.print(_line(f"  {_flat(one.text)}", console, "cyan"))
        for row in ROWS:
            verdict = right[row][number]
            hint = "" if verdict or row != "adapter" else f" ({outcome.task.wanted(example)})"
            console.print(_answer(console, row, one.answer(row), verdict, hint))


def show_counts(console: Console, outcomes: Sequence[TaskOutcome], measured: dict[str, Any] | None) -> None:
    """How many answers were right: of those shown, and of all tasks where they were measured."""
    right = {row: sum(sum(outcome.right(row)) for outcome in outcomes) for row in ROWS}
    console.print()
    console.print(_counts(f"Right of the {sum(len(outcome.compared) for outcome in outcomes)} shown", right))
    if measured is not None:
        console.print(_counts(f"Right of all {measured['inputs']} ({len(demo_tasks())} tasks)", measured["right"]))
        for word, tasks in zip(("Work best", "Do not work"), gallery(measured), strict=True):
            if tasks:
                console.print(Text(f"{word}: {', '.join(map(scored, tasks))}.", "dim"))
    else:
        console.print(Text(f"All {len(demo_tasks())} tasks and their counts: t2l demo --all", "dim"))


def show_table(console: Console, outcomes: Sequence[TaskOutcome], measured: dict[str, Any]) -> None:
    """Every task in a line, and the counts of all."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("task")
    for row in ROWS.values():
        table.add_column(row, justify="right")
    calibrated = any(outcome.confidence is not None for outcome in outcomes)
    if calibrated:
        table.add_column("confidence", justify="right")
    kind = None
    for outcome in outcomes:
        if outcome.task.kind != kind:
            kind = outcome.task.kind
            table.add_row(Text(kind, "bold"))
        cells = [f"{sum(outcome.right(row))}/{len(outcome.compared)}" for row in ROWS]
        trust = [f"{outcome.confidence.value:.2f}" if outcome.confidence else ""] if calibrated else []
        table.add_row(Text(f"  {outcome.task.name}"), *cells, *trust)
    console.print(table)
    console.print()
    console.print(_counts(f"Right of {measured['inputs']}", measured["right"]))
    console.print(_counts("Counting right answers inside longer ones", measured["mentioned"]))


def ask(console: Console, session: Session) -> None:
    """Descriptions and inputs of the user's own, until there is an empty line or no more input."""
    console.print("\n[bold]Your turn.[/] Describe a task in a sentence, then give it inputs.")
    console.print("[dim]An empty line stops.[/]")
    try:
        while description := console.input("[cyan]task> [/]").strip():
            try:
                (adapter,), milliseconds = session.generate([description])
                (confidence,) = session.confidence([description])
            except T2LError as problem:
                console.print(Text(str(problem), "red"))
                continue
            _show_made(console, milliseconds, confidence)
            while text := console.input("[cyan]input> [/]").strip():
                try:
                    (compared,) = session.answers(description, adapter, [text])
                except T2LError as problem:
                    console.print(Text(str(problem), "red"))
                    continue
                _show_unjudged(console, compared)
    except (EOFError, KeyboardInterrupt):
        console.print()


def show_next(console: Console) -> None:
    """What to try after the demo."""
    console.print("\n[bold]Next[/]")
    for command, purpose in NEXT:
        console.print(Text(f"  {purpose}", "dim"))
        console.print(Text(f"    {command}", "cyan"), soft_wrap=True)


def _show_made(console: Console, milliseconds: float, confidence: Confidence | None) -> None:
    """The time that an adapter took; where they are known, the confidence and the nearest training task."""
    nearest = "" if confidence is None else f", {confidence.known()}"
    console.print(_line(f"  adapter in {milliseconds:.0f} ms{nearest}", console, "dim"))
    if confidence is not None:
        console.print(_line(f"  {confidence.in_words()}", console, "dim"))


def _show_unjudged(console: Console, compared: Compared) -> None:
    for row, label in ROWS.items():
        style = "green" if row == "adapter" else "dim"
        console.print(Text.assemble(f"  {label:<{_LABEL}}", (compared.answer(row).strip() or "(nothing)", style)))


def _answer(console: Console, row: str, answer: str, right: bool, hint: str) -> Text:
    """One answer in one line, cut where it is longer."""
    tick = Text("✓ ", "green") if right else Text("✗ ", "red")
    head = f"    {ROWS[row]:<{_LABEL}}"
    room = console.width - len(head) - 2 - len(hint)
    style = ("green" if right else "red") if row == "adapter" else "dim"
    return Text.assemble((head, "dim"), tick, (_cut(_flat(answer) or "(nothing)", max(room, 12)), style), (hint, "dim"))


def _counts(what: str, right: dict[str, int]) -> Text:
    plain = ", ".join(f"{ROWS[row]} {right[row]}" for row in ROWS if row != "adapter")
    return Text.assemble(f"{what}: {plain}, ", (f"{ROWS['adapter']} {right['adapter']}", "bold"), ".")


def _line(text: str, console: Console, style: str) -> Text:
    return Text(_cut(text, console.width), style)


def _flat(text: str) -> str:
    return " ".join(text.split())


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
