"""A bounded soak of a real `t2l serve` process: many connections, every answer checked, memory watched. Prints JSON.

    python tools/soak.py [--seconds 60] [--connections 200] [--held 100] [--slots 16] [--checkpoint FOLDER]

First each question is asked alone. Then every connection asks one after the other, at random but seeded: the plain
base, an adapter by its id, or a task description; whole or as a stream; and now and then it leaves in the middle.
Each answer must be, letter by letter, the one given alone. Beside them, from other addresses of loopback, stand bad
neighbours: connections that begin the head of a request and never end it, each opened anew when the server shuts it,
and one client that sends what is refused: no JSON, bodies and texts far too long, wrong fields, foreign hosts, bytes
that are no HTTP, bodies that break off. None of it may be answered by 200 or 500. Resident memory is read every half
second; the first third of the run is warm-up, and the medians of the second and the last third are compared.
Everything stays on loopback. The exit status is 1 for a wrong or lost answer, for a bad neighbour that is not refused,
for memory that grows, or for a server that does not stop by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

TEXTS = ["red green blue", "oslo rome", "14", "a b c d", "Tokyo", "one, two, three"]
TASKS = ["Give the last word in capital letters.", "Add 3 to the number.", "Write the words in reverse order."]
TASKS += ["Give the first word.", "Count the words.", "Write the text twice.", "Drop the first letter of each word."]
HOLDER, HOSTILE = "127.0.0.2", "127.0.0.3"  # addresses of the bad neighbours
HALF_A_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
JSON = {"content-type": "application/json"}
GROWTH = 0.05  # of the memory after warm-up
LEAVES = 0.03  # of the requests are left in the middle


@dataclass(frozen=True)
class Question:
    """One request: its text and its task, None for the plain base."""

    text: str
    task: str | None

    def body(self, ids: dict[str, str], *, by_id: bool, stream: bool, tokens: int) -> dict[str, Any]:
        body: dict[str, Any] = {"temperature": 0, "max_tokens": tokens, "stream": stream}
        body["messages"] = [{"role": "user", "content": self.text}]
        if self.task is not None:
            body |= {"model": ids[self.task]} if by_id else {"task_description": self.task}
        return body


@dataclass
class Found:
    """What the connections saw."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def problem(self, kind: str, text: str) -> None:
        self.counts[kind] += 1
        if len(self.problems) < 10:
            self.problems.append(f"{kind}: {text[:300]}")


def start(options: argparse.Namespace, store: Path) -> tuple[subprocess.Popen[str], str]:
    """The server's process and its address."""
    words = [sys.executable, "-m", "t2l", "serve", "--port", "0", "--store", str(store), "--slots", str(options.slots)]
    words += ["--max-waiting", str(options.connections + 64), "--timeout", "240"]
    if options.checkpoint:
        words += ["--checkpoint", options.checkpoint]
    given = {**os.environ, "COLUMNS": "300", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=given)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if match := re.search(r"http://127\.0\.0\.1:\d+", line):
            return process, match[0]
    raise SystemExit("The server did not start:\n" + "".join(said))


async def ask(client: httpx.AsyncClient, body: dict[str, Any], leave: bool = False) -> str | None:
    """The text of an answer; None where the client left in the middle."""
    if not body["stream"]:
        if leave:
            with suppress(httpx.TimeoutException):
                await client.post("/v1/chat/completions", json=body, timeout=0.2)
            return None
        response = await client.post("/v1/chat/completions", json=body)
        response.raise_for_status()
        return response.json()["choices"][0]["message"]["content"]
    text, ended = "", False
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.is_error:
            await response.aread()
            response.raise_for_status()
        async for line in response.aiter_lines():
            if leave and text:
                return None
            if line == "data: [DONE]":
                ended = True
            elif line.startswith("data: "):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise ValueError(chunk["error"]["message"])
                text += chunk["choices"][0]["delta"].get("content", "")
    if not ended:
        raise ValueError("the stream broke off")
    return text


async def connection(
    number: int, client: httpx.AsyncClient, expected: dict[Question, str], ids: dict[str, str], until: float,
    tokens: int, found: Found,
) -> None:  # fmt: skip
    """One client after another on one connection, until the time is up."""
    chance = random.Random(number)
    questions = list(expected)
    while time.monotonic() < until:
        question, leave = chance.choice(questions), chance.random() < LEAVES
        body = question.body(ids, by_id=chance.random() < 0.5, stream=chance.random() < 0.5, tokens=tokens)
        begun = time.monotonic()
        try:
            text = await ask(client, body, leave)
        except httpx.HTTPStatusError as problem:
            if problem.response.status_code != 429:
                found.problem("lost", f"{problem.response.status_code} {problem.response.text}")
                continue
            found.counts["turned_away"] += 1
            await asyncio.sleep(float(problem.response.headers["retry-after"]))
            continue
        except (httpx.HTTPError, ValueError) as problem:
            found.problem("lost", repr(problem))
            continue
        if leave:
            found.counts["left"] += 1
            continue
        found.counts["answers"] += 1
        found.seconds.append(time.monotonic() - begun)
        if text != expected[question]:
            found.problem("wrong", f"{question}: {text!r}, alone {expected[question]!r}")


async def hold(host: str, port: int, found: Found) -> None:
    """A head that is begun and never ended, a byte now and then; a new one where the server has shut it."""
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(host, port, local_addr=(HOLDER, 0))
            try:
                writer.write(HALF_A_HEAD)
                found.counts["heads_held"] += 1
                while True:
                    with suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(reader.read(1), 1.0)
                        found.counts["heads_shut"] += 1
                        break
                    writer.write(b"x")
            finally:
                writer.close()
        await asyncio.sleep(0.05)


def refusable(number: int) -> dict[str, Any]:
    """A request that no server should carry out."""
    chat = "/v1/chat/completions"
    ask: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
    bodies: list[dict[str, Any]] = [
        {"url": chat, "content": b"{" * 50_000, "headers": JSON},
        {"url": chat, "content": b"x" * (2 << 20), "headers": JSON},
        {"url": chat, "json": {"messages": [{"role": "user", "content": "word " * 180_000}]}},
        {"url": chat, "json": {**ask, "max_tokens": 10**9}},
        {"url": chat, "json": {**ask, "n": True, "no_such_field": 1}},
        {"url": chat, "json": {**ask, "model": "t2l-" + "0" * 24}},
        {"url": "/v1/completions", "json": {"prompt": [[10**9] * 100] * 32}},
        {"url": "/v1/completions", "json": {"prompt": ["x"] * 5000}},
        {"url": "/v1/adapters", "json": {"descriptions": ["y" * 7000] * 64}},
        {"url": "/v1/adapters/combine", "json": {"parts": ["a"] * 64, "weights": [1e308] * 64}},
        {"url": "/v1/adapters", "content": b'{"description": "\\ud800"}', "headers": JSON},
        {"url": chat, "json": ask, "headers": {"host": "evil.example"}},
        {"url": chat, "json": ask, "headers": {"origin": "http://evil.example"}},
        {"url": "/../../etc/passwd", "json": {}},
    ]
    return bodies[number % len(bodies)]


async def neighbour(address: str, port: int, found: Found) -> None:
    """One client after the other that is refused."""
    transport = httpx.AsyncHTTPTransport(local_address=HOSTILE)
    async with httpx.AsyncClient(base_url=address, timeout=60, transport=transport) as client:
        for number in range(1 << 30):
            with suppress(httpx.HTTPError):  # a connection that the server has shut is an answer, too
                status = (await client.post(**refusable(number))).status_code
                found.counts["refused"] += 400 <= status < 500 or status == 503
                if not (400 <= status < 500 or status == 503):
                    found.problem("not_refused", f"{status} for {str(refusable(number))[:200]}")
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(HOSTILE, 0))
                broken = b"Content-Type: application/json\r\nContent-Length: 999\r\n\r\n{"
                writer.write(os.urandom(2000) if number % 2 else HALF_A_HEAD + b"\r\n" + broken)
                await writer.drain()
                writer.transport.abort()
            await asyncio.sleep(0.2)


async def watch(process: subprocess.Popen[str], memory: list[tuple[float, float]]) -> None:
    """Megabytes of resident memory, twice a second."""
    status = Path(f"/proc/{process.pid}/status")
    while status.exists():
        match = re.search(r"VmRSS:\s+(\d+) kB", status.read_text())
        if match:
            memory.append((time.monotonic(), int(match[1]) / 1024))
        await asyncio.sleep(0.5)


async def soak(options: argparse.Namespace, process: subprocess.Popen[str], address: str) -> dict[str, Any]:
    """The report."""
    limits = httpx.Limits(max_connections=options.connections, max_keepalive_connections=options.connections)
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits, trust_env=False) as client:
        made = (await client.post("/v1/adapters", json={"descriptions": TASKS})).raise_for_status().json()["data"]
        ids = {one["description"]: one["id"] for one in made}
        expected: dict[Question, str] = {}
        for question in [Question(text, task) for text in TEXTS for task in [None, *TASKS]]:
            body = question.body(ids, by_id=True, stream=False, tokens=options.tokens)
            expected[question] = str(await ask(client, body))
        found, memory = Found(), []
        watching = asyncio.create_task(watch(process, memory))
        port = int(address.rsplit(":", 1)[1])
        bad = [asyncio.create_task(hold("127.0.0.1", port, found)) for _ in range(options.held)]
        bad += [asyncio.create_task(neighbour(address, port, found))] if options.held else []
        begun = time.monotonic()
        until = begun + options.seconds
        await asyncio.gather(
            *(connection(n, client, expected, ids, until, options.tokens, found) for n in range(options.connections))
        )
        ended = time.monotonic()
        for task in bad:
            if task.done():  # they go on until they are stopped
                found.problem("lost", f"a bad neighbour gave up: {task.exception()!r}")
            task.cancel()
        idle = False
        for _ in range(100):
            numbers = (await client.get("/metrics")).text
            idle = bool(
                re.search(r"^t2l_active 0\.0$", numbers, re.M) and re.search(r"^t2l_waiting 0\.0$", numbers, re.M)
            )
            if idle:
                break
            await asyncio.sleep(0.1)
        watching.cancel()
        await asyncio.gather(watching, *bad, return_exceptions=True)
    third = (ended - begun) / 3
    middle = [size for when, size in memory if begun + third <= when < begun + 2 * third]
    last = [size for when, size in memory if begun + 2 * third <= when <= ended]
    growth = statistics.median(last) / statistics.median(middle) - 1
    ordered = sorted(found.seconds)
    return {
        "connections": options.connections,
        "seconds": round(ended - begun, 1),
        "slots": options.slots,
        "tokens": options.tokens,
        "questions": len(expected),
        "different_answers": len(set(expected.values())),
        "answers": found.counts["answers"],
        "wrong": found.counts["wrong"],
        "lost": found.counts["lost"],
        "left_in_the_middle": found.counts["left"],
        "turned_away": found.counts["turned_away"],
        "bad_neighbours": {
            "held": options.held,
            "heads_held": found.counts["heads_held"],
            "heads_shut": found.counts["heads_shut"],
            "refused": found.counts["refused"],
            "not_refused": found.counts["not_refused"],
        },
        "median_s": round(statistics.median(ordered), 3) if ordered else None,
        "slowest_s": round(ordered[-1], 3) if ordered else None,
        "idle_afterwards": idle,
        "memory_mb": {
            "start": round(memory[0][1], 1),
            "second_third": round(statistics.median(middle), 1),
            "last_third": round(statistics.median(last), 1),
            "growth": round(growth, 4),
        },
        "problems": found.problems,
    }


def main() -> None:
    """Prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--held", type=int, default=100, help="heads held open; 0: no bad neighbours")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--checkpoint", default=None)
    options = parser.parse_args()
    if not (3 <= options.seconds <= 600 and 1 <= options.connections <= 1000):
        parser.error("a soak is bounded: 3 to 600 seconds, 1 to 1000 connections")
    with tempfile.TemporaryDirectory() as store:
        process, address = start(options, Path(store))
        try:
            report = asyncio.run(soak(options, process, address))
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            status = process.wait(60)
            report["stopped"] = {"status": status, "seconds": round(time.monotonic() - begun, 2)}
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    print(json.dumps(report, indent=2))
    fine = (
        not (report["wrong"] or report["lost"] or report["bad_neighbours"]["not_refused"])
        and report["answers"] > 0
        and report["idle_afterwards"]
    )
    stopped = report["stopped"]["status"] in (0, -signal.SIGTERM)  # uvicorn passes the signal on when it is done
    sys.exit(0 if fine and stopped and report["memory_mb"]["growth"] <= GROWTH else 1)


if __name__ == "__main__":
    main()
