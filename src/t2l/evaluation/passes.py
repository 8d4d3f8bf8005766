"""Single passes of a base: the next token with its cache, and log-probabilities of continuations.

Axis letters: S rows or contexts of the batch, P continuations of the batch, T tokens, V vocabulary.

Level 5. The questions of a benchmark have two to five choices each. Their context, nearly always the longer part, is
read once, and its keys and values serve every choice. Bases whose cache is no list of keys and values (state-space
layers) go through transformers' own ``generate``, and score choice by choice. This file knows tokens; it knows no
adapter: the caller says in which context rows are computed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from t2l.bases import Base, quiet

TokenIds = Sequence[int]
Under = Callable[[Sequence[int]], AbstractContextManager[Any]]
"""From numbers of rows to the context in which a batch of just these is computed."""
ContinuationScore = tuple[float, bool]
"""The log-probability of a continuation, and whether greedy decoding gives it."""


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


def generated(
    base: Base, ids_ST: Tensor, mask_ST: Tensor, max_new_tokens: int, ended: Callable[[TokenIds], bool]
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
    log_PTV = first_SV.float().log_softmax(dim=-1)[owner_P][:, None]
    longest = max(map(len, flat)) - 1  # the last token of a continuation is only asked for
    if longest:
        place_P = torch.tensor(owner_P, device=ids_ST.device)
        cache.batch_select_indices(place_P)
        more_PT = torch.tensor([(tokens[:-1] + [base.padding] * longest)[:longest] for tokens in flat])
        more_PT = more_PT.to(ids_ST.device)  # padded on the right, where it can change nothing before it
        mask_PT = torch.cat([mask_ST[place_P], mask_ST.new_ones(more_PT.shape)], dim=1)
        with under(owner_P):
            logits_PTV = base.model(
                input_ids=more_PT,
                attention_mask=mask_PT,
                position_ids=positions(mask_PT)[:, -longest:],
                past_key_values=cache,
                use_cache=True,
            ).logits
        log_PTV = torch.cat([log_PTV, logits_PTV.float().log_softmax(dim=-1)], dim=1)
    scores = iter([_score(log_TV[: len(tokens)], tokens) for log_TV, tokens in zip(log_PTV, flat, strict=True)])
    return [[next(scores) for _ in some] for some in choices]


def _score(log_TV: Tensor, tokens: TokenIds) -> ContinuationScore:
    """Of one continuation, from the log-probabilities at its own tokens."""
    target_T = torch.tensor(list(tokens), device=log_TV.device)
    greedy = bool((log_TV.argmax(dim=-1) == target_T).all())
    return float(log_TV.gather(1, target_T[:, None]).sum()), greedy


def _is_plain(cache: Any) -> bool:
    """Whether every layer of the cache keeps keys and values of all rows, and nothing else."""
    from transformers import cache_utils

    plain = (cache_utils.DynamicLayer, cache_utils.DynamicSlidingWindowLayer)
    layers = getattr(cache, "layers", None)
    return bool(layers) and all(type(layer) in plain for layer in layers)
