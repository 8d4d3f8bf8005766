"""``t2l evaluate --suite sni``: descriptions of unseen tasks, by the protocol of Super-Natural-Instructions.

Level 6. `t2l.evaluation.sni_run` does the work; this file opens what the options name, and prints.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2l.commands.options import checked_device
from t2l.commands.terminal import Notes, print_json, results, say
from t2l.errors import AdapterError, BaseModelError, T2LError

if TYPE_CHECKING:
    from t2l.adapter import Adapter
    from t2l.bases import Base
    from t2l.evaluation.answers import Answers
    from t2l.evaluation.sni import Asked, SuiteTask
    from t2l.model import TextToLora

NEW_TOKENS = 64
_CATEGORY_ROWS = ("base", "description-in-prompt", "t2l", "multi-task-prompt")


@dataclass(frozen=True)
class SuiteOptions:
    """What `t2l evaluate` was given, as far as a suite reads it."""

    folders: Sequence[Path]
    checkpoint: str | None
    base: str | None
    rows: str | None
    multi_task: Path | None
    multi_task_prompt: Path | None
    descriptions: Path | None
    limit: int | None
    out: Path | None
    restart: bool
    max_new_tokens: int | None
    input_tokens: int
    batch_tokens: int | None
    dtype: str | None
    system: str | None
    score: bool
    score_only: bool
    seed: int
    device: str
    as_json: bool


def evaluate_suite(options: SuiteOptions) -> None:
    """Answers what a suite asks, scores the answers, writes the run and prints its table."""
    from t2l.evaluation.sni import INSTANCES, load_suite
    from t2l.evaluation.sni_scores import can_score

    tasks, digest = load_suite(options.folders, INSTANCES if options.limit is None else options.limit)
    notes = Notes()
    dropped = sum(task.dropped for task in tasks)
    if dropped:
        notes.add(f"{dropped} instances without an input or an output were left out.")
    folder, settings, answers, facts = (
        _kept(options, digest) if options.score_only else _answered(options, tasks, digest, notes)
    )
    if not options.score or (not options.score_only and not can_score()):
        why = "was not asked for" if not options.score else "needs rouge_score, which is not installed here"
        again = (
            f"t2l evaluate --suite sni {' '.join(str(place) for place in options.folders)} --out {folder} --score-only"
        )
        limit = "" if options.limit is None else f" --limit {options.limit}"
        say(f"{len(answers)} answers are in '{folder}'. Scoring {why}; where it is installed: {again}{limit}")
        return
    _score(
        options,
        folder,
        settings,
        tasks,
        answers,
        {**facts, "notes": list(dict.fromkeys([*facts.get("notes", ()), *notes.texts]))},
    )


def _kept(options: SuiteOptions, digest: str) -> tuple[Path, dict[str, Any], Answers, dict[str, Any]]:
    """The answers of a run that was made elsewhere."""
    from t2l.evaluation.answers import ANSWERS_FILE, Answers
    from t2l.evaluation.run_files import SETTINGS_FILE, check_folder
    from t2l.storage import read_json

    if options.out is None:
        raise T2LError("--score-only needs the folder of a run.", "Name it: --out FOLDER")
    check_folder(options.out)
    if not (options.out / ANSWERS_FILE).is_file():
        raise T2LError(f"'{options.out}' holds no answers.", "Make some: t2l evaluate --suite sni FOLDER --out RUN")
    settings = read_json(options.out / SETTINGS_FILE, T2LError)
    if settings.get("data_digest") != digest:
        raise T2LError(f"The answers in '{options.out}' are of other tasks than those in the folders that were given.")
    return options.out, settings, Answers(options.out / ANSWERS_FILE), _facts(options.out)


def _answered(
    options: SuiteOptions, tasks: Sequence[SuiteTask], digest: str, notes: Notes
) -> tuple[Path, dict[str, Any], Answers, dict[str, Any]]:
    """Opens base, checkpoint and adapters, as far as rows need them, and answers."""
    from t2l.bases import load_base
    from t2l.data.descriptions import read_description_files
    from t2l.data.prompts import Frame
    from t2l.evaluation.run_files import fingerprint, head
    from t2l.evaluation.sni import SUITE_ROWS, asked_of, chosen_rows
    from t2l.evaluation.sni_run import FACTS_FILE, Prompts, copies, open_run
    from t2l.storage import write_json

    given = {"--multi-task": options.multi_task, "--multi-task-prompt": options.multi_task_prompt}
    rows = chosen_rows(
        options.rows,
        {
            "checkpoint": options.checkpoint is not None or options.base is None,
            "--descriptions": options.descriptions is not None,
            **{need: folder is not None for need, folder in given.items()},
        },
    )
    device = checked_device(options.device)
    described = read_description_files([options.descriptions]) if options.descriptions is not None else None
    finished = {need: _adapter(folder) for need, folder in given.items() if folder is not None}
    t2l = _checkpoint(options, device) if any(SUITE_ROWS[row].needs == "checkpoint" for row in rows) else None
    name = options.base or (t2l.spec.base_model if t2l is not None else None)
    name = name or next((adapter.spec.base_model for adapter in finished.values()), None)
    if name is None:
        raise BaseModelError("No base is named.", "Name it: --base FOLDER|HUB_ID")
    attention = {"attn_implementation": "eager"} if device == "cpu" else None  # a token a row: 3 times as fast there
    model = load_base(name, device=device, dtype=options.dtype or _usual_dtype(device), loading=attention)
    for spec in [*([t2l.spec] if t2l is not None else []), *(adapter.spec for adapter in finished.values())]:
        spec.check_base(model.model)
    most = NEW_TOKENS if options.max_new_tokens is None else options.max_new_tokens
    model = model.with_system(options.system or _system(t2l, finished.values()))
    frame = Frame.of(model.tokenizer, model.name, model.system)
    prompts = Prompts(model, frame, input_tokens=options.input_tokens, max_new_tokens=most)
    cut = {task.name: [prompts.cut(instance.input) for instance in task.instances] for task in tasks}
    inputs = {name: [text for text, _ in some] for name, some in cut.items()}
    inputs_cut = sum(was_cut for some in cut.values() for _, was_cut in some)
    settings = {
        "suite": "sni",
        "data_digest": digest,
        "base": model.name,
        "base_weights": model.weights,
        "base_fingerprint": fingerprint(model),
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "frame": frame.record,
        "max_new_tokens": most,
        "input_tokens": options.input_tokens,
        "seed": options.seed,
    }
    identities = {row: _identity(row, t2l, finished, digest, options.descriptions) for row in rows}
    key = sha256(json.dumps([settings, identities], sort_keys=True).encode()).hexdigest()[:10]
    folder = options.out or Path("t2l-runs") / f"sni-{key}"
    answers, settings = open_run(folder, settings, identities, restart=options.restart)
    if len(answers):
        say(f"Note: {len(answers)} answers that '{folder}' has already are used.", "yellow")
    if "copy-input" in rows:
        copies(tasks, inputs, answers)
    asked: list[Asked] = []
    for row in rows:
        if row == "copy-input":
            continue
        some = asked_of(row, tasks, inputs, descriptions=described, seed=options.seed)
        missing = len(tasks) - len({one.task for one in some})
        if missing:
            notes.add(f"The row '{row}' has no description for {missing} of {len(tasks)} tasks.")
        asked += some
    if inputs_cut:
        notes.add(f"{inputs_cut} inputs have more than {options.input_tokens} tokens and lost their end, in every row.")
    seconds = _answer(options, model, t2l, finished, tasks, asked, prompts, answers, most)
    if prompts.counts.prompts_cut:
        notes.add(f"{prompts.counts.prompts_cut} prompts filled the base's window and lost the end of their input.")
    facts = {
        "checkpoint": None if t2l is None else t2l.digest,
        "training_tasks": None if t2l is None else t2l.metadata.get("training_tasks"),
        "inputs_cut": inputs_cut,
        "notes": list(notes.texts),
        "answering": [
            *_facts(folder).get("answering", ()),
            {**head("rouge_score"), "device": _device_name(device), **seconds},
        ],
    }
    write_json(folder / FACTS_FILE, facts)
    return folder, settings, answers, facts


def _facts(folder: Path) -> dict[str, Any]:
    """What earlier calls that answered say of themselves."""
    from t2l.evaluation.sni_run import FACTS_FILE
    from t2l.storage import read_json

    return read_json(folder / FACTS_FILE, T2LError) if (folder / FACTS_FILE).is_file() else {}


def _answer(
    options: SuiteOptions,
    model: Base,
    t2l: TextToLora | None,
    finished: Mapping[str, Adapter],
    tasks: Sequence[SuiteTask],
    asked: Sequence[Asked],
    prompts: Any,
    answers: Answers,
    most: int,
) -> dict[str, float]:
    """Answers everything, and says in what time."""
    from t2l.evaluation.grouped import GroupedDecoder
    from t2l.evaluation.shelf import Shelf
    from t2l.evaluation.sni import STATIC
    from t2l.evaluation.sni_run import answer_all

    begun, before = time.monotonic(), len(answers)
    texts = [one.adapter[1] for one in asked if one.adapter is not None and one.adapter[0] == "text"]
    static = t2l is not None and any(one.row == STATIC for one in asked)
    texts += [task.definition for task in tasks] if static else []
    shelf = Shelf(t2l, texts, device=model.model.device, dtype=model.model.dtype)
    if static:
        shelf.add_mean((STATIC, ""), [task.definition for task in tasks])
    for need, adapter in finished.items():
        shelf.add((need.removeprefix("--"), ""), adapter)
    decoder = GroupedDecoder(model, shelf, max_new_tokens=most, batch_tokens=options.batch_tokens)
    answer_all(asked, prompts, decoder, answers, _progress())
    return {"answers": len(answers) - before, "seconds": round(time.monotonic() - begun, 1)}


def _score(
    options: SuiteOptions,
    folder: Path,
    settings: Mapping[str, Any],
    tasks: Sequence[SuiteTask],
    answers: Answers,
    facts: Mapping[str, Any],
) -> None:
    from t2l.evaluation.run_files import RUN_FILE
    from t2l.evaluation.sni import SUITE_ROWS
    from t2l.evaluation.sni_run import document, scored
    from t2l.storage import write_json

    rows = [row for row in SUITE_ROWS if row in settings["rows"]]
    run = document(settings, tasks, scored(rows, tasks, answers, seed=options.seed), facts)
    write_json(folder / RUN_FILE, run)
    if options.as_json:
        print_json(run | {"file": str(folder / RUN_FILE)})
        return
    show(run)
    say(f"Run: {folder}. Read it: t2l report {folder}", console=results())


def _system(t2l: TextToLora | None, adapters: Iterable[Adapter]) -> str:
    """The system message that the checkpoint, or else an adapter, was trained with; none where nobody says."""
    from t2l.prompting import NONE

    if t2l is not None:
        return t2l.system
    return next((adapter.system for adapter in adapters if adapter.system is not None), NONE)


def _identity(
    row: str, t2l: TextToLora | None, finished: Mapping[str, Adapter], digest: str, descriptions: Path | None
) -> str:
    """What decides a row's answers besides the settings of the run."""
    from t2l.evaluation.sni import SUITE_ROWS

    needs = SUITE_ROWS[row].needs
    if needs == "checkpoint":
        assert t2l is not None
        texts = (
            sha256(descriptions.read_bytes()).hexdigest() if row == "paraphrase" and descriptions is not None else ""
        )
        return t2l.digest + texts
    return finished[needs].digest if needs else ""


def _checkpoint(options: SuiteOptions, device: str) -> TextToLora:
    from t2l.encoders import CachedEncoder
    from t2l.model import TextToLora

    t2l = TextToLora.from_pretrained(options.checkpoint, device=device)
    t2l.encoder = CachedEncoder(t2l.encoder)
    return t2l


def _adapter(folder: Path) -> Adapter:
    """The LoRA of a PEFT folder, or of the run of ``t2l train lora``."""
    from t2l.adapter import Adapter

    inside = folder / "adapter"
    if not (folder / "adapter_config.json").is_file() and inside.is_dir():
        return Adapter.load(inside)
    if not folder.is_dir():
        raise AdapterError(f"There is no folder '{folder}'.", "Give a PEFT folder, or a run of t2l train lora.")
    return Adapter.load(folder)


def _usual_dtype(device: str) -> str | None:
    """bfloat16 where the hardware computes in it; None leaves it to the base."""
    import torch

    if torch.device(device).type == "cpu":
        return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None
    return "bfloat16"


def _device_name(device: str) -> str:
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads" if device == "cpu" else device


def _progress() -> Any:
    stream, shown = sys.stderr, [0.0]

    def report(done: int, total: int, seconds: float) -> None:
        if not stream.isatty() and seconds - shown[0] < 30 and done < total:
            return
        shown[0] = seconds
        print(
            f"{done} of {total} answers, {seconds:.0f} s",
            end="\r" if stream.isatty() else "\n",
            file=stream,
            flush=True,
        )

    return report


def show(run: Mapping[str, Any]) -> None:
    """The table of a run on stdout: every row with its intervals, then what the rows say by category."""
    from rich.table import Table
    from rich.text import Text

    console, summary = results(), run["summary"]
    items = max(one["answers"] for one in summary.values())
    table = Table(
        title=f"Super-Natural-Instructions: {len(run['tasks'])} tasks, {items} instances (95% intervals over tasks)"
    )
    names = ("", "ROUGE-L", "exact match", "t2l minus it", "labels", "tokens")
    for name in names:
        table.add_column(
            name, justify="right" if name else "left", no_wrap=not name, min_width=11 if name in names[1:3] else None
        )
    for row in run["rows"]:
        one, gap = summary[row], run["differences"].get(row)
        tokens = one["prompt_tokens"]
        table.add_row(
            Text(row),
            cell(one["rouge_l"]),
            cell(one["exact_match"]),
            "" if gap is None else cell(gap["rouge_l"], signed=True),
            "" if one["in_labels"] is None else f"{one['in_labels']['mean']:.1f}",
            "" if tokens is None else f"{tokens:.0f}",
        )
    console.print(table)
    rows = [row for row in _CATEGORY_ROWS if row in run["rows"]]
    table = Table(title="By category: ROUGE-L / exact match")
    for name in ("", "tasks", *rows):
        table.add_column(name, justify="right" if name else "left")
    for category, found in run["categories"].items():
        scores = [found["rows"].get(row) for row in rows]
        cells = ["" if one is None else f"{one['rouge_l']:.1f} / {one['exact_match']:.1f}" for one in scores]
        table.add_row(Text(category or "(none)"), str(found["tasks"]), *cells)
    console.print(table)
    say(
        "t2l minus it: in ROUGE-L. labels: % of answers in the label set of classification tasks. tokens: of a prompt.",
        console=console,
    )
    bound = {row: one["not_ended"] for row, one in summary.items() if one["not_ended"]}
    if bound:
        counts = ", ".join(f"{row} {count}" for row, count in bound.items())
        say(
            f"Answers that reached {run['settings']['max_new_tokens']} tokens without an end: {counts}.",
            console=console,
        )


def cell(value: Mapping[str, float], *, signed: bool = False) -> str:
    """A mean with its interval."""
    if signed:
        return f"{value['mean']:+.1f} ({value['low']:+.1f} to {value['high']:+.1f})"
    return f"{value['mean']:.1f} ({value['low']:.1f}-{value['high']:.1f})"
