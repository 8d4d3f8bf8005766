"""Scores and greedy answers of one base under many adapters, in shared batches: what evaluation asks of a model.

Axis letters: S rows of a batch, T tokens, V vocabulary, N adapters of the batch.

Level 5. Requests are sorted by length and padded on the left. To answer, a batch is a few equal runs of rows, one an
adapter, so A and B are never copied per row (`t2l.batched`), and rows leave it when they have ended: one answer is
nearly always far behind the rest. Adapters of different shapes take turns. This file knows tokens and names of
adapters; it knows no benchmark, no harness and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from math import ceil
from typing import Any

import torch

from t2l.bases import Base
from t2l.batched import apply_batched
from t2l.errors import T2LError
from t2l.evaluation.adapters import Name, Shelf
from t2l.evaluation.passes import (
    ContinuationScore,
    Under,
    choice_scores,
    generated,
    next_logits,
    positions,
    whole_scores,
)
from t2l.lora import LoraSource, LoraSpec, LoraWeights

_KEEP = 0.75  # rows leave when no more than this fraction is still needed: each time, the cache is copied
_RUN = {"cpu": 20, "cuda": 34}  # rows that share an adapter in a batch of several, at most
_ROWS = {"cpu": 160, "cuda": 4096}
_LOOK = {"cpu": 1, "cuda": 4}  # tokens between two looks at which rows have ended
_PASS_TOKENS = {"cpu": 48, "cuda": 1024}
"""What a pass costs besides its tokens, in tokens: below about so many, the machine waits for weights or for Python."""
_TOKENS = 16384  # of a batch on a CPU, and of one whose logits are all looked at
_GPU_FRACTION = 0.5  # of the free memory that a batch's cache and activations may take
_ALONE = 400  # questions of one adapter that make batches of their own
_FILLER = -1  # in place of a question: a row that only makes its run as long as the others


@dataclass(frozen=True)
class Scored:
    """A continuation to score: the tokens before it, its own, and the name of the adapter (None for none)."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    adapter: Name | None = None


@dataclass(frozen=True)
class Prompted:
    """A prompt to answer greedily, up to one of the ``until`` texts, an end token or ``max_new_tokens``."""

    prompt: tuple[int, ...]
    until: tuple[str, ...] = ()
    max_new_tokens: int = 256
    adapter: Name | None = None


@dataclass(frozen=True)
class Answer:
    """A greedy answer of ``tokens`` tokens; not ``ended`` where it reached its bound instead of an end."""

    text: str
    tokens: int
    ended: bool


@dataclass(frozen=True)
class Run:
    """Requests of one batch that share an adapter, by number."""

    adapter: Name | None
    numbers: tuple[int, ...]


class Decoder:
    """Runs one base for requests that name the adapters of a shelf.

    Args:
        base: frozen, in evaluation mode. Whatever routes inside it (Arrow) is part of it.
        shelf: of adapters for this base; they may differ in rank, scaling and modules.
        source: a hyperdecoder: gives requests without an adapter one of their own, from the plain base's last hidden
            state at the prompt's last token.
        batch_tokens: tokens of a batch, padding and answers included; by default 16,384 on a CPU, and what half of
            the free memory holds on a GPU; halved where that was too much.

    Raises:
        BaseModelError: the source is for another base; the message gives both shapes.
    """

    def __init__(
        self,
        base: Base,
        shelf: Shelf | None = None,
        *,
        source: LoraSource | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        if batch_tokens is not None and batch_tokens < 1:
            raise T2LError(f"A batch of {batch_tokens} tokens holds nothing.")
        if source is not None:
            source.spec.check_base(base.model)
        self.base, self.model, self.source = base, base.model, source
        self.shelf = Shelf() if shelf is None else shelf
        self.batch_tokens = _budget(base.model) if batch_tokens is None else batch_tokens
        kind = base.model.device.type
        self._run, self._rows, self._look, self._pass = (
            sizes.get(kind, sizes["cuda"]) for sizes in (_RUN, _ROWS, _LOOK, _PASS_TOKENS)
        )

    @property
    def window(self) -> int | None:
        """The most tokens the base reads, where its config says so."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    # --- scores ---------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def scores(
        self, requests: Sequence[Scored], done: Callable[[Mapping[int, ContinuationScore]], None] = lambda found: None
    ) -> list[ContinuationScore]:
        """For each request the log-probability of its continuation, and whether greedy decoding gives it.

        A context that is too long loses its beginning, as in lm-evaluation-harness.

        Args:
            done: called with each batch's results, by number of the request.

        Raises:
            T2LError: a request without context or continuation.
        """
        if any(not request.context or not request.continuation for request in requests):
            raise T2LError("A scored request needs a token before it and a continuation.")
        longest = max((len(request.continuation) for request in requests), default=0)
        if self.window is not None and longest >= self.window:
            raise T2LError(f"A continuation has {longest} tokens; '{self.base.name}' has room for {self.window}.")
        found: dict[int, ContinuationScore] = {}
        questions: dict[tuple[Name | None, tuple[int, ...]], list[int]] = {}
        for number, request in enumerate(requests):
            questions.setdefault((request.adapter, request.context), []).append(number)
        single, several = [], []
        for (_, context), numbers in questions.items():
            longest = max(len(requests[number].continuation) for number in numbers)
            fits = self.window is None or len(context) + longest <= self.window
            several.append(numbers) if len(numbers) > 1 and fits else single.extend([number] for number in numbers)
        for group, score in ((several, self._choices), (single, self._whole)):
            for numbers, scores in score(group, requests):
                made = dict(zip(numbers, scores, strict=True))
                found |= made
                done(made)
        return [found[number] for number in range(len(requests))]

    def _whole(
        self, group: Sequence[list[int]], requests: Sequence[Scored]
    ) -> Iterator[tuple[list[int], list[ContinuationScore]]]:
        """Numbers of requests with their scores, batch by batch: context and continuation in one pass."""
        flat = [number for numbers in group for number in numbers]
        tails = [requests[number].continuation for number in flat]
        contexts = [
            requests[number].context[-(self.window - len(tail) if self.window else 1 << 30) :]
            for number, tail in zip(flat, tails, strict=True)
        ]
        lengths = [len(one) + len(other) for one, other in zip(contexts, tails, strict=True)]
        for places in self._passes(lengths, [requests[number].adapter for number in flat]):
            some, own = [contexts[place] for place in places], [tails[place] for place in places]
            under = self._under_each([requests[flat[place]].adapter for place in places], some)
            yield [flat[place] for place in places], whole_scores(self.base, some, own, under)

    def _choices(
        self, group: Sequence[list[int]], requests: Sequence[Scored]
    ) -> Iterator[tuple[list[int], list[ContinuationScore]]]:
        """As `_whole`, for numbers of requests that share a context, which is read once."""
        firsts = [requests[numbers[0]] for numbers in group]
        most = max(map(len, group), default=1)
        for places in self._passes([len(one.context) for one in firsts], [one.adapter for one in firsts], 2, most):
            contexts = [firsts[place].context for place in places]
            choices = [[requests[number].continuation for number in group[place]] for place in places]
            under = self._under_each([firsts[place].adapter for place in places], contexts)
            scores = choice_scores(self.base, contexts, choices, under)
            if scores is None:
                yield from self._whole([group[place] for place in places], requests)
                continue
            yield [n for place in places for n in group[place]], [one for some in scores for one in some]

    def _under_each(self, names: Sequence[Name | None], prompts: Sequence[Sequence[int]]) -> Under:
        """In which context rows of a batch are computed: row i has the adapter ``names[i]``."""
        distinct = list(dict.fromkeys(name for name in names if name is not None))
        if not distinct and self.source is None:
            return lambda rows: nullcontext()
        spec, weights = self._weights(distinct, prompts)
        place = {name: row for row, name in enumerate(distinct)}
        index = [-1 if name is None else place[name] for name in names] if distinct else list(range(len(names)))
        return lambda rows: apply_batched(self.model, spec, weights, [index[row] for row in rows])

    def _weights(self, names: Sequence[Name], prompts: Sequence[Sequence[int]]) -> tuple[LoraSpec, LoraWeights]:
        """The named adapters, or with none named the hyperdecoder's for the prompts."""
        if names:
            return self.shelf.spec(names[0]), self.shelf.weights(names).to(self.model.device)
        assert self.source is not None
        ids_ST, mask_ST = self.base.padded([list(prompt) for prompt in prompts])
        hidden_STW = self.model.base_model(
            input_ids=ids_ST, attention_mask=mask_ST, position_ids=positions(mask_ST)
        ).last_hidden_state
        return self.source.spec, self.source(hidden_STW[:, -1].float()).to(self.model.device)

    def _passes(
        self, lengths: Sequence[int], names: Sequence[Name | None], steps: int = 1, rows: int = 1
    ) -> Iterator[list[int]]:
        """Numbers of requests that share a pass: the longest first, equal adapters side by side, one shape a pass.

        Args:
            steps: how many passes each batch takes, about.
            rows: how many rows each of them becomes, at most.
        """
        shapes: dict[Any, list[int]] = {}
        for number, name in enumerate(names):
            shapes.setdefault(None if name is None else self._shape(name), []).append(number)
        plain = shapes.pop(None, [])
        first = next(iter(shapes), None)
        shapes[first] = [*shapes.get(first, []), *plain]  # a request without an adapter fits any batch
        tokens = min(self.batch_tokens, _TOKENS)
        for numbers in shapes.values():
            order = sorted(numbers, key=lambda n: (-lengths[n], names[n] or ()))
            most = max(1, self._rows // rows)
            sizes = cheapest_cuts([lengths[n] for n in order], steps * self._pass, most, tokens // rows)
            start = 0
            for size in sizes:
                yield sorted(order[start : start + size], key=lambda n: names[n] or ())
                start += size

    def _shape(self, name: Name) -> Any:
        """What two adapters must share to stand in one batch."""
        spec = self.shelf.spec(name)
        return spec.groups, spec.rank, spec.scaling

    # --- answers --------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def answers(
        self, requests: Sequence[Prompted], done: Callable[[Mapping[int, Answer]], None] = lambda found: None
    ) -> list[Answer]:
        """The greedy answer to each prompt, without the text that ended it.

        An answer never gets longer than ``max_new_tokens`` nor than half of the base's window; a prompt that leaves no
        room loses its beginning.

        Args:
            done: called with each batch's answers, by number of the request.

        Raises:
            T2LError: a prompt without tokens, or a bound below 1.
        """
        bounds: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for number, request in enumerate(requests):
            bounds.setdefault((self._room(request), request.until), []).append(number)
        prompts = [self._fitting(request) for request in requests]
        found: dict[int, Answer] = {}
        for (most, until), numbers in bounds.items():
            while left := [number for number in numbers if number not in found]:
                try:
                    for batch in self.batches(prompts, [request.adapter for request in requests], left, most):
                        made = self._batch(batch, prompts, most, until)
                        found |= made
                        done(made)
                except torch.OutOfMemoryError:
                    if self.batch_tokens < 2 * most:
                        raise
                    self.batch_tokens //= 2
                    torch.cuda.empty_cache()
        return [found[number] for number in range(len(requests))]

    def _room(self, request: Prompted) -> int:
        if not request.prompt:
            raise T2LError("A prompt has no tokens.")
        if request.max_new_tokens < 1:
            raise T2LError(f"max_new_tokens is {request.max_new_tokens}; it must be at least 1.")
        return min(request.max_new_tokens, self.window // 2) if self.window else request.max_new_tokens

    def _fitting(self, request: Prompted) -> list[int]:
        return list(request.prompt)[-(self.window - self._room(request) if self.window else 1 << 30) :]

    def batches(
        self, prompts: Sequence[Sequence[int]], names: Sequence[Name | None], wanted: Collection[int], most: int
    ) -> Iterator[list[Run]]:
        """Every wanted request once, in batches of runs of one shape of adapters, each batch sorted by length.

        Args:
            most: tokens of an answer.
        """
        groups: dict[Any, list[int]] = {}
        for number in wanted:
            name = names[number]
            each = number if name is None and self.source is not None else None  # an adapter from each input
            groups.setdefault((name, each), []).append(number)
        small: dict[Any, list[list[int]]] = {}
        for (name, each), numbers in groups.items():
            numbers.sort(key=lambda number: -len(prompts[number]))
            if (name is None and each is None) or len(numbers) > _ALONE:
                yield from ([Run(name, tuple(some))] for some in self._cut(numbers, prompts, most))
                continue
            size = ceil(len(numbers) / ceil(len(numbers) / self._run))
            some = small.setdefault(None if name is None else self._shape(name), [])
            some += [numbers[start : start + size] for start in range(0, len(numbers), size)]
        for pieces in small.values():
            pieces.sort(key=lambda numbers: -len(prompts[numbers[0]]))
            batch: list[list[int]] = []
            for numbers in pieces:
                size = max(len(one) for one in [*batch, numbers])
                longest = len(prompts[(batch or [numbers])[0][0]])
                if batch and not self._fits((len(batch) + 1) * size, longest, most):
                    yield [Run(names[one[0]], tuple(one)) for one in batch]
                    batch = []
                batch.append(numbers)
            yield [Run(names[one[0]], tuple(one)) for one in batch]

    def _cut(self, numbers: Sequence[int], prompts: Sequence[Sequence[int]], most: int) -> Iterator[Sequence[int]]:
        """Falling lengths into batches that fit."""
        start = 0
        for end in range(1, len(numbers) + 1):
            if end == len(numbers) or not self._fits(end + 1 - start, len(prompts[numbers[start]]), most):
                yield numbers[start:end]
                start = end

    def _fits(self, rows: int, longest: int, most: int) -> bool:
        return rows <= self._rows and rows * (longest + most) <= self.batch_tokens

    def _batch(
        self, runs: Sequence[Run], prompts: Sequence[list[int]], most: int, until: tuple[str, ...]
    ) -> dict[int, Answer]:
        """The answers of one batch, by number of the request."""
        ends, tail = self.base.ends(), max(map(len, until), default=0) + 8  # a token has a byte, nearly always

        def ended(tokens: Sequence[int]) -> bool:
            if ends.intersection(tokens[-self._look :]):
                return True
            recent = list(tokens[-tail - self._look :]) if until else []
            text = self.base.tokenizer.decode(recent, skip_special_tokens=True)
            return any(one in text for one in until)

        longest = max(len(run.numbers) for run in runs)
        slots = [[*run.numbers, *[_FILLER] * (longest - len(run.numbers))] for run in runs]
        next_ST, mask_ST = self.base.padded(
            [
                prompts[run.numbers[-1] if number == _FILLER else number]
                for run, slot in zip(runs, slots, strict=True)
                for number in slot
            ]
        )
        adapters = self._adapters(runs, prompts)
        answers: dict[int, list[int]] = {number: [] for run in runs for number in run.numbers}
        going, length = set(answers), 0
        cache: Any = None
        while going and length < most:
            flat = [number for slot in slots for number in slot]
            places = list(range(len(flat)))
            with self._under(adapters, slots):
                while going and length < most and len(places) > _KEEP * len(flat):
                    pieces = []
                    for _ in range(min(self._look, most - length)):
                        logits_SV, cache = next_logits(self.model, next_ST, mask_ST, cache)
                        if cache is None:
                            made = generated(self.base, next_ST, mask_ST, most, ended)
                            answers = dict(zip(flat, made, strict=True))
                            return {n: self._answer(tokens, ends, until) for n, tokens in answers.items() if n >= 0}
                        next_ST = logits_SV.argmax(dim=-1, keepdim=True)
                        mask_ST = torch.cat([mask_ST, mask_ST.new_ones(len(flat), 1)], dim=1)
                        pieces.append(next_ST)
                    length += len(pieces)
                    for number, tokens in zip(flat, torch.cat(pieces, dim=1).tolist(), strict=True):
                        if number in going:
                            answers[number] += tokens
                            if ended(answers[number]):
                                going.discard(number)
                    places = _needed(slots, going)
            if going and length < most:
                slots, staying = _without(slots, going)
                place_S = torch.tensor(places, device=next_ST.device)
                cache.batch_select_indices(place_S)
                next_ST, mask_ST = next_ST[place_S], mask_ST[place_S]
                if adapters is not None and len(staying) < adapters[1].num_samples:
                    adapters = adapters[0], adapters[1].select(torch.tensor(staying, device=next_ST.device))
        return {number: self._answer(tokens, ends, until) for number, tokens in answers.items()}

    def _answer(self, tokens: list[int], ends: set[int], until: tuple[str, ...]) -> Answer:
        stop = next((place for place, token in enumerate(tokens) if token in ends), None)
        text = str(self.base.tokenizer.decode(tokens[:stop], skip_special_tokens=True))
        cut = min((text.find(one) for one in until if one in text), default=None)
        used = len(tokens) if stop is None else stop + 1
        return Answer(text[:cut], used, stop is not None or cut is not None)

    def _adapters(self, runs: Sequence[Run], prompts: Sequence[list[int]]) -> tuple[LoraSpec, LoraWeights] | None:
        names = [run.adapter for run in runs if run.adapter is not None]
        if not names and self.source is None:
            return None
        return self._weights(names, [prompts[run.numbers[0]] for run in runs])

    def _under(
        self, adapters: tuple[LoraSpec, LoraWeights] | None, slots: Sequence[Sequence[int]]
    ) -> AbstractContextManager[Any]:
        if adapters is None:
            return nullcontext()
        return apply_batched(self.model, *adapters, [place for place, slot in enumerate(slots) for _ in slot])


def _needed(slots: Sequence[Sequence[int]], going: Collection[int]) -> list[int]:
    """Places of the rows that stay: those that go on, and as many that ended as make their runs equal again."""
    size, places = len(slots[0]), []
    kept = [[place for place, number in enumerate(slot) if number in going] for slot in slots]
    most = max(map(len, kept))
    for run, own in enumerate(kept):
        if own:
            rest = (run * size + place for place in range(size) if place not in own)
            places += [run * size + place for place in own] + list(islice(rest, most - len(own)))
    return places


def _without(slots: Sequence[Sequence[int]], going: Collection[int]) -> tuple[list[list[int]], list[int]]:
    """The runs after `_needed`, and which of the runs before they are."""
    kept = [[number for number in slot if number in going] for slot in slots]
    most = max(map(len, kept))
    staying = [run for run, own in enumerate(kept) if own]
    return [kept[run] + [_FILLER] * (most - len(kept[run])) for run in staying], staying


def cheapest_cuts(lengths: Sequence[int], pass_cost: int, most: int, most_tokens: int) -> list[int]:
    """Sizes of batches, in order, whose padded tokens and passes cost least together.

    Args:
        lengths: of the requests, falling; a batch is padded to its first.
        pass_cost: of a batch, in tokens.
        most: requests in a batch.
        most_tokens: tokens in a batch, padding included; a single request may have more.
    """
    best = [0] * (len(lengths) + 1)  # of the requests from here on
    taken = [0] * len(lengths)
    for start in reversed(range(len(lengths))):
        room = max(1, min(most, len(lengths) - start, most_tokens // max(1, lengths[start])))
        best[start], taken[start] = min(
            (pass_cost + size * lengths[start] + best[start + size], -size) for size in range(1, room + 1)
        )
    sizes, start = [], 0
    while start < len(lengths):
        sizes.append(-taken[start])
        start -= taken[start]
    return sizes


def _budget(model: Any) -> int:
    """Tokens of a batch that this device has room for."""
    if model.device.type != "cuda":
        return _TOKENS
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * width
    passing = 8 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    free, _ = torch.cuda.mem_get_info(model.device)
    return max(1, int(_GPU_FRACTION * free / ((2 * cache + passing) * model.dtype.itemsize)))
