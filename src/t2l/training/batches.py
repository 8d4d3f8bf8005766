"""From a data store to the micro-batches of a step: which samples and descriptions it sees, as tensors.

Axis letters: C conditions, S samples, T tokens, K labelled positions, D descriptions of a task, E embedding width.

Level 4. A step's samples are sorted by length and cut into numbered micro-batches, or put into batches of a few fixed
shapes where the base is recorded as graphs (`t2l.training.frozen_base`). Which process computes which does not change
what is in them, so any number of processes trains the same. Everything is a function of (seed, step). This file does
not know what is learned.
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

from t2l.data.prompts import Frame, SampleTokenizer, prompt_text
from t2l.data.sampler import Pick, TaskSampler
from t2l.data.store import DataStore
from t2l.errors import DataError, RecipeError
from t2l.recipes.sections import BaseSection, ConditionSection, DataSection, LoopSection, LossSection
from t2l.training.conditions import Conditions, Gathered, SampleTexts, Wanted

IGNORED = -100
"""Label of positions that are not predicted."""
EXAMPLES_SHOWN = 2
"""Examples in a condition that shows some."""
WIDTHS = (24, 40, 64, 104, 168, 272, 432)
"""Tokens of the samples of each recorded shape; longer samples are computed without a graph."""
TOKENS = 4096
"""Tokens of a recorded shape, padding included."""
Tokens = tuple[np.ndarray, int]
"""Token ids of a sample, and how many of them are its prompt."""


@dataclass(frozen=True)
class Shape:
    """The size of a micro-batch that is recorded as a graph: S samples of T tokens, half of them labelled at most."""

    samples: int
    width: int

    @property
    def labelled(self) -> int:
        """K, the most labelled positions."""
        return max(1, self.samples * self.width // 2)


@dataclass(frozen=True)
class Batch:
    """Samples that go through the base together.

    Args:
        ids_ST: right-padded token ids (under causal attention, padding after the end changes nothing before it).
        labels_ST: ids to predict, -100 elsewhere.
        index_S: which of the N conditions each sample belongs to.
        weight_S: of each sample's cross-entropy; 1 by default.
        divergence_S: of each sample's divergence from the teacher, where there is one.
        numbers: of the samples in their step, where there is a teacher.
        shape: of the recorded graph that computes it, where one does.
        arrays: what that graph reads; see `arrays_of`.
    """

    ids_ST: Tensor
    labels_ST: Tensor
    index_S: Tensor
    weight_S: Tensor | None = None
    divergence_S: Tensor | None = None
    numbers: tuple[int, ...] = ()
    shape: Shape | None = None
    arrays: tuple[Tensor, ...] | None = None

    @property
    def lengths_S(self) -> Tensor:
        """Tokens of each sample up to its last label: all of it but the padding."""
        places_T = torch.arange(1, self.labels_ST.shape[1] + 1, device=self.labels_ST.device)
        return ((self.labels_ST != IGNORED) * places_T).amax(dim=1).clamp_min(1)

    def to(self, device: torch.device) -> Batch:
        """Ids on another device; labels and index stay on the CPU, where they are read without waiting for it."""
        if self.arrays is not None:  # copied into the graph's own memory when it runs
            return self
        return replace(self, ids_ST=self.ids_ST.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """Ids in page-locked memory, from which a transfer to a CUDA device does not wait."""
        if self.arrays is not None:
            return replace(self, arrays=tuple(array.pin_memory() for array in self.arrays))
        return replace(self, ids_ST=self.ids_ST.pin_memory())


@dataclass(frozen=True)
class StepBatch:
    """What one step learns from, on the CPU.

    Args:
        micros: the step's samples, each once.
        teachers: the same samples as the teacher reads them, where there is one: other prompts, the same responses.
        gathered: what the step's C conditions are made of; see `Conditions`.
        samples: S, in all micro-batches.
        tokens: that the base reads, without padding; the teacher's not counted.
        computed: with it.
    """

    micros: tuple[Batch, ...]
    teachers: tuple[Batch, ...]
    gathered: Gathered
    samples: int
    tokens: int
    computed: int

    def pinned(self) -> StepBatch:
        """In page-locked memory."""
        gathered = self.gathered.pin_memory() if isinstance(self.gathered, Tensor) else self.gathered
        micros, teachers = ([batch.pinned() for batch in batches] for batches in (self.micros, self.teachers))
        return replace(self, micros=tuple(micros), teachers=tuple(teachers), gathered=gathered)


class StoreBatches:
    """The steps of a run.

    Args:
        conditions: of each description that may be drawn.
        base: whose tokenizer gives back the samples' texts, for a teacher that reads descriptions.

    Raises:
        DataError: a task is unknown, or has no samples or descriptions.
        RecipeError: ``data.mixture`` does not fit the store's tasks, or a teacher that reads descriptions has none.
    """

    def __init__(
        self,
        store: DataStore,
        conditions: Conditions,
        data: DataSection,
        loop: LoopSection,
        loss: LossSection,
        condition: ConditionSection,
        base: BaseSection,
    ) -> None:
        self.store, self.conditions = store, conditions
        self.data, self.loop, self.loss, self.condition = data, loop, loss, condition
        if condition.examples and not conditions.shows_examples:
            raise RecipeError(
                "condition.examples needs an encoder of token states that reads each step's texts.",
                "Use encoder.kind=token-states, or set condition.examples=0.",
            )
        if loss.teacher is not None and conditions.shared:
            raise RecipeError("loss.teacher reads descriptions, and what is trained here has none.", "Leave it out.")
        self._lock = Lock()  # the sampler keeps what it made last, and steps are made in another thread
        self.shapes = shapes_of()
        self.shaped = loop.graphs
        self._sampler = TaskSampler(
            store,
            train_tasks(store, data),
            loop.tasks,
            loop.samples,
            loop.seed,
            descriptions=data.descriptions_per_task,
            with_descriptions=not conditions.shared,
            mixture=data.mixture,
        )
        self._described: DescribedPrompts | None = None
        if loss.teacher is not None:
            self._described = DescribedPrompts(store, SampleTexts(store, base), 2 * data.max_length)

    def picks(self, step: int) -> list[Pick]:
        """(task, sample, description) of each sample of a step; the samples of a task are neighbours."""
        with self._lock:
            return [pick for group in self._sampler.groups(step) for pick in group]

    def step(self, number: int) -> StepBatch:
        """One step's samples and conditions."""
        loop, loss = self.loop, self.loss
        picks = self.picks(number)
        samples = [self.sample(task, sample) for task, sample, _ in picks]
        wanted, index, crossed = self._conditions_of(number, picks)
        lengths = [len(ids) for ids, _ in samples]
        micros, taught = [], bool(loss.distill or loss.crossed)
        for shape, rows in self._cut(lengths):
            rows = sorted(rows, key=lambda row: index[row])  # samples that share an adapter stand together
            batch = collate([samples[row] for row in rows], [index[row] for row in rows])
            if taught:
                alone_S = torch.tensor([float(row in crossed) for row in rows])
                weight_S = (1 - loss.distill) * (1 - alone_S)
                divergence_S = torch.where(alone_S > 0, 1.0, loss.distill)
                batch = replace(batch, weight_S=weight_S, divergence_S=divergence_S, numbers=tuple(rows))
            arrays = None if shape is None else arrays_of(batch, shape)
            micros.append(replace(batch, shape=shape, arrays=arrays))
        teachers = self._teachers(picks, samples, [wanted[row] for row in index] if wanted else []) if taught else ()
        generator = torch.Generator().manual_seed(key_of("noise", loop.seed, number) >> 1)
        gathered = self.conditions.gather(wanted, generator)
        computed = sum(micro.ids_ST.numel() if micro.arrays is None else micro.arrays[0].numel() for micro in micros)
        return StepBatch(tuple(micros), teachers, gathered, len(picks), sum(lengths), computed)

    def _conditions_of(self, number: int, picks: list[Pick]) -> tuple[list[Wanted], list[int], set[int]]:
        """The step's conditions, the condition of each sample, and the samples described as another task."""
        loop, views = self.loop, self.loss.views
        if self.conditions.shared:
            return [], [0] * len(picks), set()
        groups = [picks[start : start + loop.samples] for start in range(0, len(picks), loop.samples)]
        described = _crossed(groups, self.loss.crossed, f"crossed/{loop.seed}/{number}")
        wanted: list[Wanted] = []
        index: list[int] = []
        crossed: set[int] = set()
        for place, by in enumerate(described):
            start, first = place * loop.samples, len(wanted)
            task, _, description = groups[by][0]
            drawn = Random(f"conditions/{loop.seed}/{number}/{start}")
            shown = tuple(sample for _, sample, _ in groups[by])
            wanted += [self._wanted(drawn, task, description + view, shown) for view in range(views)]
            index += [first + sample * views // loop.samples for sample in range(loop.samples)]
            if by != place:
                crossed.update(range(start, start + loop.samples))
        return wanted, index, crossed

    def _cut(self, lengths: Sequence[int]) -> list[tuple[Shape | None, list[int]]]:
        """Places of samples in micro-batches, those of recorded graphs with their shapes."""
        if self.shaped:
            found = cut_into_shapes(lengths, self.shapes)
            cut: list[tuple[Shape | None, list[int]]] = [(shape, rows) for shape, rows in found if shape is not None]
            rest = [row for shape, rows in found if shape is None for row in rows]
        else:
            cut, rest = [], list(range(len(lengths)))
        if rest:
            loop, left = self.loop, [lengths[row] for row in rest]
            parts = cut_by_tokens(left, loop.micro_tokens, loop.micro_overhead, loop.parts)
            cut += [(None, [rest[place] for place in part]) for part in parts]
        return cut

    def _wanted(self, drawn: Random, task: int, description: int, shown: tuple[int, ...]) -> Wanted:
        """A condition of a task; its examples are none of the samples that the step learns from."""
        settings = self.condition
        if settings.first and drawn.random() < settings.first:
            description = 0
        examples: tuple[int, ...] = ()
        if settings.examples and drawn.random() < settings.examples:
            others = [sample for sample in range(self.store.tasks[task].samples) if sample not in shown]
            examples = tuple(drawn.sample(others, min(EXAMPLES_SHOWN, len(others))))
        return Wanted(task, description % self.conditions.count(task), examples)

    def sample(self, task: int, sample: int) -> Tokens:
        """A sample of the store, cut to the longest that is trained on."""
        found = self.store.sample(task, sample)
        return cut(found.input_ids, found.prompt_length, self.data.max_length)

    def _teachers(self, picks: list[Pick], samples: list[Tokens], wanted: list[Wanted]) -> tuple[Batch, ...]:
        """The step's samples after the teacher's prompts: the description, or examples of the task."""
        if self._described is None:
            read = [self._with_shots(pick, own) for pick, own in zip(picks, samples, strict=True)]
        else:
            read = self._described(
                [
                    (task, sample, self.store.tasks[of.task].descriptions[of.description])
                    for (task, sample, _), of in zip(picks, wanted, strict=True)
                ],
                samples,
            )
        parts = cut_by_tokens([len(ids) for ids, _ in read], self.loop.micro_tokens, self.loop.micro_overhead)
        return tuple(
            replace(collate([read[row] for row in rows], [0] * len(rows)), numbers=tuple(rows)) for rows in parts
        )

    def _with_shots(self, pick: Pick, own: Tokens) -> Tokens:
        """A sample after others of its task, prompt and response each; only its own response is labelled."""
        task, sample, _ = pick
        count = self.store.tasks[task].samples
        others = [(sample + 1 + shot) % count for shot in range(min(self.loss.teacher_shots, count - 1))]
        parts = [self.sample(task, other)[0] for other in others]
        ids, prompt = own
        first = ids[0]
        # the token that begins every text stands once, at the beginning
        tails = [part[1:] if len(part) > 1 and part[0] == first else part for part in [*parts[1:], ids]]
        joined = np.concatenate([*parts[:1], *tails]) if parts else ids
        return joined, len(joined) - (len(ids) - prompt)


class DescribedPrompts:
    """Samples of a store with a description before their input, as ``t2l data prepare --template included`` has it.

    Args:
        texts: gives the input of (task, sample) as text.
        longest: tokens of a prompt; a longer one loses the end of its input.
    """

    def __init__(self, store: DataStore, texts: SampleTexts, longest: int) -> None:
        self._texts = texts
        frame = Frame(**store.manifest["frame"])
        self._tokenizer = SampleTokenizer(texts.tokenizer, frame, max_prompt=longest)

    def __call__(self, wanted: Sequence[tuple[int, int, str]], samples: Sequence[Tokens]) -> list[Tokens]:
        """The samples after prompts with these descriptions.

        Args:
            wanted: task, sample and description of each.
            samples: the same, whose responses are taken token by token.
        """
        asked = [prompt_text(self._texts.input(task, sample), text, included=True) for task, sample, text in wanted]
        found = []
        for prompt, (ids, length) in zip(self._tokenizer.prompts(asked), samples, strict=True):
            found.append((np.concatenate([np.asarray(prompt, dtype=ids.dtype), ids[length:]]), len(prompt)))
        return found


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


def shapes_of(widths: Sequence[int] = WIDTHS, tokens: int = TOKENS) -> tuple[Shape, ...]:
    """Shapes of about ``tokens`` tokens each, the narrowest first."""
    return tuple(Shape(max(1, tokens // width), width) for width in sorted(widths))


def cut_into_shapes(lengths: Sequence[int], shapes: Sequence[Shape]) -> list[tuple[Shape | None, list[int]]]:
    """Places of samples in batches of the given shapes, the longest samples first.

    The longest sample that is left chooses the narrowest shape that holds it, and the next ones fill its slots: what
    is recorded is computed whether or not a slot is used. Samples longer than every shape come first, in a batch of
    their own each, without a shape.

    Example:
        >>> cut_into_shapes([3, 9, 3, 30], [Shape(2, 4), Shape(2, 10)])
        [(None, [3]), (Shape(samples=2, width=10), [1, 0]), (Shape(samples=2, width=4), [2])]
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    cut: list[tuple[Shape | None, list[int]]] = []
    start = 0
    while start < len(order):
        fitting = [shape for shape in shapes if shape.width >= lengths[order[start]]]
        size = fitting[0].samples if fitting else 1
        cut.append((fitting[0] if fitting else None, order[start : start + size]))
        start += size
    return cut


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


def train_tasks(store: DataStore, data: DataSection) -> tuple[int, ...]:
    """Places of the tasks that a recipe trains on.

    Raises:
        DataError: an unknown task, or one that is held out for validation or test.
    """
    if not data.tasks:
        return store.split("train")
    places = tuple(store.task_index(name) for name in data.tasks)
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


def arrays_of(batch: Batch, shape: Shape) -> tuple[Tensor, ...] | None:
    """What a recorded graph reads of a batch, in its sizes: ids, index, places, targets, weights of the mean loss.

    Where there is a teacher, the weights of the divergence follow. None where there are too many labels.
    """
    count, width = batch.ids_ST.shape
    ids_ST = torch.zeros(shape.samples, shape.width, dtype=torch.int64)
    ids_ST[:count, :width] = batch.ids_ST
    index_S = torch.zeros(shape.samples, dtype=torch.int64)
    index_S[:count] = batch.index_S
    sample_K, before_K = (batch.labels_ST[:, 1:] != IGNORED).nonzero(as_tuple=True)
    labelled = len(sample_K)
    if labelled > shape.labelled:
        return None
    place_K = torch.zeros(shape.labelled, dtype=torch.int64)
    place_K[:labelled] = sample_K * shape.width + before_K
    target_K = torch.zeros(shape.labelled, dtype=torch.int64)
    target_K[:labelled] = batch.labels_ST[sample_K, before_K + 1]
    length_S = torch.bincount(sample_K, minlength=count).clamp_min(1)
    weights = []
    for weight_S in (batch.weight_S, batch.divergence_S):
        weight_K = torch.zeros(shape.labelled)
        weight_K[:labelled] = 1 / (count * length_S[sample_K])
        if weight_S is not None:
            weight_K[:labelled] *= weight_S[sample_K]
        weights.append(weight_K)
    return ids_ST, index_S, place_K, target_K, *(weights if batch.divergence_S is not None else weights[:1])


def _crossed(groups: Sequence[Sequence[Pick]], fraction: float, key: str) -> list[int]:
    """For each group of a step the group whose description it gets: its own, or, for a fraction, another task's."""
    described = list(range(len(groups)))
    drawn = Random(key)
    for place in drawn.sample(described, round(fraction * len(groups))) if fraction else ():
        others = [other for other, group in enumerate(groups) if group[0][0] != groups[place][0][0]]
        if others:
            described[place] = drawn.choice(others)
    return described


def key_of(*parts: str | int) -> int:
    """A number of 64 bits for a choice, the same on every machine."""
    return int.from_bytes(blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest(), "little")
