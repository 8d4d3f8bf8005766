"""The HTTP server: OpenAI's completions and models, and adapters on request, in front of one engine.

Level 5. `create_app` makes the application and starts nothing. Routes translate: what is computed, kept and refused is
the engine's affair; keys, rates and sizes are `access.py`'s. Needs the extra ``serve``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from t2l.adapter import Adapter
from t2l.errors import T2LError
from t2l.serving.access import AccessGate
from t2l.serving.adapter_routes import Gone, add_adapters, made_json, make, while_there
from t2l.serving.adapter_store import ID_PREFIX
from t2l.serving.engine import Engine
from t2l.serving.errors import RequestError, UnknownModelError
from t2l.serving.maker import Made
from t2l.serving.metrics import Counted, Metrics
from t2l.serving.openai_schema import (
    ChatRequest,
    CompletionRequest,
    ErrorReply,
    Reply,
    error_body,
    error_of,
    event,
)
from t2l.serving.prompts import chat_tokens, text_tokens
from t2l.serving.stream import Stream

_STREAM: Any = {200: {"content": {"text/event-stream": {}}}}  # besides JSON; for the OpenAPI document
_TEXT: Any = {200: {"content": {"text/plain": {}}}}
_MOST_PROMPTS = 32  # in one request


@dataclass(frozen=True)
class HttpOptions:
    """What the server allows.

    Args:
        api_keys: no keys: no authentication.
        allow_hosts: names besides those of loopback under which the server is asked; see `access`.
        requests_per_minute: of one key or, without keys, of one address; 0 for no limit.
        max_body: bytes of a request.
        body_timeout_s: in which a request must have arrived.
        drain_s: for those under way when the server stops.
    """

    api_keys: Sequence[str] = ()
    allow_hosts: Sequence[str] = ()
    requests_per_minute: int = 0
    max_body: int = 1 << 20
    body_timeout_s: float = 30.0
    drain_s: float = 20.0


@dataclass(frozen=True)
class _Chosen:
    """The model of a request: the plain base, or an adapter that was named or made for it."""

    name: str
    adapter: Adapter | None = None
    made: Made | None = None

    @property
    def extra(self) -> dict[str, Any]:
        return {} if self.made is None else made_json(self.made)


def create_app(engine: Engine, options: HttpOptions | None = None) -> FastAPI:
    """The application; the engine is closed when the server stops.

    Example:
        >>> uvicorn.run(create_app(Engine.from_pretrained()), host="127.0.0.1", port=8008)  # doctest: +SKIP
    """
    options = options or HttpOptions()
    metrics = Metrics(engine.stats)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close, options.drain_s)

    app = FastAPI(
        title="t2l",
        description="Describe a task in plain words; get answers under the LoRA adapter for it.",
        version="1",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere; /openapi.json says the same
        redoc_url=None,
        responses={status: {"model": ErrorReply, "description": "What is wrong."} for status in ("4XX", "5XX")},
    )
    app.state.engine = engine
    app.add_middleware(
        AccessGate,  # pyright: ignore[reportArgumentType] - plain ASGI
        keys=options.api_keys,
        hosts=options.allow_hosts,
        per_minute=options.requests_per_minute,
        max_body=options.max_body,
        body_timeout_s=options.body_timeout_s,
    )
    app.add_middleware(Counted, metrics=metrics)  # pyright: ignore[reportArgumentType] - the last is the outermost
    _add_errors(app)
    _add_completions(app, engine)
    add_adapters(app, engine)
    _add_monitoring(app, engine, metrics)
    return app


class _Events(StreamingResponse):
    """Server-sent events; when the client leaves, in whatever moment, the requests behind them are cancelled."""

    def __init__(self, events: AsyncIterator[bytes], streams: Sequence[Stream]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._streams = streams

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for stream in self._streams:
                if not stream.done:
                    stream.cancel()


# --- completions --------------------------------------------------------------------------------------------------


def _add_completions(app: FastAPI, engine: Engine) -> None:
    @app.post("/v1/chat/completions", tags=["completions"], responses=_STREAM)
    async def chat(body: ChatRequest, request: Request) -> Any:
        """A conversation's next message."""
        sampling = body.sampling(body.longest)
        messages = [message.plain() for message in body.messages]
        most = engine.most_characters  # tokenising takes long enough to be kept off the loop on which all streams run
        prompt = await asyncio.to_thread(chat_tokens, engine.base, messages, most)  # refused before an adapter is made
        chosen = await _choose(engine, body.model, body.task_description, request)
        if (base := engine.base_for(chosen.adapter)) is not engine.base:
            prompt = await asyncio.to_thread(chat_tokens, base, messages, most)
        strength = _strength(body.strength, chosen)
        streams = [engine.submit(prompt, sampling, adapter=chosen.adapter, strength=strength)]
        return await _reply(body, request, streams, Reply(chosen.name, chat=True, extra=chosen.extra))

    @app.post("/v1/completions", tags=["completions"], responses=_STREAM)
    async def complete(body: CompletionRequest, request: Request) -> Any:
        """What follows a text, or each of several texts."""
        sampling, prompts = body.sampling(body.max_tokens), body.prompts()
        if len(prompts) > _MOST_PROMPTS:
            raise RequestError(f"There are {len(prompts)} prompts; {_MOST_PROMPTS} may be sent.", field="prompt")
        tokens = await asyncio.to_thread(_tokens, engine, prompts)
        chosen = await _choose(engine, body.model, body.task_description, request)
        strength = _strength(body.strength, chosen)
        streams: list[Stream] = []
        try:
            for prompt in tokens:
                streams.append(engine.submit(prompt, sampling, adapter=chosen.adapter, strength=strength))
        except T2LError:
            for stream in streams:
                stream.cancel()
            raise
        return await _reply(body, request, streams, Reply(chosen.name, chat=False, extra=chosen.extra))


def _tokens(engine: Engine, prompts: Sequence[str] | Sequence[list[int]]) -> list[list[int]]:
    """Each prompt as tokens."""
    most = engine.most_characters
    return [text_tokens(engine.base, prompt, most) if isinstance(prompt, str) else prompt for prompt in prompts]


async def _choose(engine: Engine, model: str, description: str | None, request: Request) -> _Chosen:
    """The adapter that ``model`` names or that ``task_description`` asks for.

    Raises:
        UnknownModelError: there is no such model.
        RequestError: both an adapter and a description are given.
    """
    plain = model in ("", engine.name)
    if description is None:
        return _Chosen(engine.name) if plain else _Chosen(model, await asyncio.to_thread(_named, engine, model))
    if not plain:
        await asyncio.to_thread(_named, engine, model)
        raise RequestError(
            "The request names an adapter and brings a task description as well.",
            f"Omit one of them; with a task description, model is '{engine.name}'.",
            field="task_description",
        )
    (made,) = await while_there(request, make(engine, [description]))
    return _Chosen(made.kept.id, made.adapter, made)


def _strength(strength: float, chosen: _Chosen) -> float:
    if strength != 1.0 and chosen.adapter is None:
        raise RequestError(
            "A strength has no effect on the base.",
            "Name an adapter as model, or give a task_description.",
            field="strength",
        )
    return strength


def _named(engine: Engine, model: str) -> Adapter:
    if model.startswith(ID_PREFIX):
        return engine.adapters.get(model)
    raise UnknownModelError(
        f"There is no model '{model[:80]}' here.", f"The base is '{engine.name}'; GET /v1/models lists the adapters."
    )


async def _reply(body: Any, request: Request, streams: list[Stream], reply: Reply) -> Any:
    if body.stream:
        return _Events(_events(streams, reply, body.with_usage), streams)
    try:
        results = asyncio.gather(*(stream.aresult() for stream in streams))
        return reply.whole(await while_there(request, results))
    finally:
        for stream in streams:
            if not stream.done:
                stream.cancel()


async def _events(streams: list[Stream], reply: Reply, with_usage: bool) -> AsyncIterator[bytes]:
    """The pieces of all choices as they come, then how each ended."""
    arrived: asyncio.Queue[tuple[int, str | None]] = asyncio.Queue()

    async def forward(index: int, stream: Stream) -> None:
        try:
            async for text in stream.apieces():
                arrived.put_nowait((index, text))
        finally:
            arrived.put_nowait((index, None))

    if (first := reply.first()) is not None:
        yield event(first)
    tasks = [asyncio.create_task(forward(index, stream)) for index, stream in enumerate(streams)]
    try:
        completions = []
        while len(completions) < len(streams):
            index, text = await arrived.get()
            if text is not None:
                yield event(reply.piece(index, text))
                continue
            await tasks[index]  # an error of this choice ends the whole stream
            completions.append(await streams[index].aresult())
            yield event(reply.piece(index, "", completions[-1].finish_reason))
        if with_usage:
            yield event(reply.last(completions))
    except Exception as problem:
        yield event(_told(problem)[1])
    finally:
        for task in tasks:
            task.cancel()
    yield event("[DONE]")


# --- monitoring and errors ----------------------------------------------------------------------------------------


def _add_monitoring(app: FastAPI, engine: Engine, metrics: Metrics) -> None:
    @app.get("/healthz", tags=["monitoring"])
    async def health() -> Response:
        """200 while requests are taken, else 503. Needs no key."""
        running = engine.running
        return JSONResponse({"status": "ok" if running else "stopping"}, 200 if running else 503)

    @app.get("/metrics", tags=["monitoring"], response_class=Response, responses=_TEXT)
    async def numbers() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_errors(app: FastAPI) -> None:
    async def for_people(_: Request, problem: Exception) -> JSONResponse:
        status, body, headers = _told(problem)
        return JSONResponse(body, status, headers)

    async def misshapen(_: Request, problem: Exception) -> JSONResponse:
        assert isinstance(problem, RequestValidationError)
        first = problem.errors()[0]
        if first["type"] == "json_invalid":
            why, at = first.get("ctx", {}).get("error", "it cannot be read"), first["loc"][-1]
            return JSONResponse(error_body(f"The body is not JSON: {why} (character {at}).", code="invalid_json"), 400)
        place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
        if first["type"] == "missing" and not place:
            return JSONResponse(error_body("The request has no body; it must be a JSON object."), 400)
        message = str(first["msg"]) if not place else f"{place[:200]}: {first['msg']}"
        return JSONResponse(error_body(message, field=place[:200] or None), 400)

    async def unrouted(_: Request, problem: Exception) -> JSONResponse:
        assert isinstance(problem, HTTPException)
        body = error_body(str(problem.detail), code="not_found" if problem.status_code == 404 else None)
        return JSONResponse(body, problem.status_code, problem.headers)

    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it; the metrics show it

    app.add_exception_handler(Gone, gone)
    app.add_exception_handler(RequestValidationError, misshapen)
    app.add_exception_handler(HTTPException, unrouted)
    app.add_exception_handler(T2LError, for_people)
    app.add_exception_handler(Exception, for_people)


def _told(problem: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """As `error_of`; a bug goes into the log as well."""
    status, body, headers = error_of(problem)
    if status == 500:
        logging.getLogger("t2l.serving").error("a request failed", exc_info=problem)
    return status, body, headers
