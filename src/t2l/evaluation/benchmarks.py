"""Which tasks there are and where their data lies: the harness's own, the paper's ten by two protocols, and folders.

Level 5. Every task becomes one of lm-evaluation-harness. Local copies (``--data DIR``) lie in ``DIR/TASK`` as jsonl,
json or parquet files named by their split (see `t2l.data.benchmarks`), or flat as ``DIR/TASK.jsonl``, in the
benchmark's own schema; nothing but the place of the data differs from the hub. A folder with a ``task.json`` is a task
of its own: inputs, outputs and descriptions. This file knows no model.
"""

from __future__ import annotations

import copy
import io
import logging
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from t2l.data.benchmarks import BENCHMARKS, ENDINGS, SPLITS, ending_of, files_of_split, read_rows
from t2l.data.descriptions import DescriptionFile
from t2l.data.sources import as_text
from t2l.errors import DataError, T2LError, did_you_mean
from t2l.evaluation.paper_protocol import code_config, configs
from t2l.evaluation.wording import Wording, paper_wording
from t2l.storage import read_json

Protocol = Literal["loglikelihood", "paper"]
"""``loglikelihood``: the harness's own way. ``paper``: greedy generation, first matching choice. Never in one table."""
GROUP = "paper10"
PAPER10 = BENCHMARKS
_FOLDERS = {"arc_challenge": "arc", "arc_easy": "arc", "boolq": "super_glue/boolq"}  # in the harness; others: as named
CODE = ("humaneval", "mbpp")
"""Benchmarks that are scored by running what the model wrote."""
TASK_FILE = "task.json"
_OWN_FIX = 'Beside task.json, test.jsonl holds lines such as {"input": "b a", "output": "a b"}.'
_NONE = {type(None)}
_HARNESS = (
    "Evaluation on benchmarks needs lm-evaluation-harness: {}.",
    "pip install 't2l[eval]'",
)


@dataclass(frozen=True, eq=False)
class EvaluationTask:
    """A task of the harness with what is known about it.

    Args:
        name: as in the run.
        harness: the harness's task, loaded; copies of it are run.
        metric: the figure that counts, as the harness names it: (metric, filter).
        wording: how it is described; without texts where nobody has said.
        family: what it is coloured by on the map of tasks.
        runs_code: whether scoring runs what the model wrote.
    """

    name: str
    harness: Any
    metric: tuple[str, str]
    wording: Wording
    family: str | None = None
    runs_code: bool = False

    def variant(self, alias: str, *, shots: int | None = None, prefix: str = "", seed: int = 0) -> Any:
        """A copy for one run of the task under another name, its data shared.

        Args:
            shots: examples in the prompt; the task's own number by default.
            prefix: text before the prompt.

        Raises:
            T2LError: examples are asked for and the task has none to show.
        """
        one = copy.copy(self.harness)
        one._config = copy.copy(self.harness._config)
        one._instances = None
        one._config.task = alias
        own = one.get_config("num_fewshot") or 0
        one.set_config(key="num_fewshot", value=own if shots is None else shots)
        if shots and not self.can_show:
            raise T2LError(
                f"The task '{self.name}' has no examples to show ({shots} asked for).",
                "Omit --shots, or give it a train split.",
            )
        if prefix:
            one.set_config(key="description", value=f"{prefix.strip()}\n\n")
        if hasattr(one, "sampler"):
            one.sampler = copy.copy(one.sampler)
            one.set_fewshot_seed(seed=seed)
        return one

    @cached_property
    def can_show(self) -> bool:
        """Whether there are examples for a few-shot prompt that are not the questions themselves."""
        config = self.harness.config
        shown = config.fewshot_split or config.training_split or config.validation_split
        own = bool(config.fewshot_config and config.fewshot_config.samples)
        asked = config.test_split or config.validation_split
        return own or (bool(shown) and shown != asked and len(self.harness.dataset[shown]) > 0)


def names_of(asked: Sequence[str]) -> list[str]:
    """Task names with the group spelled out, each once."""
    names = [name for word in asked for name in word.replace(",", " ").split()]
    return list(dict.fromkeys(one for name in names for one in (PAPER10 if name == GROUP else [name])))


def load_tasks(
    asked: Sequence[str],
    *,
    protocol: Protocol = "paper",
    data: Path | None = None,
    run_code: bool = False,
    descriptions: DescriptionFile | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> list[EvaluationTask]:
    """The tasks, their data read.

    Args:
        asked: names of tasks, comma-separated or not; `GROUP` for the paper's ten, ``all`` for every task in ``data``.
        protocol: how the paper's benchmarks are scored. Any other task of the harness has its own way.
        data: folder of local copies; without it the hub is asked.
        run_code: whether programs that the model wrote may run (HumanEval, MBPP).
        descriptions: by task, before those that ship.
        note: told of tasks of a group, or of ``all``, that are omitted because they run generated code.

    Raises:
        T2LError: an unknown task or protocol, data that is missing (with the command that fetches it), a task that
            runs generated code without leave, or lm-evaluation-harness is not installed.
    """
    try:
        import lm_eval.tasks  # noqa: F401
    except ImportError as problem:
        raise T2LError(_HARNESS[0].format(problem), _HARNESS[1]) from problem
    if protocol not in get_args(Protocol):
        raise T2LError(f"There is no protocol '{protocol}'.", did_you_mean(protocol, get_args(Protocol)))
    if data is not None and not data.is_dir():
        raise T2LError(f"There is no folder '{data}' to read data from.")
    local = _folders(data)
    words = names_of(asked)
    names = list(dict.fromkeys(one for name in words for one in (local if name == "all" else [name])))
    spelled = {name for word in asked for name in word.replace(",", " ").split()}
    if not run_code and (left := [name for name in names if name in CODE and name not in spelled]):
        names = [name for name in names if name not in left] or names
        if not set(left) & set(names):
            note(f"Omitted, as scoring runs what the model wrote: {', '.join(left)}. Add --run-generated-code.")
    if not names:
        raise T2LError("No task was named.", f"--tasks {GROUP}, or --tasks all with --data FOLDER")
    paper = configs() if protocol == "paper" else {name: code_config(name) for name in CODE}
    manager: Any = None
    found = []
    for name in names:
        if data is not None and (data / name / TASK_FILE).is_file():
            found.append(_own_task(data / name, descriptions))
            continue
        if name not in PAPER10:
            manager = manager or _every()
            if name not in manager.all_tasks:
                raise T2LError(
                    f"No task is called '{name}'.", did_you_mean(name, [*PAPER10, GROUP, *local, *manager.all_tasks])
                )
        if name in CODE and not run_code:
            raise T2LError(
                f"'{name}' is scored by running programs that the model wrote, on this machine.",
                "If you want that, add --run-generated-code; each runs in a process of its own for 10 seconds at most.",
            )
        config = {**paper[name], "task": name} if name in paper else _registered(manager or _few(), name)
        own = paper_wording(name) or Wording(name, ())
        found.append(_loaded(name, config, data, _described(own, descriptions)))
    return found


def fetch_command(name: str, config: Mapping[str, Any], data: Path | None) -> str:
    """The command that brings a benchmark's data where `load_tasks` looks for it."""
    folder = shlex.quote(str((data or Path("benchmarks-data")) / name))
    inside = f" --include '{config['dataset_name']}/*'" if config.get("dataset_name") else ""
    return f"hf download {config['dataset_path']} --repo-type dataset{inside} --local-dir {folder}"


@cache
def _every() -> Any:
    """The harness's index of all its tasks, read once: that takes seconds."""
    import lm_eval.tasks

    return lm_eval.tasks.TaskManager()


@cache
def _few() -> Any:
    """The harness's index of the paper's benchmarks alone: that of all its tasks takes seconds to read."""
    import lm_eval.tasks

    place = Path(str(lm_eval.tasks.__file__)).parent
    folders = [place / _FOLDERS.get(name, name) for name in PAPER10 if name not in CODE]
    return lm_eval.tasks.TaskManager(include_path=list(dict.fromkeys(folders)), include_defaults=False)


def _registered(manager: Any, name: str) -> dict[str, Any]:
    """The harness's own config of a task, as it would load it."""
    entry = manager.task_index[name]
    config = dict(manager._factory._load_full_config(entry, None))
    for key in ("tag", "group", "task_list"):
        config.pop(key, None)
    return config


def _loaded(
    name: str, config: dict[str, Any], data: Path | None, wording: Wording, own: bool = False
) -> EvaluationTask:
    from lm_eval.api.task import ConfigurableTask

    hub = fetch_command(name, config, data)
    fix = _OWN_FIX if own else f"Fetch it: {hub}"
    if data is not None:
        config = config | _local_data(name, config, data, fix, own)
    try:
        with redirect_stderr(io.StringIO()), _quiet(logging.getLogger(ConfigurableTask.__module__)):
            harness = ConfigurableTask(config=config)
    except T2LError:
        raise
    except KeyError as problem:
        raise T2LError(
            f"The data of '{name}' lacks {problem}; it must be in the benchmark's own schema.", fix
        ) from problem
    except Exception as problem:  # the hub, the disk, the data and the harness each raise their own kinds
        fix = f"Fetch it: {hub} and add --data" if data is None else fix
        raise T2LError(f"The data of '{name}' cannot be read: {_reason(problem)}", fix) from problem
    return EvaluationTask(name, harness, _metric(harness), wording, runs_code=name in CODE)


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """No advice of the harness's own, which speaks of options that t2l does not have."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reason(problem: BaseException) -> str:
    """What went wrong, and behind it what that came from: libraries wrap the fault in "an error occurred"."""
    told = []
    seen: BaseException | None = problem
    while seen is not None and len(told) < 3:
        told.append((str(seen).strip().splitlines() or [type(seen).__name__])[0][:300])
        seen = seen.__cause__
    return ": ".join(dict.fromkeys(told))


def _metric(harness: Any) -> tuple[str, str]:
    """Accuracy where there is one, and the most lenient filter, which the harness lists last."""
    metrics = list(harness._metric_fn_list)
    filters = [one.name for one in harness._filters]
    return ("acc" if "acc" in metrics else metrics[0]), filters[-1]


def _local_data(name: str, config: Mapping[str, Any], data: Path, fix: str, own: bool) -> dict[str, Any]:
    """The part of a config that says where the data lies."""
    wanted = [config.get(key) for key in ("test_split", "validation_split", "training_split", "fewshot_split")]
    asked = str(config.get("test_split") or config.get("validation_split"))
    files = {split: _files(name, config, data, split) for split in dict.fromkeys(filter(None, wanted))}
    if not files[asked] and own:  # a task of one's own is scored on what there is
        files[asked] = _files(name, config, data, "validation")
    if not files[asked] and ending_of(flat := _flat(name, data)):
        files[asked] = [flat]
    files = {split: places for split, places in files.items() if places}
    if asked not in files:
        raise T2LError(
            f"There is no data for '{name}': no {data / name}/{asked}.jsonl (or .json, .parquet; .gz too).", fix
        )
    changes: dict[str, Any] = {
        "dataset_path": name,
        "dataset_name": None,
        "dataset_kwargs": None,
        "custom_dataset": lambda **_: {split: _dataset(name, places, own) for split, places in files.items()},
    }
    for key in ("training_split", "validation_split", "fewshot_split"):
        if config.get(key) and config[key] not in files:
            changes[key] = None
    return changes


def _files(name: str, config: Mapping[str, Any], data: Path, split: str) -> list[Path]:
    """The files of a split: below the task's folder, else beside it as ``TASK_SPLIT.jsonl``."""
    places = files_of_split(sorted((data / name).rglob("*")), split)
    if config.get("dataset_name") and any(config["dataset_name"] in path.parts for path in places):
        places = [path for path in places if config["dataset_name"] in path.parts]
    flat = [path for path in sorted(data.iterdir()) if path.is_file()]
    return places or next((found for sign in "_-." if (found := files_of_split(flat, split, f"{name}{sign}"))), [])


def _flat(name: str, data: Path) -> Path:
    """``DATA/TASK.jsonl``, or another form of it; where there is none, the folder, which is no file."""
    return next((data / f"{name}{ending}" for ending in ENDINGS if (data / f"{name}{ending}").is_file()), data)


def _dataset(name: str, files: Sequence[Path], own: bool) -> Any:
    """The rows of a split. A column that some rows lack is None there; splits need not have the same columns.

    Raises:
        DataError: a file cannot be read, its rows are no objects, or values of a column are of several kinds.
    """
    from datasets import Dataset

    rows = []
    for file in files:
        for number, row in enumerate(read_rows(file), start=1):
            if not isinstance(row, dict):
                raise DataError(f"Row {number} of '{file}' is {type(row).__name__}, not an object.")
            if own:
                texts = {key: as_text(row.get(key)) for key in ("input", "output")}
                if lacking := next((key for key, text in texts.items() if text is None), None):
                    raise DataError(f"Row {number} of '{file}' has no text '{lacking}'; it has {', '.join(row)}.")
                row = {**row, **texts}
            rows.append(row)
    columns = {key: [row.get(key) for row in rows] for key in dict.fromkeys(key for row in rows for key in row)}
    if not rows:
        raise DataError(f"'{files[0]}' holds no row.")
    try:
        return Dataset.from_dict(columns)
    except Exception as problem:  # Arrow's own kinds
        mixed = next((key for key, values in columns.items() if len({type(value) for value in values} - _NONE) > 1), "")
        raise DataError(
            f"'{files[0]}' holds values of several kinds{f' in {mixed!r}' if mixed else ''}: {problem}"
        ) from (problem)


def _folders(data: Path | None) -> list[str]:
    """The tasks of a folder: its folders, and the benchmarks that lie flat in it."""
    if data is None:
        return []
    names = [path.name for path in data.iterdir() if path.is_dir() and not path.name.startswith(".")]
    files = [path for path in data.iterdir() if path.is_file()]
    splits = [name for names in SPLITS.values() for name in names]
    flat = [
        name
        for name in PAPER10
        if ending_of(_flat(name, data))
        or any(files_of_split(files, split, f"{name}{sign}") for split in splits for sign in "_-.")
    ]
    return sorted({*names, *flat})


def _described(own: Wording, descriptions: DescriptionFile | None) -> Wording:
    """A task's own wording, with the texts of a file in place of its own where that has any."""
    given = None if descriptions is None else descriptions.of(own.task)
    return own if given is None else replace(own, matched=given.descriptions, paraphrase=given.evaluation)


def _own_task(folder: Path, descriptions: DescriptionFile | None) -> EvaluationTask:
    """A task that is a folder: exact match of the answer's first line with ``output``."""
    about = read_json(folder / TASK_FILE, T2LError)
    name = folder.name
    config = {
        "task": name,
        "dataset_path": "json",
        "output_type": "generate_until",
        "test_split": "test",
        "fewshot_split": "train",
        "doc_to_text": lambda doc: f"{doc['input']}{about.get('separator', '')}",
        "doc_to_target": lambda doc: doc["output"],
        "process_results": lambda doc, results: {"acc": float(results[0].strip() == doc["output"].strip())},
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "generation_kwargs": {
            "until": list(about.get("until", ["\n"])),
            "max_gen_toks": int(about.get("max_new_tokens", 64)),
            "do_sample": False,
        },
        "target_delimiter": "",
        "fewshot_delimiter": str(about.get("until", ["\n"])[0]),
        "metadata": {"version": 1.0},
    }
    tags = frozenset(map(str, (*about.get("tags", ()), *filter(None, [about.get("family")]))))
    own = Wording(name, tuple(about.get("descriptions", ())), tuple(about.get("paraphrases", ())), tags=tags)
    loaded = _loaded(name, config, folder.parent, _described(own, descriptions), own=True)
    return replace(loaded, family=about.get("family"))
