"""What Text-to-LoRA has to beat on the embedded world: comparators scored on the exam that it takes itself.

Comparators know training tasks alone; only an oracle has learned the very task that it is scored on, from the
training part of its inputs: the ceiling. Scores are exact match on the same inputs as `t2l.world.evaluate` uses for
the same effort and seed. How each is trained is in `t2l.world.comparator_training`.

Axis letters: N texts, E embedding width, T tokens, W width of one token's state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2l.baselines.arrow import arrow_model
from t2l.baselines.hyperdecoder import input_states
from t2l.baselines.nearest import NearestTask
from t2l.baselines.static import average_of
from t2l.encoders import DescriptionEncoder
from t2l.encoders.encoder import one_vector
from t2l.errors import T2LError, did_you_mean
from t2l.library import Library
from t2l.lora import LoraWeights
from t2l.world.comparator_training import (
    HyperdecoderConfig,
    LibraryConfig,
    MultiTaskConfig,
    input_batch,
    train_hyperdecoder,
    train_library,
    train_multi_task,
    world_spec,
)
from t2l.world.evaluate import FULL, Effort, Score, described_by, measured_of
from t2l.world.exact_match import Example, Query, exact_match
from t2l.world.tasks import SPLITS, MicroTask, Split, tasks_of
from t2l.world.wording import descriptions

COMPARATORS = {
    "description-in-prompt": "base, the description in the prompt",
    "average": "average of the training tasks' adapters",
    "multi-task": "one LoRA trained on all training tasks",
    "nearest": "adapter of the training task with the nearest description",
    "arrow": "Arrow routing over the training tasks' adapters",
    "hyperdecoder": "hyperdecoder: an adapter from the input alone",
    "oracle": "LoRA trained on the task itself",
}
"""Condition -> how a table names it."""
BUILT_BY = {
    "average": "library",
    "multi-task": "comparators",
    "nearest": "library",
    "arrow": "library",
    "hyperdecoder": "comparators",
    "oracle": "comparators",
}
"""Condition -> the stage of `t2l.world.build` that trains what it needs; one that is not named needs nothing."""
_DESCRIBED = ("description-in-prompt", "nearest")
_TEXTS_AT_A_TIME = 256
_INPUTS_AT_A_TIME = 256


@dataclass(frozen=True)
class ComparatorConfig:
    """Settings of all comparators.

    Args:
        library: of the training tasks' adapters: short, for there are many.
        oracle: of the adapters of held-out tasks, the ceiling: as long as they improve.
        multi_task: of the multi-task LoRA.
        hyperdecoder: of the hyperdecoder.
        descriptions: training descriptions of each training task among which "nearest" searches.
        top_k: adapters that Arrow mixes for a token.
        temperature: of Arrow's softmax.
    """

    library: LibraryConfig = field(default_factory=lambda: LibraryConfig(steps=75))
    oracle: LibraryConfig = field(default_factory=LibraryConfig)
    multi_task: MultiTaskConfig = field(default_factory=MultiTaskConfig)
    hyperdecoder: HyperdecoderConfig = field(default_factory=HyperdecoderConfig)
    descriptions: int = 8
    top_k: int = 3
    temperature: float = 1.0


def score_comparators(
    base: Any,
    folder: str | Path,
    encoder: DescriptionEncoder,
    *,
    effort: Effort = FULL,
    splits: Sequence[Split] = SPLITS,
    conditions: Sequence[str] = tuple(COMPARATORS),
    seed: int = 0,
    config: ComparatorConfig | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[Score]:
    """Scores of comparators on every task of the splits; what they need and ``folder`` lacks is trained first.

    ``folder`` gets ``library``, ``oracle``, ``multi-task`` and ``hyperdecoder``. Conditions that read a description
    ("nearest", "description-in-prompt") get those that `t2l.world.evaluate` calls matched.

    Args:
        base: the tiny Llama.
        encoder: embeds descriptions for "nearest".
        report: called with a line about what is being measured.

    Raises:
        T2LError: an unknown condition, or a comparator in ``folder`` made with other settings or of another base.
    """
    unknown = next((condition for condition in conditions if condition not in COMPARATORS), None)
    if unknown is not None:
        raise T2LError(f"No comparator is called '{unknown}'.", did_you_mean(unknown, COMPARATORS))
    exam = _Exam(base, Path(folder), encoder, effort, seed, config or ComparatorConfig(), splits)
    scores: list[Score] = []
    for condition in conditions:
        for split, tasks in exam.tasks.items():
            report(f"{condition}: {split}, {len(tasks)} tasks")
            right = exam.answers(condition, tasks)
            each = effort.examples * (effort.wordings if condition in _DESCRIBED else 1)
            scores += [
                Score(task.name, task.split, condition, sum(right[row * each : (row + 1) * each]), each)
                for row, task in enumerate(tasks)
            ]
        exam.forget()
    return scores


class _Exam:
    """The tasks, inputs and descriptions that every comparator gets, and what one comparator has loaded."""

    def __init__(
        self,
        base: Any,
        folder: Path,
        encoder: DescriptionEncoder,
        effort: Effort,
        seed: int,
        config: ComparatorConfig,
        splits: Sequence[Split],
    ) -> None:
        self.base, self.folder, self.encoder = base, folder, encoder
        self.effort, self.seed, self.config = effort, seed, config
        self.spec = world_spec(base)
        self.tasks = {split: tasks_of(split) for split in splits}
        if "train" in self.tasks:
            self.tasks["train"] = measured_of(self.tasks["train"], effort)
        self._loaded: Any = None

    def answers(self, condition: str, tasks: Sequence[MicroTask]) -> list[bool]:
        """Whether each answer is right: task by task, within it (description by description and) input by input."""
        how = {
            "description-in-prompt": self._description_in_prompt,
            "average": self._average,
            "multi-task": self._multi_task,
            "nearest": self._nearest,
            "arrow": self._arrow,
            "hyperdecoder": self._hyperdecoder,
            "oracle": self._oracle,
        }
        return how[condition](tasks)

    def forget(self) -> None:
        """Lets go of what the last comparator needed."""
        self._loaded = None

    def _once(self, load: Callable[[], Any]) -> Any:
        if self._loaded is None:
            self._loaded = load()
        return self._loaded

    def _examples(self, task: MicroTask) -> list[Example]:
        return task.examples(self.effort.examples, seed=self.seed)

    def _texts(self, task: MicroTask) -> list[str]:
        return described_by(task, "matched", [task], self.effort.wordings, self.seed)

    def _library(self) -> Library:
        return train_library(self.base, self.folder / "library", tasks_of("train"), self.config.library)

    def _names(self) -> list[str]:
        return [task.name for task in tasks_of("train")]

    def _with_adapters(self, queries: Sequence[Query], weights: LoraWeights) -> list[bool]:
        return exact_match(self.base, queries, self.spec, weights)

    def _one_for_all(self, tasks: Sequence[MicroTask], weights: LoraWeights) -> list[bool]:
        queries = [Query(example, adapter=0) for task in tasks for example in self._examples(task)]
        return self._with_adapters(queries, weights)

    def _description_in_prompt(self, tasks: Sequence[MicroTask]) -> list[bool]:
        queries = [
            Query((f"{text}: {question}", answer))
            for task in tasks
            for text in self._texts(task)
            for question, answer in self._examples(task)
        ]
        return exact_match(self.base, queries)

    def _average(self, tasks: Sequence[MicroTask]) -> list[bool]:
        source = self._once(lambda: average_of(self._library(), self._names()))
        return self._one_for_all(tasks, source.weights())

    def _multi_task(self, tasks: Sequence[MicroTask]) -> list[bool]:
        folder = self.folder / "multi-task"
        source = self._once(lambda: train_multi_task(self.base, folder, self.config.multi_task))
        return self._one_for_all(tasks, source.weights())

    def _nearest(self, tasks: Sequence[MicroTask]) -> list[bool]:
        def load() -> NearestTask:
            known, count = tasks_of("train"), self.config.descriptions
            texts = [text for task in known for text in descriptions(task, count, part="train")]
            names = [task.name for task in known for _ in range(count)]
            return NearestTask(self._library(), names, _pooled(self.encoder, texts))

        source = self._once(load)
        found = source.nearest(_pooled(self.encoder, [text for task in tasks for text in self._texts(task)]))
        place = {name: row for row, name in enumerate(dict.fromkeys(found))}
        queries = [
            Query(example, adapter=place[found[row * self.effort.wordings + wording]])
            for row, task in enumerate(tasks)
            for wording in range(self.effort.wordings)
            for example in self._examples(task)
        ]
        return self._with_adapters(queries, source.library.weights(list(place)))

    def _arrow(self, tasks: Sequence[MicroTask]) -> list[bool]:
        config, names = self.config, self._names()

        def load() -> Any:
            library = self._library()
            return arrow_model(self.base, library, names, top_k=config.top_k, temperature=config.temperature)

        queries = [Query(example) for task in tasks for example in self._examples(task)]
        return exact_match(self._once(load), queries)

    def _hyperdecoder(self, tasks: Sequence[MicroTask]) -> list[bool]:
        folder = self.folder / "hyperdecoder"
        source = self._once(lambda: train_hyperdecoder(self.base, folder, self.config.hyperdecoder))
        examples = [example for task in tasks for example in self._examples(task)]
        right: list[bool] = []
        for start in range(0, len(examples), _INPUTS_AT_A_TIME):
            part = examples[start : start + _INPUTS_AT_A_TIME]
            with torch.inference_mode():
                batch = input_batch(part)
                weights = source(input_states(self.base, batch.ids_ST, batch.labels_ST))
            queries = [Query(example, adapter=row) for row, example in enumerate(part)]
            right += self._with_adapters(queries, weights)
        return right

    def _oracle(self, tasks: Sequence[MicroTask]) -> list[bool]:
        if all(task.split == "train" for task in tasks):
            library = self._library()
        else:
            held_out = [task for split, some in self.tasks.items() if split != "train" for task in some]
            library = train_library(self.base, self.folder / "oracle", held_out, self.config.oracle)
        queries = [Query(example, adapter=row) for row, task in enumerate(tasks) for example in self._examples(task)]
        return self._with_adapters(queries, library.weights([task.name for task in tasks]))


def _pooled(encoder: DescriptionEncoder, texts: Sequence[str]) -> Tensor:
    """One vector a text: the encoder's own, or the mean of the states of its tokens where it gives those."""
    parts = []
    for start in range(0, len(texts), _TEXTS_AT_A_TIME):
        embedding_NE = encoder.encode(texts[start : start + _TEXTS_AT_A_TIME])
        parts.append(one_vector(embedding_NE, encoder.token_dim))
    return torch.cat(parts)
