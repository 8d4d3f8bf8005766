"""What the trunk of a hypernetwork reads: task features from a description embedding, and position features.

Axis letters: N samples, E embedding width, P positions (a layer of a module group each), K feature width, C codes;
T tokens, W width of a token's state (E = T * W), D model width, H attention heads, Q queries.

Level 0. Text-to-LoRA (arXiv 2506.06105, section 3 and appendix): the linear task encoder and the learned positions are
the paper's. The other encoders exist so that every checkpoint of the reference implementation can be read; their
codebooks stay as they are in further training. One sentence vector from a small encoder tells 'first' from 'last'
badly, and cannot be asked which word is which; token states can, read by a small transformer and pooled by learned
queries (Set Transformer, arXiv 1810.00825, section 3.2). Nothing here knows about LoRA, ranks or shapes of modules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2l.errors import T2LError

TaskEncoderKind = Literal["linear", "discrete", "vq", "softmax", "tokens"]
_NUM_CODES = 32  # vq, softmax
_NUM_CLASSES = 64  # discrete
_DROPOUT = 0.05
_HEADS = 4  # of the token encoder, as all that follows
_QUERIES = 6
_CHUNK = 32  # texts read at a time
_LAYERS = 2
_POSITION_SCALE = 0.1  # embeddings begin with variance 1, which would drown the words
DROPOUT = 0.1
TOKEN_DROPOUT = 0.1


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


class TokenTaskEncoder(TaskEncoder):
    """Task features from the states of a description's tokens.

    Args:
        embedding_dim: E, the states of T tokens one after the other; tokens that are all zero are padding.
        token_dim: W.
        out_features: K.
        model_dim: D.

    Raises:
        T2LError: E is not a multiple of W.
    """

    def __init__(self, embedding_dim: int, token_dim: int, out_features: int, model_dim: int = 256) -> None:
        super().__init__()
        if token_dim < 1 or embedding_dim % token_dim:
            raise T2LError(
                f"An embedding of width {embedding_dim} is not a whole number of token states of width {token_dim}."
            )
        self.out_features = out_features
        self.token_dim = token_dim
        self.norm = nn.LayerNorm(token_dim)
        self.enter = nn.Linear(token_dim, model_dim)
        self.position = new_embedding(embedding_dim // token_dim, model_dim)
        self.layers = nn.ModuleList([_Layer(model_dim) for _ in range(_LAYERS)])
        self.query = new_embedding(_QUERIES, model_dim)
        self.pool = _Attention(model_dim)
        self.leave = nn.Linear(_QUERIES * model_dim, out_features)
        self.out_norm = nn.LayerNorm(out_features)

    def forward(self, embedding_NE: Tensor) -> Tensor:
        state_NTW = embedding_NE.unflatten(-1, (-1, self.token_dim))
        real_NT = (state_NTW != 0).any(dim=-1)
        if not len(real_NT):
            return embedding_NE.new_zeros(0, self.out_features)
        order_N = real_NT.sum(dim=1).argsort(stable=True)  # texts of similar length together, to spare padding
        parts = [self._read(state_NTW[rows], real_NT[rows]) for rows in order_N.split(_CHUNK)]
        return torch.cat(parts)[order_N.argsort()]

    def _read(self, state_NTW: Tensor, real_NT: Tensor) -> Tensor:
        longest = max(1, int(real_NT.sum(dim=1).max()))
        state_NTW, real_NT = state_NTW[:, :longest], real_NT[:, :longest]
        if self.training:  # words left out at random; the first stays, so that none is left empty
            kept_NT = torch.rand(real_NT.shape, device=real_NT.device) >= TOKEN_DROPOUT
            kept_NT[:, 0] = True
            real_NT = real_NT & kept_NT
        x_NTD = self.enter(self.norm(state_NTW)) + _POSITION_SCALE * self.position.weight[:longest]
        x_NTD = F.dropout(x_NTD, DROPOUT, self.training)
        for layer in self.layers:
            x_NTD = layer(x_NTD, real_NT)
        query_NQD = self.query.weight.expand(len(x_NTD), -1, -1)
        pooled_NQD = self.pool(query_NQD, x_NTD, real_NT)
        return self.out_norm(self.leave(pooled_NQD.flatten(1)))


class _Layer(nn.Module):
    """A pre-norm transformer layer over the tokens of each sample."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _Attention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x_NTD: Tensor, real_NT: Tensor) -> Tensor:
        y_NTD = self.norm1(x_NTD)
        x_NTD = x_NTD + F.dropout(self.attention(y_NTD, y_NTD, real_NT), DROPOUT, self.training)
        return x_NTD + F.dropout(self.mlp(self.norm2(x_NTD)), DROPOUT, self.training)


class _Attention(nn.Module):
    """Multi-head attention of one sequence to the real tokens of another."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q, self.to_kv, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x_NQD: Tensor, y_NTD: Tensor, real_NT: Tensor) -> Tensor:
        q_NHQC = self.to_q(x_NQD).unflatten(-1, (_HEADS, -1)).transpose(1, 2)
        k_NHTC, v_NHTC = self.to_kv(y_NTD).unflatten(-1, (2, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        mask_N11T = real_NT[:, None, None, :]
        mixed_NHQC = F.scaled_dot_product_attention(q_NHQC, k_NHTC, v_NHTC, attn_mask=mask_N11T)
        return self.out(mixed_NHQC.transpose(1, 2).flatten(2))


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
