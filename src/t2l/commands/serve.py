"""``t2l serve`` and ``t2l workbench``: a server that makes adapters on request, and a page on it to try descriptions.

Level 6.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from t2l.commands.options import BaseModel, Checkpoint, Device, checked_device
from t2l.commands.terminal import Notes, say
from t2l.errors import OutputError, T2LError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from t2l.serving.engine import Engine, Limits

KEY = "T2L_API_KEY"
_MB = 1 << 20

Host = Annotated[str, typer.Option(help="The address to listen on; by default only this machine can connect.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any that is free.")]
Store = Annotated[Path | None, typer.Option(metavar="DIR", help="Keep adapters here, so that they survive a restart.")]
Slots = Annotated[int, typer.Option(min=1, help="Requests that are decoded together.")]
Context = Annotated[int, typer.Option(min=8, help="Longest prompt and answer together, in tokens.")]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option("--api-key-file", metavar="FILE", help=f"API keys, one a line; {KEY} in the environment is one."),
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        metavar="NAME",
        help="A name under which the server may be asked; without a key, needed for each.",
    ),
]


def serve(
    checkpoint: Checkpoint = None,
    base: BaseModel = None,
    host: Host = "127.0.0.1",
    port: Port = 8008,
    device: Device = "cpu",
    store: Store = None,
    slots: Slots = 16,
    context: Context = 2048,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")] = 1024,
    max_waiting: Annotated[
        int, typer.Option("--max-waiting", min=0, help="Requests that may wait for a slot; more are turned away.")
    ] = 256,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds after which a request is given up.")] = 120.0,
    adapter_memory: Annotated[
        int, typer.Option("--adapter-memory", min=1, help="Megabytes of adapters kept in memory.")
    ] = 1024,
    store_size: Annotated[int, typer.Option("--store-size", min=1, help="Megabytes of adapters kept in --store.")] = (
        10240
    ),
    api_key_file: ApiKeyFile = None,
    allow_host: AllowHost = None,
    rate_limit: Annotated[
        int, typer.Option("--rate-limit", min=0, help="Requests a minute for each key or address; 0 for no limit.")
    ] = 0,
    max_body: Annotated[int, typer.Option("--max-body", min=1, help="Kilobytes of a request.")] = 1024,
) -> None:
    """Serve the base and adapters made on request over HTTP, as OpenAI's API."""
    with _needing("The server", "serve"):
        from t2l.serving.http import HttpOptions, create_app
    from t2l.serving.engine import Limits

    keys = api_keys(api_key_file)
    limits = Limits(slots, context, max_tokens, max_waiting, timeout, adapter_memory * _MB, store_size * _MB)
    hosts = allowed_hosts(host, allow_host)
    options = HttpOptions(keys, hosts, rate_limit, max_body * 1024, drain_s=min(timeout, 20.0))
    with _opened(checkpoint, base, host, port, device, store, limits, keys) as (engine, run):
        said = f"Serving {engine.name} on {{}}/v1 (Ctrl-C stops)."
        run(create_app(engine, options), int(options.drain_s) + 5, said)


def workbench(
    checkpoint: Checkpoint = None,
    base: BaseModel = None,
    host: Host = "127.0.0.1",
    port: Port = 8008,
    device: Device = "cpu",
    store: Store = None,
    slots: Slots = 16,
    context: Context = 2048,
    api_key_file: ApiKeyFile = None,
    allow_host: AllowHost = None,
) -> None:
    """Try descriptions in the browser: base and adapter side by side, heat maps, batches, adapters to download."""
    with _needing("The workbench", "workbench"):
        import gradio  # noqa: F401  asked for here, as the page itself may have been imported before

        from t2l.serving.http import HttpOptions, create_app
        from t2l.workbench.app import PATH, add_workbench
    from t2l.serving.engine import Limits
    from t2l.workbench.work import Workbench

    keys, limits = api_keys(api_key_file), Limits(slots=slots, context=context)
    options = HttpOptions(keys, allowed_hosts(host, allow_host))
    with _opened(checkpoint, base, host, port, device, store, limits, keys) as (engine, run):
        application = create_app(engine, options)
        add_workbench(application, Workbench(engine))
        asked = "\nThe browser asks for a name and a password: any name, and an API key." if keys else ""
        run(application, 3, f"The workbench is on {{}}{PATH} (Ctrl-C stops).{asked}")


@contextmanager
def _needing(what: str, extra: str) -> Iterator[None]:
    """Imports of what the extra brings."""
    try:
        yield
    except ImportError as problem:
        raise T2LError(f"{what} needs {problem.name}, which is not installed.", f"pip install 't2l[{extra}]'") from None


@contextmanager
def _opened(
    checkpoint: str | None,
    base: str | None,
    host: str,
    port: int,
    device: str,
    store: Path | None,
    limits: Limits,
    keys: list[str],
) -> Iterator[tuple[Engine, Callable[[FastAPI, int, str], None]]]:
    """The engine, and what serves an application until it is told to stop: (application, seconds to end in, greeting).

    The address is taken before anything slow is loaded.
    """
    from t2l.serving.connections import server
    from t2l.serving.engine import Engine

    notes, door = Notes(), listen(host, port)
    try:
        with notes.of_warnings():
            engine = Engine.from_pretrained(checkpoint, base, device=checked_device(device), limits=limits, store=store)

        def run(application: FastAPI, graceful_s: int, greeting: str) -> None:
            ready = server(application, graceful_s=graceful_s)
            _warn_of_openness(engine, door, host, bool(keys), notes)
            address, number = door.getsockname()[:2]
            shown = f"[{address}]" if ":" in address else address
            say(greeting.format(f"http://{shown}:{number}"), "bold green")
            ready.run(sockets=[door])

        yield engine, run
    finally:
        door.close()


def api_keys(file: Path | None) -> list[str]:
    """The keys of the environment and of a file.

    Raises:
        T2LError: the variable is set and empty, or the file cannot be read or holds none.
    """
    keys = [os.environ[KEY].strip()] if KEY in os.environ else []
    if "" in keys:  # a secret that was not filled in must not open the door
        raise T2LError(f"{KEY} is set, but empty.", f"Give it a key, or, for a server without one: unset {KEY}")
    if file is not None:
        try:
            lines = file.expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as problem:
            raise T2LError(f"The API keys in '{file}' cannot be read: {problem}.") from problem
        keys += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not keys:
            raise T2LError(f"'{file}' holds no API key.", "Write one key a line, or omit --api-key-file.")
    return keys


def allowed_hosts(host: str, named: list[str] | None) -> list[str]:
    """The names of ``--allow-host``, and that of ``--host`` where it is one address.

    Raises:
        T2LError: something that is no name.
    """
    for name in named or ():
        if not name.strip() or any(sign in name for sign in "/@?#*, "):
            raise T2LError(f"--allow-host is '{name}'; it must be a host's name or address, without a port.")
    return [*(named or ()), *([] if host in ("", "0.0.0.0", "::") else [host])]


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, before anything slow is loaded.

    Raises:
        OutputError: the address cannot be listened on.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        door = socket.socket(family, kind, protocol)
        try:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind(address)
        except OSError:
            door.close()
            raise
    except OSError as problem:
        raise OutputError(
            f"Cannot listen on {host}, port {port}: {problem.strerror or problem}.", "Choose another one: --port 8009"
        ) from problem
    return door


def _warn_of_openness(engine: Engine, door: socket.socket, host: str, keys: bool, notes: Notes) -> None:
    """Notes about the base, about rounding, and about who can connect."""
    if engine.base.note:
        notes.add(engine.base.note)
    if not engine.exact:
        notes.add("On this machine an answer may differ by rounding with who else is served.")
    if not keys and not ipaddress.ip_address(door.getsockname()[0]).is_loopback:
        notes.add(
            f"Anybody who can reach {host} may use this server: it listens beyond this machine and asks for no key. "
            f"Set {KEY}, or add --api-key-file. Without a key it answers only to names given with --allow-host."
        )
