"""DescriptionEncoder: what every encoder is, and the pieces that several of them share.

Axis letters: N samples, E embedding width, T tokens, W width of one token's state.

Level 1. This file knows no particular encoder and no cache.
"""

from __future__ import annotations

import hashlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.base_names import canonical_name, packaged_fix, source_identity
from t2l.encoders.description import prepare, warned_once
from t2l.errors import BaseModelError, EncoderError, did_you_mean
from t2l.hub import TRUST_FIX, first_line
from t2l.storage import hash_file

_SAID_EVERY = 10.0  # seconds
ADAPTER_FOLDER = "reader"
"""Where a checkpoint's folder holds the LoRA that its encoder reads with."""


class DescriptionEncoder(ABC):
    """From task descriptions to embeddings in the form that the hypernetwork reads. Weights load at first use."""

    full_stop: ClassVar[bool] = True
    """Whether a text that ends with a letter is closed with a full stop before it is embedded."""
    ragged: ClassVar[bool] = False
    """Whether rows are only as wide as the longest text of a call needs; E is then the widest that a row can be."""
    exact: ClassVar[bool] = False
    """Whether a row is, bit for bit, the same whatever other texts `embed` is given with it."""
    token_dim: int | None = None
    """W, where an embedding is the states of a description's tokens, one after the other; None where it is pooled."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Names all that determines an embedding: equal identities give equal embeddings. Loads no weights."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """E."""

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> Tensor:
        """embedding_NE, float32 on the CPU, for texts that `prepare` has been through; at least one, none twice."""

    @abstractmethod
    def to_config(self) -> dict[str, Any]:
        """Plain data from which `t2l.encoders.encoder_from_config` makes this encoder again."""

    def save(self, folder: Path) -> dict[str, Any]:
        """As `to_config`, with the files that it names copied into a checkpoint's folder and named from there."""
        return self.to_config()

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any], *, device: str, trust_remote_code: bool) -> DescriptionEncoder:
        """The encoder that `to_config` described; where and whether to run foreign code is never in a config.

        Raises:
            EncoderError: a field is missing, unknown or of the wrong type.
        """

    def encode(self, texts: Sequence[str]) -> Tensor:
        """embedding_NE, float32 on the CPU: one row a description, of norm sqrt(E) (one-hot: 1; token states: as read).

        Equal descriptions are embedded once.

        Raises:
            DescriptionError: a description that cannot be encoded; see `t2l.encoders.prepare`.
            EncoderError: the encoder cannot be loaded, or gives NaN.
        """
        prepared = prepare(texts, full_stop=self.full_stop)
        if not prepared:
            return torch.zeros(0, self.dim)
        distinct = list(dict.fromkeys(prepared))
        with warned_once():
            embedding_NE = self.embed(distinct)
        if not bool(torch.isfinite(embedding_NE).all()):
            raise EncoderError(f"The encoder {self.identity} gives NaN or infinite embeddings.")
        row = {text: index for index, text in enumerate(distinct)}
        return embedding_NE[[row[text] for text in prepared]]


def embed_alone(encoder: DescriptionEncoder, texts: Sequence[str]) -> list[Tensor]:
    """A row (E,) for each text, which does not depend on the other texts."""
    if encoder.exact:
        return list(encoder.embed(texts))
    return [encoder.embed([text])[0] for text in texts]


def to_sphere(embedding_NE: Tensor) -> Tensor:
    """Each row scaled to length sqrt(E), as the reference implementation does, so that entries are about 1."""
    embedding_NE = embedding_NE.detach().to("cpu", torch.float32)
    return F.normalize(embedding_NE, dim=-1) * math.sqrt(embedding_NE.shape[-1])


def one_vector(embedding_NE: Tensor, token_dim: int | None) -> Tensor:
    """One vector a text: the embedding, or the mean of the states of its tokens (W wide) where it holds those."""
    if token_dim is None:
        return embedding_NE
    state_NTW = embedding_NE.unflatten(1, (-1, token_dim))
    real_NT1 = (state_NTW != 0).any(dim=-1, keepdim=True)
    return (state_NTW * real_NT1).sum(dim=1) / real_NT1.sum(dim=1).clamp_min(1)


def read_fields(config: Mapping[str, Any], kind: str, **types: type | tuple[type, ...]) -> dict[str, Any]:
    """The fields of a config, each of the type given; a tuple with ``NoneType`` makes one optional.

    Raises:
        EncoderError: a field is missing, unknown or of the wrong type.
    """
    for name in config:
        if name not in types and name != "kind":
            raise EncoderError(f"An encoder of kind '{kind}' has no field '{name}'.", did_you_mean(str(name), types))
    fields = {name: config.get(name) for name in types}
    for name, value in fields.items():
        if not isinstance(value, types[name]) or isinstance(value, bool):
            got = "missing" if name not in config else f"{value!r}"
            raise EncoderError(f"The field '{name}' of an encoder of kind '{kind}' is {got}.")
    return fields


def model_identity(model: str, revision: str | None) -> str:
    """A folder or GGUF file by the digest of its content, wherever it lies; anything else as hub id and revision."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return f"folder:{folder_digest(folder)}"
    return source_identity(model, revision) or f"{canonical_name(model)}@{revision or 'main'}"


def folder_digest(folder: Path) -> str:
    """A short digest of a model folder that is quick even for large weights.

    Each file counts with its name, its size and its bytes; of a large file, 16 blocks spread over it. Readmes and
    hidden files do not count.
    """
    digest = hashlib.sha256()
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() != ".md")
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in files):
        if any(part.startswith(".") for part in name.split("/")):
            continue
        digest.update(f"{name}:{path.stat().st_size}:".encode())
        hash_file(digest, path)
    return digest.hexdigest()[:16]


def check_dim(found: int, expected: int | None, name: str) -> int:
    """``found``, where it is the width that was expected.

    Raises:
        EncoderError: the encoder's width is not the one that its config states.
    """
    if expected is not None and found != expected:
        raise EncoderError(
            f"The encoder {name} gives embeddings of width {found}; its config says {expected}.",
            "Has the model changed since? Name the revision that was used.",
        )
    return found


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
            packaged_fix(model) or "Give a folder, or a hub id that can be reached (for a gated model: hf auth login).",
        ) from problem


class EncodingProgress:
    """Says every ten seconds how far the encoding of many texts is and how long it will take: also in a log file.

    Args:
        texts: all of them; work is counted in characters, as long texts take longer.
        say: takes a line.
    """

    def __init__(self, texts: Sequence[str], say: Callable[[str], None]) -> None:
        self._texts, self._characters, self._say = len(texts), sum(map(len, texts)), say
        self._done = self._done_characters = 0
        self._begun = self._said = time.monotonic()

    def add(self, texts: Sequence[str]) -> None:
        """These are encoded."""
        now = time.monotonic()
        self._done += len(texts)
        self._done_characters += sum(map(len, texts))
        if now - self._said > _SAID_EVERY:
            self._said = now
            left = (now - self._begun) / self._done_characters * (self._characters - self._done_characters)
            self._say(f"{self._done:,} of {self._texts:,} descriptions encoded, about {left:,.0f} s left")
