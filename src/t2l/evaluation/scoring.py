"""Log-probabilities of continuations: one after its context, or several after one context that is read once.

Axis letters: S contexts of the batch, P continuations of the batch, T tokens, V vocabulary.

Level 5. The questions of a benchmark have two to five choices each. Their context, nearly always the longer part, is
read once, and its keys and values serve every choice. This file knows tokens; it knows no adapter: the caller says in
which context rows are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from t2l.bases import Base
from t2l.evaluation.greedy import Under, keeps_logits, next_logits, positions

Tokens = Sequence[int]
Score = tuple[float, bool]
"""The log-probability of a continuation, and whether greedy decoding gives it."""


def whole_scores(base: Base, contexts: Sequence[Tokens], continuations: Sequence[Tokens], under: Under) -> list[Score]:
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
    base: Base, contexts: Sequence[Tokens], choices: Sequence[Sequence[Tokens]], under: Under
) -> list[list[Score]] | None:
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


def _score(log_TV: Tensor, tokens: Tokens) -> Score:
    """Of one continuation, from the log-probabilities at its own tokens."""
    target_T = torch.tensor(list(tokens), device=log_TV.device)
    greedy = bool((log_TV.argmax(dim=-1) == target_T).all())
    return float(log_TV.gather(1, target_T[:, None]).sum()), greedy
