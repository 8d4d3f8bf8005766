"""Who may come in: names, origins, keys. The gate alone, before an application that would let everybody in."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from t2l import cli
from t2l.commands.serve import allowed_hosts, api_keys
from t2l.errors import T2LError
from t2l.serving.access import AccessGate, Keys


class Asked:
    """A gate that is asked, request by request, without a network."""

    def __init__(self, **options: Any) -> None:
        self._gate = AccessGate(self._inside, max_body=100, body_timeout_s=1, **options)

    async def _inside(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    def __call__(
        self,
        *headers: tuple[str, str | bytes],
        method: str = "POST",
        path: str = "/v1/x",
        address: str = "127.0.0.1",
        kind: str = "http",
    ) -> tuple[Any, str]:
        """What comes back: the status (or the close code of a web socket) and the message of the error."""
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        raw = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers]
        scope = {"type": kind, "method": method, "path": path, "headers": raw, "client": (address, 5)}
        asyncio.run(self._gate(scope, receive, send))
        if kind == "websocket":
            return sent[0]["code"], ""
        body = json.loads(sent[1]["body"])
        return sent[0]["status"], body.get("error", {}).get("message", "")


def host(name: str) -> tuple[str, str]:
    return ("host", name)


@pytest.mark.parametrize(
    "name",
    [
        "localhost",
        "LOCALHOST:8008",
        "localhost.",
        "127.0.0.1:8008",
        "127.9.8.7",
        "[::1]:8008",
        "[::1]",
        "a.localhost:1",
    ],
)
def test_without_a_key_the_names_of_this_machine_are_served(name: str) -> None:
    assert Asked()(host(name))[0] == 200


@pytest.mark.parametrize(
    "name",
    [
        "evil.example",
        "evil.example:8008",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example#localhost",
        "evil@localhost",
        "192.168.1.7",
        "0.0.0.0:8008",
        "[::1].evil.example",
        "",
    ],
)
def test_without_a_key_no_other_name_is_served_whatever_is_asked(name: str) -> None:
    """DNS rebinding: a stranger's name that resolves to this machine."""
    for method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS"):
        status, message = Asked()(host(name), method=method)
        assert status == 403 and "--allow-host" in message
    assert Asked()(host("localhost"), host(name))[0] == 403  # two of them


def test_further_names_are_named_and_a_key_makes_names_no_matter() -> None:
    assert Asked(hosts=["box.lan"])(host("box.lan:8008"))[0] == 200
    assert Asked(hosts=["box.lan"])(host("other.lan:8008"))[0] == 403
    assert Asked(keys=["secret"])(host("box.lan"), ("authorization", "Bearer secret"))[0] == 200
    assert Asked(keys=["secret"])(host("box.lan"))[0] == 401


@pytest.mark.parametrize("key", [None, "secret"])
@pytest.mark.parametrize(
    ("origin", "site", "welcome"),
    [
        (None, None, True),  # a program
        ("http://localhost:8008", "same-origin", True),
        ("http://localhost:8008", None, True),
        ("http://page.example", None, True),  # named with --allow-host
        ("http://localhost:9999", "same-site", False),  # another server of this machine
        ("http://evil.example", "cross-site", False),
        ("http://evil.example", None, False),
        ("null", "cross-site", False),
        ("null", None, False),
        ("http://localhost:8008@evil.example", None, False),
        ("http://localhost:8008.evil.example", None, False),
        ("file://localhost:8008", None, False),
        (None, "cross-site", False),
        (None, "same-site", False),
        (None, "none", True),
    ],
)
def test_a_foreign_page_may_only_get(key: str | None, origin: str | None, site: str | None, welcome: bool) -> None:
    ask = Asked(keys=[key] if key else [], hosts=["page.example"])
    headers = [host("localhost:8008"), *([("authorization", f"Bearer {key}")] if key else [])]
    headers += [("origin", origin)] if origin else []
    headers += [("sec-fetch-site", site)] if site else []
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"):
        assert ask(*headers, method=method)[0] == (200 if welcome else 403)
    assert ask(*headers, method="GET")[0] == 200


def test_an_origin_is_the_same_with_and_without_its_usual_port() -> None:
    ask = Asked(keys=["k"])
    key = ("authorization", "Bearer k")
    assert ask(host("box.lan"), ("origin", "https://box.lan"), key)[0] == 200  # behind a proxy that does TLS
    assert ask(host("box.lan:443"), ("origin", "https://box.lan"), key)[0] == 200
    assert ask(host("box.lan"), ("origin", "https://box.lan:8443"), key)[0] == 403


def test_there_are_no_web_sockets() -> None:
    assert Asked()(host("localhost"), kind="websocket")[0] == 1008


@pytest.mark.parametrize("key", ["secret", "schlüssel", "ключ", "鍵", "two words"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_key_may_be_any_text_and_come_in_either_encoding(key: str, encoding: str) -> None:
    try:
        sent = key.encode(encoding)
    except UnicodeEncodeError:
        pytest.skip(f"{key} has no {encoding} form")
    ask = Asked(keys=["another", key])
    assert ask(host("h"), ("authorization", b"Bearer " + sent))[0] == 200
    assert ask(host("h"), ("authorization", b"Basic " + base64.b64encode(b"me:" + sent)))[0] == 200
    assert ask(host("h"), ("authorization", b"Bearer " + sent + b"x"))[0] == 401
    assert ask(host("h"), ("authorization", sent))[0] == 401


def test_guessing_keys_is_slowed_down_and_locks_nobody_out() -> None:
    now = [0.0]
    keys = Keys(["secret", "other"], clock=lambda: now[0])
    assert keys.caller(b"Bearer secret", "proxy")[0] is not None
    for number in range(60):
        assert keys.caller(f"Bearer guess{number}".encode(), "proxy") == (None, 0.0)
    name, wait = keys.caller(b"Bearer guess60", "proxy")
    assert name is None and wait > 0
    name, wait = keys.caller(b"Bearer other", "proxy")  # a right guess is not told apart
    assert name is None and wait > 0
    assert keys.caller(b"Bearer secret", "proxy")[0] is not None  # was used from there before
    assert keys.caller(b"Bearer other", "elsewhere")[0] is not None
    assert keys.caller(b"", "proxy") == (None, 0.0)  # a browser that has not asked its user yet
    now[0] = 2.0
    assert keys.caller(b"Bearer other", "proxy")[0] is not None


def test_the_gate_says_429_to_who_guesses() -> None:
    ask = Asked(keys=["secret"])
    statuses = [ask(host("h"), ("authorization", f"Bearer {number}"))[0] for number in range(70)]
    assert statuses[:60] == [401] * 60 and 429 in statuses[60:]


def test_an_empty_key_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for empty in ("", "  "):
        monkeypatch.setenv("T2L_API_KEY", empty)
        with pytest.raises(T2LError, match="set, but empty"):
            api_keys(None)
        result = CliRunner().invoke(cli.app, ["serve", "--port", "0"])
        assert result.exit_code == 2 and "set, but empty" in result.stderr
    monkeypatch.delenv("T2L_API_KEY")
    assert api_keys(None) == []


def test_allowed_names_are_names() -> None:
    assert allowed_hosts("127.0.0.1", ["box.lan"]) == ["box.lan", "127.0.0.1"]
    assert allowed_hosts("0.0.0.0", None) == allowed_hosts("::", None) == []
    for name in ("http://box", "*", " ", "a b", "me@box"):
        with pytest.raises(T2LError, match="without a port"):
            allowed_hosts("127.0.0.1", [name])
