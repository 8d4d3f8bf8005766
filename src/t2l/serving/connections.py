"""Connections: how many there may be, how long the head of a request may take, and how the server lets go of them.

Level 5. uvicorn's HTTP protocol with bounds: by itself it waits for ever for a head that was begun, accepts until the
process has no descriptors left, closes connections whose request lies unread when it stops, and drops a client that has
closed only its own direction. This file knows no route and no engine. Needs the extra ``serve``.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

_PROBE_S = 0.2
_PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"  # says nothing to a client that reads; one that is gone answers with a reset
_CLOSE = b"Content-Length: 0\r\nConnection: close\r\n\r\n"
_LATE = b"HTTP/1.1 408 Request Timeout\r\n" + _CLOSE
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n" + _CLOSE
_SPARE = 64  # descriptors for files, pipes and libraries
_SAME_MESSAGE_S = 10.0


@dataclass(frozen=True)
class Bounds:
    """What connections may take up.

    Args:
        connections: in all; fewer where the process may not open so many descriptors.
        share: of them for one address.
        head_s: from the first byte of a request (or from connecting) to the end of its head.
        late_s: that an accepted connection has for its request when the server stops.
    """

    connections: int = 1000
    share: float = 0.5
    head_s: float = 10.0
    late_s: float = 1.0

    @property
    def most(self) -> int:
        """Connections in all, as this process can hold them."""
        with suppress(ImportError):
            import resource

            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            if soft != resource.RLIM_INFINITY:
                return max(2, min(self.connections, soft - _SPARE))
        return self.connections

    @property
    def most_of_one(self) -> int:
        """Connections of one address."""
        return max(1, int(self.most * self.share))


class Server(uvicorn.Server):
    """uvicorn's server, which takes in those who stand before the door before it shuts it."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; connections that the system has completed are accepted first."""
        await asyncio.sleep(0.05)
        await super().shutdown(sockets)


def server(app: Any, *, bounds: Bounds | None = None, graceful_s: int = 25) -> Server:
    """A server for an application; ``run(sockets=[door])`` starts it.

    Args:
        graceful_s: for requests under way when it stops.
    """
    for name in ("uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        if not any(isinstance(one, Sparse) for one in logger.filters):
            logger.addFilter(Sparse())
    config = uvicorn.Config(
        app,
        http=_protocol(bounds or Bounds()),
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=graceful_s,
        server_header=False,
    )
    return Server(config)


class Sparse(logging.Filter):
    """Lets the same message through once in a while: a stranger who causes it often does not fill a disk."""

    def __init__(self, clock: Any = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the message was not let through lately."""
        key, now = (record.name, str(record.msg)[:200]), self._clock()
        if now - self._last.get(key, -_SAME_MESSAGE_S) < _SAME_MESSAGE_S:
            return False
        if len(self._last) > 1000:
            self._last.clear()
        self._last[key] = now
        return True


def _protocol(bounds: Bounds) -> type[H11Protocol]:
    """uvicorn's protocol for the connections of one server."""
    held: Counter[str] = Counter()
    most, most_of_one = bounds.most, bounds.most_of_one

    class Connection(H11Protocol):
        _address: str | None = None
        _timer: asyncio.TimerHandle | None = None
        _refused = _half_closed = _stopping = False

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._address = self.client[0] if self.client else "?"
            held[self._address] += 1
            if held.total() > most or held[self._address] > most_of_one:
                self._end(_FULL)
                return
            self._timer = self.loop.call_later(bounds.head_s, self._too_late)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._address is not None:
                held[self._address] -= 1
                if not held[self._address]:
                    del held[self._address]
            self._disarm()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._refused:
                return
            super().data_received(data)
            self._watch()
            if self._stopping and self._busy:
                self.cycle.keep_alive = False

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def eof_received(self) -> Any:
            """True keeps the way to the client open: a whole request is answered although no other can come."""
            if not self._busy or self.cycle.more_body or self.scope["http_version"] == "1.0":
                return None
            self._half_closed, self.cycle.keep_alive = True, False
            self._probe()
            return True

        def shutdown(self) -> None:
            if self._busy:
                super().shutdown()
                return
            self._stopping = True
            self.loop.call_later(bounds.late_s if self.cycle is None else 0.1, self._leave)

        @property
        def _busy(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _leave(self) -> None:
            if not self._busy and not self.transport.is_closing():
                super().shutdown()

        def _watch(self) -> None:
            """Time runs while a head is begun and not ended; further bytes do not begin it anew."""
            begun = self.conn.their_state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0])
            if not begun:
                self._disarm()
            elif self._timer is None:
                self._timer = self.loop.call_later(bounds.head_s, self._too_late)

        def _too_late(self) -> None:
            self._end(_LATE)

        def _probe(self) -> None:
            if self._busy and not self.transport.is_closing():
                if not self.cycle.response_started:
                    self.transport.write(_PROBE)
                self.loop.call_later(_PROBE_S, self._probe)

        def _end(self, answer: bytes) -> None:
            self._refused = True
            if not self.transport.is_closing():
                self.transport.write(answer)
                self.transport.close()

        def _disarm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Connection
