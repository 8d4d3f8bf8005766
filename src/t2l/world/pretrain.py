"""Pretraining of the tiny base. Knows the base and its examples, not descriptions or adapters."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.training.frozen_base import bfloat16_is_fast
from t2l.training.sft import labelled_logits
from t2l.training.source import muon_and_adamw
from t2l.world.base import base_config, few_shot_batch, save_tokenizer
from t2l.world.loop import LoopConfig, Report, train
from t2l.world.tasks import pretraining_draw

PRETRAINING = LoopConfig(steps=2300, warmup=60, decay=0.6, save_every=100)
TOKENS = 6144
"""Tokens a step, padding included."""
MATRIX_LR = 4e-3
"""Peak learning rate of Muon (weight matrices)."""
OTHER_LR = 3e-3
"""Peak learning rate of AdamW (embeddings and norms)."""


def pretrain(folder: Path, report: Report, config: LoopConfig = PRETRAINING) -> None:
    """Trains the base and writes it to ``folder/base``; resumes from ``folder/base-state.pt`` if it is there."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(config.seed)
    model = LlamaForCausalLM(base_config())

    def loss_at(step: int) -> Tensor:
        ids_ST, labels_ST = few_shot_batch(Random(f"{config.seed}/{step}"), pretraining_draw, TOKENS)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast()):
            return run_loss(model, ids_ST, labels_ST)

    optimizers = muon_and_adamw(model, lambda name, _: "embed" not in name, matrix_lr=MATRIX_LR, other_lr=OTHER_LR)
    train(model, optimizers, loss_at, config, state_path=folder / "base-state.pt", report=report)
    model.half().save_pretrained(folder / "base")
    save_tokenizer(folder / "base")


def run_loss(model: Any, ids_ST: Tensor, labels_ST: Tensor) -> Tensor:
    """Next-token cross-entropy, averaged over all labelled positions: every character of an answer weighs the same."""
    logits_KV, targets_K, _ = labelled_logits(model, ids_ST, labels_ST)
    return F.cross_entropy(logits_KV.float(), targets_K)
