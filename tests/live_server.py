"""Shared by the tests of servers: one that runs on loopback, and what its answers are held against."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from fastapi import FastAPI

from t2l.serving.connections import Bounds, server
from t2l.serving.engine import Engine
from t2l.serving.http import HttpOptions, create_app


@contextmanager
def live(
    engine: Engine,
    options: HttpOptions | None = None,
    *,
    extend: Callable[[FastAPI], object] | None = None,
    send_buffer: int | None = None,
    graceful_s: int = 5,
    bounds: Bounds | None = None,
) -> Iterator[str]:
    """A server in a thread, on a port of its own; its address. ``extend`` adds to the application.

    Its connections inherit the door's ``send_buffer``.
    """
    door = socket.socket()
    if send_buffer is not None:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    door.bind(("127.0.0.1", 0))
    app = create_app(engine, options or HttpOptions(drain_s=1))
    if extend is not None:
        extend(app)
    running = server(app, bounds=bounds, graceful_s=graceful_s)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [door]})
    thread.start()
    try:
        while not running.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join(30)
        door.close()
        engine.close()


def refused(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error, which has OpenAI's shape."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]
