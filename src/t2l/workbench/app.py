"""Puts the page onto the server's application, and keeps it to what a page needs.

Level 6. Gradio brings routes along that read files, take files, fetch addresses or describe the page to programs; none
of them is needed here, so none is let through. Its queue takes files, addresses and any JSON from whoever writes to it,
so a body is read and written anew from what the fields of its step may hold. Nothing is uploaded: a table is read in
the browser. Browsers are told to load nothing from elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Mount

from t2l.serving.access import App, Receive, Scope, Send
from t2l.serving.errors import RequestError
from t2l.workbench import page as pages
from t2l.workbench.work import Workbench

PATH = "/workbench"
_ROUTES = re.compile(
    r"/?"
    r"|/(config|theme\.css|manifest\.json|favicon\.ico|pwa_icon)"
    r"|/(assets|static|svelte)/[\w./~\-]*"
    r"|/gradio_api/(queue/(join|data)|cancel|reset|startup-events|heartbeat/\w+|info)/?"
)
_JOIN = re.compile(r"/gradio_api/queue/join/?")
_POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio starts itself from a script in the page
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    ]
)
_HEADERS = {
    b"content-security-policy": _POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}


MOST_TABLE = 1 << 20
"""Characters of a field without a limit of its own: a table."""

_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_Field = Callable[[Any], Any]


def add_workbench(app: FastAPI, work: Workbench) -> None:
    """Serves the page below `PATH` and sends browsers that ask for ``/`` there."""

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse(f"{PATH}/")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(pages.ICON, media_type="image/svg+xml")

    async def mount() -> gr.Blocks:
        page = pages.build(work)
        page.has_launched = True  # mounting does not set it, and without it Gradio opens any path that it is given
        gr.mount_gradio_app(
            app,
            page,
            path=PATH,
            theme=pages.theme(),
            css=pages.css(),
            head=pages.head(),
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            pwa=False,
            enable_monitoring=False,
            mcp_server=False,
            show_error=False,
            max_file_size=1,
        )
        return page

    with ThreadPoolExecutor(1) as thread:  # outside of a loop Gradio opens some of its own and leaves them open
        page = thread.submit(lambda: asyncio.run(mount())).result()
    (mounted,) = [route for route in app.routes if isinstance(route, Mount) and route.path == PATH]
    mounted.app = PageGate(mounted.app, PATH, Steps(page))  # behind the server's own gate: keys and sizes come first


class PageGate:
    """Lets through below ``path`` what the page itself asks for, with headers that keep its browser here."""

    def __init__(self, app: App, path: str, steps: Steps) -> None:
        self.behind, self._path, self._steps = app, path, steps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise HTTPException(404)  # the page opens no socket of another kind
        path = scope["path"].removeprefix(self._path)
        if not _ROUTES.fullmatch(path) or ".." in path:
            await _refuse(send, 404, "There is no such page here.")
            return
        if _JOIN.fullmatch(path) and scope["method"] == "POST":
            try:
                scope, receive = await self._join(scope, receive)
            except RequestError as refused:
                await _refuse(send, 400, refused.message)
                return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name.lower() not in _HEADERS]
                message = {**message, "headers": [*kept, *_HEADERS.items()]}
            await send(message)

        await self.behind(scope, receive, guarded)

    async def _join(self, scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
        """The request with a body that holds what the step's fields may hold.

        Raises:
            RequestError: see `Steps.checked`.
        """
        if not any(_is_json(name, value) for name, value in scope["headers"]):
            raise RequestError("A step is asked with JSON: Content-Type: application/json.")
        parts, more = [], True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = self._steps.checked(b"".join(parts))
        ours = {b"content-length": str(len(body)).encode(), b"content-type": b"application/json"}
        headers = [(name, value) for name, value in scope["headers"] if name.lower() not in ours]
        whole = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Any:
            return whole.pop() if whole else await receive()

        return {**scope, "headers": [*headers, *ours.items()]}, replay


def _is_json(name: bytes, value: bytes) -> bool:
    return name.lower() == b"content-type" and value.partition(b";")[0].strip().lower() == b"application/json"


async def _refuse(send: Send, status: int, why: str) -> None:
    body = why.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Steps:
    """The steps of a page, by number, and what each of their fields may hold.

    Args:
        page: built; its fields are `gradio.Textbox`, `Slider`, `Radio` and `Checkbox`.

    Raises:
        TypeError: a step reads a component of another kind: nobody has said yet what that may hold.
    """

    def __init__(self, page: gr.Blocks) -> None:
        self._fields: Mapping[int, Sequence[_Field]] = {
            number: [_field(component) for component in step.inputs]
            for number, step in page.fns.items()
            if step.fn is not None
        }

    def checked(self, body: bytes) -> bytes:
        """The body for Gradio: the number of a step, its fields, the session and what set it off.

        Raises:
            RequestError: it is not JSON, there is no such step, or a field cannot hold what is sent.
        """
        try:
            sent = json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise RequestError("The body is not JSON.") from None
        if not isinstance(sent, dict):
            raise RequestError("The body is not a JSON object.")
        number, session, values = sent.get("fn_index"), sent.get("session_hash"), sent.get("data")
        if type(number) is not int or number not in self._fields:
            raise RequestError("fn_index is not the number of a step of this page.")
        if not isinstance(session, str) or not _SESSION.fullmatch(session):
            raise RequestError("session_hash must be 1 to 64 letters, digits, '-' or '_'.")
        fields = self._fields[number]
        if not isinstance(values, list) or len(values) != len(fields):
            raise RequestError(f"data must be a list of {len(fields)} values.")
        trigger = sent.get("trigger_id")
        kept = {
            "fn_index": number,
            "session_hash": session,
            "data": [field(value) for field, value in zip(fields, values, strict=True)],
            "event_data": None,
            "trigger_id": trigger if type(trigger) is int and abs(trigger) < 1 << 31 else None,
        }
        return json.dumps(kept).encode()


def _field(component: Any) -> _Field:
    """What a value of this component must be; the function gives it back as it will be used."""
    if isinstance(component, gr.Textbox):
        return _text(component.max_length or MOST_TABLE)
    if isinstance(component, gr.Slider):
        return _number(component.minimum, component.maximum)
    if isinstance(component, gr.Radio):
        return _choice([value for _, value in component.choices])
    if isinstance(component, gr.Checkbox):
        return _choice([False, True])
    raise TypeError(f"no rule says what a {type(component).__name__} may hold")


def _text(most: int) -> _Field:
    def text(value: Any) -> str:
        if value is None:  # a field that nobody has touched
            return ""
        if not isinstance(value, str):
            raise RequestError("A text field holds something else than text.")
        if len(value) > most:
            raise RequestError(f"A text has {len(value)} characters; its field holds {most}.")
        return value.encode("utf-8", "replace").decode()  # a lone surrogate cannot be written anywhere

    return text


def _number(lowest: float, highest: float) -> _Field:
    def number(value: Any) -> float:
        if type(value) not in (int, float) or not lowest <= value <= highest:
            raise RequestError(f"A number must lie between {lowest:g} and {highest:g}.")
        return value

    return number


def _choice(offered: Sequence[Any]) -> _Field:
    def choice(value: Any) -> Any:
        if not any(type(value) is type(one) and value == one for one in offered):
            raise RequestError(f"A choice must be one of {', '.join(str(one) for one in offered)}.")
        return value

    return choice


def _no_constant(name: str) -> Any:
    raise ValueError(name)
