"""What is trained: shapes and hypernetwork as a recipe names them, and how parameters are updated.

Level 4. Muon (Jordan et al., 2024; arXiv 2502.16982) makes every update of a matrix nearly orthogonal. It suits hidden
matrices; embeddings, norms, and the last layers that write LoRA weights stay with AdamW. Knows recipes and bases'
configs; knows no data and no loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from t2l.encoders import DescriptionEncoder
from t2l.errors import CheckpointError, RecipeError, T2LError
from t2l.hypernet import HIDDEN_MATRICES, HyperNetwork
from t2l.lora import LoraSource, LoraSpec
from t2l.model import TextToLora
from t2l.recipes.reader import Recipe


def build_spec(recipe: Recipe) -> LoraSpec:
    """The shapes of the adapters, from the base's config alone."""
    from t2l.base_structure import base_config

    lora = recipe.lora
    return LoraSpec.from_base(
        base_config(recipe.base.model, revision=recipe.base.revision),  # which knows the name it was loaded as
        target_modules=targets_of(recipe),
        rank=lora.rank,
        alpha=lora.alpha,
        use_rslora=lora.rslora,
        dropout=lora.dropout,
        revision=recipe.base.revision,
    )


def targets_of(recipe: Recipe) -> str | list[str] | None:
    """The modules that are adapted, as `LoraSpec.from_base` takes them."""
    targets = list(recipe.lora.target_modules)
    return targets[0] if targets == ["all-linear"] else targets or None


def build_source(recipe: Recipe, spec: LoraSpec, encoder: DescriptionEncoder) -> HyperNetwork:
    """The hypernetwork that training begins from.

    Raises:
        CheckpointError: ``hypernetwork.start`` is of other shapes.
        RecipeError: it is to be standardised and its encoder gives token states, or pointers have nothing to point at.
    """
    settings = recipe.hypernetwork
    if settings.start is not None:
        found = TextToLora.from_pretrained(settings.start).hypernetwork
        if found.spec.groups != spec.groups or found.spec.rank != spec.rank or found.embedding_dim != encoder.dim:
            raise CheckpointError(
                f"The checkpoint '{settings.start}' is for other modules, another rank or another encoder than this "
                "recipe."
            )
        if settings.pointers and found.point_dim is None:  # the rest as it is; pointers begin at gates of zero
            grown = HyperNetwork.from_config({**found.to_config(), "point_dim": _point_dim(recipe, encoder)})
            grown.load_state_dict(found.state_dict(), strict=False)
            return grown
        return found
    return fresh_hypernetwork(recipe, spec, encoder)


def _point_dim(recipe: Recipe, encoder: DescriptionEncoder) -> int:
    """The width of the input embedding with which the encoder's token states begin."""
    layers = recipe.encoder.get("layers")
    if encoder.token_dim is None or not layers or layers[0] != 0:
        raise RecipeError(
            "hypernetwork.pointers points at words by their input embeddings, and these token states do not begin "
            f"with them (encoder.kind: {recipe.encoder.get('kind')}, encoder.layers: {layers}).",
            "Use encoder.kind=token-states with encoder.layers that begin with 0.",
        )
    return encoder.token_dim // len(layers)


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
        point_dim=_point_dim(recipe, encoder) if wanted.pointers else None,
        seed=recipe.loop.seed,
        **head,
    )


def muon_and_adamw(
    module: nn.Module,
    is_hidden_matrix: Callable[[str, nn.Parameter], bool],
    *,
    matrix_lr: float,
    other_lr: float,
    matrix_decay: float = 0.02,
    other_decay: float = 0.0,
) -> list[torch.optim.Optimizer]:
    """The two optimisers of a module; AdamW alone where ``matrix_lr`` is 0 or nothing is chosen.

    Args:
        is_hidden_matrix: by name and parameter; only two-dimensional parameters are asked about.
        matrix_lr: peak of Muon, scaled so that updates are as large as AdamW's.
        other_lr: peak of AdamW.

    Raises:
        T2LError: this torch has no Muon.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        chosen = matrix_lr > 0 and parameter.ndim == 2 and is_hidden_matrix(name, parameter)
        (matrices if chosen else others).append(parameter)
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=other_lr, weight_decay=other_decay, betas=(0.9, 0.98))
    ]
    if matrices:
        if not hasattr(torch.optim, "Muon"):
            raise T2LError(f"This training takes torch 2.9 or newer (its Muon); this is {torch.__version__}.")
        found.append(
            torch.optim.Muon(matrices, lr=matrix_lr, weight_decay=matrix_decay, adjust_lr_fn="match_rms_adamw")
        )
    return found


def hidden_matrices(source: LoraSource) -> Callable[[str, nn.Parameter], bool]:
    """Which matrices Muon updates: those that the source names (``muon_parameters()``), else those of the trunk."""
    named = getattr(source, "muon_parameters", None)
    if named is None:
        return lambda name, _: name.startswith(HIDDEN_MATRICES)
    names = frozenset(named())
    return lambda name, _: name in names


def rate_factor(step: int, steps: int, warmup: float, decay: float, *, cosine: bool = False) -> float:
    """What the peak learning rate is multiplied by in the given step (counted from 0).

    Args:
        warmup: fraction of the steps over which it rises from zero.
        decay: fraction of the steps, at the end, over which it falls to zero.
        cosine: along a cosine instead of in a straight line.
    """
    rising = round(warmup * steps)
    rise = min(1.0, (step + 1) / rising) if rising else 1.0
    left = min(1.0, (steps - step) / max(1.0, decay * steps))
    return rise * (0.5 - 0.5 * math.cos(math.pi * left) if cosine else left)


def modules_of(module: nn.Module) -> list[list[nn.Parameter]]:
    """The trained parameters, those of one module together."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            found.setdefault(name.rpartition(".")[0], []).append(parameter)
    return list(found.values())


class WeightAverage:
    """The exponential moving average of a module's trained parameters.

    It forgets faster in the first steps, so that the start does not stay in it: decay min(decay, (1 + t) / (10 + t)).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self.values = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the parameters after a step."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.values.items():
            value.lerp_(self.parameters[name], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges parameters and average."""
        for name, value in self.parameters.items():
            kept = value.detach().clone()
            value.copy_(self.values[name])
            self.values[name].copy_(kept)

    def tensors(self) -> dict[str, Tensor]:
        """The average, by name."""
        return dict(self.values)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what `tensors` gave."""
        for name, value in self.values.items():
            value.copy_(tensors[name])
