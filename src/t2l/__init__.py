"""t2l: describe a task in plain words, get the LoRA adapter that makes a frozen language model good at it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t2l.adapter import Adapter
    from t2l.bases import load_base
    from t2l.compiled import TaskFunction, compile
    from t2l.hypernet import HyperNetwork
    from t2l.lora import LoraSpec, LoraWeights
    from t2l.model import TextToLora

__all__ = [
    "Adapter",
    "HyperNetwork",
    "LoraSpec",
    "LoraWeights",
    "TaskFunction",
    "TextToLora",
    "compile",
    "load_base",
]

_HOMES = {
    "Adapter": "t2l.adapter",
    "load_base": "t2l.bases",
    "TaskFunction": "t2l.compiled",
    "compile": "t2l.compiled",
    "HyperNetwork": "t2l.hypernet",
    "LoraSpec": "t2l.lora",
    "LoraWeights": "t2l.lora",
    "TextToLora": "t2l.model",
}


def __getattr__(name: str) -> Any:
    """Imports a name when it is first asked for, so that ``import t2l`` and ``t2l --help`` stay quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 't2l' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
