"""Options that several verbs share, so that a name means the same everywhere, and what they open.

Level 6.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from t2l.errors import T2LError

if TYPE_CHECKING:
    from t2l.bases import Base
    from t2l.model import TextToLora

Dtype = Literal["float32", "bfloat16", "float16"]
"""How tensors are stored."""
FormOption = Literal["portable", "rslora"]
"""Where an adapter's scaling lives: inside B, or with the runtime."""
MORE = "Rarely needed"
"""Heading of the help for what most users leave as it is."""
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint", "-c", metavar="FOLDER|HUB_ID|NAME", help="The checkpoint; by default the one that ships."
    ),
]
BaseModel = Annotated[
    str | None,
    typer.Option(
        "--base",
        "-b",
        metavar="FOLDER|FILE.gguf|HUB_ID",
        help="The base model; by default the one the checkpoint is for.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there, where it is of the same kind.")]
Strength = Annotated[
    float,
    typer.Option("--strength", help="Multiplies what the adapter changes: 0 is the base, 1 the adapter as generated."),
]
Device = Annotated[
    str, typer.Option("--device", help="Where to compute: cpu, cuda, cuda:1, mps.", rich_help_panel=MORE)
]
StoredAs = Annotated[Dtype, typer.Option("--dtype", help="How the adapter's tensors are stored.", rich_help_panel=MORE)]
StoredForm = Annotated[
    FormOption,
    typer.Option(
        "--form",
        help="portable: right in every runtime. rslora: the scaling is left to the runtime.",
        rich_help_panel=MORE,
    ),
]


def checked_strength(strength: float) -> float:
    """``strength``, if it is a number to multiply by: refused before any work, not after.

    Raises:
        T2LError: NaN or infinite.
    """
    if not math.isfinite(strength):
        raise T2LError(f"The strength is {strength}; it must be a finite number.", "1 is the adapter as generated.")
    return strength


def checked_device(name: str) -> str:
    """``name``, if this machine has such a device.

    Raises:
        T2LError: this machine lacks it.
    """
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise T2LError(f"This machine cannot compute on '{name}': {reason}", "Omit --device.") from problem
    return name


def open_checkpoint(source: str | None, device: str = "cpu") -> TextToLora:
    """The checkpoint that ``--checkpoint`` names; what its encoder has read stays on disk."""
    from t2l.encoders import CachedEncoder
    from t2l.model import TextToLora

    t2l = TextToLora.from_pretrained(source, device=device)
    t2l.encoder = CachedEncoder(t2l.encoder)
    return t2l


def open_base(t2l: TextToLora, name: str | None, device: str = "cpu") -> Base:
    """The base that ``--base`` names, by default the checkpoint's own, prompted as the checkpoint was trained.

    Raises:
        BaseModelError: the checkpoint's adapters are for another base.
    """
    from t2l.bases import load_base

    base = load_base(t2l.spec.base_name(name), device=device).with_system(t2l.system)
    t2l.spec.check_base(base.model)
    return base
