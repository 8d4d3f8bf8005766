"""Adapters that are kept: in memory up to a budget, and in a folder that outlives the process, where there is one.

Level 5. An adapter's id is its content digest, so equal adapters are one. The least recently used goes first, from
memory and from the folder, each by its own budget. What a request says is only ever looked up here, never made into a
path. This file does not know how adapters are made or run.
"""

from __future__ import annotations

import json
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
from t2l.peft_format import CONFIG_FILE, TENSOR_FILE
from t2l.serving.errors import UnknownModelError
from t2l.storage import MOST_FOREIGN, read_json

ID_PREFIX = "t2l-"
_ID_DIGITS = 24
_OTHERWISE = ("examples", "refined", "ensemble", "fallback")  # of a provenance
_ABANDONED_S = 3600.0
_LOOK_S = 1.0  # between two looks at what other processes do in the folder
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
        disk: bytes of its files.
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
    disk: int = 0

    @property
    def told_bytes(self) -> int:
        """Roughly what this takes up in memory, without the weights."""
        return 512 + len(self.description) + (len(json.dumps(self.composition)) if self.composition else 0)

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
        folder: where adapters are kept as PEFT folders; None for nowhere. Several stores may share it, and its budget.
        disk: bytes that the files in the folder take up.
        told: bytes of descriptions and compositions, which are in memory for every adapter that is kept.
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
        told: int = 64 << 20,
        key: Callable[[str], str] = str.strip,
    ) -> None:
        self._lock = threading.RLock()
        self._memory, self._folder, self._disk, self._key = memory, folder, disk, key
        self._kept: OrderedDict[str, Kept] = OrderedDict()  # the least recently used first
        self._adapters: OrderedDict[str, Adapter] = OrderedDict()
        self._by_description: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._most_told, self._told_bytes, self._looked = told, 0, 0.0
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
            stored = self._save(kept, adapter)
            kept = replace(kept, stored=stored, disk=_bytes_of(self._place(name)) if stored else 0)
            self._keep(kept)
            self._remember(name, adapter)
            self._look()
            self._trim()
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

    def find(self, description: str, *, count: bool = True) -> Kept | None:
        """The adapter that was made from this description, if it is kept; counts as a hit or a miss."""
        with self._lock:
            name = self._by_description.get(self._key(description))
            if name is None:
                self.misses += count
                return None
            self.hits += count
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

    def _keep(self, kept: Kept) -> None:
        self._kept[kept.id] = kept
        self._told_bytes += kept.told_bytes
        if kept.plain:
            self._by_description[self._key(kept.description)] = kept.id

    def _forget(self, name: str, *, gone: bool = False) -> None:
        """Forgets an adapter; its folder is taken away unless it is ``gone`` already."""
        kept = self._kept.pop(name)
        self._told_bytes -= kept.told_bytes
        self._adapters.pop(name, None)
        self._sizes.pop(name, None)
        for key in [key for key, value in self._by_description.items() if value == name]:
            del self._by_description[key]
        if kept.stored and not gone:
            _take_away(self._place(name))

    def _trim(self) -> None:
        """Makes room: in the folder, and in memory for what is told of adapters. The last one stays."""
        while len(self._kept) > 1 and self._told_bytes > self._most_told:
            self._forget(next(iter(self._kept)))
            self.evictions += 1
        stored = [kept for kept in self._kept.values() if kept.stored]
        total = sum(kept.disk for kept in stored)
        if total <= self._disk:
            return
        latest = stored[-1].id
        for kept in sorted(stored, key=lambda kept: _age(self._place(kept.id))):  # as all who share the folder see it
            if total <= self._disk:
                return
            if kept.id != latest:
                total -= kept.disk
                self._forget(kept.id)
                self.evictions += 1

    def _look(self) -> None:
        """Takes note of what other processes have put into the folder or taken away, now and then."""
        if self._folder is None or time.monotonic() - self._looked < _LOOK_S:
            return
        self._looked = time.monotonic()
        try:
            there = {path.name for path in self._folder.iterdir() if _ID.fullmatch(path.name)}
        except OSError:
            return
        for name in [kept.id for kept in self._kept.values() if kept.stored and kept.id not in there]:
            self._forget(name, gone=True)
        for name in there - set(self._kept):
            self._find(self._place(name), damaged=lambda _: None)  # it may be half written by somebody else

    def _place(self, name: str) -> Path:
        assert self._folder is not None and _ID.fullmatch(name)
        return self._folder / name

    def _save(self, kept: Kept, adapter: Adapter) -> bool:
        if self._folder is None:
            return False
        try:
            place = self._place(kept.id)
            if place.is_symlink() or (place.exists() and not (place / CONFIG_FILE).is_file()):
                _take_away(place)  # the remains of something else
            adapter.save(place, form="rslora", force=True)  # as it was generated
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
                if time.time() - _age(path)[0] > _ABANDONED_S:  # another process may be writing now
                    _take_away(path)
        except OSError as problem:
            raise OutputError(f"The adapter store '{folder}' cannot be used: {problem.strerror}.") from problem
        for path in found:
            self._find(path, damaged=_take_away)
        self._looked = time.monotonic()
        self._trim()

    def _find(self, path: Path, damaged: Callable[[Path], None]) -> None:
        """Keeps what lies in the folder; what cannot be used goes: it would stand in the way of its own id."""
        try:
            if path.is_symlink():
                raise AdapterError("a link is no adapter of ours")
            record = read_json(path / PROVENANCE_FILE, AdapterError, most=MOST_FOREIGN)
            told, rank = _told(record["provenance"]), int(record["spec"]["rank"])
            size = (path / TENSOR_FILE).stat().st_size
            created = (path / PROVENANCE_FILE).stat().st_mtime  # the folder's says when it was last used
            on_disk = _bytes_of(path)
            kept = Kept(path.name, size=size, created=created, stored=True, rank=rank, disk=on_disk, **told)
            if kept.plain:
                self._key(kept.description)
        except (T2LError, OSError, KeyError, AttributeError, TypeError, ValueError):
            self.store_errors += 1
            damaged(path)
            return
        self._keep(kept)


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
    try:
        return path.lstat().st_mtime, path.name
    except OSError:  # somebody else has taken it away
        return 0.0, path.name


def _bytes_of(folder: Path) -> int:
    """What the files of a folder take up on the disk, whole blocks counted."""
    total = 0
    with suppress(OSError):
        for path in folder.iterdir():
            found = path.lstat()
            total += getattr(found, "st_blocks", 0) * 512 or found.st_size
    return total


def _take_away(path: Path) -> None:
    """Removes whatever lies there; of a link only the link."""
    with suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path, ignore_errors=True)
