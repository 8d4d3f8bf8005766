"""Log-probabilities of continuations under many adapters, in shared batches; several after one context read it once.

Axis letters: S contexts of the batch, P continuations of the batch, T tokens, V vocabulary.

Level 5. The questions of a benchmark have two to five choices each. Their context, nearly always the longer part, is
read once, and its keys and values serve every choice, those of like length together; a base whose cache cannot do so
scores choice by choice. This file knows tokens and a decoder's adapters; it knows no benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from t2l.bases import Base
from t2l.batched import apply_batched
from t2l.errors import T2LError
from t2l.evaluation.adapters import Name
from t2l.evaluation.decoding import Decoder, keeps_logits, next_logits, positions

TokenIds = Sequence[int]
Under = Callable[[Sequence[int]], AbstractContextManager[Any]]
"""From numbers of rows to the context in which a batch of just these is computed."""
ContinuationScore = tuple[float, bool]
"""The log-probability of a continuation, and whether greedy decoding gives it."""
_TOKENS = 16384  # of a batch, whose logits are all looked at
_PASS_TOKENS = {"cpu": 48, "cuda": 1024}
"""What a pass costs besides its tokens, in tokens: below about so many, the machine waits for weights or for Python."""


@dataclass(frozen=True)
class Scored:
    """A continuation to score: the tokens before it, its own, and the name of the adapter (None for none)."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    adapter: Name | None = None


@torch.inference_mode()
def scores(
    decoder: Decoder,
    requests: Sequence[Scored],
    done: Callable[[Mapping[int, ContinuationScore]], None] = lambda found: None,
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
    if decoder.base.window is not None and longest >= decoder.base.window:
        raise T2LError(
            f"A continuation has {longest} tokens; '{decoder.base.name}' has room for {decoder.base.window}."
        )
    found: dict[int, ContinuationScore] = {}
    questions: dict[tuple[Name | None, tuple[int, ...]], list[int]] = {}
    for number, request in enumerate(requests):
        questions.setdefault((request.adapter, request.context), []).append(number)
    single, several = [], []
    for (_, context), numbers in questions.items():
        longest = max(len(requests[number].continuation) for number in numbers)
        fits = decoder.base.window is None or len(context) + longest <= decoder.base.window
        several.append(numbers) if len(numbers) > 1 and fits else single.extend([number] for number in numbers)
    for group, score in ((several, _choices), (single, _whole)):
        for numbers, results in score(decoder, group, requests):
            made = dict(zip(numbers, results, strict=True))
            found |= made
            done(made)
    return [found[number] for number in range(len(requests))]


def _whole(
    decoder: Decoder, group: Sequence[list[int]], requests: Sequence[Scored]
) -> Iterator[tuple[list[int], list[ContinuationScore]]]:
    """Numbers of requests with their scores, batch by batch: context and continuation in one pass."""
    flat = [number for numbers in group for number in numbers]
    tails = [requests[number].continuation for number in flat]
    contexts = [
        requests[number].context[-(decoder.base.window - len(tail) if decoder.base.window else 1 << 30) :]
        for number, tail in zip(flat, tails, strict=True)
    ]
    lengths = [len(one) + len(other) for one, other in zip(contexts, tails, strict=True)]
    for places in _passes(decoder, lengths, [requests[number].adapter for number in flat]):
        some, own = [contexts[place] for place in places], [tails[place] for place in places]
        under = _under_each(decoder, [requests[flat[place]].adapter for place in places], some)
        yield [flat[place] for place in places], whole_scores(decoder.base, some, own, under)


def _choices(
    decoder: Decoder, group: Sequence[list[int]], requests: Sequence[Scored]
) -> Iterator[tuple[list[int], list[ContinuationScore]]]:
    """As `_whole`, for numbers of requests that share a context, which is read once."""
    firsts = [requests[numbers[0]] for numbers in group]
    most = max(map(len, group), default=1)
    for places in _passes(decoder, [len(one.context) for one in firsts], [one.adapter for one in firsts], 2, most):
        contexts = [firsts[place].context for place in places]
        choices = [[requests[number].continuation for number in group[place]] for place in places]
        under = _under_each(decoder, [firsts[place].adapter for place in places], contexts)
        found = choice_scores(decoder.base, contexts, choices, under)
        if found is None:
            yield from _whole(decoder, [group[place] for place in places], requests)
            continue
        yield [n for place in places for n in group[place]], [one for some in found for one in some]


def _under_each(decoder: Decoder, names: Sequence[Name | None], prompts: Sequence[Sequence[int]]) -> Under:
    """In which context rows of a batch are computed: row i has the adapter ``names[i]``."""
    distinct = list(dict.fromkeys(name for name in names if name is not None))
    if not distinct and decoder.source is None:
        return lambda rows: nullcontext()
    spec, weights = decoder.weights(distinct, prompts)
    place = {name: row for row, name in enumerate(distinct)}
    index = [-1 if name is None else place[name] for name in names] if distinct else list(range(len(names)))
    return lambda rows: apply_batched(decoder.model, spec, weights, [index[row] for row in rows])


def _passes(
    decoder: Decoder, lengths: Sequence[int], names: Sequence[Name | None], steps: int = 1, rows: int = 1
) -> Iterator[list[int]]:
    """Numbers of requests that share a pass: the longest first, equal adapters side by side, one shape a pass.

    Args:
        steps: how many passes each batch takes, about.
        rows: how many rows each of them becomes, at most.
    """
    shapes: dict[Any, list[int]] = {}
    for number, name in enumerate(names):
        shapes.setdefault(None if name is None else decoder.shape(name), []).append(number)
    plain = shapes.pop(None, [])
    first = next(iter(shapes), None)
    shapes[first] = [*shapes.get(first, []), *plain]  # a request without an adapter fits any batch
    tokens = min(decoder.batch_tokens, _TOKENS)
    cost = steps * _PASS_TOKENS.get(decoder.model.device.type, _PASS_TOKENS["cuda"])
    for numbers in shapes.values():
        order = sorted(numbers, key=lambda n: (-lengths[n], names[n] or ()))
        most = max(1, decoder.rows // rows)
        sizes = cheapest_cuts([lengths[n] for n in order], cost, most, tokens // rows)
        start = 0
        for size in sizes:
            yield sorted(order[start : start + size], key=lambda n: names[n] or ())
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


def whole_scores(
    base: Base, contexts: Sequence[TokenIds], continuations: Sequence[TokenIds], under: Under
) -> list[ContinuationScore]:
    """Scores of one continuation after each context, in one pass over both."""
    ids_ST, mask_ST = base.padded([[*one, *other] for one, other in zip(contexts, continuations, strict=True)])
    longest = max(map(len, continuations))
    given: dict[str, Any] = {"logits_to_keep": longest + 1} if keeps_logits(base.model) else {}
    with under(range(len(contexts))):
        logits_STV = base.model(
            input_ids=ids_ST, attention_mask=mask_ST, position_ids=positions(mask_ST), use_cache=False, **given
        ).logits
    log_STV = logits_STV[:, -longest - 1 : -1].float().log_softmax(dim=-1)
    return [_score(log_TV[-len(tokens) :], tokens) for log_TV, tokens in zip(log_STV, continuations, strict=True)]


def choice_scores(
    base: Base, contexts: Sequence[TokenIds], choices: Sequence[Sequence[TokenIds]], under: Under
) -> list[list[ContinuationScore]] | None:
    """Scores of several continuations after each context; None where the base's cache cannot serve several."""
    ids_ST, mask_ST = base.padded([list(context) for context in contexts])
    with under(range(len(contexts))):
        first_SV, cache = next_logits(base.model, ids_ST, mask_ST, None)
    if cache is None:
        return None
    owner_P = [row for row, some in enumerate(choices) for _ in some]
    flat = [list(tokens) for some in choices for tokens in some]
    first_SV = first_SV.float().log_softmax(dim=-1)
    found = [_score(first_SV[row, None], tokens[:1]) for row, tokens in zip(owner_P, flat, strict=True)]
    cost = _PASS_TOKENS.get(ids_ST.device.type, _PASS_TOKENS["cuda"])
    for places in by_length([len(tokens) - 1 for tokens in flat], cost):  # a last token is only asked for
        longest = max(len(flat[place]) for place in places) - 1
        rows = [owner_P[place] for place in places]
        row_P = torch.tensor(rows, device=ids_ST.device)
        more_PT = torch.tensor([(flat[place][:-1] + [base.padding] * longest)[:longest] for place in places])
        more_PT = more_PT.to(ids_ST.device)  # padded on the right, where it can change nothing before it
        mask_PT = torch.cat([mask_ST[row_P], mask_ST.new_ones(more_PT.shape)], dim=1)
        with under(rows):
            logits_PTV = base.model(
                input_ids=more_PT,
                attention_mask=mask_PT,
                position_ids=positions(mask_PT)[:, -longest:],
                past_key_values=_rows_of(cache, row_P),
                use_cache=True,
            ).logits
        log_PTV = logits_PTV.float().log_softmax(dim=-1)
        for place, log_TV in zip(places, log_PTV, strict=True):
            rest, greedy = _score(log_TV[: len(flat[place]) - 1], flat[place][1:])
            found[place] = found[place][0] + rest, found[place][1] and greedy
    scores = iter(found)
    return [[next(scores) for _ in some] for some in choices]


def by_length(lengths: Sequence[int], pass_cost: int) -> list[list[int]]:
    """Numbers of continuations that share a pass, each in rising order; those of length 0 need none.

    A shorter length joins the pass of the longer ones unless padding to it costs more than a pass of its own.
    """
    same: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        same.setdefault(length, []).append(number)
    passes: list[list[int]] = []
    longest = padding = 0
    for length in sorted(same, reverse=True):
        if length < 1:
            break
        padding += len(same[length]) * (longest - length)
        if not passes or padding > pass_cost:
            passes.append([])
            longest, padding = length, 0
        passes[-1] += same[length]
    return [sorted(numbers) for numbers in passes]


def _rows_of(cache: Any, row_P: Tensor) -> Any:
    """Rows of a cache as a cache of their own; the one given stays as it is."""
    own = copy(cache)
    own.layers = [copy(layer) for layer in cache.layers]
    own.batch_select_indices(row_P)
    return own


def _score(log_TV: Tensor, tokens: TokenIds) -> ContinuationScore:
    """Of one continuation, from the log-probabilities at its own tokens."""
    target_T = torch.tensor(list(tokens), device=log_TV.device)
    greedy = bool((log_TV.argmax(dim=-1) == target_T).all())
    return float(log_TV.gather(1, target_T[:, None]).sum()), greedy
