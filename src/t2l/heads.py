"""The parts of a hypernetwork that hold its size: the trunk, and the heads that turn its state into A and B.

Legend of axis letters: N samples, L layers of one group, P positions (the layers of all groups), G groups, R rank,
I in-features, O out-features, D trunk width, H head input width, K outputs of a linear layer, F factor (A, then B).

Source: arXiv 2506.06105, appendix; the behaviour of its reference implementation. Level 0: knows the shapes of a spec;
does not know embeddings, positions in the base or files.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2l.errors import T2LError, did_you_mean
from t2l.features import new_embedding
from t2l.lora import LoraSpec, ModuleGroup

Variant = Literal["L", "M", "S", "R", "T"]


class Residual(nn.Module):
    """``x + MLP(LayerNorm(x))``, dropout at the end of the branch."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_mlp(width, width, dropout), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Trunk(nn.Module):
    """The layers that all module groups share: mixer and block 1, then block 2, then the last MLP.

    The heads decide what happens between the three steps, which is all that the variants differ in.

    Args:
        width: D, of the features that come in and of every state inside.
        head_dim: H, what the heads read.
    """

    def __init__(self, width: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.mixer = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(width, 4 * width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
            nn.SiLU(),
            nn.Dropout(dropout),
        )
        self.block1 = Residual(width, dropout)
        self.block2 = Residual(width, dropout)
        self.last = nn.Sequential(*_mlp(width, head_dim, dropout))

    def begin(self, features_NPD: Tensor) -> Tensor:
        """Mixer and block 1: (N, P, D) to (N, P, D)."""
        return self.block1(self.mixer(features_NPD))

    def refine(self, x_D: Tensor) -> Tensor:
        """Block 2, over the last axis: (..., D) to (..., D)."""
        return self.block2(x_D)

    def finish(self, x_D: Tensor) -> Tensor:
        """The last MLP, over the last axis: (..., D) to (..., H)."""
        return self.last(x_D)


class Head(nn.Module, ABC):
    """From the trunk's state to A and B; one linear layer for each module group."""

    def __init__(self, spec: LoraSpec, trunk_width: int, head_dim: int, bias: bool) -> None:
        super().__init__()
        self.rank = spec.rank
        self.trunk_width = trunk_width
        self.linears = nn.ModuleDict(
            {group.key: nn.Linear(head_dim, self.out_features(group), bias=bias) for group in spec.groups}
        )

    @abstractmethod
    def out_features(self, group: ModuleGroup) -> int:
        """How many numbers the group's linear layer gives for one row."""

    @abstractmethod
    def forward(self, state_NLD: Tensor, group: ModuleGroup, index: int, trunk: Trunk) -> tuple[Tensor, Tensor]:
        """a_NLRI and b_NLOR of one group (the ``index``-th of the spec) from the trunk's state after block 1."""

    @abstractmethod
    def starting_bias(self, group: ModuleGroup, generator: torch.Generator) -> Tensor:
        """The bias with which SFT begins (METHOD: the usual LoRA start, "bias-HyperInit", arXiv 2210.11348)."""

    def linear(self, group: ModuleGroup) -> nn.Linear:
        """The linear layer of one group."""
        return cast(nn.Linear, self.linears[group.key])


class HeadL(Head):
    """A and B of all ranks in one product: H -> R * (I + O)."""

    def out_features(self, group: ModuleGroup) -> int:
        return self.rank * (group.in_features + group.out_features)

    def forward(self, state_NLD: Tensor, group: ModuleGroup, index: int, trunk: Trunk) -> tuple[Tensor, Tensor]:
        out_NLK = self.linear(group)(trunk.finish(trunk.refine(state_NLD)))
        a_size = self.rank * group.in_features
        a_NLRI = out_NLK[..., :a_size].unflatten(-1, (self.rank, group.in_features))
        b_NLRO = out_NLK[..., a_size:].unflatten(-1, (self.rank, group.out_features))
        return a_NLRI, b_NLRO.mT

    def starting_bias(self, group: ModuleGroup, generator: torch.Generator) -> Tensor:
        a = _lora_start(self.rank * group.in_features, group, generator)
        return torch.cat([a, torch.zeros(self.rank * group.out_features)])


class HeadM(Head):
    """All ranks of A or of B in one product: H -> R * max(I, O), used twice.

    Which factor is wanted is a learned vector per group, normalised and added before block 2.
    """

    def __init__(self, spec: LoraSpec, trunk_width: int, head_dim: int, bias: bool) -> None:
        super().__init__(spec, trunk_width, head_dim, bias)
        self.factors = FactorEmbedding(len(spec.groups), trunk_width)

    def out_features(self, group: ModuleGroup) -> int:
        return self.rank * max(group.in_features, group.out_features)

    def forward(self, state_NLD: Tensor, group: ModuleGroup, index: int, trunk: Trunk) -> tuple[Tensor, Tensor]:
        a_state_NLD, b_state_NLD = self.factors(state_NLD, index)
        a_NLRI = self._all_ranks(trunk.finish(trunk.refine(a_state_NLD)), group, group.in_features)
        b_NLRO = self._all_ranks(trunk.finish(trunk.refine(b_state_NLD)), group, group.out_features)
        return a_NLRI, b_NLRO.mT

    def _all_ranks(self, x_NLH: Tensor, group: ModuleGroup, features: int) -> Tensor:
        """The first ``features`` columns of every rank's row; the weight rows of the other columns are not used."""
        linear = self.linear(group)
        weight_KH = linear.weight.unflatten(0, (self.rank, -1))[:, :features].flatten(0, 1)
        bias_K = None if linear.bias is None else linear.bias.unflatten(0, (self.rank, -1))[:, :features].flatten()
        return F.linear(x_NLH, weight_KH, bias_K).unflatten(-1, (self.rank, features))

    def starting_bias(self, group: ModuleGroup, generator: torch.Generator) -> Tensor:
        return _lora_start(self.out_features(group), group, generator) / math.sqrt(2)


class HeadS(Head):
    """One rank's row of A or of B at a time: H -> max(I, O), used 2 * R times."""

    def __init__(self, spec: LoraSpec, trunk_width: int, head_dim: int, bias: bool, learned_positions: bool) -> None:
        super().__init__(spec, trunk_width, head_dim, bias)
        self.factors = FactorEmbedding(len(spec.groups), trunk_width)
        self.positions = LearnedRankPositions(spec.rank, trunk_width) if learned_positions else None

    def out_features(self, group: ModuleGroup) -> int:
        return max(group.in_features, group.out_features)

    def forward(self, state_NLD: Tensor, group: ModuleGroup, index: int, trunk: Trunk) -> tuple[Tensor, Tensor]:
        a_state_NLD, b_state_NLD = self.factors(state_NLD, index)
        a_NLRI = self._by_rank(trunk.refine(a_state_NLD), group, group.in_features, trunk)
        b_NLRO = self._by_rank(trunk.refine(b_state_NLD), group, group.out_features, trunk)
        return a_NLRI, b_NLRO.mT

    def _by_rank(self, x_NLD: Tensor, group: ModuleGroup, features: int, trunk: Trunk) -> Tensor:
        x_NLRD = x_NLD.unsqueeze(-2)
        if self.positions is None:
            x_NLRD = trunk.refine(rotate_by_rank(x_NLRD, self.rank))
        else:
            x_NLRD = x_NLRD + trunk.refine(self.positions())
        linear = self.linear(group)
        bias = None if linear.bias is None else linear.bias[:features]
        return F.linear(trunk.finish(x_NLRD), linear.weight[:features], bias)

    def starting_bias(self, group: ModuleGroup, generator: torch.Generator) -> Tensor:
        return _lora_start(self.out_features(group), group, generator) / math.sqrt(2 * self.rank)


class HeadR(Head):
    """One rank's row of A and of B together: H -> I + O, used R times.

    Not a variant of the paper: the reference implementation makes it when rank-by-rank generation is on and the
    factors do not share a head.
    """

    def __init__(self, spec: LoraSpec, trunk_width: int, head_dim: int, bias: bool, learned_positions: bool) -> None:
        super().__init__(spec, trunk_width, head_dim, bias)
        self.positions = LearnedRankPositions(spec.rank, trunk_width) if learned_positions else None

    def out_features(self, group: ModuleGroup) -> int:
        return group.in_features + group.out_features

    def forward(self, state_NLD: Tensor, group: ModuleGroup, index: int, trunk: Trunk) -> tuple[Tensor, Tensor]:
        x_NLRD = state_NLD.unsqueeze(-2)
        x_NLRD = rotate_by_rank(x_NLRD, self.rank) if self.positions is None else x_NLRD + self.positions()
        out_NLRK = self.linear(group)(trunk.finish(trunk.refine(x_NLRD)))
        a_NLRI, b_NLRO = out_NLRK.split([group.in_features, group.out_features], dim=-1)
        return a_NLRI, b_NLRO.mT

    def starting_bias(self, group: ModuleGroup, generator: torch.Generator) -> Tensor:
        return _lora_start(self.out_features(group), group, generator) / math.sqrt(self.rank)


class FactorEmbedding(nn.Module):
    """Two learned vectors a group, one asking for A and one for B, with one LayerNorm for all."""

    def __init__(self, num_groups: int, width: int) -> None:
        super().__init__()
        self.vector_GFD = nn.Parameter(torch.zeros(num_groups, 2, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, state_NLD: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """The state of group ``index`` with each vector added: for A, for B."""
        a_D, b_D = self.norm(self.vector_GFD[index])
        return state_NLD + a_D, state_NLD + b_D


class LearnedRankPositions(nn.Module):
    """An embedding and a LayerNorm for the rank index: (R, D)."""

    def __init__(self, rank: int, width: int) -> None:
        super().__init__()
        self.embedding = new_embedding(rank, width)
        self.norm = nn.LayerNorm(width)

    def forward(self) -> Tensor:
        return self.norm(self.embedding.weight)


def rotate_by_rank(x_1D: Tensor, rank: int, base: float = 10000.0) -> Tensor:
    """R copies of a vector, the r-th turned by rotary position embedding to position r: (..., 1, D) to (..., R, D).

    RoFormer, arXiv 2104.09864, in the half-split form: coordinates d and d + D/2 turn by ``r * base ** (-2d / D)``.
    The angles are computed in float32 whatever the dtype of ``x_1D``.
    """
    width = x_1D.shape[-1]
    half = width // 2
    frequency_K = 1.0 / base ** (torch.arange(0, width, 2, dtype=torch.float32, device=x_1D.device) / width)
    angle_RK = torch.arange(rank, dtype=torch.float32, device=x_1D.device)[:, None] * frequency_K
    cos_RK, sin_RK = angle_RK.cos().to(x_1D.dtype), angle_RK.sin().to(x_1D.dtype)
    first_1K, second_1K = x_1D[..., :half], x_1D[..., half:]
    return torch.cat([first_1K * cos_RK - second_1K * sin_RK, second_1K * cos_RK + first_1K * sin_RK], dim=-1)


def build_head(
    variant: Variant, spec: LoraSpec, trunk_width: int, head_dim: int, bias: bool, learned_positions: bool
) -> Head:
    """The head of a variant.

    Raises:
        T2LError: an unknown variant, a setting without effect for it, or an odd width that cannot be rotated.
    """
    if variant in ("S", "R"):
        if trunk_width % 2 and not learned_positions:
            raise T2LError(f"The trunk is {trunk_width} wide; rotation by rank needs an even width.")
        return (HeadS if variant == "S" else HeadR)(spec, trunk_width, head_dim, bias, learned_positions)
    if learned_positions:
        raise T2LError(f"learned_rank_positions has no effect on variant {variant}.", "Use it with variant S.")
    if variant == "L":
        return HeadL(spec, trunk_width, head_dim, bias)
    if variant == "M":
        return HeadM(spec, trunk_width, head_dim, bias)
    raise T2LError(f"No variant is called {variant!r}.", did_you_mean(str(variant), ("L", "M", "S")))


def _mlp(in_features: int, out_features: int, dropout: float) -> list[nn.Module]:
    return [
        nn.LayerNorm(in_features),
        nn.Linear(in_features, 4 * in_features),
        nn.SiLU(),
        nn.Dropout(dropout),
        nn.Linear(4 * in_features, out_features),
        nn.SiLU(),
    ]


def _lora_start(size: int, group: ModuleGroup, generator: torch.Generator) -> Tensor:
    """Values as PEFT begins A: Kaiming-uniform with a = sqrt(5), that is within 1 / sqrt(I)."""
    bound = 1 / math.sqrt(group.in_features)
    return torch.empty(size).uniform_(-bound, bound, generator=generator)
