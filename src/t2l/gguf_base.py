"""A GGUF file as a base model: dequantised once into a folder of the cache that transformers loads quickly.

Level 0. The folder is whole or absent, and of several processes that want one, the first makes it. This file knows
files; which name means which file is for `t2l.base_names`.
"""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any

import torch

from t2l.errors import BaseModelError, OutputError
from t2l.storage import default_cache_folder, hash_file, new_folder, read_json, write_json

SUFFIX = ".gguf"
RECORD = "gguf.json"
"""The file of a converted base that says what it was made from."""

_FORMAT = 1  # of the folder; another one is converted anew
_TOKENIZER_CONFIG = "tokenizer_config.json"
_MAGIC = b"GGUF"
_FLOATS = {"F32": torch.float32, "F16": torch.float16}  # all other types become bfloat16
_LARGE = 2_000_000_000  # parameters; a model above is not held in float32 while it is converted
_SHARD = "4GB"
_DIGIT_BY_DIGIT = ("codeshell", "command-r", "exaone", "minerva-7b", "refact", "smollm", "starcoder")
_AGAIN = "It may be truncated; copy or download it again."

_logger = logging.getLogger(__name__)


def converted(file: str | Path) -> Path:
    """The folder that holds the GGUF model ``file`` as transformers loads it, made now if it is not there yet.

    Raises:
        BaseModelError: the file is not a whole GGUF model, its architecture, tokenizer or quantisation cannot be
            read, or the cache cannot be written. Nothing is left behind.
    """
    file = Path(file).expanduser()
    target = default_cache_folder() / "bases" / f"{gguf_digest(file)}-{file.stem}"
    if _is_whole(target):
        return target
    with _alone(target):
        if not _is_whole(target):  # else another process has made it meanwhile
            for left in [target, *target.parent.glob(f".{target.name[:40]}.*.tmp")]:  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            _convert(file, target)
    return target


def gguf_digest(file: Path) -> str:
    """A short digest of the file's size and of blocks spread over it, as an encoder's folder has one.

    Raises:
        BaseModelError: it is no file, or does not begin as GGUF files do.
    """
    try:
        with file.open("rb") as stream:
            begins = stream.read(len(_MAGIC))
        if begins != _MAGIC:
            raise BaseModelError(f"'{file}' is not a GGUF file: it begins with {begins!r}, not with {_MAGIC!r}.")
        digest = hashlib.sha256(f"{_FORMAT}:{file.stat().st_size}:".encode())
        hash_file(digest, file)
    except OSError as problem:
        raise BaseModelError(f"The GGUF file '{file}' cannot be read: {problem.strerror or problem}.") from problem
    return digest.hexdigest()[:16]


def weights_note(folder: str | Path) -> str | None:
    """What the weights in a converted folder were before (``"dequantised Q4_1"``); None for any other place."""
    record = Path(folder) / RECORD
    return str(read_json(record, BaseModelError)["weights"]) if record.is_file() else None


@contextmanager
def quiet() -> Iterator[None]:
    """Transformers without progress bars, log lines and warnings; its own settings come back afterwards."""
    from transformers.utils import logging as settings

    level, bars = settings.get_verbosity(), settings.is_progress_bar_enabled()
    settings.set_verbosity_error()
    settings.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        settings.set_verbosity(level)
        if bars:
            settings.enable_progress_bar()


def write_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """The files of a model and its tokenizer, under names that transformers 4 and 5 both know."""
    with quiet():
        model.save_pretrained(folder, max_shard_size=_SHARD)
        tokenizer.save_pretrained(folder)
    settings = read_json(folder / _TOKENIZER_CONFIG, OutputError)
    for name in ("is_local", "local_files_only"):  # of the place that it was read from
        settings.pop(name, None)
    if settings.get("tokenizer_class") == "TokenizersBackend":  # transformers 5's name for it
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(folder / _TOKENIZER_CONFIG, settings)


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """While no other process makes ``target``; the lock of a process that dies is free again."""
    from filelock import FileLock

    lock = target.parent / f".{target.name[:40]}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(str(lock))
        with suppress(NotImplementedError):  # a disk without locks: two may work, and one result stays
            held.acquire()
    except OSError as problem:
        raise _no_cache(target, problem) from problem
    try:
        yield
    finally:
        held.release()


def _no_cache(target: Path, problem: Exception) -> BaseModelError:
    reason = problem.message if isinstance(problem, OutputError) else f"{getattr(problem, 'strerror', '') or problem}."
    return BaseModelError(
        f"The cache of base models '{target.parent}' cannot be written: {reason}",
        "Free some space, or name another folder: export T2L_CACHE=FOLDER",
    )


def _is_whole(folder: Path) -> bool:
    """Whether all files are there in the sizes that the record says."""
    if not (folder / RECORD).is_file():
        return False
    try:
        sizes = read_json(folder / RECORD, BaseModelError)["files"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (BaseModelError, OSError, KeyError, AttributeError):
        return False


def _convert(file: Path, target: Path) -> None:
    kinds, pre = _inspect(file)
    _logger.warning("Converting %s, once; this takes a moment.", file.name)
    model, tokenizer = _load(file, large=sum(kinds.values()) > _LARGE)
    if pre in _DIGIT_BY_DIGIT:
        _cut_digits(tokenizer)
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if window is not None:
        tokenizer.model_max_length = window
    kind = kinds.most_common(1)[0][0]
    fresh = _unquantised(model, _FLOATS.get(kind, torch.bfloat16), file)
    try:
        with new_folder(target, marker=RECORD, force=True) as inside:
            write_model(fresh, tokenizer, inside)
            files = {path.name: path.stat().st_size for path in inside.iterdir()}
            weights = f"stored as {kind}" if kind in ("F32", "F16", "BF16") else f"dequantised {kind}"
            write_json(inside / RECORD, {"format": _FORMAT, "file": file.name, "weights": weights, "files": files})
    except OutputError as problem:
        raise _no_cache(target, problem) from problem


def _inspect(file: Path) -> tuple[Counter[str], str | None]:
    """Numbers by tensor type, and llama.cpp's name for how text is cut.

    Raises:
        BaseModelError: the file is truncated, holds no language model, only a part of one, or types that nobody reads.
    """
    try:
        from gguf import GGUFReader, dequantize
    except ImportError as problem:
        raise BaseModelError("A GGUF base is read with the package gguf, which is not here.", "pip install gguf") from (
            problem
        )
    try:
        reader = GGUFReader(file)
        values = {key: _value(reader, key) for key in ("general.type", "split.count", "tokenizer.ggml.pre")}
        kinds: Counter[str] = Counter()
        for tensor in reader.tensors:
            kinds[tensor.tensor_type.name] += int(tensor.n_elements)
    except Exception as problem:  # the reader trusts the file: it may stumble in any way
        raise BaseModelError(f"'{file}' is not a whole GGUF file: {_first_line(problem)}", _AGAIN) from problem
    if not kinds or values["general.type"] not in (None, "model"):
        what = values["general.type"] or "file without weights"
        raise BaseModelError(f"'{file}' is a GGUF {what}, not a language model.", "Give the base that it is for.")
    if (values["split.count"] or 0) > 1:
        raise BaseModelError(
            f"'{file}' is one of {values['split.count']} parts of a model.",
            "Join them: llama-gguf-split --merge FIRST_PART model.gguf",
        )
    unread = []
    for tensor in {tensor.tensor_type: tensor for tensor in reader.tensors}.values():
        try:
            dequantize(tensor.data.reshape(-1, tensor.data.shape[-1])[:1], tensor.tensor_type)
        except (NotImplementedError, ValueError):
            unread.append(tensor.tensor_type.name)
    if unread:
        raise BaseModelError(
            f"'{file}' holds weights of the type {', '.join(unread)}, which cannot be dequantised here.",
            "Give a file in F16, BF16, Q8_0, Q4_0, Q4_1 or a K-quant.",
        )
    return kinds, values["tokenizer.ggml.pre"]


def _value(reader: Any, key: str) -> Any:
    found = reader.get_field(key)
    return None if found is None else found.contents()


def _load(file: Path, *, large: bool) -> tuple[Any, Any]:
    """The model and the tokenizer as transformers reads them."""
    try:
        with quiet(), redirect_stderr(io.StringIO()), tempfile.TemporaryDirectory() as alone:  # its bars obey nobody
            import transformers

            key = "torch_dtype" if transformers.__version__.startswith("4.") else "dtype"
            place, name = Path(alone), f"model{SUFFIX}"
            try:  # apart from a config.json or a tokenizer that may lie beside the file
                (place / name).symlink_to(file.resolve())
            except OSError:
                place, name = file.resolve().parent, file.name
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(place), gguf_file=name)
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                str(place),
                gguf_file=name,
                output_loading_info=True,
                **{key: torch.bfloat16 if large else torch.float32},
            )
    except Exception as problem:  # transformers raises many kinds for what it does not know
        raise BaseModelError(
            f"The GGUF file '{file}' cannot be read as a base: {_first_line(problem)}",
            "Another quantisation of the same model may be read, or a newer version of transformers; or give the "
            "model's own folder or hub id.",
        ) from problem
    model, outcome = loaded
    missing = sorted(str(key) for key in outcome.get("missing_keys", ()))
    if missing:
        raise BaseModelError(f"'{file}' lacks {len(missing)} weights, '{missing[0]}' among them.", _AGAIN)
    return model, tokenizer


def _unquantised(model: Any, dtype: torch.dtype, file: Path) -> Any:
    """A model of the same class and values that knows nothing of GGUF, as its files are written from it."""
    config = copy.deepcopy(model.config)
    for name in ("quantization_config", "_pre_quantization_dtype"):
        with suppress(AttributeError):
            delattr(config, name)
    config.name_or_path = ""
    config.dtype = dtype
    with torch.device("meta"):
        fresh = type(model)(config)
    state = {name: tensor.detach().to(dtype) for name, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise BaseModelError(f"'{file}' holds NaN or infinite values in '{name}'.", _AGAIN)
    fresh.load_state_dict(state, assign=True)
    fresh.tie_weights()
    if getattr(model, "generation_config", None) is not None:
        fresh.generation_config = copy.deepcopy(model.generation_config)
    return fresh


def _cut_digits(tokenizer: Any) -> None:
    """Each digit becomes a token of its own, as these tokenizers were made; transformers' reader leaves it out."""
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
