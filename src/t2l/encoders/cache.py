"""Embeddings kept on disk, keyed by encoder identity and text, so that a description is encoded once.

Level 1. One SQLite file that any number of processes may share. It holds no text, only digests. It is a convenience:
where it is damaged it is set aside and begun anew, and where it cannot be written nothing is kept.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from t2l.encoders.encoder import DescriptionEncoder, embed_alone
from t2l.errors import EncoderError
from t2l.storage import default_cache_folder

_FILE = "embeddings.sqlite"
_SCHEMA = "CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, crc INTEGER NOT NULL, value BLOB NOT NULL)"
_WAIT_S = 10.0
_KEYS_A_QUERY = 500
_Result = TypeVar("_Result")


class EmbeddingCache:
    """Rows of float32 on disk. Never raises for what is wrong with the disk: it then keeps or finds nothing.

    Args:
        folder: where the file lies; `default_cache_folder` by default.
        most: bytes of the file; the rows that were put in first make room.
    """

    def __init__(self, folder: str | Path | None = None, *, most: int = 512 << 20) -> None:
        self._most = most
        self.path = (default_cache_folder() if folder is None else Path(folder).expanduser()) / _FILE

    def get(self, identity: str, texts: Sequence[str]) -> dict[str, Tensor]:
        """text -> row (E,) for those of the texts that are kept."""
        by_key = {_key(identity, text): text for text in texts}

        def read(connection: sqlite3.Connection) -> dict[str, Tensor]:
            found = {}
            keys = list(by_key)
            for start in range(0, len(keys), _KEYS_A_QUERY):
                some = keys[start : start + _KEYS_A_QUERY]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, crc, value FROM embeddings WHERE key IN ({marks})"
                for key, crc, value in connection.execute(query, some):
                    if zlib.crc32(value) == crc:
                        found[by_key[key]] = torch.frombuffer(bytearray(value), dtype=torch.float32)
            return found

        return self._use(read, otherwise={})

    def put(self, identity: str, rows: Mapping[str, Tensor]) -> None:
        """Keeps text -> row (E,)."""
        values = [(_key(identity, text), row.to("cpu", torch.float32).numpy().tobytes()) for text, row in rows.items()]

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            records = ((key, zlib.crc32(value), value) for key, value in values)
            connection.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", records)
            self._make_room(connection)

        self._use(write, otherwise=None)

    def _make_room(self, connection: sqlite3.Connection) -> None:
        """Deletes a tenth of the rows, the oldest, while more is used than allowed; later rows fill their pages."""

        def number(query: str) -> int:
            return int(connection.execute(query).fetchone()[0])

        page = number("PRAGMA page_size")
        while (number("PRAGMA page_count") - number("PRAGMA freelist_count")) * page > self._most:
            rows = number("SELECT count(*) FROM embeddings")
            if rows == 0:
                return
            oldest = "SELECT rowid FROM embeddings ORDER BY rowid LIMIT ?"
            connection.execute(f"DELETE FROM embeddings WHERE rowid IN ({oldest})", (max(1, rows // 10),))

    def _use(self, action: Callable[[sqlite3.Connection], _Result], otherwise: _Result) -> _Result:
        try:
            with self._open() as connection:
                return action(connection)
        except OSError:
            return otherwise
        except sqlite3.DatabaseError as problem:
            if not _means_damage(problem):  # full disk, no right to write, locked for long
                return otherwise
        with suppress(OSError, sqlite3.DatabaseError):
            self._set_aside()
            with self._open() as connection:
                return action(connection)
        return otherwise

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=_WAIT_S)
        with closing(connection), connection:  # one transaction: committed at the end, rolled back on an error
            connection.execute(_SCHEMA)
            yield connection

    def _set_aside(self) -> None:
        os.replace(self.path, self.path.with_suffix(".damaged"))
        self.path.with_name(f"{_FILE}-journal").unlink(missing_ok=True)


class CachedEncoder(DescriptionEncoder):
    """Another encoder that embeds only what the cache does not hold; same identity, same embeddings.

    Texts are embedded one by one: a row that was made beside others would differ from it in its last bits, and with it
    every adapter that is made from it.

    Args:
        encoder: the encoder that embeds.
        cache: where embeddings are kept; by default the cache of this account.
    """

    def __init__(self, encoder: DescriptionEncoder, cache: EmbeddingCache | None = None) -> None:
        self.encoder = encoder
        self.cache = cache or EmbeddingCache()

    @property
    def full_stop(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.encoder.full_stop

    @property
    def ragged(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.encoder.ragged

    @property
    def exact(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.encoder.exact or not self.encoder.ragged

    @property
    def token_dim(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.encoder.token_dim

    @property
    def identity(self) -> str:
        return self.encoder.identity

    @property
    def dim(self) -> int:
        return self.encoder.dim

    def to_config(self) -> dict[str, Any]:
        return self.encoder.to_config()

    def save(self, folder: Path) -> dict[str, Any]:
        return self.encoder.save(folder)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, device: str, trust_remote_code: bool) -> CachedEncoder:
        raise EncoderError("A cache is not a kind of encoder.", "Wrap the encoder: CachedEncoder(encoder).")

    def embed(self, texts: Sequence[str]) -> Tensor:
        if self.encoder.ragged:  # states of every token are large, and as quick to make as to read
            return self.encoder.embed(texts)
        rows = self.cache.get(self.identity, texts)
        missing = [text for text in texts if text not in rows]
        if missing:
            new = dict(zip(missing, embed_alone(self.encoder, missing), strict=True))
            self.cache.put(self.identity, new)
            rows |= new
        return torch.stack([rows[text] for text in texts])


def _key(identity: str, text: str) -> bytes:
    return hashlib.sha256(f"alone\0{identity}\0{text}".encode()).digest()


def _means_damage(problem: sqlite3.DatabaseError) -> bool:
    words = str(problem)
    return not isinstance(problem, sqlite3.OperationalError) or any(
        sign in words for sign in ("no such table", "no such column", "has no column", "disk I/O", "columns but")
    )
