"""What a recipe would do, before anything is started: shapes, parameters, memory, steps, time.

Level 4. Made from the base's config alone. Memory and time are estimates from counts of numbers and of operations;
what is assumed is said beside them. This file measures nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from t2l.bases import base_config
from t2l.encoders import encoder_from_config
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.training.cross_entropy import LOGITS_AT_ONCE
from t2l.training.recipes import Recipe
from t2l.training.sft_run import build_source, build_spec

_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
_FEW_BITS = {"8bit": 1.0, "4bit": 0.53}  # a weight of a linear layer, with its scales
_TRAINED = 16  # bytes a trained number: itself, its gradient, AdamW's two averages, float32
_LAYER_STATES = 34  # (tokens x width) numbers that a layer keeps for backward with fused attention (arXiv 2205.05198)
_WORKSPACE = 0.8  # GiB: CUDA's context and the allocator's slack


@dataclass(frozen=True)
class Plan:
    """A recipe in numbers.

    Args:
        modules: group -> layers, in-features, out-features.
        base_parameters: of the base.
        trained_parameters: of what is trained.
        adapter_parameters: of one adapter.
        memory: GiB of one device, by purpose.
        micro_batches: a step, and how many of them each process takes.
        hours: of the whole run; without validation.
    """

    what: str
    about: str
    base_model: str
    modules: dict[str, tuple[int, int, int]]
    base_parameters: int
    trained_parameters: int
    adapter_parameters: int
    memory: dict[str, float]
    memory_total: float
    memory_limit: float
    steps: int
    samples: int
    micro_batches: int
    devices: int
    hours: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def text(self) -> str:
        """The plan for people."""
        shapes = [f"  {key}: {layers} layers, {i} -> {o}" for key, (layers, i, o) in self.modules.items()]
        parts = ", ".join(f"{name} {gib:.1f}" for name, gib in self.memory.items())
        fits = "fits" if self.memory_total <= self.memory_limit else "DOES NOT FIT"
        lines = [
            f"t2l train {self.what}: {self.about}",
            f"base: {self.base_model}, {self.base_parameters:,} parameters, frozen",
            *shapes,
            f"one adapter: {self.adapter_parameters:,} parameters",
            f"trained: {self.trained_parameters:,} parameters",
            f"steps: {self.steps:,}; {self.samples:,} samples; {self.micro_batches} micro-batches a step on "
            f"{self.devices} device(s)",
            f"memory of a device: about {self.memory_total:.1f} of {self.memory_limit:.0f} GB, {fits} ({parts})",
            f"time: about {self.hours:,.1f} hours" if self.hours >= 1 else f"time: about {60 * self.hours:.1f} minutes",
            *(f"note: {note}" for note in self.notes),
            "Nothing was started.",
        ]
        return "\n".join(lines)


def plan_of(recipe: Recipe, what: str = "sft") -> Plan:
    """The plan of a recipe for ``t2l train sft``, ``lora`` or ``hyperdecoder``.

    No weights are read and nothing is written.

    Raises:
        BaseModelError: the base's config cannot be found.
        T2LError: the hypernetwork or the encoder cannot be built from the recipe.
    """
    spec = build_spec(recipe)
    config = base_config(recipe.base.model, revision=recipe.base.revision)
    base_parameters, linear_parameters = _count(config)
    trained = spec.num_parameters if what == "lora" else _hypernetwork_parameters(recipe, spec, config, what)
    tokens, notes = _tokens_of_a_sample(recipe)
    memory = _memory(recipe, spec, config, base_parameters, linear_parameters, trained, tokens, what)
    micro_batches = recipe.loop.batch // recipe.loop.micro_batch
    devices = recipe.hardware.devices
    if micro_batches % devices:
        notes.append(f"{micro_batches} micro-batches a step cannot be shared out to {devices} devices evenly")
    samples = recipe.loop.steps * recipe.loop.batch
    passes = 6.0 if recipe.base.activation_checkpointing else 4.0  # operations a weight and token: 2 each way, 2 again
    if recipe.loss.distill:
        passes += 2.0
    operations = passes * base_parameters * tokens * samples
    rate = recipe.hardware.teraflops * 1e12 * recipe.hardware.utilization * devices
    notes.append(
        f"time assumes {recipe.hardware.teraflops:g} TFLOP/s a device, {recipe.hardware.utilization:.0%} of it reached"
    )
    return Plan(
        what=what,
        about=recipe.about,
        base_model=recipe.base.model,
        modules={group.key: (len(group.layers), group.in_features, group.out_features) for group in spec.groups},
        base_parameters=base_parameters,
        trained_parameters=trained,
        adapter_parameters=spec.num_parameters,
        memory=memory,
        memory_total=sum(memory.values()),
        memory_limit=recipe.hardware.memory,
        steps=recipe.loop.steps,
        samples=samples,
        micro_batches=micro_batches,
        devices=devices,
        hours=operations / rate / 3600,
        notes=tuple(notes),
    )


def _count(config: Any) -> tuple[int, int]:
    """Parameters of the base, and those of its linear layers, from shapes alone."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    linear = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    )
    return sum(parameter.numel() for parameter in model.parameters()), linear


def _hypernetwork_parameters(recipe: Recipe, spec: LoraSpec, config: Any, what: str) -> int:
    if what == "hyperdecoder":
        wanted, width = recipe.hypernetwork, int(config.get_text_config().hidden_size)
        with torch.device("meta"):
            made = HyperNetwork(spec, width, wanted.variant, trunk_dim=wanted.trunk_dim, head_dim=wanted.head_dim)
        return made.num_parameters
    encoder = encoder_from_config(recipe.encoder)
    with torch.device("meta"):
        return build_source(recipe, spec, encoder).num_parameters


def _tokens_of_a_sample(recipe: Recipe) -> tuple[int, list[str]]:
    """The mean length of the store's samples, where there is a store; the longest that the recipe allows otherwise."""
    if recipe.data.store is None:
        longest = recipe.data.max_length
        return longest, [f"no data.store given: every sample is taken to be as long as allowed, {longest} tokens"]
    from t2l.data.store import DataStore

    store = DataStore.open(recipe.data.store)
    lengths = [store.lengths(place).clip(max=recipe.data.max_length) for place in store.split("train")]
    count = max(1, sum(len(part) for part in lengths))
    return max(1, round(sum(int(part.sum()) for part in lengths) / count)), []


def _memory(
    recipe: Recipe, spec: LoraSpec, config: Any, parameters: int, linear: int, trained: int, tokens: int, what: str
) -> dict[str, float]:
    """GiB of one device. Activations are those of a micro-batch of the longest samples."""
    text = config.get_text_config()
    base, width, layers = recipe.base, int(text.hidden_size), int(text.num_hidden_layers)
    number = _BYTES[base.dtype]
    weights = parameters * number
    if base.quantization != "none":
        weights = linear * _FEW_BITS[base.quantization] + (parameters - linear) * number
    if base.shard:
        weights /= recipe.hardware.devices
    states = recipe.loop.micro_batch * recipe.data.max_length * width * number
    kept = layers + _LAYER_STATES / 2 if base.activation_checkpointing else layers * _LAYER_STATES / 2
    conditions = recipe.loop.micro_batch  # of a hyperdecoder: one a sample
    if what != "hyperdecoder":
        conditions = conditions // recipe.data.samples_per_task * recipe.loss.views
    adapters = (
        conditions * spec.num_parameters * (4 + 4 + number)
    )  # float32, its gradient, and a copy as the base reads
    logits = min(LOGITS_AT_ONCE, recipe.loop.micro_batch * recipe.data.max_length * int(text.vocab_size)) * 4 * 4
    sizes = {
        "base": weights,
        "trained": trained * _TRAINED,
        "activations": states * kept,
        "adapters": adapters,
        "logits": logits,
    }
    found = {name: size / 2**30 for name, size in sizes.items()}
    return found | {"workspace": _WORKSPACE}
