"""Contamination: how much of each benchmark stands in each training task, and which tasks are near one by name.

Level 3. Texts are compared as runs of ``n`` words, lower case, without punctuation; a task holds an item where it holds
at least ``threshold`` of the item's runs. Runs that many items of a benchmark share are its boilerplate and say nothing
(as in the analysis of GPT-3, Brown et al. 2020, appendix C). Items shorter than ``n`` words are compared whole. Runs
are compared by 64-bit hashes, so a task's text is read once and never kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from t2l.data.benchmarks import Benchmark
from t2l.data.sources import ProgressReport, Task, TaskSource, no_progress
from t2l.data.splits import near_benchmark, removed_by_paper
from t2l.errors import DataError

_WORD = re.compile(r"\w+", re.UNICODE)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_COMMON = 10  # items that share a run before it counts as boilerplate
_SHORTEST = 4  # words; shorter items say too little
_BREAK = np.uint64(0x5DEECE66D)  # stands between texts, so that no run crosses from one to the next
_CHUNK = 2000  # texts hashed at once


@dataclass(frozen=True)
class Overlap:
    """What one task has of one benchmark.

    Args:
        benchmark: its name.
        items: of the benchmark, that can be compared.
        touched: items of which the task holds at least one run.
        held: items of which it holds at least the threshold's fraction of runs.
        example: the start of an item that is held, to look at.
    """

    benchmark: str
    items: int
    touched: int
    held: int
    example: str | None

    @property
    def fraction(self) -> float:
        """Held items of all."""
        return self.held / self.items if self.items else 0.0


@dataclass(frozen=True)
class TaskAudit:
    """One task: its overlaps, and what its name says."""

    name: str
    overlaps: tuple[Overlap, ...]
    named: str | None
    removed: str | None

    @property
    def flags(self) -> tuple[str, ...]:
        """Why a person should look at it; empty where there is nothing."""
        flags = [self.removed] if self.removed else [self.named] if self.named else []
        flags += [f"holds {o.held} of {o.items} items of {o.benchmark}" for o in self.overlaps if o.held]
        return tuple(flags)

    @property
    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "flags": list(self.flags),
            "near_by_name": self.named,
            "removed_by_paper": self.removed is not None,
            "overlaps": [asdict(overlap) for overlap in self.overlaps if overlap.touched],
        }


@dataclass
class _Items:
    """The runs of a benchmark's items by their number of words: sorted hashes and the items that have them."""

    benchmark: Benchmark
    hashes: dict[int, np.ndarray] = field(default_factory=dict)
    owners: dict[int, np.ndarray] = field(default_factory=dict)
    runs: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # of each item


class Auditor:
    """Compares tasks with benchmarks.

    Args:
        benchmarks: whose items; none compares names alone.
        n: words of a run.
        threshold: fraction of an item's runs that a task must hold to hold the item.

    Raises:
        DataError: ``n`` below 2, or a threshold outside (0, 1].
    """

    def __init__(self, benchmarks: Sequence[Benchmark], *, n: int = 8, threshold: float = 0.5) -> None:
        if n < 2 or not 0 < threshold <= 1:
            raise DataError(
                f"n must be at least 2 and the threshold in (0, 1] (got {n} and {threshold}).", "Use 8 and 0.5."
            )
        self._n, self._threshold = n, threshold
        self._words: dict[str, int] = {}
        self._indexed = [self._index(benchmark) for benchmark in benchmarks]

    def audit(self, task: Task) -> TaskAudit:
        """What a task holds of each benchmark, in its inputs, outputs, examples and definition."""
        hits = [{n: np.zeros(len(h), dtype=bool) for n, h in items.hashes.items()} for items in self._indexed]
        if self._indexed:
            lengths = sorted({n for items in self._indexed for n in items.hashes})
            texts = [task.definition]
            texts += [" ".join((each.input, *each.outputs)) for each in (*task.instances, *task.examples)]
            for start in range(0, len(texts), _CHUNK):
                words = self._hashed(texts[start : start + _CHUNK])
                for n in lengths:
                    runs = np.unique(_runs(words, n))
                    for items, found in zip(self._indexed, hits, strict=True):
                        if n in items.hashes:
                            found[n] |= _member(items.hashes[n], runs)
        overlaps = tuple(self._overlap(items, found) for items, found in zip(self._indexed, hits, strict=True))
        return TaskAudit(task.name, overlaps, near_benchmark(task.name), removed_by_paper(task.name))

    def _index(self, benchmark: Benchmark) -> _Items:
        items = _Items(benchmark)
        pairs: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        for place, text in enumerate(benchmark.items):
            words = _WORD.findall(text.lower())
            n = min(self._n, len(words))
            if n >= _SHORTEST:
                hashes = np.unique(_runs(np.array([self._word(word) for word in words], dtype=np.uint64), n))
                pairs.setdefault(n, []).append((hashes, np.full(len(hashes), place)))
        counts = np.zeros(len(benchmark.items), dtype=np.int64)
        for n, found in pairs.items():
            hashes = np.concatenate([pair[0] for pair in found])
            owners = np.concatenate([pair[1] for pair in found])
            order = np.argsort(hashes, kind="stable")
            hashes, owners = hashes[order], owners[order]
            _, inverse, repeats = np.unique(hashes, return_inverse=True, return_counts=True)
            telling = repeats[inverse] <= _COMMON
            items.hashes[n], items.owners[n] = hashes[telling], owners[telling]
            counts += np.bincount(items.owners[n], minlength=len(counts))
        items.runs = counts
        return items

    def _overlap(self, items: _Items, hits: dict[int, np.ndarray]) -> Overlap:
        found = np.zeros(len(items.runs), dtype=np.int64)
        for n, hit in hits.items():
            found += np.bincount(items.owners[n][hit], minlength=len(found))
        held = (items.runs > 0) & (found >= np.maximum(1, np.ceil(items.runs * self._threshold)))
        first = int(np.argmax(held)) if held.any() else None
        example = None if first is None else " ".join(items.benchmark.items[first].split())[:160]
        return Overlap(
            items.benchmark.name, int((items.runs > 0).sum()), int((found > 0).sum()), int(held.sum()), example
        )

    def _hashed(self, texts: Sequence[str]) -> np.ndarray:
        """The words of all texts as hashes, with breaks between texts; words of no benchmark are breaks as well."""
        known, flat = self._words, []
        for text in texts:
            flat += [known.get(word, 0) for word in _WORD.findall(text.lower())]
            flat.append(0)
        words = np.array(flat, dtype=np.uint64)
        breaks = words == 0
        # another value at each break: no run over one equals a run of a benchmark
        words[breaks] = _BREAK * np.arange(1, int(breaks.sum()) + 1, dtype=np.uint64)
        return words

    def _word(self, word: str) -> int:
        known = self._words.get(word)
        if known is None:
            known = int.from_bytes(blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "little") | 1
            self._words[word] = known
        return known


def audit(
    sources: Sequence[TaskSource],
    auditor: Auditor,
    report: ProgressReport = no_progress,
) -> tuple[list[TaskAudit], dict[str, str]]:
    """Every task that can be read, those with most held items first; and those that cannot, with the reason."""
    found, unread = [], {}
    for number, source in enumerate(sources):
        report(number, len(sources), source.name)
        try:
            found.append(auditor.audit(source.read()))
        except DataError as problem:
            unread[source.name] = problem.message
    report(len(sources), len(sources), "")
    found.sort(key=lambda task: (-max((o.fraction for o in task.overlaps), default=0.0), not task.flags, task.name))
    return found, unread


def _runs(words: np.ndarray, n: int) -> np.ndarray:
    """Hashes of all runs of ``n`` words: a polynomial over 64-bit word hashes, modulo 2^64, mixed."""
    count = len(words) - n + 1
    if count < 1:
        return np.zeros(0, dtype=np.uint64)
    with np.errstate(over="ignore"):
        total = np.zeros(count, dtype=np.uint64)
        for place in range(n):
            total = total * _MULTIPLIER + words[place : place + count]
        total ^= total >> np.uint64(31)
        return total * np.uint64(0xBF58476D1CE4E5B9)


def _member(hashes: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """For each of ``hashes``, whether it is among the sorted ``runs``."""
    if not len(runs) or not len(hashes):
        return np.zeros(len(hashes), dtype=bool)
    places = np.minimum(np.searchsorted(runs, hashes), len(runs) - 1)
    return runs[places] == hashes
