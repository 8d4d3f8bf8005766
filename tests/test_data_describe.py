"""Descriptions from a model: a stub server that speaks the protocol and fails as servers do, leaks, repeats, stops."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from helpers import MICRO_BASE
from t2l.cli import app
from t2l.data.describe import (
    ChatEndpoint,
    DescribeConfig,
    Describer,
    EndpointError,
    LocalAuthor,
    RequestCost,
    WrittenReply,
)
from t2l.data.descriptions import read_description_files
from t2l.data.sources import Instance, Task
from t2l.data.wording import STYLES, DescriptionFilter, parse, question
from t2l.errors import DataError, T2LError
from test_data_prepare import folder, native

WORDS = [
    *("rewrite", "shorten", "judge", "sort", "count", "translate"),
    *("explain", "repair", "label", "merge", "weigh", "draw"),
]


def distinct(number: int, start: int = 0) -> list[str]:
    """Descriptions that share few letters in a row."""
    texts = []
    for i in range(start, start + number):
        a, b, c = WORDS[i % 12], WORDS[(5 * i + 1 + i // 12) % 12], WORDS[(7 * i + 2 + i // 7) % 12]
        texts.append(f"{a} {i * 7919 % 997} {b} {i * 104729 % 9973} {c} {i * 31 % 89}")
    return texts


class Stub:
    """A server of chat completions whose failures are written down beforehand.

    Args:
        script: what happens to the first requests: a status, "broken", "drop", "empty"; then it answers.
    """

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[int, dict[str, Any]], str] = lambda n, body: json.dumps(distinct(4, 4 * n))
        stub, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    stub.headers.append({name.lower(): value for name, value in self.headers.items()})
                    step = stub.script.pop(0) if stub.script else "ok"
                    if self.path != "/v1/chat/completions":
                        step = 404
                    number = len(stub.requests)
                    if step == "ok":
                        stub.requests.append(body)
                if step == "drop":
                    self.connection.close()
                    return
                status, headers = (
                    (step if isinstance(step, tuple) else (step, {}))
                    if step not in ("ok", "broken", "empty")
                    else (200, {})
                )
                if step == "ok":
                    reply: Any = completion(body["model"], stub.answer(number, body))
                elif step == "empty":
                    reply = completion(body["model"], " ")
                elif step == "broken":
                    reply = None
                else:
                    reply = {"error": {"message": f"told {status}", "type": "x", "code": None}}
                data = b'{"choices": [{"mess' if reply is None else json.dumps(reply).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def completion(model: str, text: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": None}
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }


@pytest.fixture
def stub() -> Iterator[Stub]:
    pytest.importorskip("openai")
    server = Stub()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited, in words only."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


def client(stub: Stub, **words: Any) -> ChatEndpoint:
    return ChatEndpoint(stub.url, "writer", **words)


def task(name: str = "task001_x", answers: int = 3) -> Task:
    instances = tuple(
        Instance(f"the quick brown fox number {i} jumps over the lazy dog", (f"result{i % answers:03} here",))
        for i in range(60)
    )
    return Task(name, "Do what has to be done with the text.", instances)


def test_a_question_and_its_key_are_sent(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.answer = lambda n, body: "hello"
    monkeypatch.setenv("MY_KEY", "secret")
    assert client(stub, key_variable="MY_KEY").ask("what?", 7) == WrittenReply("hello", 100, 20)
    request = stub.requests[0]
    assert request["messages"] == [{"role": "user", "content": "what?"}] and request["seed"] == 7
    assert request["model"] == "writer" and stub.headers[0]["authorization"] == "Bearer secret"


def test_what_may_pass_is_tried_again(stub: Stub, waits: list[float]) -> None:
    stub.script = [(429, {"Retry-After": "3"}), 503, "drop"]
    assert client(stub).ask("x", 0).completion_tokens == 20
    assert len(waits) == 3 and waits[0] == 3.0 and 0 < waits[1] < waits[2]
    stub.script = ["broken", "empty"]
    assert client(stub).ask("x", 0).completion_tokens == 20
    for script, reason in ((["broken"] * 3, "a broken reply"), (["empty"] * 3, "an empty answer"), ([500] * 3, "500")):
        stub.script = list(script)
        with pytest.raises(DataError, match=f"no usable answer in 3 attempts: .*{reason}"):
            client(stub, attempts=3).ask("x", 0)


def test_what_will_not_pass_is_said_at_once(stub: Stub, waits: list[float]) -> None:
    for status, message in (
        (401, r"refuses \(status 401\): told 401(.|\n)*OPENAI_API_KEY"),
        (404, "Is the model 'writer' there"),
    ):
        stub.script = [status]
        with pytest.raises(EndpointError, match=message):
            client(stub).ask("x", 0)
    stub.script = [400]  # a server that knows no seed
    assert client(stub).ask("x", 0) and "seed" not in stub.requests[-1]
    assert not waits
    with pytest.raises(EndpointError, match="is not a URL"):
        ChatEndpoint("localhost:8000", "m")
    with pytest.raises(DataError, match="no usable answer in 2 attempts: .*refused"):
        ChatEndpoint("http://127.0.0.1:9", "m", attempts=2).ask("x", 0)


def test_tasks_are_described_in_several_styles(stub: Stub, tmp_path: Path) -> None:
    config = DescribeConfig(count=8, per_request=4)
    tasks = [task("task001_a"), task("task002_b")]
    describer = Describer(tmp_path / "d.jsonl", client(stub), config)
    estimate = describer.estimate(tasks)
    assert estimate.requests == 4 and estimate.prompt_tokens > 4 * 100 and estimate.completion_tokens == 4 * 4 * 45
    done = describer.run(tasks, parallel=2)
    assert done.cost == RequestCost(4, 400, 80) and not done.failed
    assert done.cost.money(1.0, 10.0) == pytest.approx(0.0012) and done.cost.money(None, 1.0) is None
    found = read_description_files([tmp_path / "d.jsonl"])
    assert [len(given.descriptions) for given in found.sets] == [8, 8]
    asked = [request["messages"][0]["content"] for request in stub.requests]
    assert all("Do what has to be done" in text and "quick brown fox" in text for text in asked)
    assert {style for text in asked for style in STYLES if STYLES[style] in text} == set(list(STYLES)[:2])
    assert Describer(tmp_path / "d.jsonl", client(stub), config).estimate(tasks) == RequestCost(0, 0, 0)


def test_a_run_that_is_stopped_pays_for_nothing_twice(stub: Stub, tmp_path: Path) -> None:
    config, tasks = DescribeConfig(count=8, per_request=4), [task(f"task{i:03}_x") for i in range(4)]
    by_text: dict[str, str] = {}

    def answer(number: int, body: dict[str, Any]) -> str:
        asked = body["messages"][0]["content"]
        return by_text.setdefault(asked, json.dumps(distinct(4, 4 * int(body["seed"] % 97))))

    stub.answer = answer
    whole = Describer(tmp_path / "whole.jsonl", client(stub), config)
    whole.run(tasks, parallel=1)
    number = len(stub.requests)
    stub.script = ["ok", "ok", "ok", 401]
    with pytest.raises(EndpointError, match="401"):
        Describer(tmp_path / "d.jsonl", client(stub), config).run(tasks, parallel=1)
    journal = tmp_path / "d.jsonl.journal"
    assert journal.read_bytes().count(b"\n") == 1 + 3
    with journal.open("ab") as stream:
        stream.write(b'{"task": "task0')  # killed in the middle of a line
    again = Describer(tmp_path / "d.jsonl", client(stub), config)
    again.run(tasks, parallel=3)
    assert len(stub.requests) - number == number
    assert (tmp_path / "d.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    with pytest.raises(DataError, match="per_request: 4, now 5"):
        Describer(tmp_path / "d.jsonl", client(stub), DescribeConfig(per_request=5))
    journal.write_text("x\n")
    with pytest.raises(DataError, match="cannot be read"):
        Describer(tmp_path / "d.jsonl", client(stub), config)


def test_one_question_that_fails_does_not_end_the_run_and_many_do(stub: Stub, tmp_path: Path) -> None:
    config, tasks = DescribeConfig(count=4, per_request=4), [task(f"task{i:03}_x") for i in range(12)]
    stub.script = ["ok", 500, 500]
    done = Describer(tmp_path / "a.jsonl", client(stub, attempts=2), config).run(tasks, parallel=1)
    assert set(done.failed) == {"task001_x"} and len(done.texts) == 11 and done.stopped is None
    stub.script = ["ok", *[500] * 100]
    done = Describer(tmp_path / "b.jsonl", client(stub, attempts=2), config).run(tasks, parallel=1)
    assert "no usable answer" in str(done.stopped) and len(stub.script) == 100 - 16 and len(done.texts) == 1


def test_what_is_left_out_is_replaced(stub: Stub, tmp_path: Path) -> None:
    good = distinct(40)

    def answer(number: int, body: dict[str, Any]) -> str:
        if number == 0:
            return json.dumps([good[0], good[0] + ".", "No.", "Sorry, I cannot do that at all today."])
        return "Here you are:\n" + "\n".join(f"{i}. {text}" for i, text in enumerate(good[4 * number : 4 * number + 4]))

    stub.answer = answer
    config = DescribeConfig(count=8, per_request=4)
    done = Describer(tmp_path / "d.jsonl", client(stub), config).run([task()], parallel=1)
    assert len(done.texts["task001_x"]) == 5 + 3 and len(stub.requests) == 3 == config.most
    assert done.left_out == {"nearly the same as another": 1, "too short or too long": 1, "a refusal": 1}


def test_leaks() -> None:
    closed, open_ended = task(answers=3), task(answers=50)
    shown = closed.instances[:1]
    quoting = "Take a text such as quick brown fox number 0 jumps and do it."
    labels = "Answer with result000 here or with one of the others."
    for given, text, reason in (
        (closed, quoting, "leaks an example"),
        (closed, labels, None),
        (open_ended, labels, "leaks an example"),
        (open_ended, "Do what has to be done with the text, and do it well.", None),
        (closed, "Look at the examples above and do the same with it.", "speaks of examples"),
        (closed, "word " * 150, "too short or too long"),
    ):
        assert DescriptionFilter(given).refuse(text, shown) == reason, text
    filtering = DescriptionFilter(closed)
    assert filtering.refuse("Count how many vowels stand in the word that you are given.") is None
    repeated = filtering.refuse("Count how many vowels stand in the word you are given!")
    assert repeated == "nearly the same as another"
    assert filtering.refuse("Tell me the number of a, e, i, o and u in some piece of text.") is None


def test_answers_are_parsed_in_the_forms_that_models_use() -> None:
    assert parse('```json\n["One  two.", "Three."]\n```') == ["One two.", "Three."]
    assert parse('<think>["no"]</think>["yes"]') == ["yes"]
    assert parse('Sure!\n1. First one\n2) "Second"\n- Third\nBye') == ["First one", "Second", "Third"]
    assert parse("[1, 2]") == [] and parse("nothing here") == [] and parse('["cut off", "in the mid') == []


def test_questions_are_the_same_each_time_and_show_different_examples() -> None:
    given = task()
    assert question(given, "terse", 5, 1) == question(given, "terse", 5, 1)
    assert question(given, "terse", 5, 1)[1] != question(given, "terse", 5, 2)[1]
    text, shown = question(Task("t", "", given.instances), "goal", 3, 0)
    assert "as its authors define it" not in text and len(shown) == 5 and "3 descriptions" in text


def test_configs_that_make_no_sense() -> None:
    with pytest.raises(DataError, match="no style 'ters'(.|\n)*'terse'"):
        DescribeConfig(styles=("ters",))
    with pytest.raises(DataError, match="at least 1"):
        DescribeConfig(count=0)


def test_a_local_model_is_asked_in_the_same_words(tmp_path: Path) -> None:

    short = Task("t", "Sum.", (Instance("1 2", ("3",)),))
    author = LocalAuthor(MICRO_BASE, max_tokens=8)
    reply = author.ask("add 1 and 2", 0)
    assert isinstance(reply.text, str) and reply.prompt_tokens > 5
    # the embedded base reads 512 characters: the question is longer, which is said and not a traceback
    done = Describer(tmp_path / "d.jsonl", author, DescribeConfig(count=2)).run([short])
    assert "room for 512" in done.failed["t"] and not (tmp_path / "d.jsonl").exists()


def test_the_command(stub: Stub, tmp_path: Path) -> None:
    source = folder(tmp_path / "in", ("task001_a", native("a")), ("task002_b", native("b")), ("task003_bad", "{"))
    out = tmp_path / "d.jsonl"
    words = ["data", "describe", str(source), "-o", str(out), "--endpoint", stub.url, "--model", "m", "-n", "4"]
    words += ["--per-request", "4", "--price-in", "2", "--price-out", "8"]
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 2 and "2 tasks, 2 requests" in run.output and "--yes" in run.output and not stub.requests
    run = CliRunner().invoke(app, [*words, "--yes", "--json"])
    assert run.exit_code == 0, run.output
    report = json.loads(run.stdout)
    assert report["tasks"] == {"task001_a": 4, "task002_b": 4} and report["money"] == pytest.approx(0.00072)
    assert any("task003_bad" in note for note in report["notes"])
    run = CliRunner().invoke(app, [*words, "--yes", "-d", str(out)])
    assert run.exit_code == 2 and "no task to describe" in run.output
    for bad, message in ((words[:4] + words[4:5], "Who writes"), ([*words[:7]], "Add --model")):
        run = CliRunner().invoke(app, [*bad])
        assert run.exit_code == 2 and message in run.output, run.output
    assert issubclass(EndpointError, T2LError)
