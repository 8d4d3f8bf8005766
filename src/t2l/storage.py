"""Files that are whole or absent: write beside, then rename; strict reading of safetensors and JSON; the cache's place.

Level 0. This file knows folders and tensors; it does not know what an adapter or a checkpoint means.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from t2l.errors import OutputError, T2LError, bullets

_SMALL_FILE = 1 << 20
_BLOCK, _NUM_BLOCKS = 4096, 16


def default_cache_folder() -> Path:
    """``$T2L_CACHE``, else ``$XDG_CACHE_HOME/t2l``, else ``~/.cache/t2l``."""
    if chosen := os.environ.get("T2L_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "t2l"


MOST_OWN = 1 << 30
"""Bytes of a text file that a run of ours wrote."""

MOST_FOREIGN = 8 << 20
"""Bytes of a config that came with somebody's checkpoint or adapter."""

MOST_INPUT = 64 << 20
"""Bytes of descriptions, examples or an input that a user gives."""

MOST_NAMES = 4 << 20
"""Bytes of names and shapes in a safetensors file: some 40,000 tensors."""


@contextmanager
def new_folder(target: str | Path, *, marker: str, force: bool = False) -> Iterator[Path]:
    """Yields an empty temporary folder that becomes ``target`` when the block ends without an error.

    Until then ``target`` is untouched: an exception, Ctrl-C or ``kill -9`` never leaves half a folder there.

    Args:
        marker: the file that says what kind of folder this is (``"adapter_config.json"``); ``force`` replaces
            only an empty folder or one that holds it, so that a mistyped path never loses other data.
        force: replace an existing folder.

    Raises:
        OutputError: the folder exists and may not be replaced, or cannot be written.
    """
    target = Path(target).expanduser()
    check_writable(target, marker=marker, force=force)
    # named before it is made, so that Ctrl-C at any moment finds it to take away
    temporary = _beside(target)
    replaced = temporary.with_suffix(".old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        if target.exists() or target.is_symlink():
            os.replace(target, replaced)
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(
            f"Cannot write '{target}': {error.strerror or error}.", "Free some space or choose another folder."
        ) from error
    except SafetensorError as error:  # the writer reports a full disk this way
        raise OutputError(f"Cannot write '{target}': {error}.", "Free some space or choose another folder.") from error
    finally:
        if replaced.exists() and not target.exists():  # stopped between the two renames
            os.replace(replaced, target)
        _remove(temporary)
        _remove(replaced)


def check_writable(target: str | Path, *, marker: str, force: bool = False) -> None:
    """Raises `OutputError` now if `new_folder` would refuse ``target``: asked before long work starts."""
    target = Path(target).expanduser()
    if not target.exists():
        return
    if not force:
        raise OutputError(f"'{target}' already exists; it was left as it is.", "Choose another place or add --force.")
    if target.is_dir() and any(target.iterdir()) and not (target / marker).is_file():
        raise OutputError(
            f"'{target}' holds something else (no {marker} in it), so --force does not replace it.",
            "Choose another folder, or empty this one yourself.",
        )
    if target.is_file():
        raise OutputError(f"'{target}' is a file, not a folder.", "Choose another place.")


@contextmanager
def new_file(target: str | Path, *, force: bool = False) -> Iterator[Path]:
    """Yields a path to write to, which becomes ``target`` when the block ends without an error: for large files.

    Args:
        force: replace an existing file.

    Raises:
        OutputError: the file exists and may not be replaced, or cannot be written.
    """
    target = Path(target).expanduser()
    check_file(target, force=force)
    temporary = _beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        reason = f"{error.strerror or error}"
        raise OutputError(f"Cannot write '{target}': {reason}.", "Free some space or choose another place.") from error
    finally:
        _remove(temporary)


def check_file(target: str | Path, *, force: bool = False) -> None:
    """Raises `OutputError` now if `new_file` would refuse ``target``: asked before long work starts."""
    target = Path(target).expanduser()
    if target.is_dir():
        raise OutputError(f"'{target}' is a folder; a file is written.", "Name the file.")
    if target.exists() and not force:
        raise OutputError(f"'{target}' already exists; it was left as it is.", "Choose another place or add --force.")


def write_bytes(target: str | Path, data: bytes) -> None:
    """Writes one file whole or not at all.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    target = Path(target)
    temporary = _beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as stream:
            stream.write(data)
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(f"Cannot write '{target}': {error.strerror or error}.") from error
    finally:
        _remove(temporary)


def write_json(target: str | Path, value: Any) -> None:
    """Writes indented JSON with a final newline, atomically."""
    write_bytes(target, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_text(path: str | Path, error: type[T2LError], *, most: int = MOST_OWN) -> str:
    """The text of a regular file of at most so many bytes, without a byte-order mark; anything else is ``error``.

    A pipe without a writer or a device without an end would never be read to the end, so neither is begun.
    """
    path = Path(path)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with open(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise error(f"'{path}' is not a regular file.")
            data = stream.read(most + 1)
        if len(data) > most:
            raise error(f"'{path}' has more than the {most:,} bytes that are read of such a file.")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise error(f"'{path}' does not exist.") from None
    except OSError as problem:
        raise error(f"'{path}' cannot be read: {problem.strerror or problem}.") from problem
    except ValueError as problem:  # not UTF-8, or a name with a null character
        raise error(f"'{path}' cannot be read as text: {problem}.") from problem


def read_input(path: str | Path, error: type[T2LError]) -> bytes:
    """What a user gives to be read as a whole: a file, a pipe, or stdin (``"-"``), of at most `MOST_INPUT` bytes."""
    name, most = "stdin" if str(path) == "-" else f"'{path}'", MOST_INPUT
    try:
        with nullcontext(sys.stdin.buffer) if str(path) == "-" else Path(path).expanduser().open("rb") as stream:
            data = stream.read(most + 1)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise error(f"{name} cannot be read: {reason}.") from problem
    if len(data) > most:
        raise error(f"{name} has more than {most:,} bytes, which are the most that are read.", "Cut it up.")
    return data


def read_yaml(path: str | Path, error: type[T2LError]) -> Any:
    """What a small YAML file holds, as plain values; see `parse_yaml`."""
    return parse_yaml(read_text(path, error, most=MOST_FOREIGN), f"'{path}'", error)


def parse_yaml(text: str, name: str, error: type[T2LError]) -> Any:
    """YAML as plain values. Aliases are refused: a few lines of them stand for billions of values."""
    import yaml

    class Plain(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("it uses aliases (*name), which are not read")
            return super().compose_node(parent, index)

    try:
        return yaml.load(text, Plain)  # a SafeLoader
    except RecursionError:
        raise error(f"{name} cannot be read as YAML: it is nested too deeply.") from None
    except Exception as problem:  # the parser's own errors, and those of the dates, numbers and tags it meets
        told = " ".join(str(problem).split())[:300] or type(problem).__name__
        raise error(f"{name} cannot be read as YAML: {told}.") from problem


def read_json(path: str | Path, error: type[T2LError], *, most: int = MOST_OWN) -> dict[str, Any]:
    """The JSON object in ``path``; anything else is ``error``, which names the file and the place.

    Args:
        most: bytes.
    """
    path = Path(path)
    text = read_text(path, error, most=most)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as problem:  # a number of 5,000 digits is a plain ValueError
        raise error(f"'{path}' cannot be read as JSON: {problem}.") from problem
    if not isinstance(value, dict):
        raise error(f"'{path}' holds {type(value).__name__}, not a JSON object.")
    return value


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes safetensors; tensors are made contiguous and moved to the CPU."""
    whole = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    save_file(whole, str(path), metadata={"format": "pt", **(metadata or {})})
    os.chmod(path, 0o666 & ~_umask())  # the writer makes files that only their owner can read


def read_tensors(path: str | Path, error: type[T2LError]) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU; a missing, truncated or foreign file is ``error``."""
    path = Path(path)
    if not _is_regular(path):
        raise error(f"'{path}' does not exist.")
    try:
        with path.open("rb") as stream:
            names = int.from_bytes(stream.read(8), "little")
        if MOST_NAMES < names < path.stat().st_size:
            raise error(f"'{path}' has {names:,} bytes of tensors' names; at most {MOST_NAMES:,} are read.")
        return load_file(str(path))
    except T2LError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as problem:
        raise error(
            f"'{path}' is not a whole safetensors file: {problem}.", "It may be truncated; copy or download it again."
        ) from problem


def read_pickled(path: str | Path, error: type[T2LError], *, device: torch.device | str = "cpu") -> Any:
    """What ``torch.save`` wrote, as tensors and plain values; no code of the file is run.

    Args:
        device: where its tensors go.

    Raises:
        error: it is not a regular file, is packed (some kilobytes may then stand for gigabytes), or holds a tensor with
            more elements than bytes.
        Exception: what torch's reader raises for a damaged file.
    """
    path = Path(path)
    if not _is_regular(path):
        raise error(f"'{path}' is not a regular file.")
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise error(f"'{path}' is a compressed archive; torch.save writes none.", "Save it anew with torch.save.")
    value = torch.load(path, map_location=device, weights_only=True)
    _check_dense(value, path, error)
    return value


def _check_dense(value: Any, path: Path, error: type[T2LError]) -> None:
    """Every strided tensor stands for no more bytes than the file has."""
    if isinstance(value, Mapping):
        for part in value.values():
            _check_dense(part, path, error)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _check_dense(part, path, error)
    elif isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta:
        bytes_ = value.numel() * value.element_size()
        if bytes_ > value.untyped_storage().nbytes():
            raise error(f"'{path}' has a tensor of shape {tuple(value.shape)} that stands for bytes it does not hold.")


def _is_regular(path: Path) -> bool:
    """Whether there is a plain file; False for a name that can be none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def check_tensors(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Sequence[int]],
    *,
    source: str | Path,
    error: type[T2LError],
) -> None:
    """Checks names, shapes, dtypes and values; the error names each bad tensor (the first few) and the rule.

    Raises:
        error: a tensor is missing, extra, of another shape, not floating point, or holds NaN or infinity.
    """
    problems = [f"missing {name} {tuple(shape)}" for name, shape in expected.items() if name not in found]
    problems += [f"unexpected {name} {tuple(tensor.shape)}" for name, tensor in found.items() if name not in expected]
    for name, shape in expected.items():
        tensor = found.get(name)
        if tensor is None:
            continue
        if tuple(tensor.shape) != tuple(shape):
            problems.append(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
        elif not tensor.dtype.is_floating_point:
            problems.append(f"{name} has dtype {tensor.dtype}, expected a floating-point one")
        elif not bool(torch.isfinite(tensor).all()):
            problems.append(f"{name} holds NaN or infinite values")
    if problems:
        raise error(f"The tensors in '{source}' do not fit:{bullets(problems, 6)}")


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in name order: the same content gives the same digest."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def hash_file(digest: Any, path: Path) -> None:
    """Updates a ``hashlib`` digest with a file's bytes; of a large file, with 16 blocks spread over it."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        if size <= _SMALL_FILE:
            digest.update(stream.read())
            return
        for block in range(_NUM_BLOCKS):
            stream.seek((size - _BLOCK) * block // (_NUM_BLOCKS - 1))
            digest.update(stream.read(_BLOCK))


def _beside(target: Path) -> Path:
    """A new name in the same folder, hidden."""
    return target.parent / f".{target.name[:40]}.{secrets.token_hex(8)}.tmp"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _remove(path: Path) -> None:
    """Takes away a file or a folder, where there is one that can be taken away."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
