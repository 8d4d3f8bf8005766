"""The hypernetwork of Text-to-LoRA: from description embeddings to the LoRA weights of every adapted module, at once.

Legend of axis letters, used in every name below:
    N samples          L layers of one group   P positions: the layers of all groups, group after group
    R rank             I in-features           O out-features
    E embedding width  D trunk width           H head input width      F factor: 0 for A, 1 for B

Source: arXiv 2506.06105, section 3 and appendix, and the behaviour of its reference implementation. One forward pass
makes N adapters: the trunk runs over N x P rows, the head over N x L rows of each module group. Three tiers: the
parts (`Trunk`; `HeadL`, `HeadM`, `HeadS`; `OutputAffine`), the assembly (`HyperNetwork`), the preset (``variant="L"``).

Level 1. Nothing here knows texts, encoders, files or base models.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2l.errors import CheckpointError, DescriptionError, T2LError, did_you_mean
from t2l.features import (
    QuantisedTaskEncoder,
    SoftmaxTaskEncoder,
    TaskEncoderKind,
    build_position_encoder,
    build_task_encoder,
)
from t2l.lora import LoraSource, LoraSpec, LoraWeights, ModuleGroup
from t2l.storage import check_tensors

Variant = Literal["L", "M", "S", "R"]
HeadInit = Literal["lora", "linear"]


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
        self.embedding = nn.Embedding(rank, width)
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


class OutputAffine(nn.Module):
    """``raw * gain + shift`` for every element of A and B: fixed buffers, not trained, there only where asked for.

    With a gain, the hypernetwork speaks in z-scores of a library of adapters (reconstruction training): the gain is
    their standard deviation and the shift their mean, element by element. With a shift alone, it speaks in
    differences from a given adapter.

    Args:
        gain: hold a gain for each element (ones until set).
        shift: hold a shift for each element (zeros until set).
    """

    def __init__(self, spec: LoraSpec, *, gain: bool = False, shift: bool = False) -> None:
        super().__init__()
        self.has_gain, self.has_shift = gain, shift
        self.groups = nn.ModuleDict({group.key: nn.Module() for group in spec.groups} if gain or shift else {})
        for group in spec.groups if gain or shift else ():
            depth = len(group.layers)
            for factor, shape in (
                ("a", (depth, spec.rank, group.in_features)),
                ("b", (depth, group.out_features, spec.rank)),
            ):
                if gain:
                    self.groups[group.key].register_buffer(f"gain_{factor}", torch.ones(shape))
                if shift:
                    self.groups[group.key].register_buffer(f"shift_{factor}", torch.zeros(shape))

    @torch.no_grad()
    def reset(self) -> None:
        """Gains of one and shifts of zero: the identity."""
        for name, buffer in self.named_buffers():
            buffer.fill_(1.0 if name.rpartition(".")[2].startswith("gain") else 0.0)

    @torch.no_grad()
    def set(self, *, gain: LoraWeights | None = None, shift: LoraWeights | None = None) -> None:
        """Copies in the gain and the shift, each given as LoRA weights with N = 1.

        Raises:
            T2LError: one is given that this hypernetwork was built without.
        """
        for name, weights, present in (("gain", gain, self.has_gain), ("shift", shift, self.has_shift)):
            if weights is None:
                continue
            if not present:
                raise T2LError(f"This hypernetwork has no output {name}.", f"Build it with output_{name}=True.")
            for key in self.groups:
                self._buffer(key, f"{name}_a").copy_(weights.a[key][0])
                self._buffer(key, f"{name}_b").copy_(weights.b[key][0])

    def forward(self, raw: LoraWeights) -> LoraWeights:
        """From the heads' output to LoRA weights."""
        if not (self.has_gain or self.has_shift):
            return raw
        return LoraWeights(
            {key: self._affine(a_NLRI, key, "a") for key, a_NLRI in raw.a.items()},
            {key: self._affine(b_NLOR, key, "b") for key, b_NLOR in raw.b.items()},
        )

    def normalise(self, weights: LoraWeights) -> LoraWeights:
        """The inverse: what the heads should give so that LoRA weights (an oracle adapter's) come out."""
        return LoraWeights(
            {key: self._inverse(a_NLRI, key, "a") for key, a_NLRI in weights.a.items()},
            {key: self._inverse(b_NLOR, key, "b") for key, b_NLOR in weights.b.items()},
        )

    def _affine(self, raw: Tensor, key: str, factor: str) -> Tensor:
        if self.has_gain:
            raw = raw * self._buffer(key, f"gain_{factor}")
        return raw + self._buffer(key, f"shift_{factor}") if self.has_shift else raw

    def _inverse(self, weight: Tensor, key: str, factor: str) -> Tensor:
        if self.has_shift:
            weight = weight - self._buffer(key, f"shift_{factor}")
        return weight / self._buffer(key, f"gain_{factor}") if self.has_gain else weight

    def _buffer(self, key: str, name: str) -> Tensor:
        return self.groups[key].get_buffer(name)


class HyperNetwork(LoraSource):
    """LoRA weights for every adapted module from a description embedding (Text-to-LoRA, arXiv 2506.06105).

    For each position (layer, module group): task features, depth features and module features are joined and go
    through the trunk; the head turns the result into A and B.

    Args:
        spec: the modules to adapt, with shapes, and the rank.
        embedding_dim: E.
        variant: "L" one product gives A and B of all ranks; "M" one head used for A and for B; "S" one rank's row at a
            time. With Mistral-7B shapes they have 55, 34 and 5 million parameters. ("R": see `HeadR`.)
        trunk_dim: D (128 for Mistral-7B and Llama-3.1-8B in the paper, 512 for Gemma-2-2B). Half goes to the task
            features, a quarter each to depth and module.
        head_dim: H (512 and 2048 in the paper).
        dropout: inside the trunk, in training.
        learned_rank_positions: variants S and R tell the ranks apart by a learned embedding instead of rotation.
        head_bias: the heads have a bias.
        head_init: "lora" starts SFT from head weights of zero and the usual LoRA start as bias, so that L begins
            exactly at the base model; "linear" starts heads as any linear layer (reconstruction training).
        task_encoder: "linear" is the paper's; see `t2l.features` for the others.
        output_gain: the output affine holds a gain; see `OutputAffine`.
        output_shift: the output affine holds a shift.
        seed: of the initial parameters; the global random generator is neither read nor advanced.

    Raises:
        T2LError: sizes that cannot be, an unknown variant, or a setting without effect for the variant.

    Example:
        >>> from t2l.lora import ModuleGroup
        >>> group = ModuleGroup("q_proj", "model.layers.{layer}.self_attn.q_proj", (0, 1), 16, 16)
        >>> hypernetwork = HyperNetwork(LoraSpec((group,), num_layers=2), embedding_dim=4, trunk_dim=8, head_dim=8)
        >>> hypernetwork(torch.ones(3, 4)).b["q_proj"].shape
        torch.Size([3, 2, 16, 8])
    """

    def __init__(
        self,
        spec: LoraSpec,
        embedding_dim: int,
        variant: Variant = "L",
        *,
        trunk_dim: int = 128,
        head_dim: int = 512,
        dropout: float = 0.05,
        learned_rank_positions: bool = False,
        head_bias: bool = True,
        head_init: HeadInit = "lora",
        task_encoder: TaskEncoderKind = "linear",
        output_gain: bool = False,
        output_shift: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_sizes(embedding_dim=embedding_dim, trunk_dim=trunk_dim, head_dim=head_dim, dropout=dropout)
        if head_init not in ("lora", "linear"):
            raise T2LError(f"head_init is {head_init!r}; it must be 'lora' or 'linear'.")
        self.spec = spec
        self.embedding_dim = embedding_dim
        self.variant: Variant = variant
        self._sizes = {"trunk_dim": trunk_dim, "head_dim": head_dim, "dropout": dropout}
        self._task_encoder_kind: TaskEncoderKind = task_encoder
        self._learned_rank_positions = learned_rank_positions
        self._head_bias = head_bias

        on_meta = torch.empty(0).is_meta  # the caller only wants the shapes
        with torch.device("meta"):  # so that torch's own initialisation, from its global generator, does not run
            self.task_encoder = build_task_encoder(task_encoder, embedding_dim, trunk_dim // 2)
            self.position_encoder = build_position_encoder(
                task_encoder, spec.num_layers, len(spec.groups), trunk_dim // 4
            )
            width = self.task_encoder.out_features + self.position_encoder.out_features
            self.trunk = Trunk(width, head_dim, dropout)
            self.head = _build_head(variant, spec, width, head_dim, head_bias, learned_rank_positions)
            self.output_affine = OutputAffine(spec, gain=output_gain, shift=output_shift)
        if not on_meta:
            self.to_empty(device="cpu")
            self._initialise(torch.Generator().manual_seed(seed), head_init)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which it computes."""
        return next(self.trunk.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.trunk.parameters()).device

    @property
    def num_parameters(self) -> int:
        """How many trainable numbers it holds; the output affine's buffers do not count."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, condition_NE: Tensor) -> LoraWeights:
        """LoRA weights for N description embeddings.

        Raises:
            DescriptionError: ``condition_NE`` is not (N, E).
        """
        return self.output_affine(self.raw(condition_NE))

    def raw(self, condition_NE: Tensor) -> LoraWeights:
        """What the heads give, before the output affine: where that holds a gain, z-scores.

        Raises:
            DescriptionError: ``condition_NE`` is not (N, E).
        """
        if condition_NE.ndim != 2 or condition_NE.shape[1] != self.embedding_dim:
            raise DescriptionError(
                f"The description embeddings have shape {tuple(condition_NE.shape)}; "
                f"this hypernetwork reads (N, {self.embedding_dim}).",
                "Use the encoder that it was trained with.",
            )
        groups = self.spec.groups
        state_NPD = self.trunk.begin(self._features(condition_NE.to(self.device, self.dtype)))
        states = state_NPD.split([len(group.layers) for group in groups], dim=1)
        a, b = {}, {}
        for index, (group, state_NLD) in enumerate(zip(groups, states, strict=True)):
            a[group.key], b[group.key] = self.head(state_NLD, group, index, self.trunk)
        return LoraWeights(a, b)

    def to_config(self) -> dict[str, Any]:
        """The structure (not the parameters) as plain JSON values; `from_config` reads them back."""
        return {
            "spec": self.spec.to_dict(),
            "embedding_dim": self.embedding_dim,
            "variant": self.variant,
            **self._sizes,
            "learned_rank_positions": self._learned_rank_positions,
            "head_bias": self._head_bias,
            "task_encoder": self._task_encoder_kind,
            "output_gain": self.output_affine.has_gain,
            "output_shift": self.output_affine.has_shift,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int = 0) -> HyperNetwork:
        """A hypernetwork with the structure that `to_config` gave and fresh parameters.

        Raises:
            CheckpointError: a field is missing, unknown or of the wrong kind.
        """
        try:
            settings = dict(config)
            spec = LoraSpec.from_dict(settings.pop("spec"))
            return cls(spec, settings.pop("embedding_dim"), settings.pop("variant"), **settings, seed=seed)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as problem:
            reason = problem.message if isinstance(problem, T2LError) else f"{type(problem).__name__}: {problem}"
            raise CheckpointError(f"The hypernetwork's structure cannot be read: {reason}") from problem

    @classmethod
    def from_tensors(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, source: str | Path
    ) -> HyperNetwork:
        """A hypernetwork with the structure of ``config`` that holds ``tensors`` (a ``state_dict()``), without copies.

        Args:
            source: where the tensors come from, for the error.

        Raises:
            CheckpointError: the structure cannot be read, or a tensor is missing, extra, of another shape, not
                floating point, or not finite.
        """
        with torch.device("meta"):
            hypernetwork = cls.from_config(config)
        expected = {name: tuple(tensor.shape) for name, tensor in hypernetwork.state_dict().items()}
        check_tensors(tensors, expected, source=source, error=CheckpointError)
        dtypes = sorted({str(tensor.dtype) for tensor in tensors.values()})
        if len(dtypes) != 1:
            raise CheckpointError(f"The tensors in '{source}' are of several dtypes: {', '.join(dtypes)}.")
        hypernetwork.load_state_dict(dict(tensors), assign=True)
        return hypernetwork

    def _features(self, condition_NE: Tensor) -> Tensor:
        """The task's features beside those of each position: (N, P, D)."""
        places = [(layer, index) for index, group in enumerate(self.spec.groups) for layer in group.layers]
        depth_P, module_P = torch.tensor(places, device=condition_NE.device).unbind(dim=1)
        task_NK = self.task_encoder(condition_NE)
        position_PK = self.position_encoder(depth_P, module_P).to(task_NK.dtype)
        return torch.cat(
            [
                task_NK.unsqueeze(1).expand(-1, len(places), -1),
                position_PK.unsqueeze(0).expand(len(task_NK), -1, -1),
            ],
            dim=-1,
        )

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator, head_init: HeadInit) -> None:
        """Torch's usual starts (uniform linear layers, normal embeddings), drawn from ``generator``; then the heads."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)
                module.weight.uniform_(-bound, bound, generator=generator)
                if module.bias is not None:
                    module.bias.uniform_(-bound, bound, generator=generator)
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(generator=generator)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, FactorEmbedding):
                module.vector_GFD.normal_(generator=generator)
            elif isinstance(module, (QuantisedTaskEncoder, SoftmaxTaskEncoder)):
                module.code_CK.normal_(generator=generator)
            elif isinstance(module, OutputAffine):
                module.reset()
        if head_init == "lora":
            for group in self.spec.groups:
                linear = self.head.linear(group)
                linear.weight.zero_()
                if linear.bias is not None:
                    linear.bias.copy_(self.head.starting_bias(group, generator))


def _build_head(
    variant: Variant, spec: LoraSpec, trunk_width: int, head_dim: int, bias: bool, learned_positions: bool
) -> Head:
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


def _check_sizes(*, embedding_dim: int, trunk_dim: int, head_dim: int, dropout: float) -> None:
    for name, size, least in (
        ("embedding_dim", embedding_dim, 1),
        ("trunk_dim", trunk_dim, 4),
        ("head_dim", head_dim, 1),
    ):
        if not isinstance(size, int) or isinstance(size, bool) or size < least:
            raise T2LError(f"{name} is {size!r}; it must be a whole number of at least {least}.")
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise T2LError(f"dropout is {dropout!r}; it must be at least 0 and below 1.")
