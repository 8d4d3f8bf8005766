"""What adapters are generated from, step by step: embeddings kept in half precision, or texts encoded when needed.

Axis letters: C conditions, N conditions, D descriptions of a task, E condition width, W width of one token's state,
K rows in all.

Level 4. Gathering is done beside the step that runs (in another thread) and touches no device; the rest is done on the
device. Sentence embeddings share a large common part (57% of their energy, on the descriptions of the lab's tasks),
which slows learning what tells them apart: training reads standardised ones, and the affine map goes into the first
linear layer at the end. Knows encoders, texts and tensors; knows no loss and no loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from t2l.data.store import DataStore
from t2l.encoders import (
    MAX_DESCRIPTION_CHARS,
    CachedEncoder,
    DescriptionEncoder,
    EncodingProgress,
    prepare,
    with_examples,
)
from t2l.encoders.description import warned_once
from t2l.errors import CheckpointError, DataError, T2LError
from t2l.features import LinearTaskEncoder
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSource
from t2l.recipes.sections import BaseSection, ConditionSection
from t2l.storage import read_tensors, tensors_digest, write_tensors
from t2l.training.run_folder import RunFolder

if TYPE_CHECKING:
    from accelerate import Accelerator

Gathered = Tensor | tuple[str, ...] | tuple[list[int], ...]

_ENCODED_AT_ONCE = 256
_TEXTS_FOR_SCALE = 512  # descriptions from which that of token states is taken
_AT_ONCE = 8  # of them
_SMALLEST_SCALE = 1e-2  # a coordinate that hardly varies is not blown up


@dataclass(frozen=True)
class Standardization:
    """``(embedding - mean) / scale``, coordinate by coordinate.

    Args:
        mean_E: of the training descriptions.
        scale_E: their standard deviation.
    """

    mean_E: Tensor
    scale_E: Tensor

    @classmethod
    def of(cls, embedding_NE: Tensor) -> Standardization:
        """The one that gives these embeddings mean 0 and variance 1."""
        embedding_NE = embedding_NE.float()
        return cls(embedding_NE.mean(dim=0), embedding_NE.std(dim=0).clamp_min(_SMALLEST_SCALE))

    @classmethod
    def streamed(cls, parts: Iterable[Tensor]) -> Standardization:
        """As `of`, of embeddings that come a part at a time: none is kept, sums are taken in float64."""
        count, total_E, squares_E = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for part_NE in parts:
            part_NE = part_NE.double()
            count += len(part_NE)
            total_E = total_E + part_NE.sum(dim=0)
            squares_E = squares_E + part_NE.square().sum(dim=0)
        mean_E = total_E / count
        variance_E = (squares_E - count * mean_E.square()).clamp_min(0) / max(1, count - 1)
        return cls(mean_E.float(), variance_E.sqrt().float().clamp_min(_SMALLEST_SCALE))

    def __call__(self, embedding_NE: Tensor) -> Tensor:
        """Standardised embeddings, float32."""
        return (embedding_NE.float() - self.mean_E) / self.scale_E

    @torch.no_grad()
    def fold_into(self, hypernetwork: HyperNetwork) -> None:
        """Lets a hypernetwork that was trained on standardised embeddings read plain ones, with the same output.

        Raises:
            T2LError: its task encoder does not begin with a linear layer.
        """
        if not isinstance(hypernetwork.task_encoder, LinearTaskEncoder):
            raise T2LError("Standardisation can only be folded into a linear task encoder.")
        linear = hypernetwork.task_encoder.linear
        linear.weight.div_(self.scale_E)
        linear.bias.sub_(linear.weight @ self.mean_E)


class Wanted(NamedTuple):
    """One condition: which description of which task, and which of the task's samples it shows as examples."""

    task: int
    description: int
    examples: tuple[int, ...] = ()


class Conditions(ABC):
    """The conditions of a run's tasks."""

    shared = False
    """Whether all samples have one condition, as what is trained reads none."""
    shows_examples = False
    """Whether a condition can hold examples of its task."""

    @abstractmethod
    def count(self, task: int) -> int:
        """How many descriptions of a task there are."""

    @abstractmethod
    def gather(self, wanted: Sequence[Wanted], generator: torch.Generator | None = None) -> Gathered:
        """What is wanted, on the CPU; with noise where a generator is given and the conditions have noise."""

    def ahead(self, gathered: Gathered) -> Gathered:
        """What of the rest can be done beside the step that runs."""
        return gathered

    def on_device(self, gathered: Gathered, device: torch.device) -> Tensor:
        """condition_CE of what `gather` and `ahead` gave."""
        assert isinstance(gathered, Tensor)
        return gathered.to(device, non_blocking=True)


class NoConditions(Conditions):
    """For what reads no descriptions: one condition of width 1 for everything."""

    shared = True

    def count(self, task: int) -> int:
        return 1

    def gather(self, wanted: Sequence[Wanted], generator: torch.Generator | None = None) -> Tensor:
        return torch.zeros(1, 1)


class ConditionTable(Conditions):
    """Embeddings in half precision; token states without their padding.

    Args:
        state_KW: of all descriptions, one after the other: one row each where embeddings are pooled.
        start: task -> where the rows of each of its descriptions begin, and where those of the last end.
        width: E.
        standardize: applied to what is gathered.
        noise: standard deviation of Gaussian noise on what is gathered for training.
    """

    def __init__(
        self,
        state_KW: Tensor,
        start: Mapping[int, Sequence[int]],
        width: int,
        *,
        standardize: Standardization | None = None,
        noise: float = 0.0,
    ) -> None:
        self.state_KW, self.start, self.width = state_KW, start, width
        self.standardize, self.noise = standardize, noise

    @classmethod
    def of(cls, tables: Mapping[int, Tensor]) -> ConditionTable:
        """The table of task -> condition_DE."""
        start, first = {}, 0
        for task, table_DE in tables.items():
            start[task] = range(first, first + len(table_DE) + 1)
            first += len(table_DE)
        parts = list(tables.values())
        return cls(torch.cat(parts).half(), start, parts[0].shape[1])

    @property
    def pooled(self) -> bool:
        """Whether every description has one row."""
        return self.state_KW.shape[1] == self.width

    def count(self, task: int) -> int:
        return len(self.start[task]) - 1

    def rows_KE(self, tasks: Sequence[int]) -> Tensor:
        """The pooled embeddings of all descriptions of some tasks."""
        return torch.cat([self.state_KW[self.start[task][0] : self.start[task][-1]] for task in tasks])

    def gather(self, wanted: Sequence[Wanted], generator: torch.Generator | None = None) -> Tensor:
        condition_CE = torch.zeros(len(wanted), self.width)
        for row, (task, description, *_) in enumerate(wanted):
            begin, end = self.start[task][description], self.start[task][description + 1]
            states = self.state_KW[begin:end].flatten()
            condition_CE[row, : len(states)] = states
        if not self.pooled:
            return condition_CE
        if self.standardize is not None:
            condition_CE = self.standardize(condition_CE)
        if self.noise and generator is not None:
            condition_CE += self.noise * torch.randn(condition_CE.shape, generator=generator)
        return condition_CE


class StepConditions(Conditions):
    """Texts that the encoder reads anew at each step, on the device that trains: nothing of them is kept.

    Args:
        encoder: has ``step_tokens(texts)``, which gives the token ids of prepared texts, and
            ``step_conditions(tokens)``, which gives condition_CE of those, wherever it runs.
        texts: task -> its descriptions.
        example: (task, sample) -> the sample's input and output as texts; needed where conditions show examples.
    """

    shows_examples = True

    def __init__(
        self,
        encoder: Any,
        texts: Mapping[int, Sequence[str]],
        example: Callable[[int, int], tuple[str, str]] | None = None,
    ) -> None:
        self.encoder = encoder
        self.example = example
        self.texts = {task: prepare(own, full_stop=encoder.full_stop) for task, own in texts.items()}

    def count(self, task: int) -> int:
        return len(self.texts[task])

    def gather(self, wanted: Sequence[Wanted], generator: torch.Generator | None = None) -> tuple[str, ...]:
        return tuple(self._text(*own) for own in wanted)

    def ahead(self, gathered: Gathered) -> Gathered:
        return tuple(self.encoder.step_tokens(list(gathered)))

    def _text(self, task: int, description: int, examples: tuple[int, ...] = ()) -> str:
        text = self.texts[task][description]
        if examples and self.example is not None:
            text = with_examples(text, [self.example(task, sample) for sample in examples])
        return text[:MAX_DESCRIPTION_CHARS]

    @torch.no_grad()
    def on_device(self, gathered: Gathered, device: torch.device) -> Tensor:
        tokens = self.ahead(gathered) if isinstance(gathered[0], str) else gathered
        return self.encoder.step_conditions(list(tokens)).to(device)


def described(store: DataStore, tasks: Sequence[int], limit: int | None) -> dict[int, tuple[str, ...]]:
    """Task -> its first ``limit`` descriptions.

    Raises:
        DataError: a task has no description.
    """
    texts = {task: tuple(store.tasks[task].descriptions[:limit]) for task in tasks}
    bare = [store.tasks[task].name for task, own in texts.items() if not own]
    if bare:
        raise DataError(
            f"{len(bare)} of {len(texts)} tasks have no description, '{bare[0]}' among them.",
            "Write some: t2l data describe",
        )
    return texts


def encode_table(
    encoder: DescriptionEncoder, texts: Mapping[int, Sequence[str]], say: Callable[[str], None]
) -> dict[str, Tensor]:
    """The tensors of a table: ``state_KW`` (half precision), and ``start``, where the rows of each text begin.

    Each distinct text is encoded once, texts of similar length together. The embeddings of an encoder that pools are
    kept in this account's cache as well.
    """
    token_dim = encoder.token_dim
    if token_dim is None:
        encoder = CachedEncoder(encoder)
    distinct = list(dict.fromkeys(text for own in texts.values() for text in own))
    order = sorted(range(len(distinct)), key=lambda row: len(distinct[row]))
    states: list[Tensor] = [torch.empty(0)] * len(distinct)
    progress = EncodingProgress(distinct, say)
    with warned_once():
        for first in range(0, len(order), _ENCODED_AT_ONCE):
            rows = order[first : first + _ENCODED_AT_ONCE]
            for row, state_TW in zip(rows, _encoded(encoder, [distinct[row] for row in rows], token_dim), strict=True):
                states[row] = state_TW
            progress.add([distinct[row] for row in rows])
    row_of = {text: row for row, text in enumerate(distinct)}
    chosen = [states[row_of[text]] for own in texts.values() for text in own]
    lengths = torch.tensor([len(state_TW) for state_TW in chosen])
    return {"state_KW": torch.cat(chosen), "start": torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])}


def table_of(tensors: Mapping[str, Tensor], texts: Mapping[int, Sequence[str]], width: int) -> ConditionTable:
    """The table of what `encode_table` gave for the same texts."""
    start, flat, first = {}, tensors["start"].tolist(), 0
    for task, own in texts.items():
        start[task] = flat[first : first + len(own) + 1]
        first += len(own)
    return ConditionTable(tensors["state_KW"], start, width)


def _encoded(encoder: DescriptionEncoder, texts: list[str], token_dim: int | None) -> list[Tensor]:
    """The rows of each text: one where embeddings are pooled, otherwise one for each of its tokens."""
    ragged = getattr(encoder, "encode_ragged", None)
    if ragged is not None:
        return [state_TW.cpu().half() for state_TW in ragged(texts)]
    embedding_NE = encoder.encode(texts).cpu()
    if token_dim is None:
        return list(embedding_NE.half()[:, None])
    found = []
    for state_TW in embedding_NE.unflatten(-1, (-1, token_dim)):
        found.append(state_TW[(state_TW != 0).any(dim=-1)].half())
    return found


def run_conditions(
    store: DataStore,
    encoder: DescriptionEncoder,
    tasks: list[int],
    limit: int | None,
    condition: ConditionSection,
    base: BaseSection,
    folder: RunFolder,
    accelerator: Accelerator,
    say: Callable[[str], None],
) -> Conditions:
    """The embeddings of the descriptions: made once by the main process, then read from the run's folder.

    An encoder that offers it encodes each step's texts anew instead.

    Args:
        limit: descriptions of a task that are used; all of them where it is None.
    """
    texts = described(store, tasks, limit)
    if hasattr(encoder, "step_conditions"):
        example = SampleTexts(store, base) if condition.examples else None
        return StepConditions(encoder, texts, example)
    path = folder.folder / "conditions.safetensors"
    mark = f"mark.{_texts_digest(texts, encoder.identity)}"
    if accelerator.is_main_process and not (path.is_file() and mark in read_tensors(path, CheckpointError)):
        say(f"Encoding the descriptions of {len(tasks)} tasks with {encoder.identity}.")
        temporary = path.with_suffix(".tmp")
        write_tensors(temporary, {mark: torch.zeros(1), **encode_table(encoder, texts, say)})
        temporary.replace(path)
    accelerator.wait_for_everyone()
    table = table_of(read_tensors(path, CheckpointError), texts, encoder.dim)
    table.noise = condition.noise
    return table


class SampleTexts:
    """Input and output of a sample as texts, from its tokens and the frame that the store records."""

    def __init__(self, store: DataStore, base: BaseSection) -> None:
        from t2l.base_structure import load_tokenizer

        self._store = store
        self.tokenizer = load_tokenizer(base.model, revision=base.revision)
        frame = store.manifest["frame"]
        self._around = [frame[name] for name in ("before", "after", "opening", "closing")]

    def __call__(self, task: int, sample: int) -> tuple[str, str]:
        found = self._store.sample(task, sample)
        _, _, opening, closing = self._around
        response = self.tokenizer.decode(found.input_ids[found.prompt_length :])
        return self.input(task, sample), response.removeprefix(opening).removesuffix(closing)

    def input(self, task: int, sample: int) -> str:
        """The input alone."""
        found, (before, after, *_) = self._store.sample(task, sample), self._around
        return self.tokenizer.decode(found.input_ids[: found.prompt_length]).removeprefix(before).removesuffix(after)


def standardise_tokens(
    conditions: Conditions, source: LoraSource, tasks: tuple[int, ...], device: torch.device
) -> None:
    """Tells a source that standardises token states itself their mean and spread, over some descriptions of each task.

    The first token of a text is left out, as its few huge states would hide the spread of the rest.
    """
    encoder = getattr(source, "task_encoder", None)
    standardise = getattr(encoder, "standardise", None)
    if encoder is None or standardise is None:
        return
    wanted = [Wanted(task, number) for number in range(4) for task in tasks if number < conditions.count(task)]
    states, kept = [], wanted[:_TEXTS_FOR_SCALE]
    for start in range(0, len(kept), _AT_ONCE):
        condition_CE = conditions.on_device(conditions.gather(kept[start : start + _AT_ONCE]), device)
        state_KW = condition_CE.unflatten(1, (-1, encoder.token_dim))[:, 1:].flatten(0, 1)
        states.append(state_KW[(state_KW != 0).any(dim=-1)].float().cpu())
    standardise(torch.cat(states))


def _texts_digest(texts: dict[int, tuple[str, ...]], identity: str) -> str:
    whole = "\0".join([identity, *(text for own in texts.values() for text in own)])
    return tensors_digest({"texts": torch.frombuffer(bytearray(whole.encode()), dtype=torch.uint8)})[:16]
