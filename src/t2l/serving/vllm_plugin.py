"""A plugin for vLLM: the model ``t2l/<description>`` is made when it is first asked for, and served like any adapter.

Level 5. vLLM finds `register` by the entry point ``vllm.general_plugins`` in each of its processes, and asks the
resolver where it serves HTTP. Settings come from the environment, because vLLM passes plugins nothing else:

``T2L_CHECKPOINT``      a checkpoint that ships, a folder or a hub id; without it the plugin stays out of the way.
``T2L_VLLM_STORE``      folder for adapters; by default in shared memory (``/dev/shm``), else in the account's cache.
``T2L_VLLM_BASE``       the name under which vLLM serves the checkpoint's base, where it is another (a local copy).
``T2L_VLLM_ADAPTERS``   the most adapters that the store may hold (1024). vLLM may read any of them again at any
                        time, so none is taken away: beyond the limit new descriptions are refused.

This module imports only the standard library; torch and the checkpoint come with the first description. A request's
text never names a place on disk: a folder's name is a digest.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2l.errors import OutputError, T2LError

if TYPE_CHECKING:
    from t2l.model import TextToLora

PREFIX = "t2l/"
RESOLVER = "t2l"
MAX_ADAPTERS = 1024
_ID = re.compile(r"[0-9a-f]{24}")
_SHARED_MEMORY = Path("/dev/shm")
_CONFIG = "adapter_config.json"
_log = logging.getLogger(__name__)


class AdapterFolder:
    """Adapters on disk, each made once from its description; without any knowledge of vLLM.

    Args:
        folder: where they are; made when it is needed, for its owner alone.
        load: gives the checkpoint; called once, with the first description.
        base_name: what the server calls the base, where that is not the checkpoint's name for it.
        limit: the most adapters in the folder.
    """

    def __init__(
        self,
        folder: Path,
        load: Callable[[], TextToLora],
        *,
        base_name: str | None = None,
        limit: int = MAX_ADAPTERS,
    ) -> None:
        self.folder, self.base_name, self.limit = folder, base_name, limit
        self._load = load
        self._t2l: TextToLora | None = None
        self._lock, self._loading = threading.Lock(), threading.Lock()

    def resolve(self, base_model_name: str, name: str) -> tuple[str, Path] | None:
        """The id and the folder of the adapter that ``name`` asks for, made if need be; None where it is not ours.

        Args:
            base_model_name: what the server calls its base.
            name: ``t2l/<description>``, or ``t2l/<id>`` of an adapter that is in the store.

        Raises:
            T2LError: the description cannot be used, the base is another, or the store is full or cannot be written.
        """
        if not name.startswith(PREFIX):
            return None
        wanted = name.removeprefix(PREFIX)
        t2l = self._checkpoint()
        self._check_base(base_model_name, t2l)
        if _ID.fullmatch(wanted):
            place = self.folder / wanted
            return (wanted, place) if (place / _CONFIG).is_file() else None
        identity = self.identify(wanted, t2l.digest)
        place = self.folder / identity
        if not (place / _CONFIG).is_file():  # what is there is found while others are made
            with self._lock:
                if not (place / _CONFIG).is_file():
                    self._make(t2l, wanted, place, base_model_name)
        return identity, place

    @staticmethod
    def identify(description: str, checkpoint: str) -> str:
        """The id of a description's adapter: the same in every process and after a restart."""
        return hashlib.sha256(f"{checkpoint}\0{description.strip()}".encode(errors="replace")).hexdigest()[:24]

    def _checkpoint(self) -> TextToLora:
        with self._loading:
            if self._t2l is None:
                self._t2l = self._load()
            return self._t2l

    def _check_base(self, served: str, t2l: TextToLora) -> None:
        made_for = self.base_name or t2l.spec.base_model
        if made_for is not None and not _same_base(served, made_for):
            raise T2LError(
                f"The checkpoint makes adapters for '{made_for}'; this server's base is '{served}'.",
                f"If they are the same model, set T2L_VLLM_BASE={served}",
            )

    def _make(self, t2l: TextToLora, description: str, place: Path, served: str) -> None:
        from dataclasses import replace

        from t2l.adapter import Adapter

        _own_folder(self.folder)
        if sum(1 for entry in self.folder.iterdir() if not entry.name.startswith(".")) >= self.limit:
            raise OutputError(
                f"The adapter store '{self.folder}' holds {self.limit} adapters and takes no more.",
                "Raise T2L_VLLM_ADAPTERS, or restart the server with an empty store.",
            )
        (made,) = t2l.generate([description.strip()])
        named = Adapter(replace(made.spec, base_model=served), made.weights, made.provenance)
        try:
            named.save(place)  # portable: right whether or not the server honours use_rslora
        except OutputError:
            if not (place / _CONFIG).is_file():  # else another process of the server was quicker, with the same content
                raise


def integer_id(identity: str) -> int:
    """A stable positive 31-bit number for an adapter's id. (vLLM's HTTP server puts one of its own in its place.)"""
    return (int(identity[:8], 16) & 0x7FFFFFFF) or 1


def store_from_environment(environment: Mapping[str, str] | None = None) -> AdapterFolder | None:
    """The store that the environment asks for; None without ``T2L_CHECKPOINT``.

    Raises:
        T2LError: a setting cannot be used.
    """
    values = os.environ if environment is None else environment
    source = values.get("T2L_CHECKPOINT", "").strip()
    if not source:
        return None
    limit = values.get("T2L_VLLM_ADAPTERS", str(MAX_ADAPTERS))
    if not limit.isascii() or not limit.isdigit() or int(limit) < 1:
        raise T2LError(f"T2L_VLLM_ADAPTERS is '{limit}'; it must be a whole number of at least 1.")

    def load() -> TextToLora:
        from t2l.model import TextToLora

        return TextToLora.from_pretrained(source)

    folder = Path(values["T2L_VLLM_STORE"]).expanduser() if values.get("T2L_VLLM_STORE") else _default_folder(values)
    return AdapterFolder(folder, load, base_name=values.get("T2L_VLLM_BASE") or None, limit=int(limit))


def resolver_from(store: AdapterFolder, resolver: type[Any], request: type[Any]) -> Any:
    """A resolver of vLLM's kind over ``store``.

    Args:
        resolver: ``vllm.lora.resolver.LoRAResolver``.
        request: ``vllm.lora.request.LoRARequest``.
    """

    class TextToLoraResolver(resolver):
        """``async resolve_lora(base_model_name, lora_name) -> LoRARequest | None``, as vLLM documents it."""

        async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
            try:
                found = await asyncio.to_thread(store.resolve, base_model_name, lora_name)
            except T2LError as problem:  # vLLM answers 404 to None, 500 to an exception
                _log.warning("No adapter for %.120r: %s", lora_name, problem)
                return None
            if found is None:
                return None
            identity, place = found
            return request(
                lora_name=lora_name,
                lora_int_id=integer_id(identity),
                lora_path=str(place),
                base_model_name=base_model_name,
            )

    return TextToLoraResolver()


def register() -> None:
    """The entry point: adds the resolver to vLLM's registry. May be called again, as vLLM does in each process."""
    try:
        store = store_from_environment()
    except T2LError as problem:  # a wrong setting of ours must not stop somebody's server
        _log.error("The t2l plugin is off: %s", problem)
        return
    if store is None:
        return
    from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]
    from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry  # pyright: ignore[reportMissingImports]

    if RESOLVER not in LoRAResolverRegistry.get_supported_resolvers():
        LoRAResolverRegistry.register_resolver(RESOLVER, resolver_from(store, LoRAResolver, LoRARequest))


def _same_base(served: str, made_for: str) -> bool:
    if served == made_for:
        return True
    try:
        return Path(served).is_dir() and Path(made_for).is_dir() and Path(served).samefile(made_for)
    except OSError:
        return False


def _default_folder(values: Mapping[str, str]) -> Path:
    account = os.getuid() if hasattr(os, "getuid") else 0
    if _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK):
        return _SHARED_MEMORY / f"t2l-adapters-{account}"
    cache = values.get("T2L_CACHE") or values.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "t2l" / "vllm-adapters"


def _own_folder(folder: Path) -> None:
    """Makes the folder for its owner alone; one in a shared place that somebody else made first is refused."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        foreign = hasattr(os, "getuid") and (folder.is_symlink() or folder.stat().st_uid != os.getuid())
    except OSError as problem:
        raise OutputError(f"The adapter store '{folder}' cannot be made: {problem.strerror or problem}.") from problem
    if foreign and folder.is_relative_to(_SHARED_MEMORY):
        raise OutputError(f"The adapter store '{folder}' belongs to another account.", "Set T2L_VLLM_STORE.")
