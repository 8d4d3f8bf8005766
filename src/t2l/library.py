"""A library: many adapters of one spec in a folder, read a few at a time, so that no library is too large for memory.

Axis letters: N adapters, L layers, R rank, I in-features, O out-features.

Level 2. A folder holds ``index.json`` (the spec, and for each adapter its place and its record: scores, steps) and
either one safetensors file an adapter with the tensors ``a.<group>`` (L, R, I) and ``b.<group>`` (L, O, R), or one PEFT
folder an adapter with its provenance. A plain folder of PEFT adapter folders opens as a library as well: judging it
reads configs and the headers of files, no weights; adapters of a lower rank are padded with zeros and those of another
scaling have B rescaled, which leaves the weight change as it is. Files are memory-mapped: reading a few adapters takes
memory for these alone. This file does not know how an adapter was trained or what it is for.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from t2l.adapter import Adapter
from t2l.errors import AdapterError, OutputError, T2LError, bullets, did_you_mean
from t2l.lora import LoraSpec, LoraWeights
from t2l.peft_format import (
    CONFIG_FILE,
    TENSOR_FILE,
    read_config,
    spec_from_tensors,
    weights_from_tensors,
    with_config,
)
from t2l.prompting import recorded
from t2l.storage import check_tensors, read_json, read_tensors, write_bytes, write_json

INDEX_FILE = "index.json"
_FORMAT = 1  # of index.json
_HEADER_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_SHOWN = 8  # adapters that an error names
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_+=,@-][A-Za-z0-9_.+=,@-]{0,79}")


@dataclass(frozen=True)
class _Entry:
    file: str
    record: dict[str, Any]


class Library:
    """Adapters by name, read from their folder when asked for.

    Example:
        >>> library = Library.open("work/library")  # doctest: +SKIP
        >>> library.weights(["sort-words", "add-7"]).num_samples  # doctest: +SKIP
        2
    """

    def __init__(
        self,
        folder: Path,
        spec: LoraSpec,
        entries: Mapping[str, _Entry],
        *,
        settings: Mapping[str, Any] | None = None,
        peft: bool = False,
        odd: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.spec = spec
        self.settings = dict(settings or {})
        self.odd = dict(odd or {})  # adapters of the folder that do not fit and were left out: name -> why
        self._entries = dict(entries)
        self._peft = peft

    @property
    def names(self) -> list[str]:
        """The adapters, in the order in which they were added (PEFT folders: by name)."""
        return list(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def record(self, name: str) -> dict[str, Any]:
        """What was noted when the adapter was added: plain JSON values such as its validation loss and its steps."""
        return dict(self._entry(name).record)

    def weights(self, names: Sequence[str]) -> LoraWeights:
        """The named adapters, float32 on the CPU, in the order asked for; a name may repeat.

        Raises:
            T2LError: a name is unknown, or there is none; near names are offered.
            AdapterError: a file is missing, damaged or of other shapes than the library's.
        """
        if not names:
            raise T2LError("No adapter of the library was asked for.")
        found = {name: self._read(name) for name in dict.fromkeys(names)}
        return LoraWeights.cat([found[name] for name in names])

    def stream(self, names: Iterable[str] | None = None) -> Iterator[LoraWeights]:
        """One adapter after the other (N = 1); all of them by default."""
        for name in self.names if names is None else names:
            yield self._read(name)

    def adapter(self, name: str) -> Adapter:
        """One adapter as an artifact that can be saved, merged or applied."""
        return Adapter(self.spec, self._read(name), {"library": name, **recorded(self.settings)})

    def add(self, adapters: Mapping[str, tuple[LoraWeights, Mapping[str, Any]]]) -> None:
        """Stores adapters with their records, all of them or none: the index, which alone counts, is written last.

        Args:
            adapters: name -> weights (N = 1) and record (plain JSON values). A known name is replaced.

        Raises:
            T2LError: weights of other shapes, or more than one adapter under a name.
            OutputError: the library is a folder of PEFT adapters, or cannot be written.
        """
        if not (self.folder / INDEX_FILE).is_file():
            raise OutputError(f"'{self.folder}' is a folder of PEFT adapters, which is only read.", "Create a library.")
        entries = dict(self._entries)
        for name, (weights, record) in adapters.items():
            weights.check(self.spec)
            if weights.num_samples != 1:
                raise T2LError(f"'{name}' is {weights.num_samples} adapters; give one for each name.")
            file = _plain_name(name) if self._peft else f"{_plain_name(name)}.safetensors"
            if self._peft:  # A and B as they are, so that what is read is what was added
                provenance = {"task": name, **recorded(self.settings), "record": dict(record), "library": self.settings}
                Adapter(self.spec, weights, provenance).save(self.folder / file, form="rslora", force=True)
            else:
                tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in _flat(weights)}
                write_bytes(self.folder / file, save(tensors, metadata={"format": "pt"}))
            entries[name] = _Entry(file, dict(record))
        _write_index(self.folder, self.spec, entries, self.settings, self._peft)
        self._entries = entries

    def fingerprint(self, names: Sequence[str] | None = None) -> str:
        """Tells libraries apart without reading them: a digest of the spec, and of names, sizes and times of files.

        Args:
            names: those that count, in this order; all by default.
        """
        total = blake2b(json.dumps(self.spec.to_dict(), sort_keys=True).encode(), digest_size=16)
        for name in self.names if names is None else names:
            path = self.folder / self._entry(name).file
            for file in (path / TENSOR_FILE, path / CONFIG_FILE) if self._peft else (path,):
                found = file.stat() if file.is_file() else None
                total.update(f"{name}\0{found and (found.st_size, found.st_mtime_ns)}\0".encode())
        return total.hexdigest()

    @classmethod
    def create(
        cls, folder: str | Path, spec: LoraSpec, settings: Mapping[str, Any] | None = None, *, peft: bool = False
    ) -> Library:
        """The library in ``folder``, begun where there is none.

        Args:
            settings: how its adapters are made, as plain JSON values; a library is of one kind.
            peft: one PEFT folder an adapter, with its provenance, instead of one file.

        Raises:
            T2LError: there is one with another spec or other settings.
            OutputError: the folder holds something else, or cannot be written.
        """
        folder = Path(folder).expanduser()
        if (folder / INDEX_FILE).is_file():
            library = cls.open(folder)
            if not _same_shapes(library.spec, spec) or library.spec.scaling != spec.scaling:
                raise T2LError(f"The library in '{folder}' is for other modules, ranks or scaling.", _afresh(folder))
            if settings is not None and library.settings != dict(settings):
                raise T2LError(
                    f"The library in '{folder}' was made with {library.settings}, not {dict(settings)}.",
                    f"Use the same settings, or {_afresh(folder)[0].lower()}{_afresh(folder)[1:]}",
                )
            return library
        if folder.is_dir() and any(path.suffix != ".safetensors" for path in folder.glob("[!.]*")):
            raise OutputError(f"'{folder}' holds something else than a library.", "Choose another folder.")
        _write_index(folder, spec, {}, settings or {}, peft)
        return cls(folder, spec, {}, settings=settings, peft=peft)

    @classmethod
    def open(cls, folder: str | Path, *, spec: LoraSpec | None = None, skip_odd: bool = False) -> Library:
        """The library in ``folder``: one of ours, or a folder of PEFT adapter folders (whose names become theirs).

        Args:
            spec: the spec in which PEFT adapters are given, such as the base's own: same modules, a rank no lower,
                and B rescaled where their scaling differs. By default that of most of them; see `survey`.
            skip_odd: leave out PEFT adapters that do not fit (`odd` says why) instead of refusing the folder.

        Raises:
            T2LError: there is no library, or its index is damaged or of another format.
            AdapterError: PEFT adapters of other bases, modules or shapes than the others; they are named.
        """
        folder = Path(folder).expanduser()
        if (folder / INDEX_FILE).is_file():
            return cls._open_own(folder, spec)
        if next(folder.glob(f"*/{CONFIG_FILE}"), None) is None:
            raise T2LError(
                f"'{folder}' is no library of adapters: it has neither {INDEX_FILE} nor folders of PEFT adapters in it."
            )
        shared, names, odd = survey(folder, spec)
        if odd and (not skip_odd or not names):
            listed = bullets((f"{name}: {reason}" for name, reason in odd.items()), _SHOWN)
            raise AdapterError(
                f"{len(odd)} of {len(odd) + len(names)} adapters do not fit the others:{listed}",
                "Take them out of the folder, or leave them out: skip_odd=true in a recipe.",
            )
        return cls(folder, shared, {name: _Entry(name, {}) for name in names}, peft=True, odd=odd)

    @classmethod
    def _open_own(cls, folder: Path, spec: LoraSpec | None) -> Library:
        index = read_json(folder / INDEX_FILE, T2LError)
        where = folder / INDEX_FILE
        if index.get("format") != _FORMAT:
            raise T2LError(f"'{where}' has format {index.get('format')!r}; this version of t2l reads {_FORMAT}.")
        try:
            own = LoraSpec.from_dict(index["spec"])
            entries = {
                str(name): _Entry(_inside(str(entry["file"])), dict(entry["record"]))
                for name, entry in index["adapters"].items()
            }
            settings, peft = dict(index["settings"]), index.get("form", "tensors") == "peft"
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise T2LError(f"'{where}' cannot be read as the index of a library: {problem}.") from problem
        if spec is not None and (not _same_shapes(own, spec) or own.scaling != spec.scaling):
            raise T2LError(f"The library in '{folder}' is for other modules, ranks or scaling than were asked for.")
        return cls(folder, own, entries, settings=settings, peft=peft)

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise T2LError(f"The library has no adapter called '{name}'.", did_you_mean(name, self.names))
        return self._entries[name]

    def _read(self, name: str) -> LoraWeights:
        path = self.folder / self._entry(name).file
        if self._peft:
            return read_in_spec(path, self.spec)
        tensors = read_tensors(path, AdapterError)
        expected = {name: tuple(like.shape) for name, like in _flat(LoraWeights.zeros(self.spec, device="meta"))}
        check_tensors(tensors, expected, source=path, error=AdapterError)
        return LoraWeights(
            {group.key: tensors[f"a.{group.key}"].unsqueeze(0).float() for group in self.spec.groups},
            {group.key: tensors[f"b.{group.key}"].unsqueeze(0).float() for group in self.spec.groups},
        )


def _flat(weights: LoraWeights) -> Iterator[tuple[str, Tensor]]:
    for factor, tensors in (("a", weights.a), ("b", weights.b)):
        yield from ((f"{factor}.{key}", tensor[0]) for key, tensor in tensors.items())


def _same_shapes(one: LoraSpec, other: LoraSpec) -> bool:
    return set(one.groups) == set(other.groups) and one.rank == other.rank


def _write_index(
    folder: Path, spec: LoraSpec, entries: Mapping[str, _Entry], settings: Mapping[str, Any], peft: bool
) -> None:
    adapters = {name: {"file": entry.file, "record": entry.record} for name, entry in entries.items()}
    index = {"format": _FORMAT, "spec": spec.to_dict(), "settings": dict(settings), "adapters": adapters}
    write_json(folder / INDEX_FILE, {**index, "form": "peft"} if peft else index)


def _plain_name(name: str) -> str:
    """The name itself where it makes a plain file name; otherwise what is plain of it, and a digest."""
    if _PLAIN_NAME.fullmatch(name) and name != INDEX_FILE:
        return name
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:60]
    return f"{plain}.{blake2b(name.encode(), digest_size=6).hexdigest()}"


def _inside(file: str) -> str:
    if file != Path(file).name or file in ("", ".", ".."):
        raise T2LError(f"the file '{file}' is not in the library's own folder")
    return file


def _afresh(folder: Path) -> str:
    return f"Delete '{folder}' to start afresh, or choose another folder."


# Folders of PEFT adapter folders


def survey(folder: Path, spec: LoraSpec | None = None) -> tuple[LoraSpec, list[str], dict[str, str]]:
    """Of the PEFT folders below ``folder``: the spec in which they are read, names that fit it, and why others do not.

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
    return spec, [name for name in names if name not in odd], {name: odd[name] for name in sorted(odd)}


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
