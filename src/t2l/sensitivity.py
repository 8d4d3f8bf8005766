"""What a checkpoint's descriptions change: adapters against descriptions, layers and modules, drift from the mean.

Axis letters: N descriptions, L layers.

Level 3. This file measures one checkpoint; it knows no base weights and no task's data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from t2l.deltas import cosines, inner_products
from t2l.encoders.encoder import one_vector
from t2l.errors import DescriptionError
from t2l.lora import LoraWeights
from t2l.model import TextToLora

PROBES = (
    "Give the last word of the line.",
    "Give the first word of the line.",
    "Put the words in alphabetical order.",
    "Write the text in capital letters.",
    "Add seven to the number.",
    "Say whether the review is positive or negative.",
    "Translate the word into French.",
    "Answer the question about science with the letter of the right choice.",
    "Write a Python function for the request.",
    "Name the capital of the country.",
    "Say whether the second sentence follows from the first.",
    "Solve the word problem step by step.",
)
"""Descriptions of different tasks, for a checkpoint that is given none."""


@dataclass(frozen=True)
class Site:
    """One layer of one module: the norm of the mean change, and how far single adapters lie from it.

    Args:
        mean: Frobenius norm of the mean weight change, scaling included.
        spread: root mean square distance of the adapters' changes from their mean.
        share: of this site in the spread of all sites together (squares), 0 to 1.
    """

    module: str
    layer: int
    mean: float
    spread: float
    share: float


@dataclass(frozen=True)
class Sensitivity:
    """What `sensitivity` found.

    Args:
        descriptions: those that were compared.
        pairs: for each pair of them (row, row, cosine of embeddings, cosine of weight changes).
        correlation: Pearson's, of the two cosines over all pairs; None where one does not vary.
        drift: for each description the distance of its adapter from the mean, as a share of the mean's norm.
        sites: per layer and module, the largest spread first.
    """

    descriptions: tuple[str, ...]
    pairs: tuple[tuple[int, int, float, float], ...]
    correlation: float | None
    drift: tuple[float, ...]
    sites: tuple[Site, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@torch.inference_mode()
def sensitivity(t2l: TextToLora, descriptions: Sequence[str] = PROBES) -> Sensitivity:
    """How much, where and how faithfully a checkpoint's adapters follow their descriptions.

    A checkpoint whose adapters hardly differ gives a static adapter, whatever its accuracy (LANDSCAPE, section 0).

    Raises:
        DescriptionError: fewer than three different descriptions.
    """
    texts = list(dict.fromkeys(text.strip() for text in descriptions))
    if len(texts) < 3:
        raise DescriptionError(
            f"{len(texts)} different descriptions cannot be compared.", "Give three or more: --description TEXT each."
        )
    embedding_NE = t2l.encoder.encode(texts)
    weights = LoraWeights.cat([adapter.weights for adapter in t2l.generate_from_embeddings(embedding_NE)])
    products = inner_products(weights)  # (module, layer position) -> (N, N), unscaled
    scale = t2l.spec.scaling**2
    whole_NN = torch.stack(list(products.values())).sum(dim=0) * scale
    changes = cosines(whole_NN)
    vector_NW = one_vector(embedding_NE, t2l.encoder.token_dim).double()
    meanings = cosines(vector_NW @ vector_NW.mT)
    count = len(texts)
    pairs = tuple(
        (one, other, meanings[one, other].item(), changes[one, other].item())
        for one in range(count)
        for other in range(one + 1, count)
    )
    mean_square = whole_NN.mean().clamp_min(0)  # |mean change|^2
    distance_N = (whole_NN.diagonal() - 2 * whole_NN.mean(dim=1) + mean_square).clamp_min(0).sqrt()
    drift = tuple((distance_N / mean_square.sqrt().clamp_min(1e-30)).tolist())
    return Sensitivity(tuple(texts), pairs, _pearson(pairs), drift, _sites(t2l, products, scale))


def _pearson(pairs: Sequence[tuple[int, int, float, float]]) -> float | None:
    both = torch.tensor([[pair[2], pair[3]] for pair in pairs], dtype=torch.float64)
    return None if bool((both.std(dim=0) < 1e-12).any()) else float(torch.corrcoef(both.T)[0, 1])


def _sites(t2l: TextToLora, products: dict[tuple[str, int], Tensor], scale: float) -> tuple[Site, ...]:
    found = []
    for (key, place), product_NN in products.items():
        group, square = t2l.spec.group(key), product_NN * scale
        mean = float(square.mean().clamp_min(0))
        spread = float((square.diagonal().mean() - square.mean()).clamp_min(0))
        found.append((key, group.layers[place], mean, spread))
    total = sum(spread for *_, spread in found) or 1.0
    sites = [Site(key, layer, math.sqrt(mean), math.sqrt(spread), spread / total) for key, layer, mean, spread in found]
    return tuple(sorted(sites, key=lambda site: -site.spread))
