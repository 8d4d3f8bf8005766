"""Adapters that are kept: in memory up to a budget, and in a folder that outlives the process, where there is one.

Level 5. An adapter's id is its content digest, so equal adapters are one. The least recently used goes first, from
memory and from the folder, each by its own budget. What a request says is only ever looked up here, never made into a
path. This file does not know how adapters are made or run.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from t2l.adapter import PROVENANCE_FILE, Adapter
from t2l.errors import AdapterError, OutputError, T2LError
from t2l.peft_format import TENSOR_FILE
from t2l.serving.errors import UnknownModelError
from t2l.storage import MOST_FOREIGN, read_json

ID_PREFIX = "t2l-"
_ID_DIGITS = 24
_OTHERWISE = ("examples", "refined", "ensemble", "fallback")  # of a provenance
_ABANDONED_S = 3600.0
_ID = re.compile(rf"{ID_PREFIX}[0-9a-f]{{{_ID_DIGITS}}}")


@dataclass(frozen=True)
class Kept:
    """What is known of an adapter without reading its weights.

    Args:
        id: names it in requests.
        description: of the task, as it was given; empty for one that was put together.
        size: bytes of its weights.
        created: Unix time.
        stored: whether it lies in the folder.
        rank: of its matrices.
        strength: by which it was scaled.
        composition: how it was put together, where it was; see `t2l.composition.combine`.
        otherwise: made in another way than from its description alone: with examples, rewordings or a fallback.
    """

    id: str
    description: str
    size: int
    created: float
    stored: bool
    rank: int
    strength: float = 1.0
    composition: Mapping[str, Any] | None = None
    otherwise: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is what its description alone gives."""
        return bool(self.description) and self.strength == 1.0 and self.composition is None and not self.otherwise


def is_id(text: str) -> bool:
    """Whether ``text`` has the form of an adapter's id."""
    return _ID.fullmatch(text) is not None


class AdapterStore:
    """A bounded set of adapters of one checkpoint. Safe to use from several threads.

    Args:
        memory: bytes of weights in memory; the last adapter stays whatever its size.
        folder: where adapters are kept as PEFT folders; None for nowhere.
        disk: bytes of weights in the folder.
        key: gives equal texts for descriptions that mean the same adapter.

    Raises:
        OutputError: the folder cannot be made.
    """

    def __init__(
        self,
        *,
        memory: int = 1 << 30,
        folder: Path | None = None,
        disk: int = 10 << 30,
        key: Callable[[str], str] = str.strip,
    ) -> None:
        self._lock = threading.RLock()
        self._memory, self._folder, self._disk, self._key = memory, folder, disk, key
        self._kept: OrderedDict[str, Kept] = OrderedDict()  # the least recently used first
        self._adapters: OrderedDict[str, Adapter] = OrderedDict()
        self._by_description: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self.hits = self.misses = self.evictions = self.store_errors = 0
        if folder is not None:
            self._open(folder)

    def add(self, adapter: Adapter) -> Kept:
        """Keeps an adapter; one that is there already stays as it was. A full disk only means it is in memory alone."""
        name = _name(adapter)
        size = adapter.spec.num_parameters * 4
        told = _told(adapter.provenance)
        kept = Kept(name, size=size, created=time.time(), stored=False, rank=adapter.spec.rank, **told)
        with self._lock:
            if name in self._kept:
                if kept.plain:
                    self._by_description.setdefault(self._key(kept.description), name)
                self._touch(name)
                return self._kept[name]
            kept = replace(kept, stored=self._save(kept, adapter))
            self._kept[name] = kept
            if kept.plain:
                self._by_description[self._key(kept.description)] = name
            self._remember(name, adapter)
            self._trim_disk()
            return kept

    def holds(self, adapter: Adapter) -> bool:
        """Whether an adapter with this content is kept."""
        name = _name(adapter)
        with self._lock:
            return name in self._kept

    def get(self, name: str) -> Adapter:
        """The adapter of this id.

        Raises:
            UnknownModelError: there is none (any more).
        """
        with self._lock:
            if name not in self._kept:
                raise UnknownModelError(
                    f"There is no adapter '{name[:80]}' here.",
                    "Make it from its description: POST /v1/adapters.",
                )
            adapter = self._adapters.get(name) or self._load(name)
            self._touch(name)
            return adapter

    def find(self, description: str) -> Kept | None:
        """The adapter that was made from this description, if it is kept; counts as a hit or a miss."""
        with self._lock:
            name = self._by_description.get(self._key(description))
            if name is None:
                self.misses += 1
                return None
            self.hits += 1
            self._touch(name)
            return self._kept[name]

    def entry(self, name: str) -> Kept:
        """What is known of the adapter of this id; raises `UnknownModelError` as `get` does."""
        with self._lock:
            if name not in self._kept:
                self.get(name)
            return self._kept[name]

    def entries(self) -> list[Kept]:
        """All that are kept, the newest first."""
        with self._lock:
            return sorted(self._kept.values(), key=lambda kept: (-kept.created, kept.id))

    def remove(self, name: str) -> None:
        """Forgets an adapter, in memory and in the folder. Requests that run under it are not disturbed.

        Raises:
            UnknownModelError: there is none.
        """
        with self._lock:
            self.entry(name)
            self._forget(name)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the weights in memory."""
        with self._lock:
            return sum(self._sizes.values())

    def _touch(self, name: str) -> None:
        self._kept.move_to_end(name)
        if name in self._adapters:
            self._adapters.move_to_end(name)
        if self._kept[name].stored:
            with suppress(OSError):
                os.utime(self._place(name))  # the order survives a restart

    def _remember(self, name: str, adapter: Adapter) -> None:
        self._adapters[name] = adapter
        self._sizes[name] = self._kept[name].size
        while len(self._adapters) > 1 and sum(self._sizes.values()) > self._memory:
            oldest, _ = self._adapters.popitem(last=False)
            del self._sizes[oldest]
            if not self._kept[oldest].stored:
                self._forget(oldest)
                self.evictions += 1

    def _forget(self, name: str) -> None:
        kept = self._kept.pop(name)
        self._adapters.pop(name, None)
        self._sizes.pop(name, None)
        for key in [key for key, value in self._by_description.items() if value == name]:
            del self._by_description[key]
        if kept.stored:
            shutil.rmtree(self._place(name), ignore_errors=True)

    def _trim_disk(self) -> None:
        stored = [kept for kept in self._kept.values() if kept.stored]
        total = sum(kept.size for kept in stored)
        for kept in stored[:-1]:
            if total <= self._disk:
                return
            total -= kept.size
            self._forget(kept.id)
            self.evictions += 1

    def _place(self, name: str) -> Path:
        assert self._folder is not None and _ID.fullmatch(name)
        return self._folder / name

    def _save(self, kept: Kept, adapter: Adapter) -> bool:
        if self._folder is None:
            return False
        try:
            adapter.save(self._place(kept.id), form="rslora", force=True)  # as it was generated
        except (OutputError, AdapterError):
            self.store_errors += 1
            return False
        return True

    def _load(self, name: str) -> Adapter:
        try:
            adapter = Adapter.load(self._place(name))
            if not adapter.digest.startswith(name.removeprefix(ID_PREFIX)):
                raise AdapterError("its content is another one's")
        except T2LError as problem:
            self.store_errors += 1
            self._forget(name)
            raise UnknownModelError(
                f"The stored adapter '{name}' was damaged and has been removed.", "Make it again: POST /v1/adapters."
            ) from problem
        self._remember(name, adapter)
        return adapter

    def _open(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = sorted((path for path in folder.iterdir() if _ID.fullmatch(path.name)), key=_age)
            for path in folder.glob(f".{ID_PREFIX}*.tmp"):  # half written when a process was killed
                if time.time() - path.stat().st_mtime > _ABANDONED_S:  # another process may be writing now
                    shutil.rmtree(path, ignore_errors=True)
        except OSError as problem:
            raise OutputError(f"The adapter store '{folder}' cannot be used: {problem.strerror}.") from problem
        for path in found:
            try:
                record = read_json(path / PROVENANCE_FILE, AdapterError, most=MOST_FOREIGN)
                told, rank = _told(record["provenance"]), int(record["spec"]["rank"])
                size = (path / TENSOR_FILE).stat().st_size
                created = (path / PROVENANCE_FILE).stat().st_mtime  # the folder's says when it was last used
                kept = Kept(path.name, size=size, created=created, stored=True, rank=rank, **told)
                key = self._key(kept.description) if kept.plain else None
            except (T2LError, OSError, KeyError, AttributeError, TypeError, ValueError):
                self.store_errors += 1
                continue
            self._kept[path.name] = kept
            if key is not None:
                self._by_description[key] = path.name
        self._trim_disk()


def _name(adapter: Adapter) -> str:
    return ID_PREFIX + adapter.digest[:_ID_DIGITS]


def _told(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What `Kept` says of the origin."""
    return {
        "description": str(provenance.get("description", "")),
        "strength": float(provenance.get("strength", 1.0)),
        "composition": provenance.get("composition"),
        "otherwise": any(name in provenance for name in _OTHERWISE),
    }


def _age(path: Path) -> tuple[float, str]:
    return path.stat().st_mtime, path.name
