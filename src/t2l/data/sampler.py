"""Which samples of which tasks come at which step: a fixed order that can be entered at any step.

Level 3. A step has groups of samples; those of a group are of one task and share a description, as one adapter serves
them. Named groups of tasks get a fixed fraction of each step (a mixture); within one, every task is as frequent as
every other, whatever its size, and within a task every sample comes once before any comes twice. The order is a
function of (seed, step) alone, so nothing has to be saved or replayed to resume, and any number of processes may share
a step. This file knows names and counts; it never reads a sample.

How. The positions 0, 1, 2, ... of a stream run through its tasks in rounds; each round is another permutation of all
tasks, and the k-th visit to a task takes its k-th samples in permutations of its own. A permutation is the order of the
keyed hashes of its places, in integers that no library's version changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from fractions import Fraction
from hashlib import blake2b
from typing import Protocol

import numpy as np

from t2l.data.store import TaskEntry
from t2l.errors import DataError, RecipeError, did_you_mean

Pick = tuple[int, int, int]
"""(task index, sample index, description index); the last is -1 where descriptions are not asked for."""
REST = "*"
"""In a mixture: the tasks that no other of its names fits."""

_FINEST = 10_000  # fractions are multiples of one in so many
_GOLDEN = 0x9E3779B97F4A7C15


class HasTasks(Protocol):
    """What the sampler needs of a store."""

    tasks: tuple[TaskEntry, ...]


class TaskSampler:
    """The groups of samples of each step.

    Args:
        store: its tasks' names, sizes and descriptions.
        tasks: places in ``store.tasks`` to draw from.
        tasks_a_step: groups a step.
        samples: of one task that come together.
        seed: another seed is another order.
        descriptions: draw from the first so many of each task (128 of 200 in the paper); all by default.
        with_descriptions: whether a description is drawn as well.
        mixture: name -> fraction of each step's groups. A name is the beginning of the names of the tasks meant, the
            longest that fits counting, or a pattern with ``*`` inside, which goes before beginnings; ``*`` alone is the
            rest. Empty: every task is as frequent as every other.

    Raises:
        DataError: no task to draw from, or a task without descriptions.
        RecipeError: a name fits no task, a task fits no name, or the fractions do not sum to 1 or cannot be kept to.

    Example:
        >>> sampler = TaskSampler(store, store.split("train"), 8, 1, seed=0)  # doctest: +SKIP
        >>> sampler.groups(10_000)[0]  # doctest: +SKIP
        [(17, 204, 3)]
    """

    def __init__(
        self,
        store: HasTasks,
        tasks: Sequence[int],
        tasks_a_step: int,
        samples: int,
        seed: int,
        *,
        descriptions: int | None = None,
        with_descriptions: bool = True,
        mixture: Mapping[str, float] | None = None,
    ) -> None:
        chosen = tuple(index for index in tasks if store.tasks[index].samples > 0)
        if not chosen:
            raise DataError("There is no task with samples to draw from.", "See the splits: t2l data show STORE")
        if min(tasks_a_step, samples, descriptions or 1) < 1:
            raise DataError(
                f"tasks_a_step={tasks_a_step}, samples={samples} and descriptions={descriptions} must be at least 1."
            )
        bare = [store.tasks[index].name for index in chosen if not store.tasks[index].descriptions]
        if with_descriptions and bare:
            raise DataError(
                f"{len(bare)} of {len(chosen)} tasks have no description, '{bare[0]}' among them.",
                "Write some (t2l data describe) or omit them (t2l data prepare --without-descriptions drop).",
            )
        self.tasks_a_step = tasks_a_step
        members = grouped(store, chosen, mixture or {})
        fractions = {name: Fraction((mixture or {REST: 1.0})[name]).limit_denominator(_FINEST) for name in members}
        self._largest = max(fractions, key=lambda name: fractions[name])
        self._fractions = {name: fraction for name, fraction in fractions.items() if name != self._largest}
        if fractions[self._largest] * tasks_a_step < len(self._fractions):
            raise RecipeError(
                f"loop.tasks={tasks_a_step} tasks a step are too few for {len(members)} groups in data.mixture.",
                "Draw more tasks a step, or name fewer groups.",
            )
        limit = descriptions if with_descriptions else 0
        self._streams = {name: _Stream(store, places, samples, seed, limit) for name, places in members.items()}

    def groups(self, step: int) -> list[list[Pick]]:
        """The picks of a step, those of a task together. Work does not grow with ``step``."""
        begin = {name: int(step * self.tasks_a_step * fraction) for name, fraction in self._fractions.items()}
        end = {name: int((step + 1) * self.tasks_a_step * fraction) for name, fraction in self._fractions.items()}
        begin[self._largest] = step * self.tasks_a_step - sum(begin.values())
        end[self._largest] = (step + 1) * self.tasks_a_step - sum(end.values())
        found = []
        for name, stream in self._streams.items():
            found += [stream.group(position) for position in range(begin[name], end[name])]
        return found


class _Stream:
    """The endless order of some tasks; ``limit``: descriptions of each that are drawn from, None for all."""

    def __init__(self, store: HasTasks, tasks: tuple[int, ...], samples: int, seed: int, limit: int | None) -> None:
        self._tasks, self._samples, self._seed = tasks, samples, seed
        self._sizes = [store.tasks[index].samples for index in tasks]
        self._descriptions = [len(store.tasks[index].descriptions[:limit]) for index in tasks]
        self._permutations: dict[tuple[str, int], tuple[int, list[int]]] = {}  # the last turn of each

    def group(self, position: int) -> list[Pick]:
        """The samples at a position."""
        visit, place = divmod(position, len(self._tasks))
        slot = self._permuted("round", 0, len(self._tasks), visit, place)
        size, picks = self._sizes[slot], []
        for number in range(visit * self._samples, (visit + 1) * self._samples):
            turn, within = divmod(number, size)
            picks.append((self._tasks[slot], self._permuted("samples", slot, size, turn, within)))
        count, description = self._descriptions[slot], -1
        if count:
            turn, within = divmod(visit, count)
            description = self._permuted("descriptions", slot, count, turn, within)
        return [(task, sample, description) for task, sample in picks]

    def _permuted(self, kind: str, slot: int, size: int, turn: int, place: int) -> int:
        """Where a permutation puts a place; each turn has another one."""
        known = self._permutations.get((kind, slot))
        if known is None or known[0] != turn:
            key = blake2b(f"{self._seed}/{kind}/{slot}/{turn}".encode(), digest_size=8).digest()
            known = (turn, permutation(size, int.from_bytes(key, "little")).tolist())
            self._permutations[kind, slot] = known
        return known[1][place]


def grouped(store: HasTasks, tasks: tuple[int, ...], mixture: Mapping[str, float]) -> dict[str, tuple[int, ...]]:
    """Name -> the tasks that it means.

    Raises:
        RecipeError: as `TaskSampler`.
    """
    if not mixture:
        return {REST: tasks}
    if abs(sum(mixture.values()) - 1) > 1e-3 or min(mixture.values()) <= 0:
        raise RecipeError(
            f"The fractions of data.mixture are {', '.join(f'{value:g}' for value in mixture.values())}; "
            "they must be above 0 and sum to 1."
        )
    named = sorted((name for name in mixture if name != REST), key=len, reverse=True)
    patterns, names = [n for n in named if "*" in n], [n for n in named if "*" not in n]
    found: dict[str, list[int]] = {name: [] for name in mixture}
    for task in tasks:
        own = store.tasks[task].name
        fitting = [name for name in patterns if fnmatchcase(own, name)] or [n for n in names if own.startswith(n)]
        name = fitting[0] if fitting else REST
        if name not in found:
            raise RecipeError(f"No name in data.mixture fits the task '{own}'.", f"Add the rest: {REST}: 0.5")
        found[name].append(task)
    empty = next((name for name, places in found.items() if not places), None)
    if empty is not None:
        known = sorted({store.tasks[task].name for task in tasks})
        hint = "Leave it out." if empty == REST else did_you_mean(empty, known)
        raise RecipeError(f"'{empty}' in data.mixture fits no training task of the store.", hint)
    return {name: tuple(places) for name, places in found.items()}


def permutation(size: int, key: int) -> np.ndarray:
    """int64 (size,): the places 0 to size - 1 in an order that the 64-bit ``key`` decides, each order as likely."""
    with np.errstate(over="ignore"):
        value = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(key)
        # the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.argsort(value ^ (value >> np.uint64(31)), kind="stable")
