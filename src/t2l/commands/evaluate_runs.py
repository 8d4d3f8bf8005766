"""What ``t2l evaluate`` does: opens what the options name, runs benchmarks or a suite, and prints their tables.

Level 6. `t2l.evaluation` does the work: `t2l.evaluation.harness` for benchmarks, `t2l.evaluation.suite` for tasks with
definitions, and one table of rows (`t2l.evaluation.rows`) for both.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2l.commands.options import Dtype, ProtocolName, SuiteName, checked_device
from t2l.commands.terminal import Notes, print_json, results, say
from t2l.errors import DescriptionError, T2LError

if TYPE_CHECKING:
    from t2l.bases import Base
    from t2l.evaluation.rows import Bench
    from t2l.evaluation.runs import Answers
    from t2l.evaluation.suite import SuiteTask
    from t2l.evaluation.wording import Wording
    from t2l.model import TextToLora

RUNS = Path("t2l-runs")
_SMALL = 50_000_000  # parameters: below, half precision saves no time
_WIDE, _LONG = 4, 12  # columns and lines that a table on a terminal takes


@dataclass(frozen=True)
class Options:
    """What `t2l evaluate` was given."""

    folders: list[Path] | None
    suite: SuiteName | None
    tasks: list[str] | None
    gate: bool
    rows: str | None
    checkpoint: str | None
    base: str | None
    data: Path | None
    descriptions: Path | None
    limit: int | None
    out: Path | None
    protocol: ProtocolName
    shots: str
    library: Path | None
    multi_task: Path | None
    multi_task_prompt: Path | None
    task_adapters: Path | None
    hyperdecoder: Path | None
    wordings: int | None
    restart: bool
    run_code: bool
    max_new_tokens: int | None
    input_tokens: int
    chat: bool | None
    system: str | None
    batch_tokens: int | None
    dtype: Dtype | None
    score: bool
    score_only: bool
    seed: int
    device: str
    as_json: bool

    @property
    def adapters(self) -> dict[str, Path | None]:
        """Option -> the folder that it names, for the rows that need one."""
        return {
            "--library": self.library,
            "--multi-task": self.multi_task,
            "--multi-task-prompt": self.multi_task_prompt,
            "--task-adapters": self.task_adapters,
            "--hyperdecoder": self.hyperdecoder,
        }


# --- benchmarks -------------------------------------------------------------------------------------------------------


def evaluate_benchmarks(options: Options) -> None:
    """Runs tasks of lm-evaluation-harness and folders, writes the run and prints its table."""
    from t2l.evaluation.benchmarks import load_tasks
    from t2l.evaluation.gate import gate_of
    from t2l.evaluation.harness import MAX_NEW_TOKENS, document, run_variants
    from t2l.evaluation.rows import row_of
    from t2l.evaluation.runs import RUN_FILE, fingerprint, open_run
    from t2l.evaluation.wording import read_wordings
    from t2l.storage import write_json

    notes = Notes()
    known = None if options.descriptions is None else read_wordings(options.descriptions)
    rows = _rows(options, "benchmarks")
    tasks = load_tasks(
        options.tasks or (["all"] if options.data is not None else ["paper10"]),
        protocol=options.protocol.value,
        data=options.data,
        run_code=options.run_code,
        descriptions=known,
        note=notes.add,
    )
    wordings = options.wordings or 3
    showing = {task.name for task in tasks if task.can_show}
    described = [task.wording for task in tasks]
    bench = _bench(options, rows, described, notes, known=known, wordings=wordings, showing=showing)
    with notes.of_warnings():
        variants = {row: some for row in rows if (some := bench.variants(row))}
        decoders = bench.decoders(list(variants), options.batch_tokens)
    base, t2l = bench.base, bench.t2l
    paper = options.protocol is ProtocolName.paper
    most = options.max_new_tokens or MAX_NEW_TOKENS
    settings = {
        "tasks": [task.name for task in tasks],
        "protocol": options.protocol.value,
        "data": None if options.data is None else str(options.data),
        "checkpoint": None if t2l is None else t2l.digest,
        **_of_base(base),
        "base_fingerprint": fingerprint(base),
        "rows": list(variants),
        "adapters": {row: bench.identity(row) for row in variants},
        "wordings": wordings,
        "limit": options.limit,
        "max_new_tokens": most,
        "chat": (base.has_chat_template and paper) if options.chat is None else options.chat,
        "system": base.system,
        "seed": options.seed,
    }
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
            max_new_tokens=most,
            seed=options.seed,
            report=_progress(),
        )
    run = document(
        settings=settings,
        tasks=tasks,
        variants=[variant for some in variants.values() for variant in some],
        rows={row: row_of(row).title for row in variants},
        items=items,
        more={
            "gate": options.gate,
            "training_tasks": _training_tasks(t2l),
            "library": len(bench.foreign()) if {"average", "nearest", "arrow"} & set(variants) else None,
            "findings": gate_of(items, options.seed, judged=options.gate).to_dict(),
            "map": {} if t2l is None else _map(t2l, bench.tasks, wordings, notes),
            "notes": notes.texts,
        },
    )
    write_json(folder / RUN_FILE, run)
    if options.as_json:
        print_json({name: value for name, value in run.items() if name != "items"} | {"file": str(folder / RUN_FILE)})
    else:
        _show_benchmarks(run, folder)


def _training_tasks(t2l: TextToLora | None) -> int | None:
    """On how many tasks the checkpoint was trained, where it or its calibration says so."""
    from t2l.guidance.guide import Guide, is_calibrated

    own = None if t2l is None else t2l.metadata.get("training_tasks")
    if own is None and t2l is not None and is_calibrated(t2l):
        return Guide.of(t2l).calibration.facts.get("training_tasks")
    return own


def _map(t2l: TextToLora, tasks: Sequence[Wording], wordings: int, notes: Notes) -> dict[str, Any]:
    """Where the matched descriptions lie, for the report's map of tasks.

    ``features`` are the hypernetwork's, ``distance`` is theirs from the nearest training task, in standard
    deviations, where a calibration knows the training tasks.
    """
    import torch

    from t2l.guidance.familiarity import vectors
    from t2l.guidance.guide import Guide, is_calibrated

    named = [(task, text) for task in tasks for text in task.matched[:wordings]]
    if not named:
        return {}
    try:
        with notes.of_warnings(), torch.inference_mode():
            _, feature_NW = vectors(t2l, t2l.encoder.encode([text for _, text in named]))
    except DescriptionError as problem:  # an encoder that knows certain texts alone
        notes.add(f"No map of the tasks: {problem.message}")
        return {}
    distance = None
    if is_calibrated(t2l):
        distance = Guide.of(t2l).calibration.known.features.distances(feature_NW).amin(dim=1).tolist()
    return {
        "tasks": [task.task for task, _ in named],
        "families": [min(task.tags, default=task.task) for task, _ in named],
        "features": [[round(value, 5) for value in row] for row in feature_NW.tolist()],
        **({"distance": [round(value, 5) for value in distance]} if distance else {}),
    }


# --- suites -----------------------------------------------------------------------------------------------------------


def evaluate_suite(options: Options) -> None:
    """Answers what a suite asks, scores the answers, writes the run and prints its table."""
    from t2l.evaluation.runs import RUN_FILE, facts_of, kept_run
    from t2l.evaluation.scores import can_score
    from t2l.evaluation.suite import INSTANCES, document, load_suite, scored
    from t2l.storage import write_json

    places = options.folders or []
    tasks, digest = load_suite(places, INSTANCES if options.limit is None else options.limit)
    notes = Notes()
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
        return
    facts = facts_of(folder)
    facts["notes"] = list(dict.fromkeys([*facts.get("notes", ()), *notes.texts]))
    scores = scored(settings["rows"], tasks, answers, seed=options.seed, judged=options.gate)
    run = document(settings, tasks, scores, facts)
    write_json(folder / RUN_FILE, run)
    if options.as_json:
        print_json(run | {"file": str(folder / RUN_FILE)})
    else:
        _show_suite(run, folder)


def _answered(
    options: Options, tasks: Sequence[SuiteTask], digest: str, notes: Notes
) -> tuple[Path, Answers, dict[str, Any]]:
    """Opens base, checkpoint and adapters, as far as rows need them, and answers."""
    from t2l.data.prompts import Frame
    from t2l.evaluation.runs import FACTS_FILE, facts_of, fingerprint, head, open_run
    from t2l.evaluation.suite import NEW_TOKENS, Prompts, answer_all
    from t2l.evaluation.wording import read_wordings
    from t2l.storage import write_json

    known = None if options.descriptions is None else read_wordings(options.descriptions)
    described = [task.wording(known) for task in tasks]
    rows = _rows(options, "suite")
    if options.rows is None and not any(task.paraphrase for task in described):
        rows = [row for row in rows if row != "paraphrase"]
    bench = _bench(options, rows, described, notes, known=known, wordings=1)
    base, t2l = bench.base, bench.t2l
    with notes.of_warnings():
        variants = {row: some for row in rows if (some := bench.variants(row))}
        decoders = bench.decoders(list(variants), options.batch_tokens)
    if not variants:
        raise T2LError(f"Nothing can be measured: {' '.join(notes.texts)}", "Give descriptions: --descriptions FILE")
    most = options.max_new_tokens or NEW_TOKENS
    frame = Frame.of(base.tokenizer, base.name, base.system)
    prompts = Prompts(base, frame, input_tokens=options.input_tokens, max_new_tokens=most)
    cut = {task.name: [prompts.cut(instance.input) for instance in task.instances] for task in tasks}
    inputs_cut = sum(was_cut for some in cut.values() for _, was_cut in some)
    settings = {
        "suite": "sni",
        "data_digest": digest,
        **_of_base(base),
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
        answer_all(some, inputs, prompts, decoder, answers, _progress())
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

    given = {option for option, folder in options.adapters.items() if folder is not None}
    if options.checkpoint is not None or options.base is None:
        given.add(CHECKPOINT)
    try:
        shots = [int(number) for number in options.shots.replace(",", " ").split()]
    except ValueError as problem:
        raise T2LError(f"--shots is '{options.shots}'; it is one number or several: --shots 1,3") from problem
    if any(number < 0 for number in shots):
        raise T2LError(f"--shots is '{options.shots}'; a prompt holds 0 examples or more.")
    return chosen_rows(options.rows, kind, given, shots, gate=options.gate)


def _bench(options: Options, rows: Sequence[str], tasks: Sequence[Wording], notes: Notes, **given: Any) -> Bench:
    """The rows' bench: checkpoint, base and folders, as far as the rows need them."""
    from t2l.bases import load_base
    from t2l.evaluation.rows import Bench, needs_checkpoint, one_adapter
    from t2l.prompting import NONE

    device = checked_device(options.device)
    wanted = needs_checkpoint(rows) or options.checkpoint is not None
    t2l = _checkpoint(options.checkpoint, device) if wanted else None
    name, system = options.base or (t2l and t2l.spec.base_model), options.system or (t2l and t2l.system)
    for option, folder in options.adapters.items():  # an adapter knows its base and its prompts as well
        if folder is not None and option.startswith("--multi-task") and not (name and system):
            adapter = one_adapter(folder)
            name, system = name or adapter.spec.base_model, system or adapter.system
    if name is None:
        t2l = t2l or _checkpoint(None, device)
        name, system = t2l.spec.base_name(), system or t2l.system
    written = options.protocol is ProtocolName.paper  # token by token: three times as fast without fused attention
    loading = {"attn_implementation": "eager"} if device == "cpu" and written else None
    base = load_base(name, device=device, dtype=options.dtype and options.dtype.value, loading=loading)
    if options.dtype is None and base.model.num_parameters() >= _SMALL and _has_bfloat16(device):
        _round_to_bfloat16(base.model)
    return Bench(
        tasks,
        base.with_system(system or NONE),
        t2l,
        options.adapters,
        seed=options.seed,
        note=notes.add,
        **given,
    )


def _checkpoint(source: str | None, device: str) -> TextToLora:
    """A checkpoint of ours, or one of the reference implementation."""
    from t2l.encoders import CachedEncoder
    from t2l.inspection import REFERENCE, kind_of
    from t2l.model import TextToLora
    from t2l.reference import import_checkpoint

    reference = source is not None and Path(source).expanduser().is_dir() and kind_of(source) == REFERENCE
    t2l = (
        import_checkpoint(source).to(device=device)
        if reference and source
        else TextToLora.from_pretrained(source, device=device)
    )
    t2l.encoder = CachedEncoder(t2l.encoder)
    return t2l


def _of_base(base: Base) -> dict[str, Any]:
    return {"base": base.name, "base_weights": base.weights}


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


def _say_kept(answers: Collection[Any] | Answers, folder: Path) -> None:
    if len(answers):
        say(f"Note: {len(answers)} answers that '{folder}' has already are used.", "yellow")


def _progress() -> Callable[..., None]:
    """Says how many answers there are: in place on a terminal, every half minute elsewhere."""
    stream, begun, shown = sys.stderr, time.monotonic(), [0.0]

    def report(done: int, total: int, *_: float) -> None:
        seconds = time.monotonic() - begun
        if stream.isatty() or seconds - shown[0] >= 30:
            shown[0] = seconds
            end = "\r" if stream.isatty() and done < total else "\n"
            print(f"{done} of {total} answers, {seconds:.0f} s", end=end, file=stream, flush=True)

    return report


# --- tables -----------------------------------------------------------------------------------------------------------


def _table(title: str, lines: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title)
    for place, name in enumerate(lines[0]):
        table.add_column(Text(name), justify="right" if place else "left", no_wrap=not place)
    for line in lines[1:]:
        table.add_row(*map(Text, line))
    results().print(table)


def _show_benchmarks(run: Mapping[str, Any], folder: Path) -> None:
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
    _table(f"Accuracy, % (95% interval), {how}", lines)
    for line in run["findings"]["verdict"]:
        say(line, console=results())
    if cut := sum(1 for item in run["items"] if item.get("cut")):
        say(f"{cut} of {len(run['items'])} answers reached their bound of tokens and were cut.", console=results())
    say(f"Run: {folder}. Read it: t2l report {folder}", console=results())


def _cell(value: Mapping[str, float] | None) -> str:
    return "" if value is None else f"{value['mean']:.1f} ({value['low']:.0f}-{value['high']:.0f})"


def _show_suite(run: Mapping[str, Any], folder: Path) -> None:
    from t2l.evaluation.suite import TERMINAL_ROWS, by_category, by_row, not_ended

    items = max(one["answers"] for one in run["summary"].values())
    title = f"Super-Natural-Instructions: {len(run['tasks'])} tasks, {items} instances (95% intervals over tasks)"
    _table(title, by_row(run, short=True))
    _table("By category: ROUGE-L / exact match", by_category(run, TERMINAL_ROWS))
    say(
        "t2l minus it: in ROUGE-L. labels: % of answers in the label set of classification tasks. tokens: of a prompt.",
        console=results(),
    )
    for line in [*not_ended(run), *run.get("gate", {}).get("verdict", ())]:
        say(line, console=results())
    say(f"Run: {folder}. Read it: t2l report {folder}", console=results())
