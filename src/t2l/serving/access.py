"""Access control: host names and origins, API keys, requests per minute, size and duration of a body.

Level 5. Plain ASGI, in front of everything else. This file knows no route but the one that needs no key, and no engine.

A server on loopback is not out of reach of the web: a page may post to it, and a name that a stranger owns may resolve
to 127.0.0.1, so that the page is of the same origin (DNS rebinding). Hence two rules. Without a key, only requests that
name this machine in ``Host`` are served. With and without one, a page of another origin may do nothing but GET, of
which its browser shows it nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import re
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
_FAILED_PER_MINUTE = 60  # wrong keys of one address
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]@/?#\s]+)(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"(https?)://(.+)")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class RateLimit:
    """A bucket of tokens for each caller: ``per_minute`` requests, and as many at once after a pause.

    Args:
        per_minute: 0 for no limit.
        clock: seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, caller: str, *, take: bool = True) -> float:
        """Takes one request (or only looks) from the caller's bucket: 0, or the seconds until there is one again."""
        if self._per_minute <= 0:
            return 0.0
        now, rate = self._clock(), self._per_minute / 60
        left, then = self._buckets.pop(caller, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - then) * rate)
        allowed = left >= 1
        self._buckets[caller] = (left - 1 if allowed and take else left, now)
        while len(self._buckets) > _CALLERS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / rate


class Keys:
    """API keys, and who tried wrong ones.

    An address that has sent `_FAILED_PER_MINUTE` wrong keys within a minute waits, even with a right one: else guessing
    would only have to go on. A right key that the address used before is let through, so nobody locks others out.

    Args:
        keys: any text; compared as UTF-8 and, where that is possible, as latin-1, the two ways in which it is sent.
    """

    def __init__(self, keys: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._names: dict[bytes, str] = {}
        for key in keys:
            name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
            for encoding in ("utf-8", "latin-1"):
                with suppress(UnicodeEncodeError):
                    self._names[_digest(key.encode(encoding))] = name
        self._failed = RateLimit(_FAILED_PER_MINUTE, clock)
        self._used: OrderedDict[tuple[str, str], None] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._names)

    def caller(self, authorization: bytes, address: str) -> tuple[str | None, float]:
        """The name of the key that is sent, None for a wrong one or none; and the seconds until another try."""
        sent = _sent_key(authorization)
        name = None if sent is None else self._known(sent)
        if name is not None and (address, name) in self._used:
            self._used.move_to_end((address, name))
            return name, 0.0
        if sent is None:
            return None, 0.0
        wait = self._failed.wait_s(address, take=name is None)
        if wait or name is None:
            return None, wait
        self._used[address, name] = None
        while len(self._used) > _CALLERS:
            self._used.popitem(last=False)
        return name, 0.0

    def _known(self, key: bytes) -> str | None:
        given = _digest(key)
        known = [name for own, name in self._names.items() if hmac.compare_digest(own, given)]
        return known[0] if known else None


class AccessGate:
    """The ASGI application behind a gate.

    Args:
        keys: API keys; no keys: no authentication.
        hosts: names besides those of loopback that ``Host`` may hold where there are no keys, and ``Origin`` anywhere.
        per_minute: requests of one key (or, without keys, of one address) in a minute; 0 for no limit.
        max_body: bytes.
        body_timeout_s: in which a body must have arrived.
    """

    def __init__(
        self,
        app: App,
        *,
        keys: Sequence[str] = (),
        hosts: Sequence[str] = (),
        per_minute: int = 0,
        max_body: int,
        body_timeout_s: float,
    ) -> None:
        self._app = app
        self._keys = Keys(keys)
        self._hosts = frozenset(_host_name(host) for host in hosts)
        self._limit = RateLimit(per_minute)
        self._max_body, self._body_timeout_s = max_body, body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # no route speaks it
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http" or scope["path"] in _OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        if (refusal := self._foreign(scope)) is not None:
            await _answer(send, 403, error_body(refusal, "permission_error", "foreign_origin"), {})
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        caller, wait = str((scope.get("client") or ("?",))[0]), 0.0
        if self._keys:
            caller, wait = self._keys.caller(headers.get(b"authorization", b""), caller)
        if wait:
            body = error_body("Too many wrong API keys from this address.", "rate_limit_error", "rate_limit_exceeded")
            await _answer(send, 429, body, {"Retry-After": str(int(wait) + 1)})
            return
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

    def _foreign(self, scope: Scope) -> str | None:
        """Why a request does not come from this machine's own pages and programs; None where nothing says so."""
        sent: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            sent.setdefault(name.lower(), []).append(value.decode("latin-1").strip().lower())
        hosts = [_authority(host) for host in sent.get(b"host", [])]
        if not self._keys:
            for host in hosts:
                if host is None or not self._ours(host[0]):
                    return (
                        "Without an API key this server answers to the names of this machine alone. "
                        "Start it with --allow-host NAME, or with a key."
                    )
        if scope["method"] == "GET":
            return None
        for origin in sent.get(b"origin", []):
            if not self._same_origin(origin, hosts):
                return "A page of another origin may not send this."
        if any(site not in ("same-origin", "none") for site in sent.get(b"sec-fetch-site", [])) and not sent.get(
            b"origin"
        ):
            return "A page of another origin may not send this."
        return None

    def _same_origin(self, origin: str, hosts: Sequence[tuple[str, str] | None]) -> bool:
        """Whether a page's origin is this server, under the name by which it is asked, or an allowed name."""
        found = _ORIGIN.fullmatch(origin)
        page = None if found is None else _authority(found[2])
        if found is None or page is None:  # "null": a file, a sandbox, a redirect
            return False
        if page[0] in self._hosts:
            return True
        default = _DEFAULT_PORTS[found[1]]
        named = {(host[0], host[1] or default) for host in hosts if host is not None}
        return (page[0], page[1] or default) in named

    def _ours(self, name: str) -> bool:
        if name in self._hosts or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

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


def _authority(text: str) -> tuple[str, str] | None:
    """Name and port (perhaps empty) of ``name:port``; None for anything else."""
    found = _AUTHORITY.fullmatch(text)
    return None if found is None else (_host_name(found[1]), found[2] or "")


def _host_name(text: str) -> str:
    """A name as it is compared: in lower case, without the brackets of IPv6 and the root's dot."""
    return text.strip().lower().removeprefix("[").removesuffix("]").removesuffix(".")


def _sent_key(authorization: bytes) -> bytes | None:
    """The bytes of the key in this header; None where there is none, or not in a form that is known."""
    kind, _, key = authorization.partition(b" ")
    if kind.lower() == b"bearer":
        return key.strip()
    if kind.lower() == b"basic":
        with suppress(ValueError):
            return base64.b64decode(key, validate=True).partition(b":")[2]
    return None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


async def _answer(send: Send, status: int, body: dict[str, Any], headers: dict[str, str]) -> None:
    data = json.dumps(body).encode()
    named = {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in named.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": data})
