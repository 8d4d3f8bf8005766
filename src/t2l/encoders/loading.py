"""Loading a model of the hub: errors that say what to do, and non-persistent buffers that were left unset.

Level 1. This file knows no particular encoder.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from t2l.errors import BaseModelError, EncoderError, T2LError
from t2l.hub import TRUST_FIX, first_line


@contextmanager
def loading(model: str, extra: str | None = None) -> Iterator[None]:
    """Turns whatever goes wrong while ``model`` loads into one `EncoderError`.

    Args:
        extra: the extra of this distribution that brings the library.
    """
    try:
        yield
    except EncoderError:
        raise
    except BaseModelError as problem:  # says already what to do
        raise EncoderError(problem.message, problem.fix) from problem
    except ImportError as problem:
        fix = f"pip install 't2l[{extra}]'" if extra else None
        raise EncoderError(f"The encoder '{model}' needs a library that is not here: {problem}.", fix) from problem
    except Exception as problem:  # the hub, the disk and the libraries each raise their own kinds
        if "trust_remote_code" in str(problem):
            raise EncoderError(
                f"The encoder '{model}' brings Python code of its own, which was not run.", TRUST_FIX
            ) from problem
        raise EncoderError(
            f"The encoder '{model}' cannot be loaded: {first_line(problem)}",
            "Give a folder, or a hub id that can be reached (for a gated model: hf auth login).",
        ) from problem


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
