"""Puts the page onto the server's application, and keeps it to what a page needs.

Level 6. Gradio brings routes along that read files, fetch addresses or describe the page to programs; none of them is
needed here, so none is let through. Browsers are told to load nothing from elsewhere.
"""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import RedirectResponse, Response

from t2l.serving.access import App, Receive, Scope, Send
from t2l.workbench import theme
from t2l.workbench.page import build
from t2l.workbench.work import Workbench

PATH = "/workbench"
_ROUTES = re.compile(
    r"/?"
    r"|/(config|theme\.css|manifest\.json|favicon\.ico|pwa_icon)"
    r"|/(assets|static|svelte)/[\w./~\-]*"
    r"|/gradio_api/(queue/(join|data)|cancel|reset|upload|upload_progress|startup-events|heartbeat/\w+|info)/?"
)
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


def add_workbench(app: FastAPI, work: Workbench) -> None:
    """Serves the page below `PATH` and sends browsers that ask for ``/`` there."""

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse(f"{PATH}/")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(theme.ICON, media_type="image/svg+xml")

    async def mount() -> None:
        gr.mount_gradio_app(
            app,
            build(work),
            path=PATH,
            theme=theme.theme(),
            css=theme.css(),
            head=theme.head(),
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            pwa=False,
            enable_monitoring=False,
            mcp_server=False,
            show_error=False,
            max_file_size="1mb",
        )

    with ThreadPoolExecutor(1) as thread:  # outside of a loop Gradio opens some of its own and leaves them open
        thread.submit(lambda: asyncio.run(mount())).result()
    app.add_middleware(PageGate, path=PATH)


class PageGate:
    """Lets through below ``path`` what the page itself asks for, with headers that keep its browser here."""

    def __init__(self, app: App, path: str) -> None:
        self._app, self._path = app, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        inside = scope["type"] == "http" and (path == self._path or path.startswith(f"{self._path}/"))
        if not inside:
            await self._app(scope, receive, send)
            return
        if not _ROUTES.fullmatch(path[len(self._path) :]) or ".." in path:
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"There is no such page here."})
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name.lower() not in _HEADERS]
                message = {**message, "headers": [*kept, *_HEADERS.items()]}
            await send(message)

        await self._app(scope, receive, guarded)
