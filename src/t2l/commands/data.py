"""``t2l data ...``: training data, from tasks as they are found to a store that training reads.

Level 6. Thin: `t2l.data` does the work; this file reads the options and prints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from t2l.commands.options import AsJson, Force
from t2l.commands.terminal import Notes, messages, print_json, results, tell
from t2l.errors import DataError

if TYPE_CHECKING:
    from t2l.data.descriptions import DescriptionFile
    from t2l.data.sources import ProgressReport, TaskSource

data = typer.Typer(
    name="data",
    help="Training data: prepare a store, look into it, compare it with benchmarks, write descriptions.",
    no_args_is_help=True,
)

_WINDOW_SHARE = 0.75  # of a base's window that prompts get where it is smaller than the paper's two limits


PromptTemplate = Literal["withheld", "included", "mixture"]
Removals = Literal["paper", "strict", "none"]
Undescribed = Literal["definition", "drop", "keep"]
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="A folder of Super-Natural-Instructions JSON, a clone of its repository, a JSON Lines file of task, "
        "prompt and response, hub:ORGANISATION, or hub:ORGANISATION/DATASET; several may be given.",
    ),
]
Descriptions = Annotated[
    list[Path] | None,
    typer.Option("--descriptions", "-d", help="JSON Lines of task descriptions, or a folder of them; may be repeated."),
]


@dataclass(frozen=True)
class PrepareOptions:
    """What `t2l data prepare` is given."""

    sources: Sources
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the store.")]
    base: Annotated[
        str, typer.Option("--base", "-b", help="The base model whose tokenizer and chat template are used.")
    ]
    descriptions: Descriptions = None
    template: Annotated[
        PromptTemplate,
        typer.Option(help="Is the task's definition in the prompt: never, always (the paper), or mixed."),
    ] = "withheld"
    included_fraction: Annotated[
        float, typer.Option(help="Of a mixture: the fraction of samples with the definition.", min=0, max=1)
    ] = 0.5
    max_prompt: Annotated[int | None, typer.Option(help="Tokens of a prompt; 512, or what fits the base.", min=1)] = (
        None
    )
    max_response: Annotated[int | None, typer.Option(help="Tokens of a response; 512, or what fits.", min=1)] = None
    system: Annotated[
        str,
        typer.Option(
            metavar="TEXT|none|template",
            help="The system message of prompts: a text, none at all, or what the base's chat template adds.",
        ),
    ] = "template"
    drop_long: Annotated[bool, typer.Option("--drop-long", help="Omit samples that would be cut.")] = False
    max_samples: Annotated[int, typer.Option(help="Samples of a task; of more, so many are drawn.", min=1)] = 10_000
    min_samples: Annotated[int, typer.Option(help="A task with fewer is omitted.", min=1)] = 1
    language: Annotated[str, typer.Option(help="Omit tasks in another language; 'any' takes all.")] = "English"
    remove: Annotated[
        Removals, typer.Option(help="Omit the paper's ten removals; also what it left in (strict); or nothing.")
    ] = "paper"
    exclude: Annotated[
        list[str] | None, typer.Option(help="Omit a task by name or pattern ('*winogrande*'); may be repeated.")
    ] = None
    without_descriptions: Annotated[
        Undescribed,
        typer.Option(help="A task without descriptions: described by its definition, omitted, or kept without."),
    ] = "definition"
    split_file: Annotated[
        Path | None, typer.Option(help='JSON that names tasks of a split: {"validation": ["task035_x"], "test": []}.')
    ] = None
    validation: Annotated[
        int, typer.Option(help="Validation tasks at least: the paper's by name, then drawn ones.", min=0)
    ] = 11
    test: Annotated[int, typer.Option(help="Test tasks at least.", min=0)] = 0
    by_dataset: Annotated[
        bool, typer.Option("--by-dataset", help="Draw all tasks that were made from one data set together.")
    ] = False
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0
    update: Annotated[bool, typer.Option("--update", help="Add what a finished store lacks.")] = False
    restart: Annotated[bool, typer.Option("--restart", help="Begin again; do not resume an unfinished store.")] = False
    force: Force = False
    as_json: AsJson = False


@data.command("prepare")
def prepare(**given: Any) -> None:
    """Make a tokenised store of tasks; a run that was stopped resumes where it stopped."""
    from t2l.base_structure import load_tokenizer
    from t2l.data.prepare import PrepareConfig
    from t2l.data.prepare import prepare as make
    from t2l.data.prompts import PLAIN_SEPARATOR, Template
    from t2l.data.splits import SplitRule, read_split_file

    options, notes = PrepareOptions(**given), Notes()
    tokenizer = load_tokenizer(options.base)
    if not getattr(tokenizer, "chat_template", None):
        notes.add(
            f"'{options.base}' has no chat template: a prompt is the plain text of the input, and a response begins "
            f"with {PLAIN_SEPARATOR!r} and ends with {tokenizer.eos_token!r}."
        )
    prompt_limit, response_limit = _limits(options.base, options.max_prompt, options.max_response, notes)
    config = PrepareConfig(
        template=Template(options.template),
        system=options.system,
        included_fraction=options.included_fraction,
        max_prompt=prompt_limit,
        max_response=response_limit,
        drop_long=options.drop_long,
        max_samples=options.max_samples,
        min_samples=options.min_samples,
        language=None if options.language.casefold() == "any" else options.language,
        remove=options.remove,
        exclude=tuple(options.exclude or ()),
        without_descriptions=options.without_descriptions,
        split=SplitRule(
            named=read_split_file(options.split_file) if options.split_file else None,
            validation=options.validation,
            test=options.test,
            by_dataset=options.by_dataset,
            seed=options.seed,
        ),
        seed=options.seed,
    )
    described = read_descriptions(options.descriptions)
    tasks = open_sources(options.sources, described, notes)
    with bar() as report:
        store = make(
            tasks,
            options.output,
            tokenizer,
            base=options.base,
            descriptions=described,
            config=config,
            report=report,
            force=options.force,
            restart=options.restart,
            update=options.update,
        )
    summary = {key: value for key, value in store.manifest.items() if key not in ("tasks", "frame", "header")}
    if options.as_json:
        print_json({"folder": str(store.folder), **summary, "notes": notes.texts})
        return
    _print_summary(store.folder, store.manifest)


prepare.__signature__ = signature(PrepareOptions, eval_str=True)  # pyright: ignore[reportFunctionMemberAccess]


@data.command("show")
def show(
    store: Annotated[Path, typer.Argument(help="The folder of a store.")],
    task: Annotated[str | None, typer.Argument(help="One task: its descriptions and some of its samples.")] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many samples and descriptions.")] = 3,
    verify: Annotated[bool, typer.Option("--verify", help="Read every sample and compare digests.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look into a store: what it holds, what was omitted and why, or a task's samples as text."""
    from t2l.data.store import DataStore

    opened = DataStore.open(store)
    if verify:
        opened.verify()
    if task is None:
        if as_json:
            print_json({"folder": str(opened.folder), "verified": verify, **opened.manifest})
            return
        _print_summary(opened.folder, opened.manifest, tasks=True)
        if verify:
            tell("Every sample is the one that was written.")
        return
    from t2l.base_structure import load_tokenizer

    index = opened.task_index(task)
    entry, record = opened.tasks[index], opened.manifest["tasks"][index]
    tokenizer = load_tokenizer(opened.manifest["base"])
    samples = []
    for place in range(min(count, entry.samples)):
        sample = opened.sample(index, place)
        prompt, response = sample.input_ids[: sample.prompt_length], sample.input_ids[sample.prompt_length :]
        samples.append({"prompt": tokenizer.decode(prompt), "response": tokenizer.decode(response)})
    if as_json:
        print_json({**record, "descriptions": list(entry.descriptions), "samples": samples})
        return
    tell(f"{entry.name}: {entry.split}, {entry.samples:,} samples", "bold")
    tell(f"Source: {record['source']}; licence: {', '.join(record['licences']) or 'not stated'}")
    for text in entry.descriptions[:count]:
        tell(f"  description  {text}")
    if len(entry.descriptions) > count:
        tell(f"  and {len(entry.descriptions) - count} more descriptions")
    for sample in samples:
        tell(f"  prompt       {sample['prompt']!r}")
        tell(f"  response     {sample['response']!r}")


@data.command("audit")
def audit(
    sources: Sources,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            "--benchmark", metavar="NAME=FILE", help="A benchmark's file, such as arc_easy=test.jsonl; may be repeated."
        ),
    ] = None,
    benchmarks: Annotated[
        Path | None, typer.Option("--benchmarks", help="A folder whose files or folders are named after benchmarks.")
    ] = None,
    hub: Annotated[bool, typer.Option("--hub", help="Fetch the ten benchmarks from the hub.")] = False,
    descriptions: Descriptions = None,
    n: Annotated[int, typer.Option("-n", help="Words of a run.", min=2)] = 8,
    threshold: Annotated[
        float, typer.Option(help="Fraction of an item's runs that makes it held.", min=0.01, max=1)
    ] = 0.5,
    everything: Annotated[bool, typer.Option("--all", help="Show tasks without a flag too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare training tasks with the benchmarks, word for word and by name."""
    from t2l.data.audit import Auditor
    from t2l.data.audit import audit as compare
    from t2l.data.benchmarks import BENCHMARKS, fetch_benchmark, find_benchmarks, read_benchmark

    notes = Notes()
    given = []
    for text in benchmark or ():
        name, equals, file = text.partition("=")
        if not equals:
            raise DataError(f"--benchmark '{text}' has no '='.", "Write --benchmark arc_easy=FILE.")
        given.append(read_benchmark(name, file))
    given += find_benchmarks(benchmarks) if benchmarks else []
    for name in BENCHMARKS if hub else ():
        try:
            given.append(fetch_benchmark(name))
        except DataError as problem:
            notes.add(problem.message)
    if not given:
        notes.add("There is no benchmark to compare with, so tasks are judged by their names alone.")
    tasks = open_sources(sources, read_descriptions(descriptions), notes)
    with bar() as report:
        found, unread = compare(tasks, Auditor(given, n=n, threshold=threshold), report)
    flagged = [task for task in found if task.flags]
    if as_json:
        print_json(
            {
                "n": n,
                "threshold": threshold,
                "benchmarks": {each.name: len(each.items) for each in given},
                "tasks": [task.record for task in found],
                "unread": unread,
                "notes": notes.texts,
            }
        )
        return
    tell(f"{len(found)} tasks, {len(flagged)} flagged; {len(given)} benchmarks, runs of {n} words", "bold")
    for task in found if everything else flagged:
        tell(f"{task.name}: {'; '.join(task.flags) or 'nothing found'}")
        for overlap in task.overlaps:
            if overlap.held:
                tell(f"    {overlap.benchmark}: {overlap.example}")
    for name, reason in unread.items():
        tell(f"{name}: not read: {reason}", "yellow")


def read_descriptions(paths: Sequence[Path] | None) -> DescriptionFile:
    """The descriptions in these files; none without files."""
    from t2l.data.descriptions import read_description_files

    return read_description_files(paths or ())


def open_sources(places: Sequence[str], described: DescriptionFile, notes: Notes) -> list[TaskSource]:
    """The tasks of everything that was named, local or on the hub.

    Raises:
        DataError: a place that is nothing, or two tasks of one name.
    """
    from t2l.data.hub import PREFIX, Hub, hub_names
    from t2l.data.sources import open_source, unique

    found = []
    hub = Hub(note=notes.add)
    for place in places:
        if place.startswith(PREFIX):
            names = hub_names(place, [given.hub_dataset for given in described.sets])
            found += [hub.source(name) for name in names]
        else:
            found += open_source(place)
    return unique(found)


def _limits(base: str, prompt: int | None, response: int | None, notes: Notes) -> tuple[int, int]:
    """Tokens of prompts and responses: as asked, else the paper's 512 each, or what fits the base's window."""
    from t2l.base_structure import base_config

    window = getattr(base_config(base).get_text_config(), "max_position_embeddings", None)
    if not isinstance(window, int) or (prompt or 512) + (response or 512) <= window:
        return prompt or 512, response or 512
    if prompt is not None and response is not None:
        raise DataError(
            f"A prompt of {prompt} tokens and a response of {response} do not fit '{base}', which reads {window}.",
            "Make --max-prompt and --max-response smaller.",
        )
    if prompt is None:
        prompt = int(window * _WINDOW_SHARE) if response is None else window - response
    response = window - prompt if response is None else response
    if prompt < 1 or response < 1:
        raise DataError(f"'{base}' reads {window} tokens, which leaves no room.", "Ask for fewer.")
    notes.add(f"'{base}' reads {window} tokens: prompts are cut at {prompt} and responses at {response}.")
    return prompt, response


@contextmanager
def bar() -> Iterator[ProgressReport]:
    """A bar on stderr with what is at hand, time and time left; nothing where stderr is not a terminal."""
    from rich import progress

    columns = (
        progress.BarColumn(),
        progress.TextColumn("{task.description}"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
    )
    console = messages()
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        row = shown.add_task("", total=None)
        yield lambda done, total, name: shown.update(row, description=name[:60], completed=done, total=total)


def _print_summary(folder: Path, manifest: dict[str, Any], *, tasks: bool = False) -> None:
    from rich.table import Table

    console, totals = results(), manifest["totals"]
    splits = ", ".join(f"{number} {split}" for split, number in totals["tasks_by_split"].items())
    tell(f"{folder}: {totals['tasks']} tasks ({splits}), {totals['samples']:,} samples", "bold")
    tell(
        f"{totals['prompt_tokens']:,} tokens of prompts and {totals['response_tokens']:,} of responses for "
        f"'{manifest['base']}'; {manifest['bytes'] / 1e6:,.1f} MB"
    )
    if (system := manifest.get("system", "template")) != "template":
        tell("No system message." if system == "none" else f"System message: {system}")
    cut = f"{totals['prompts_cut']:,} prompts and {totals['responses_cut']:,} responses"
    tell(f"Cut to the limits: {cut}.")
    described = ", ".join(f"{number} by {origin}" for origin, number in totals["tasks_described_by"].items())
    tell(f"Tasks described: {described}.")
    if totals["special_text_replaced"]:
        tell(f"Texts with a special token's text replaced by a space: {totals['special_text_replaced']:,}.")
    if totals["dropped_samples"]:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(totals["dropped_samples"].items()))
        tell(f"Samples omitted: {reasons}.")
    if manifest["dropped_tasks"]:
        tell(f"Tasks omitted: {len(manifest['dropped_tasks'])}")
        for name, reason in manifest["dropped_tasks"].items():
            tell(f"  {name}: {reason}")
    if tasks:
        table = Table("task", "split", "samples", "descriptions", "licence", box=None)
        for record in manifest["tasks"]:
            table.add_row(
                record["name"],
                record["split"],
                f"{record['samples']:,}",
                str(record["descriptions"]),
                ", ".join(record["licences"])[:40] or "not stated",
            )
        console.print(table)
