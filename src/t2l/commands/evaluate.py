"""``t2l evaluate``: benchmarks, comparators and the description gate, on any base and checkpoint.

Level 6. `t2l.evaluation` does the work; this file opens what the options name, and prints.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from t2l.commands.evaluate_suite import SuiteOptions, evaluate_suite
from t2l.commands.options import AsJson, BaseModel, Checkpoint, Device, Dtype, checked_device
from t2l.commands.terminal import Notes, print_json, results, say
from t2l.errors import BaseModelError, DescriptionError, T2LError, did_you_mean
from t2l.prompting import TEMPLATE

if TYPE_CHECKING:
    from t2l.bases import Base
    from t2l.evaluation.rows import Bench
    from t2l.lora import LoraSource
    from t2l.model import TextToLora

RUNS = Path("t2l-runs")
_T = TypeVar("_T")
_WIDE, _LONG = 4, 12  # columns and lines that a table on a terminal takes


class ProtocolName(str, Enum):
    """How the paper's benchmarks are scored."""

    paper = "paper"
    loglikelihood = "loglikelihood"


class SuiteName(str, Enum):
    """Suites of tasks with definitions, read from a folder."""

    sni = "sni"


def evaluate(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="With --suite: folders of its tasks.")
    ] = None,
    suite: Annotated[
        SuiteName | None,
        typer.Option(help="sni: the protocol of Super-Natural-Instructions on a FOLDER of its JSON files."),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks", "-t", metavar="NAME,...", help="Tasks of lm-evaluation-harness, paper10, or all that --data has."
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    base: BaseModel = None,
    protocol: Annotated[
        ProtocolName,
        typer.Option(help="paper: greedy generation, first matching choice; loglikelihood: the harness's own."),
    ] = ProtocolName.paper,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FOLDER", help="Local copies, FOLDER/TASK/SPLIT.jsonl; no hub.")
    ] = None,
    gate: Annotated[bool, typer.Option("--gate", help="Does the description do the work? Seven conditions.")] = False,
    rows: Annotated[
        str | None,
        typer.Option("--rows", metavar="NAME,...", help="Which rows; by default all that have what they need."),
    ] = None,
    shots: Annotated[
        int, typer.Option("--shots", min=0, help="Examples in the few-shot row's prompt; 0: no such row.")
    ] = 3,
    library: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="PEFT adapters of training tasks: average, nearest, Arrow.")
    ] = None,
    multi_task: Annotated[
        Path | None,
        typer.Option(
            "--multi-task", metavar="FOLDER", help="One PEFT adapter trained on all tasks; in the gate a rival more."
        ),
    ] = None,
    multi_task_prompt: Annotated[
        Path | None,
        typer.Option(
            "--multi-task-prompt", metavar="FOLDER", help="Suite: a LoRA trained with definitions in the prompt."
        ),
    ] = None,
    task_adapters: Annotated[
        Path | None, typer.Option("--task-adapters", metavar="FOLDER", help="PEFT adapters named as the tasks.")
    ] = None,
    hyperdecoder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A hyperdecoder, as 't2l train hyperdecoder' leaves it.")
    ] = None,
    descriptions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Descriptions: YAML (matched: {TASK: [TEXT, ...]}, paraphrase: ...) or JSON Lines (t2l data prepare).",
        ),
    ] = None,
    wordings: Annotated[int, typer.Option(min=1, help="Descriptions a task, each with its own adapter.")] = 3,
    limit: Annotated[int | None, typer.Option(min=1, help="Items a task; all by default.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="The run's folder; the same one goes on.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", "--force", help="Forget the folder's answers.")] = False,
    run_code: Annotated[
        bool,
        typer.Option("--run-generated-code", help="HumanEval and MBPP: run what the model wrote, on this machine."),
    ] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Bounds every answer; 512 by default, 64 in a suite.")
    ] = None,
    input_tokens: Annotated[
        int,
        typer.Option("--input-tokens", min=1, help="Suite: longer inputs lose their end; how many did is reported."),
    ] = 1024,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--no-chat",
            help="The base's chat template; by default where it has one and the protocol is the paper's.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Requests in one forward pass.")] = 32,
    batch_tokens: Annotated[
        int | None, typer.Option("--batch-tokens", min=1, help="Suite: tokens in one forward pass, padding included.")
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Suite: the base's; by default bfloat16 where the hardware has it.")
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(metavar="TEXT|none|template", help="Suite: the system message; by default the checkpoint's."),
    ] = None,
    score: Annotated[
        bool, typer.Option("--score/--no-score", help="Suite: score the answers, which needs no model.")
    ] = True,
    score_only: Annotated[
        bool,
        typer.Option("--score-only", help="Suite: score what --out has, made here or elsewhere; no model is loaded."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of descriptions, examples shown and resampling.")] = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint on benchmarks beside what it has to beat, and ask whether the description does the work."""
    if suite is not None:
        evaluate_suite(
            SuiteOptions(
                folders or [],
                checkpoint,
                base,
                rows,
                multi_task,
                multi_task_prompt,
                descriptions,
                limit,
                out,
                restart,
                max_new_tokens,
                input_tokens,
                batch_tokens,
                None if dtype is None else dtype.value,
                system,
                score,
                score_only,
                seed,
                device,
                as_json,
            )
        )
        return
    if folders:
        raise T2LError(
            f"'{folders[0]}' is read with a suite alone.", "Add --suite sni, or name benchmarks: --tasks NAME"
        )
    max_new_tokens = 512 if max_new_tokens is None else max_new_tokens
    from t2l.bases import load_base
    from t2l.evaluation.benchmarks import load_tasks, read_wordings
    from t2l.evaluation.gate import gate_of
    from t2l.evaluation.rows import ROWS, Bench, Variant, shots_of
    from t2l.evaluation.run_files import fingerprint
    from t2l.evaluation.runs import document, open_answers, run_variants, save_run
    from t2l.evaluation.wording import GATE

    notes = Notes()
    texts = {} if descriptions is None else read_wordings(descriptions)
    rows, shots = shots_of(rows, shots)
    wanted = _wanted(rows, gate, shots, [library, multi_task, task_adapters, hyperdecoder])
    loaded = load_tasks(
        tasks or (["all"] if data is not None else ["paper10"]),
        protocol=protocol.value,
        data=data,
        run_code=run_code,
        wordings=texts,
        note=notes.add,
    )
    device = checked_device(device)
    t2l = _checkpoint(checkpoint, device)
    name = base or t2l.spec.base_model
    if name is None:
        raise BaseModelError("The checkpoint does not say which base it is for.", "Name it: --base FOLDER|HUB_ID")
    model = load_base(name, device=device).with_system(t2l.system)
    t2l.spec.check_base(model.model)
    bench = Bench(loaded, wordings=wordings, seed=seed)
    own_base: list[_OwnBase] = []
    with notes.of_warnings():
        if gate:
            for line in bench.gate(t2l):
                notes.add(f"Not measured: {line}")
        known = None if library is None else _library(library)
        if known is not None and {"average", "nearest", "arrow"} & set(wanted):
            left = len(known) - len(bench.foreign(known))
            if left:
                notes.add(f"{left} adapters of the library are of tasks that are measured; they were left out.")
        for row in wanted:
            if row == "base" and not gate:
                bench.base()
            elif row == "description-in-prompt":
                bench.described_prompt()
            elif row == "shots" and shots:
                bench.shots(shots)
            elif row == "t2l" and not gate:
                bench.described(t2l)
            elif row == "multi-task":
                bench.static(_adapter(_given(row, multi_task)), "multi-task")
            elif row == "average":
                bench.average(_given(row, known))
            elif row == "nearest":
                matched = {adapter: wording.matched for adapter, wording in texts.items()}
                bench.nearest(_given(row, known), t2l, matched)
            elif row == "task-specific":
                bench.own(_library(_given(row, task_adapters)))
            elif row == "arrow":
                own_base.append(_arrow(_given(row, known), model, bench))
            elif row == "hyperdecoder":
                own_base.append(_hyperdecoder(_given(row, hyperdecoder), model))
    for adapter in bench.adapters:
        adapter.spec.check_base(model.model)
    if others := {adapter.system for adapter in bench.adapters} - {None, model.system}:
        shown = ", ".join(repr(str(other)[:40]) for other in sorted(others, key=str))
        notes.add(f"Some adapters were made for other prompts ({shown}); all are measured as the checkpoint's are.")
    try:
        places = _map(t2l, bench, notes)
    except DescriptionError as problem:  # an encoder that knows certain texts alone
        places = {}
        notes.add(f"No map of the tasks: {problem.message}")
    use_chat = (model.has_chat_template and protocol is ProtocolName.paper) if chat is None else chat
    settings = {
        "tasks": [task.name for task in loaded],
        "protocol": protocol.value,
        "data": None if data is None else str(data),
        "checkpoint": t2l.digest,
        "base": name,
        "base_fingerprint": fingerprint(model),
        "rows": list(dict.fromkeys([variant.row for variant in bench.variants] + [one.row for one in own_base])),
        "adapters": [adapter.digest for adapter in bench.adapters] + [one.identity for one in own_base],
        "shots": shots,
        "wordings": wordings,
        "limit": limit,
        "max_new_tokens": max_new_tokens,
        "chat": use_chat,
        "seed": seed,
        **({} if model.system == TEMPLATE else {"system": model.system}),
    }
    key = sha256(json.dumps(settings).encode()).hexdigest()[:10]
    folder = out or RUNS / f"{'gate' if gate else 'evaluate'}-{key}"
    answers = open_answers(folder, settings, restart=restart)
    if len(answers):
        say(f"Note: {len(answers)} answers of an earlier, interrupted run in '{folder}' are used.", "yellow")
    given = {
        "answers": answers,
        "limit": limit,
        "chat": use_chat,
        "run_code": run_code,
        "max_new_tokens": max_new_tokens,
        "batch": batch,
        "seed": seed,
        "report": _progress(),
    }
    items = run_variants(model, bench.adapters, loaded, bench.variants, **given)
    for one in own_base:
        more = [Variant(one.row, task.name) for task in loaded]
        items += run_variants(one.base(), [], loaded, more, source=one.source, identity=one.identity, **given)
        bench.variants += more
    found = gate_of(items, seed, first="matched" if gate else "t2l")
    names = {**ROWS, **GATE, f"{shots}-shot": f"base, {shots} examples in the prompt"}
    used = list(dict.fromkeys(variant.row for variant in bench.variants))
    run = document(
        settings=settings,
        tasks=loaded,
        variants=bench.variants,
        rows={row: names[row] for row in used},
        items=items,
        more={
            "gate": gate,
            "training_tasks": _training_tasks(t2l),
            "library": None if known is None else len(bench.foreign(known)),
            "findings": found.to_dict(),
            "map": places,
            "notes": notes.texts,
        },
    )
    file = save_run(folder, run)
    if as_json:
        print_json({name: value for name, value in run.items() if name != "items"} | {"file": str(file)})
        return
    _show(run, folder)


def _wanted(rows: str | None, gate: bool, shots: int, folders: Sequence[Path | None]) -> list[str]:
    """The rows to measure, in the order of a table."""
    from t2l.evaluation.rows import ROWS

    if rows is not None:
        asked = rows.replace(",", " ").split()
        for name in asked:
            if name not in ROWS:
                raise T2LError(f"No row is called '{name}'.", did_you_mean(name, ROWS))
        return [name for name in ROWS if name in asked]
    library, multi_task, task_adapters, hyperdecoder = (folder is not None for folder in folders)
    free = [] if gate else ["base", "description-in-prompt", "t2l", *(["shots"] if shots else [])]
    found = {
        "average": library,
        "nearest": library,
        "arrow": library,
        "multi-task": multi_task,
        "hyperdecoder": hyperdecoder,
        "task-specific": task_adapters,
    }
    return [name for name in ROWS if name in free or found.get(name)]


def _given(row: str, what: _T | None) -> _T:
    from t2l.evaluation.rows import NEEDS, ROWS

    if what is None:
        raise T2LError(f"The row '{row}' ({ROWS[row]}) needs {NEEDS[row]} FOLDER.")
    return what


def _checkpoint(source: str | None, device: str) -> TextToLora:
    """A checkpoint of ours, or one of the reference implementation."""
    from t2l.encoders import CachedEncoder
    from t2l.inspection import REFERENCE, kind_of
    from t2l.model import TextToLora
    from t2l.sakana import import_checkpoint

    reference = source is not None and Path(source).expanduser().is_dir() and kind_of(source) == REFERENCE
    t2l = (
        import_checkpoint(source).to(device=device)
        if reference and source
        else TextToLora.from_pretrained(source, device=device)
    )
    t2l.encoder = CachedEncoder(t2l.encoder)
    return t2l


def _adapter(folder: Path) -> Any:
    """One adapter: a PEFT folder, or the only one of a library."""
    from t2l.adapter import Adapter
    from t2l.library import INDEX_FILE

    if (folder / INDEX_FILE).is_file():
        library = _library(folder)
        if len(library) != 1:
            raise T2LError(f"'{folder}' holds {len(library)} adapters; one for all tasks is needed.")
        return library.adapter(library.names[0])
    return Adapter.load(folder)


def _library(folder: Path) -> Any:
    from t2l.library import Library

    return Library.open(folder)


@dataclass(frozen=True)
class _OwnBase:
    """A row that is no list of adapters: Arrow routes inside the base, a hyperdecoder reads each input."""

    row: str
    identity: str
    base: Callable[[], Base]
    source: LoraSource | None = None


def _arrow(library: Any, model: Base, bench: Bench) -> _OwnBase:
    from t2l.baselines.arrow import arrow_model
    from t2l.bases import Base

    library.spec.check_base(model.model)
    names = bench.foreign(library)
    digest = sha256("/".join(library.adapter(name).digest for name in names).encode()).hexdigest()
    return _OwnBase(
        "arrow",
        f"arrow/{digest}",
        lambda: Base(arrow_model(model.model, library, names), model.tokenizer, model.name),
    )


def _hyperdecoder(folder: Path, model: Base) -> _OwnBase:
    from t2l.baselines.hyperdecoder import load_hyperdecoder
    from t2l.storage import tensors_digest

    source = load_hyperdecoder(folder)
    source.spec.check_base(model.model)
    return _OwnBase("hyperdecoder", f"hyperdecoder/{tensors_digest(source.state_dict())}", lambda: model, source)


def _training_tasks(t2l: TextToLora) -> int | None:
    """On how many tasks the checkpoint was trained, where it or its calibration says so."""
    from t2l.guidance.guide import is_calibrated

    own = t2l.metadata.get("training_tasks")
    return _known(t2l).facts.get("training_tasks") if own is None and is_calibrated(t2l) else own


def _known(t2l: TextToLora) -> Any:
    from t2l.guidance.guide import Guide

    return Guide.of(t2l).calibration


def _map(t2l: TextToLora, bench: Bench, notes: Notes) -> dict[str, Any]:
    """Where the matched descriptions lie, for the report's map of tasks.

    ``features`` are the hypernetwork's, ``distance`` is that of the embedding from the nearest training task, in
    standard deviations, where a calibration knows the training tasks.
    """
    import torch

    from t2l.guidance.guide import is_calibrated

    named = [(task, text) for task in bench.tasks if task.wording for text in task.wording.matched[: bench.wordings]]
    if not named:
        return {}
    with notes.of_warnings(), torch.inference_mode():
        embedding_NE = t2l.encoder.encode([text for _, text in named])
        task_NK = t2l.hypernetwork.encode(embedding_NE)
        distance = None
        if is_calibrated(t2l):
            distance = _known(t2l).known.embedding.distances(embedding_NE.cpu()).amin(dim=1).tolist()
    return {
        "tasks": [task.name for task, _ in named],
        "families": [task.family or task.name for task, _ in named],
        "features": [[round(value, 5) for value in row] for row in task_NK.flatten(1).tolist()],
        **({"distance": [round(value, 5) for value in distance]} if distance else {}),
    }


def _progress() -> Any:
    stream = sys.stderr

    def report(done: int, total: int) -> None:
        print(f"\r{done} of {total} answers", end="\n" if done == total else "", file=stream, flush=True)

    return report if stream.isatty() else (lambda done, total: None)


def _show(run: dict[str, Any], folder: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    console, accuracy, rows = results(), run["findings"]["accuracy"], list(run["rows"])
    how = "paper's protocol" if run["settings"]["protocol"] == "paper" else "log-likelihood"
    everything = f"all {len(run['tasks'])} tasks"
    table = Table(title=f"Accuracy, % (95% interval), {how}")
    table.add_column("")
    if len(rows) <= _WIDE and len(run["tasks"]) <= _LONG:
        for row in rows:
            table.add_column(Text(row), justify="right")
        for task in [*run["tasks"], ""]:
            cells = [_cell(accuracy[row].get(task)) for row in rows]
            table.add_row(Text(task or everything, "" if task else "bold"), *cells)
    else:  # more than a terminal is wide; the report has every task
        tasks = [*(run["tasks"] if len(run["tasks"]) < _WIDE else ()), ""]
        for task in tasks:
            table.add_column(Text(task or everything), justify="right")
        for row in rows:
            table.add_row(Text(row), *(_cell(accuracy[row].get(task)) for task in tasks))
    console.print(table)
    for line in run["findings"]["verdict"]:
        say(line, console=console)
    cut = sum(1 for item in run["items"] if item.get("cut"))
    if cut:
        say(f"{cut} of {len(run['items'])} answers reached their bound of tokens and were cut.", console=console)
    say(f"Run: {folder}. Read it: t2l report {folder}", console=console)


def _cell(value: dict[str, float] | None) -> str:
    return "" if value is None else f"{value['mean']:.1f} ({value['low']:.0f}-{value['high']:.0f})"
