"""How near a point is to what a hypernetwork was trained on: a space of training tasks, by embedding or by encoding.

Axis letters: N points, M training tasks, D descriptions a task, W width of the space, K axes that are kept, J of them
along which tasks lie.

Level 5. The training descriptions' leading principal axes and what is left over (probabilistic PCA: Tipping and Bishop,
JRSS B 1999); on these axes tasks are Gaussians with one common covariance, that of descriptions around their own task
(linear discriminant analysis: Lee et al., arXiv 1807.03888). What differs between two wordings of a task, such as the
frame of the sentence, then counts little, and what differs between tasks counts much. This file knows vectors only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.errors import CheckpointError

_RIDGE = 0.1  # of the mean variance of a task's descriptions, added to each direction: small ones are mostly noise
_LEAST = 0.01  # of the mean variance of all descriptions, added as well: a task may have one description alone
_ROUNDS = 40
_PARTS = ("mean_W", "axis_WK", "turn_KK", "rest", "place_MJ")
_SMALL = ("axis_WK", "place_MJ")  # stored as whole numbers with a scale for each column
_LEVELS = 127


@dataclass(frozen=True, eq=False)
class TaskSpace:
    """Where the training tasks lie.

    Args:
        mean_W: of all training descriptions.
        axis_WK: orthonormal principal axes.
        turn_KK: from the axes to discriminants, along which descriptions of one task have variance 1; those along
            which tasks differ most come first.
        rest: root mean square of what lies off the axes, a scalar.
        place_MJ: each task's mean, along the first J discriminants.
    """

    mean_W: Tensor
    axis_WK: Tensor
    turn_KK: Tensor
    rest: Tensor
    place_MJ: Tensor

    @classmethod
    def of(cls, rows_MDW: Tensor, axes: int, places: int) -> TaskSpace:
        """From D vectors of each of M tasks, with at most ``axes`` axes, and tasks along at most ``places`` of them.

        The space is the one that `tensors` and `from_tensors` give back, rounded as it is stored.
        """
        flat = rows_MDW.flatten(0, 1).float()
        mean_W = flat.mean(dim=0)
        centred = flat - mean_W
        variance, axis_WW = torch.linalg.eigh((centred.T @ centred / len(centred)).double())
        variance, axis_WW = variance.flip(0).clamp_min(0), axis_WW.flip(1)
        kept = min(axes, len(variance), max(1, len(flat) - 1))
        axis_WK = axis_WW[:, :kept]
        rest = (variance[kept:].sum() + 1e-6 * variance.sum() + 1e-12).sqrt()
        along_MDK = ((rows_MDW.float() - mean_W) @ axis_WK.float()).double()
        turn_KK = _discriminants(along_MDK, variance.mean())
        place_MJ = along_MDK.mean(dim=1) @ turn_KK[:, :places]
        parts = dict(zip(_PARTS, (mean_W, axis_WK, turn_KK, rest, place_MJ), strict=True))
        return cls.from_tensors(_stored({name: part.float() for name, part in parts.items()}, ""), "")

    @cached_property
    def back_KK(self) -> Tensor:
        """From the discriminants to the axes."""
        return torch.linalg.pinv(self.turn_KK)

    @cached_property
    def spread(self) -> Tensor:
        """Standard deviation along one direction of W: of a task's descriptions on the axes, of all off them."""
        return ((self.back_KK.square().sum() + self.rest.square()) / len(self.mean_W)).sqrt()

    def places(self, point_NW: Tensor) -> Tensor:
        """(N, K): along the discriminants."""
        return (point_NW.float() - self.mean_W) @ self.axis_WK @ self.turn_KK

    def strangeness(self, point_NW: Tensor) -> Tensor:
        """(N,): how far off the axes, relative to the training descriptions' own; 1 is usual."""
        off_NW = point_NW.float() - self.mean_W
        along_N = (off_NW @ self.axis_WK).square().sum(dim=1)
        return (off_NW.square().sum(dim=1) - along_N).clamp_min(0).sqrt() / self.rest

    def distances(self, point_NW: Tensor) -> Tensor:
        """(N, M): Mahalanobis distance to each task, over that of a usual description to its own task: sqrt(K)."""
        place_NK = self.places(point_NW)
        kept = self.place_MJ.shape[1]
        beside_N1 = place_NK[:, kept:].square().sum(dim=1, keepdim=True)
        squared_NM = torch.cdist(place_NK[:, :kept], self.place_MJ).square() + beside_N1
        return (squared_NM / place_NK.shape[1]).sqrt()

    def similarities(self, point_NW: Tensor) -> Tensor:
        """(N, M): cosine similarity to each task along the axes that tasks lie on, in the space's own units."""
        kept = self.place_MJ.shape[1]
        back_JK = self.back_KK[:kept]
        own_NK = F.normalize(self.places(point_NW)[:, :kept] @ back_JK, dim=-1)
        return own_NK @ F.normalize(self.place_MJ @ back_JK, dim=-1).T

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Its tensors by name, to be stored: axes and places in eight bits, the others in float32."""
        return _stored({name: getattr(self, name) for name in _PARTS}, prefix)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], prefix: str) -> TaskSpace:
        """The space that `tensors` gave.

        Raises:
            CheckpointError: a tensor is missing or does not fit the others.
        """
        problem = CheckpointError(f"The calibration's tensors '{prefix}' do not fit together.", "Calibrate again.")
        parts: dict[str, Tensor] = {}
        try:
            for name in _PARTS:
                part = tensors[f"{prefix}.{name}"].float()
                if name in _SMALL:
                    scale = tensors[f"{prefix}.{name}.scale"].float()
                    if part.ndim != 2 or scale.shape != part.shape[1:]:
                        raise problem
                    part = part * scale
                parts[name] = part
        except KeyError as missing:
            raise CheckpointError(f"The calibration lacks the tensor {missing}.", "Calibrate again.") from missing
        kept, width = parts["turn_KK"].shape[0], parts["mean_W"].numel()
        fits = parts["axis_WK"].shape == (width, kept) and parts["turn_KK"].shape == (kept, kept)
        fits = fits and parts["place_MJ"].shape[1] <= kept and parts["rest"].numel() == 1
        if not fits or not all(bool(torch.isfinite(part).all()) for part in parts.values()):
            raise problem
        parts["rest"] = parts["rest"].reshape(())
        return cls(**parts)


def groups_of(rows_MJ: Tensor, groups: int) -> Tensor:
    """(M,): the group of each row, by spherical k-means from rows that are far apart; the same for the same rows."""
    unit_MJ = F.normalize(rows_MJ, dim=-1)
    chosen = [int((unit_MJ @ unit_MJ.mean(dim=0)).argmin())]
    while len(chosen) < min(groups, len(rows_MJ)):
        chosen.append(int((unit_MJ @ unit_MJ[chosen].T).amax(dim=1).argmin()))
    centre_GJ = unit_MJ[chosen]
    for _ in range(_ROUNDS):
        group_M = (unit_MJ @ centre_GJ.T).argmax(dim=1)
        sums_GJ = torch.zeros_like(centre_GJ).index_add(0, group_M, unit_MJ)
        centre_GJ = torch.where(sums_GJ.norm(dim=1, keepdim=True) > 0, F.normalize(sums_GJ, dim=-1), centre_GJ)
    return (unit_MJ @ centre_GJ.T).argmax(dim=1)


def _discriminants(along_MDK: Tensor, variance: Tensor) -> Tensor:
    """turn_KK of `TaskSpace`; ``variance`` is the mean of all W directions."""
    flat = along_MDK.flatten(0, 1)
    within = (along_MDK - along_MDK.mean(dim=1, keepdim=True)).flatten(0, 1)
    freedom = max(1, len(within) - len(along_MDK))
    within_KK = within.T @ within / freedom
    ridge = _RIDGE * within_KK.diagonal().mean() + _LEAST * variance + 1e-12
    size_K, axis_KK = torch.linalg.eigh(within_KK + ridge * torch.eye(len(within_KK), dtype=within_KK.dtype))
    whiten_KK = axis_KK / size_K.sqrt()
    white = flat @ whiten_KK
    _, order_KK = torch.linalg.eigh(white.T @ white / len(white))
    return whiten_KK @ order_KK.flip(1)


def _stored(parts: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {}
    for name, part in parts.items():
        if name in _SMALL:
            scale = part.abs().amax(dim=0).clamp_min(1e-12) / _LEVELS
            found[f"{prefix}.{name}"] = (part / scale).round().to(torch.int8)
            found[f"{prefix}.{name}.scale"] = scale
        else:
            found[f"{prefix}.{name}"] = part
    return found
