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
        axis_WK = _rounded(axis_WW[:, :kept].float())  # before anything is measured along the axes
        along_MDK = (centred @ axis_WK).double().unflatten(0, rows_MDW.shape[:2])
        off_N = (centred.square().sum(dim=1) - along_MDK.flatten(0, 1).square().sum(dim=1)).clamp_min(0)
        rest = (off_N.mean() + 1e-6 * variance.sum() + 1e-12).sqrt()
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


def apart(place_MJ: Tensor, share: float) -> Tensor:
    """(M,): the cluster of each task that stands apart, -1 for the many others; about ``share`` of the tasks do.

    Tasks are joined nearest first (single linkage) until the largest cluster holds all but that share; tasks outside of
    it are like few others or none. At least one task always stands apart, and one never does.
    """
    count = len(place_MJ)
    cluster_M = torch.arange(count)
    found_M = torch.where(cluster_M == 0, -1, cluster_M)
    for _, one, other in sorted(_spanning_tree(place_MJ)):
        cluster_M = torch.where(cluster_M == cluster_M[other], cluster_M[one], cluster_M)
        largest_M = cluster_M == torch.bincount(cluster_M).argmax()
        if bool(largest_M.all()):
            break
        found_M = torch.where(largest_M, -1, cluster_M)
        if int(largest_M.sum()) >= (1 - share) * count:
            break
    return found_M


def _spanning_tree(place_MJ: Tensor) -> list[tuple[float, int, int]]:
    """Length and ends of the edges of the shortest tree that joins all tasks (Prim)."""
    distance_MM = torch.cdist(place_MJ, place_MJ)
    length_M, parent_M = distance_MM[0].clone(), torch.zeros(len(place_MJ), dtype=torch.long)
    waiting_M = torch.ones(len(place_MJ), dtype=torch.bool)
    waiting_M[0] = False
    edges = []
    while bool(waiting_M.any()):
        new = int(torch.where(waiting_M, length_M, torch.inf).argmin())
        edges.append((float(length_M[new]), int(parent_M[new]), new))
        waiting_M[new] = False
        nearer_M = distance_MM[new] < length_M
        length_M = torch.where(nearer_M, distance_MM[new], length_M)
        parent_M[nearer_M] = new
    return edges


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
    found = dict(parts)
    for name in _SMALL:
        whole, scale = _whole(parts[name])
        found |= {name: whole.to(torch.int8), f"{name}.scale": scale}
    return {f"{prefix}.{name}": part for name, part in found.items()}


def _whole(part: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers of at most 127 and the scale of each column."""
    scale = part.abs().amax(dim=0).clamp_min(1e-12) / _LEVELS
    return (part / scale).round(), scale


def _rounded(part: Tensor) -> Tensor:
    whole, scale = _whole(part)
    return whole * scale
