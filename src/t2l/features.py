"""What the trunk of a hypernetwork reads: task features from a description embedding, and position features.

Axis letters: N samples, E embedding width, P positions (a layer of a module group each), K feature width, C codes.

Level 0. Text-to-LoRA (arXiv 2506.06105, section 3 and appendix): the linear task encoder and the learned positions are
the paper's. The other encoders exist so that every checkpoint of the reference implementation can be read; their
codebooks stay as they are in further training. Nothing here knows about LoRA, ranks or shapes of modules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TaskEncoderKind = Literal["linear", "discrete", "vq", "softmax", "tokens"]
_NUM_CODES = 32  # vq, softmax
_NUM_CLASSES = 64  # discrete
_DROPOUT = 0.05


class TaskEncoder(nn.Module, ABC):
    """From a description embedding to the task features that the trunk reads."""

    out_features: int

    @abstractmethod
    def forward(self, embedding_NE: Tensor) -> Tensor:
        """Task features (N, K), with K = ``out_features``."""


class LinearTaskEncoder(TaskEncoder):
    """Linear, then LayerNorm: the encoder of the paper."""

    def __init__(self, embedding_dim: int, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features
        self.linear = nn.Linear(embedding_dim, out_features)
        self.norm = nn.LayerNorm(out_features)

    def forward(self, embedding_NE: Tensor) -> Tensor:
        return self.norm(self.linear(embedding_NE))


class DiscreteTaskEncoder(TaskEncoder):
    """One of 64 classes, as a one-hot row: the class with the largest logit, with straight-through gradients."""

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.out_features = _NUM_CLASSES
        self.mlp = _mlp(embedding_dim, 4 * _NUM_CLASSES, _NUM_CLASSES)

    def forward(self, embedding_NE: Tensor) -> Tensor:
        logits_NK = self.mlp(embedding_NE)
        one_hot_NK = F.one_hot(logits_NK.argmax(dim=-1), self.out_features).to(logits_NK.dtype)
        if not self.training:
            return one_hot_NK
        probabilities_NK = logits_NK.softmax(dim=-1)
        return one_hot_NK + probabilities_NK - probabilities_NK.detach()


class QuantisedTaskEncoder(TaskEncoder):
    """The nearest of 32 codes to an MLP's output (vector quantisation), then LayerNorm; straight-through gradients."""

    code_CK: Tensor

    def __init__(self, embedding_dim: int, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features
        self.mlp = _mlp(embedding_dim, 4 * out_features, out_features)
        self.norm = nn.LayerNorm(out_features)
        self.register_buffer("code_CK", torch.zeros(_NUM_CODES, out_features))

    def forward(self, embedding_NE: Tensor) -> Tensor:
        point_NK = self.mlp(embedding_NE)
        # |point - code|^2 without |point|^2, which does not change which code is nearest
        distance_NC = self.code_CK.square().sum(dim=1) - 2 * point_NK @ self.code_CK.T
        nearest_NK = self.code_CK[distance_NC.argmin(dim=-1)]
        return self.norm(point_NK + (nearest_NK - point_NK).detach())


class SoftmaxTaskEncoder(TaskEncoder):
    """A mixture of 32 learned codes, weighted by a softmax over an MLP's output, then LayerNorm."""

    def __init__(self, embedding_dim: int, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features
        self.mlp = _mlp(embedding_dim, 4 * out_features, _NUM_CODES)
        self.norm = nn.LayerNorm(out_features)
        self.code_CK = nn.Parameter(torch.zeros(_NUM_CODES, out_features))

    def forward(self, embedding_NE: Tensor) -> Tensor:
        return self.norm(self.mlp(embedding_NE).softmax(dim=-1) @ self.code_CK)


class PositionEncoder(nn.Module, ABC):
    """From a place in the base model (depth, module group) to the position features that the trunk reads."""

    out_features: int

    @abstractmethod
    def forward(self, depth_P: Tensor, module_P: Tensor) -> Tensor:
        """Position features (P, K) for integer depths and group indices: the depth's, then the group's."""


class LearnedPositions(PositionEncoder):
    """An embedding and a LayerNorm for depth, and the same for the module group."""

    def __init__(self, num_layers: int, num_groups: int, width: int) -> None:
        super().__init__()
        self.out_features = 2 * width
        self.depth = nn.Sequential(new_embedding(num_layers, width), nn.LayerNorm(width))
        self.module = nn.Sequential(new_embedding(num_groups, width), nn.LayerNorm(width))

    def forward(self, depth_P: Tensor, module_P: Tensor) -> Tensor:
        return torch.cat([self.depth(depth_P), self.module(module_P)], dim=-1)


class OneHotPositions(PositionEncoder):
    """One-hot rows for depth and module group; nothing is learned. It goes with the discrete task encoder."""

    def __init__(self, num_layers: int, num_groups: int) -> None:
        super().__init__()
        self.num_layers, self.num_groups = num_layers, num_groups
        self.out_features = num_layers + num_groups

    def forward(self, depth_P: Tensor, module_P: Tensor) -> Tensor:
        return torch.cat([F.one_hot(depth_P, self.num_layers), F.one_hot(module_P, self.num_groups)], dim=-1)


def build_position_encoder(kind: TaskEncoderKind, num_layers: int, num_groups: int, width: int) -> PositionEncoder:
    """The position encoder that goes with a task encoder: one-hot beside a discrete one, learned otherwise."""
    if kind == "discrete":
        return OneHotPositions(num_layers, num_groups)
    return LearnedPositions(num_layers, num_groups, width)


def new_embedding(count: int, width: int) -> nn.Embedding:
    """An embedding; on the meta device it draws no values, for which torch would import its compiler for seconds."""
    embedding = nn.Embedding.from_pretrained(torch.empty(count, width), freeze=False)
    if not embedding.weight.is_meta:
        embedding.reset_parameters()
    return embedding


def _mlp(in_features: int, hidden: int, out_features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(in_features, hidden), nn.SiLU(), nn.Dropout(_DROPOUT), nn.Linear(hidden, out_features)
    )
