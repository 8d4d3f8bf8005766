"""How fast this machine trains: two seconds of the real step on two layers of the base, with random weights.

Axis letters: C conditions, S samples, T tokens, E condition width.

Level 4. Reads no weights. What is measured is the step itself (adapters of their own for each condition, forward and
backward), so that it holds for any device, dtype and attention; it is scaled up by operations. Knows a recipe's
sections and the base's config; knows no data.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from t2l.base_structure import auto_class
from t2l.lora import LoraSource, LoraSpec, LoraWeights
from t2l.recipes.reader import Recipe
from t2l.recipes.sections import LossSection
from t2l.training.batches import IGNORED, Batch
from t2l.training.frozen_base import attention_of, dtype_of, enable_activation_checkpointing, without_dropout
from t2l.training.sft import learn_step

_LAYERS = 2
_WORDS = 256  # of the vocabulary: the output layer is counted, not measured
_SECONDS = 2.0
_CPU_TOKENS, _CPU_CONDITIONS = 2048, 8  # as many keep a CPU busy; more would only take longer to measure


class _Adapters(LoraSource):
    """N adapters that are parameters."""

    def __init__(self, spec: LoraSpec, count: int, device: torch.device) -> None:
        super().__init__()
        self.spec = spec
        self.a, self.b = nn.ParameterDict(), nn.ParameterDict()
        for group in spec.groups:
            depth = len(group.layers)
            self.a[group.key] = torch.full((count, depth, spec.rank, group.in_features), 1e-3, device=device)
            self.b[group.key] = torch.full((count, depth, group.out_features, spec.rank), 1e-3, device=device)

    def forward(self, condition_NE: Tensor) -> LoraWeights:
        return LoraWeights(dict(self.a.items()), dict(self.b.items()))


def this_device() -> torch.device:
    """The device that a training here would take."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def layers_rate(recipe: Recipe, config: Any, target_modules: Any, tokens: int, passes: float, conditions: int) -> float:
    """Operations a second of the base's layers in training, as ``passes`` a weight and token counts them.

    Args:
        config: of the base.
        target_modules: that get adapters, as `LoraSpec.from_base` takes them.
        tokens: of a sample.
        passes: operations a weight and token.
        conditions: adapters of a step.
    """
    device = this_device()
    small = copy.deepcopy(config)
    text = small.get_text_config()
    text.num_hidden_layers, text.vocab_size = _LAYERS, _WORDS
    text.pad_token_id = text.bos_token_id = text.eos_token_id = None
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:_LAYERS]
    small._attn_implementation = attention_of(recipe.base, device)
    base = auto_class(small).from_config(small).to(device, getattr(torch, dtype_of(recipe.base, device)))
    base.requires_grad_(False).train()
    without_dropout(base)
    if recipe.base.activation_checkpointing:
        enable_activation_checkpointing(base)
    spec = LoraSpec.from_base(small, target_modules=target_modules, rank=recipe.lora.rank)
    step = recipe.loop.tasks * recipe.loop.samples
    most = recipe.loop.micro_tokens if device.type == "cuda" else min(_CPU_TOKENS, recipe.loop.micro_tokens)
    samples = max(1, min(step, most // tokens))
    count = min(conditions, samples)
    ids_ST = torch.randint(0, _WORDS, (samples, tokens), generator=torch.Generator().manual_seed(0))
    labels_ST = ids_ST.clone()
    labels_ST[:, : max(1, tokens - tokens // 8 - 1)] = IGNORED
    micro = Batch(ids_ST, labels_ST, torch.arange(samples) * count // samples).to(device)
    source = _Adapters(spec, count, device)
    loss, condition_CE = LossSection(label_smoothing=0.0), torch.zeros(count, 1, device=device)
    seconds = _typical(lambda: learn_step(base, source, condition_CE, [micro], loss), device)
    head = base.get_output_embeddings()
    weights = sum(
        module.weight.numel() for module in base.modules() if isinstance(module, nn.Linear) and module is not head
    )
    return passes * weights * samples * tokens / seconds


def source_seconds(source: LoraSource, condition_CE: Tensor, autocast: bool) -> float:
    """Of one step: what generating its adapters takes, forward and backward."""
    device = this_device()
    source.to(device).train()
    count = len(condition_CE) if device.type == "cuda" else min(_CPU_CONDITIONS, len(condition_CE))
    scale, condition_CE = len(condition_CE) / count, condition_CE[:count].to(device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            weights = source(condition_CE)
        tensors = [*weights.a.values(), *weights.b.values()]
        torch.autograd.backward(tensors, [torch.ones_like(tensor) for tensor in tensors])

    return _typical(step, device) * scale


def _typical(step: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call: the median of what fits into half the time, after one call to warm up; two at least."""
    found: list[float] = []
    begun = time.perf_counter()
    while len(found) < 3 or time.perf_counter() - begun < _SECONDS / 2:
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
        if len(found) >= 2 and time.perf_counter() - begun > 2 * _SECONDS:
            break
    return sorted(found[1:])[(len(found) - 1) // 2]
