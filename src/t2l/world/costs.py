"""What an answer costs, in floating-point operations: with an adapter, and with examples in the prompt instead.

A product with a weight of n elements counts 2n for each token, causal attention 2 d T^2 for each layer (scores and
mixing, half of them masked). Logits count where an answer is predicted. Norms and activations do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from t2l.model import TextToLora
from t2l.world.evaluate import SHOTS
from t2l.world.exact_match import Example
from t2l.world.tasks import MicroTask
from t2l.world.wording import descriptions


def costs(t2l: TextToLora, base: Any, tasks: Sequence[MicroTask], *, examples: int, seed: int) -> dict[str, float]:
    """Operations of an answer (``"adapter"``, ``"3-shot"`` ...), and of making one adapter (``"generation"``).

    The adapter's products are counted beside the base's, as if it were not merged. Averages over inputs of the tasks.
    """
    found: dict[str, float] = {}
    for name, shots in SHOTS.items():
        runs = [run for task in tasks for run in _runs(task, shots, examples, seed)]
        found[name] = sum(answer_flops(base, run) for run in runs) / len(runs)
        if not shots:
            tokens = sum(_length(run) for run in runs) / len(runs)
            found["adapter"] = found.pop(name) + 2 * t2l.spec.num_parameters * tokens
    texts = [descriptions(task, 1, part="train", seed=seed + 1)[0] for task in tasks]
    found["generation"] = sum(generation_flops(t2l, text) for text in texts) / len(texts)
    return found


def answer_flops(base: Any, run: Sequence[Example]) -> float:
    """Operations of reading a run of examples and giving the last one's answer, without an adapter."""
    tokens, answer = _length(run), len(run[-1][1]) + 1
    head = base.get_output_embeddings()
    inside = [module for module in base.modules() if isinstance(module, nn.Linear) and module is not head]
    linear = 2 * tokens * sum(module.weight.numel() for module in inside)
    attention = 2 * base.config.hidden_size * tokens**2 * base.config.num_hidden_layers
    return linear + attention + 2 * answer * head.weight.numel()


@torch.inference_mode()
def generation_flops(t2l: TextToLora, text: str) -> float:
    """Operations of one adapter from its description, encoder included."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see into fused layers
    try:
        with FlopCounterMode(display=False) as counter:
            t2l.hypernetwork(t2l.encoder.encode([text]))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return float(counter.get_total_flops())


def _runs(task: MicroTask, shots: int, examples: int, seed: int) -> list[list[Example]]:
    shown = task.examples(shots * examples, seed=seed, part="train")
    asked = task.examples(examples, seed=seed)
    return [[*shown[i * shots : (i + 1) * shots], example] for i, example in enumerate(asked)]


def _length(run: Sequence[Example]) -> int:
    """Tokens read: a begin, and for each example its characters, the separator and the end, but for the last end."""
    return sum(len(question) + len(answer) + 2 for question, answer in run)
