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
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from t2l.errors import CheckpointError, DescriptionError, T2LError, did_you_mean
from t2l.features import (
    DiscreteTaskEncoder,
    LinearTaskEncoder,
    PositionEncoder,
    QuantisedTaskEncoder,
    SoftmaxTaskEncoder,
    TaskEncoder,
    TaskEncoderKind,
    TokenTaskEncoder,
    build_position_encoder,
)
from t2l.heads import FactorEmbedding, Head, Trunk, Variant, build_head
from t2l.lora import LoraSource, LoraSpec, LoraWeights
from t2l.site_attention import SiteAttention, SiteHead, site_layers
from t2l.storage import check_tensors

HeadInit = Literal["lora", "linear"]
HIDDEN_MATRICES = ("trunk.", "task_encoder.layers.", "task_encoder.pool.")
"""What the names of the matrices inside trunk and task encoder begin with: those that Muon updates."""


class OutputAffine(nn.Module):
    """``raw * gain + shift`` for every element of A and B: fixed buffers, not trained, there only where asked for.

    With a gain, the heads predict z-scores of a library of adapters (reconstruction training): the gain is
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
            time. With Mistral-7B shapes they have 55, 34 and 5 million parameters. "T" reads the states of the
            description's tokens, and every (layer, module, rank) attends to them for itself (`t2l.site_attention`).
            ("R": see `HeadR`.)
        trunk_dim: D (128 for Mistral-7B and Llama-3.1-8B in the paper, 512 for Gemma-2-2B). Half goes to the task
            features, a quarter each to depth and module. In variant T the width of everything, a multiple of 64.
        head_dim: H (512 and 2048 in the paper); in variant T the bottleneck of a layer's own maps (48, say).
        dropout: inside the trunk, in training.
        learned_rank_positions: variants S and R tell the ranks apart by a learned embedding instead of rotation.
        head_bias: the heads have a bias.
        head_init: "lora" starts SFT from head weights of zero and the usual LoRA start as bias, so that L begins
            exactly at the base model; "linear" starts heads as any linear layer (reconstruction training).
        task_encoder: "linear" is the paper's; "tokens" reads the states of the description's tokens (see
            `TokenTaskEncoder`); see `t2l.features` for the others.
        token_dim: width of one token's state, where the task encoder reads tokens.
        state_dim: width of one layer's part of it, where variant T reads the states of every layer and each site also
            those of its own.
        point_dim: the base's width, where each site of variant T also points at words of the description, whose input
            embeddings (with which a token's state begins) go into the weights as they are.
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
        token_dim: int | None = None,
        state_dim: int | None = None,
        point_dim: int | None = None,
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
        self._token_dim, self._state_dim, self.point_dim = token_dim, state_dim, point_dim
        self._learned_rank_positions = learned_rank_positions
        self._head_bias = head_bias

        on_meta = torch.empty(0).is_meta  # the caller only wants the shapes
        self.trunk: Trunk | None = None  # variant T has none, its sites stand in its head
        self.position_encoder: PositionEncoder | None = None
        self.head: Head | SiteHead
        with torch.device("meta"):  # so that torch's own initialisation, from its global generator, does not run
            if variant == "T":
                if token_dim is None or task_encoder != "tokens":
                    raise T2LError(
                        "Variant T reads the states of a description's tokens; this encoder gives one vector a text.",
                        "Use an encoder of tokens (kind 'token-states'), or variant L, M or S.",
                    )
                self.task_encoder: TaskEncoder = SiteAttention(
                    token_dim, site_layers(spec), trunk_dim, embedding_dim // token_dim, state_dim, point_dim
                )
                self.head = SiteHead(spec, trunk_dim, head_dim, point_dim)
            else:
                self.task_encoder = build_task_encoder(task_encoder, embedding_dim, trunk_dim // 2, token_dim)
                self.position_encoder = build_position_encoder(
                    task_encoder, spec.num_layers, len(spec.groups), trunk_dim // 4
                )
                width = self.task_encoder.out_features + self.position_encoder.out_features
                self.trunk = Trunk(width, head_dim, dropout)
                self.head = build_head(variant, spec, width, head_dim, head_bias, learned_rank_positions)
            self.output_affine = OutputAffine(spec, gain=output_gain, shift=output_shift)
        if not on_meta:
            self.to_empty(device="cpu")
            self._initialise(torch.Generator().manual_seed(seed), head_init)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which it computes."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    @property
    def num_parameters(self) -> int:
        """How many trainable numbers it holds; the output affine's buffers do not count."""
        return sum(parameter.numel() for parameter in self.parameters())

    def muon_parameters(self) -> list[str]:
        """Names of the hidden matrices, which Muon updates; embeddings, queries and output maps are not among them."""
        hidden: tuple[str, ...] = HIDDEN_MATRICES
        if self.variant == "T":
            read = ("enter.", "layers.", "to_kv.", "own.enter.", "own.to_kv.")
            hidden = ("head.mlp.", *(f"task_encoder.{part}" for part in read))
        named = self.named_parameters()
        return [n for n, p in named if p.ndim == 2 and (n.startswith(hidden) or n.endswith(".squeeze.weight"))]

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
        return self.decode(self.encode(condition_NE))

    def encode(self, condition_NE: Tensor) -> Tensor:
        """Task features (N, K): what the hypernetwork understands of a description, before it writes weights.

        Raises:
            DescriptionError: ``condition_NE`` is not (N, E).
        """
        if condition_NE.ndim != 2 or not self._reads(condition_NE.shape[1]):
            unit = f", or fewer tokens of {self._token_dim} each" if self.variant == "T" else ""
            raise DescriptionError(
                f"The description embeddings have shape {tuple(condition_NE.shape)}; "
                f"this hypernetwork reads (N, {self.embedding_dim}){unit}.",
                "Use the encoder that it was trained with.",
            )
        return self.task_encoder(condition_NE.to(self.device, self.dtype))

    def _reads(self, width: int) -> bool:
        """Whether conditions of this width can be read: E, or in variant T as many tokens as the longest text has."""
        if self.variant == "T" and self._token_dim is not None:
            return 0 < width <= self.embedding_dim and width % self._token_dim == 0
        return width == self.embedding_dim

    def decode(self, task_NK: Tensor) -> LoraWeights:
        """What the heads give for task features, those of one description or a blend of several."""
        if isinstance(self.head, SiteHead):
            return self.head(task_NK)
        assert self.trunk is not None
        groups = self.spec.groups
        state_NPD = self.trunk.begin(self._beside_positions(task_NK))
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
            **({"token_dim": self._token_dim} if self._token_dim is not None else {}),
            **({"state_dim": self._state_dim} if self._state_dim is not None else {}),
            **({"point_dim": self.point_dim} if self.point_dim is not None else {}),
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

    def _beside_positions(self, task_NK: Tensor) -> Tensor:
        """The task's features beside those of each position: (N, P, D)."""
        places = [(layer, index) for index, group in enumerate(self.spec.groups) for layer in group.layers]
        depth_P, module_P = torch.tensor(places, device=task_NK.device).unbind(dim=1)
        assert self.position_encoder is not None
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
        if isinstance(self.head, SiteHead):
            assert isinstance(self.task_encoder, SiteAttention)
            self.task_encoder.start(generator)
            self.head.start(generator)
        elif head_init == "lora":
            for group in self.spec.groups:
                linear = self.head.linear(group)
                linear.weight.zero_()
                if linear.bias is not None:
                    linear.bias.copy_(self.head.starting_bias(group, generator))


def build_task_encoder(
    kind: TaskEncoderKind, embedding_dim: int, width: int, token_dim: int | None = None
) -> TaskEncoder:
    """The task encoder called ``kind``, giving ``width`` features (64 where it is discrete).

    Raises:
        T2LError: an unknown kind, or a token width where none is read, or none where one is.
    """
    if (token_dim is not None) != (kind == "tokens"):
        raise T2LError(f"token_dim is {token_dim!r} with the task encoder {kind!r}; it goes with 'tokens' alone.")
    if kind == "tokens" and token_dim is not None:
        return TokenTaskEncoder(embedding_dim, token_dim, width)
    if kind == "linear":
        return LinearTaskEncoder(embedding_dim, width)
    if kind == "discrete":
        return DiscreteTaskEncoder(embedding_dim)
    if kind == "vq":
        return QuantisedTaskEncoder(embedding_dim, width)
    if kind == "softmax":
        return SoftmaxTaskEncoder(embedding_dim, width)
    raise T2LError(f"No task encoder is called {kind!r}.", did_you_mean(str(kind), get_args(TaskEncoderKind)))


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
