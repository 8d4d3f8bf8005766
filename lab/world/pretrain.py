"""Pretraining of the tiny base: ``python -m lab.world.pretrain OUT``, about half an hour of two CPU cores.

Knows the base and its examples, not descriptions or adapters. Another machine's rounding gives slightly other weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.world.base import base_config, few_shot_batch, save_tokenizer
from lab.world.tasks import pretraining_draw
from t2l.errors import T2LError
from t2l.storage import new_folder
from t2l.training.frozen_base import bfloat16_is_fast
from t2l.training.sft import labelled_logits
from t2l.training.source import muon_and_adamw

STEPS, WARMUP, DECAY = 2300, 60, 0.6
"""Steps, those in which the learning rate rises, and the fraction, at the end, in which it falls to zero."""
TOKENS = 6144
"""Tokens a step, padding included."""
MATRIX_LR = 4e-3
"""Peak learning rate of Muon (weight matrices)."""
OTHER_LR = 3e-3
"""Peak learning rate of AdamW (embeddings and norms)."""
_SAID_EVERY = 20  # steps


def pretrain(
    folder: Path, *, steps: int = STEPS, tokens: int = TOKENS, seed: int = 0, say: Callable[[str], None] = print
) -> None:
    """Trains the base and writes it to ``folder``, which does not exist yet."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(base_config())
    optimizers = muon_and_adamw(model, lambda name, _: "embed" not in name, matrix_lr=MATRIX_LR, other_lr=OTHER_LR)
    peaks = [(group, group["lr"]) for optimizer in optimizers for group in optimizer.param_groups]
    with new_folder(folder, marker="config.json", force=False) as inside:
        for step in range(steps):
            for group, peak in peaks:
                group["lr"] = peak * min(1.0, (step + 1) / WARMUP) * min(1.0, (steps - step) / (DECAY * steps))
            ids_ST, labels_ST = few_shot_batch(Random(f"{seed}/{step}"), pretraining_draw, tokens)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast()):
                loss = run_loss(model, ids_ST, labels_ST)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if (step + 1) % _SAID_EVERY == 0 or step + 1 == steps:
                say(f"step {step + 1} of {steps}, loss {loss.item():.3f}")
        model.half().save_pretrained(inside)
        save_tokenizer(inside)


def run_loss(model: Any, ids_ST: Tensor, labels_ST: Tensor) -> Tensor:
    """Next-token cross-entropy, averaged over all labelled positions: every character of an answer weighs the same."""
    logits_KV, targets_K, _ = labelled_logits(model, ids_ST, labels_ST)
    return F.cross_entropy(logits_KV.float(), targets_K)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m lab.world.pretrain", description="Pretrain the tiny base.")
    parser.add_argument("output", type=Path, help="the folder to write")
    try:
        pretrain(parser.parse_args().output)
    except T2LError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
