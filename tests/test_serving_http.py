"""The HTTP server, live on loopback: the official client works, and what is wrong is refused in OpenAI's words."""

from __future__ import annotations

import asyncio
import io
import json
import re
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from typer.testing import CliRunner

from live_server import live, refused, user
from t2l import cli
from t2l.adapter import Adapter
from t2l.commands import serve as command
from t2l.errors import OutputError, T2LError
from t2l.serving.access import AccessGate, RateLimit
from t2l.serving.engine import Engine, Limits
from t2l.serving.errors import RequestError
from t2l.serving.http import HttpOptions
from t2l.serving.sampling import Sampling
from t2l.serving.scheduler import Scheduler

NAMES = [f"task {number}" for number in range(12)]
LIMITS = Limits(slots=4, context=120, max_tokens=60, max_waiting=20, timeout_s=60)


@pytest.fixture
def client(server: tuple[str, Engine]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server[0]}/v1", api_key="any", max_retries=0, timeout=60) as made:
        yield made


# --- the official client ------------------------------------------------------------------------------------------


def test_chat_with_the_base_an_adapter_and_a_description(client: openai.OpenAI, server: Any) -> None:
    engine = server[1]
    (made,) = engine.make([NAMES[0]]).result(30)

    def ask(model: str, **options: Any) -> Any:
        return client.chat.completions.create(model=model, messages=user("red"), temperature=0, max_tokens=8, **options)

    base, adapted = ask("tiny"), ask(made.kept.id)
    described = ask("tiny", extra_body={"task_description": NAMES[0]})
    wanted = engine.chat("red", Sampling(max_tokens=8))
    assert base.choices[0].message.content == wanted.text and base.choices[0].finish_reason == wanted.finish_reason
    assert base.usage.completion_tokens == wanted.completion_tokens and base.usage.prompt_tokens == wanted.prompt_tokens
    assert base.choices[0].message.content == engine.base.answer(["red"], max_new_tokens=8)[0]
    assert adapted.choices[0].message.content == engine.chat("red", Sampling(max_tokens=8), adapter=made.adapter).text
    assert adapted.choices[0].message.content != base.choices[0].message.content
    assert described.choices[0].message.content == adapted.choices[0].message.content
    assert described.model == made.kept.id and described.t2l["cached"] and described.t2l["description"] == NAMES[0]


def test_streams_hold_the_same_text_and_end_with_usage(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": user("a b c"), "temperature": 1, "seed": 5, "max_tokens": 20}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content and len(chunks) > 4
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    other = client.chat.completions.create(**{**asked, "seed": 6})
    assert other.choices[0].message.content != text


def test_completions_take_text_and_tokens_one_and_many(client: openai.OpenAI, server: Any) -> None:
    engine = server[1]
    tokens = engine.base.tokenizer("red")["input_ids"]
    options: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_tokens": 6}
    one = client.completions.create(prompt="red", **options)
    same = client.completions.create(prompt=tokens, **options)
    many = client.completions.create(prompt=["red", "blue", "7"], **options)
    assert one.choices[0].text == same.choices[0].text == many.choices[0].text
    assert [choice.index for choice in many.choices] == [0, 1, 2]
    assert many.usage is not None and many.usage.completion_tokens <= 18
    streamed = ["", "", ""]
    for chunk in client.completions.create(prompt=["red", "blue", "7"], stream=True, **options):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == [choice.text for choice in many.choices]
    stop = one.choices[0].text[1:3]
    ended = client.completions.create(prompt="red", stop=[stop], **options)
    assert ended.choices[0].text == one.choices[0].text.split(stop)[0] and ended.choices[0].finish_reason == "stop"


def test_models_list_the_base_and_the_adapters(client: openai.OpenAI, raw: httpx.Client) -> None:
    made = raw.post("/v1/adapters", json={"description": NAMES[1]}).json()["data"][0]
    listed = {model.id for model in client.models.list()}
    assert {"tiny", made["id"]} <= listed
    assert client.models.retrieve(made["id"]).id == made["id"] and client.models.retrieve("tiny").owned_by == "base"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-17")


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    def ask(**changes: Any) -> Any:
        return client.chat.completions.create(**{"model": "tiny", "messages": user("x"), **changes})

    with pytest.raises(openai.NotFoundError, match="GET /v1/models") as unknown:
        ask(model="gpt-17")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="POST /v1/adapters"):
        ask(model="t2l-" + "0" * 24)
    with pytest.raises(openai.BadRequestError, match="room for 120") as long:
        ask(messages=user("word " * 100))
    assert long.value.code == "context_length_exceeded"
    for changes, field in (
        ({"n": 2}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 61}, "max_tokens"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"extra_body": {"temperatur": 0}}, "temperatur"),
        ({"messages": []}, "messages"),
        ({"messages": user(None)}, "messages.0.content"),  # type: ignore[arg-type]
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(**changes)
        assert str(caught.value.param).startswith(field), changes
    with pytest.raises(openai.BadRequestError) as blank:
        ask(extra_body={"task_description": " "})
    assert blank.value.code == "invalid_description"
    assert ask(n=1, presence_penalty=0, user="me", max_tokens=2).choices


# --- adapters -----------------------------------------------------------------------------------------------------


def test_adapters_are_made_listed_downloaded_and_deleted(raw: httpx.Client, server: Any, tmp_path: Path) -> None:
    response = raw.post("/v1/adapters", json={"descriptions": [NAMES[2], NAMES[3], NAMES[2]]})
    assert response.status_code == 201
    first, second, again = response.json()["data"]
    assert first["id"] == again["id"] != second["id"] and first["milliseconds"] > 0 and first["warnings"] == []
    assert not first["cached"] and raw.post("/v1/adapters", json={"description": NAMES[2]}).json()["data"][0]["cached"]
    assert raw.get(f"/v1/adapters/{first['id']}").json()["description"] == NAMES[2]
    listed = raw.get("/v1/adapters?limit=1000").json()
    assert {first["id"], second["id"]} <= {one["id"] for one in listed["data"]} and listed["total"] >= 2
    assert len(raw.get("/v1/adapters", params={"limit": 1, "offset": 1}).json()["data"]) == 1
    download = raw.get(f"/v1/adapters/{first['id']}/download")
    assert (
        download.headers["content-type"] == "application/zip" and first["id"] in download.headers["content-disposition"]
    )
    zipfile.ZipFile(io.BytesIO(download.content)).extractall(tmp_path)
    adapter = Adapter.load(tmp_path / first["id"])
    assert first["id"] == f"t2l-{adapter.digest[:24]}"
    assert raw.delete(f"/v1/adapters/{first['id']}").json()["deleted"]
    for response in (
        raw.delete(f"/v1/adapters/{first['id']}"),
        raw.get(f"/v1/adapters/{first['id']}"),
        raw.get(f"/v1/adapters/{first['id']}/download"),
        raw.get("/v1/adapters/..%2F..%2Fetc%2Fpasswd"),
        raw.get("/v1/adapters/..%2F..%2Fetc%2Fpasswd/download"),
    ):
        assert refused(response, 404)


def test_an_adapter_deleted_while_in_use_finishes_its_answer(raw: httpx.Client, server: Any) -> None:
    engine = server[1]
    (made,) = engine.make([NAMES[4]]).result(30)
    wanted = engine.chat("red", Sampling(max_tokens=40), adapter=made.adapter).text
    body = {"model": made.kept.id, "messages": user("red"), "temperature": 0, "max_tokens": 40, "stream": True}
    text = ""
    with raw.stream("POST", "/v1/chat/completions", json=body) as response:
        for number, line in enumerate(response.iter_lines()):
            if number == 0:
                engine.adapters.remove(made.kept.id)
            if line.startswith("data: {"):
                text += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
    assert text == wanted


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({}, "description"),
        ({"description": "x", "descriptions": ["y"]}, "either"),
        ({"descriptions": []}, "no description"),
        ({"description": "\x00"}, "control character"),
        ({"description": "no such task"}, "no such task"),
        ({"descriptions": ["task 1"] * 65}, "64"),
        ({"description": 7}, "description"),
        ({"name": "x"}, "name"),
    ],
)
def test_descriptions_that_are_refused(raw: httpx.Client, body: Any, part: str) -> None:
    assert part in refused(raw.post("/v1/adapters", json=body), 400)["message"]


# --- robustness ---------------------------------------------------------------------------------------------------


def test_malformed_requests_get_an_answer_and_harm_nobody(raw: httpx.Client) -> None:
    chat = "/v1/chat/completions"
    for body in (b"", b"{", b"[]", b"null", b'{"messages": 1}', b"\xff\xfe", b'{"messages": [{"role": "user"}]}'):
        refused(raw.post(chat, content=body, headers={"content-type": "application/json"}), 400)
    refused(raw.post(chat, content=b"[" * 50_000, headers={"content-type": "application/json"}), 400)
    surrogate = b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}'
    refused(raw.post(chat, content=surrogate, headers={"content-type": "application/json"}), 400)
    refused(raw.post("/v1/completions", json={"prompt": [99999]}), 400)
    refused(raw.post("/v1/completions", json={"prompt": ["x"] * 33}), 400)
    refused(raw.post(chat, content=b"x" * ((1 << 20) + 1)), 413)
    refused(raw.post(chat, content=iter([b"x" * 65536] * 17)), 413)  # chunked, its length not announced
    refused(raw.get("/v1/nothing"), 404)
    refused(raw.put(chat), 405)
    assert raw.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"max_completion_tokens": 0}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0, "max_tokens": 5}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_tokens"),
        ({"max_completion_tokens": True}, "max_completion_tokens"),
        ({"n": True}, "n"),
        ({"n": False}, "n"),
        ({"top_logprobs": False}, "top_logprobs"),
        ({"presence_penalty": False}, "presence_penalty"),
        ({"logprobs": 0}, "logprobs"),
    ],
)
def test_zero_is_not_nothing_and_true_is_not_one(raw: httpx.Client, changes: dict[str, Any], field: str) -> None:
    body = {"messages": user("red"), **changes}
    assert refused(raw.post("/v1/chat/completions", json=body), 400)["param"] == field


def test_the_newer_name_of_the_longest_answer_counts_first(raw: httpx.Client) -> None:
    body = {"messages": user("red"), "temperature": 0, "max_completion_tokens": 2, "max_tokens": 50, "n": 1}
    assert raw.post("/v1/chat/completions", json=body).json()["usage"]["completion_tokens"] <= 2


@pytest.mark.parametrize("data", [b"{", b"", b'{"a": 1,}', b"\xff\xfe", b'{"prompt": "x"', b"[" * 50_000])
def test_what_is_not_json_is_called_so(raw: httpx.Client, data: bytes) -> None:
    error = refused(raw.post("/v1/completions", content=data, headers={"content-type": "application/json"}), 400)
    assert "JSON" in error["message"] or "body" in error["message"]
    assert not re.match(r"\d", error["message"]) and error["param"] is None


def test_a_long_text_is_tokenised_while_others_are_served(
    raw: httpx.Client, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever takes long before an answer begins does so in a thread: the loop goes on serving streams."""
    begun, done = threading.Event(), threading.Event()

    def slow(*_: Any, **__: Any) -> Any:
        begun.set()
        assert done.wait(30)
        raise RequestError("slow", field="messages")

    from t2l.serving import http as module

    for name, path, body in (
        ("chat_tokens", "/v1/chat/completions", {"messages": user("red")}),
        ("text_tokens", "/v1/completions", {"prompt": "red"}),
    ):
        begun.clear(), done.clear()
        monkeypatch.setattr(module, name, slow)
        asking = threading.Thread(target=lambda path=path, body=body: httpx.post(f"{raw.base_url}{path}", json=body))
        asking.start()
        assert begun.wait(30)
        assert raw.get("/healthz", timeout=20).status_code == 200
        done.set()
        asking.join(30)


def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenised(
    raw: httpx.Client, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = server[1]
    most = engine.most_characters
    assert most >= engine.context

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("tokenised")

    monkeypatch.setattr(type(engine.base.tokenizer), "__call__", never)
    long = "x" * (most + 1)
    for path, body in (
        ("/v1/chat/completions", {"messages": user(long)}),
        ("/v1/completions", {"prompt": long}),
        ("/v1/completions", {"prompt": ["a", long][1:]}),
        ("/v1/completions", {"prompt": [5] * 100_000}),
    ):
        assert refused(raw.post(path, json=body), 400)["code"] == "context_length_exceeded"
    engine.base.has_chat_template  # noqa: B018
    halves = [{"role": "user", "content": "x" * (most // 2 + 1)}] * 2
    assert refused(raw.post("/v1/chat/completions", json={"messages": halves}), 400)["code"]


@pytest.mark.parametrize(
    "body", [{"prompt": [True] * 200_000}, {"prompt": [[True]] * 100_000}, {"prompt": [{}] * 100_000}]
)
def test_a_million_wrong_elements_are_one_error(raw: httpx.Client, body: Any) -> None:
    from pydantic import ValidationError

    from t2l.serving.openai_schema import CompletionRequest

    with pytest.raises(ValidationError) as told:
        CompletionRequest.model_validate(body)
    assert len(told.value.errors()) <= 5
    assert len(refused(raw.post("/v1/completions", json=body), 400)["message"]) < 500


def test_the_descriptions_of_one_request_are_bounded_together(raw: httpx.Client) -> None:
    body = {"descriptions": ["x" * 7800] * 64}
    assert "32768" in refused(raw.post("/v1/adapters", json=body), 400)["message"]
    assert "32768" in refused(raw.post("/v1/adapters/combine", json={"parts": ["x" * 7800] * 5}), 400)["message"]


def test_who_asks_for_what_is_kept_does_not_wait_behind_what_is_made(
    raw: httpx.Client, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = server[1]
    (kept,) = engine.make([NAMES[10]]).result(30)
    free, begun = threading.Event(), threading.Event()
    generate = engine.t2l.generate

    def slow(descriptions: Any) -> Any:
        begun.set()
        assert free.wait(30)
        return generate(descriptions)

    monkeypatch.setattr(engine.t2l, "generate", slow)
    waiting = engine.make([NAMES[11]])
    assert begun.wait(30)
    made = raw.post("/v1/adapters", json={"descriptions": [NAMES[10], NAMES[10]]}, timeout=20).json()["data"]
    assert [one["id"] for one in made] == [kept.kept.id] * 2 and made[0]["cached"]
    assert not waiting.done()
    free.set()
    assert waiting.result(30)


def test_a_body_counts_as_json_only_where_it_says_so(raw: httpx.Client) -> None:
    """A page of another origin can post text without asking first, but no JSON; FastAPI keeps to that since 0.132."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):
        for path, body in (("/v1/completions", {"prompt": "x"}), ("/v1/adapters", {"description": NAMES[0]})):
            data, headers = json.dumps(body).encode(), {"content-type": kind} if kind else {}
            refused(raw.post(path, content=data, headers=headers), 400)


def test_a_page_of_another_origin_is_refused_and_so_is_another_name(raw: httpx.Client) -> None:
    body = {"prompt": "x", "max_tokens": 1}
    for headers in ({"origin": "http://evil.example"}, {"host": "evil.example"}, {"sec-fetch-site": "cross-site"}):
        assert refused(raw.post("/v1/completions", json=body, headers=headers), 403)["code"] == "foreign_origin"
    assert refused(raw.get("/v1/models", headers={"host": "evil.example"}), 403)
    same = {"origin": str(raw.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
    assert raw.post("/v1/completions", json=body, headers=same).status_code == 200
    assert raw.get("/healthz", headers={"host": "evil.example"}).status_code == 200


def test_a_client_that_leaves_frees_its_slot(raw: httpx.Client, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = server[1]
    before = engine.stats()["cancelled"]
    step = Scheduler.step
    monkeypatch.setattr(Scheduler, "step", lambda self: (time.sleep(0.05), step(self)))
    body = {"prompt": "red", "temperature": 1, "seed": 1, "max_tokens": 60, "stream": True}
    with raw.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_lines())
    with pytest.raises(httpx.ReadTimeout):
        raw.post("/v1/completions", json={**body, "stream": False}, timeout=0.3)
    for _ in range(400):
        if engine.stats()["active"] == 0 and engine.stats()["waiting"] == 0:
            break
        time.sleep(0.02)
    assert engine.stats()["active"] == 0 and engine.stats()["cancelled"] == before + 2


def test_metrics_and_documentation(raw: httpx.Client) -> None:
    base = raw.get("/v1/models").json()["data"][0]["id"]
    raw.post("/v1/completions", json={"model": base, "prompt": "a", "max_tokens": 2})
    raw.get("/any/thing")
    text = raw.get("/metrics").text
    assert re.search(r'^t2l_http_requests_total\{route="/v1/models",status="200"\} [1-9]', text, re.MULTILINE)
    assert 'route="other",status="404"' in text and "/any/thing" not in text
    assert re.search(r"^t2l_completion_tokens_total [1-9]", text, re.MULTILINE)
    assert re.search(r"^t2l_slots 4\.0$", text, re.MULTILINE)
    paths = raw.get("/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/adapters", "/healthz"} <= set(paths)


def test_keys_rates_and_a_full_house(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(*world, Limits(slots=1, context=120, max_waiting=0, timeout_s=30))
    options = HttpOptions(api_keys=["secret", "other"], requests_per_minute=4, drain_s=0)
    with live(engine, options) as address, httpx.Client(base_url=address, timeout=60) as raw:
        assert raw.get("/healthz").status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            assert refused(raw.get("/v1/models", headers=headers), 401)["code"] == "invalid_api_key"
        mine, theirs = ({"Authorization": f"Bearer {key}"} for key in ("secret", "other"))
        gate = threading.Event()
        step = Scheduler.step
        monkeypatch.setattr(Scheduler, "step", lambda self: (gate.wait(30), step(self)))
        stream = engine.submit([5], Sampling(max_tokens=2))
        busy = raw.post("/v1/completions", json={"prompt": "x"}, headers=mine)
        assert refused(busy, 429)["code"] == "busy" and int(busy.headers["retry-after"]) >= 1
        gate.set()
        assert stream.result(30).completion_tokens
        for _ in range(3):
            assert raw.get("/v1/models", headers=mine).status_code == 200
        limited = raw.get("/v1/models", headers=mine)
        assert refused(limited, 429)["code"] == "rate_limit_exceeded" and int(limited.headers["retry-after"]) >= 1
        assert raw.get("/v1/models", headers=theirs).status_code == 200
        monkeypatch.setattr(Scheduler, "step", lambda self: (time.sleep(0.05), step(self)))
        engine.limits.__dict__["timeout_s"] = 0.01  # the frozen limit, from now on
        late = raw.post("/v1/completions", json={"prompt": "x", "max_tokens": 50}, headers=theirs)
        assert refused(late, 504)["type"] == "timeout_error"
    assert not engine.running


def test_rates_recover_and_callers_are_forgotten() -> None:
    now = [0.0]
    limit = RateLimit(60, clock=lambda: now[0])
    assert [limit.wait_s("a") for _ in range(60)] == [0.0] * 60
    assert limit.wait_s("a") == pytest.approx(1.0) and limit.wait_s("b") == 0
    now[0] = 1.0
    assert limit.wait_s("a") == 0 and limit.wait_s("a") > 0
    now[0] = 1000.0  # however long the pause, no more at once than a minute's requests
    assert [limit.wait_s("a") for _ in range(60)] == [0.0] * 60 and limit.wait_s("a") == pytest.approx(1.0)
    for number in range(10_001):
        limit.wait_s(str(number))
    assert len(limit._buckets) == 10_000


def test_a_body_that_does_not_arrive_is_given_up() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(30)

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(*_: Any) -> None:
        raise AssertionError("never reached")

    gate = AccessGate(app, max_body=10, body_timeout_s=0.01)
    scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": [], "client": ("1.2.3.4", 5)}
    asyncio.run(gate(scope, receive, send))
    assert sent[0]["status"] == 408


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_serves_what_it_is_told(world: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    served: list[Any] = []
    made: list[Any] = []

    def engine(checkpoint: Any, base: Any, **options: Any) -> Engine:
        made.append((checkpoint, base, options))
        return Engine(*world, options["limits"], store=options["store"])

    monkeypatch.setattr(Engine, "from_pretrained", engine)
    monkeypatch.setattr(
        uvicorn.Server, "run", lambda self, sockets: served.append((self.config, sockets[0].getsockname()))
    )
    (tmp_path / "keys").write_text("# ours\nsecret\n")

    def serve(*words: str, key: str | None = None) -> str:
        result = CliRunner(env={"COLUMNS": "300", "T2L_API_KEY": key}).invoke(cli.app, ["serve", "--port", "0", *words])
        assert result.exit_code == 0, result.output
        served[-1][0].app.state.engine.close()
        return result.stderr

    said = serve("--slots", "2", "--context", "100", "--timeout", "9", "--adapter-memory", "5")
    limits = made[0][2]["limits"]
    assert (limits.slots, limits.context, limits.timeout_s, limits.adapter_memory) == (2, 100, 9.0, 5 << 20)
    assert served[0][1][0] == "127.0.0.1" and "http://127.0.0.1:" in said and "Note" not in said
    assert "asks for no key" in serve("--host", "0.0.0.0")
    assert "asks for no key" not in serve("--host", "0.0.0.0", "--api-key-file", str(tmp_path / "keys"))
    assert "asks for no key" not in serve("--host", "0.0.0.0", key="secret")


def test_what_the_command_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("T2L_API_KEY", raising=False)
    (tmp_path / "empty").write_text("\n# nothing\n")
    with pytest.raises(T2LError, match="no API key"):
        command.api_keys(tmp_path / "empty")
    with pytest.raises(T2LError, match="cannot be read"):
        command.api_keys(tmp_path / "missing")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OutputError, match="--port"):
            command.listen("127.0.0.1", taken.getsockname()[1])
