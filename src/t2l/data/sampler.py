"""Which sample of which task comes when: a fixed order that can be entered at any step.

Axis letters: W processes, B samples a batch of one process.

Level 3. Every task is as frequent as every other, whatever its size; within a task every sample comes once before any
comes twice; a batch holds samples of similar length. The order is a function of (seed, step, rank) alone, so nothing
has to be saved or replayed to resume. This file knows lengths and counts; it never reads a sample.

How. Positions 0, 1, 2, ... run through the tasks in rounds; each round is another permutation of all tasks, and the
k-th visit to a task takes its k-th sample in permutations of its own. A *window* of consecutive positions is sorted by
length, cut into steps, and the steps are put in a random order. Sorting moves samples between the steps of one window
and changes neither which samples come nor how often: no task gains by its length. A permutation is the order of the
keyed hashes of its places, in integers that no library's version changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol

import numpy as np

from t2l.data.store import Split, TaskEntry
from t2l.errors import DataError

Pick = tuple[int, int, int]
"""(task index, sample index, description index); the last is -1 where descriptions are not asked for."""

_GOLDEN = 0x9E3779B97F4A7C15


class HasLengths(Protocol):
    """What the sampler needs of a store."""

    tasks: tuple[TaskEntry, ...]

    def length(self, task_index: int, sample_index: int) -> int:
        """The tokens of one sample."""
        ...


class TaskBalancedSampler:
    """The batches of one process among ``world_size``.

    Args:
        store: the samples' lengths and the tasks' descriptions.
        batch_size: samples a batch of this process.
        seed: another seed is another order.
        rank: which of the ``world_size`` processes this is. At a step they get different samples of similar length.
        split: the tasks to draw from.
        tasks: places in ``store.tasks`` to draw from, instead of a split.
        samples_per_task: so many samples of a task come together and share one description, as one adapter serves them.
        descriptions_per_task: draw from the first so many descriptions (128 of 200 in the paper); all by default.
        window: steps whose samples are sorted together; 1 sorts nothing between steps.

    Raises:
        DataError: no task to draw from, a task without descriptions, or sizes that do not fit.

    Example:
        >>> sampler = TaskBalancedSampler(store, batch_size=8, seed=0)  # doctest: +SKIP
        >>> sampler.batch(10_000)[0]  # doctest: +SKIP
        (17, 204, 3)
    """

    def __init__(
        self,
        store: HasLengths,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        *,
        split: Split = "train",
        tasks: Sequence[int] | None = None,
        samples_per_task: int = 1,
        descriptions_per_task: int | None = None,
        with_descriptions: bool = True,
        window: int = 32,
    ) -> None:
        chosen = tasks if tasks is not None else [i for i, task in enumerate(store.tasks) if task.split == split]
        self.tasks = tuple(index for index in chosen if store.tasks[index].samples > 0)
        if not self.tasks:
            raise DataError(
                f"There is no {split} task with samples to draw from.", "See the splits: t2l data show STORE"
            )
        if batch_size < 1 or samples_per_task < 1 or batch_size % samples_per_task:
            raise DataError(
                f"A batch of {batch_size} samples cannot hold groups of {samples_per_task} of one task.",
                "Make the batch size a multiple of samples_per_task.",
            )
        if not 0 <= rank < world_size or window < 1:
            raise DataError(f"Rank {rank} of {world_size} processes, and a window of {window} steps, do not exist.")
        if descriptions_per_task is not None and descriptions_per_task < 1:
            raise DataError(f"descriptions_per_task is {descriptions_per_task}; it must be at least 1.")
        bare = [store.tasks[index].name for index in self.tasks if not store.tasks[index].descriptions]
        if with_descriptions and bare:
            raise DataError(
                f"{len(bare)} of {len(self.tasks)} tasks have no description, '{bare[0]}' among them.",
                "Write some (t2l data describe) or leave them out (t2l data prepare --without-descriptions drop).",
            )
        self._lengths = store
        self._sizes = [store.tasks[index].samples for index in self.tasks]
        limit = descriptions_per_task
        self._descriptions = [
            min(len(store.tasks[index].descriptions), limit or len(store.tasks[index].descriptions))
            if with_descriptions
            else 0
            for index in self.tasks
        ]
        self._seed = seed
        self._rank, self._world_size = rank, world_size
        self._groups = batch_size // samples_per_task  # of one process
        self._samples_per_task = samples_per_task
        self._window = window
        self._permutations: dict[tuple[str, int], tuple[int, list[int]]] = {}  # the last turn of each
        self._sorted: tuple[int, list[list[list[Pick]]]] | None = None

    def batch(self, step: int) -> list[Pick]:
        """The samples of this process at a step; any step may be asked for, in any order.

        Work does not grow with ``step``: one window of steps is made, and kept for the steps beside it.
        """
        if step < 0:
            raise IndexError(f"steps begin at 0, asked for {step}")
        window, place = divmod(step, self._window)
        if self._sorted is None or self._sorted[0] != window:
            self._sorted = (window, self._make(window))
        return [pick for group in self._sorted[1][place] for pick in group]

    def _make(self, window: int) -> list[list[list[Pick]]]:
        """The groups of this rank at each step of a window."""
        per_step = self._groups * self._world_size
        first = window * self._window * per_step
        groups = [self._group(position) for position in range(first, first + self._window * per_step)]
        longest = np.array([max(self._lengths.length(task, sample) for task, sample, _ in group) for group in groups])
        ties = permutation(len(groups), self._key("ties", window))
        order = np.lexsort(np.stack([ties, longest]))
        steps = order.reshape(self._window, per_step)[permutation(self._window, self._key("steps", window))]
        return [[groups[index] for index in row[self._rank :: self._world_size]] for row in steps]

    def _group(self, position: int) -> list[Pick]:
        """The samples at a position of the endless order of tasks."""
        visit, place = divmod(position, len(self.tasks))
        slot = self._permuted("round", 0, len(self.tasks), visit, place)
        size, picks = self._sizes[slot], []
        for number in range(visit * self._samples_per_task, (visit + 1) * self._samples_per_task):
            turn, within = divmod(number, size)
            picks.append((self.tasks[slot], self._permuted("samples", slot, size, turn, within)))
        count, description = self._descriptions[slot], -1
        if count:
            turn, within = divmod(visit, count)
            description = self._permuted("descriptions", slot, count, turn, within)
        return [(task, sample, description) for task, sample in picks]

    def _permuted(self, kind: str, slot: int, size: int, turn: int, place: int) -> int:
        """Where a permutation puts a place; each turn has another one."""
        known = self._permutations.get((kind, slot))
        if known is None or known[0] != turn:
            known = (turn, permutation(size, self._key(kind, slot, turn)).tolist())
            self._permutations[kind, slot] = known
        return known[1][place]

    def _key(self, *parts: str | int) -> int:
        text = "/".join(str(part) for part in (self._seed, *parts))
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def permutation(size: int, key: int) -> np.ndarray:
    """int64 (size,): the places 0 to size - 1 in an order that the 64-bit ``key`` decides, each order as likely."""
    with np.errstate(over="ignore"):
        value = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(key)
        # the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.argsort(value ^ (value >> np.uint64(31)), kind="stable")
