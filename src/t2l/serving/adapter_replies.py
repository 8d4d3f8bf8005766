"""Adapters as the server gives them: as JSON, as OpenAI's models, and as a zip of the PEFT folder.

Level 5. This file knows shapes of answers; no routes.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from t2l.adapter import Adapter
from t2l.serving.adapter_store import Kept
from t2l.serving.engine import Engine
from t2l.serving.maker import Made


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


def model_json(kept: Kept, engine: Engine) -> dict[str, Any]:
    """An adapter as one of OpenAI's models."""
    about = {"owned_by": "t2l", "parent": engine.name, "description": kept.description}
    return {"id": kept.id, "object": "model", "created": int(kept.created), **about}


def zipped(adapter: Adapter, name: str) -> bytes:
    """The PEFT folder of an adapter."""
    data = io.BytesIO()
    with tempfile.TemporaryDirectory() as parent, zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        folder = adapter.save(Path(parent) / "adapter")
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{name}/{path.name}")
    return data.getvalue()
