"""How near a description is to what a hypernetwork was trained on, without any task data: the signals of a confidence.

Axis letters: N descriptions, M training tasks, D descriptions a task, W width of the space, K axes that are kept, J of
them along which tasks lie, E embedding width, F signals.

Level 5. All of it needs the encoder, the hypernetwork and what a calibration keeps of the training tasks; no base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.encoders.encoder import one_vector
from t2l.errors import CheckpointError
from t2l.model import TextToLora
from t2l.site_attention import SiteAttention

SIGNALS: tuple[str, ...] = ("novelty", "task_distance")
"""None of them may raise the confidence.

``novelty``: how far the embedding is off the span of the training descriptions; 1 is usual.
``task_distance``: to the nearest training task, between task features as the hypernetwork encodes descriptions, over
that of a usual description to its own task.
"""
_RIDGE = 0.1  # of the mean variance of a task's descriptions, added to each direction: small ones are mostly noise
_LEAST = 0.01  # of the mean variance of all descriptions, added as well: a task may have one description alone
_SMALL = ("axis_WK", "place_MJ")  # stored as whole numbers with a scale for each column
_LEVELS = 127
Stored = TypeVar("Stored", "Span", "TaskSpace")


@dataclass(frozen=True, eq=False)
class Span:
    """The training descriptions' leading principal axes and the residual (probabilistic PCA: Tipping and Bishop, 1999).

    Args:
        mean_W: of all training descriptions.
        axis_WK: orthonormal principal axes.
        residual: root mean square of what lies off the axes, a scalar.
    """

    mean_W: Tensor
    axis_WK: Tensor
    residual: Tensor

    @classmethod
    def of(cls, rows_NW: Tensor, axes: int) -> Span:
        """From vectors of training descriptions, with at most ``axes`` axes; rounded as it is stored."""
        mean_W, axis_WK, variance_W = _principal(rows_NW, axes)
        centred_NW = rows_NW.float() - mean_W
        off_N = (centred_NW.square().sum(dim=1) - (centred_NW @ axis_WK).square().sum(dim=1)).clamp_min(0)
        return cls(mean_W, axis_WK, (off_N.mean() + 1e-6 * variance_W.sum() + 1e-12).sqrt().float())

    def novelty(self, point_NW: Tensor) -> Tensor:
        """(N,): how far off the axes, relative to the training descriptions' own; 1 is usual."""
        off_NW = point_NW.float() - self.mean_W
        along_N = (off_NW @ self.axis_WK).square().sum(dim=1)
        return (off_NW.square().sum(dim=1) - along_N).clamp_min(0).sqrt() / self.residual


@dataclass(frozen=True, eq=False)
class TaskSpace:
    """Where the training tasks lie: Gaussians with one common covariance, that of descriptions around their own task.

    What differs between two wordings of a task, such as the frame of the sentence, then counts little, and what differs
    between tasks counts much (linear discriminant analysis: Lee et al., arXiv 1807.03888).

    Args:
        mean_W: of all training descriptions.
        axis_WK: orthonormal principal axes.
        turn_KK: from the axes to discriminants, along which descriptions of one task have variance 1; those along
            which tasks differ most come first.
        place_MJ: each task's mean, along the first J discriminants.
    """

    mean_W: Tensor
    axis_WK: Tensor
    turn_KK: Tensor
    place_MJ: Tensor

    @classmethod
    def of(cls, rows_MDW: Tensor, axes: int, places: int) -> TaskSpace:
        """From D vectors of each of M tasks, with at most ``axes`` axes, and tasks along at most ``places`` of them."""
        mean_W, axis_WK, variance_W = _principal(rows_MDW.flatten(0, 1), axes)
        along_MDK = ((rows_MDW.float() - mean_W) @ axis_WK).double()
        turn_KK = _discriminants(along_MDK, variance_W.mean())
        place_MJ = _rounded((along_MDK.mean(dim=1) @ turn_KK[:, :places]).float())
        return cls(mean_W, axis_WK, turn_KK.float(), place_MJ)

    @cached_property
    def back_KK(self) -> Tensor:
        """From the discriminants to the axes."""
        return torch.linalg.pinv(self.turn_KK)

    def places(self, point_NW: Tensor) -> Tensor:
        """(N, K): along the discriminants."""
        return (point_NW.float() - self.mean_W) @ self.axis_WK @ self.turn_KK

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


@dataclass(frozen=True, eq=False)
class Known:
    """What is kept of the training tasks.

    Args:
        names: of the M tasks.
        descriptions: one of each, or a label.
        span: of their descriptions' embeddings.
        features: where they lie as task features.
    """

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    span: Span
    features: TaskSpace

    def measure(self, vector_NW: Tensor, feature_NW: Tensor) -> Tensor:
        """All `SIGNALS` of N descriptions (N, F), float32, from `vectors` of them."""
        distance_N = self.features.distances(feature_NW).amin(dim=1)
        return torch.stack([self.span.novelty(vector_NW), distance_N], dim=1)


@torch.inference_mode()
def vectors(t2l: TextToLora, embedding_NE: Tensor) -> tuple[Tensor, Tensor]:
    """Two vectors a text (N, W), for `Known.measure`: the embedding, and what the hypernetwork makes of it.

    Of token states the mean over tokens counts, standardised where the hypernetwork does so; of the features of variant
    T the mean over its sites.
    """
    reader = t2l.hypernetwork.task_encoder
    feature_NK = t2l.hypernetwork.encode(embedding_NE).float().cpu()
    if isinstance(reader, SiteAttention):
        state_NTW, real_NT = reader.standardised(embedding_NE.to(reader.mean_W.device, reader.mean_W.dtype))
        share_NT = real_NT / real_NT.sum(dim=1, keepdim=True).clamp_min(1)
        vector_NW = (reader.shared(state_NTW) * share_NT[..., None]).sum(dim=1)
        return vector_NW.float().cpu(), feature_NK.unflatten(1, (reader.sites, -1)).mean(dim=1)
    return one_vector(embedding_NE, t2l.encoder.token_dim), feature_NK


def stored(space: Span | TaskSpace, prefix: str) -> dict[str, Tensor]:
    """Its tensors by name, as they are written."""
    found: dict[str, Tensor] = {}
    for field in fields(space):
        part, name = getattr(space, field.name), f"{prefix}.{field.name}"
        if field.name in _SMALL:
            whole, scale = _whole(part)
            found |= {name: whole.to(torch.int8), f"{name}.scale": scale}
        else:
            found[name] = part
    return found


def restored(kind: type[Stored], tensors: Mapping[str, Tensor], prefix: str) -> Stored:
    """What `stored` gave.

    Raises:
        CheckpointError: a tensor is missing or does not fit the others.
    """
    problem = CheckpointError(f"The calibration's tensors '{prefix}' do not fit together.", "Calibrate again.")
    parts: dict[str, Tensor] = {}
    try:
        for field in fields(kind):
            part = tensors[f"{prefix}.{field.name}"].float()
            if field.name in _SMALL:
                scale = tensors[f"{prefix}.{field.name}.scale"].float()
                if part.ndim != 2 or scale.shape != part.shape[1:]:
                    raise problem
                part = part * scale
            parts[field.name] = part
    except KeyError as missing:
        raise CheckpointError(f"The calibration lacks the tensor {missing}.", "Calibrate again.") from missing
    width, kept = parts["axis_WK"].shape
    fits = parts["mean_W"].shape == (width,) and all(bool(torch.isfinite(part).all()) for part in parts.values())
    if "residual" in parts:
        fits = fits and parts["residual"].shape == ()
    else:
        places = parts["place_MJ"]
        fits = fits and parts["turn_KK"].shape == (kept, kept) and places.ndim == 2 and places.shape[1] <= kept
    if not fits:
        raise problem
    return kind(**parts)


def _principal(rows_NW: Tensor, axes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, leading axes (as they are stored) and the variances along all axes."""
    mean_W = rows_NW.float().mean(dim=0)
    centred_NW = rows_NW.float() - mean_W
    variance_W, axis_WW = torch.linalg.eigh((centred_NW.T @ centred_NW / len(centred_NW)).double())
    kept = min(axes, len(variance_W), max(1, len(rows_NW) - 1))
    return mean_W, _rounded(axis_WW.flip(1)[:, :kept].float()), variance_W.clamp_min(0)


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


def _whole(part: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers of at most 127 and the scale of each column."""
    scale = part.abs().amax(dim=0).clamp_min(1e-12) / _LEVELS
    return (part / scale).round(), scale


def _rounded(part: Tensor) -> Tensor:
    whole, scale = _whole(part)
    return whole * scale
