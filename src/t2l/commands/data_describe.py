"""``t2l data describe``: the model that writes descriptions, its estimated cost, and its results.

Level 6. Thin: `t2l.data.describe` does the work.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2l.commands.data import Descriptions, Sources, bar, open_sources, read_descriptions
from t2l.commands.options import AsJson
from t2l.commands.terminal import Notes, print_json, say, tell
from t2l.errors import DataError

if TYPE_CHECKING:
    from t2l.data.describe import Described
    from t2l.data.descriptions import DescriptionFile
    from t2l.data.sources import TaskSource


def describe(
    sources: Sources,
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSON Lines file of descriptions.")],
    endpoint: Annotated[
        str | None, typer.Option(help="A server of OpenAI's chat completions, such as http://localhost:8000/v1.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model's name on that server.")] = None,
    key_variable: Annotated[
        str, typer.Option("--api-key-env", help="The environment variable that holds the key.")
    ] = "OPENAI_API_KEY",
    local: Annotated[str | None, typer.Option(help="A base model in this process instead: a folder or hub id.")] = None,
    only: Annotated[
        list[str] | None, typer.Option("--task", help="Only tasks of this name or pattern; may be repeated.")
    ] = None,
    known: Descriptions = None,
    count: Annotated[int, typer.Option("-n", "--count", help="Descriptions of a task.", min=1)] = 20,
    per_request: Annotated[int, typer.Option(help="Descriptions asked for at once.", min=1)] = 10,
    style: Annotated[list[str] | None, typer.Option(help="Only this style; may be repeated. All by default.")] = None,
    parallel: Annotated[int, typer.Option(help="Requests at once.", min=1)] = 4,
    price_in: Annotated[float | None, typer.Option(help="Money for a million tokens of questions.", min=0)] = None,
    price_out: Annotated[float | None, typer.Option(help="Money for a million tokens of answers.", min=0)] = None,
    seed: Annotated[int, typer.Option(help="Of the examples that the model sees.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether the cost is right.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write descriptions of tasks with a model; tasks that --descriptions knows are skipped."""
    from t2l.data.describe import ChatEndpoint, DescribeConfig, Describer, LocalAuthor
    from t2l.data.wording import STYLES

    if (endpoint is None) == (local is None):
        raise DataError("Who writes the descriptions?", "Give either --endpoint URL --model NAME or --local BASE.")
    if endpoint is not None and not model:
        raise DataError("The server has several models.", "Add --model NAME.")
    notes = Notes()
    described = read_descriptions(known)
    tasks = _read_tasks(open_sources(sources, described, notes), only, described, notes)
    config = DescribeConfig(count=count, per_request=per_request, styles=tuple(style or STYLES), seed=seed)
    author = (
        ChatEndpoint(endpoint, str(model), key_variable=key_variable)
        if endpoint is not None
        else LocalAuthor(str(local))
    )
    describer = Describer(output, author, config)
    _confirm(describer.estimate(tasks), len(tasks), price_in, price_out, yes)
    with bar() as report:
        done = describer.run(tasks, parallel=parallel if endpoint else 1, report=report)
    money = done.cost.money(price_in, price_out)
    if as_json:
        print_json(
            {
                "file": str(output),
                "tasks": {name: len(texts) for name, texts in done.texts.items()},
                "left_out": done.left_out,
                "failed": done.failed,
                "requests": done.cost.requests,
                "prompt_tokens": done.cost.prompt_tokens,
                "completion_tokens": done.cost.completion_tokens,
                "money": money,
                "notes": notes.texts,
            }
        )
    else:
        _show(done, output, money, count)
    if done.stopped:
        raise DataError(f"Stopped: {done.stopped}", "Run the same command again: it asks only for what is missing.")


def _show(done: Described, output: Path, money: float | None, wanted: int) -> None:
    number = sum(len(texts) for texts in done.texts.values())
    tell(f"{output}: {number:,} descriptions of {len(done.texts)} tasks", "bold")
    if done.cost.requests:
        spent = "" if money is None else f", {money:.2f} in money"
        tell(
            f"{done.cost.requests} requests, {done.cost.prompt_tokens:,} tokens of questions and "
            f"{done.cost.completion_tokens:,} of answers{spent}"
        )
    if done.left_out:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(done.left_out.items()))
        tell(f"Omitted: {reasons}.")
    for name, reason in done.failed.items():
        tell(f"{name}: {reason}", "yellow")
    few = [name for name, texts in done.texts.items() if len(texts) < wanted]
    if few:
        tell(f"{len(few)} tasks have fewer than {wanted}: {', '.join(few[:5])}", "yellow")


def _read_tasks(
    sources: Sequence[TaskSource], only: Sequence[str] | None, known: DescriptionFile, notes: Notes
) -> list[Any]:
    """The tasks to describe, each with some of its instances."""
    enough, found = 300, []  # instances: to draw examples from, and to tell labels from answers
    for source in sources:
        if only and not any(fnmatchcase(source.name, pattern) for pattern in only):
            continue
        given = known.of(source.name)
        if given is not None and given.descriptions:
            continue
        try:
            task = source.read()
        except DataError as problem:
            notes.add(f"{source.name} is skipped: {problem.message}")
            continue
        found.append(replace(task, instances=task.instances[:enough]))
    if not found:
        raise DataError("There is no task to describe.", "Look at --task and --descriptions.")
    return found


def _confirm(cost: Any, tasks: int, price_in: float | None, price_out: float | None, yes: bool) -> None:
    """Says what is about to be asked and waits for a yes.

    Raises:
        DataError: the answer is no, or there is nobody to ask.
    """
    if not cost.requests:
        return
    money = cost.money(price_in, price_out)
    priced = "its price is not known (--price-in, --price-out)" if money is None else f"{money:.2f} in money"
    say(
        f"{tasks} tasks, {cost.requests} requests: about {cost.prompt_tokens:,} tokens of questions and "
        f"{cost.completion_tokens:,} of answers, {priced}. Replacing what is omitted may take half as much again."
    )
    if yes:
        return
    if not sys.stdin.isatty():
        raise DataError("Nobody is here to agree to this.", "Add --yes.")
    if not typer.confirm("Begin?", err=True):
        raise DataError("Nothing was asked.")
