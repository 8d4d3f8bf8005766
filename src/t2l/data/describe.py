"""Writes descriptions of tasks with a model: what it will cost, every answer kept, and a run that can be stopped.

Level 3. Answers are written to ``FILE.journal`` as they come, so that nothing that was paid for is lost; the file of
descriptions is made from all of them, the same however often the run was stopped. This file does not know what a good
description is (`t2l.data.wording`) nor how a model is reached (`t2l.data.endpoint`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from math import ceil
from pathlib import Path
from typing import Any

from t2l.data.endpoint import Author, Reply, useless_to_go_on
from t2l.data.sources import Task
from t2l.data.wording import STYLES, DescriptionFilter, from_templates, parse, question
from t2l.errors import DataError, OutputError, T2LError, did_you_mean
from t2l.storage import write_bytes

_CHARS_PER_TOKEN = 4  # of English, for the estimate
_TOKENS_PER_DESCRIPTION = 45
_FAILURES_IN_A_ROW = 8  # before a run gives up
JOURNAL_SUFFIX = ".journal"


@dataclass(frozen=True)
class DescribeConfig:
    """How tasks are described.

    Args:
        count: descriptions a task.
        per_request: asked for at once.
        styles: taken in turn, a request each.
        seed: of the examples that are shown.
    """

    count: int = 20
    per_request: int = 10
    styles: tuple[str, ...] = tuple(STYLES)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.per_request < 1:
            raise DataError(f"{self.count} descriptions, {self.per_request} at a time: both must be at least 1.")
        for style in self.styles:
            if style not in STYLES:
                raise DataError(f"There is no style '{style}'.", did_you_mean(style, STYLES))
        if not self.styles:
            raise DataError("No style is named.", did_you_mean("", STYLES))

    @property
    def planned(self) -> int:
        """Requests a task needs where every description is kept."""
        return ceil(self.count / self.per_request)

    @property
    def most(self) -> int:
        """Requests a task gets at most, to replace descriptions that were left out."""
        return self.planned + ceil(self.planned / 2)


@dataclass(frozen=True)
class Cost:
    """Requests that remain, and their tokens; estimates before a run, counts after it."""

    requests: int
    prompt_tokens: int
    completion_tokens: int

    def money(self, price_in: float | None, price_out: float | None) -> float | None:
        """At prices of a million tokens; None where they are not known."""
        if price_in is None or price_out is None:
            return None
        return (self.prompt_tokens * price_in + self.completion_tokens * price_out) / 1e6


@dataclass
class Described:
    """What came of a run: descriptions by task, why others were left out, what failed, and what it took."""

    texts: dict[str, tuple[str, ...]]
    left_out: dict[str, int]
    failed: dict[str, str]
    cost: Cost
    stopped: str | None = None


@dataclass
class _State:
    """The answers of one task, by request."""

    replies: dict[int, Reply] = field(default_factory=dict)


class Describer:
    """Describes tasks with an author, into one file.

    Args:
        output: JSON Lines, as `t2l.data.descriptions` reads them.
        author: who is asked.
        config: how.

    Raises:
        DataError: the journal of an earlier run is of other settings, or cannot be read.
    """

    def __init__(self, output: str | Path, author: Author, config: DescribeConfig) -> None:
        self.output = Path(output).expanduser()
        self.journal = self.output.with_name(self.output.name + JOURNAL_SUFFIX)
        self._author, self._config = author, config
        self._header = json.loads(json.dumps({"model": author.name, **asdict(config)}))
        self._header.pop("count")  # more of them may be asked for later
        self._states: dict[str, _State] = {}
        self._load()

    def estimate(self, tasks: Sequence[Task]) -> Cost:
        """What remains to be asked if every description is kept; a half more at most."""
        requests = prompts = 0
        for task in tasks:
            done = self._state(task.name).replies
            missing = [number for number in range(self._config.planned) if number not in done]
            if missing:
                text, _ = self._question(task, missing[0])
                prompts += len(missing) * ceil(len(text) / _CHARS_PER_TOKEN)
                requests += len(missing)
        return Cost(requests, prompts, requests * self._config.per_request * _TOKENS_PER_DESCRIPTION)

    def run(
        self,
        tasks: Sequence[Task],
        *,
        parallel: int = 4,
        report: Callable[[int, int, str], None] = lambda done, total, name: None,
    ) -> Described:
        """Asks for what is missing and writes the file, also when it is stopped in between.

        Raises:
            EndpointError: nothing can be asked at all; what was answered before is kept.
            OutputError: the journal or the file cannot be written.
        """
        failed: dict[str, str] = {}
        asked = Cost(0, 0, 0)
        stopped: T2LError | None = None
        try:
            for _ in range(self._config.most + 1):
                pending = [job for task in tasks if task.name not in failed for job in self._missing(task)]
                if not pending:
                    break
                asked, stopped = self._ask(pending, failed, asked, parallel, report)
                if stopped is not None:
                    break
        finally:
            described = self._write(tasks, failed, asked)
        if stopped is not None:
            if useless_to_go_on(stopped):
                raise stopped
            described.stopped = stopped.message
        return described

    def _missing(self, task: Task) -> list[tuple[Task, int]]:
        """The requests that a task still needs: those planned, then one at a time while descriptions are too few."""
        done = self._state(task.name).replies
        planned = [number for number in range(self._config.planned) if number not in done]
        if planned:
            return [(task, number) for number in planned]
        following = len(done)
        if following < self._config.most and len(self._kept(task)[0]) < self._config.count:
            return [(task, following)]
        return []

    def _ask(
        self,
        pending: Sequence[tuple[Task, int]],
        failed: dict[str, str],
        asked: Cost,
        parallel: int,
        report: Callable[[int, int, str], None],
    ) -> tuple[Cost, T2LError | None]:
        """Asks all of them, several at once; returns what it took, and the error that ended it early."""
        row, waiting = 0, list(reversed(pending))
        running: dict[Future[Reply], tuple[Task, int]] = {}
        with ThreadPoolExecutor(max(1, parallel)) as pool:
            while waiting or running:
                while waiting and len(running) < max(1, parallel):
                    task, number = waiting.pop()
                    text, _ = self._question(task, number)
                    running[pool.submit(self._author.ask, text, self._seed(task, number))] = (task, number)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task, number = running.pop(future)
                    try:
                        reply = future.result()
                    except T2LError as problem:
                        failed[task.name] = problem.message
                        row += 1
                        if useless_to_go_on(problem) or row >= _FAILURES_IN_A_ROW:
                            return asked, problem  # leaving the pool waits for those under way
                        continue
                    row = 0
                    self._keep(task.name, number, reply)
                    asked = Cost(
                        asked.requests + 1,
                        asked.prompt_tokens + reply.prompt_tokens,
                        asked.completion_tokens + reply.completion_tokens,
                    )
                    report(len(pending) - len(waiting) - len(running), len(pending), task.name)
        return asked, None

    def _kept(self, task: Task) -> tuple[list[str], dict[str, int]]:
        """The descriptions of a task that pass, in the order of the requests; and why others do not."""
        filtering, kept, left_out = DescriptionFilter(task), [], {}
        for number, reply in sorted(self._state(task.name).replies.items()):
            _, shown = self._question(task, number)
            texts = parse(reply.text)
            if not texts:
                left_out["an answer without descriptions"] = left_out.get("an answer without descriptions", 0) + 1
            for text in texts:
                reason = filtering.refuse(text, shown)
                if reason is None:
                    kept.append(text)
                else:
                    left_out[reason] = left_out.get(reason, 0) + 1
        return kept[: self._config.count], left_out

    def _write(self, tasks: Sequence[Task], failed: Mapping[str, str], asked: Cost) -> Described:
        texts, left_out = {}, {}
        lines = []
        for task in tasks:
            kept, reasons = self._kept(task)
            for reason, number in reasons.items():
                left_out[reason] = left_out.get(reason, 0) + number
            if kept:
                texts[task.name] = tuple(kept)
                lines.append({"name": task.name, "descriptions": kept, "written_by": self._author.name})
        if lines:
            data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            write_bytes(self.output, data.encode("utf-8", "replace"))
        return Described(texts, left_out, dict(failed), asked)

    def _question(self, task: Task, number: int) -> tuple[str, Any]:
        style = self._config.styles[number % len(self._config.styles)]
        return question(task, style, self._config.per_request, self._seed(task, number))

    def _seed(self, task: Task, number: int) -> int:
        text = f"{self._config.seed}/{task.name}/{number}"
        return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "little") >> 1

    def _state(self, name: str) -> _State:
        return self._states.setdefault(name, _State())

    def _keep(self, name: str, number: int, reply: Reply) -> None:
        """An answer into the journal, on the disk before it counts."""
        line = json.dumps({"task": name, "request": number, **asdict(reply)}, ensure_ascii=False)
        try:
            if not self.journal.exists():
                write_bytes(self.journal, (json.dumps(self._header) + "\n").encode())
            with self.journal.open("ab") as stream:
                stream.write((line + "\n").encode("utf-8", "replace"))
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as problem:
            raise OutputError(
                f"Cannot write '{self.journal}': {problem.strerror or problem}.", "Free some space and run it again."
            ) from problem
        self._state(name).replies[number] = reply

    def _load(self) -> None:
        """The answers of earlier runs; a line that was cut off in the middle is taken away."""
        if not self.journal.is_file():
            return
        data = self.journal.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.split(b"\n") if line]
            header, records = lines[0], lines[1:]
            for record in records:
                reply = Reply(record["text"], record["prompt_tokens"], record["completion_tokens"])
                self._state(record["task"]).replies[record["request"]] = reply
        except (ValueError, KeyError, IndexError, TypeError) as problem:
            raise DataError(f"The journal '{self.journal}' cannot be read: {problem}.", "Move it away.") from problem
        different = [key for key in self._header if header.get(key) != self._header[key]]
        if different:
            shown = "; ".join(f"{key}: {header.get(key)!r}, now {self._header[key]!r}" for key in different)
            raise DataError(
                f"'{self.journal}' was begun with other settings: {shown}.",
                "Run it with the same, name another file, or move the journal away.",
            )
        if len(whole) != len(data):
            write_bytes(self.journal, whole)


def describe_by_templates(tasks: Sequence[Task], output: str | Path, config: DescribeConfig) -> Described:
    """Descriptions from the definitions alone, where no model is at hand."""
    texts, failed = {}, {}
    for task in tasks:
        filtering = DescriptionFilter(task)
        candidates = from_templates(task, 8 * config.count, config.seed)
        kept = [text for text in candidates if filtering.refuse(text) is None][: config.count]
        if kept:
            texts[task.name] = tuple(kept)
        else:
            failed[task.name] = "it has no definition to make descriptions of"
    if not texts:
        raise DataError(
            "None of the tasks has a definition to make descriptions of.", "Use a model: --endpoint or --local."
        )
    lines = [{"name": name, "descriptions": list(kept), "written_by": "templates"} for name, kept in texts.items()]
    write_bytes(
        Path(output).expanduser(),
        "".join(json.dumps(x, ensure_ascii=False) + "\n" for x in lines).encode("utf-8", "replace"),
    )
    return Described(texts, {}, failed, Cost(0, 0, 0))
