"""From a data store to the micro-batches of a step: which samples and descriptions it sees, as tensors.

Axis letters: C conditions, S samples, T tokens, D descriptions of a task, E embedding width.

Level 4. A step's samples are sorted by length and cut into numbered micro-batches; which process computes which does
not change what is in them, so any number of processes trains the same. Everything is a function of (seed, step). This
file does not know what is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from random import Random
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from t2l.data.sampler import Pick, TaskSampler
from t2l.data.store import DataStore
from t2l.errors import DataError, RecipeError
from t2l.recipes.reader import Recipe
from t2l.training.conditions import Conditions, Gathered, Wanted
from t2l.training.graphs import arrays_of, cut_into_shapes, shapes_of
from t2l.training.sft import IGNORED, Batch
from t2l.training.sft_step import MicroBatch, Shape

EXAMPLES_SHOWN = 2
"""Examples in a condition that shows some."""
Tokens = tuple[np.ndarray, int]
"""Token ids of a sample, and how many of them are its prompt."""


@dataclass(frozen=True)
class StepBatch:
    """What one step learns from, on the CPU.

    Args:
        micros: the step's samples, each once.
        gathered: what the step's C conditions are made of; see `Conditions`.
        samples: S, in all micro-batches.
        tokens: that the base reads, without padding.
        computed: with it.
    """

    micros: tuple[MicroBatch, ...]
    gathered: Gathered
    samples: int
    tokens: int
    computed: int

    def pinned(self) -> StepBatch:
        """In page-locked memory."""
        gathered = self.gathered.pin_memory() if isinstance(self.gathered, Tensor) else self.gathered
        return replace(self, micros=tuple(micro.pinned() for micro in self.micros), gathered=gathered)


class StoreBatches:
    """The steps of a run.

    Args:
        conditions: of each description that may be drawn.

    Raises:
        DataError: a task is unknown, or has no samples or descriptions.
        RecipeError: ``data.mixture`` does not fit the store's tasks.
    """

    def __init__(self, store: DataStore, recipe: Recipe, conditions: Conditions) -> None:
        self.store = store
        self.recipe = recipe
        self.conditions = conditions
        if recipe.condition.examples and not conditions.shows_examples:
            raise RecipeError(
                "condition.examples needs an encoder of token states that reads each step's texts.",
                "Use encoder.kind=token-states, or set condition.examples=0.",
            )
        self._lock = Lock()  # the sampler keeps what it made last, and steps are made in another thread
        self.shapes = shapes_of()
        self.shaped = recipe.loop.graphs
        self._sampler = TaskSampler(
            store,
            train_tasks(store, recipe),
            recipe.loop.tasks,
            recipe.loop.samples,
            recipe.loop.seed,
            descriptions=recipe.data.descriptions_per_task,
            with_descriptions=not conditions.shared,
            mixture=recipe.data.mixture,
        )

    def picks(self, step: int) -> list[Pick]:
        """(task, sample, description) of each sample of a step; the samples of a task are neighbours."""
        with self._lock:
            return [pick for group in self._sampler.groups(step) for pick in group]

    def step(self, number: int) -> StepBatch:
        """One step's samples and conditions."""
        loop, views = self.recipe.loop, self.recipe.loss.views
        picks = self.picks(number)
        samples = [self._sample(task, sample) for task, sample, _ in picks]
        wanted: list[Wanted] = []
        index: list[int] = []
        for start in range(0, len(picks), loop.samples):
            task, _, description = picks[start]
            first = len(wanted)
            if not self.conditions.shared:
                drawn = Random(f"conditions/{loop.seed}/{number}/{start}")
                shown = tuple(sample for _, sample, _ in picks[start : start + loop.samples])
                wanted += [self._wanted(drawn, task, description + view, shown) for view in range(views)]
            index += [first + place * views // loop.samples for place in range(loop.samples)]
        if self.conditions.shared:
            index = [0] * len(picks)
        lengths = [len(ids) for ids, _ in samples]
        micros = []
        for shape, rows in self._cut(lengths):
            rows = sorted(rows, key=lambda row: index[row])  # samples that share an adapter stand together
            chosen = [index[row] for row in rows]
            teacher = None
            if self.recipe.loss.distill:
                teacher = collate([self._with_shots(picks[row], samples[row]) for row in rows], chosen)
            batch = collate([samples[row] for row in rows], chosen)
            arrays = None if shape is None else arrays_of(batch, shape)
            micros.append(MicroBatch(batch, teacher, shape, arrays))
        generator = torch.Generator().manual_seed(_seed_of_noise(loop.seed, number))
        gathered = self.conditions.gather(wanted, generator)
        computed = sum(
            micro.batch.ids_ST.numel() if micro.arrays is None else micro.arrays[0].numel() for micro in micros
        )
        return StepBatch(tuple(micros), gathered, len(picks), sum(lengths), computed)

    def _cut(self, lengths: Sequence[int]) -> list[tuple[Shape | None, list[int]]]:
        """Places of samples in micro-batches, those of recorded graphs with their shapes."""
        loop = self.recipe.loop
        if self.shaped:
            found = cut_into_shapes(lengths, self.shapes)
            cut: list[tuple[Shape | None, list[int]]] = [(shape, rows) for shape, rows in found if shape is not None]
            rest = [row for shape, rows in found if shape is None for row in rows]
        else:
            cut, rest = [], list(range(len(lengths)))
        if rest:
            parts = cut_by_tokens([lengths[row] for row in rest], loop.micro_tokens, loop.micro_overhead, loop.parts)
            cut += [(None, [rest[place] for place in part]) for part in parts]
        return cut

    def _wanted(self, drawn: Random, task: int, description: int, shown: tuple[int, ...]) -> Wanted:
        """A condition of a task; its examples are none of the samples that the step learns from."""
        settings = self.recipe.condition
        if settings.first and drawn.random() < settings.first:
            description = 0
        examples: tuple[int, ...] = ()
        if settings.examples and drawn.random() < settings.examples:
            others = [sample for sample in range(self.store.tasks[task].samples) if sample not in shown]
            examples = tuple(drawn.sample(others, min(EXAMPLES_SHOWN, len(others))))
        return Wanted(task, description % self.conditions.count(task), examples)

    def _sample(self, task: int, sample: int) -> Tokens:
        found = self.store.sample(task, sample)
        return cut(found.input_ids, found.prompt_length, self.recipe.data.max_length)

    def _with_shots(self, pick: Pick, own: Tokens) -> Tokens:
        """A sample after others of its task, prompt and response each; only its own response is labelled."""
        task, sample, _ = pick
        count = self.store.tasks[task].samples
        others = [(sample + 1 + shot) % count for shot in range(min(self.recipe.loss.teacher_shots, count - 1))]
        parts = [self._sample(task, other)[0] for other in others]
        ids, prompt = own
        first = ids[0]
        # the token that begins every text stands once, at the beginning
        tails = [part[1:] if len(part) > 1 and part[0] == first else part for part in [*parts[1:], ids]]
        joined = np.concatenate([*parts[:1], *tails]) if parts else ids
        return joined, len(joined) - (len(ids) - prompt)


class Ahead:
    """The batch of a step, with that of the next being made in a thread beside it.

    Args:
        make: step -> its batch; must depend on nothing else.
        steps: none is made beyond the last.
    """

    def __init__(self, make: Callable[[int], StepBatch], steps: int) -> None:
        self._make, self._steps = make, steps
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="t2l-batches")
        self._next: tuple[int, Future[StepBatch]] | None = None

    def __call__(self, step: int) -> StepBatch:
        """The batch of any step; fast where the one before it was asked for last."""
        there = self._next
        batch = there[1].result() if there is not None and there[0] == step else self._make(step)
        self._next = (step + 1, self._thread.submit(self._make, step + 1)) if step + 1 < self._steps else None
        return batch

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(cancel_futures=True)


def cut_by_tokens(lengths: Sequence[int], budget: int, overhead: int, parts: int = 1) -> list[list[int]]:
    """Places of samples in micro-batches of similar length, those of the longest samples first.

    Of all ways to cut the samples, sorted by length, into runs of at most ``budget`` tokens (padding included; one
    sample always fits), the one with the least computed tokens, where each micro-batch costs ``overhead`` more. The
    largest are then halved until their number is a multiple of ``parts``.

    Example:
        >>> cut_by_tokens([3, 9, 3, 8], budget=100, overhead=4)
        [[1, 3], [0, 2]]
        >>> cut_by_tokens([3, 9, 3, 8], budget=100, overhead=40)
        [[1, 3, 0, 2]]
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    width = np.asarray(lengths, dtype=np.int64)[order]
    count = len(width)
    best = np.zeros(count + 1, dtype=np.int64)  # cost of the first so many
    before = np.zeros(count + 1, dtype=np.int64)  # where their last run begins
    for stop in range(1, count + 1):
        begins = np.arange(stop)
        padded = width[:stop] * (stop - begins)
        cost = best[:stop] + padded + overhead
        cost[(padded > budget) & (begins < stop - 1)] = np.iinfo(np.int64).max
        before[stop] = int(cost.argmin())
        best[stop] = cost[before[stop]]
    runs = []
    stop = count
    while stop:
        runs.append(order[before[stop] : stop].tolist())
        stop = int(before[stop])
    while len(runs) % parts and len(runs) < count:
        largest = max(
            (run for run in runs if len(run) > 1), key=lambda run: len(run) * max(lengths[row] for row in run)
        )
        runs.remove(largest)
        runs += [largest[: len(largest) // 2], largest[len(largest) // 2 :]]
    return sorted(runs, key=lambda run: (-lengths[run[0]], run))


def train_tasks(store: DataStore, recipe: Recipe) -> tuple[int, ...]:
    """Places of the tasks that a recipe trains on.

    Raises:
        DataError: an unknown task, or one that is held out for validation or test.
    """
    if not recipe.data.tasks:
        return store.split("train")
    places = tuple(store.task_index(name) for name in recipe.data.tasks)
    held = next((store.tasks[place] for place in places if store.tasks[place].split != "train"), None)
    if held is not None:
        raise DataError(f"'{held.name}' is a {held.split} task of this store; it is not trained on.")
    return places


def cut(input_ids: np.ndarray, prompt_length: int, longest: int) -> Tokens:
    """At most ``longest`` tokens: the prompt loses its beginning, and a response that is longer still its end.

    At least one token of the prompt stays, from which the response is begun.
    """
    over = len(input_ids) - longest
    if over <= 0:
        return input_ids, prompt_length
    dropped = min(over, max(0, prompt_length - 1))
    return input_ids[dropped:][:longest], prompt_length - dropped


def collate(samples: Sequence[Tokens], index: Sequence[int]) -> Batch:
    """Samples with their prompt lengths as one batch, padded on the right."""
    width = max(len(ids) for ids, _ in samples)
    ids_ST = np.zeros((len(samples), width), dtype=np.int64)
    labels_ST = np.full((len(samples), width), IGNORED, dtype=np.int64)
    for row, (ids, prompt) in enumerate(samples):
        ids_ST[row, : len(ids)] = ids
        labels_ST[row, prompt : len(ids)] = ids[prompt:]
    return Batch(torch.from_numpy(ids_ST), torch.from_numpy(labels_ST), torch.tensor(list(index)))


def _seed_of_noise(seed: int, step: int) -> int:
    return int.from_bytes(blake2b(f"noise/{seed}/{step}".encode(), digest_size=8).digest(), "little") >> 1
