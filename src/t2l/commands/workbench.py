"""``t2l workbench``: the page on which descriptions are tried, on the same server as ``t2l serve``.

Level 6.
"""

from __future__ import annotations

from t2l.commands.options import BaseModel, Checkpoint, Device, checked_device
from t2l.commands.serve import (
    AllowHost,
    ApiKeyFile,
    Context,
    Host,
    Port,
    Slots,
    Store,
    allowed_hosts,
    api_keys,
    listen,
    shown_address,
    warn_of_openness,
)
from t2l.commands.terminal import Notes, say
from t2l.errors import T2LError


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
    try:
        import gradio  # noqa: F401  asked for here, as the page itself may have been imported before

        from t2l.serving.connections import server
        from t2l.serving.http import HttpOptions, create_app
        from t2l.workbench.app import PATH, add_workbench
    except ImportError as problem:
        raise T2LError(
            f"The workbench needs {problem.name}, which is not installed.", "pip install 't2l[workbench]'"
        ) from None
    from t2l.serving.engine import Engine, Limits
    from t2l.workbench.work import Workbench

    keys = api_keys(api_key_file)
    notes = Notes()
    door = listen(host, port)
    try:
        limits = Limits(slots=slots, context=context)
        with notes.of_warnings():
            engine = Engine.from_pretrained(checkpoint, base, device=checked_device(device), limits=limits, store=store)
        app = create_app(engine, HttpOptions(keys, allowed_hosts(host, allow_host)))
        add_workbench(app, Workbench(engine))
        ready = server(app, graceful_s=3)
        warn_of_openness(engine, door, host, bool(keys), notes)
        say(f"The workbench is on http://{shown_address(door)}{PATH} (Ctrl-C stops).", "bold green")
        if keys:
            say("The browser asks for a name and a password: any name, and an API key.")
        ready.run(sockets=[door])
    finally:
        door.close()
