"""What a base model is made of, without its weights: config, tokenizer, language model, linear modules, buffers.

Level 0. Models are built from a config on the meta device. This file does not know what is adapted, or how.
"""

from __future__ import annotations

import copy
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from t2l.base_names import canonical_name, locate, not_loaded
from t2l.errors import BaseModelError, T2LError
from t2l.gguf_base import quiet
from t2l.hub import first_line, may_run_code

_EXPERT = "expert"  # in the name of every module that is one, or several, or is shared beside them
_PROJECTIONS = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
_INSIDE = ("language_model", "text_model")


@dataclass(frozen=True)
class LinearSite:
    """One linear module inside a layer.

    Args:
        path: where it sits, ``{layer}`` standing for the depth.
        layer: the depth.
        in_features: I.
        out_features: O.
    """

    path: str
    layer: int
    in_features: int
    out_features: int


@dataclass(frozen=True)
class Structure:
    """What of a base can be adapted, and what cannot.

    Args:
        sites: the linear modules in the layers of its language model.
        transposed: their weights are stored as (I, O) (GPT-2's Conv1D).
        experts: paths, ``{layer}`` standing for the depth, of mixtures of experts and of all that is named like them.
            They hold one weight for all experts, or see the tokens of a batch in another order, so no adapter of a
            sample fits them; and PEFT takes their names, wherever they stand in such a base, for the experts'.
    """

    sites: tuple[LinearSite, ...]
    transposed: bool
    experts: tuple[str, ...]


def base_config(name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The config (a `PretrainedConfig`) of a base, found as `t2l.bases.load_base` finds it.

    Raises:
        BaseModelError: there is no such base, or its config cannot be read.
    """
    config = _part("AutoConfig", name, revision, trust_remote_code)
    config.name_or_path = canonical_name(name)  # rather than where it was converted or unpacked to
    return config


def load_tokenizer(name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a base, found as `t2l.bases.load_base` finds it.

    Raises:
        BaseModelError: there is no such base, or its tokenizer cannot be read.
    """
    return _part("AutoTokenizer", name, revision, trust_remote_code)


def _part(kind: str, name: str | Path, revision: str | None, trust_remote_code: bool) -> Any:
    """What transformers' class ``kind`` reads of a base."""
    place, trust = locate(name, revision), may_run_code(trust_remote_code)
    try:
        with quiet():
            import transformers

            return getattr(transformers, kind).from_pretrained(place, revision=revision, trust_remote_code=trust)
    except Exception as problem:  # the hub, the disk, transformers and remote code each raise their own kinds
        raise not_loaded(str(name), problem) from problem


def auto_class(config: Any) -> Any:
    """The class of transformers' that builds and loads the base of a config: a causal language model, or one that also
    sees images, whose language model is the base.
    """
    import transformers
    from transformers.models.auto import modeling_auto

    kind = getattr(config, "model_type", None)
    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if kind not in causal and kind in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


def empty_base(config: Any, *, trust_remote_code: bool = False) -> Any:
    """The model of a config without weights, on the meta device.

    Raises:
        BaseModelError: transformers cannot build a language model from it.
    """
    try:
        with torch.device("meta"):
            return auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
    except Exception as problem:  # transformers and remote code raise their own kinds
        raise BaseModelError(
            f"'{getattr(config, 'model_type', '?')}' is not a causal language model that transformers can build: "
            f"{first_line(problem)}"
        ) from problem


def language_model(model: Any) -> Any:
    """The part of a model that reads and writes text; the model itself where it does nothing else."""
    from transformers import PreTrainedModel

    text = model.config.get_text_config()
    if text is model.config:
        return model
    parts = (part for part in model.modules() if part is not model and isinstance(part, PreTrainedModel))
    return next((part for part in parts if type(part.config) is type(text)), model)


def is_inside_larger(path: str) -> bool:
    """Whether a module's path says that its language model is a part of a larger model (one that sees images)."""
    return any(part in _INSIDE for part in path.split("."))


def structure_of(config: Any, *, trust_remote_code: bool = False) -> Structure:
    """What of the base of a config can be adapted.

    Raises:
        BaseModelError: transformers cannot build it, or it has no linear module inside its layers.
    """
    model = empty_base(config, trust_remote_code=trust_remote_code)
    within = set(language_model(model).modules())
    sites, transposed, experts = [], False, {}
    for path, module in model.named_modules():
        parts = path.split(".")
        depth = next((index for index, part in enumerate(parts) if part.isdigit()), None)
        if (
            module not in within or depth is None or depth == len(parts) - 1
        ):  # a bare list of linear modules is no layer
            continue
        template = ".".join([*parts[:depth], "{layer}", *parts[depth + 1 :]])
        inside = template.split(".")
        expert = next((place for place, part in enumerate(inside) if _EXPERT in part), None)
        if expert is not None or _is_fused(module):
            experts[".".join(inside[: None if expert is None else expert + 1])] = None
            continue
        shape = linear_shape(module)
        if shape is not None:
            transposed = transposed or not isinstance(module, nn.Linear)
            sites.append(LinearSite(template, int(parts[depth]), *shape))
    if experts:
        named = [site.path.rpartition(".") for site in sites]
        experts |= {above: None for above, _, name in named if name in _PROJECTIONS}
        sites = [site for site in sites if site.path.rpartition(".")[2] not in _PROJECTIONS]
    if not sites:
        raise BaseModelError(
            f"'{config.model_type}' has no linear module inside its layers, so nothing can be adapted."
        )
    return Structure(tuple(sites), transposed, tuple(experts))


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear module, whatever class holds it; None for anything else."""
    base_layer = getattr(module, "base_layer", None)  # a module that PEFT has wrapped already
    if isinstance(base_layer, nn.Module):
        return linear_shape(base_layer)
    if isinstance(module, nn.Linear) or (hasattr(module, "in_features") and hasattr(module, "out_features")):
        return int(module.in_features), int(module.out_features)  # pyright: ignore[reportArgumentType]
    if type(module).__name__ == "Conv1D":  # GPT-2: weight stored as (in, out)
        weight = module.weight
        return int(weight.shape[0]), int(weight.shape[1])  # pyright: ignore[reportIndexIssue,reportArgumentType]
    return None


def _is_fused(module: nn.Module) -> bool:
    """Whether a module holds the matrices of several experts as one weight."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return False
    return any(parameter.dim() == 3 and min(parameter.shape) > 1 for parameter in module.parameters(recurse=False))


def mend_buffers(model: nn.Module, name: str, error: type[T2LError]) -> None:
    """Fills tables that no file holds (non-persistent buffers) where loading has left them unset, with a warning.

    transformers 5 builds a model without memory and fills it from the file. What its own architectures compute is then
    computed again; what the code of another one computed in its constructor (positions, rotary tables) is whatever the
    memory held. A second instance, made by the constructor alone, shows what belongs there.

    Raises:
        error: the constructor makes other buffers than the loaded model has, or fails, so that nothing can be said.
    """
    from transformers import PreTrainedModel

    checked: set[nn.Module] = set()
    mended = []
    for place, part in model.named_modules():
        if part in checked or not isinstance(part, PreTrainedModel):
            continue
        checked |= set(part.modules())
        if type(part).__module__.startswith("transformers.") or not any(
            m._non_persistent_buffers_set for m in part.modules()
        ):
            continue
        made = _made_anew(part, name, error)
        for path, buffer in made.items():
            owner = part.get_submodule(path.rpartition(".")[0])
            found = owner._buffers.get(path.rpartition(".")[2])
            if found is None or found.shape != buffer.shape:
                raise error(
                    f"'{name}' was loaded with another table {path} than its own code makes, so it cannot be used.",
                    "Load it under the version of transformers that its authors name.",
                )
            if not _alike(found, buffer):
                device = next((p.device for p in part.parameters()), buffer.device)
                owner._buffers[path.rpartition(".")[2]] = buffer.to(device, found.dtype)
                mended.append(".".join(filter(None, (place, path))))
    if mended:
        warnings.warn(
            f"Loading '{name}' left {len(mended)} of the tables that its own code makes unset ('{mended[0]}' among "
            "them); they were made again.",
            stacklevel=3,
        )


class _WithoutWeights(TorchFunctionMode):
    """Weights take no memory; what is computed from numbers is there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.empty:
            kwargs = {**(kwargs or {}), "device": "meta"}
        return func(*args, **(kwargs or {}))


def _made_anew(part: Any, name: str, error: type[T2LError]) -> dict[str, Tensor]:
    """Path -> non-persistent buffer, of a new instance of the same class and config."""
    for without in (_WithoutWeights(), nullcontext()):
        try:
            with torch.random.fork_rng(devices=[]), without:
                fresh = type(part)(copy.deepcopy(part.config))
        except Exception as problem:  # foreign code raises what it likes
            if isinstance(without, _WithoutWeights):
                continue
            raise error(f"The code of '{name}' cannot build it a second time: {first_line(problem)}.") from problem
        made = {
            ".".join(filter(None, (path, key))): buffer
            for path, module in fresh.named_modules()
            for key in module._non_persistent_buffers_set
            if (buffer := module._buffers.get(key)) is not None
        }
        if not any(buffer.is_meta for buffer in made.values()):
            break
    return made


def _alike(found: Tensor, made: Tensor) -> bool:
    if found.is_meta:
        return False
    if not made.dtype.is_floating_point:
        return torch.equal(found.cpu(), made.to(found.dtype))
    tolerance = 1e-6 if found.dtype.itemsize >= 4 else 1e-2
    return torch.allclose(found.float().cpu(), made.float(), rtol=tolerance, atol=tolerance, equal_nan=True)
