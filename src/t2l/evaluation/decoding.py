"""Scores and greedy answers of one base under many adapters, in shared batches: what evaluation asks of a model.

Axis letters: S requests of a batch, T tokens, V vocabulary.

Level 5. Requests are sorted by length and padded on the left; each has an adapter of its own or none, and adapters of
different shapes (a folder of rank-4 adapters beside rank 8) take turns. This file knows tokens and adapters; it knows
no benchmark, no harness and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from t2l.adapter import Adapter
from t2l.bases import Base
from t2l.batched import apply_batched
from t2l.errors import T2LError
from t2l.evaluation.greedy import Under, greedy_tokens, positions
from t2l.evaluation.scoring import Score, choice_scores, whole_scores
from t2l.lora import LoraSource, LoraSpec, LoraWeights

PLAIN = -1
"""In place of an adapter's number: the base as it is."""
_PASS_TOKENS = {"cpu": 48, "cuda": 1024}
"""What a pass costs besides its tokens, in tokens: below about so many, the machine waits for weights or for Python."""
_USUAL_ANSWER = 16  # tokens


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

    @property
    def window(self) -> int | None:
        """The most tokens the base reads, where its config says so."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @torch.inference_mode()
    def scores(
        self,
        requests: Sequence[Scored],
        done: Callable[[int, Score], None] = lambda number, result: None,
    ) -> list[Score]:
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
        found: list[Score] = [(0.0, False)] * len(requests)
        questions: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for number, request in enumerate(requests):
            questions.setdefault((request.adapter, request.context), []).append(number)
        single, several = [], []
        for (_, context), numbers in questions.items():
            longest = max(len(requests[number].continuation) for number in numbers)
            fits = self.window is None or len(context) + longest <= self.window
            several.append(numbers) if len(numbers) > 1 and fits else single.extend([number] for number in numbers)
        for group, score in ((several, self._choices), (single, self._whole)):
            for numbers, scores in score(group, requests):
                for number, own in zip(numbers, scores, strict=True):
                    found[number] = own
                    done(number, own)
        return found

    def _whole(self, group: Sequence[list[int]], requests: Sequence[Scored]) -> Iterator[tuple[list[int], list[Score]]]:
        """Numbers of requests with their scores, batch by batch: context and continuation in one pass."""
        flat = [number for numbers in group for number in numbers]
        tails = [requests[number].continuation for number in flat]
        contexts = [
            requests[number].context[-(self.window - len(tail) if self.window else 1 << 30) :]
            for number, tail in zip(flat, tails, strict=True)
        ]
        lengths = [len(one) + len(other) for one, other in zip(contexts, tails, strict=True)]
        for places in self._batches(lengths, [requests[number].adapter for number in flat]):
            some, own = [contexts[place] for place in places], [tails[place] for place in places]
            under = self._given([requests[flat[place]].adapter for place in places], some)
            yield [flat[place] for place in places], whole_scores(self.base, some, own, under)

    def _choices(
        self, group: Sequence[list[int]], requests: Sequence[Scored]
    ) -> Iterator[tuple[list[int], list[Score]]]:
        """As `_whole`, for numbers of requests that share a context, which is read once."""
        firsts = [requests[numbers[0]] for numbers in group]
        most = max(map(len, group), default=1)
        for places in self._batches([len(one.context) for one in firsts], [one.adapter for one in firsts], 2, most):
            contexts = [firsts[place].context for place in places]
            choices = [[requests[number].continuation for number in group[place]] for place in places]
            under = self._given([firsts[place].adapter for place in places], contexts)
            scores = choice_scores(self.base, contexts, choices, under)
            if scores is None:
                yield from self._whole([group[place] for place in places], requests)
                continue
            yield [n for place in places for n in group[place]], [one for some in scores for one in some]

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
            for places in self._batches(
                [len(rows[n]) for n in same], [requests[n].adapter for n in same], min(bound[0], _USUAL_ANSWER)
            ):
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
        ids_ST, mask_ST = self.base.padded(rows)
        tail = max(map(len, until), default=0) + 8  # tokens: a token has at least a byte, nearly always

        def ended(row: int, tokens: Sequence[int]) -> bool:
            if not until:
                return False
            text = self.base.tokenizer.decode(list(tokens[-tail:]), skip_special_tokens=True)
            return any(one in text for one in until)

        found = greedy_tokens(self.base, ids_ST, mask_ST, most, under=self._given(adapters, rows), ended=ended)
        ends = self.base.ends()
        return [self._answer(tokens, ends, until, most) for tokens in found]

    def _answer(self, tokens: list[int], ends: set[int], until: tuple[str, ...], most: int) -> Answer:
        stop = next((place for place, token in enumerate(tokens) if token in ends), None)
        text = str(self.base.tokenizer.decode(tokens[:stop], skip_special_tokens=True))
        cut = min((text.find(one) for one in until if one in text), default=None)
        if cut is not None:
            return Answer(text[:cut], False)
        return Answer(text, stop is None and len(tokens) >= most)

    def _given(self, adapters: Sequence[int], prompts: Sequence[Sequence[int]]) -> Under:
        """In which context rows of a batch are computed: row i has the adapter ``adapters[i]``.

        Args:
            prompts: of the rows, for a hyperdecoder.
        """
        used = sorted(set(adapters) - {PLAIN})
        if used:
            spec = self.adapters[used[0]].spec
            weights = LoraWeights.cat([self.adapters[adapter].weights for adapter in used])
            place = {adapter: row for row, adapter in enumerate(used)} | {PLAIN: PLAIN}
            index = [place[one] for one in adapters]
        elif self.source is not None:
            ids_ST, mask_ST = self.base.padded([list(prompt) for prompt in prompts])
            hidden_STW = self.model.base_model(
                input_ids=ids_ST, attention_mask=mask_ST, position_ids=positions(mask_ST)
            ).last_hidden_state
            spec, weights = self.source.spec, self.source(hidden_STW[:, -1].float())
            index = list(range(len(adapters)))
        else:
            return lambda rows: nullcontext()
        weights = weights.to(self.model.device)  # once a batch, not once a token
        return lambda rows: apply_batched(self.model, spec, weights, [index[row] for row in rows])

    def _batches(
        self, lengths: Sequence[int], adapters: Sequence[int], steps: int = 1, rows: int = 1
    ) -> Iterator[list[int]]:
        """Numbers of requests that share a pass: the longest first, equal adapters side by side, one shape a pass.

        Args:
            steps: how many passes each batch takes, about.
            rows: how many rows each of them becomes, at most.
        """
        shapes: dict[Any, list[int]] = {}
        for number, adapter in enumerate(adapters):
            shapes.setdefault(None if adapter == PLAIN else self._kind[adapter], []).append(number)
        plain = shapes.pop(None, [])
        first = next(iter(shapes), None)
        shapes[first] = [*shapes.get(first, []), *plain]  # a request without an adapter fits any batch
        most = max(1, self.batch // rows)
        cost = steps * _PASS_TOKENS.get(self.model.device.type, _PASS_TOKENS["cuda"])
        for numbers in shapes.values():
            order = sorted(numbers, key=lambda n: (-lengths[n], adapters[n]))
            sizes = cheapest_cuts([lengths[n] for n in order], cost, most, self.batch_tokens // rows)
            start = 0
            for size in sizes:
                yield sorted(order[start : start + size], key=lambda n: adapters[n])
                start += size


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


def _shape_of(spec: LoraSpec) -> Any:
    """What two adapters must share to stand in one batch."""
    return spec.groups, spec.rank, spec.scaling
