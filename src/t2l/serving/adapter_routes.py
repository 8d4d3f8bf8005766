"""Adapters over HTTP: made, combined, listed, downloaded, deleted; and what the routes share that wait for adapters.

Level 5. This file knows routes and shapes of answers; what is computed, kept and refused is the engine's affair.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request, Response

from t2l import composition
from t2l.adapter import Adapter
from t2l.serving.adapter_store import Kept
from t2l.serving.engine import Engine
from t2l.serving.errors import OutOfTimeError, RequestError
from t2l.serving.maker import Made, check_request
from t2l.serving.openai_schema import AdapterRequest, CombineRequest

_Result = TypeVar("_Result")
_ZIP: Any = {200: {"content": {"application/zip": {}}}}  # for the OpenAPI document
_MOST_PARTS = 16  # of one combined adapter


class Gone(Exception):
    """The client has left."""


def add_adapters(app: FastAPI, engine: Engine) -> None:
    """Adds the routes below /v1/adapters and /v1/models."""
    started = int(time.time())

    def base_json() -> dict[str, Any]:
        return {"id": engine.name, "object": "model", "created": started, "owned_by": "base"}

    def model_json(kept: Kept) -> dict[str, Any]:
        about = {"owned_by": "t2l", "parent": engine.name, "description": kept.description}
        return {"id": kept.id, "object": "model", "created": int(kept.created), **about}

    @app.get("/v1/models", tags=["models"])
    async def models() -> dict[str, Any]:
        """The base and every adapter that is kept."""
        most = engine.t2l.spec.rank  # others can be downloaded, not asked
        served = [kept for kept in engine.adapters.entries() if kept.rank <= most]
        return {"object": "list", "data": [base_json(), *(model_json(kept) for kept in served)]}

    @app.get("/v1/models/{model}", tags=["models"])
    async def model(model: str) -> dict[str, Any]:
        """The base or one adapter; the base's name may hold a slash, written %2F."""
        if model == engine.name:
            return base_json()
        return model_json(engine.adapters.entry(model))

    @app.post("/v1/adapters", status_code=201, tags=["adapters"])
    async def make_adapters(body: AdapterRequest, request: Request) -> dict[str, Any]:
        """Adapters for one description or several; those that are kept already are not made again."""
        if (body.description is None) == (body.descriptions is None):
            raise RequestError("Give either description or descriptions.", field="description")
        descriptions = [body.description] if body.description is not None else body.descriptions or []
        check_request(descriptions)
        begun = time.perf_counter()
        made = await while_there(request, make(engine, descriptions))
        milliseconds = round(1000 * (time.perf_counter() - begun), 3)
        return {"object": "list", "data": [made_json(one) for one in made], "milliseconds": milliseconds}

    @app.post("/v1/adapters/combine", status_code=201, tags=["adapters"])
    async def combine(body: CombineRequest, request: Request) -> dict[str, Any]:
        """One adapter from several adapters or descriptions: stronger, weaker, added, subtracted or blended."""
        if len(body.parts) > _MOST_PARTS:
            raise RequestError(f"There are {len(body.parts)} parts; {_MOST_PARTS} may be sent.", field="parts")
        check_request(body.parts)
        ordered = await asyncio.to_thread(engine.combine, body.wanted())
        return made_json(await while_there(request, in_time(engine, ordered)))

    @app.get("/v1/adapters", tags=["adapters"])
    async def adapters(
        limit: Annotated[int, Query(ge=1, le=1000)] = 100, offset: Annotated[int, Query(ge=0, le=2**31)] = 0
    ) -> dict[str, Any]:
        """Adapters that are kept, the newest first."""
        kept = engine.adapters.entries()
        return {"object": "list", "data": [kept_json(one) for one in kept[offset : offset + limit]], "total": len(kept)}

    @app.get("/v1/adapters/{adapter}", tags=["adapters"])
    async def adapter(adapter: str) -> dict[str, Any]:
        """One adapter."""
        kept = engine.adapters.entry(adapter)
        return {**kept_json(kept), "composition": kept.composition}

    @app.get("/v1/adapters/{adapter}/download", tags=["adapters"], response_class=Response, responses=_ZIP)
    async def download(adapter: str, strength: float = 1.0) -> Response:
        """The PEFT folder of an adapter, as a zip file; another strength than 1 multiplies what it changes."""

        def made() -> bytes:
            whole = engine.adapters.get(adapter)
            return zipped(whole if strength == 1 else composition.scale(whole, strength), adapter)

        data = await asyncio.to_thread(made)
        headers = {"Content-Disposition": f'attachment; filename="{adapter}.zip"'}  # an id that was found is harmless
        return Response(data, media_type="application/zip", headers=headers)

    @app.delete("/v1/adapters/{adapter}", tags=["adapters"])
    async def delete(adapter: str) -> dict[str, Any]:
        """Forgets an adapter; requests that run under it are not disturbed."""
        await asyncio.to_thread(engine.adapters.remove, adapter)
        return {"id": adapter, "object": "adapter", "deleted": True}


def kept_json(kept: Kept) -> dict[str, Any]:
    """What is known of an adapter."""
    return {
        "id": kept.id,
        "object": "adapter",
        "created": int(kept.created),
        "description": kept.description,
        "rank": kept.rank,
        "strength": kept.strength,
        "bytes": kept.size,
        "stored": kept.stored,
    }


def made_json(made: Made) -> dict[str, Any]:
    """The same of one that was asked for."""
    ran = {"cached": made.cached, "milliseconds": round(made.milliseconds, 3), "warnings": list(made.warnings)}
    ran["confidence"] = None if made.confidence is None else made.confidence.to_dict()
    return {**kept_json(made.kept), "composition": made.kept.composition, **ran}


async def make(engine: Engine, descriptions: Sequence[str]) -> list[Made]:
    """Adapters for descriptions."""
    return await in_time(engine, await asyncio.to_thread(engine.make, descriptions))


async def in_time(engine: Engine, ordered: Future[_Result]) -> _Result:
    """What was ordered of the engine.

    Raises:
        OutOfTimeError: it took longer than a request may.
    """
    allowed = engine.limits.timeout_s
    try:
        return await asyncio.wait_for(asyncio.wrap_future(ordered), allowed)
    except asyncio.TimeoutError:
        raise OutOfTimeError(f"The adapter was not made within {allowed:g} s.", "Try again later.") from None


async def while_there(request: Request, work: Any) -> Any:
    """Awaits ``work``; stops it when the client leaves, and raises `Gone`."""

    async def leaving() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, left = asyncio.ensure_future(work), asyncio.ensure_future(leaving())
    try:
        await asyncio.wait([working, left], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Gone
        return working.result()
    finally:
        for task in (working, left):
            task.cancel()
        await asyncio.gather(working, left, return_exceptions=True)  # what nobody fetches is a traceback in the log


def zipped(adapter: Adapter, name: str) -> bytes:
    """The PEFT folder of an adapter."""
    data = io.BytesIO()
    with tempfile.TemporaryDirectory() as parent, zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        folder = adapter.save(Path(parent) / "adapter")
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{name}/{path.name}")
    return data.getvalue()
