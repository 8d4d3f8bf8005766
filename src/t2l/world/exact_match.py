"""Exact match of greedy answers on micro-tasks, for many adapters in shared batches, in one forward pass.

A greedy answer equals the expected one exactly when, with the expected answer fed in, the likeliest token is the
expected one at each of its positions, its end included; so no token-by-token generation is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from t2l.batched import apply_batched
from t2l.lora import LoraSpec, LoraWeights
from t2l.training.batches import IGNORED
from t2l.training.sft import labelled_logits
from t2l.world.base import encode_runs

Example = tuple[str, str]


@dataclass(frozen=True)
class Query:
    """One scored answer.

    Args:
        example: input and expected output.
        adapter: which of the N adapters answers, -1 for the plain base.
        shots: examples shown before.
    """

    example: Example
    adapter: int = -1
    shots: tuple[Example, ...] = ()


@torch.inference_mode()
def exact_match(
    base: Any,
    queries: Sequence[Query],
    spec: LoraSpec | None = None,
    weights: LoraWeights | None = None,
    batch: int = 256,
) -> list[bool]:
    """Whether each query's greedy answer is exactly the expected one, in order; equal queries are answered once."""
    asked, queries = queries, list(dict.fromkeys(queries))
    order = sorted(range(len(queries)), key=lambda i: _length(queries[i]))
    right: dict[Query, bool] = {}
    for start in range(0, len(order), batch):
        rows = sorted(order[start : start + batch], key=lambda i: queries[i].adapter)
        ids_ST, labels_ST = encode_runs([[*queries[i].shots, queries[i].example] for i in rows])
        for row, i in enumerate(rows):  # only the last answer of a row is scored
            scored = len(queries[i].example[1]) + 1
            labelled = (labels_ST[row] != IGNORED).nonzero()[:-scored]
            labels_ST[row, labelled] = IGNORED
        context = nullcontext()
        adapters = sorted({queries[i].adapter for i in rows} - {-1})
        if adapters:
            assert spec is not None and weights is not None, "queries name adapters that were not given"
            place = {adapter: position for position, adapter in enumerate(adapters)} | {-1: -1}
            used = weights.select(torch.tensor(adapters))
            context = apply_batched(base, spec, used, [place[queries[i].adapter] for i in rows])
        with context:
            logits_KV, targets_K, sample_K = labelled_logits(base, ids_ST, labels_ST)
        wrong_K = logits_KV.argmax(dim=-1) != targets_K
        missed = torch.bincount(sample_K, weights=wrong_K.float(), minlength=len(rows))
        for row, i in enumerate(rows):
            right[queries[i]] = missed[row].item() == 0
    return [right[query] for query in asked]


def _length(query: Query) -> int:
    return sum(len(question) + len(answer) + 2 for question, answer in (*query.shots, query.example))
