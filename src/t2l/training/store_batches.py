"""From a data store to micro-batches: which samples and descriptions a step sees, as tensors.

Axis letters: C conditions, S samples, T tokens, D descriptions of a task, E embedding width.

Level 4. A step's batch is cut into numbered micro-batches; which process computes which does not change what is in
them, so any number of processes that divides theirs trains the same. Everything is a function of (seed, step,
micro-batch). This file does not know what is learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from t2l.data.sampler import Pick, TaskBalancedSampler
from t2l.data.store import DataStore
from t2l.encoders import DescriptionEncoder
from t2l.errors import DataError
from t2l.training.recipes import Recipe
from t2l.training.sft import IGNORED, Batch
from t2l.training.sft_step import MicroBatch

_ENCODED_AT_ONCE = 256


class StoreBatches:
    """The micro-batches of a run.

    Args:
        conditions: task index -> condition_DE, of each description that may be drawn.

    Raises:
        DataError: a task is unknown, or has no samples or descriptions.
    """

    def __init__(self, store: DataStore, recipe: Recipe, conditions: Mapping[int, Tensor]) -> None:
        self.store = store
        self.recipe = recipe
        self.conditions = conditions
        self.micro_batches = recipe.loop.batch // recipe.loop.micro_batch
        self._sampler = TaskBalancedSampler(
            store,
            recipe.loop.batch,
            recipe.loop.seed,
            tasks=train_tasks(store, recipe),
            samples_per_task=recipe.data.samples_per_task,
            descriptions_per_task=recipe.data.descriptions_per_task,
        )

    def picks(self, step: int, number: int) -> list[Pick]:
        """(task, sample, description) of each sample of one micro-batch; the samples of a group are neighbours."""
        size = self.recipe.data.samples_per_task
        picks = self._sampler.batch(step)
        groups = [picks[start : start + size] for start in range(0, len(picks), size)]
        return [pick for group in groups[number :: self.micro_batches] for pick in group]

    def micro_batch(self, step: int, number: int) -> MicroBatch:
        """One micro-batch, on the CPU."""
        loss, size = self.recipe.loss, self.recipe.data.samples_per_task
        picks = self.picks(step, number)
        samples = [self._sample(task, sample) for task, sample, _ in picks]
        rows, index = [], []
        for start in range(0, len(picks), size):
            task, _, description = picks[start]
            table_DE = self.conditions[task]
            rows += [table_DE[(description + view) % len(table_DE)] for view in range(loss.views)]
            first = start // size * loss.views
            index += [first + place * loss.views // size for place in range(size)]
        teacher = None
        if loss.distill:
            teacher = collate([self._with_shots(pick, own) for pick, own in zip(picks, samples, strict=True)], index)
        return MicroBatch(collate(samples, index), torch.stack(rows), teacher)

    def _sample(self, task: int, sample: int) -> tuple[np.ndarray, int]:
        found = self.store.sample(task, sample)
        return cut(found.input_ids, found.prompt_length, self.recipe.data.max_length)

    def _with_shots(self, pick: Pick, own: tuple[np.ndarray, int]) -> tuple[np.ndarray, int]:
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


def cut(input_ids: np.ndarray, prompt_length: int, longest: int) -> tuple[np.ndarray, int]:
    """At most ``longest`` tokens: the prompt loses its beginning, and a response that is longer still its end.

    At least one token of the prompt stays, from which the response is begun.
    """
    over = len(input_ids) - longest
    if over <= 0:
        return input_ids, prompt_length
    dropped = min(over, max(0, prompt_length - 1))
    return input_ids[dropped:][:longest], prompt_length - dropped


def collate(samples: Sequence[tuple[np.ndarray, int]], index: Sequence[int]) -> Batch:
    """Samples with their prompt lengths as one batch, padded on the right."""
    width = max(len(ids) for ids, _ in samples)
    ids_ST = torch.zeros(len(samples), width, dtype=torch.int64)
    labels_ST = torch.full((len(samples), width), IGNORED)
    for row, (ids, prompt) in enumerate(samples):
        tokens_T = torch.from_numpy(ids.astype(np.int64))
        ids_ST[row, : len(ids)] = tokens_T
        labels_ST[row, prompt : len(ids)] = tokens_T[prompt:]
    return Batch(ids_ST, labels_ST, torch.tensor(list(index)))


def encode_descriptions(
    store: DataStore, encoder: DescriptionEncoder, tasks: Sequence[int], limit: int | None
) -> dict[int, Tensor]:
    """Task index -> condition_DE of its first ``limit`` descriptions; each distinct text is encoded once.

    Raises:
        DataError: a task has no description.
    """
    texts = {task: store.tasks[task].descriptions[:limit] for task in tasks}
    bare = [store.tasks[task].name for task, own in texts.items() if not own]
    if bare:
        raise DataError(
            f"{len(bare)} of {len(texts)} tasks have no description, '{bare[0]}' among them.",
            "Write some: t2l data describe",
        )
    distinct = list(dict.fromkeys(text for own in texts.values() for text in own))
    parts = [
        encoder.encode(distinct[start : start + _ENCODED_AT_ONCE]).cpu()
        for start in range(0, len(distinct), _ENCODED_AT_ONCE)
    ]
    row = {text: place for place, text in enumerate(distinct)}
    table = torch.cat(parts).float()
    return {task: table[[row[text] for text in own]] for task, own in texts.items()}
