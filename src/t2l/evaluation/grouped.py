"""Greedy answers in large batches made of runs of rows that share an adapter; rows leave when they have ended.

Axis letters: S rows of the batch, T tokens, N adapters of the batch.

Level 5. A suite asks one adapter dozens of questions, so a batch is a few equal runs, one an adapter: A and B are
never copied per row (`t2l.batched`). Questions are sorted by length and cut into batches by a budget of tokens. On a
GPU the host looks at the answers only every few tokens. This file knows tokens and names of adapters; it knows no task,
no text and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from math import ceil
from typing import Any

import torch
from torch import Tensor

from t2l.bases import Base
from t2l.batched import apply_batched
from t2l.errors import T2LError
from t2l.evaluation.greedy import next_logits
from t2l.evaluation.shelf import Name, Shelf
from t2l.lora import LoraSpec, LoraWeights

_KEEP = 0.75  # rows leave when no more than this fraction is still needed: each time, the cache is copied
_RUN = {"cpu": 20, "cuda": 34}  # rows that share an adapter in a batch of several, at most
_ROWS = {"cpu": 160, "cuda": 4096}
_LOOK = {"cpu": 1, "cuda": 4}  # tokens between two looks at which rows have ended
_CPU_TOKENS = 16384
_GPU_FRACTION = 0.5  # of the free memory that a batch's cache and activations may take
_ALONE = 400  # questions of one adapter that make batches of their own
_FILLER = -1  # in place of a question: a row that only makes its run as long as the others


@dataclass(frozen=True)
class Question:
    """A prompt, and the name of its adapter; None for the base alone."""

    prompt: tuple[int, ...]
    adapter: Name | None = None


@dataclass(frozen=True)
class Run:
    """Questions of one batch that share an adapter, by number."""

    adapter: Name | None
    numbers: tuple[int, ...]


class GroupedDecoder:
    """Answers questions with one base and the adapters of a shelf.

    Args:
        base: frozen, in evaluation mode, with a cache of keys and values.
        shelf: of adapters for this base.
        max_new_tokens: of an answer.
        batch_tokens: tokens of a batch, padding and answers included; by default 16,384 on a CPU, and what half of
            the free memory holds on a GPU; halved where that was too much.

    Raises:
        T2LError: bounds below 1.
    """

    def __init__(self, base: Base, shelf: Shelf, *, max_new_tokens: int = 64, batch_tokens: int | None = None) -> None:
        kind = base.model.device.type
        self.base, self.shelf, self.most = base, shelf, max_new_tokens
        self.batch_tokens = _budget(base.model) if batch_tokens is None else batch_tokens
        if self.most < 1 or self.batch_tokens < 1:
            raise T2LError(f"Answers of {self.most} tokens in batches of {self.batch_tokens} tokens hold nothing.")
        self._run, self._rows, self._look = (sizes.get(kind, sizes["cuda"]) for sizes in (_RUN, _ROWS, _LOOK))

    @torch.inference_mode()
    def answers(
        self, questions: Sequence[Question], done: Callable[[dict[int, list[int]]], None] = lambda answers: None
    ) -> list[list[int]]:
        """The tokens of the greedy answer to each question, with the token that ended it where one did.

        Args:
            done: called with each batch's answers, by number of the question.
        """
        found: dict[int, list[int]] = {}
        while len(found) < len(questions):
            try:
                for batch in self.batches(questions, found):
                    answers = self._batch(batch, questions)
                    found |= answers
                    done(answers)
            except torch.OutOfMemoryError:
                if self.batch_tokens < 2 * self.most:
                    raise
                self.batch_tokens //= 2
                torch.cuda.empty_cache()
        return [found[number] for number in range(len(questions))]

    def batches(self, questions: Sequence[Question], without: Collection[int] = ()) -> Iterator[list[Run]]:
        """Every question once, in batches of runs of one shape of adapters, each batch sorted by length."""
        known = set(without)
        groups: dict[Name | None, list[int]] = {}
        for number, question in enumerate(questions):
            if number not in known:
                groups.setdefault(question.adapter, []).append(number)
        small: dict[Any, list[list[int]]] = {}
        for adapter, numbers in groups.items():
            numbers.sort(key=lambda number: -len(questions[number].prompt))
            if adapter is None or len(numbers) > _ALONE:
                yield from ([Run(adapter, tuple(some))] for some in self._cut(numbers, questions))
                continue
            pieces = ceil(len(numbers) / self._run)
            size = ceil(len(numbers) / pieces)
            spec = self.shelf.spec(adapter)
            some = small.setdefault((spec.groups, spec.rank, spec.scaling), [])
            some += [numbers[start : start + size] for start in range(0, len(numbers), size)]
        for pieces in small.values():
            pieces.sort(key=lambda numbers: -len(questions[numbers[0]].prompt))
            batch: list[list[int]] = []
            for numbers in pieces:
                size = max(len(one) for one in [*batch, numbers])
                longest = len(questions[(batch or [numbers])[0][0]].prompt)
                if batch and not self._fits((len(batch) + 1) * size, longest):
                    yield [Run(questions[one[0]].adapter, tuple(one)) for one in batch]
                    batch = []
                batch.append(numbers)
            yield [Run(questions[one[0]].adapter, tuple(one)) for one in batch]

    def _cut(self, numbers: Sequence[int], questions: Sequence[Question]) -> Iterator[Sequence[int]]:
        """Falling lengths into batches that fit."""
        start = 0
        for end in range(1, len(numbers) + 1):
            longest = len(questions[numbers[start]].prompt)
            if end == len(numbers) or not self._fits(end + 1 - start, longest):
                yield numbers[start:end]
                start = end

    def _fits(self, rows: int, longest: int) -> bool:
        return rows <= self._rows and rows * (longest + self.most) <= self.batch_tokens

    def _batch(self, runs: Sequence[Run], questions: Sequence[Question]) -> dict[int, list[int]]:
        """The answers of one batch, by number of the question."""
        answers: dict[int, list[int]] = {number: [] for run in runs for number in run.numbers}
        longest = max(len(run.numbers) for run in runs)
        slots = [[*run.numbers, *[_FILLER] * (longest - len(run.numbers))] for run in runs]
        prompts = [
            list(questions[run.numbers[-1] if number == _FILLER else number].prompt)
            for run, slot in zip(runs, slots, strict=True)
            for number in slot
        ]
        adapters = self._adapters(runs)
        next_ST, mask_ST = self.base.padded(prompts)
        ends = sorted(self.base.ends())
        end_tokens = torch.tensor(ends or [-1], device=next_ST.device)
        cache: Any = None
        length = 0
        while True:
            flat = [number for slot in slots for number in slot]
            ended_S = torch.zeros(len(flat), dtype=torch.bool, device=next_ST.device)
            pieces: list[Tensor] = []
            places, leaving = list(range(len(flat))), False
            with self._under(adapters, slots):
                while length < self.most and not leaving:
                    logits_SV, cache = next_logits(self.base.model, next_ST, mask_ST, cache)
                    if cache is None:
                        raise T2LError(
                            f"'{self.base.name}' keeps no plain cache of keys and values; a suite needs one."
                        )
                    next_ST = logits_SV.argmax(dim=-1, keepdim=True)
                    ended_S |= torch.isin(next_ST[:, 0], end_tokens)
                    pieces.append(next_ST)
                    mask_ST = torch.cat([mask_ST, mask_ST.new_ones(len(flat), 1)], dim=1)
                    length += 1
                    if length % self._look == 0:
                        places = _needed(slots, ended_S.tolist())
                        leaving = len(places) <= _KEEP * len(flat)
            ended = ended_S.tolist()
            for number, tokens in zip(flat, torch.cat(pieces, dim=1).tolist(), strict=True):
                if number != _FILLER:
                    stop = next((place for place, token in enumerate(tokens, 1) if token in ends), None)
                    answers[number] += tokens[:stop]
            if length >= self.most or not places:
                return answers
            slots, staying = _without(slots, ended)
            place_S = torch.tensor(places, device=next_ST.device)
            cache.batch_select_indices(place_S)
            next_ST, mask_ST = next_ST[place_S], mask_ST[place_S]
            if adapters is not None and len(staying) < adapters[1].num_samples:
                adapters = adapters[0], adapters[1].select(torch.tensor(staying, device=next_ST.device))

    def _adapters(self, runs: Sequence[Run]) -> tuple[LoraSpec, LoraWeights] | None:
        names = [run.adapter for run in runs if run.adapter is not None]
        return (self.shelf.spec(names[0]), self.shelf.weights(names)) if names else None

    def _under(
        self, adapters: tuple[LoraSpec, LoraWeights] | None, slots: Sequence[Sequence[int]]
    ) -> AbstractContextManager[Any]:
        if adapters is None:
            return nullcontext()
        return apply_batched(self.base.model, *adapters, [place for place, slot in enumerate(slots) for _ in slot])


def _needed(slots: Sequence[Sequence[int]], ended: Sequence[bool]) -> list[int]:
    """Places of the rows that stay: those that go on, and as many that ended as make their runs equal again."""
    size, places = len(slots[0]), []
    going = _going(slots, ended)
    most = max(map(len, going))
    for run, own in enumerate(going):
        if own:
            known = set(own)
            rest = (run * size + place for place in range(size) if place not in known)
            places += [run * size + place for place in own] + list(islice(rest, most - len(own)))
    return places


def _without(slots: Sequence[Sequence[int]], ended: Sequence[bool]) -> tuple[list[list[int]], list[int]]:
    """The runs after `_needed`, and which of the runs before they are."""
    going = _going(slots, ended)
    most = max(map(len, going))
    staying = [run for run, own in enumerate(going) if own]
    numbers = [[slots[run][place] for place in going[run]] for run in staying]
    return [own + [_FILLER] * (most - len(own)) for own in numbers], staying


def _going(slots: Sequence[Sequence[int]], ended: Sequence[bool]) -> list[list[int]]:
    """Of each run the places, within it, of the rows that have not ended."""
    size = len(slots[0])
    return [
        [place for place, number in enumerate(slot) if number != _FILLER and not ended[run * size + place]]
        for run, slot in enumerate(slots)
    ]


def _budget(model: Any) -> int:
    """Tokens of a batch that this device has room for."""
    if model.device.type != "cuda":
        return _CPU_TOKENS
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * width
    passing = 8 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    free, _ = torch.cuda.mem_get_info(model.device)
    return max(1, int(_GPU_FRACTION * free / ((2 * cache + passing) * model.dtype.itemsize)))
