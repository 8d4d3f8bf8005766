"""Writes descriptions of tasks with a model: an estimate of the cost, every answer kept, and a run that can be resumed.

Level 3. Answers are written to ``FILE.journal`` as they come, so that nothing that was paid for is lost; the file of
descriptions is made from all of them, the same however often the run was stopped. A model is any server of OpenAI's
chat completions, or a base in this process; a key is read from the environment, sent, and written nowhere. This file
does not know what a good description is (`t2l.data.wording`).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from hashlib import blake2b
from math import ceil
from pathlib import Path
from typing import Any, Protocol

from t2l.data.sources import ProgressReport, Task, no_progress
from t2l.data.wording import STYLES, DescriptionFilter, parse, question
from t2l.errors import DataError, OutputError, T2LError, did_you_mean
from t2l.storage import write_bytes

_CHARS_PER_TOKEN = 4  # of English, for the estimate
_TOKENS_PER_DESCRIPTION = 45
_FAILURES_IN_A_ROW = 8  # before a run gives up
JOURNAL_SUFFIX = ".journal"


class EndpointError(DataError):
    """A server that will not answer however often it is asked: a wrong key, an unknown model, a wrong address."""


@dataclass(frozen=True)
class WrittenReply:
    """What a model wrote, and the tokens of the question and the answer (0 where nobody counted)."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class Author(Protocol):
    """Something that answers a question in plain words."""

    name: str

    def ask(self, question: str, seed: int) -> WrittenReply:
        """The answer.

        Raises:
            EndpointError: asking again is useless.
            T2LError: this question was not answered.
        """
        ...


class ChatEndpoint:
    """A server of OpenAI's chat completions, asked through the package `openai`, which retries temporary failures.

    Args:
        url: up to and with its version: ``http://localhost:8000/v1``.
        model: the model's name on that server.
        key_variable: the environment variable that holds the key.
        attempts: of each question: a busy server (``Retry-After`` is kept), a lost connection, a broken or empty reply.
        timeout: seconds for one answer.
        max_tokens: of one answer.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str = "OPENAI_API_KEY",
        attempts: int = 8,
        timeout: float = 120.0,
        max_tokens: int = 4096,
        temperature: float = 1.0,
    ) -> None:
        try:
            import openai
        except ImportError as problem:
            raise EndpointError(
                "Endpoints need the package openai.", "Install it: pip install 't2l[data]'"
            ) from problem
        if not url.startswith(("http://", "https://")):
            raise EndpointError(f"'{url}' is not a URL.", "Write one such as http://localhost:8000/v1.")
        self.name = model
        self._url = url.rstrip("/").removesuffix("/chat/completions")
        self._key_variable, self._attempts = key_variable, attempts
        key = os.environ.get(key_variable, "").strip() or "no-key"  # the package sends one in any case
        self._openai: Any = openai
        self._client = openai.OpenAI(base_url=self._url, api_key=key, max_retries=attempts - 1, timeout=timeout)
        self._settings = {"model": model, "max_tokens": max_tokens, "temperature": temperature}

    def ask(self, question: str, seed: int) -> WrittenReply:
        """The model's answer.

        Raises:
            EndpointError: the server refuses the key, the model or the address.
            DataError: no usable answer in all attempts.
        """
        settings: dict[str, Any] = {**self._settings, "seed": seed}
        reason = "an empty answer"
        for _ in range(self._attempts):
            try:
                answer = self._client.chat.completions.create(
                    messages=[{"role": "user", "content": question}], **settings
                )
                text, usage = answer.choices[0].message.content, answer.usage
            except self._openai.APIStatusError as problem:
                if problem.status_code == 400 and "seed" in settings:  # a server that does not know it
                    del settings["seed"]
                    continue
                if problem.status_code not in (408, 409, 425, 429) and problem.status_code < 500:
                    raise self._refusal(problem) from problem
                reason = f"status {problem.status_code}"
                break
            except self._openai.APIConnectionError as problem:
                reason = str(problem.__cause__ or problem).strip() or "no connection"
                break
            except (ValueError, IndexError, TypeError, AttributeError, self._openai.OpenAIError) as problem:
                reason = f"a broken reply ({type(problem).__name__}: {problem})"
                continue
            if isinstance(text, str) and text.strip():
                return WrittenReply(text, usage.prompt_tokens if usage else 0, usage.completion_tokens if usage else 0)
        raise DataError(f"'{self._url}' gave no usable answer in {self._attempts} attempts: {reason}.")

    def _refusal(self, problem: Any) -> EndpointError:
        fix = None
        if problem.status_code in (401, 403):
            fix = f"Put the key into the environment variable {self._key_variable}."
        elif problem.status_code == 404:
            fix = f"Is the model '{self.name}' there, and does the address end as the server's does (often /v1)?"
        told = problem.body.get("message") if isinstance(problem.body, dict) else None
        return EndpointError(
            f"'{self._url}' refuses (status {problem.status_code}): {str(told or problem.message)[:300]}", fix
        )


class LocalAuthor:
    """A base model in this process; it answers greedily, so that variety comes from the questions.

    Args:
        base: as for `t2l.bases.load_base`.
        device: where it computes.
    """

    def __init__(self, base: str, *, device: str = "cpu", max_tokens: int = 1024) -> None:
        from t2l.bases import load_base

        self.name = base
        self._base = load_base(base, device=device)
        self._max_tokens = max_tokens

    def ask(self, question: str, seed: int) -> WrittenReply:
        """The model's answer."""
        text = self._base.answer([question], max_new_tokens=self._max_tokens)[0]
        counted = self._base.tokenizer
        return WrittenReply(text, len(counted(question)["input_ids"]), len(counted(text)["input_ids"]))


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
        """Requests a task gets at most, to replace descriptions that were omitted."""
        return self.planned + ceil(self.planned / 2)


@dataclass(frozen=True)
class RequestCost:
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
    """What came of a run: descriptions by task, why others were omitted, what failed, and what it took."""

    texts: dict[str, tuple[str, ...]]
    left_out: dict[str, int]
    failed: dict[str, str]
    cost: RequestCost
    stopped: str | None = None


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
        self._replies: dict[str, dict[int, WrittenReply]] = {}  # of each task, by request
        self._load()

    def estimate(self, tasks: Sequence[Task]) -> RequestCost:
        """What remains to be asked if every description is kept; a half more at most."""
        requests = prompts = 0
        for task in tasks:
            done = self._replies.get(task.name, {})
            missing = [number for number in range(self._config.planned) if number not in done]
            if missing:
                text, _ = self._question(task, missing[0])
                prompts += len(missing) * ceil(len(text) / _CHARS_PER_TOKEN)
                requests += len(missing)
        return RequestCost(requests, prompts, requests * self._config.per_request * _TOKENS_PER_DESCRIPTION)

    def run(
        self,
        tasks: Sequence[Task],
        *,
        parallel: int = 4,
        report: ProgressReport = no_progress,
    ) -> Described:
        """Asks for what is missing and writes the file, also when it is stopped in between.

        Raises:
            EndpointError: nothing can be asked at all; what was answered before is kept.
            OutputError: the journal or the file cannot be written.
        """
        failed: dict[str, str] = {}
        asked = RequestCost(0, 0, 0)
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
            if isinstance(stopped, EndpointError):
                raise stopped
            described.stopped = stopped.message
        return described

    def _missing(self, task: Task) -> list[tuple[Task, int]]:
        """The requests that a task still needs: those planned, then one at a time while descriptions are too few."""
        done = self._replies.get(task.name, {})
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
        asked: RequestCost,
        parallel: int,
        report: ProgressReport,
    ) -> tuple[RequestCost, T2LError | None]:
        """Asks all of them, several at once; returns what it took, and the error that ended it early."""
        row, waiting = 0, list(reversed(pending))
        running: dict[Future[WrittenReply], tuple[Task, int]] = {}
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
                        if isinstance(problem, EndpointError) or row >= _FAILURES_IN_A_ROW:
                            return asked, problem  # leaving the pool waits for those under way
                        continue
                    row = 0
                    self._keep(task.name, number, reply)
                    asked = RequestCost(
                        asked.requests + 1,
                        asked.prompt_tokens + reply.prompt_tokens,
                        asked.completion_tokens + reply.completion_tokens,
                    )
                    report(len(pending) - len(waiting) - len(running), len(pending), task.name)
        return asked, None

    def _kept(self, task: Task) -> tuple[list[str], Counter[str]]:
        """The descriptions of a task that pass, in the order of the requests; and why others do not."""
        filtering, kept, left_out = DescriptionFilter(task), [], Counter[str]()
        for number, reply in sorted(self._replies.get(task.name, {}).items()):
            _, shown = self._question(task, number)
            texts = parse(reply.text)
            if not texts:
                left_out["an answer without descriptions"] += 1
            for text in texts:
                reason = filtering.refuse(text, shown)
                if reason is None:
                    kept.append(text)
                else:
                    left_out[reason] += 1
        return kept[: self._config.count], left_out

    def _write(self, tasks: Sequence[Task], failed: Mapping[str, str], asked: RequestCost) -> Described:
        texts, left_out = {}, Counter[str]()
        for task in tasks:
            kept, reasons = self._kept(task)
            left_out += reasons
            if kept:
                texts[task.name] = tuple(kept)
        if texts:
            lines = [{"name": name, "descriptions": list(kept)} for name, kept in texts.items()]
            data = "".join(json.dumps({**x, "written_by": self._author.name}, ensure_ascii=False) + "\n" for x in lines)
            write_bytes(self.output, data.encode("utf-8", "replace"))
        return Described(texts, dict(left_out), dict(failed), asked)

    def _question(self, task: Task, number: int) -> tuple[str, Any]:
        style = self._config.styles[number % len(self._config.styles)]
        return question(task, style, self._config.per_request, self._seed(task, number))

    def _seed(self, task: Task, number: int) -> int:
        text = f"{self._config.seed}/{task.name}/{number}"
        return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "little") >> 1

    def _keep(self, name: str, number: int, reply: WrittenReply) -> None:
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
        self._replies.setdefault(name, {})[number] = reply

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
                reply = WrittenReply(record["text"], record["prompt_tokens"], record["completion_tokens"])
                self._replies.setdefault(record["task"], {})[record["request"]] = reply
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
