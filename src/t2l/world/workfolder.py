"""The adapters' shapes and the encoder of the embedded checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from t2l.bases import EMBEDDED_BASE
from t2l.encoders import MiniLmEncoder
from t2l.lora import LoraSpec
from t2l.world.base import base_config


def embedded_spec(target_modules: Sequence[str] | None = None, rank: int = 8) -> LoraSpec:
    """What adapters of the tiny Llama adapt: q_proj and v_proj with rank 8, as in the paper, where nothing is said."""
    config = base_config()
    config._name_or_path = EMBEDDED_BASE
    return LoraSpec.from_base(config, target_modules=target_modules and list(target_modules), rank=rank)


def embedded_encoder() -> MiniLmEncoder:
    """The encoder of the embedded checkpoint."""
    return MiniLmEncoder(pooling="layers")
