"""How near a point is to what a hypernetwork was trained on: a space of training tasks, by embedding or by encoding.

Axis letters: N points, M training tasks, D descriptions a task, W width of the space, K axes that are kept.

Level 5. A Gaussian of the training descriptions, given by its leading principal axes and what is left over
(probabilistic PCA: Tipping and Bishop, JRSS B 1999), and the tasks' mean places on those axes in units of standard
deviations: Mahalanobis distances, with few numbers. This file knows vectors only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from t2l.errors import CheckpointError

_RIDGE = 0.05  # of the mean variance, added to each axis: small axes are mostly noise
_PARTS = ("mean_W", "axis_WK", "scale_K", "rest", "place_MK")


@dataclass(frozen=True, eq=False)
class TaskSpace:
    """Where the training tasks lie.

    Args:
        mean_W: of all training descriptions.
        axis_WK: orthonormal principal axes.
        scale_K: standard deviations along them.
        rest: root mean square of what lies off the axes, a scalar.
        place_MK: each task's mean, along the axes, in standard deviations.
    """

    mean_W: Tensor
    axis_WK: Tensor
    scale_K: Tensor
    rest: Tensor
    place_MK: Tensor

    @classmethod
    def of(cls, rows_MDW: Tensor, axes: int) -> TaskSpace:
        """From D vectors of each of M tasks, with at most ``axes`` axes."""
        flat = rows_MDW.flatten(0, 1).double()
        mean_W = flat.mean(dim=0)
        centred = flat - mean_W
        variance, axis_WW = torch.linalg.eigh(centred.T @ centred / len(centred))
        variance, axis_WW = variance.flip(0).clamp_min(0), axis_WW.flip(1)
        kept = min(axes, len(variance), max(1, len(flat) - 1))
        axis_WK = axis_WW[:, :kept]
        scale_K = (variance[:kept] + _RIDGE * variance.mean() + 1e-12).sqrt()
        rest = (variance[kept:].sum() + 1e-6 * variance.sum() + 1e-12).sqrt()
        place_MK = (rows_MDW.double().mean(dim=1) - mean_W) @ axis_WK / scale_K
        return cls(mean_W.float(), axis_WK.float(), scale_K.float(), rest.float(), place_MK.float())

    def places(self, point_NW: Tensor) -> Tensor:
        """(N, K): along the axes, in standard deviations."""
        return (point_NW.float() - self.mean_W) @ self.axis_WK / self.scale_K

    def strangeness(self, point_NW: Tensor) -> Tensor:
        """(N,): how far off the axes, relative to the training descriptions' own; 1 is usual."""
        off_NW = point_NW.float() - self.mean_W
        along_N = (off_NW @ self.axis_WK).square().sum(dim=1)
        return (off_NW.square().sum(dim=1) - along_N).clamp_min(0).sqrt() / self.rest

    def distances(self, point_NW: Tensor) -> Tensor:
        """(N, M): to each task, along the axes; root mean square of standard deviations."""
        return torch.cdist(self.places(point_NW), self.place_MK) / self.scale_K.numel() ** 0.5

    def similarities(self, point_NW: Tensor) -> Tensor:
        """(N, M): cosine similarity to each task along the axes, in the space's own units."""
        own_NK = torch.nn.functional.normalize(self.places(point_NW) * self.scale_K, dim=-1)
        return own_NK @ torch.nn.functional.normalize(self.place_MK * self.scale_K, dim=-1).T

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Its tensors in half precision, by name, to be stored."""
        return {f"{prefix}.{name}": getattr(self, name).half() for name in _PARTS}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], prefix: str) -> TaskSpace:
        """The space that `tensors` gave.

        Raises:
            CheckpointError: a tensor is missing or does not fit the others.
        """
        try:
            parts = [tensors[f"{prefix}.{name}"].float() for name in _PARTS]
        except KeyError as problem:
            raise CheckpointError(f"The calibration lacks the tensor {problem}.", "Calibrate again.") from problem
        mean_W, axis_WK, scale_K, rest, place_MK = parts
        kept = scale_K.numel()
        fits = axis_WK.shape == (mean_W.numel(), kept) and place_MK.ndim == 2 and place_MK.shape[1] == kept
        if not fits or rest.numel() != 1 or not all(bool(torch.isfinite(part).all()) for part in parts):
            raise CheckpointError(f"The calibration's tensors '{prefix}' do not fit together.", "Calibrate again.")
        return cls(mean_W, axis_WK, scale_K, rest.reshape(()), place_MK)
