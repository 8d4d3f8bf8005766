"""Greedy answers of one base under many adapters, in shared batches.

Axis letters: S rows of a batch, T tokens, V vocabulary, W hidden width.

Level 5. Prompts are sorted by length and padded on the left. A batch is a few equal runs of rows, one an adapter, so A
and B are never copied per row (`t2l.batched`), and rows leave it when they have ended: one answer is nearly always far
behind the rest. Adapters of different shapes take turns. Bases whose cache is no list of keys and values (state-space
layers) go through transformers' own ``generate``. This file knows tokens and names of adapters; it knows no benchmark,
no harness and no file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from math import ceil
from typing import Any

import torch
from torch import Tensor

from t2l.bases import Base, quiet
from t2l.batched import apply_batched
from t2l.errors import T2LError
from t2l.evaluation.adapters import Name, Shelf
from t2l.lora import LoraSource, LoraSpec, LoraWeights

_KEEP = 0.75  # rows leave when no more than this fraction is still needed: each time, the cache is copied
_RUN = {"cpu": 20, "cuda": 34}  # rows that share an adapter in a batch of several, at most
_ROWS = {"cpu": 160, "cuda": 4096}
_LOOK = {"cpu": 1, "cuda": 4}  # tokens between two looks at which rows have ended
_TOKENS = 16384  # of a batch on a CPU, and of one whose logits are all looked at
_GPU_FRACTION = 0.5  # of the free memory that a batch's cache and activations may take
_ALONE = 400  # questions of one adapter that make batches of their own
_FILLER = -1  # in place of a question: a row that only makes its run as long as the others


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
        self._run, self.rows, self._look = (sizes.get(kind, sizes["cuda"]) for sizes in (_RUN, _ROWS, _LOOK))

    def weights(self, names: Sequence[Name], prompts: Sequence[Sequence[int]]) -> tuple[LoraSpec, LoraWeights]:
        """The named adapters, or with none named the hyperdecoder's for the prompts."""
        if names:
            return self.shelf.spec(names[0]), self.shelf.weights(names).to(self.model.device)
        assert self.source is not None
        ids_ST, mask_ST = self.base.padded([list(prompt) for prompt in prompts])
        hidden_STW = self.model.base_model(
            input_ids=ids_ST, attention_mask=mask_ST, position_ids=positions(mask_ST)
        ).last_hidden_state
        return self.source.spec, self.source(hidden_STW[:, -1].float()).to(self.model.device)

    def shape(self, name: Name) -> Any:
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
        return min(request.max_new_tokens, self.base.window // 2) if self.base.window else request.max_new_tokens

    def _fitting(self, request: Prompted) -> list[int]:
        return list(request.prompt)[-(self.base.window - self._room(request) if self.base.window else 1 << 30) :]

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
            some = small.setdefault(None if name is None else self.shape(name), [])
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
        return rows <= self.rows and rows * (longest + most) <= self.batch_tokens

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
                            made = _generated(self.base, next_ST, mask_ST, most, ended)
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
        return self.weights(names, [prompts[run.numbers[0]] for run in runs])

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


def positions(mask_ST: Tensor) -> Tensor:
    """Where each token stands in its own row, (S, T); padding on the left counts as 0."""
    return (mask_ST.cumsum(dim=1) - 1).clamp_min(0)


def keeps_logits(model: Any) -> bool:
    """Whether the model computes logits of the last positions alone when asked to."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def next_logits(model: Any, next_ST: Tensor, mask_ST: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """Logits after the last token, (S, V), and the cache; None for one of which no rows can be chosen."""
    given: dict[str, Any] = {"logits_to_keep": 1} if keeps_logits(model) else {}
    out = model(
        input_ids=next_ST,
        attention_mask=mask_ST,
        position_ids=positions(mask_ST)[:, -next_ST.shape[1] :],
        past_key_values=cache,
        use_cache=True,
        **given,
    )
    cache = getattr(out, "past_key_values", None)
    return out.logits[:, -1].float(), cache if _is_plain(cache) else None


def _generated(
    base: Base, ids_ST: Tensor, mask_ST: Tensor, max_new_tokens: int, ended: Callable[[Sequence[int]], bool]
) -> list[list[int]]:
    """Greedy answers by transformers' ``generate``, for a base of whose cache no rows can be chosen.

    Args:
        ended: of an answer so far, called after each of its tokens.
    """
    from transformers import StoppingCriteriaList

    width = ids_ST.shape[1]

    def stop(input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        answers = input_ids[:, width:].tolist()
        return torch.tensor([ended(tokens) for tokens in answers], device=input_ids.device)

    criteria: Any = [stop]
    with quiet():
        out_ST = base.greedy(ids_ST, mask_ST, max_new_tokens, stopping_criteria=StoppingCriteriaList(criteria))
    return [
        tokens[: next((n for n in range(1, len(tokens) + 1) if ended(tokens[:n])), len(tokens))]
        for tokens in out_ST[:, width:].tolist()
    ]


def _is_plain(cache: Any) -> bool:
    """Whether every layer of the cache keeps keys and values of all rows, and nothing else."""
    from transformers import cache_utils

    plain = (cache_utils.DynamicLayer, cache_utils.DynamicSlidingWindowLayer)
    layers = getattr(cache, "layers", None)
    return bool(layers) and all(type(layer) in plain for layer in layers)
