"""Connections: heads that never end, too many of them, clients that go half, and a server that stops under load."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from live_server import live
from t2l.serving.connections import Bounds, Sparse
from t2l.serving.engine import Engine, Limits
from t2l.serving.http import HttpOptions
from t2l.serving.sampling import Sampling
from t2l.serving.scheduler import Scheduler

NAMES = ["task"]
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture
def engine(world: Any) -> Engine:
    return Engine(*world, Limits(slots=4, context=120, max_tokens=60, max_waiting=100, timeout_s=60))


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connect(address: str, stack: ExitStack, data: bytes = b"") -> socket.socket:
    host, _, port = address.removeprefix("http://").partition(":")
    client = stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
    client.sendall(data)
    return client


def asked(body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    return HEAD + f"Content-Length: {len(data)}\r\n\r\n".encode() + data


def everything(client: socket.socket) -> bytes:
    received = b""
    try:
        while data := client.recv(1 << 16):
            received += data
    except ConnectionResetError:
        received += b"RESET"
    return received


def test_a_head_has_its_time_and_trickling_does_not_prolong_it(engine: Engine, held: ExitStack) -> None:
    with live(engine, bounds=Bounds(head_s=0.3)) as address:
        silent, begun = connect(address, held), connect(address, held, HEAD[:20])
        trickling = connect(address, held)
        begin = time.monotonic()
        try:
            for byte in HEAD * 10:
                trickling.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            pass
        assert time.monotonic() - begin < 5
        for client in (silent, begun):
            assert everything(client).startswith(b"HTTP/1.1 408")
        later = connect(address, held, asked({"prompt": "x", "max_tokens": 2}))
        assert later.recv(100).startswith(b"HTTP/1.1 200")
        later.sendall(HEAD[:30])  # the second head on a connection that was fine
        assert b"HTTP/1.1 408" in everything(later)


def test_an_idle_connection_between_requests_is_kept(engine: Engine) -> None:
    with live(engine, bounds=Bounds(head_s=0.2)) as address, httpx.Client(base_url=address) as client:
        assert client.get("/healthz").status_code == 200
        time.sleep(0.5)
        assert client.get("/healthz").status_code == 200


def test_heads_held_open_do_not_silence_the_server(engine: Engine, held: ExitStack) -> None:
    bounds = Bounds(connections=20, share=0.5, head_s=30)
    with live(engine, bounds=bounds) as address:
        clients = [connect(address, held, HEAD[:30]) for _ in range(30)]
        refused = [everything(client) for client in clients[10:]]
        assert len(refused) == 20 and all(
            answer.startswith(b"HTTP/1.1 503") or answer == b"RESET" for answer in refused
        )
        for client in clients[:10]:
            client.close()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{address}/healthz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        else:
            raise AssertionError("it never served again")


def test_another_address_is_served_while_one_holds_all_it_may(engine: Engine, held: ExitStack) -> None:
    with live(engine, bounds=Bounds(connections=20, share=0.5, head_s=30)) as address:
        for _ in range(15):
            connect(address, held, HEAD[:30])
        port = int(address.rpartition(":")[2])
        other = held.enter_context(
            socket.create_connection(("127.0.0.1", port), timeout=10, source_address=("127.0.0.2", 0))
        )
        other.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert other.recv(100).startswith(b"HTTP/1.1 200")


def test_the_cap_leaves_descriptors_for_files() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        assert Bounds().most == 136 and Bounds().most_of_one == 68
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_closes_its_own_direction_gets_its_answer(
    engine: Engine, held: ExitStack, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Scheduler.step
    monkeypatch.setattr(Scheduler, "step", lambda self: (time.sleep(0.02), step(self)))
    wanted = engine.submit(engine.base.tokenizer("red")["input_ids"], Sampling(max_tokens=30)).result(30).text
    with live(engine) as address:
        body = {"prompt": "red", "temperature": 0, "max_tokens": 30, "stream": stream}
        client = connect(address, held, asked(body))
        client.shutdown(socket.SHUT_WR)
        answer = everything(client)
    assert b" 200 OK" in answer and b"RESET" not in answer
    if stream:
        assert answer.count(b"data: {") > 5 and b"data: [DONE]" in answer
    else:
        assert json.dumps(wanted).encode() in answer.replace(b'":"', b'": "')


def test_a_client_that_leaves_altogether_is_noticed_and_leaves_no_traceback(
    engine: Engine, held: ExitStack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step = Scheduler.step
    monkeypatch.setattr(Scheduler, "step", lambda self: (time.sleep(0.05), step(self)))
    with live(engine) as address:
        for stream in (False, True):
            before = engine.stats()["cancelled"]
            body = {"prompt": "red", "temperature": 1, "seed": 1, "max_tokens": 60, "stream": stream}
            client = connect(address, held, asked(body))
            while engine.stats()["active"] == 0:
                time.sleep(0.01)
            client.close()
            deadline = time.monotonic() + 10
            while engine.stats()["cancelled"] == before and time.monotonic() < deadline:
                time.sleep(0.01)
            assert engine.stats()["cancelled"] == before + 1
    assert not [record for record in caplog.records if record.exc_info]


def test_a_server_that_stops_answers_all_whom_it_has_accepted(
    engine: Engine, held: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Scheduler.step
    monkeypatch.setattr(Scheduler, "step", lambda self: (time.sleep(0.005), step(self)))
    body = {"prompt": "red", "temperature": 0, "max_tokens": 10, "stream": True}
    answers: list[bytes] = []
    with live(engine, HttpOptions(drain_s=20), graceful_s=30) as address:
        clients = [connect(address, held) for _ in range(40)]
        for client in clients[:20]:
            client.sendall(asked(body))
        readers = [threading.Thread(target=lambda c=client: answers.append(everything(c))) for client in clients]
        for client in clients[20:]:
            client.sendall(asked(body))
        for reader in readers:
            reader.start()
    for reader in readers:
        reader.join(30)
    whole = [answer for answer in answers if b"data: [DONE]" in answer or b"HTTP/1.1 503" in answer]
    assert len(answers) == len(whole) == 40


def test_a_log_line_that_a_stranger_can_cause_does_not_fill_the_disk() -> None:
    now = [0.0]
    sparse = Sparse(clock=lambda: now[0])
    record = logging.LogRecord("uvicorn.error", logging.WARNING, "f", 1, "Invalid HTTP request received.", None, None)
    assert [sparse.filter(record) for _ in range(1000)].count(True) == 1
    now[0] = 11.0
    assert sparse.filter(record)
