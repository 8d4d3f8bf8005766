"""What a recipe would do, before anything is started: shapes, parameters, memory, steps, time.

Level 4. Made from the base's config alone. Memory is an estimate from counts of numbers; time is one from counts of
operations and the speed of the hardware that the recipe states, or of this machine, which is then measured: two
seconds of the real step on two layers of the base, with random weights. What is assumed is said beside it.

Axis letters: C conditions, S samples, T tokens, E condition width.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from t2l.base_structure import auto_class, base_config, empty_base
from t2l.encoders import DescriptionEncoder, encoder_from_config
from t2l.hypernet import HyperNetwork
from t2l.lora import AdapterTable, LoraSource, LoraSpec
from t2l.recipes.reader import Recipe
from t2l.recipes.sections import LossSection
from t2l.training.batches import IGNORED, Batch, train_tasks
from t2l.training.frozen_base import attention_of, dtype_of, enable_activation_checkpointing, without_dropout
from t2l.training.sft import LOGITS_AT_ONCE, learn_step
from t2l.training.source import build_source, build_spec, targets_of

_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
_FEW_BITS = {"8bit": 1.0, "4bit": 0.53}  # a weight of a linear layer, with its scales
_TRAINED = 16  # bytes a trained number: itself, its gradient, AdamW's two averages, float32
_LAYER_STATES = 34  # (tokens x width) numbers that a layer keeps for backward with fused attention (arXiv 2205.05198)
_ONE_ADAPTER = ("lora", "multi-task")
_TOKENS_OF_A_DESCRIPTION = 64  # taken for the time of a step where token states are read
_WORKSPACE = 0.8  # GiB: CUDA's context and the allocator's slack
_LAYERS = 2
_WORDS = 256  # of the vocabulary: the output layer is counted, not measured
_SECONDS = 2.0
_CPU_TOKENS, _CPU_CONDITIONS = 2048, 8  # as many keep a CPU busy; more would only take longer to measure


@dataclass(frozen=True)
class Plan:
    """A recipe in numbers.

    Args:
        modules: group -> layers, in-features, out-features.
        base_parameters: of the base.
        trained_parameters: of what is trained.
        adapter_parameters: of one adapter.
        memory: GiB of one device, by purpose.
        micro_batches: a step, at least.
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
    trained, encoder = spec.num_parameters, None
    if what not in _ONE_ADAPTER:
        encoder = None if what == "hyperdecoder" else encoder_from_config(recipe.encoder)
        with torch.device("meta"):
            trained = _source(recipe, spec, config, encoder)[0].num_parameters
    tokens, responses, notes = _tokens_of_a_sample(recipe)
    memory = _memory(recipe, spec, config, base_parameters, linear_parameters, trained, tokens, what)
    batch, devices = recipe.loop.tasks * recipe.loop.samples, recipe.hardware.devices
    parts = recipe.loop.parts
    if spec.left_out:
        notes.append(f"the experts of the base are not adapted: {', '.join(spec.left_out)}")
    micro_batches = -(-max(parts, batch * tokens / recipe.loop.micro_tokens) // parts) * parts
    if parts % devices:
        notes.append(f"{devices} devices have unequally much to do; loop.parts={devices} makes it equal")
    samples = recipe.loop.steps * batch
    passes = 6.0 if recipe.base.activation_checkpointing else 4.0  # operations a weight and token: 2 each way, 2 again
    if recipe.loss.distill or recipe.loss.crossed:
        passes += 2.0
    head = int(config.get_text_config().vocab_size) * int(config.get_text_config().hidden_size)
    operations = passes * (linear_parameters * tokens + head * responses) * samples
    extra = 0.0
    if recipe.hardware.teraflops is not None:
        rate = recipe.hardware.teraflops * 1e12 * recipe.hardware.utilization * devices
        notes.append(
            f"time assumes {recipe.hardware.teraflops:g} TFLOP/s a device, {recipe.hardware.utilization:.0%} of it "
            "reached"
        )
    else:
        conditions = _conditions_a_step(recipe, what)
        rate = layers_rate(recipe, config, targets_of(recipe), tokens, passes, conditions) * devices
        if what not in _ONE_ADAPTER:
            extra = recipe.loop.steps * _seconds_of_source(recipe, spec, config, encoder, conditions)
        where = "its GPU" if this_device().type == "cuda" else f"{torch.get_num_threads()} threads"
        notes.append(
            f"time was measured on this machine ({where}): {rate / 1e12 / devices:.2g} TFLOP/s in the base's layers; "
            "without validation"
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
        micro_batches=int(micro_batches),
        devices=devices,
        hours=(operations / rate + extra) / 3600,
        notes=tuple(notes),
    )


def _count(config: Any) -> tuple[int, int]:
    """Parameters of the base, and those of its linear layers, from shapes alone."""
    model = empty_base(config)
    return sum(parameter.numel() for parameter in model.parameters()), _linear_parameters(model)


def _linear_parameters(model: Any) -> int:
    """Those of the linear layers, the output layer aside."""
    head, linear = model.get_output_embeddings(), (part for part in model.modules() if isinstance(part, nn.Linear))
    return sum(part.weight.numel() for part in linear if part is not head)


def _source(
    recipe: Recipe, spec: LoraSpec, config: Any, encoder: DescriptionEncoder | None
) -> tuple[HyperNetwork, int]:
    """The hypernetwork, and the width of the conditions that it typically reads; a hyperdecoder without an encoder."""
    if encoder is None:
        wanted, width = recipe.hypernetwork, int(config.get_text_config().hidden_size)
        return HyperNetwork(spec, width, wanted.variant, trunk_dim=wanted.trunk_dim, head_dim=wanted.head_dim), width
    width = encoder.dim
    if encoder.ragged and encoder.token_dim is not None:
        width = min(width, _TOKENS_OF_A_DESCRIPTION * encoder.token_dim)
    return build_source(recipe, spec, encoder), width


def _conditions_a_step(recipe: Recipe, what: str) -> int:
    if what in _ONE_ADAPTER:
        return 1
    return recipe.loop.tasks * (recipe.loop.samples if what == "hyperdecoder" else recipe.loss.views)


def _seconds_of_source(
    recipe: Recipe, spec: LoraSpec, config: Any, encoder: DescriptionEncoder | None, conditions: int
) -> float:
    """What generating a step's adapters takes here, forward and backward."""
    autocast = dtype_of(recipe.base, this_device()) == "bfloat16"
    source, width = _source(recipe, spec, config, encoder)
    condition_CE = torch.randn(conditions, width, generator=torch.Generator().manual_seed(0))
    return source_seconds(source, condition_CE, autocast)


def _tokens_of_a_sample(recipe: Recipe) -> tuple[int, int, list[str]]:
    """Mean length of the store's samples, and of their responses; without a store, the longest the recipe allows."""
    if recipe.data.store is None:
        longest = recipe.data.max_length
        note = f"no data.store given: every sample is taken to be as long as allowed, {longest} tokens"
        return longest, max(1, longest // 8), [note]
    from t2l.data.store import DataStore

    store = DataStore.open(recipe.data.store)
    limit, tokens, responses, count = recipe.data.max_length, 0.0, 0.0, 0
    for place in train_tasks(store, recipe.data):  # every task is as frequent as every other
        lengths = store.lengths(place).clip(max=limit)
        drawn = range(0, store.tasks[place].samples, max(1, store.tasks[place].samples // 50))
        found = [store.sample(place, number) for number in drawn]
        answers = [min(limit, len(sample.input_ids) - sample.prompt_length) for sample in found]
        if answers:
            tokens += float(lengths.mean())
            responses += sum(answers) / len(answers)
            count += 1
    return max(1, round(tokens / max(1, count))), max(1, round(responses / max(1, count))), []


def _memory(
    recipe: Recipe, spec: LoraSpec, config: Any, parameters: int, linear: int, trained: int, tokens: int, what: str
) -> dict[str, float]:
    """GiB of one device. Activations are those of a micro-batch of the longest samples."""
    text = config.get_text_config()
    base, width, layers = recipe.base, int(text.hidden_size), int(text.num_hidden_layers)
    number = _BYTES[dtype_of(base, this_device())]
    weights = parameters * number
    if base.quantization != "none":
        weights = linear * _FEW_BITS[base.quantization] + (parameters - linear) * number
    if base.shard:
        weights /= recipe.hardware.devices
    together = max(recipe.loop.micro_tokens, recipe.data.max_length)
    states = together * width * number
    kept = layers + _LAYER_STATES / 2 if base.activation_checkpointing else layers * _LAYER_STATES / 2
    conditions = _conditions_a_step(recipe, what)
    # float32, its gradient, and a copy as the base reads it
    adapters = conditions * spec.num_parameters * (4 + 4 + number)
    logits = min(LOGITS_AT_ONCE, together * int(text.vocab_size)) * 4 * 4
    sizes = {
        "base": weights,
        "trained": trained * _TRAINED,
        "activations": states * kept,
        "adapters": adapters,
        "logits": logits,
    }
    found = {name: size / 2**30 for name, size in sizes.items()}
    return found | {"workspace": _WORKSPACE}


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
    source = AdapterTable(spec, range(count)).to(device)
    loss, condition_CE = LossSection(label_smoothing=0.0), torch.eye(count, device=device)
    seconds = _typical(lambda: learn_step(base, source, condition_CE, [micro], loss), device)
    return passes * _linear_parameters(base) * samples * tokens / seconds


def source_seconds(source: LoraSource, condition_CE: Tensor, autocast: bool) -> float:
    """Of one step: what generating its adapters takes, forward and backward."""
    device = this_device()
    source.to(device).train()
    count = len(condition_CE) if device.type == "cuda" else min(_CPU_CONDITIONS, len(condition_CE))
    scale, condition_CE = len(condition_CE) / count, condition_CE[:count].to(device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            weights = source(condition_CE)
        torch.autograd.backward(weights.tensors, [torch.ones_like(tensor) for tensor in weights.tensors])

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
