"""Greedy answers of a batch whose rows leave it as soon as they have ended.

Axis letters: S rows of the batch, T tokens, V vocabulary.

Level 5. Transformers' own ``generate`` computes every row until the last one has ended. Where one batch holds the
questions of many adapters, that one is nearly always far behind the rest. Bases whose cache is no list of keys and
values (state-space layers) go through ``generate`` all the same. This file knows tokens; it knows no adapter and no
text: the caller says in which context some of the rows are computed, and when a row has ended.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from t2l.bases import Base, quiet

Under = Callable[[Sequence[int]], AbstractContextManager[Any]]
"""From numbers of rows to the context in which a batch of just these is computed."""
Ended = Callable[[int, Sequence[int]], bool]
"""Of a row's number and its answer so far: whether the row has ended."""
_LEAVE = 0.75  # rows leave when no more than this share is still wanted: each time, the cache is copied


def greedy_tokens(
    base: Base, ids_ST: Tensor, mask_ST: Tensor, max_new_tokens: int, *, under: Under, ended: Ended
) -> list[list[int]]:
    """The greedy answer to each prompt of `Base.padded`, with the token that ended it.

    Args:
        under: called with the rows that are still wanted, whenever these get fewer.
        ended: called after each of a row's tokens; the base's end tokens end a row as well.
    """
    ends, rows = base.ends(), list(range(len(ids_ST)))
    answers: list[list[int]] = [[] for _ in rows]
    cache: Any = None
    next_S1 = ids_ST
    while rows:
        kept = rows
        with under(rows):
            while kept and (cache is None or len(kept) > _LEAVE * len(rows)):
                logits_SV, cache = next_logits(base.model, next_S1, mask_ST, cache)
                if cache is None:
                    return _by_generate(base, ids_ST, mask_ST, max_new_tokens, ended)
                next_S1 = logits_SV.argmax(dim=-1, keepdim=True)
                mask_ST = torch.cat([mask_ST, mask_ST.new_ones(len(rows), 1)], dim=1)
                wanted = set(kept)
                for row, token in zip(rows, next_S1[:, 0].tolist(), strict=True):
                    if row in wanted:
                        answers[row].append(token)
                        if token in ends or len(answers[row]) >= max_new_tokens or ended(row, answers[row]):
                            wanted.discard(row)
                kept = [row for row in kept if row in wanted]
        if kept:
            staying = set(kept)
            place_S = torch.tensor([place for place, row in enumerate(rows) if row in staying], device=ids_ST.device)
            cache.batch_select_indices(place_S)
            next_S1, mask_ST = next_S1[place_S], mask_ST[place_S]
        rows = kept
    return answers


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


def _is_plain(cache: Any) -> bool:
    """Whether every layer of the cache keeps keys and values of all rows, and nothing else."""
    from transformers import cache_utils

    plain = (cache_utils.DynamicLayer, cache_utils.DynamicSlidingWindowLayer)
    layers = getattr(cache, "layers", None)
    return bool(layers) and all(type(layer) in plain for layer in layers)


def _by_generate(base: Base, ids_ST: Tensor, mask_ST: Tensor, most: int, ended: Ended) -> list[list[int]]:
    """As `greedy_tokens`, inside the caller's context for all rows."""
    from transformers import StoppingCriteriaList

    width, ends = ids_ST.shape[1], base.ends()
    criteria: Any = [_Ended(ended, width)]
    with quiet():
        out_ST = base.greedy(ids_ST, mask_ST, most, stopping_criteria=StoppingCriteriaList(criteria))
    answers = []
    for row, tokens in enumerate(out_ST[:, width:].tolist()):
        length = next(
            (n for n in range(1, len(tokens) + 1) if tokens[n - 1] in ends or ended(row, tokens[:n])), len(tokens)
        )
        answers.append(tokens[:length])
    return answers


class _Ended:
    """Transformers' stopping criterion for `Ended`."""

    def __init__(self, ended: Ended, width: int) -> None:
        self.ended, self.width = ended, width

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        answers = input_ids[:, self.width :].tolist()
        return torch.tensor([self.ended(row, tokens) for row, tokens in enumerate(answers)], device=input_ids.device)
