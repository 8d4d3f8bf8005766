"""Per-sample LoRA on a frozen base: N adapters serve one batch in one forward pass, with exact gradients.

Axis letters: N adapters, S samples in the batch, G runs of consecutive samples that share an adapter, T tokens,
L layers, R rank, I in-features, O out-features.

Level 1. Every target module adds ``s * B (A x)`` to its own output. A and B meet the activations in one batched
product per run of samples; they are never repeated per token, nor per sample where samples of a run stand together.
This file does not know where the weights come from, what the base computes, or what a loss is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2l.errors import T2LError
from t2l.lora import LoraSpec, LoraWeights

_CHECKPOINT = "_gradient_checkpointing_func"  # where transformers keeps the checkpointing function of a module


def apply_batched(
    model: nn.Module,
    spec: LoraSpec,
    weights: LoraWeights,
    index: Sequence[int] | Tensor | None = None,
    *,
    dropout: float = 0.0,
) -> BatchedLora:
    """Gives sample i of every batch the adapter ``weights[index[i]]`` while the returned context is open.

    Leave the context after ``backward``: activation checkpointing runs the base again there, and must see the
    adapters. Gradients reach the weights and the model's inputs; the base needs none.

    Args:
        model: the base; Hugging Face models and any other module whose linear modules get (S, ..., I).
        weights: N adapters, in any float dtype and on any device. Each A and B is moved to the dtype and device of
            its module's output once per forward (and once per recomputation), when the module runs.
        index: for each of the S samples the adapter to use, -1 for the plain base; by default sample i uses
            adapter i, which needs S = N. Samples that share an adapter are cheapest side by side
            (``repeat_interleave``).
        dropout: chance of dropping an input of the LoRA branch, where the module is in training mode, as in PEFT.

    Raises:
        T2LError: the weights are not those of ``spec``, the index points outside them, or adapters are already
            applied to this model (on entry); the batch has another size than the index (in the forward).
        BaseModelError: the model lacks modules of ``spec``, or their shapes differ.

    Example:
        >>> with apply_batched(model, spec, hypernetwork(condition_NE)):
        ...     model(**batch, labels=labels).loss.backward()
    """
    return BatchedLora(model, spec, weights, index, dropout=dropout)


class BatchedLora:
    """The context that `apply_batched` returns; it can be entered again after it was left."""

    def __init__(
        self,
        model: nn.Module,
        spec: LoraSpec,
        weights: LoraWeights,
        index: Sequence[int] | Tensor | None = None,
        *,
        dropout: float = 0.0,
    ) -> None:
        if not 0 <= dropout < 1:
            raise T2LError(f"dropout is {dropout!r}; it must be at least 0 and below 1.")
        model = getattr(model, "_orig_mod", model)  # a model that torch.compile has wrapped
        weights.check(spec)
        spec.check_base(model)
        self.model = model
        self.spec = spec
        self.weights = weights
        self.samples = _Samples.of(index, weights.num_samples, next(iter(weights.a.values())).device)
        self.dropout = dropout
        self._sites: dict[str, _Site] = {}
        self._kept_sites: dict[str, _Site] = {}  # in inference mode, where a server enters often
        self._checkpoints: list[tuple[nn.Module, Callable[..., Any], Callable[..., Any]]] = []

    @property
    def applied(self) -> bool:
        """Whether the adapters act on the model now."""
        return bool(self._sites)

    def rebind(self, weights: LoraWeights, index: Sequence[int] | Tensor | None = None) -> BatchedLora:
        """Other adapters for the next time that this context is entered; returns itself.

        What stands in the modules stays the same objects, so a compiled model (`torch.compile`) reuses its graphs from
        step to step, where a new context a step would make it compile again.

        Raises:
            T2LError: the adapters are applied now, are not those of the spec, or the index points outside them.
        """
        if self.applied:
            raise T2LError("The adapters cannot be changed while they are applied.", "Leave the context first.")
        weights.check(self.spec)
        self.weights = weights
        self.samples = _Samples.of(index, weights.num_samples, next(iter(weights.a.values())).device)
        self._kept_sites = {}
        return self

    def rebind_rows(self, weights: LoraWeights, rows_S: Tensor) -> BatchedLora:
        """As `rebind`, with an index on the device whose values may change while a recorded graph is replayed."""
        self.rebind(weights)
        self.samples = _Samples.by_rows(rows_S)
        return self

    def __enter__(self) -> BatchedLora:
        sites = (self._kept_sites if torch.is_inference_mode_enabled() else {}) or self._make_sites()
        taken = next((path for path, site in sites.items() if _site_of(site.module) is not None), None)
        if taken is not None:
            raise T2LError(
                f"Per-sample adapters are already applied to this model (at {taken}).",
                "Leave the first context before entering another; to use several adapters in one batch, "
                "stack them with LoraWeights.cat and give an index.",
            )
        self._sites = sites
        try:
            for site in self._sites.values():
                site.attach()
            if not torch.is_inference_mode_enabled():  # nothing is checkpointed there
                self._wrap_checkpoints()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        for site in self._sites.values():
            site.detach()
        for module, ours, original in self._checkpoints:
            if getattr(module, _CHECKPOINT, None) is ours:  # unless checkpointing was switched meanwhile
                setattr(module, _CHECKPOINT, original)
        self._sites = {}
        self._checkpoints = []

    def _make_sites(self) -> dict[str, _Site]:
        sites = {}
        with torch.enable_grad():  # one unbind per group: its backward is one stack, not one scatter per layer
            for group in self.spec.groups:
                a_by_layer = self.weights.a[group.key].unbind(1)
                b_by_layer = self.weights.b[group.key].unbind(1)
                for path, a_NRI, b_NOR in zip(group.module_paths(), a_by_layer, b_by_layer, strict=True):
                    module = self.model.get_submodule(path)
                    sites[path] = _Site(path, module, a_NRI, b_NOR, self.samples, self.spec.scaling, self.dropout)
        if torch.is_inference_mode_enabled():  # elsewhere each backward needs an unbinding of its own
            self._kept_sites = sites
        return sites

    def _wrap_checkpoints(self) -> None:
        """Hands A and B to transformers' checkpointing as explicit inputs.

        Reentrant checkpointing differentiates only what goes in as an argument, and runs a backward of its own per
        layer: through tensors it merely closes over, it would free the hypernetwork's graph at the first layer.
        """
        for name, module in self.model.named_modules():
            original = vars(module).get(_CHECKPOINT)
            if original is None:
                continue
            inside = [site for path, site in self._sites.items() if not name or path.startswith(f"{name}.")]
            if inside:
                ours = self._checkpointed(original, inside)
                setattr(module, _CHECKPOINT, ours)
                self._checkpoints.append((module, ours, original))

    def _checkpointed(self, original: Callable[..., Any], sites: list[_Site]) -> Callable[..., Any]:
        factors = [factor for site in sites for factor in (site.a_NRI, site.b_NOR)]

        def checkpointed(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            def rerun(*inputs: Any, **options: Any) -> Any:
                if not all(site.attached for site in sites):
                    raise T2LError(
                        "The per-sample adapters were taken off before backward, and activation checkpointing needs "
                        "them there.",
                        "Call backward inside the `with apply_batched(...)` block.",
                    )
                own, given = inputs[: len(args)], inputs[len(args) :]
                with _bound(sites, given):
                    return run(*own, **options)

            return original(rerun, *args, *factors, **kwargs)

        return checkpointed


def add_low_rank(y_STO: Tensor, x_STI: Tensor, a_GRI: Tensor, b_GOR: Tensor, scaling: float) -> Tensor:
    """``y + s * B (A x)`` with one adapter per run of S / G consecutive samples, in y's dtype.

    Two batched products over (G, S/G * T) rows; the only new tensors are the R-wide product and the sum.

    Args:
        y_STO: output of the frozen module, (S, ..., O).
        x_STI: its input, (S, ..., I).
    """
    runs = a_GRI.shape[0]
    x_GTI = x_STI.reshape(runs, -1, x_STI.shape[-1]).to(y_STO.dtype)
    y_GTO = y_STO.reshape(runs, -1, y_STO.shape[-1])
    hidden_GTR = torch.bmm(x_GTI, a_GRI.mT)
    return torch.baddbmm(y_GTO, hidden_GTR, b_GOR.mT, alpha=scaling).view(y_STO.shape)


@dataclass(frozen=True)
class _Samples:
    """Which adapter each sample uses, folded into runs of equal length.

    Args:
        size: S.
        runs: for each of the G runs its adapter, -1 for none.
        rows: G adapter rows to gather (0 where there is none); None where run g uses adapter g, so nothing is copied.
        plain: (G, 1, 1), true for the runs without an adapter; None where there are none.
    """

    size: int
    runs: tuple[int, ...]
    rows: Tensor | None
    plain: Tensor | None

    @property
    def adapted(self) -> bool:
        """Whether any sample uses an adapter."""
        return max(self.runs) >= 0

    @classmethod
    def of(cls, index: Sequence[int] | Tensor | None, num_adapters: int, device: torch.device) -> _Samples:
        samples = list(range(num_adapters)) if index is None else _as_list(index)
        outside = next((i for i in samples if not -1 <= i < num_adapters), None)
        if outside is not None:
            raise T2LError(
                f"The index names adapter {outside}; there are {num_adapters} "
                f"(0 to {num_adapters - 1}, or -1 for the plain base)."
            )
        starts = [i for i, adapter in enumerate(samples) if i == 0 or adapter != samples[i - 1]]
        length = math.gcd(len(samples), *starts)  # the longest equal runs that cut the batch
        runs = tuple(samples[::length])
        rows = plain = None
        if runs != tuple(range(num_adapters)):
            rows = torch.tensor([max(run, 0) for run in runs], device=device)
        if -1 in runs:
            plain = torch.tensor([run == -1 for run in runs], device=device).view(-1, 1, 1)
        return cls(len(samples), runs, rows, plain)

    @classmethod
    def by_rows(cls, rows_S: Tensor) -> _Samples:
        """Sample i uses adapter ``rows_S[i]``, whatever that tensor holds when it is read (recorded graphs)."""
        return cls(len(rows_S), tuple(range(len(rows_S))), rows_S, None)

    def gather(self, factor: Tensor) -> Tensor:
        """(N, ...) -> (G, ...), zero for the runs without an adapter."""
        if self.rows is not None:
            factor = factor.index_select(0, self.rows)
        if self.plain is not None:
            factor = factor.masked_fill(self.plain, 0)
        return factor


class _Site:
    """One target module while its adapters are applied: stands in for the module's ``forward``.

    A replaced ``forward`` and not a forward hook: torch.compile ignores hooks added after it has compiled a module.
    """

    def __init__(
        self,
        path: str,
        module: nn.Module,
        a_NRI: Tensor,
        b_NOR: Tensor,
        samples: _Samples,
        scaling: float,
        dropout: float,
    ) -> None:
        self.path = path
        self.module = module
        self.a_NRI = a_NRI
        self.b_NOR = b_NOR
        self.samples = samples
        self.scaling = scaling
        self.dropout = dropout
        self.attached = False
        self.original: Callable[..., Tensor] = module.forward
        self.shadowed: Any = None

    def attach(self) -> None:
        self.original = self.module.forward
        self.shadowed = vars(self.module).get("forward")  # where another library has replaced it as well
        self.module.forward = self.forward
        self.attached = True

    def detach(self) -> None:
        self.attached = False
        if self.shadowed is None:
            vars(self.module).pop("forward", None)
        else:
            self.module.forward = self.shadowed

    def forward(self, x_STI: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y_STO = self.original(x_STI, *args, **kwargs)
        samples = self.samples
        if x_STI.dim() < 2 or x_STI.shape[0] != samples.size:
            raise T2LError(
                f"{self.path} got an input of shape {tuple(x_STI.shape)}, but the index is for {samples.size} samples, "
                "which must be the first axis.",
                "Give apply_batched an index with one entry per sample of the batch "
                "(for K samples per adapter: torch.arange(N).repeat_interleave(K)).",
            )
        if not samples.adapted:
            return y_STO
        if self.dropout > 0 and self.module.training:
            x_STI = F.dropout(x_STI, self.dropout)
        a_GRI = samples.gather(self.a_NRI).to(y_STO)
        b_GOR = samples.gather(self.b_NOR).to(y_STO)
        return add_low_rank(y_STO, x_STI, a_GRI, b_GOR, self.scaling)


@contextmanager
def _bound(sites: list[_Site], factors: Sequence[Tensor]) -> Iterator[None]:
    """The sites use the given A and B (a checkpoint's own copies of them) inside the block."""
    kept = [(site.a_NRI, site.b_NOR) for site in sites]
    for site, a_NRI, b_NOR in zip(sites, factors[::2], factors[1::2], strict=True):
        site.a_NRI, site.b_NOR = a_NRI, b_NOR
    try:
        yield
    finally:
        for site, (a_NRI, b_NOR) in zip(sites, kept, strict=True):
            site.a_NRI, site.b_NOR = a_NRI, b_NOR


def _site_of(module: nn.Module) -> _Site | None:
    holder = getattr(vars(module).get("forward"), "__self__", None)
    return holder if isinstance(holder, _Site) else None


def _as_list(index: Sequence[int] | Tensor) -> list[int]:
    numbers = torch.as_tensor(index)
    if numbers.dim() != 1 or numbers.numel() == 0 or numbers.dtype not in (torch.int64, torch.int32):
        raise T2LError(
            f"The index is a {numbers.dtype} tensor of shape {tuple(numbers.shape)}; "
            "it must list one whole number per sample."
        )
    return numbers.tolist()
