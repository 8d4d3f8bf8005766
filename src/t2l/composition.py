"""Adapters made from adapters: stronger or weaker, added, subtracted, averaged; the origin is recorded.

Axis letters: L layers, R rank of one part, S rank of the sum, I in-features, O out-features, K rank that is kept.

Level 2. With ``s_p`` the scaling and ``w_p`` the weight of part p, every method but one makes the adapter whose weight
change is the sum ``sum_p w_p s_p B_p A_p`` of the parts' changes:

``cat``      exact: the ranks are put side by side, so the rank grows to the sum of the parts' ranks.
``svd``      the nearest adapter of a given rank (Eckart-Young, from the singular values of the sum).
``factors``  ``(sum w A)`` and ``(sum w B)`` apart, at the parts' own rank. *Not* the sum of the changes (it has cross
             terms); it means something where the parts come from one checkpoint, which speaks one A and one B space.

This file knows adapters only; a blend of descriptions before there are weights is `TextToLora.blend`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from t2l.adapter import Adapter
from t2l.errors import AdapterError, BaseModelError, T2LError, did_you_mean
from t2l.lora import LoraSpec, LoraWeights, ModuleGroup
from t2l.prompting import RECORDED, recorded

Method = Literal["cat", "svd", "factors"]
"""How `combine` makes one adapter of several; see the top of the file."""


def scale(adapter: Adapter, strength: float) -> Adapter:
    """The adapter with its weight change multiplied by ``strength``: 0 is the base, 1 the adapter, -1 its opposite.

    The strengths of repeated scalings multiply in the provenance.

    Raises:
        T2LError: ``strength`` is not a finite number, or so large that the result is not.

    Example:
        >>> from t2l import TextToLora
        >>> adapter, = TextToLora.from_pretrained().generate(["Copy the date out of the message."])
        >>> half = scale(adapter, 0.5)
        >>> half.provenance["strength"]
        0.5
    """
    strength = _number(strength, "strength")
    weights = LoraWeights(
        dict(adapter.weights.a), {key: b_NLOR * strength for key, b_NLOR in adapter.weights.b.items()}
    )
    _check_finite(weights)
    before = adapter.provenance.get("strength", 1.0)
    total = strength * (float(before) if isinstance(before, int | float) else 1.0)
    return Adapter(adapter.spec, weights, {**adapter.provenance, "strength": total})


def combine(
    adapters: Sequence[Adapter],
    weights: Sequence[float] | None = None,
    *,
    method: Method = "cat",
    rank: int | None = None,
) -> Adapter:
    """One adapter for the weighted sum of several, for one base.

    Parts may have different ranks, scalings and adapted modules (``factors`` asks for the same rank and modules).

    Args:
        weights: one for each adapter, negative ones subtract; 1 each by default.
        method: see the top of the file.
        rank: of the result with ``svd``; by default the largest rank among the parts.

    Returns:
        an adapter whose scaling is 1, with the parts, their weights and the method in its provenance; for ``svd``
        also ``kept``, the share of the sum's squared norm that the rank could hold.

    Raises:
        BaseModelError: the adapters are for different bases.
        T2LError: no adapters, not one weight for each, a rank without effect, or weights beyond float32's range.

    Example:
        >>> from t2l import TextToLora
        >>> parts = TextToLora.from_pretrained().generate(["Copy the date out.", "Name the city."])
        >>> both = combine(parts, [0.5, 0.5])
        >>> both.spec.rank == sum(part.spec.rank for part in parts)
        True
    """
    adapters = list(adapters)
    shares = _shares(weights, len(adapters))
    if method not in get_args(Method):
        raise T2LError(f"There is no method '{method}' to combine adapters.", did_you_mean(method, get_args(Method)))
    if rank is not None and method != "svd":
        raise T2LError(f"A rank has no effect with method '{method}'.", "Leave it away, or use method 'svd'.")
    _check_same_base(adapters)
    record: dict[str, Any] = {"method": method, "weights": shares, "parts": [_part(adapter) for adapter in adapters]}
    if method == "factors":
        spec, tensors = _factors(adapters, shares)
    else:
        spec, tensors = _concatenated(adapters, shares)
        _check_finite(tensors)
        if method == "svd":
            spec, tensors, kept = reduce_rank(spec, tensors, rank or max(a.spec.rank for a in adapters))
            record["kept"] = round(kept, 6)
    _check_finite(tensors)
    return Adapter(spec, tensors, {"base_model": spec.base_model, **_prompts(adapters), "composition": record})


def subtract(adapter: Adapter, other: Adapter, *, method: Method = "cat", rank: int | None = None) -> Adapter:
    """``adapter - other`` in weight space: what the first has and the second lacks."""
    return combine([adapter, other], [1.0, -1.0], method=method, rank=rank)


def reduce_rank(spec: LoraSpec, weights: LoraWeights, rank: int) -> tuple[LoraSpec, LoraWeights, float]:
    """The nearest adapter of at most ``rank``, its scaling 1, and the share of the squared norm that it keeps.

    The O x I product is never formed: with ``B = Q_b R_b`` and ``A^T = Q_a R_a``, the singular values of ``B A`` are
    those of the S x S matrix ``R_b R_a^T``. Computed in float64; each factor gets the root of the singular values.

    Raises:
        T2LError: ``rank`` is not a whole number of at least 1.
    """
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise T2LError(f"rank is {rank!r}; it must be a whole number of at least 1.")
    a, b, kept, whole = {}, {}, 0.0, 0.0
    for group in spec.groups:
        a_LSI, b_LOS = weights.a[group.key][0].double(), weights.b[group.key][0].double() * spec.scaling
        left_LOS, corner_b_LSS = torch.linalg.qr(b_LOS)
        right_LIS, corner_a_LSS = torch.linalg.qr(a_LSI.mT)
        u_LSS, value_LS, v_LSS = torch.linalg.svd(corner_b_LSS @ corner_a_LSS.mT, full_matrices=False)
        size = min(rank, value_LS.shape[-1])
        root_LK = value_LS[:, :size].sqrt()
        b_LOK = left_LOS @ u_LSS[..., :size] * root_LK.unsqueeze(-2)
        a_LKI = root_LK.unsqueeze(-1) * (v_LSS[:, :size] @ right_LIS.mT)
        a[group.key] = _padded(a_LKI, rank, dim=-2).float().unsqueeze(0)
        b[group.key] = _padded(b_LOK, rank, dim=-1).float().unsqueeze(0)
        whole += value_LS.square().sum().item()
        kept += value_LS[:, :size].square().sum().item()
    smaller = replace(spec, rank=rank, alpha=float(rank), use_rslora=False)
    return smaller, LoraWeights(a, b), kept / whole if whole else 1.0


def conform(adapter: Adapter, spec: LoraSpec) -> Adapter:
    """The same weight change in the shapes of ``spec``: the scaling goes into B, ranks and modules it lacks are zero.

    Raises:
        BaseModelError: its rank is larger, or it adapts modules that ``spec`` does not.
    """
    if adapter.spec == spec:
        return adapter
    if adapter.spec.rank > spec.rank:
        raise BaseModelError(f"The adapter has rank {adapter.spec.rank}; at most {spec.rank} fits.")
    places = {path: (g.key, depth) for g in spec.groups for depth, path in enumerate(g.module_paths())}
    weights = LoraWeights.zeros(spec)
    a, b = weights.a, weights.b
    factor = adapter.spec.scaling / spec.scaling
    for group in adapter.spec.groups:
        for depth, path in enumerate(group.module_paths()):
            key, row = places.get(path, ("", 0))
            shape = (group.in_features, group.out_features)
            if not key or (a[key].shape[-1], b[key].shape[-2]) != shape:
                raise BaseModelError(f"The adapter changes {path} ({shape[0]}x{shape[1]}), which is not adapted here.")
            a[key][0, row, : adapter.spec.rank] = adapter.weights.a[group.key][0, depth]
            b_OR = adapter.weights.b[group.key][0, depth].double() * factor
            b[key][0, row, :, : adapter.spec.rank] = b_OR.float()
    return Adapter(spec, weights, adapter.provenance)


def _concatenated(adapters: Sequence[Adapter], shares: Sequence[float]) -> tuple[LoraSpec, LoraWeights]:
    """Ranks side by side; a part that leaves a module alone has zeros there. Scalings and weights go into B."""
    total = sum(adapter.spec.rank for adapter in adapters)
    groups = _all_groups([adapter.spec for adapter in adapters])
    first = adapters[0].spec
    spec = LoraSpec(
        groups=groups,
        num_layers=max(adapter.spec.num_layers for adapter in adapters),
        rank=total,
        alpha=float(total),
        use_rslora=False,
        dropout=first.dropout,
        base_model=next((a.spec.base_model for a in adapters if a.spec.base_model is not None), None),
        fan_in_fan_out=first.fan_in_fan_out,
    )
    weights = LoraWeights.zeros(spec, dtype=torch.float64)
    places = {path: (g.key, depth) for g in groups for depth, path in enumerate(g.module_paths())}
    start = 0
    for adapter, share in zip(adapters, shares, strict=True):
        ranks = slice(start, start + adapter.spec.rank)
        for group in adapter.spec.groups:
            for depth, path in enumerate(group.module_paths()):
                key, row = places[path]
                weights.a[key][0, row, ranks] = adapter.weights.a[group.key][0, depth].double()
                factor = share * adapter.spec.scaling
                weights.b[key][0, row, :, ranks] = adapter.weights.b[group.key][0, depth].double() * factor
        start += adapter.spec.rank
    return spec, weights.to(torch.float32)


def _factors(adapters: Sequence[Adapter], shares: Sequence[float]) -> tuple[LoraSpec, LoraWeights]:
    first = adapters[0].spec
    for adapter in adapters[1:]:
        if (adapter.spec.groups, adapter.spec.rank) != (first.groups, first.rank):
            raise T2LError(
                "Factors can be added only between adapters of the same rank and modules.",
                "Use method 'cat' or 'svd'.",
            )

    def weighted(tensors: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
        return sum((t.double() * f for t, f in zip(tensors, factors, strict=True)), torch.zeros(())).float()

    scaled = [share * adapter.spec.scaling for share, adapter in zip(shares, adapters, strict=True)]
    a = {g.key: weighted([x.weights.a[g.key] for x in adapters], shares) for g in first.groups}
    b = {g.key: weighted([x.weights.b[g.key] for x in adapters], scaled) for g in first.groups}
    return replace(first, alpha=float(first.rank), use_rslora=False), LoraWeights(a, b)


def _all_groups(specs: Sequence[LoraSpec]) -> tuple[ModuleGroup, ...]:
    """The union of the adapted modules; where the specs agree, their own groups."""
    if all(spec.groups == specs[0].groups for spec in specs):
        return specs[0].groups
    keys: dict[tuple[str, int, int], str] = {}
    layers: dict[tuple[str, int, int], set[int]] = {}
    shapes: dict[str, tuple[int, int]] = {}
    for spec in specs:
        for group in spec.groups:
            kind = (group.path, group.in_features, group.out_features)
            for path in group.module_paths():
                if shapes.setdefault(path, kind[1:]) != kind[1:]:
                    raise BaseModelError(
                        f"The adapters are not for one base: {path} is {shapes[path][0]}x{shapes[path][1]} in one and "
                        f"{kind[1]}x{kind[2]} in another."
                    )
            keys.setdefault(kind, group.key)
            layers.setdefault(kind, set()).update(group.layers)
    names = list(keys.values())
    return tuple(
        ModuleGroup(
            key if names.count(key) == 1 else f"{path.replace('.', '/').replace('{layer}', '*')}@{i}x{o}",
            path,
            tuple(sorted(layers[path, i, o])),
            i,
            o,
        )
        for (path, i, o), key in keys.items()
    )


def _check_same_base(adapters: Sequence[Adapter]) -> None:
    names = list(dict.fromkeys(a.spec.base_model for a in adapters if a.spec.base_model is not None))
    if len(names) > 1:
        raise BaseModelError(f"The adapters are for different bases: {' and '.join(repr(n) for n in names[:3])}.")
    if len({adapter.spec.fan_in_fan_out for adapter in adapters}) > 1:
        raise BaseModelError("The adapters are for different bases: only some are for one with transposed weights.")


def _prompts(adapters: Sequence[Adapter]) -> dict[str, Any]:
    """What all adapters say of their prompts.

    Raises:
        T2LError: they are for prompts with different system messages.
    """
    found = {adapter.system: adapter for adapter in adapters if adapter.system is not None}
    if len(found) > 1:
        shown = " and ".join(repr(system[:40]) for system in list(found)[:2])
        raise T2LError(
            f"The adapters were made for prompts with different system messages: {shown}.",
            "Combine adapters of one checkpoint.",
        )
    return next((recorded(adapter.provenance) for adapter in found.values()), {})


def _part(adapter: Adapter) -> dict[str, Any]:
    """What a composition remembers of a part: its provenance, less what the whole repeats, and its digest."""
    own = {
        name: value for name, value in adapter.provenance.items() if name not in ("versions", "base_model", *RECORDED)
    }
    return {"digest": adapter.digest, **own}


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if count == 0:
        raise AdapterError("There is no adapter to combine.")
    shares = [1.0] * count if weights is None else [_number(weight, "weight") for weight in weights]
    if len(shares) != count:
        raise T2LError(f"There are {len(shares)} weights for {count} adapters.", "Give one for each.")
    return shares


def _number(value: float, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise T2LError(f"The {name} is {value!r}; it must be a finite number.")
    return float(value)


def _check_finite(weights: LoraWeights) -> None:
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.tensors):
        raise T2LError("The result has values that are not finite numbers.", "Use smaller weights.")


def _padded(tensor: Tensor, size: int, dim: int) -> Tensor:
    """Zeros behind, up to ``size`` along ``dim``: the modules of an adapter have one rank."""
    missing = size - tensor.shape[dim]
    if missing <= 0:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor, tensor.new_zeros(shape)], dim=dim)
