"""A folder of PEFT adapter folders as targets: which of them fit one spec, and one adapter read in that spec.

Axis letters: N adapters (1 here), L layers, R rank, I in-features, O out-features.

Level 4. Adapters of a lower rank are filled up with zeros and those of another scaling have B rescaled: both leave
the weight change as it is. Judging a folder reads configs and the headers of files, no weights. This file does not
know what the adapters are for.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from t2l.errors import AdapterError, T2LError
from t2l.lora import LoraSpec, LoraWeights
from t2l.peft_format import (
    CONFIG_FILE,
    TENSOR_FILE,
    read_config,
    spec_from_tensors,
    weights_from_tensors,
    with_config,
)
from t2l.storage import read_tensors

_HEADER_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_SHOWN = 8


@dataclass(frozen=True)
class Survey:
    """What a folder holds.

    Args:
        spec: the one in which its adapters are read.
        names: of the adapters that fit, sorted.
        odd: name -> why it does not fit.
    """

    spec: LoraSpec
    names: tuple[str, ...]
    odd: dict[str, str]

    def check(self) -> None:
        """Raises `AdapterError` where some do not fit; it names them, and why."""
        if self.odd:
            listed = "\n".join(f"  - {name}: {reason}" for name, reason in list(self.odd.items())[:_SHOWN])
            more = f"\n  - and {len(self.odd) - _SHOWN} more" if len(self.odd) > _SHOWN else ""
            raise AdapterError(
                f"{len(self.odd)} of {len(self.odd) + len(self.names)} adapters do not fit the others:\n{listed}{more}",
                "Take them out of the folder, or leave them out: skip_odd=true in a recipe.",
            )


def survey(folder: Path, spec: LoraSpec | None = None) -> Survey:
    """Looks at every PEFT folder below ``folder``.

    Args:
        spec: what they must fit: the same modules and shapes, a rank no higher, the same base where both name one. By
            default that of the majority, with the highest rank among these.

    Raises:
        AdapterError: there is none, or not one can be read.
    """
    names = sorted(path.parent.name for path in folder.glob(f"[!.]*/{CONFIG_FILE}"))
    if not names:
        raise AdapterError(f"'{folder}' has no folders of PEFT adapters in it.")
    kinds: dict[str, tuple[bytes, int]] = {}  # name -> what it adapts, as a digest, and its rank
    examples: dict[bytes, LoraSpec] = {}  # one of each kind, of the highest rank
    odd: dict[str, str] = {}
    for name in names:
        try:
            found = header_spec(folder / name)
        except T2LError as problem:
            odd[name] = problem.message
            continue
        kind = _kind(found)
        kinds[name] = (kind, found.rank)
        if kind not in examples or found.rank > examples[kind].rank:
            examples[kind] = found
    if spec is None:
        if not kinds:
            raise AdapterError(f"No adapter in '{folder}' can be read. '{names[0]}': {odd[names[0]]}")
        spec = examples[Counter(kind for kind, _ in kinds.values()).most_common(1)[0][0]]
    reasons = {kind: misfit(replace(example, rank=1), spec) for kind, example in examples.items()}
    for name, (kind, rank) in kinds.items():
        reason = reasons[kind] or _rank_misfit(rank, spec)
        if reason is not None:
            odd[name] = reason
    return Survey(spec, tuple(name for name in names if name not in odd), {name: odd[name] for name in sorted(odd)})


def header_spec(folder: Path) -> LoraSpec:
    """The spec of one PEFT folder from its config and the header of its tensors' file.

    Raises:
        AdapterError: not a plain LoRA of one rank, or a file that is missing, truncated or foreign.
    """
    config = read_config(folder)
    path = folder / TENSOR_FILE
    if not path.is_file():
        raise AdapterError(f"'{path}' does not exist.")
    try:
        with safe_open(str(path), framework="pt") as file:
            shapes = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            tensors = {name: _shape_only(part.get_dtype(), part.get_shape()) for name, part in shapes.items()}
    except (SafetensorError, OSError, ValueError) as problem:
        raise AdapterError(
            f"'{path}' is not a whole safetensors file: {problem}.", "It may be truncated; copy or download it again."
        ) from problem
    found = spec_from_tensors(tensors, config, folder)
    for name, tensor in tensors.items():
        axis = 0 if ".lora_A." in name else 1
        if tensor.shape[axis] != found.rank:
            raise AdapterError(f"{name} has shape {tuple(tensor.shape)}; {CONFIG_FILE} says rank {found.rank}.")
    return found


def misfit(found: LoraSpec, spec: LoraSpec) -> str | None:
    """Why an adapter of one spec cannot be read in another; None where it can."""
    if found.base_model and spec.base_model and _last_part(found.base_model) != _last_part(spec.base_model):
        return f"it is for the base '{found.base_model}', not '{spec.base_model}'"
    own, wanted = _modules(found), _modules(spec)
    missing, extra = sorted(set(wanted) - set(own)), sorted(set(own) - set(wanted))
    if missing or extra:
        lacks = f"lacks {missing[0]}{_and_more(missing)}" if missing else ""
        has = f"adapts {extra[0]}{_and_more(extra)} as well" if extra else ""
        return " and ".join(part for part in ("it " + lacks if lacks else "", has if lacks else f"it {has}") if part)
    path = next((path for path in wanted if own[path] != wanted[path]), None)
    if path is not None:
        return "{} is {}x{}, not {}x{}".format(path, *own[path], *wanted[path])
    return _rank_misfit(found.rank, spec)


def read_in_spec(folder: Path, spec: LoraSpec) -> LoraWeights:
    """One adapter (N = 1, float32) in ``spec``: filled up to its rank, B rescaled to its scaling.

    The file is memory-mapped; only what is returned stays in memory.

    Raises:
        AdapterError: damaged, NaN, or not of ``spec``.
    """
    own = with_config(spec, read_config(folder))
    if own.rank > spec.rank:
        raise AdapterError(f"The adapter in '{folder}' has rank {own.rank}; the library's spec has {spec.rank}.")
    weights = weights_from_tensors(own, read_tensors(folder / TENSOR_FILE, AdapterError), folder).to(torch.float32)
    more = spec.rank - own.rank
    a, b = weights.a, weights.b
    if own.scaling != spec.scaling:
        factor = own.scaling / spec.scaling
        b = {key: b_NLOR * factor for key, b_NLOR in b.items()}
    if more:
        a = {key: F.pad(a_NLRI, (0, 0, 0, more)) for key, a_NLRI in a.items()}
        b = {key: F.pad(b_NLOR, (0, more)) for key, b_NLOR in b.items()}
    return LoraWeights(a, b)


def _kind(spec: LoraSpec) -> bytes:
    """A digest of the base's name and of the modules' paths and shapes: small, as a library may be large."""
    text = repr((_last_part(spec.base_model or ""), sorted(_modules(spec).items())))
    return blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


def _rank_misfit(rank: int, spec: LoraSpec) -> str | None:
    return f"its rank is {rank}, above {spec.rank}" if rank > spec.rank else None


def _modules(spec: LoraSpec) -> dict[str, tuple[int, int]]:
    return {path: (g.in_features, g.out_features) for g in spec.groups for path in g.module_paths()}


def _last_part(base: str) -> str:
    """A base by the last part of its name, as one adapter names a hub id and another the folder of a copy."""
    return base.rstrip("/").rpartition("/")[2].lower()


def _and_more(paths: list[str]) -> str:
    return f" and {len(paths) - 1} more" if len(paths) > 1 else ""


def _shape_only(kind: str, shape: list[int]) -> Tensor:
    return torch.empty(shape, dtype=_HEADER_DTYPES.get(kind, torch.int8), device="meta")
