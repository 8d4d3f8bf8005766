"""What goes wrong on a bad day: clients that die or do not read, a full disk, a process that is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers import tiny_pair, untrained
from live_server import live, refused, user
from t2l.encoders import CachedEncoder, EmbeddingCache, MiniLmEncoder
from t2l.serving.engine import Engine, Limits
from t2l.serving.http import HttpOptions
from t2l.serving.sampling import Sampling
from t2l.serving.scheduler import Scheduler

NAMES = [f"task {number}" for number in range(200)]
LIMITS = Limits(slots=4, context=120, max_tokens=60, max_waiting=100, timeout_s=60)


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def idle(engine: Engine) -> bool:
    numbers = engine.stats()
    return numbers["active"] == 0 and numbers["waiting"] == 0


def connect(address: str, body: dict[str, Any], *, buffer: int | None = None) -> socket.socket:
    """A plain connection on which one request has been sent and nothing read."""
    host, _, port = address.removeprefix("http://").partition(":")
    client = socket.socket()
    if buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.settimeout(60)
    client.connect((host, int(port)))
    data = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
    return client


def test_clients_that_die_free_their_slots_and_harm_nobody(
    server: tuple[str, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reset in the middle of the answer, as from a killed process whose socket held unread bytes."""
    address, engine = server
    prompt = engine.base.tokenizer("red")["input_ids"]
    wanted = engine.submit(prompt, Sampling(max_tokens=20)).result(30).text
    before = engine.stats()
    step = Scheduler.step
    monkeypatch.setattr(Scheduler, "step", lambda self: (time.sleep(0.02), step(self)))
    body = {"prompt": "red", "temperature": 1, "seed": 1, "max_tokens": 60}
    dying = [connect(address, {**body, "stream": stream}) for stream in (True, True, False)]
    until(lambda: engine.stats()["active"] >= 3)
    other = engine.submit(prompt, Sampling(max_tokens=20))
    for client in dying:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # sends RST
    assert other.result(30).text == wanted
    until(lambda: idle(engine))
    after = engine.stats()
    assert after["cancelled"] == before["cancelled"] + 3 and after["failed"] == before["failed"]


def test_a_slow_reader_holds_nobody_up_and_gets_all_of_it(world: Any) -> None:
    """More events than every buffer on the way holds; nothing is read until all others are served."""
    engine = Engine(*world, LIMITS)
    with live(engine, HttpOptions(drain_s=1), send_buffer=4096) as address:
        prompts = ["red", "blue", "7", "a b", "oslo", "rome", "x", "y z"]
        tokens = [engine.base.tokenizer(prompt)["input_ids"] for prompt in prompts]
        wanted = [engine.submit(prompt, Sampling(max_tokens=60)).result(30).text for prompt in tokens]
        body = {"prompt": prompts, "temperature": 0, "max_tokens": 60, "stream": True}
        reader = connect(address, body, buffer=2048)
        until(lambda: engine.stats()["finished"] >= 2 * len(prompts) and idle(engine))
        with httpx.Client(base_url=address, timeout=60) as raw:
            quick = raw.post("/v1/completions", json={"prompt": "red", "temperature": 0, "max_tokens": 60})
            assert quick.json()["choices"][0]["text"] == wanted[0]
        received = b""
        while data := reader.recv(1 << 16):
            received += data
        reader.close()
    got = [""] * len(prompts)
    for line in received.split(b"\n"):
        if line.startswith(b"data: {"):
            choice = json.loads(line[6:])["choices"][0]
            got[choice["index"]] += choice["text"]
    assert got == wanted and b"data: [DONE]" in received


def test_a_server_that_stops_finishes_the_answers_under_way(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(*world, LIMITS)
    prompt = engine.base.tokenizer("red")["input_ids"]
    wanted = engine.submit(prompt, Sampling(max_tokens=40)).result(30).text
    step = Scheduler.step
    monkeypatch.setattr(Scheduler, "step", lambda self: (time.sleep(0.02), step(self)))
    answers: list[httpx.Response] = []
    with live(engine, HttpOptions(drain_s=20), graceful_s=30) as address:
        body = {"prompt": "red", "temperature": 0, "max_tokens": 40}
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{address}/v1/completions", json=body, timeout=60))
        )
        asking.start()
        until(lambda: engine.stats()["active"] == 1)
    asking.join(60)
    assert answers[0].json()["choices"][0]["text"] == wanted and not engine.running


def test_an_adapter_that_is_late_is_given_up(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base, t2l = world
    free = threading.Event()
    generate = t2l.generate
    monkeypatch.setattr(t2l, "generate", lambda descriptions: free.wait(30) and generate(descriptions))
    engine = Engine(base, t2l, Limits(slots=2, context=120, timeout_s=0.2))
    with live(engine) as address, httpx.Client(base_url=address, timeout=60) as raw:
        for path, body in (
            ("/v1/adapters", {"description": NAMES[5]}),
            ("/v1/adapters/combine", {"parts": [NAMES[7], NAMES[8]]}),
            ("/v1/chat/completions", {"messages": user("red"), "task_description": NAMES[6]}),
        ):
            assert refused(raw.post(path, json=body), 504)["type"] == "timeout_error"
        free.set()
        until(lambda: engine.stats()["adapters_waiting"] == 0)


def test_what_a_client_gets_wrong_is_told_and_the_next_one_is_served(server: tuple[str, Engine]) -> None:
    address, engine = server
    with httpx.Client(base_url=address, timeout=60) as raw:
        for body, status, code in (
            ({"prompt": "x", "model": "no-such-model"}, 404, "model_not_found"),
            ({"prompt": "x", "model": "t2l-" + "0" * 24}, 404, "model_not_found"),
            ({"prompt": "x" * 5000}, 400, "context_length_exceeded"),
            ({"prompt": "x", "max_tokens": 10**9}, 400, None),
            ({"prompt": "x", "task_description": "y" * 100_000}, 400, "invalid_description"),
            ({"prompt": {"a": 1}}, 400, None),
        ):
            assert refused(raw.post("/v1/completions", json=body), status)["code"] == code
        content = {"content-type": "application/json"}
        assert refused(raw.post("/v1/completions", content=b'{"prompt": "x"', headers=content), 400)
        answer = raw.post("/v1/completions", json={"prompt": "x", "temperature": 0, "max_tokens": 3}).json()
        assert answer["usage"]["completion_tokens"] >= 1 and idle(engine)


def test_a_full_disk_costs_the_store_and_not_the_answer(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(*world, LIMITS, store=tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with live(engine) as address, httpx.Client(base_url=address, timeout=60) as raw:
        kept = raw.post("/v1/adapters", json={"description": NAMES[0]}).json()["data"][0]
        assert kept["stored"]
        monkeypatch.setattr("t2l.adapter.write_tensors", full)
        response = raw.post("/v1/adapters", json={"descriptions": [NAMES[1], NAMES[0]]})
        assert response.status_code == 201
        made = response.json()["data"][0]
        assert not made["stored"]
        ask = {"messages": user("red"), "temperature": 0, "max_tokens": 5}
        answer = raw.post("/v1/chat/completions", json={**ask, "model": made["id"]}).json()
        wanted = engine.chat("red", Sampling(max_tokens=5), adapter=engine.adapters.get(made["id"]))
        assert answer["choices"][0]["message"]["content"] == wanted.text
        assert "t2l_adapter_store_errors_total 1.0" in raw.get("/metrics").text
        places = [path.name for folder in tmp_path.iterdir() for path in folder.iterdir()]
        assert places == [kept["id"]]  # nothing half written


SERVER = """
import socket, sys
from pathlib import Path
import uvicorn
from helpers import tiny_pair, untrained
from live_server import live, refused, user
from t2l.serving.engine import Engine, Limits
from t2l.serving.http import create_app
engine = Engine(*tiny_pair([f"task {n}" for n in range(200)]), Limits(slots=4, context=120), store=Path(sys.argv[1]))
door = socket.socket(fileno=int(sys.argv[2]))
uvicorn.Server(uvicorn.Config(create_app(engine), log_level="error")).run(sockets=[door])
"""


def test_a_killed_process_loses_no_adapter_that_it_has_promised(world: Any, tmp_path: Path) -> None:
    """kill -9 while adapters are being written; the next process finds every one that a client was told of."""
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here.parent / "src"), str(here)])
    door = socket.socket()
    door.bind(("127.0.0.1", 0))
    door.listen(64)
    words = [sys.executable, "-c", SERVER, str(tmp_path), str(door.fileno())]
    process = subprocess.Popen(words, pass_fds=[door.fileno()], env={**os.environ, "PYTHONPATH": path})
    told: list[dict[str, Any]] = []
    answers: dict[str, str] = {}

    def work() -> None:
        with suppress(httpx.HTTPError):  # the process is killed
            for name in NAMES:
                told.extend(raw.post("/v1/adapters", json={"description": name}).raise_for_status().json()["data"])

    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{door.getsockname()[1]}", timeout=60) as raw:
            work_on = threading.Thread(target=work)
            for one in raw.post("/v1/adapters", json={"descriptions": NAMES[-2:]}).json()["data"]:
                body = {"model": one["id"], "messages": user("red"), "temperature": 0, "max_tokens": 6}
                answers[one["id"]] = raw.post("/v1/chat/completions", json=body).json()["choices"][0]["message"][
                    "content"
                ]
            work_on.start()
            until(lambda: len(told) >= 5)
            process.send_signal(signal.SIGKILL)
            assert process.wait(30) == -signal.SIGKILL
            door.close()
            work_on.join(60)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        door.close()
    assert len(told) < len(NAMES) and all(one["stored"] for one in told)
    (folder,) = tmp_path.iterdir()
    stale = folder / ".t2l-of-a-killed-process.0123.tmp"
    stale.mkdir()
    os.utime(stale, (0, 0))
    with Engine(*world, LIMITS, store=tmp_path) as engine:
        kept = {one.id for one in engine.adapters.entries()}
        assert {one["id"] for one in told} | set(answers) <= kept
        assert engine.adapters.store_errors == 0 and not stale.exists()
        for name, wanted in answers.items():
            assert engine.chat("red", Sampling(max_tokens=6), adapter=engine.adapters.get(name)).text == wanted
        (again,) = engine.make([told[0]["description"]]).result(30)
        assert again.cached and again.kept.id == told[0]["id"]


@pytest.mark.slow
def test_a_short_soak_finds_nothing() -> None:
    """`tools/soak.py` on a real `t2l serve`: every answer right, none lost. The long one is a command."""
    repository = Path(__file__).resolve().parents[1]
    given = {**os.environ, "PYTHONPATH": str(repository / "src")}
    words = [sys.executable, str(repository / "tools" / "soak.py"), "--seconds", "6", "--connections", "24"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=600, env=given)
    report = json.loads(ended.stdout)
    assert report["answers"] >= 24 and report["wrong"] == report["lost"] == 0, report
    assert report["different_answers"] > 8 and report["idle_afterwards"], report


@pytest.mark.slow
def test_very_many_descriptions_take_up_no_more_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``T2L_MANY`` of them, 100,000 for the whole thing: memory, store and cache end at their bounds."""
    many, mb = int(os.environ.get("T2L_MANY", "1000")), 1 << 20
    base, _ = tiny_pair(NAMES)
    cache = EmbeddingCache(tmp_path / "cache", most=mb)
    t2l = untrained(base.model.config, CachedEncoder(MiniLmEncoder(), cache))
    limits = Limits(slots=2, context=64, adapter_memory=mb, store_disk=2 * mb)

    def resident() -> float:
        return int(re.findall(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024

    with live(Engine(base, t2l, limits, store=tmp_path / "store")) as address:
        after_half = 0.0
        with httpx.Client(base_url=address, timeout=600) as client:
            for first in range(0, many, 50):
                texts = [f"Add {number} to the number and say it in words." for number in range(first, first + 50)]
                assert client.post("/v1/adapters", json={"descriptions": texts}).status_code == 201
                if first <= many / 2:
                    after_half = resident()
            kept = client.get("/v1/adapters").json()["total"]
            last = client.post("/v1/adapters", json={"descriptions": texts[-1:]}).json()["data"][0]
    files = [path.stat().st_blocks * 512 for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert 0 < kept < many and last["cached"] and sum(files) <= 2 * mb
    assert (tmp_path / "cache" / "embeddings.sqlite").stat().st_size < 2 * mb
    assert resident() - after_half < 30
