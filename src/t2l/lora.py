"""Which linear modules of a base are adapted, with which shapes and which scaling, and the tensors for it.

Axis letters: N samples or rows of a table, C conditions, L layers, R rank, I in-features,
O out-features, E condition width.

Level 0. `LoraSpec` is built from a base model's *config*; nothing here reads or needs base weights, and no other file
divides alpha by anything.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from t2l.base_structure import LinearSite, Structure, base_config, linear_shape, structure_of
from t2l.errors import BaseModelError, T2LError, bullets, did_you_mean

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ALL_LINEAR = "all-linear"
_DEFAULT_TARGETS = ("q_proj", "v_proj")
_FUSED_ATTENTION = ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "in_proj")

_MOST_NAME = 4096  # characters of a base's name, as of a path


@dataclass(frozen=True)
class ModuleGroup:
    """The layers in which one module type has one shape; tensors of these layers are stacked along L.

    Args:
        key: name of the group, unique in a spec: the module type (``"q_proj"``), with its shape where one type has
            several (``"q_proj@48x24"``), or its path inside the layer (``"attn/c_proj"``) where the last part alone
            would name other modules of the base as well.
        path: where the module sits in the base, ``{layer}`` standing for the depth:
            ``"model.layers.{layer}.self_attn.q_proj"``.
        layers: depths, ascending.
        in_features: I.
        out_features: O.
    """

    key: str
    path: str
    layers: tuple[int, ...]
    in_features: int
    out_features: int

    def module_paths(self) -> list[str]:
        """The full module path in each adapted layer, by depth."""
        return [self.path.replace("{layer}", str(layer)) for layer in self.layers]


@dataclass(frozen=True)
class LoraSpec:
    """Which modules are adapted and how: shapes, rank and scaling.

    The adapted weight is ``W + scaling * B @ A`` (LoRA, arXiv 2106.09685), with ``scaling = alpha / sqrt(rank)``
    where rank-stabilised (rsLoRA, arXiv 2312.03732; the setting of Text-to-LoRA, appendix) and ``alpha / rank``
    otherwise.

    Args:
        groups: the adapted modules.
        num_layers: depth of the base, adapted or not.
        rank: R.
        alpha: the numerator of the scaling.
        use_rslora: divide by sqrt(rank) instead of rank.
        dropout: LoRA dropout used in training; recorded in the adapter's config.
        base_model: hub id or folder of the base, where known.
        fan_in_fan_out: the base stores its weights transposed (GPT-2's Conv1D).
        left_out: paths of the base's mixtures of experts, which are never adapted; for information alone.

    Raises:
        T2LError: rank, alpha, shapes or names that cannot be.

    Example:
        >>> from transformers import MistralConfig
        >>> spec = LoraSpec.from_base(MistralConfig())
        >>> spec.num_parameters, round(spec.scaling, 3)
        (3407872, 5.657)
    """

    groups: tuple[ModuleGroup, ...]
    num_layers: int
    rank: int = 8
    alpha: float = 16.0
    use_rslora: bool = True
    dropout: float = 0.05
    base_model: str | None = None
    fan_in_fan_out: bool = False
    left_out: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not _is_positive_int(self.rank):
            raise T2LError(f"rank is {self.rank!r}; it must be a whole number of at least 1.")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise T2LError(f"alpha is {self.alpha!r}; it must be a positive number.")
        if not 0 <= self.dropout < 1:
            raise T2LError(f"dropout is {self.dropout!r}; it must be at least 0 and below 1.")
        if not self.groups:
            raise T2LError("No module is adapted: a LoraSpec needs at least one group.")
        if self.base_model is not None and not _can_name(self.base_model):
            raise T2LError(f"The base's name {str(self.base_model)[:40]!r} cannot be one: it is a hub id or a path.")
        keys = [group.key for group in self.groups]
        if len(set(keys)) != len(keys):
            raise T2LError(f"Group keys repeat: {keys}.")
        for group in self.groups:
            if not (_is_positive_int(group.in_features) and _is_positive_int(group.out_features)):
                raise T2LError(
                    f"{group.key} has shape {group.in_features}x{group.out_features}; both must be positive."
                )
            if not group.layers or list(group.layers) != sorted(set(group.layers)):
                raise T2LError(f"{group.key} lists layers {group.layers}; they must be ascending and not repeat.")
            if group.layers[0] < 0 or group.layers[-1] >= self.num_layers:
                raise T2LError(f"{group.key} lists layer {group.layers[-1]}; the base has {self.num_layers} layers.")

    @property
    def scaling(self) -> float:
        """The factor s in ``W + s * B @ A``."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    @property
    def num_parameters(self) -> int:
        """How many numbers one adapter holds."""
        return sum(len(g.layers) * self.rank * (g.in_features + g.out_features) for g in self.groups)

    @property
    def layers(self) -> tuple[int, ...]:
        """Depths in which at least one module is adapted, ascending."""
        return tuple(sorted({layer for group in self.groups for layer in group.layers}))

    @property
    def target_modules(self) -> list[str]:
        """The module names as PEFT's ``target_modules`` wants them: last parts of the paths, in group order."""
        return list(dict.fromkeys(group.path.rsplit(".", 1)[-1] for group in self.groups))

    def module_paths(self) -> list[str]:
        """Every adapted module's full path, group by group, by depth."""
        return [path for group in self.groups for path in group.module_paths()]

    def base_name(self, given: str | Path | None = None) -> str:
        """The base that is meant: the one that is given, or else the one that this spec names.

        Raises:
            BaseModelError: neither names one.
        """
        name = given or self.base_model
        if not name:
            raise BaseModelError("Nothing says which base the adapters are for.", "Name it: --base FOLDER|HUB_ID")
        return str(name)

    def group(self, key: str) -> ModuleGroup:
        """The group called ``key``; an unknown one is a `T2LError` with near names."""
        for group in self.groups:
            if group.key == key:
                return group
        raise T2LError(f"No adapted module is called '{key}'.", did_you_mean(key, (g.key for g in self.groups)))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        return {
            "base_model": self.base_model,
            "num_layers": self.num_layers,
            "rank": self.rank,
            "alpha": self.alpha,
            "use_rslora": self.use_rslora,
            "dropout": self.dropout,
            "fan_in_fan_out": self.fan_in_fan_out,
            "groups": [
                {
                    "key": group.key,
                    "path": group.path,
                    "layers": list(group.layers),
                    "in_features": group.in_features,
                    "out_features": group.out_features,
                }
                for group in self.groups
            ],
            **({"left_out": list(self.left_out)} if self.left_out else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LoraSpec:
        """Reads what `to_dict` wrote.

        Raises:
            T2LError: a field is missing or of the wrong kind.
        """
        try:
            groups = tuple(
                ModuleGroup(
                    key=str(group["key"]),
                    path=str(group["path"]),
                    layers=tuple(int(layer) for layer in group["layers"]),
                    in_features=int(group["in_features"]),
                    out_features=int(group["out_features"]),
                )
                for group in values["groups"]
            )
            return cls(
                groups=groups,
                num_layers=int(values["num_layers"]),
                rank=int(values["rank"]),
                alpha=float(values["alpha"]),
                use_rslora=bool(values["use_rslora"]),
                dropout=float(values.get("dropout", 0.0)),
                base_model=values.get("base_model"),
                fan_in_fan_out=bool(values.get("fan_in_fan_out", False)),
                left_out=tuple(str(path) for path in values.get("left_out", ())),
            )
        except T2LError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as problem:
            raise T2LError(f"The LoRA shapes cannot be read: {type(problem).__name__}: {problem}.") from problem

    @classmethod
    def from_base(
        cls,
        base: str | Path | PretrainedConfig,
        *,
        target_modules: str | Sequence[str] | None = None,
        layers: Sequence[int] | None = None,
        rank: int = 8,
        alpha: float = 16.0,
        use_rslora: bool = True,
        dropout: float = 0.05,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> LoraSpec:
        """The spec for any Hugging Face causal language model, from its config alone (built on the meta device).

        Args:
            base: hub id, folder, GGUF file, short name, or a config already at hand.
            target_modules: names of linear modules as PEFT matches them (``["q_proj", "v_proj"]``), or
                ``"all-linear"`` for every linear module inside a layer. Of a model that also sees images, those of its
                language model; mixtures of experts are left out (`left_out`). By default q_proj and v_proj, as in the
                paper; the fused attention projection where a base has no such modules (Phi-3, GPT-2).
            layers: depths to adapt; all by default.

        Raises:
            BaseModelError: the config cannot be found, a module name is unknown (near names are offered), or a layer
                is outside the base.
        """
        known = not isinstance(base, str | Path)
        config = base if known else base_config(base, revision=revision, trust_remote_code=trust_remote_code)
        base_parts = structure_of(config, trust_remote_code=trust_remote_code)
        num_layers = 1 + max(site.layer for site in base_parts.sites)
        chosen = _choose(base_parts, target_modules)
        if layers is not None:
            unknown = sorted(set(layers) - set(range(num_layers)))
            if unknown or not layers:
                raise BaseModelError(
                    f"Layers {unknown or list(layers)} cannot be adapted: the base has layers 0 to {num_layers - 1}."
                )
            chosen = [site for site in chosen if site.layer in set(layers)]
        return cls(
            groups=_group(chosen, base_parts.sites),
            num_layers=num_layers,
            rank=rank,
            alpha=alpha,
            use_rslora=use_rslora,
            dropout=dropout,
            base_model=getattr(config, "_name_or_path", None) or None,
            fan_in_fan_out=base_parts.transposed,
            left_out=base_parts.experts,
        )

    def check_base(self, model: nn.Module) -> None:
        """Checks that ``model`` holds every adapted module with the expected shape.

        Raises:
            BaseModelError: names the first modules that are missing or of another shape.
        """
        modules = dict(model.named_modules())
        problems = []
        for group in self.groups:
            for path in group.module_paths():
                module = modules.get(path)
                shape = None if module is None else linear_shape(module)
                wanted = (group.in_features, group.out_features)
                if shape is None:
                    problems.append(f"{path} is not a linear module of this base")
                elif shape != wanted:
                    problems.append(f"{path} is {shape[0]}x{shape[1]}, the adapter is for {wanted[0]}x{wanted[1]}")
        if problems:
            made_for = f" (made for '{self.base_model}')" if self.base_model else ""
            raise BaseModelError(f"The adapter{made_for} does not fit this base model:{bullets(problems, 4)}")


@dataclass(frozen=True)
class LoraWeights:
    """The tensors of N adapters: for each group of the spec, A as (N, L, R, I) and B as (N, L, O, R).

    Args:
        a: group key -> a_NLRI.
        b: group key -> b_NLOR.
    """

    a: dict[str, Tensor]
    b: dict[str, Tensor]

    @property
    def num_samples(self) -> int:
        """N."""
        return next(iter(self.a.values())).shape[0]

    @property
    def tensors(self) -> list[Tensor]:
        """Every A, then every B."""
        return [*self.a.values(), *self.b.values()]

    def map(self, function: Callable[..., Tensor], *others: LoraWeights) -> LoraWeights:
        """Applies one function to every tensor, with that of the same place in ``others``."""
        return LoraWeights(
            {key: function(tensor, *(other.a[key] for other in others)) for key, tensor in self.a.items()},
            {key: function(tensor, *(other.b[key] for other in others)) for key, tensor in self.b.items()},
        )

    def select(self, index: int | slice | Tensor) -> LoraWeights:
        """Some of the N adapters, the axis kept: ``select(2)`` has N = 1; a tensor of indices may repeat."""
        if isinstance(index, int):
            index = slice(index, index + 1 or None)
        return self.map(lambda tensor: tensor[index])

    def to(self, *args: Any, **kwargs: Any) -> LoraWeights:
        """As `torch.Tensor.to`."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def detach(self) -> LoraWeights:
        """As `torch.Tensor.detach`."""
        return self.map(Tensor.detach)

    @staticmethod
    def zeros(spec: LoraSpec, count: int = 1, **how: Any) -> LoraWeights:
        """``count`` adapters of ``spec`` that change nothing; ``how`` as for `torch.zeros`."""
        depth = {group: len(group.layers) for group in spec.groups}
        return LoraWeights(
            {g.key: torch.zeros(count, depth[g], spec.rank, g.in_features, **how) for g in spec.groups},
            {g.key: torch.zeros(count, depth[g], g.out_features, spec.rank, **how) for g in spec.groups},
        )

    @staticmethod
    def cat(parts: Sequence[LoraWeights]) -> LoraWeights:
        """Stacks adapters along N."""
        return LoraWeights(
            {key: torch.cat([part.a[key] for part in parts]) for key in parts[0].a},
            {key: torch.cat([part.b[key] for part in parts]) for key in parts[0].b},
        )

    def delta_norms(self) -> dict[str, Tensor]:
        """Frobenius norm of ``B @ A`` for each group, as (N, L), without ever forming the O x I product.

        ``|BA|^2 = sum((B^T B) * (A A^T))``; multiply by the spec's scaling for the norm of the weight change.
        """
        norms = {}
        for key, a_NLRI in self.a.items():
            a_NLRI, b_NLOR = a_NLRI.double(), self.b[key].double()  # squares of what float32 holds are beyond it
            square_NL = ((b_NLOR.mT @ b_NLOR) * (a_NLRI @ a_NLRI.mT)).sum(dim=(-2, -1))
            norms[key] = square_NL.clamp_min(0).sqrt()
        return norms

    def check(self, spec: LoraSpec) -> None:
        """Raises `T2LError` where keys or shapes are not those of ``spec``."""
        for group in spec.groups:
            n, depth = self.num_samples, len(group.layers)
            for name, factors, shape in (
                ("A", self.a, (n, depth, spec.rank, group.in_features)),
                ("B", self.b, (n, depth, group.out_features, spec.rank)),
            ):
                tensor = factors.get(group.key)
                if tensor is None or tuple(tensor.shape) != shape:
                    got = "missing" if tensor is None else tuple(tensor.shape)
                    raise T2LError(f"{name} of {group.key} is {got}, expected {shape}.")
        extra = (set(self.a) | set(self.b)) - {group.key for group in spec.groups}
        if extra:
            raise T2LError(f"LoRA weights for modules that are not adapted: {sorted(extra)}.")


class LoraSource(nn.Module, ABC):
    """Anything that gives LoRA weights for a condition: a hypernetwork, a multi-task LoRA, a task-specific LoRA.

    One interface serves one SFT step, one loss and one data path, so comparisons are fair by construction.
    """

    spec: LoraSpec

    @abstractmethod
    def forward(self, condition_NE: Tensor) -> LoraWeights:
        """LoRA weights for N conditions (for a text-conditioned source: description embeddings)."""


class AdapterTable(LoraSource):
    """N adapters side by side, each a row.

    A begins Kaiming-uniform, within 1 / sqrt(I), and B at zero, as LoRA does: training begins at the base.

    Args:
        seeds: one for each row; a row's start depends on its own seed alone.

    Example:
        >>> spec = LoraSpec((ModuleGroup("q_proj", "model.layers.{layer}.self_attn.q_proj", (0, 1), 16, 16),), 2)
        >>> AdapterTable(spec, seeds=[0, 1, 2]).rows(torch.tensor([2, 0])).a["q_proj"].shape
        torch.Size([2, 2, 8, 16])
    """

    def __init__(self, spec: LoraSpec, seeds: Sequence[int]) -> None:
        super().__init__()
        if not seeds:
            raise T2LError("A table of adapters needs at least one row.")
        self.spec = spec
        self.num_rows = len(seeds)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.a, self.b = nn.ParameterDict(), nn.ParameterDict()
        for group in spec.groups:
            depth, bound = len(group.layers), group.in_features**-0.5
            shape = (depth, spec.rank, group.in_features)
            rows = [torch.empty(shape).uniform_(-bound, bound, generator=generator) for generator in generators]
            self.a[group.key] = nn.Parameter(torch.stack(rows))
            self.b[group.key] = nn.Parameter(torch.zeros(self.num_rows, depth, group.out_features, spec.rank))

    def forward(self, condition_NE: Tensor) -> LoraWeights:
        """The rows of a one-hot condition (C, N)."""
        return self.rows(condition_NE.argmax(dim=1))

    def rows(self, row_C: Tensor) -> LoraWeights:
        """The rows with these numbers."""
        return self.table().map(lambda tensor: tensor.index_select(0, row_C.to(tensor.device)))

    def table(self) -> LoraWeights:
        """All rows: the parameters themselves."""
        return LoraWeights(dict(self.a.items()), dict(self.b.items()))


def _choose(base: Structure, target_modules: str | Sequence[str] | None) -> list[LinearSite]:
    sites = list(base.sites)
    names = list(dict.fromkeys(site.path.rsplit(".", 1)[-1] for site in sites))
    if target_modules is None:
        wanted = [name for name in _DEFAULT_TARGETS if name in names] or [n for n in _FUSED_ATTENTION if n in names][:1]
        if not wanted:
            raise BaseModelError(f"Say which modules to adapt; this base has {', '.join(names)}.")
    elif target_modules == ALL_LINEAR:
        return sites
    else:
        wanted = [target_modules] if isinstance(target_modules, str) else list(target_modules)
    if not wanted:
        raise BaseModelError("The list of target modules is empty.", f"This base has {', '.join(names)}.")
    matched: dict[str, list[LinearSite]] = {}
    for name in wanted:
        matched[name] = [site for site in sites if f".{site.path}".endswith(f".{name}")]
        if not matched[name]:
            experts = f" Its experts ({', '.join(base.experts)}) are left out." if base.experts else ""
            raise BaseModelError(f"The base has no linear module called '{name}'.{experts}", did_you_mean(name, names))
    return list(dict.fromkeys(site for name in wanted for site in matched[name]))


def _group(sites: Iterable[LinearSite], all_sites: Iterable[LinearSite]) -> tuple[ModuleGroup, ...]:
    by_path: dict[str, dict[tuple[int, int], list[LinearSite]]] = {}
    for site in sites:
        by_path.setdefault(site.path, {}).setdefault((site.in_features, site.out_features), []).append(site)
    last_parts = [path.rsplit(".", 1)[-1] for path in dict.fromkeys(site.path for site in all_sites)]
    groups = []
    for path, by_shape in by_path.items():
        last = path.rsplit(".", 1)[-1]
        inside = path.split("{layer}.", 1)[1]
        key = last if last_parts.count(last) == 1 else inside.replace(".", "/")
        for (in_features, out_features), members in by_shape.items():
            layers = tuple(sorted(site.layer for site in members))
            name = key if len(by_shape) == 1 else f"{key}@{in_features}x{out_features}"
            groups.append(ModuleGroup(name, path, layers, in_features, out_features))
    return tuple(groups)


def _can_name(name: object) -> bool:
    """Whether this can be a hub id or a path: text that ends, without a null character."""
    return isinstance(name, str) and len(name) <= _MOST_NAME and "\0" not in name


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
