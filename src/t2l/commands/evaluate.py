"""``t2l evaluate`` and ``t2l report``: benchmarks, suites of unseen tasks, the description gate; runs as one page.

Level 6. Opens what the options name, runs and prints. `t2l.evaluation` does the work: `t2l.evaluation.harness` for
benchmarks, `t2l.evaluation.suite` for tasks with definitions, and one table of rows (`t2l.evaluation.rows`) for both.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from t2l.commands.options import AsJson, BaseModel, Checkpoint, Device, Dtype, checked_device
from t2l.commands.terminal import Notes, print_json, print_table, progress_of, say, tell
from t2l.errors import DescriptionError, T2LError

if TYPE_CHECKING:
    from t2l.data.descriptions import DescriptionFile
    from t2l.evaluation.decoding import Decoder
    from t2l.evaluation.rows import Bench, PromptVariant
    from t2l.evaluation.runs import Answers
    from t2l.evaluation.suite import SuiteTask
    from t2l.evaluation.wording import Wording
    from t2l.model import TextToLora

RUNS = Path("t2l-runs")
_SMALL = 50_000_000  # parameters: below, half precision saves no time
_WIDE, _LONG = 4, 12  # columns and lines that a table on a terminal takes
_MORE = "More: rows that need a folder, prompts, batches"


def _more(*names: str, **given: Any) -> Any:
    return typer.Option(*names, rich_help_panel=_MORE, **given)


@dataclass(frozen=True)
class Options:
    """What `t2l evaluate` is given."""

    folders: Annotated[list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="With --suite: its tasks.")] = None
    suite: Annotated[Literal["sni"] | None, typer.Option(help="Super-Natural-Instructions, from FOLDER.")] = None
    tasks: Annotated[
        list[str] | None,
        typer.Option("--tasks", "-t", metavar="NAME,...", help="Of lm-evaluation-harness; paper10; all of --data."),
    ] = None
    gate: Annotated[bool, typer.Option("--gate", help="Does the description do the work?")] = False
    rows: Annotated[str | None, typer.Option(metavar="NAME,...", help="By default all that can be measured.")] = None
    checkpoint: Checkpoint = None
    base: BaseModel = None
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Local FOLDER/TASK/SPLIT.jsonl.")] = None
    descriptions: Annotated[Path | None, typer.Option(metavar="FILE", help="More of them: YAML, JSON Lines.")] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Items a task.")] = None
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="The run's; a run goes on.")] = None
    protocol: Annotated[
        Literal["paper", "loglikelihood"],
        _more(help="paper: greedy, first matching choice; loglikelihood: the harness's own."),
    ] = "paper"
    shots: Annotated[str, _more(metavar="N,...", help="Examples in the few-shot rows' prompts; 0: no such row.")] = "3"
    library: Annotated[
        Path | None, _more(metavar="FOLDER", help="PEFT adapters of training tasks: average, nearest, arrow.")
    ] = None
    multi_task: Annotated[
        Path | None, _more(metavar="FOLDER", help="One PEFT adapter trained on all tasks; also a baseline in the gate.")
    ] = None
    multi_task_prompt: Annotated[
        Path | None, _more(metavar="FOLDER", help="One that reads descriptions; by default the one that ships.")
    ] = None
    task_adapters: Annotated[Path | None, _more(metavar="FOLDER", help="PEFT adapters named as the tasks.")] = None
    hyperdecoder: Annotated[Path | None, _more(metavar="FOLDER", help="As 't2l train hyperdecoder' leaves it.")] = None
    wordings: Annotated[
        int | None, _more(min=1, help="Descriptions a task, each with its own adapter; 3, and 1 in a suite.")
    ] = None
    restart: Annotated[bool, _more("--restart", "--force", help="Forget the folder's answers.")] = False
    run_code: Annotated[
        bool, _more("--run-generated-code", help="HumanEval, MBPP: run what the model wrote, on this machine.")
    ] = False
    max_new_tokens: Annotated[int | None, _more(min=1, help="Bounds every answer; 512, and 64 in a suite.")] = None
    input_tokens: Annotated[int, _more(min=1, help="Suite: longer inputs lose their end.")] = 1024
    chat: Annotated[bool | None, _more(help="Benchmarks: the base's chat template; by default with paper.")] = None
    system: Annotated[
        str | None, _more(metavar="TEXT|none|template", help="The system message; by default the checkpoint's.")
    ] = None
    batch_tokens: Annotated[int | None, _more(min=1, help="Tokens in one forward pass, padding included.")] = None
    dtype: Annotated[Dtype | None, _more(help="The base's; by default bfloat16 where the hardware has it.")] = None
    score: Annotated[bool, _more(help="Suite: score the answers, which needs no model.")] = True
    score_only: Annotated[bool, _more("--score-only", help="Suite: score what --out has; no model is loaded.")] = False
    seed: Annotated[int, _more(help="Of descriptions, examples shown and resampling.")] = 0
    device: Device = "cpu"
    as_json: AsJson = False

    @property
    def adapters(self) -> dict[str, Path]:
        """Option -> the folder that it names, or that ships with the checkpoint, for the rows that need one."""
        from t2l.model import shipped_reading_lora

        names = ("library", "multi_task", "multi_task_prompt", "task_adapters", "hyperdecoder")
        found = {f"--{name.replace('_', '-')}": getattr(self, name) for name in names}
        if self.multi_task_prompt is None and self.base is None and not self.gate:
            found["--multi-task-prompt"] = shipped_reading_lora(self.checkpoint)
        return {option: folder for option, folder in found.items() if folder is not None}


def evaluate(**given: Any) -> None:
    """Score a checkpoint beside what it has to beat, on benchmarks or unseen tasks; ask what its descriptions do."""
    from t2l.evaluation.runs import RUN_FILE
    from t2l.storage import write_json

    options = Options(**given)
    if options.suite is None and options.folders:
        raise T2LError(
            f"'{options.folders[0]}' is read with a suite alone.", "Add --suite sni, or name tasks: --tasks NAME"
        )
    measured = (_benchmarks if options.suite is None else _suite)(options, Notes())
    if measured is None:
        return
    run, folder = measured
    write_json(folder / RUN_FILE, run)
    if options.as_json:
        print_json({name: value for name, value in run.items() if name != "items"} | {"file": str(folder / RUN_FILE)})
        return
    (_show_benchmarks if options.suite is None else _show_suite)(run)
    tell(f"Run: {folder}. Read it: t2l report {folder}")


evaluate.__signature__ = signature(Options, eval_str=True)  # pyright: ignore[reportFunctionMemberAccess]


# --- benchmarks -------------------------------------------------------------------------------------------------------


def _benchmarks(options: Options, notes: Notes) -> tuple[dict[str, Any], Path]:
    """Runs tasks of lm-evaluation-harness and folders: the run and its folder."""
    from t2l.evaluation.benchmarks import load_tasks
    from t2l.evaluation.harness import document, run_variants
    from t2l.evaluation.runs import open_run

    known, rows = _descriptions(options), _rows(options, "benchmarks")
    tasks = load_tasks(
        options.tasks or (["all"] if options.data is not None else ["paper10"]),
        protocol=options.protocol,
        data=options.data,
        run_code=options.run_code,
        descriptions=known,
        note=notes.add,
    )
    showing, wordings = {task.name for task in tasks if task.can_show}, options.wordings or 3
    described = [task.wording for task in tasks]
    bench, variants, decoders = _bench(options, rows, described, notes, known=known, wordings=wordings, showing=showing)
    settings = _benchmark_settings(options, [task.name for task in tasks], bench, list(variants))
    folder = options.out or RUNS / f"{'gate' if options.gate else 'evaluate'}-{_key(settings)}"
    answers, _ = open_run(folder, settings, restart=options.restart)
    _say_kept(answers, folder)
    items: list[dict[str, Any]] = []
    for decoder, identity, own in decoders:
        items += run_variants(
            decoder,
            tasks,
            [variant for row in own for variant in variants[row]],
            answers=answers,
            identity=identity,
            limit=options.limit,
            chat=settings["chat"],
            run_code=options.run_code,
            max_new_tokens=settings["max_new_tokens"],
            seed=options.seed,
            report=progress_of("answers"),
        )
    library = len(bench.foreign()) if {"average", "nearest", "arrow"} & set(variants) else None
    more = {"training_tasks": _training_tasks(bench.t2l), "library": library, "map": _map(bench, wordings, notes)}
    every = [variant for some in variants.values() for variant in some]
    return document(settings, tasks, every, items, more | {"notes": notes.texts}, judged=options.gate), folder


def _benchmark_settings(options: Options, tasks: list[str], bench: Bench, rows: list[str]) -> dict[str, Any]:
    """All that decides the answers."""
    from t2l.evaluation.harness import MAX_NEW_TOKENS
    from t2l.evaluation.runs import fingerprint

    base, paper = bench.base, options.protocol == "paper"
    return {
        "tasks": tasks,
        "protocol": options.protocol,
        "data": None if options.data is None else str(options.data),
        "checkpoint": None if bench.t2l is None else bench.t2l.digest,
        "base": base.name,
        "base_weights": base.weights,
        "base_fingerprint": fingerprint(base),
        "rows": rows,
        "adapters": {row: bench.identity(row) for row in rows},
        "wordings": bench.wordings,
        "limit": options.limit,
        "max_new_tokens": options.max_new_tokens or MAX_NEW_TOKENS,
        "chat": (base.has_chat_template and paper) if options.chat is None else options.chat,
        "system": base.system,
        "seed": options.seed,
    }


def _training_tasks(t2l: TextToLora | None) -> int | None:
    """On how many tasks the checkpoint was trained, where it or its calibration says so."""
    from t2l.guidance.guide import Guide, is_calibrated

    own = None if t2l is None else t2l.metadata.get("training_tasks")
    if own is None and t2l is not None and is_calibrated(t2l):
        return Guide.of(t2l).calibration.facts.get("training_tasks")
    return own


def _map(bench: Bench, wordings: int, notes: Notes) -> dict[str, Any]:
    """Where the matched descriptions lie, for the report's map of tasks: see `t2l.guidance.guide.places`."""
    from t2l.guidance.guide import places

    named = [(task, text) for task in bench.tasks for text in task.matched[:wordings]]
    if bench.t2l is None or not named:
        return {}
    try:
        with notes.of_warnings():
            feature_NW, distance = places(bench.t2l, [text for _, text in named])
    except DescriptionError as problem:  # an encoder that knows certain texts alone
        notes.add(f"No map of the tasks: {problem.message}")
        return {}
    return {
        "tasks": [task.task for task, _ in named],
        "families": [min(task.tags, default=task.task) for task, _ in named],
        "features": [[round(value, 5) for value in row] for row in feature_NW.tolist()],
        **({"distance": [round(value, 5) for value in distance]} if distance else {}),
    }


# --- suites -----------------------------------------------------------------------------------------------------------


def _suite(options: Options, notes: Notes) -> tuple[dict[str, Any], Path] | None:
    """Answers what a suite asks and scores the answers: the run and its folder; None where nothing is scored."""
    from t2l.evaluation.runs import facts_of, kept_run
    from t2l.evaluation.scores import can_score
    from t2l.evaluation.suite import INSTANCES, document, load_suite, scored

    places = options.folders or []
    tasks, digest = load_suite(places, INSTANCES if options.limit is None else options.limit)
    if dropped := sum(task.dropped for task in tasks):
        notes.add(f"{dropped} instances without an input or an output were omitted.")
    if options.score_only:
        answers, settings = kept_run(options.out)
        if settings.get("data_digest") != digest:
            raise T2LError(f"The answers in '{options.out}' are of other tasks than those in the folders given.")
        assert options.out is not None
        folder = options.out
    else:
        folder, answers, settings = _answered(options, tasks, digest, notes)
    if not options.score or (not options.score_only and not can_score()):
        why = "was not asked for" if not options.score else "needs rouge_score, which is not installed here"
        again = f"t2l evaluate --suite sni {' '.join(str(place) for place in places)} --out {folder} --score-only"
        limit = "" if options.limit is None else f" --limit {options.limit}"
        say(f"{len(answers)} answers are in '{folder}'. Scoring {why}; where it is installed: {again}{limit}")
        return None
    facts = facts_of(folder)
    facts["notes"] = list(dict.fromkeys([*facts.get("notes", ()), *notes.texts]))
    scores = scored(settings["rows"], tasks, answers, seed=options.seed, judged=options.gate)
    return document(settings, tasks, scores, facts), folder


def _answered(
    options: Options, tasks: Sequence[SuiteTask], digest: str, notes: Notes
) -> tuple[Path, Answers, dict[str, Any]]:
    """Opens base, checkpoint and adapters, as far as rows need them, and answers."""
    from t2l.data.prompts import Frame
    from t2l.evaluation.runs import FACTS_FILE, facts_of, fingerprint, head, open_run
    from t2l.evaluation.suite import NEW_TOKENS, Prompts, answer_all
    from t2l.storage import write_json

    known = _descriptions(options)
    described = [task.wording(known) for task in tasks]
    rows = _rows(options, "suite")
    if options.rows is None and not any(task.paraphrase for task in described):
        rows = [row for row in rows if row != "paraphrase"]
    bench, variants, decoders = _bench(options, rows, described, notes, known=known, wordings=1)
    base, t2l = bench.base, bench.t2l
    most = options.max_new_tokens or NEW_TOKENS
    frame = Frame.of(base.tokenizer, base.name, base.system)
    prompts = Prompts(base, frame, input_tokens=options.input_tokens, max_new_tokens=most)
    cut = {task.name: [prompts.cut(instance.input) for instance in task.instances] for task in tasks}
    inputs_cut = sum(was_cut for some in cut.values() for _, was_cut in some)
    settings = {
        "suite": "sni",
        "data_digest": digest,
        "base": base.name,
        "base_weights": base.weights,
        "base_fingerprint": fingerprint(base),
        "dtype": str(base.model.dtype).removeprefix("torch."),
        "frame": frame.record,
        "max_new_tokens": most,
        "input_tokens": options.input_tokens,
        "seed": options.seed,
    }
    identities = {row: bench.identity(row) for row in variants}
    if "paraphrase" in identities and options.descriptions is not None:
        files = (
            sorted(options.descriptions.glob("*.jsonl")) if options.descriptions.is_dir() else [options.descriptions]
        )
        identities["paraphrase"] += sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    folder = options.out or RUNS / f"sni-{_key([settings, identities])}"
    answers, settings = open_run(folder, settings, identities, restart=options.restart)
    _say_kept(answers, folder)
    if inputs_cut:
        notes.add(f"{inputs_cut} inputs have more than {options.input_tokens} tokens and lost their end, in every row.")
    begun, before = time.monotonic(), len(answers)
    inputs = {name: [text for text, _ in some] for name, some in cut.items()}
    for decoder, _, own in decoders:
        some = [variant for row in own for variant in variants[row]]
        answer_all(some, inputs, prompts, decoder, answers, progress_of("answers"))
    if prompts.counts.prompts_cut:
        notes.add(f"{prompts.counts.prompts_cut} prompts filled the base's window and lost the end of their input.")
    spent = {"answers": len(answers) - before, "seconds": round(time.monotonic() - begun, 1)}
    answered = {**head("rouge_score"), "device": _device_name(base.model.device), **spent}
    facts = {
        "checkpoint": None if t2l is None else t2l.digest,
        "training_tasks": _training_tasks(t2l),
        "inputs_cut": inputs_cut,
        "notes": list(notes.texts),
        "answering": [*facts_of(folder).get("answering", ()), answered],
    }
    write_json(folder / FACTS_FILE, facts)
    return folder, answers, settings


# --- what both open ---------------------------------------------------------------------------------------------------


def _rows(options: Options, kind: str) -> list[str]:
    from t2l.evaluation.rows import CHECKPOINT, chosen_rows

    given = set(options.adapters)
    if options.checkpoint is not None or options.base is None:
        given.add(CHECKPOINT)
    try:
        shots = [int(number) for number in options.shots.replace(",", " ").split()]
    except ValueError as problem:
        raise T2LError(f"--shots is '{options.shots}'; it is one number or several: --shots 1,3") from problem
    if any(number < 0 for number in shots):
        raise T2LError(f"--shots is '{options.shots}'; a prompt holds 0 examples or more.")
    return chosen_rows(options.rows, kind, given, shots, gate=options.gate)


def _descriptions(options: Options) -> DescriptionFile | None:
    from t2l.evaluation.wording import read_wordings

    return None if options.descriptions is None else read_wordings(options.descriptions)


def _bench(
    options: Options, rows: Sequence[str], tasks: Sequence[Wording], notes: Notes, **given: Any
) -> tuple[Bench, dict[str, list[PromptVariant]], list[tuple[Decoder, str, list[str]]]]:
    """Checkpoint, base and folders, as far as the rows need them; the rows' variants, and what runs them."""
    from t2l.bases import load_base
    from t2l.evaluation.rows import Bench, needs_checkpoint, one_adapter
    from t2l.prompting import NONE

    device = checked_device(options.device)
    wanted = needs_checkpoint(rows) or options.checkpoint is not None
    t2l = _checkpoint(options.checkpoint, device) if wanted else None
    name, system = options.base or (t2l and t2l.spec.base_model), options.system or (t2l and t2l.system)
    for folder in (options.multi_task, options.multi_task_prompt):  # an adapter knows its base and its prompts as well
        if folder is not None and not (name and system):
            adapter = one_adapter(folder)
            name, system = name or adapter.spec.base_model, system or adapter.system
    if name is None:
        t2l = t2l or _checkpoint(None, device)
        name, system = t2l.spec.base_name(), system or t2l.system
    written = options.protocol == "paper"  # token by token: three times as fast without fused attention
    loading = {"attn_implementation": "eager"} if device == "cpu" and written else None
    base = load_base(name, device=device, dtype=options.dtype, loading=loading)
    if options.dtype is None and base.model.num_parameters() >= _SMALL and _has_bfloat16(device):
        _round_to_bfloat16(base.model)
    base = base.with_system(system or NONE)
    bench = Bench(tasks, base, t2l, options.adapters, seed=options.seed, note=notes.add, **given)
    with notes.of_warnings():
        variants = {row: some for row in rows if (some := bench.variants(row))}
        decoders = bench.decoders(list(variants), options.batch_tokens)
    if not variants:
        raise T2LError(f"Nothing can be measured: {' '.join(notes.texts)}", "Give descriptions: --descriptions FILE")
    return bench, variants, decoders


def _checkpoint(source: str | None, device: str) -> TextToLora:
    """A checkpoint of ours, or one of the reference implementation."""
    from t2l.encoders import CachedEncoder
    from t2l.inspection import REFERENCE, kind_of
    from t2l.model import TextToLora
    from t2l.reference import import_checkpoint

    if source is not None and Path(source).expanduser().is_dir() and kind_of(source) == REFERENCE:
        t2l = import_checkpoint(source).to(device=device)
    else:
        t2l = TextToLora.from_pretrained(source, device=device)
    t2l.encoder = CachedEncoder(t2l.encoder)
    return t2l


def _key(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def _has_bfloat16(device: str) -> bool:
    """Whether the hardware computes in bfloat16."""
    import torch

    return torch.device(device).type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _round_to_bfloat16(model: Any) -> None:
    """Parameters, and no buffer: rotary frequencies stay exact, as where a base is loaded in bfloat16."""
    import torch

    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)


def _device_name(device: Any) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads" if device.type == "cpu" else str(device)


def _say_kept(answers: Answers, folder: Path) -> None:
    if len(answers):
        say(f"Note: {len(answers)} answers that '{folder}' has already are used.", "yellow")


# --- tables -----------------------------------------------------------------------------------------------------------


def _show_benchmarks(run: Mapping[str, Any]) -> None:
    accuracy, rows, tasks = run["findings"]["accuracy"], list(run["rows"]), list(run["tasks"])
    how = "paper's protocol" if run["settings"]["protocol"] == "paper" else "log-likelihood"
    everything = f"all {len(tasks)} tasks"
    if len(rows) <= _WIDE and len(tasks) <= _LONG:
        lines = [["", *rows]]
        lines += [[task or everything, *(_cell(accuracy[row].get(task)) for row in rows)] for task in [*tasks, ""]]
    else:  # more than a terminal is wide; the report has every task
        some = [*(tasks if len(tasks) < _WIDE else ()), ""]
        lines = [["", *(task or everything for task in some)]]
        lines += [[row, *(_cell(accuracy[row].get(task)) for task in some)] for row in rows]
    print_table(f"Accuracy, % (95% interval), {how}", lines)
    for line in run["findings"]["verdict"]:
        tell(line)
    if cut := sum(1 for item in run["items"] if item.get("cut")):
        tell(f"{cut} of {len(run['items'])} answers reached their bound of tokens and were cut.")


def _cell(value: Mapping[str, float] | None) -> str:
    return "" if value is None else f"{value['mean']:.1f} ({value['low']:.0f}-{value['high']:.0f})"


def _show_suite(run: Mapping[str, Any]) -> None:
    from t2l.evaluation.suite import TERMINAL_ROWS, by_category, by_row, not_ended

    items = max(one["answers"] for one in run["summary"].values())
    title = f"Super-Natural-Instructions: {len(run['tasks'])} tasks, {items} instances (95% intervals over tasks)"
    print_table(title, by_row(run, short=True))
    print_table("By category: ROUGE-L / exact match", by_category(run, TERMINAL_ROWS))
    tell(
        "t2l minus it: in ROUGE-L. labels: % of answers in the label set of classification tasks. tokens: of a prompt."
    )
    for line in [*not_ended(run), *run.get("gate", {}).get("verdict", ())]:
        tell(line)


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
    tell(f"{out} and {tables}", "bold green")
