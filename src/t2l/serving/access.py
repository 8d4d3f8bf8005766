"""Who may come in: API keys, requests per minute, the size of a body and the time it may take to arrive.

Level 5. Plain ASGI, in front of everything else. This file knows no route but the one that needs no key, and no engine.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

import anyio

from t2l.serving.openai_schema import error_body

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_OPEN_PATHS = {"/healthz"}
_FOR_PROGRAMS = "/v1/"  # elsewhere a browser may ask its user: the key is the password
_CALLERS = 10_000  # that are remembered
_THROWN_AWAY = 16 << 20  # bytes of a body that is too large


class RateLimit:
    """A bucket of tokens for each caller: ``per_minute`` requests, and as many at once after a pause.

    Args:
        per_minute: 0 for no limit.
        clock: seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, caller: str) -> float:
        """Takes one request from the caller's bucket: 0, or the seconds until there is one again."""
        if self._per_minute <= 0:
            return 0.0
        now, rate = self._clock(), self._per_minute / 60
        left, then = self._buckets.pop(caller, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - then) * rate)
        allowed = left >= 1
        self._buckets[caller] = (left - 1 if allowed else left, now)
        while len(self._buckets) > _CALLERS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / rate


class Gate:
    """The ASGI application behind a gate.

    Args:
        keys: API keys; without any, everybody may come in.
        per_minute: requests of one key (or, without keys, of one address) in a minute; 0 for no limit.
        max_body: bytes.
        body_timeout_s: in which a body must have arrived.
    """

    def __init__(
        self, app: App, *, keys: Sequence[str] = (), per_minute: int = 0, max_body: int, body_timeout_s: float
    ) -> None:
        self._app = app
        self._keys = [_digest(key) for key in keys]
        self._limit = RateLimit(per_minute)
        self._max_body, self._body_timeout_s = max_body, body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        caller = self._caller(headers, scope)
        if caller is None:
            body = error_body("This server needs an API key: Authorization: Bearer KEY", code="invalid_api_key")
            programs = scope["path"].startswith(_FOR_PROGRAMS)
            challenge = "Bearer" if programs else 'Basic realm="t2l: any name, and an API key", charset="UTF-8"'
            await _answer(send, 401, body, {"WWW-Authenticate": challenge})
            return
        if wait := self._limit.wait_s(caller):
            body = error_body("Too many requests in this minute.", "rate_limit_error", "rate_limit_exceeded")
            await _answer(send, 429, body, {"Retry-After": str(int(wait) + 1)})
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._max_body:
            await self._refuse_size(receive, send)
            return
        await self._pass_on(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads the body, in bounded time and size, before anything else sees it."""
        parts, size = [], 0
        try:
            with anyio.fail_after(self._body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    more = message.get("more_body", False)
                    if size > self._max_body or not more:
                        break
        except TimeoutError:
            body = error_body(f"The body did not arrive within {self._body_timeout_s:g} s.", "timeout_error", "timeout")
            await _answer(send, 408, body, {"Connection": "close"})
            return
        if size > self._max_body:
            await self._refuse_size(receive, send, more=more)
            return
        whole: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

        async def replay() -> MutableMapping[str, Any]:
            return whole.pop() if whole else await receive()

        await self._app(scope, replay, send)

    async def _refuse_size(self, receive: Receive, send: Send, *, more: bool = True) -> None:
        """Takes in some of what is still coming: a client that is writing does not see an answer before a reset."""
        left = _THROWN_AWAY
        with anyio.move_on_after(min(self._body_timeout_s, 5.0)):
            while more and left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                more = message.get("more_body", False)
        body = error_body(f"The body may have {self._max_body} bytes.", code="body_too_large")
        await _answer(send, 413, body, {"Connection": "close"})

    def _caller(self, headers: dict[bytes, bytes], scope: Scope) -> str | None:
        """The key's digest or the address; None for a wrong key or none."""
        if not self._keys:
            return str((scope.get("client") or ("?",))[0])
        kind, _, key = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() == b"basic":
            with suppress(ValueError):
                key = base64.b64decode(key, validate=True).partition(b":")[2]
                return self._known(key.decode("utf-8", "surrogateescape"))
            return None
        return self._known(key.strip().decode("latin-1")) if kind.lower() == b"bearer" else None

    def _known(self, key: str) -> str | None:
        """The digest of a key that is one of ours."""
        given = _digest(key)
        known = [own for own in self._keys if hmac.compare_digest(own, given)]
        return known[0] if known else None


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


async def _answer(send: Send, status: int, body: dict[str, Any], headers: dict[str, str]) -> None:
    data = json.dumps(body).encode()
    named = {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in named.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": data})
