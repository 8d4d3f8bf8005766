"""Inner products of weight changes, from A and B alone: no change ``B A`` is ever formed.

Axis letters: N samples, L layers.

<B A, B' A'> = sum((B^T B') * (A A'^T)). Scalings are left out.

Level 1. Knows tensors of adapters; knows no folder and no checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor

from t2l.lora import LoraWeights


def inner_products(weights: LoraWeights) -> dict[tuple[str, int], Tensor]:
    """(group, place of the layer in it) -> inner products (N, N) of the samples' weight changes there, float64."""
    found = {}
    for key, a_NLRI in weights.a.items():
        b_NLOR = weights.b[key].double()
        for place in range(a_NLRI.shape[1]):
            a_NRI, b_NOR = a_NLRI[:, place].double(), b_NLOR[:, place]
            rows = []
            for a_RI, b_OR in zip(a_NRI, b_NOR, strict=True):
                rows.append(((b_OR.mT @ b_NOR) * (a_RI @ a_NRI.mT)).sum(dim=(-2, -1)))
            found[key, place] = torch.stack(rows)
    return found


def cosines(product_NN: Tensor) -> Tensor:
    """Cosines (N, N) from inner products; 0 beside a vector that is zero."""
    length_N = product_NN.diagonal().clamp_min(0).sqrt().clamp_min(1e-30)
    return product_NN / (length_N[:, None] * length_N[None])


def delta_similarity(weights: LoraWeights) -> Tensor:
    """Cosines (N, N) of the samples' weight changes, all modules of an adapter as one vector."""
    return cosines(torch.stack(list(inner_products(weights).values())).sum(dim=0))
