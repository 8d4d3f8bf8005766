"""Pretraining of the tiny base. Knows the base and its examples, not descriptions or adapters."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2l.errors import T2LError
from t2l.training.loop import LoopConfig, Report, bfloat16_is_fast, train
from t2l.training.sft import labelled_logits
from t2l.world.base import base_config, few_shot_batch, save_tokenizer
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

    train(model, _optimizers(model), loss_at, config, state_path=folder / "base-state.pt", report=report)
    model.half().save_pretrained(folder / "base")
    save_tokenizer(folder / "base")


def run_loss(model: Any, ids_ST: Tensor, labels_ST: Tensor) -> Tensor:
    """Next-token cross-entropy, averaged over all labelled positions: every character of an answer weighs the same."""
    logits_KV, targets_K, _ = labelled_logits(model, ids_ST, labels_ST)
    return F.cross_entropy(logits_KV.float(), targets_K)


def _optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    if not hasattr(torch.optim, "Muon"):
        raise T2LError(f"Pretraining the base takes torch 2.9 or newer (its Muon); this is {torch.__version__}.")
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "embed" not in name else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=MATRIX_LR, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=OTHER_LR, weight_decay=0.0, betas=(0.9, 0.98)),
    ]
