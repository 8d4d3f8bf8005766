"""Scores and greedy answers of one base under many adapters, in shared batches: what evaluation asks of a model.

Axis letters: S requests of a batch, T tokens, V vocabulary.

Level 5. Requests are sorted by length and padded on the left; each has an adapter of its own or none, and adapters of
different shapes (a folder of rank-4 adapters beside rank 8) take turns. This file knows tokens and adapters; it knows
no benchmark, no harness and no file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from t2l.adapter import Adapter
from t2l.bases import Base, quiet
from t2l.batched import apply_batched
from t2l.errors import T2LError
from t2l.lora import LoraSource, LoraSpec, LoraWeights

PLAIN = -1
"""In place of an adapter's number: the base as it is."""


@dataclass(frozen=True)
class Scored:
    """A continuation to score: the tokens before it, its own, and the adapter's number (`PLAIN` for none)."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    adapter: int = PLAIN


@dataclass(frozen=True)
class Prompted:
    """A prompt to answer greedily, up to one of the ``until`` texts, an end token or ``max_new_tokens``."""

    prompt: tuple[int, ...]
    until: tuple[str, ...] = ()
    max_new_tokens: int = 256
    adapter: int = PLAIN


@dataclass(frozen=True)
class Answer:
    """A greedy answer; ``cut`` where it reached its bound instead of an end."""

    text: str
    cut: bool


class Decoder:
    """Runs one base for requests that name adapters by number.

    Args:
        base: frozen, in evaluation mode. Whatever routes inside it (Arrow) is part of it.
        adapters: all for this base; they may differ in rank, scaling and modules.
        source: a hyperdecoder: gives requests without an adapter one of their own, from the plain base's last hidden
            state at the prompt's last token.
        batch: requests in one forward pass.
        batch_tokens: and at most so many tokens, padding included.

    Raises:
        BaseModelError: an adapter is for another base; the message gives both shapes.
    """

    def __init__(
        self,
        base: Base,
        adapters: Sequence[Adapter] = (),
        *,
        source: LoraSource | None = None,
        batch: int = 32,
        batch_tokens: int = 16384,
    ) -> None:
        if batch < 1 or batch_tokens < 1:
            raise T2LError(f"A batch of {batch} requests and {batch_tokens} tokens holds nothing.")
        for adapter in (*adapters, *([source] if source is not None else [])):
            adapter.spec.check_base(base.model)
        self.base, self.model, self.adapters = base, base.model, list(adapters)
        self.source, self.batch, self.batch_tokens = source, batch, batch_tokens
        self._kind = [_shape_of(adapter.spec) for adapter in self.adapters]
        self._keeps = "logits_to_keep" in inspect.signature(self.model.forward).parameters

    @property
    def window(self) -> int | None:
        """The most tokens the base reads, where its config says so."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @torch.inference_mode()
    def scores(
        self,
        requests: Sequence[Scored],
        done: Callable[[int, tuple[float, bool]], None] = lambda number, result: None,
    ) -> list[tuple[float, bool]]:
        """For each request the log-probability of its continuation, and whether greedy decoding gives it.

        A context that is too long loses its beginning, as in lm-evaluation-harness.

        Args:
            done: called with a request's number and its result, batch by batch.

        Raises:
            T2LError: a request without context or continuation.
        """
        if any(not request.context or not request.continuation for request in requests):
            raise T2LError("A scored request needs a token before it and a continuation.")
        longest = max((len(request.continuation) for request in requests), default=0)
        if self.window is not None and longest >= self.window:
            raise T2LError(f"A continuation has {longest} tokens; '{self.base.name}' has room for {self.window}.")
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        rows = [list(request.context + request.continuation)[-(self.window or 1 << 30) :] for request in requests]
        for numbers in self._batches([len(row) for row in rows], [request.adapter for request in requests]):
            part = [requests[number] for number in numbers]
            ids_ST, mask_ST = self.base.padded([rows[number] for number in numbers])
            longest = max(len(request.continuation) for request in part)
            last_S = [-1 - len(request.continuation) for request in part]
            with self._adapted([request.adapter for request in part], ids_ST, mask_ST, last_S):
                logits_STV = self._logits(ids_ST, mask_ST, longest + 1)[:, -longest - 1 : -1].float()
            log_STV = logits_STV.log_softmax(dim=-1)
            for row, (number, request) in enumerate(zip(numbers, part, strict=True)):
                length = len(request.continuation)
                target_T = torch.tensor(request.continuation, device=log_STV.device)
                own_TV = log_STV[row, -length:]
                greedy = bool((own_TV.argmax(dim=-1) == target_T).all())
                found[number] = (float(own_TV.gather(1, target_T[:, None]).sum()), greedy)
                done(number, found[number])
        return found

    @torch.inference_mode()
    def answers(
        self, requests: Sequence[Prompted], done: Callable[[int, Answer], None] = lambda number, result: None
    ) -> list[Answer]:
        """The greedy answer to each prompt, without the text that ended it.

        An answer never gets longer than ``max_new_tokens`` nor than the base's window; a prompt that leaves no room
        loses its beginning.

        Args:
            done: called with a request's number and its answer, batch by batch.
        """
        found = [Answer("", False)] * len(requests)
        room = [self._room(request) for request in requests]
        rows = [
            list(request.prompt)[-(self.window - most if self.window else 1 << 30) :]
            for request, most in zip(requests, room, strict=True)
        ]
        kinds = [(request.adapter, most, request.until) for request, most in zip(requests, room, strict=True)]
        for bound in dict.fromkeys((most, until) for _, most, until in kinds):
            same = [number for number, kind in enumerate(kinds) if kind[1:] == bound]
            for places in self._batches([len(rows[n]) for n in same], [requests[n].adapter for n in same]):
                numbers = [same[place] for place in places]
                made = self._generate([rows[n] for n in numbers], [requests[n].adapter for n in numbers], *bound)
                for number, answer in zip(numbers, made, strict=True):
                    found[number] = answer
                    done(number, answer)
        return found

    def _room(self, request: Prompted) -> int:
        if not request.prompt:
            raise T2LError("A prompt has no tokens.")
        if request.max_new_tokens < 1:
            raise T2LError(f"max_new_tokens is {request.max_new_tokens}; it must be at least 1.")
        return min(request.max_new_tokens, self.window // 2) if self.window else request.max_new_tokens

    def _generate(self, rows: list[list[int]], adapters: list[int], most: int, until: tuple[str, ...]) -> list[Answer]:
        from transformers import StoppingCriteriaList

        ids_ST, mask_ST = self.base.padded(rows)
        ends, width = self.base.ends(), ids_ST.shape[1]
        stopped = StoppingCriteriaList([_Until(self.base.tokenizer, until, width)] if until else [])  # pyright: ignore
        with self._adapted(adapters, ids_ST, mask_ST, [-1] * len(rows)), quiet():
            out_ST = self.base.greedy(ids_ST, mask_ST, most, stopping_criteria=stopped)
        return [self._answer(row, ends, until, most) for row in out_ST[:, width:].tolist()]

    def _answer(self, tokens: list[int], ends: set[int], until: tuple[str, ...], most: int) -> Answer:
        stop = next((place for place, token in enumerate(tokens) if token in ends), None)
        text = str(self.base.tokenizer.decode(tokens[:stop], skip_special_tokens=True))
        cut = min((text.find(one) for one in until if one in text), default=None)
        if cut is not None:
            return Answer(text[:cut], False)
        return Answer(text, stop is None and len(tokens) >= most)

    def _logits(self, ids_ST: Tensor, mask_ST: Tensor, last: int) -> Tensor:
        """Logits of the last positions at least."""
        position_ST = (mask_ST.cumsum(dim=1) - 1).clamp_min(0)
        given: dict[str, Any] = {"logits_to_keep": last} if self._keeps else {}
        return self.model(
            input_ids=ids_ST, attention_mask=mask_ST, position_ids=position_ST, use_cache=False, **given
        ).logits

    def _adapted(self, adapters: Sequence[int], ids_ST: Tensor, mask_ST: Tensor, last_S: Sequence[int]) -> Any:
        """The context in which sample i of the batch has the adapter ``adapters[i]``; its prompt ends at last_S[i]."""
        used = sorted(set(adapters) - {PLAIN})
        if not used and self.source is not None:
            position_ST = (mask_ST.cumsum(dim=1) - 1).clamp_min(0)
            hidden_STW = self.model.base_model(
                input_ids=ids_ST, attention_mask=mask_ST, position_ids=position_ST
            ).last_hidden_state
            state_SW = hidden_STW[torch.arange(len(last_S), device=hidden_STW.device), torch.tensor(last_S)]
            return apply_batched(self.model, self.source.spec, self.source(state_SW.float()))
        if not used:
            return nullcontext()
        place = {adapter: row for row, adapter in enumerate(used)} | {PLAIN: PLAIN}
        weights = LoraWeights.cat([self.adapters[adapter].weights for adapter in used])
        weights = weights.to(self.model.device)  # once a batch, not once a token
        return apply_batched(self.model, self.adapters[used[0]].spec, weights, [place[one] for one in adapters])

    def _batches(self, lengths: Sequence[int], adapters: Sequence[int]) -> Iterator[list[int]]:
        """Numbers of requests that share a pass: the longest first, equal adapters side by side, one shape a pass."""
        shapes: dict[Any, list[int]] = {}
        for number, adapter in enumerate(adapters):
            shapes.setdefault(None if adapter == PLAIN else self._kind[adapter], []).append(number)
        plain = shapes.pop(None, [])
        first = next(iter(shapes), None)
        shapes[first] = [*shapes.get(first, []), *plain]  # a request without an adapter fits any batch
        for numbers in shapes.values():
            order = sorted(numbers, key=lambda n: (-lengths[n], adapters[n]))
            start = 0
            while start < len(order):
                size = max(1, min(self.batch, self.batch_tokens // max(1, lengths[order[start]])))
                yield sorted(order[start : start + size], key=lambda n: adapters[n])
                start += size


class _Until:
    """Transformers' stopping criterion: a row is done when its text holds one of the given ones."""

    def __init__(self, tokenizer: Any, until: tuple[str, ...], width: int) -> None:
        self.tokenizer, self.until, self.width = tokenizer, until, width

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        tail = max(len(text) for text in self.until) + 8  # tokens: a token has at least a byte, nearly always
        texts = self.tokenizer.batch_decode(input_ids[:, self.width :][:, -tail:], skip_special_tokens=True)
        done = [any(one in text for one in self.until) for text in texts]
        return torch.tensor(done, device=input_ids.device)


def _shape_of(spec: LoraSpec) -> Any:
    """What two adapters must share to stand in one batch."""
    return spec.groups, spec.rank, spec.scaling
