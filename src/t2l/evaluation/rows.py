"""What stands in a table of results: the base, prompts, adapters from descriptions, and what they are compared with.

Level 5. A row is a list of variants, one or several for each task: an adapter (or none), a number of examples, a text
before the prompt. This file makes adapters from descriptions and picks those of libraries; it knows no benchmark's
data and runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from t2l.adapter import Adapter
from t2l.baselines.nearest import NearestTask
from t2l.baselines.static import average_of
from t2l.encoders.description import warned_once
from t2l.encoders.encoder import one_vector
from t2l.errors import T2LError, did_you_mean
from t2l.evaluation.decoding import PLAIN
from t2l.evaluation.wording import GATE, Wording, texts_for
from t2l.model import TextToLora

if TYPE_CHECKING:
    from t2l.evaluation.benchmarks import EvaluationTask

ROWS = {
    "base": "base, no examples",
    "description-in-prompt": "base, the description in the prompt",
    "shots": "base, examples in the prompt",
    "t2l": "adapter from the task's description",
    "average": "average of the library's adapters",
    "nearest": "library's adapter of the nearest description",
    "multi-task": "one LoRA trained on many tasks",
    "arrow": "Arrow routing over the library",
    "hyperdecoder": "hyperdecoder: an adapter from the input alone",
    "task-specific": "LoRA trained on the task itself",
}
"""Row -> how a table names it."""
NEEDS = {
    "t2l": "--checkpoint",
    "average": "--library",
    "nearest": "--library",
    "arrow": "--library",
    "multi-task": "--multi-task",
    "hyperdecoder": "--hyperdecoder",
    "task-specific": "--task-adapters",
}
"""Row -> the option that brings what it needs."""
_TEXTS_AT_ONCE = 256
_FEW_SHOT = re.compile(r"0*([1-9]\d{0,3})-shots?")


def shots_of(rows: str | None, shots: int) -> tuple[str | None, int]:
    """Rows with ``5-shot``, as a table names it, written ``shots``; and the number of examples it names.

    Raises:
        T2LError: rows that name several numbers.
    """
    words = [] if rows is None else rows.replace(",", " ").split()
    numbers = list(dict.fromkeys(int(match[1]) for word in words if (match := _FEW_SHOT.fullmatch(word))))
    if len(numbers) > 1:
        raise T2LError(f"--rows names {numbers[0]}-shot and {numbers[1]}-shot.", "A run has one number of examples.")
    if not numbers:
        return rows, shots
    return ",".join("shots" if _FEW_SHOT.fullmatch(word) else word for word in words), numbers[0]


@dataclass(frozen=True)
class Variant:
    """One way of putting one task to the base."""

    row: str
    task: str
    number: int = 0
    adapter: int = PLAIN
    shots: int | None = 0
    prefix: str = ""
    text: str | None = None

    @property
    def alias(self) -> str:
        """The name of the harness task that runs it."""
        return f"{self.task}|{self.row}|{self.number}"


class Bench:
    """Collects adapters and variants for one base.

    Args:
        tasks: those of the run.
        wordings: how many descriptions a task has in each condition, each with an adapter of its own.
        seed: of the draw of descriptions.
    """

    def __init__(self, tasks: Sequence[EvaluationTask], *, wordings: int = 3, seed: int = 0) -> None:
        if wordings < 1:
            raise T2LError(f"{wordings} descriptions a task make no adapter.")
        self.tasks, self.wordings, self.seed = list(tasks), wordings, seed
        self.adapters: list[Adapter] = []
        self.variants: list[Variant] = []
        self._place: dict[str, int] = {}

    def base(self) -> None:
        """The base alone."""
        self.variants += [Variant("base", task.name) for task in self.tasks]

    def shots(self, count: int) -> None:
        """``count`` examples in the prompt, for tasks that have examples to show."""
        if count < 1:
            raise T2LError(f"{count} examples in the prompt: it must be at least 1.")
        self.variants += [Variant(f"{count}-shot", task.name, shots=count) for task in self.tasks if task.can_show]

    def described_prompt(self) -> None:
        """Each description before the prompt, without an adapter."""
        for task in self.tasks:
            for number, text in enumerate(self._texts("matched", task)):
                self.variants.append(Variant("description-in-prompt", task.name, number, prefix=text, text=text))

    def described(self, t2l: TextToLora, condition: str = "matched", *, row: str = "t2l") -> None:
        """Adapters from descriptions under a condition of `GATE`; equal texts share one."""
        texts = [self._texts(condition, task) for task in self.tasks]
        fresh = list(dict.fromkeys(text for some in texts for text in some if text not in self._place))
        if fresh:
            for text, adapter in zip(fresh, t2l.generate(fresh), strict=True):
                self._place[text] = self._add(adapter)
        for task, some in zip(self.tasks, texts, strict=True):
            for number, text in enumerate(some):
                self.variants.append(Variant(row, task.name, number, self._place[text], text=text))

    def static(self, adapter: Adapter, row: str) -> None:
        """One adapter for every task."""
        place = self._add(adapter)
        self.variants += [Variant(row, task.name, adapter=place) for task in self.tasks]

    def foreign(self, library: Any) -> list[str]:
        """The library's adapters that were not trained on a task of this run: the others would know the answers.

        Raises:
            T2LError: there is none.
        """
        own = {task.name for task in self.tasks}
        names = [name for name in library.names if name not in own]
        if not names:
            raise T2LError(
                f"All {len(library)} adapters of the library are of tasks that are measured, so it knows the answers.",
                "Give adapters of other tasks with --library; those of the tasks themselves go to --task-adapters.",
            )
        return names

    def average(self, library: Any) -> None:
        """The mean of a `t2l.library.Library`'s adapters, those of the run's own tasks aside."""
        self.static(Adapter(library.spec, average_of(library, self.foreign(library)).weights()), "average")

    def nearest(self, library: Any, t2l: TextToLora, texts: Mapping[str, Sequence[str]]) -> None:
        """The library's adapter whose description is nearest to the task's, by the checkpoint's encoder.

        Adapters of the run's own tasks are not among those that are searched.

        Args:
            texts: adapter name -> its task's descriptions.

        Raises:
            T2LError: no adapter of the library has a description.
        """
        known = [(name, text) for name in self.foreign(library) for text in texts.get(name, ())]
        if not known:
            raise T2LError(
                "No adapter of the library has a description, so none is nearest.",
                "Give them: --descriptions FILE, YAML with matched: {ADAPTER: [TEXT, ...]} or the JSON Lines of "
                "t2l data prepare",
            )
        source = NearestTask(library, [name for name, _ in known], _vectors(t2l, [text for _, text in known]))
        for task in self.tasks:
            some = self._texts("matched", task)
            for number, (text, name) in enumerate(zip(some, source.nearest(_vectors(t2l, some)), strict=True)):
                key = f"library: {name}"
                if key not in self._place:
                    self._place[key] = self._add(library.adapter(name))
                self.variants.append(Variant("nearest", task.name, number, self._place[key], text=text))

    def own(self, library: Any) -> None:
        """Each task's own adapter, by name, for the tasks that the library has."""
        known = [task for task in self.tasks if task.name in library]
        if not known:
            near = did_you_mean(self.tasks[0].name, library.names)
            raise T2LError(f"The folder of task adapters has none for '{self.tasks[0].name}' or any other task.", near)
        for task in known:
            place = self._add(library.adapter(task.name))
            self.variants.append(Variant("task-specific", task.name, adapter=place))

    def gate(self, t2l: TextToLora) -> list[str]:
        """Every condition of the description gate, and the base; returns the conditions left out and why.

        The static adapter is the mean of the A and of the B that the matched descriptions give.

        Raises:
            T2LError: there are no matched descriptions, or they cannot be encoded.
        """
        self.base()
        left_out = []
        for condition in GATE:
            if condition == "static":
                continue
            try:
                self.described(t2l, condition, row=condition)
            except T2LError as problem:
                if condition == "matched":
                    raise
                left_out.append(f"{condition}: {problem.message}")
        self.static(mean_adapter([self.adapters[v.adapter] for v in self.variants if v.row == "matched"]), "static")
        return left_out

    def _texts(self, condition: str, task: EvaluationTask) -> list[str]:
        known = [other.wording or Wording(other.name, ()) for other in self.tasks]
        own = task.wording or Wording(task.name, ())
        return texts_for(condition, own, known, self.wordings, self.seed)

    def _add(self, adapter: Adapter) -> int:
        self.adapters.append(adapter)
        return len(self.adapters) - 1


def _vectors(t2l: TextToLora, texts: Sequence[str]) -> torch.Tensor:
    """(N, W), one vector a text; the mean over tokens where the encoder gives their states."""
    starts = range(0, len(texts), _TEXTS_AT_ONCE)
    with warned_once():
        parts = [t2l.encoder.encode(list(texts[start : start + _TEXTS_AT_ONCE])) for start in starts]
    return torch.cat([one_vector(part, t2l.encoder.token_dim) for part in parts])


def mean_adapter(adapters: Sequence[Adapter]) -> Adapter:
    """The mean of the adapters' A and the mean of their B: a hypernetwork's static adapter, which reads no description.

    Raises:
        T2LError: there are none.
    """
    if not adapters:
        raise T2LError("No adapter was made from a matched description, so there is no mean of them.")
    first = adapters[0]
    with torch.no_grad():
        total = first.weights.map(lambda tensor: tensor.double())
        for adapter in adapters[1:]:
            for sums, parts in ((total.a, adapter.weights.a), (total.b, adapter.weights.b)):
                for key, part in parts.items():
                    sums[key] += part
        mean = total.map(lambda tensor: (tensor / len(adapters)).float())
    return Adapter(first.spec, mean, {"mean_of": len(adapters)})
