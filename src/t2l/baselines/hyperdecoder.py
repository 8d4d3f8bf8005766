"""Hyperdecoder (arXiv 2203.08304): the hypernetwork reads the input to be answered instead of a task description.

Every input gets an adapter of its own, from the frozen base's last hidden state at the last token of the prompt. What
names the task must then be visible in the input itself.

Axis letters: S samples, T tokens, W hidden width of the base.

Level 5. The source is a plain `t2l.hypernet.HyperNetwork` with E = W; this file gives it its conditions and its loss.
It does not know tasks, texts or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from t2l.errors import T2LError
from t2l.lora import LoraSource
from t2l.training.sft import IGNORED, Batch, SftConfig, sft_loss
from t2l.training.standardization import Standardization


@torch.no_grad()
def input_states(base: Any, batch: Batch) -> Tensor:
    """The plain base's last hidden state at the last token before each sample's answer: (S, W), float32.

    Under causal attention the state does not depend on what follows it, so the answer may stand in the batch: nothing
    of it gets into the condition.

    Raises:
        T2LError: a sample without an answer, or one that begins with it.
    """
    labelled_ST = batch.labels_ST != IGNORED
    first_S = labelled_ST.int().argmax(dim=1)
    if not bool(labelled_ST.any(dim=1).all()) or not bool((first_S > 0).all()):
        raise T2LError("A hyperdecoder's sample needs a prompt and, after it, an answer.")
    with torch.autocast(batch.ids_ST.device.type, enabled=False):  # the same state in training and in use
        hidden_STW = base.base_model(input_ids=batch.ids_ST).last_hidden_state
    return hidden_STW[torch.arange(len(first_S), device=hidden_STW.device), first_S - 1].float()


def hyperdecoder_loss(
    base: Any,
    source: LoraSource,
    batches: Sequence[Batch],
    config: SftConfig,
    standardize: Standardization | None = None,
) -> Tensor:
    """The SFT loss with one adapter a sample, each conditioned on the sample's own prompt.

    Args:
        batches: which conditions their samples name is not read.
        standardize: of the conditions, where the source is to read standardised ones.
    """
    states = [input_states(base, batch) for batch in batches]
    condition_SW = torch.cat(states)
    if standardize is not None:
        condition_SW = standardize(condition_SW)
    start, own = 0, []
    for batch in batches:
        own.append(replace(batch, index_S=torch.arange(start, start + len(batch.ids_ST))))
        start += len(batch.ids_ST)
    return sft_loss(base, source, condition_SW, own, config)
