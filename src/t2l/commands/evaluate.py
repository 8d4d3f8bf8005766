"""``t2l evaluate`` and ``t2l report``: benchmarks, suites of unseen tasks, the description gate; runs as one page.

Level 6. This file is the command line alone: `t2l.commands.evaluate_runs` opens what the options name, runs and prints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from t2l.commands.evaluate_runs import Options, evaluate_benchmarks, evaluate_suite
from t2l.commands.options import AsJson, BaseModel, Checkpoint, Device, Dtype, ProtocolName, SuiteName
from t2l.commands.terminal import print_json, results, say
from t2l.errors import T2LError

_MORE = "More: rows that need a folder, prompts, batches"


def _option(*names: str, help: str, more: bool = True, **given: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=_MORE if more else None, **given)


def _folder(*names: str, help: str) -> Any:
    return _option(*names, metavar="FOLDER", help=help)


_Folders = Annotated[list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="With --suite: its tasks.")]
_Suite = Annotated[SuiteName | None, _option(help="Super-Natural-Instructions, from FOLDER.", more=False)]
_Tasks = Annotated[
    list[str] | None,
    _option("--tasks", "-t", metavar="NAME,...", help="Of lm-evaluation-harness; paper10; all of --data.", more=False),
]
_Gate = Annotated[bool, _option("--gate", help="Does the description do the work?", more=False)]
_Rows = Annotated[
    str | None, _option("--rows", metavar="NAME,...", help="By default all that have what they need.", more=False)
]
_Data = Annotated[Path | None, _option("--data", metavar="FOLDER", help="Local FOLDER/TASK/SPLIT.jsonl.", more=False)]
_Descriptions = Annotated[Path | None, _option(metavar="FILE", help="More descriptions: YAML, JSON Lines.", more=False)]
_Limit = Annotated[int | None, _option(min=1, help="Items a task.", more=False)]
_Out = Annotated[Path | None, _option("--out", "-o", metavar="FOLDER", help="The run's; a run goes on.", more=False)]
_Protocol = Annotated[
    ProtocolName, _option(help="paper: greedy, first matching choice; loglikelihood: the harness's own.")
]
_Shots = Annotated[str, _option(metavar="N,...", help="Examples in the few-shot rows' prompts; 0: no such row.")]
_Library = Annotated[Path | None, _folder(help="PEFT adapters of training tasks: average, nearest, arrow.")]
_MultiTask = Annotated[
    Path | None, _folder("--multi-task", help="One PEFT adapter trained on all tasks; also a baseline in the gate.")
]
_MultiTaskPrompt = Annotated[
    Path | None, _folder("--multi-task-prompt", help="One trained with descriptions in the prompt.")
]
_TaskAdapters = Annotated[Path | None, _folder("--task-adapters", help="PEFT adapters named as the tasks.")]
_Hyperdecoder = Annotated[Path | None, _folder(help="As 't2l train hyperdecoder' leaves it.")]
_Wordings = Annotated[
    int | None, _option(min=1, help="Descriptions a task, each with its own adapter; 3, and 1 in a suite.")
]
_Restart = Annotated[bool, _option("--restart", "--force", help="Forget the folder's answers.")]
_RunCode = Annotated[
    bool, _option("--run-generated-code", help="HumanEval, MBPP: run what the model wrote, on this machine.")
]
_NewTokens = Annotated[
    int | None, _option("--max-new-tokens", min=1, help="Bounds every answer; 512, and 64 in a suite.")
]
_InputTokens = Annotated[
    int, _option("--input-tokens", min=1, help="Suite: longer inputs lose their end; how many did is reported.")
]
_Chat = Annotated[
    bool | None, _option("--chat/--no-chat", help="Benchmarks: the base's chat template; by default with paper.")
]
_System = Annotated[
    str | None, _option(metavar="TEXT|none|template", help="The system message; by default the checkpoint's.")
]
_BatchTokens = Annotated[
    int | None, _option("--batch-tokens", min=1, help="Tokens in one forward pass, padding included.")
]
_Dtype = Annotated[Dtype | None, _option(help="The base's; by default bfloat16 where the hardware has it.")]
_Score = Annotated[bool, _option("--score/--no-score", help="Suite: score the answers, which needs no model.")]
_ScoreOnly = Annotated[bool, _option("--score-only", help="Suite: score what --out has; no model is loaded.")]
_Seed = Annotated[int, _option(help="Of descriptions, examples shown and resampling.")]


def evaluate(
    folders: _Folders = None,
    suite: _Suite = None,
    tasks: _Tasks = None,
    gate: _Gate = False,
    rows: _Rows = None,
    checkpoint: Checkpoint = None,
    base: BaseModel = None,
    data: _Data = None,
    descriptions: _Descriptions = None,
    limit: _Limit = None,
    out: _Out = None,
    protocol: _Protocol = ProtocolName.paper,
    shots: _Shots = "3",
    library: _Library = None,
    multi_task: _MultiTask = None,
    multi_task_prompt: _MultiTaskPrompt = None,
    task_adapters: _TaskAdapters = None,
    hyperdecoder: _Hyperdecoder = None,
    wordings: _Wordings = None,
    restart: _Restart = False,
    run_code: _RunCode = False,
    max_new_tokens: _NewTokens = None,
    input_tokens: _InputTokens = 1024,
    chat: _Chat = None,
    system: _System = None,
    batch_tokens: _BatchTokens = None,
    dtype: _Dtype = None,
    score: _Score = True,
    score_only: _ScoreOnly = False,
    seed: _Seed = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint beside what it has to beat, on benchmarks or unseen tasks; ask what its descriptions do."""
    options = Options(**locals())
    if suite is None and folders:
        raise T2LError(f"'{folders[0]}' is read with a suite alone.", "Add --suite sni, or name tasks: --tasks NAME")
    (evaluate_benchmarks if suite is None else evaluate_suite)(options)


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
    say(f"{out} and {tables}", "bold green", console=results())
