"""Writes a store task by task, so that a run that is killed resumes where it stopped and never leaves half a store.

Level 3. While it is written the store is ``NAME.partial`` beside its place: ``samples.arrow`` grows by one record batch
a task, and ``journal.jsonl`` names each task that is on the disk whole (flushed and synced before the line is written).
Going on cuts off what stands behind the last task named. The last act is a rename. This file does not know what a task
is about.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from t2l.data.store import DESCRIPTIONS_FILE, FORMAT, MANIFEST_FILE, SAMPLES_FILE, pyarrow, samples_digest
from t2l.errors import DataError, OutputError
from t2l.storage import check_writable, read_json, write_bytes, write_json

JOURNAL_FILE = "journal.jsonl"
LOCK_FILE = "lock"
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # of an Arrow stream
_SPACE = "Free some space and run the same command again: it resumes where it stopped."


class StoreWriter:
    """An unfinished store. Use `open_writer`, which locks it and finds what an earlier run left."""

    def __init__(self, folder: Path, header: dict[str, Any], done: list[dict[str, Any]]) -> None:
        self.folder = folder
        self.header = header
        self.done = {record["name"]: record for record in done}
        self._schema = _schema()

    def append(self, name: str, rows: Any, record: Mapping[str, Any]) -> dict[str, Any]:
        """Writes a task's samples (`t2l.data.prompts.SampleRows`) and then its line in the journal.

        Returns:
            the record with what the store adds: samples, batch, digest, end (bytes of the file so far).

        Raises:
            OutputError: the disk is full or the folder cannot be written; what was written before stays whole.
        """
        arrow = pyarrow()
        ids = arrow.ListArray.from_arrays(arrow.array(rows.offsets), arrow.array(rows.tokens))
        batch = arrow.record_batch([ids, arrow.array(rows.prompt_lengths)], schema=self._schema)
        entry = {
            "name": name,
            **record,
            "samples": len(rows.prompt_lengths),
            "batch": len(self.done),
            "digest": samples_digest(rows.offsets, rows.tokens, rows.prompt_lengths),
        }
        with _writing(self.folder):
            path = self.folder / SAMPLES_FILE
            begin = path.stat().st_size
            try:
                with path.open("ab") as stream:
                    stream.write(batch.serialize())
                    _sync(stream)
                    entry["end"] = stream.tell()
                with (self.folder / JOURNAL_FILE).open("ab") as journal:
                    journal.write(_lines([entry]))
                    _sync(journal)
            except OSError:
                with suppress(OSError):
                    os.truncate(path, begin)
                raise
        self.done[name] = entry
        return entry

    def finish(self, target: Path, manifest: dict[str, Any], descriptions: Sequence[Mapping[str, Any]]) -> None:
        """Closes the stream, writes descriptions and manifest, and renames the folder to ``target``.

        Raises:
            OutputError: the disk is full, or ``target`` cannot be replaced; the unfinished store stays.
        """
        lines = _lines(descriptions)
        with _writing(self.folder):
            path = self.folder / SAMPLES_FILE
            with path.open("ab") as stream:
                stream.write(_END)
                _sync(stream)
            write_bytes(self.folder / DESCRIPTIONS_FILE, lines)
            digests = "".join(f"{task['name']}:{task['digest']}\n" for task in manifest["tasks"])
            whole = {
                "kind": "t2l-data",
                "format": FORMAT,
                "header": sorted(self.header),
                **manifest,
                "bytes": path.stat().st_size,
                "digest": sha256(digests.encode()).hexdigest(),
                "descriptions_digest": sha256(lines).hexdigest(),
            }
            write_json(self.folder / MANIFEST_FILE, whole)
            replaced = target.with_name(f".{target.name}.{secrets.token_hex(8)}.old")
            if target.exists():
                os.replace(target, replaced)
            try:
                os.replace(self.folder, target)
            except OSError:
                if replaced.exists():
                    os.replace(replaced, target)
                raise
            shutil.rmtree(replaced, ignore_errors=True)
            for name in (JOURNAL_FILE, LOCK_FILE):
                (target / name).unlink(missing_ok=True)


@contextmanager
def open_writer(
    target: Path, header: dict[str, Any], *, force: bool = False, restart: bool = False, update: bool = False
) -> Iterator[StoreWriter]:
    """A writer for the store ``target``: a new one, or the unfinished one that is there.

    Args:
        header: what decides the samples (tokenizer, limits, templates ...): an unfinished store is continued only with
            the same.
        force: replace a finished store when this one is finished.
        restart: throw an unfinished store away.
        update: begin with the tasks of the finished store that is there; it is replaced when this one is finished.

    Raises:
        OutputError: ``target`` exists, or another process is writing it.
        DataError: the unfinished store was made with other settings; they are named.
    """
    header = json.loads(json.dumps(header))
    check_writable(target, marker=MANIFEST_FILE, force=force or update)
    folder = target.with_name(f"{target.name}.partial")
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("a")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(
                f"Another process is writing '{folder}'.", "Wait for it, or choose another place."
            ) from None
        with _writing(folder):
            if update and (restart or not (folder / JOURNAL_FILE).is_file()):
                _reopen(folder, target)
            done = [] if restart and not update else _resume(folder, header)
            if not done:
                _begin(folder, header)
        writer = StoreWriter(folder, header, done)
        try:
            yield writer
        finally:
            if not writer.done:  # nothing to go on with
                shutil.rmtree(folder, ignore_errors=True)


def _begin(folder: Path, header: dict[str, Any]) -> None:
    """An empty stream and a journal of one line; the journal last, so that it never speaks of nothing."""
    (folder / JOURNAL_FILE).unlink(missing_ok=True)
    write_bytes(folder / SAMPLES_FILE, _schema().serialize().to_pybytes())
    write_bytes(folder / JOURNAL_FILE, _lines([header]))


def _reopen(folder: Path, target: Path) -> None:
    """The unfinished store that the finished one was before its last act."""
    manifest = read_json(target / MANIFEST_FILE, DataError)
    records = sorted(manifest["tasks"], key=lambda record: record["batch"])
    header = {key: manifest["settings"].get(key) for key in manifest["header"]}
    (folder / JOURNAL_FILE).unlink(missing_ok=True)
    shutil.copyfile(target / SAMPLES_FILE, folder / SAMPLES_FILE)
    write_bytes(folder / JOURNAL_FILE, _lines([header, *records]))


def _resume(folder: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    """The tasks that an earlier run wrote whole, with everything behind them cut off."""
    journal, samples = folder / JOURNAL_FILE, folder / SAMPLES_FILE
    if not (journal.is_file() and samples.is_file()):
        return []
    lines, size = journal.read_bytes().split(b"\n"), samples.stat().st_size
    kept, records = 0, []
    for line in lines[:-1]:  # what stands behind the last newline was cut off while it was written
        try:
            record = json.loads(line)
        except ValueError:
            break
        if records and record.get("end", 0) > size:
            break
        records.append(record)
        kept += len(line) + 1
    if not records:
        return []
    different = sorted(key for key in {*header, *records[0]} if header.get(key) != records[0].get(key))
    if different:
        shown = "; ".join(f"{key}: {records[0].get(key)!r}, now {header.get(key)!r}" for key in different)
        raise DataError(
            f"'{folder}' was begun with other settings: {shown}.",
            "Run it with the same, or begin again with --restart.",
        )
    done = records[1:]
    os.truncate(journal, kept)
    os.truncate(samples, done[-1]["end"] if done else len(_schema().serialize().to_pybytes()))
    return done


def forget_from(writer: StoreWriter, name: str) -> None:
    """Takes back a task and all that were written after it: its source has changed since."""
    records = sorted(writer.done.values(), key=lambda record: record["batch"])
    kept = records[: writer.done[name]["batch"]]
    with _writing(writer.folder):
        write_bytes(writer.folder / JOURNAL_FILE, _lines([writer.header, *kept]))
        end = kept[-1]["end"] if kept else len(_schema().serialize().to_pybytes())
        os.truncate(writer.folder / SAMPLES_FILE, end)
    writer.done = {record["name"]: record for record in kept}


def _schema() -> Any:
    arrow = pyarrow()
    return arrow.schema([("input_ids", arrow.list_(arrow.int32())), ("prompt_length", arrow.int32())])


def _lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def _sync(stream: Any) -> None:
    stream.flush()
    os.fsync(stream.fileno())


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Whatever the disk refuses, as an error for people."""
    try:
        yield
    except OSError as problem:
        raise OutputError(f"Cannot write '{folder}': {problem.strerror or problem}.", _SPACE) from problem
