"""Where tasks come from: Super-Natural-Instructions in its native JSON, and JSON Lines of (task, prompt, response).

Level 3. A source lists its tasks without reading them whole; a task is read when its turn comes, and one that cannot be
used is an error of its own, so that the others go on. `t2l.data.hub` adds the hub's data sets. This file knows no
tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO

from t2l.errors import DataError, did_you_mean

ProgressReport = Callable[[int, int, str], None]
"""Is told of progress: how much is done, of how much, and what is at hand."""
_JSONL = (".jsonl", ".ndjson")
_TASK_FILE = re.compile(r"(?:task\d+|everyday)_.*\.json$")


@dataclass(frozen=True)
class Instance:
    """One example of a task: its input and every output that counts as right; the first is the one to learn."""

    input: str
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A task as its source gives it.

    Args:
        name: unique; the stem of a native file.
        definition: the instruction for people; may be empty.
        instances: in the source's order.
        examples: positive examples of the definition, where the source has some.
        languages: of input, output and instruction; empty where the source does not say.
        licences, datasets, categories: as the source names them.
        dropped: reason -> instances that cannot be used.
        revision: commit of a data set of the hub, where it is known.
    """

    name: str
    definition: str
    instances: tuple[Instance, ...]
    examples: tuple[Instance, ...] = ()
    languages: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)
    revision: str = ""


@dataclass(frozen=True)
class TaskSource:
    """A task that can be read.

    Args:
        name: of the task.
        place: for people: a file, a line of a file, a data set of the hub.
        size: bytes, or another measure of the work, for the time left.
        digest: of what `read` gives; called only to find out whether a source has changed.
        read: the task.

    Raises (from ``read`` and ``digest``):
        DataError: it cannot be used; the message says why.
    """

    name: str
    place: str
    size: int
    digest: Callable[[], str]
    read: Callable[[], Task]


def no_progress(done: int, total: int, name: str) -> None:
    """Reports nothing."""


def open_source(place: str | Path) -> list[TaskSource]:
    """The tasks of a folder of native JSON, a clone of the repository, one native file, or a JSON Lines file.

    Raises:
        DataError: there is nothing there, or nothing that looks like tasks.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, near)
        raise DataError(f"There is no '{path}'.", hint if hint.startswith("Did you mean") else None)
    if path.suffix.lower() in _JSONL:
        return _json_lines(path)
    if path.suffix.lower() == ".json":
        return [_native_source(path)]
    raise DataError(
        f"'{path}' is neither a folder nor a .json or .jsonl file.",
        "Give a folder of Super-Natural-Instructions tasks, or JSON Lines of task, prompt and response.",
    )


def unique(sources: Iterable[TaskSource]) -> list[TaskSource]:
    """The tasks of several sources in the order of their names.

    Raises:
        DataError: two of them have the same name.
    """
    seen: dict[str, TaskSource] = {}
    for source in sources:
        if source.name in seen:
            raise DataError(
                f"'{source.name}' comes twice: from '{seen[source.name].place}' and from '{source.place}'.",
                "Omit one of the sources.",
            )
        seen[source.name] = source
    return [seen[name] for name in sorted(seen)]


# --- native JSON --------------------------------------------------------------------------------------------------


def _folder(path: Path) -> list[TaskSource]:
    tasks = path / "tasks" if (path / "tasks").is_dir() else path
    files = sorted(file for file in tasks.glob("*.json") if not file.name.startswith("."))
    named = [file for file in files if _TASK_FILE.match(file.name)]
    lines = sorted(file for file in tasks.iterdir() if file.suffix.lower() in _JSONL and not file.name.startswith("."))
    if named or files:
        return [_native_source(file) for file in named or files]
    if lines:
        return [source for file in lines for source in _json_lines(file)]
    raise DataError(
        f"'{path}' holds no task: no .json file of Super-Natural-Instructions and no .jsonl file.",
        "Give the folder whose files are named like task022_cosmosqa_passage_inappropriate_binary.json.",
    )


def _native_source(file: Path) -> TaskSource:
    return TaskSource(
        name=file.stem,
        place=str(file),
        size=max(1, file.stat().st_size),
        digest=lambda: sha256(_bytes(file)).hexdigest(),
        read=lambda: read_native(file),
    )


def read_native(file: Path) -> Task:
    """A task in the native JSON of Super-Natural-Instructions, or in the older form of Natural Instructions.

    The older form has texts where the newer has lists, its examples under ``Examples``, and no languages (it is
    English).

    Raises:
        DataError: it is not JSON, is empty, has no instances, or none with an input and an output.
    """
    data = _bytes(file)
    if not data.strip():
        raise DataError(f"'{file}' is empty.", "Copy or download it again.")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise DataError(f"'{file}' is not JSON: {problem}.", "Copy or download it again.") from problem
    if not isinstance(value, dict):
        raise DataError(f"'{file}' holds {type(value).__name__}, not the JSON object of a task.")
    if "Instances" not in value:
        raise DataError(f"'{file}' has no 'Instances'.", did_you_mean("Instances", value) or None)
    if not isinstance(value["Instances"], list):
        raise DataError(f"'{file}': 'Instances' is {type(value['Instances']).__name__}, not a list.")
    dropped: dict[str, int] = {}
    instances = []
    for record in value["Instances"]:
        instance = _instance(record)
        if isinstance(instance, str):
            dropped[instance] = dropped.get(instance, 0) + 1
        else:
            instances.append(instance)
    if not instances:
        raise DataError(
            f"'{file}' has no instance with an input and an output.",
            "; ".join(f"{number} {reason}" for reason, number in dropped.items()) or None,
        )
    old = value.get("Examples") if isinstance(value.get("Examples"), dict) else {}
    positive = value.get("Positive Examples", old.get("Positive Examples") if old else None)
    examples = [_instance(record) for record in positive] if isinstance(positive, list) else []
    languages = [
        text for key in ("Input_language", "Output_language", "Instruction_language") for text in _texts(value.get(key))
    ]
    return Task(
        name=file.stem,
        definition="\n".join(
            _texts(value.get("Definition")) or _texts(value.get("Prompt")) or _texts(value.get("Title"))
        ),
        instances=tuple(instances),
        examples=tuple(example for example in examples if isinstance(example, Instance)),
        languages=tuple(dict.fromkeys(languages)),
        licences=tuple(_texts(value.get("Instance License"))),
        datasets=tuple(_texts(value.get("Source"))),
        categories=tuple(_texts(value.get("Categories"))),
        dropped=dropped,
    )


def as_text(value: Any) -> str | None:
    """A text as it is, and a number or truth value as JSON writes it (``3``, ``0.5``, ``true``); None for all else.

    NaN, which a table's writer leaves where a cell is empty, is no value.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int)) or (isinstance(value, float) and isfinite(value)):
        return json.dumps(value)
    return None


def instance_of(asked: Any, said: Any) -> Instance | str:
    """An instance of an input and of one output or several, or the reason why there is none."""
    question = as_text(asked)
    if question is None:
        return "without an input"
    outputs = [text for text in map(as_text, said if isinstance(said, list) else [said]) if text is not None]
    if not outputs or (isinstance(said, list) and len(outputs) < len(said)):
        return "without an output"
    return Instance(question, tuple(outputs))


def _instance(record: Any) -> Instance | str:
    return instance_of(record.get("input"), record.get("output")) if isinstance(record, dict) else "not an object"


def _texts(value: Any) -> list[str]:
    """What is one text in the older form and a list of texts in the newer."""
    values = value if isinstance(value, list) else [value]
    return [text.strip() for text in values if isinstance(text, str) and text.strip()]


# --- JSON Lines ---------------------------------------------------------------------------------------------------


@dataclass
class _Found:
    """What one pass over a JSON Lines file finds of a task."""

    offsets: list[int] = field(default_factory=list)
    size: int = 0
    digest: Any = field(default_factory=sha256)


def _json_lines(file: Path) -> list[TaskSource]:
    """The tasks of a JSON Lines file: one pass finds the lines of each, and its bytes stay on the disk.

    A line is an object with ``task``, ``prompt`` and ``response``; ``definition`` and ``licence`` are read where they
    stand. Lines that are not are counted against the task ``(no task)`` and reported.
    """
    found: dict[str, _Found] = {}
    broken: list[str] = []
    with _opened(file) as stream:
        offset = 0
        for number, line in enumerate(stream, start=1):
            begin, offset = offset, offset + len(line)
            if not line.strip():
                continue
            record = _line(line)
            if isinstance(record, str):
                broken.append(f"line {number} of '{file}' {record}")
                if not found:
                    raise DataError(
                        f"Line {number} of '{file}' {record}.",
                        'Each line is an object such as {"task": "sum", "prompt": "1 + 2", "response": "3"}.',
                    )
                continue
            task = found.setdefault(record["task"].strip(), _Found())
            task.offsets.append(begin)
            task.size += len(line)
            task.digest.update(line)
    if not found:
        raise DataError(f"'{file}' is empty.", "Each line is an object with task, prompt and response.")
    sources = [_lines_source(file, name, task) for name, task in found.items()]
    if broken:
        sources.append(_broken_lines(file, broken))
    return sources


def _lines_source(file: Path, name: str, found: _Found) -> TaskSource:
    digest = found.digest.hexdigest()
    return TaskSource(
        name=name,
        place=f"{file} ({len(found.offsets)} lines)",
        size=max(1, found.size),
        digest=lambda: digest,
        read=lambda: _read_lines(file, name, found.offsets),
    )


def _broken_lines(file: Path, broken: Sequence[str]) -> TaskSource:
    """Lines that belong to no task, as a task that cannot be read: so they are named and counted like any other."""

    def read() -> Task:
        more = f", and {len(broken) - 1} more such lines" if len(broken) > 1 else ""
        raise DataError(f"{broken[0][:1].upper()}{broken[0][1:]}{more}.")

    return TaskSource(name=f"(lines of {file.name})", place=str(file), size=1, digest=lambda: "", read=read)


def _read_lines(file: Path, name: str, offsets: Sequence[int]) -> Task:
    instances, definition, licences = [], "", []
    with _opened(file) as stream:
        for offset in offsets:
            stream.seek(offset)
            record = _line(stream.readline())
            if isinstance(record, str):
                raise DataError(f"'{file}' was changed while it was read.", "Run the same command again.")
            instance = instance_of(record["prompt"], record["response"])
            assert isinstance(instance, Instance)  # _line has seen to it
            instances.append(instance)
            definition = definition or "\n".join(_texts(record.get("definition")))
            licences += _texts(record.get("licence", record.get("license")))
    return Task(name, definition, tuple(instances), licences=tuple(dict.fromkeys(licences)))


def _line(line: bytes) -> dict[str, Any] | str:
    """A line's object, or what is wrong with it."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as problem:
        return f"is not JSON: {problem}"
    if not isinstance(record, dict):
        return f"holds {type(record).__name__}, not a JSON object"
    if not isinstance(record.get("task"), str):
        return "has no text 'task'"
    instance = instance_of(record.get("prompt"), record.get("response"))
    if isinstance(instance, str):
        return "has no text 'prompt'" if instance == "without an input" else "has no text 'response'"
    return record if record["task"].strip() else "has an empty 'task'"


def _bytes(file: Path) -> bytes:
    with _opened(file) as stream:
        return stream.read()


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    try:
        with file.open("rb") as stream:
            yield stream
    except OSError as problem:
        raise DataError(f"'{file}' cannot be read: {problem.strerror or problem}.") from problem
