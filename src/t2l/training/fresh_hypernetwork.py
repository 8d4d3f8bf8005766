"""The hypernetwork of a recipe before it has learned anything, whatever the objective.

Level 4. Knows a recipe's section ``hypernetwork`` and the width of an encoder; knows no data.
"""

from __future__ import annotations

from typing import Any

from t2l.encoders import DescriptionEncoder
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.recipes.reader import Recipe


def fresh_hypernetwork(recipe: Recipe, spec: LoraSpec, encoder: DescriptionEncoder, **head: Any) -> HyperNetwork:
    """The hypernetwork that the recipe describes, at its start.

    Args:
        encoder: what it will read.
        head: how its head speaks, as `HyperNetwork` takes it.
    """
    wanted = recipe.hypernetwork
    return HyperNetwork(
        spec,
        encoder.dim,
        wanted.variant,
        trunk_dim=wanted.trunk_dim,
        head_dim=wanted.head_dim,
        dropout=wanted.dropout,
        task_encoder="linear" if encoder.token_dim is None else "tokens",
        token_dim=encoder.token_dim,
        state_dim=(encoder.token_dim or 0) // (spec.num_layers + 1) if wanted.own_layers else None,
        seed=recipe.loop.seed,
        **head,
    )
