"""How PEFT's files describe a LoRA: config fields and tensor names, written from a spec and read back strictly.

Axis letters: L layers, R rank, I in-features, O out-features.

Level 1. This file knows ``adapter_config.json`` and ``adapter_model.safetensors``; it does not import PEFT, and does
not know where an adapter comes from or how its scaling is stored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2l.base_structure import is_inside_larger
from t2l.errors import AdapterError, UnsupportedAdapterError, bullets
from t2l.lora import LoraSpec, LoraWeights, ModuleGroup
from t2l.storage import MOST_FOREIGN, check_tensors, read_json

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}

_KEY = re.compile(r"base_model\.model\.(?P<path>[^{}*]+)\.lora_(?P<factor>[AB])\.weight")
_BASE_WEIGHT = re.compile(r"base_model\.model\.[^{}*]+\.base_layer\.(weight|bias)")  # PEFT adds those of embeddings
_DEPTH = re.compile(r"(?:^|\.)(0|[1-9][0-9]{0,5})(?=\.|$)")
_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva")  # the ones that leave the base's weights alone
_MEND = "Copy or download the adapter again; PEFT writes this file with save_pretrained."
_ELSEWHERE = (
    "Use it with PEFT, or merge it into its base there (PeftModel.from_pretrained(base, folder).merge_and_unload()); "
    "for t2l, train a plain LoRA of one rank on linear modules of the layers."
)
_UNSUPPORTED = {  # settings that make the folder compute something else than W + s * B A, or adapt something else
    "use_dora": "DoRA",
    "lora_bias": "a bias inside LoRA",
    "rank_pattern": "ranks that differ between modules",
    "alpha_pattern": "scalings that differ between modules",
    "modules_to_save": "whole modules beside the LoRA",
    "layer_replication": "replicated layers",
    "target_parameters": "adapted parameters that are not modules",
    "trainable_token_indices": "trained token embeddings",
    "alora_invocation_tokens": "activated LoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}


def lora_config(spec: LoraSpec) -> dict[str, Any]:
    """The fields of ``adapter_config.json`` for ``spec``, as PEFT's LoraConfig writes and reads them."""
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": spec.base_model,
        "bias": "none",
        "fan_in_fan_out": spec.fan_in_fan_out,
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        **target_fields(spec),
        "loftq_config": {},
        "lora_alpha": int(spec.alpha) if spec.alpha == int(spec.alpha) else spec.alpha,
        "lora_dropout": spec.dropout,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": spec.rank,
        "rank_pattern": {},
        "revision": None,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": spec.use_rslora,
    }


def target_fields(spec: LoraSpec) -> dict[str, Any]:
    """The simplest of PEFT's ways to name exactly the adapted modules.

    Names alone where every layer of the base is adapted alike; names with ``layers_to_transform`` where the same
    layers are for each name; full paths otherwise. A name is the last part of a path, or the path inside the layer
    where the spec says so (by a "/" in the group's key), as the last part is ambiguous.
    """
    layers_by_name: dict[str, set[int]] = {}
    for group in spec.groups:
        inside = group.path.partition("{layer}.")[2]
        name = inside if "/" in group.key else inside.rsplit(".", 1)[-1]
        layers_by_name.setdefault("" if "*" in group.key else name, set()).update(group.layers)
    prefixes = {group.path.partition("{layer}")[0] for group in spec.groups}
    layer_sets = {frozenset(layers) for layers in layers_by_name.values()}
    alone = not any(is_inside_larger(prefix) for prefix in prefixes)  # else other parts have modules of these names
    if alone and "" not in layers_by_name and len(prefixes) == 1 and len(layer_sets) == 1:
        names, layers = list(layers_by_name), sorted(layer_sets.pop())
        above, _, container = prefixes.pop().rstrip(".").rpartition(".")
        if layers == list(range(spec.num_layers)):
            return {"target_modules": names, "layers_to_transform": None, "layers_pattern": None}
        if above and container:
            return {"target_modules": names, "layers_to_transform": layers, "layers_pattern": container}
    return full_path_fields(spec)


def full_path_fields(spec: LoraSpec) -> dict[str, Any]:
    """Every adapted module by its full path: exact in any base, and long."""
    return {"target_modules": spec.module_paths(), "layers_to_transform": None, "layers_pattern": None}


def peft_tensors(spec: LoraSpec, weights: LoraWeights) -> dict[str, Tensor]:
    """PEFT's keys for the one adapter in ``weights`` (N = 1): A (R, I) and B (O, R) of each module."""
    tensors = {}
    for group in spec.groups:
        for depth, path in enumerate(group.module_paths()):
            tensors[f"base_model.model.{path}.lora_A.weight"] = weights.a[group.key][0, depth]
            tensors[f"base_model.model.{path}.lora_B.weight"] = weights.b[group.key][0, depth]
    return tensors


def weights_from_tensors(spec: LoraSpec, tensors: Mapping[str, Tensor], folder: Path) -> LoraWeights:
    """The inverse of `peft_tensors`; names, shapes, dtypes and values must be those of ``spec``.

    Raises:
        AdapterError: names the first bad tensors.
    """
    _module_shapes(tensors, folder)
    expected: dict[str, tuple[int, int]] = {}
    for group in spec.groups:
        for path in group.module_paths():
            expected[f"base_model.model.{path}.lora_A.weight"] = (spec.rank, group.in_features)
            expected[f"base_model.model.{path}.lora_B.weight"] = (group.out_features, spec.rank)
    check_tensors(tensors, expected, source=folder / TENSOR_FILE, error=AdapterError)

    def stack(group: ModuleGroup, factor: str) -> Tensor:
        names = [f"base_model.model.{path}.lora_{factor}.weight" for path in group.module_paths()]
        return torch.stack([tensors[name] for name in names]).unsqueeze(0)

    return LoraWeights(
        {group.key: stack(group, "A") for group in spec.groups},
        {group.key: stack(group, "B") for group in spec.groups},
    )


def _repeats(config: Mapping[str, Any], name: str) -> bool:
    """Whether a pattern of ranks or scalings says of every module what the config says of all."""
    value, same = config.get(name), config.get({"rank_pattern": "r", "alpha_pattern": "lora_alpha"}.get(name, ""))
    return same is not None and isinstance(value, dict) and all(each == same for each in value.values())


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a folder with plain LoRA of one rank, every field that matters checked.

    Raises:
        AdapterError: not such a folder, a pickle, or a setting that makes it something else than ``W + s * B A``.
    """
    if not folder.is_dir():
        raise AdapterError(f"'{folder}' is not a folder; an adapter is a folder with {CONFIG_FILE} in it.")
    if (folder / PICKLE_FILE).exists() and not (folder / TENSOR_FILE).exists():
        raise AdapterError(
            f"'{folder / PICKLE_FILE}' is a pickle, which can run any code when it is read, so it is refused.",
            "If you trust where it comes from, convert it once with PEFT: "
            f"PeftModel.from_pretrained(base, '{folder}').save_pretrained('NEW_FOLDER').",
        )
    config = read_json(folder / CONFIG_FILE, AdapterError, most=MOST_FOREIGN)
    where = folder / CONFIG_FILE

    def check(name: str, rule: str, fits: Callable[[Any], bool], default: Any = None, fix: str | None = _MEND) -> None:
        value = config.get(name, default)
        if not fits(value):
            kind = UnsupportedAdapterError if fix == _ELSEWHERE and value is not None else AdapterError
            raise kind(f"'{where}': {name} is {shown(value)}; {rule}.", fix)

    check("peft_type", "only LORA is supported", lambda value: value == "LORA", fix=_ELSEWHERE)
    check("bias", "only 'none' is supported", lambda value: value == "none", "none", _ELSEWHERE)
    for name, what in _UNSUPPORTED.items():
        if not _repeats(config, name):
            rule = f"{what} is not supported, only plain LoRA of one rank"
            check(name, rule, lambda value: not value, fix=_ELSEWHERE)
    rule = "an adapter that changes the base's weights is not supported"
    check("init_lora_weights", rule, _plain_start, True, _ELSEWHERE)
    check("r", "it must be a whole number of at least 1", lambda v: type(v) is int and v >= 1)
    check("lora_alpha", "it must be a positive number", _is_positive_number)
    check("lora_dropout", "it must be at least 0 and below 1", lambda v: type(v) in (int, float) and 0 <= v < 1, 0.0)
    for name in ("use_rslora", "fan_in_fan_out"):
        check(name, "it must be true or false", lambda value: isinstance(value, bool), False)
    check("base_model_name_or_path", "it must be a text or null", lambda v: v is None or _is_text(v))
    check("target_modules", "it must be a list of names or a pattern", lambda v: _is_text(v) or _is_list_of(v, str))
    check("layers_to_transform", "it must list whole numbers", lambda v: v is None or _layers(v) is not None)
    return config


def kind_of_other(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[str]:
    """What makes an adapter something else than plain LoRA of one rank in float32, bfloat16 or float16, in words."""
    kind = config.get("peft_type")
    found = [] if kind == "LORA" else [f"{shown(kind)} instead of LoRA"]
    for name, what in _UNSUPPORTED.items():
        if config.get(name) and not _repeats(config, name):
            value = config[name]
            found.append(what if value is True else f"{what}: {shown(value)}")
    if config.get("bias", "none") != "none":
        found.append(f"trained biases: {shown(config['bias'])}")
    if not _plain_start(config.get("init_lora_weights", True)):
        found.append(f"a start that changes the base's weights: {shown(config['init_lora_weights'])}")
    stored = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()} - set(DTYPES))
    found += [f"weights stored as {', '.join(stored)}"] if stored else []
    found += ["weights of the base itself"] if any(map(_BASE_WEIGHT.fullmatch, tensors)) else []
    outside = sorted({match["path"] for name in tensors if (match := _KEY.fullmatch(name))})
    outside = [path for path in outside if _DEPTH.search(path) is None]
    return found + ([f"modules in no numbered layer: {', '.join(outside[:4])}"] if outside else [])


def with_config(spec: LoraSpec, config: Mapping[str, Any]) -> LoraSpec:
    """``spec`` with what the config alone decides, as other runtimes go by it: rank, scaling, base."""
    return replace(spec, **_from_config(config))


def spec_from_tensors(tensors: Mapping[str, Tensor], config: Mapping[str, Any], folder: Path) -> LoraSpec:
    """The spec of an adapter that only PEFT's two files describe.

    ``num_layers`` is the least that fits, one more where the config picks layers: PEFT does not record the depth.

    Raises:
        AdapterError: tensors that are not plain LoRA, or that the config does not target.
    """
    shapes = _module_shapes(tensors, folder)
    targets = config["target_modules"]
    layers = _layers(config.get("layers_to_transform"))
    by_template: dict[str, dict[tuple[int, int], list[int]]] = {}
    for path, shape in shapes.items():
        depth = _DEPTH.search(path)
        if depth is None:
            tied = " It is tied to the input embeddings in many bases." if path.endswith("lm_head") else ""
            raise UnsupportedAdapterError(
                f"The adapter changes '{path}', which is in no numbered layer; that is not supported.{tied}", _ELSEWHERE
            )
        named = isinstance(targets, str) or any(f".{path}".endswith(f".{name}") for name in targets)
        if not named or (layers is not None and int(depth[1]) not in layers):
            raise AdapterError(
                f"There are tensors for '{path}', which {CONFIG_FILE} does not target (target_modules is "
                f"{shown(targets)}, layers_to_transform {shown(config.get('layers_to_transform'))})."
            )
        template = f"{path[: depth.start(1)]}{{layer}}{path[depth.end(1) :]}"
        by_template.setdefault(template, {}).setdefault(shape, []).append(int(depth[1]))
    every_layer = layers is None and not config.get("exclude_modules") and not _picks_paths(targets)
    deepest = max(layer for by_shape in by_template.values() for found in by_shape.values() for layer in found)
    groups = tuple(
        ModuleGroup(
            key if len(by_shape) == 1 else f"{key}@{shape[0]}x{shape[1]}", template, tuple(sorted(found)), *shape
        )
        for template, key in _keys(sorted(by_template), targets).items()
        for by_shape in [by_template[template]]
        for shape, found in sorted(by_shape.items())
    )
    return LoraSpec(
        groups,
        num_layers=deepest + (1 if every_layer else 2),  # a base may be deeper than a chosen set of its layers
        **_from_config(config),
    )


def _module_shapes(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, tuple[int, int]]:
    """Module path -> (I, O), from the tensors' names and shapes; refuses names that are not plain LoRA."""
    factors: dict[str, dict[str, Tensor]] = {}
    foreign = []
    stored = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()} - set(DTYPES))
    if stored and all(name.startswith("float8") for name in stored) and all(map(_KEY.fullmatch, tensors)):
        raise UnsupportedAdapterError(f"'{folder / TENSOR_FILE}' is stored as {', '.join(stored)}.", _ELSEWHERE)
    whole = [name for name in tensors if _BASE_WEIGHT.fullmatch(name)]
    if whole:
        what = f"'{folder / TENSOR_FILE}' holds weights of the base itself ({whole[0]})"
        raise UnsupportedAdapterError(f"{what}; that is not supported.", _ELSEWHERE)
    for name, tensor in tensors.items():
        match = _KEY.fullmatch(name)
        if match is None:
            foreign.append(f"unexpected {name} {tuple(tensor.shape)}")
        elif tensor.dim() != 2:
            foreign.append(f"{name} has shape {tuple(tensor.shape)}, expected a matrix")
        elif tensor.dtype not in DTYPES.values():
            foreign.append(f"{name} has dtype {tensor.dtype}, expected one of {', '.join(DTYPES)}")
        else:
            factors.setdefault(match["path"], {})[match["factor"]] = tensor
    for path, pair in factors.items():
        if not foreign and len(pair) == 1:
            foreign.append(f"missing base_model.model.{path}.lora_{'B' if 'A' in pair else 'A'}.weight")
    if len({tensor.dtype for tensor in tensors.values()}) > 1 and not foreign:
        kinds = {str(tensor.dtype): name for name, tensor in tensors.items()}
        foreign += [f"{name} has dtype {kind}; all must have one dtype" for kind, name in kinds.items()]
    if foreign or not factors:
        problems = bullets(foreign, 6) or " it is empty."
        raise AdapterError(f"'{folder / TENSOR_FILE}' is not a plain LoRA adapter:{problems}")
    return {path: (pair["A"].shape[1], pair["B"].shape[0]) for path, pair in factors.items()}


def _keys(templates: Sequence[str], targets: str | Sequence[str]) -> dict[str, str]:
    """Group keys in `LoraSpec.from_base`'s manner: the last part of the path where that names the module alone."""
    lasts = [template.rsplit(".", 1)[-1] for template in templates]
    insides = [template.partition("{layer}.")[2] for template in templates]
    keys = {}
    for template, last, inside in zip(templates, lasts, insides, strict=True):
        alone = lasts.count(last) == 1 and (targets == "all-linear" if isinstance(targets, str) else last in targets)
        if alone and inside:
            keys[template] = last
        elif "." in inside and insides.count(inside) == 1:
            keys[template] = inside.replace(".", "/")
        else:
            keys[template] = template.replace(".", "/").replace("{layer}", "*")
    return keys


def _picks_paths(targets: str | Sequence[str]) -> bool:
    """Whether ``target_modules`` may name modules of chosen layers only: a pattern, or paths with a number in them."""
    if isinstance(targets, str):
        return targets != "all-linear"
    return any(_DEPTH.search(name) is not None for name in targets)


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "rank": config["r"],
        "alpha": float(config["lora_alpha"]),
        "use_rslora": config.get("use_rslora", False),
        "dropout": float(config.get("lora_dropout", 0.0)),
        "base_model": config.get("base_model_name_or_path"),
        "fan_in_fan_out": config.get("fan_in_fan_out", False),
    }


def _layers(value: Any) -> set[int] | None:
    """layers_to_transform as a set; None where there is none or where it is no such thing."""
    if type(value) is int:
        return {value}
    return set(value) if _is_list_of(value, int) and value else None


def _plain_start(value: Any) -> bool:
    return (value.lower() if isinstance(value, str) else value) in _INITIALISATIONS if _is_scalar(value) else False


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)


def _is_positive_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(float(value)) and float(value) > 0
    except OverflowError:
        return False


def shown(value: Any) -> str:
    """A value from a file as an error message shows it: short and printable."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
