"""Which groups of samples a step draws, and from which named groups of tasks: a fixed fraction of each batch.

Level 3 material in a training run: knows tasks by name and the sampler; reads no sample. All is a function of
(seed, step).
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from fractions import Fraction

from t2l.data.sampler import Pick, TaskBalancedSampler
from t2l.data.store import DataStore
from t2l.errors import RecipeError, did_you_mean

REST = "*"
"""In a mixture: the tasks that no other of its names fits."""
_FINEST = 10_000  # fractions are multiples of one in so many


class MixtureSampler:
    """The groups of samples of each step; those of a group share a task.

    Args:
        tasks: places in ``store.tasks`` to draw from.
        tasks_a_step: groups a step.
        samples: of one task that come together.
        mixture: name -> fraction of each step's groups. A name is the beginning of the names of the tasks meant, the
            longest that fits counting, or a pattern with ``*`` inside, which goes before beginnings; ``*`` alone is the
            rest. Empty: every task is as frequent as every other.

    Raises:
        RecipeError: a name fits no task, a task fits no name, or the fractions do not sum to 1 or cannot be kept to.
    """

    def __init__(
        self,
        store: DataStore,
        tasks: tuple[int, ...],
        tasks_a_step: int,
        samples: int,
        seed: int,
        *,
        descriptions: int | None = None,
        with_descriptions: bool = True,
        mixture: Mapping[str, float] | None = None,
    ) -> None:
        self.tasks_a_step = tasks_a_step
        members = grouped(store, tasks, mixture or {})
        fractions = {name: Fraction((mixture or {REST: 1.0})[name]).limit_denominator(_FINEST) for name in members}
        self._largest = max(fractions, key=lambda name: fractions[name])
        self._fractions = {name: fraction for name, fraction in fractions.items() if name != self._largest}
        if fractions[self._largest] * tasks_a_step < len(self._fractions):
            raise RecipeError(
                f"loop.tasks={tasks_a_step} tasks a step are too few for {len(members)} groups in data.mixture.",
                "Draw more tasks a step, or name fewer groups.",
            )
        self._streams = {
            name: TaskBalancedSampler(
                store,
                samples,
                seed,
                tasks=places,
                samples_per_task=samples,
                descriptions_per_task=descriptions,
                with_descriptions=with_descriptions,
                window=1,
            )
            for name, places in members.items()
        }

    def groups(self, step: int) -> list[list[Pick]]:
        """The picks of a step, those of a task together."""
        begin = {name: int(step * self.tasks_a_step * fraction) for name, fraction in self._fractions.items()}
        end = {name: int((step + 1) * self.tasks_a_step * fraction) for name, fraction in self._fractions.items()}
        begin[self._largest] = step * self.tasks_a_step - sum(begin.values())
        end[self._largest] = (step + 1) * self.tasks_a_step - sum(end.values())
        found = []
        for name, stream in self._streams.items():
            found += [stream.batch(position) for position in range(begin[name], end[name])]
        return found


def grouped(store: DataStore, tasks: tuple[int, ...], mixture: Mapping[str, float]) -> dict[str, tuple[int, ...]]:
    """Name -> the tasks that it means.

    Raises:
        RecipeError: as `MixtureSampler`.
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
