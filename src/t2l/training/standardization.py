"""Conditions with mean 0 and variance 1 in training, and plain embeddings ever after.

Sentence embeddings share a large common part (in the embedded world 57% of their energy is the same for every
description), which slows learning what tells them apart. Training reads standardised embeddings; at the end the
affine map goes into the first linear layer, so a checkpoint and its users know nothing of it.

Axis letters: N conditions, E embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from t2l.errors import T2LError
from t2l.features import LinearTaskEncoder
from t2l.hypernet import HyperNetwork

_SMALLEST_SCALE = 1e-2  # a coordinate that hardly varies is not blown up


@dataclass(frozen=True)
class Standardization:
    """``(embedding - mean) / scale``, coordinate by coordinate.

    Args:
        mean_E: of the training descriptions.
        scale_E: their standard deviation.
    """

    mean_E: Tensor
    scale_E: Tensor

    @classmethod
    def of(cls, embedding_NE: Tensor) -> Standardization:
        """The one that gives these embeddings mean 0 and variance 1."""
        embedding_NE = embedding_NE.float()
        return cls(embedding_NE.mean(dim=0), embedding_NE.std(dim=0).clamp_min(_SMALLEST_SCALE))

    @classmethod
    def from_sums(cls, count: int, total_E: Tensor, squares_E: Tensor) -> Standardization:
        """As `of`, from the number of embeddings, their sum and the sum of their squares (float64)."""
        mean_E = total_E / count
        variance_E = (squares_E - count * mean_E.square()).clamp_min(0) / max(1, count - 1)
        return cls(mean_E.float(), variance_E.sqrt().float().clamp_min(_SMALLEST_SCALE))

    def __call__(self, embedding_NE: Tensor) -> Tensor:
        """Standardised embeddings, float32."""
        return (embedding_NE.float() - self.mean_E) / self.scale_E

    @torch.no_grad()
    def fold_into(self, hypernetwork: HyperNetwork) -> None:
        """Lets a hypernetwork that was trained on standardised embeddings read plain ones, with the same output.

        Raises:
            T2LError: its task encoder does not begin with a linear layer.
        """
        if not isinstance(hypernetwork.task_encoder, LinearTaskEncoder):
            raise T2LError("Standardisation can only be folded into a linear task encoder.")
        linear = hypernetwork.task_encoder.linear
        linear.weight.div_(self.scale_E)
        linear.bias.sub_(linear.weight @ self.mean_E)
