"""What it costs to make an adapter and use it, to show examples in every prompt instead, or to fine-tune: by formula.

Level 5. One room for all arithmetic of this kind. A product with a weight of n elements counts 2n for each token;
scores and mixing of attention 4 H T C for T new tokens that see C (torch counts so). Norms, activations, softmax and
look-ups do not count. `t2l flops` prints the table; a test holds the formulas against torch's own `FlopCounterMode`.

Axis letters: T new tokens, C tokens seen, H width of all heads together.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from t2l.base_structure import empty_base
from t2l.errors import T2LError
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.site_attention import SiteHead


@dataclass(frozen=True)
class TransformerShape:
    """What decides the cost of a transformer.

    Args:
        layers: depth.
        inside: elements of all weights that every token meets, embeddings and output head omitted.
        attention_width: H, heads times their width.
        cache_width: numbers that a token leaves in one layer's cache: keys and values of its key-value heads.
        head: elements of the output head; 0 for an encoder.
        parameters: of all, for bytes.
    """

    layers: int
    inside: int
    attention_width: int
    cache_width: int
    head: int
    parameters: int

    @classmethod
    def of(cls, model: Any) -> TransformerShape:
        """Of a causal language model, whose weights may be on the meta device.

        Mixtures of experts are counted as if every token met every expert.
        """
        config, head = model.config.get_text_config(), model.get_output_embeddings()
        inside = sum(
            module.weight.numel()
            for module in model.modules()
            if module is not head and (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
        )
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        shared = getattr(config, "num_key_value_heads", None) or heads
        parameters = sum(one.numel() for one in model.parameters())
        return cls(config.num_hidden_layers, inside, heads * width, 2 * shared * width, head.weight.numel(), parameters)

    @classmethod
    def of_config(cls, config: Any) -> TransformerShape:
        """Of any Hugging Face config, without weights."""
        return cls.of(empty_base(config))

    @classmethod
    def encoder(cls, layers: int, width: int, inner: int, *, gated: bool = False) -> TransformerShape:
        """Of a sentence encoder: four width x width products and an MLP a layer."""
        inside = layers * (4 * width * width + (3 if gated else 2) * width * inner)
        return cls(layers, inside, width, 2 * width, 0, inside)


ENCODERS = {
    "minilm": TransformerShape.encoder(6, 384, 1536),
    "gte-large-en-v1.5": TransformerShape.encoder(24, 1024, 4096, gated=True),
}


def forward_flops(shape: TransformerShape, tokens: float, *, past: float = 0, logits: float = 1) -> float:
    """Operations of reading ``tokens`` new tokens after ``past`` cached ones, with ``logits`` predicted positions."""
    attention = 4 * shape.layers * shape.attention_width * tokens * (past + tokens)
    return 2 * tokens * shape.inside + attention + 2 * logits * shape.head


def answer_flops(shape: TransformerShape, prompt: float, answer: float, *, past: float = 0) -> float:
    """Operations of reading a prompt and writing an answer token by token with a cache; the last token is not read."""
    total = forward_flops(shape, prompt, past=past)
    written = max(0.0, answer - 1)
    middle = past + prompt + written / 2  # what a written token sees, on average
    return total + written * forward_flops(shape, 1, past=middle - 0.5)


def adapter_flops(spec: LoraSpec, tokens: float) -> float:
    """Operations that an unmerged adapter adds for ``tokens`` tokens."""
    return 2 * spec.num_parameters * tokens


def hypernetwork_flops(hypernetwork: HyperNetwork, description_tokens: int = 48) -> float:
    """Operations of one adapter's weights from one description's embedding.

    Args:
        description_tokens: how many token states the task encoder reads, where it reads those.
    """
    if isinstance(hypernetwork.head, SiteHead):
        return _site_flops(hypernetwork.task_encoder, hypernetwork.head, description_tokens)
    spec, trunk = hypernetwork.spec, hypernetwork.trunk
    assert trunk is not None
    places = sum(len(group.layers) for group in spec.groups)
    variant, rank = hypernetwork.variant, spec.rank
    refined = {"L": places, "M": 2 * places, "S": 2 * places * (1 + rank), "R": places * rank}[variant]
    if variant == "S" and getattr(hypernetwork.head, "positions", None) is not None:
        refined = 2 * places + 2 * len(spec.groups) * rank  # the positions alone go through block 2 again
    finished = {"L": places, "M": 2 * places, "S": 2 * places * rank, "R": places * rank}[variant]
    total = places * (_linears(trunk.mixer) + _linears(trunk.block1))
    total += refined * _linears(trunk.block2) + finished * _linears(trunk.last)
    head_dim = hypernetwork.head.linear(spec.groups[0]).in_features
    return 2.0 * (total + head_dim * spec.num_parameters) + _task_encoder_flops(hypernetwork, description_tokens)


def generation_flops(hypernetwork: HyperNetwork, encoder: TransformerShape, description_tokens: int) -> float:
    """Operations from a description to an adapter, the encoder's included."""
    read = forward_flops(encoder, description_tokens, logits=0)
    return read + hypernetwork_flops(hypernetwork, description_tokens)


def fine_tuning_flops(shape: TransformerShape, spec: LoraSpec, *, steps: int, batch: int, tokens: int) -> float:
    """Operations of training one LoRA on a frozen base: forward, and backward through activations alone.

    Backward multiplies the gradient by every frozen weight once (2n a token, as forward), and through attention's two
    products twice each; the adapter's own products count three times, as in any training.
    """
    forward = forward_flops(shape, tokens, logits=tokens)
    attention = 4 * shape.layers * shape.attention_width * tokens * tokens
    weights = forward - attention
    return steps * batch * (2 * weights + 3 * attention + 3 * adapter_flops(spec, tokens))


def paper_flops(tokens: int, width: int, layers: int) -> float:
    """The paper's formula (arXiv 2506.06105, appendix I): 24 S H^2 + 4 H S^2 a block.

    It has full multi-head attention (no grouped queries), an MLP of 4 H in two products, no output head, full (not
    causal) attention, and counts reading alone: no written token, one question, no cached prefix.
    """
    return layers * (24.0 * tokens * width**2 + 4.0 * width * tokens**2)


def paper_setting() -> dict[str, float]:
    """The paper's comparison: Mistral-7B (width 4096, 32 layers), gte-large (1024, 24), in operations.

    ``t2l``: 48 tokens of description, then 64 of the question. ``in_context``: 256 tokens of three examples and the 64.
    ``hypernetwork`` is the paper's own 0.000005 TFLOPs, which is the price of one module of one layer.
    """
    encoder, question = paper_flops(48, 1024, 24), paper_flops(64, 4096, 32)
    return {
        "encoder": encoder,
        "hypernetwork": 5e6,
        "question": question,
        "t2l": encoder + 5e6 + question,
        "in_context": paper_flops(320, 4096, 32),
    }


@dataclass(frozen=True)
class Setting:
    """What is compared.

    Args:
        description: tokens of the description.
        question: tokens of a question.
        examples: tokens of all examples in a few-shot prompt.
        answer: tokens written.
        questions: how many questions one adapter, or one cached prefix, serves.
        steps: of fine-tuning a LoRA.
        batch: samples a step.
        train_tokens: tokens a sample.
        bytes_each: of a parameter and of a cached number.
        tflops: peak of the device, for latencies.
        bandwidth: of its memory, GB/s.
    """

    description: int = 48
    question: int = 64
    examples: int = 256
    answer: int = 1
    questions: int = 1
    steps: int = 1000
    batch: int = 8
    train_tokens: int = 512
    bytes_each: int = 2
    tflops: float = 989.0
    bandwidth: float = 3350.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0 and name != "examples":
                raise T2LError(f"{name} is {value}; it must be above 0.")


@dataclass(frozen=True)
class Cost:
    """One way of getting the questions answered: operations, bytes that are read, seconds at the roofline.

    Args:
        first: operations before the first question.
        each: operations of every question.
        memory: bytes that it keeps beside the base: adapter, cached prefix.
        first_s: seconds before the first question.
        each_s: seconds a question.
    """

    name: str
    first: float
    each: float
    memory: float
    first_s: float
    each_s: float

    def total(self, questions: int) -> float:
        """Operations of all questions together."""
        return self.first + questions * self.each


def compare(
    shape: TransformerShape, hypernetwork: HyperNetwork, encoder: TransformerShape, setting: Setting
) -> list[Cost]:
    """Text-to-LoRA, few-shot prompting with and without a cached prefix, and fine-tuning, in one setting.

    Seconds are the roofline's: a stretch takes as long as its operations at peak speed or as the bytes that it reads
    from memory (all weights once, and for each written token once more), whichever is longer. Real runs are slower.
    """
    spec, s = hypernetwork.spec, setting
    peak, band = s.tflops * 1e12, s.bandwidth * 1e9
    base_bytes = shape.parameters * s.bytes_each
    adapter_bytes = spec.num_parameters * s.bytes_each
    cached_bytes = s.examples * shape.layers * shape.cache_width * s.bytes_each
    extra = adapter_flops(spec, s.question + s.answer - 1)

    def seconds(flops: float, read: float) -> float:
        return max(flops / peak, read / band)

    def asking(prompt: int, past: int = 0, more: float = 0.0, more_bytes: float = 0.0) -> tuple[float, float]:
        read = forward_flops(shape, prompt, past=past)
        written = answer_flops(shape, prompt, s.answer, past=past) - read
        context = (past + prompt) * shape.layers * shape.cache_width * s.bytes_each
        share = more / max(1, s.question + s.answer - 1)
        took = seconds(read + share * s.question, base_bytes + more_bytes)
        took += (s.answer - 1) * seconds(written / max(1, s.answer - 1) + share, base_bytes + more_bytes + context)
        return read + written + more, took

    made = generation_flops(hypernetwork, encoder, s.description)
    made_bytes = (encoder.parameters + hypernetwork.num_parameters) * s.bytes_each
    adapted, adapted_s = asking(s.question, more=extra, more_bytes=adapter_bytes)
    shown, shown_s = asking(s.examples + s.question)
    prefix = forward_flops(shape, s.examples, logits=0) if s.examples else 0.0
    cached, cached_s = asking(s.question, past=s.examples)
    tuned = fine_tuning_flops(shape, spec, steps=s.steps, batch=s.batch, tokens=s.train_tokens)
    tuned_s = seconds(tuned, s.steps * 3 * base_bytes)
    return [
        Cost("Text-to-LoRA", made, adapted, adapter_bytes, seconds(made, made_bytes), adapted_s),
        Cost("few-shot prompt", 0.0, shown, 0.0, 0.0, shown_s),
        Cost("few-shot prompt, prefix cached", prefix, cached, cached_bytes, seconds(prefix, base_bytes), cached_s),
        Cost("LoRA fine-tuned for the task", tuned, adapted, adapter_bytes, tuned_s, adapted_s),
    ]


def _site_flops(encoder: Any, head: SiteHead, tokens: int) -> float:
    """Variant T: the description is read once, every site attends to it, and goes through MLP and maps."""
    width, sites = encoder.model_dim, encoder.sites
    read = 2 * tokens * (_linears(encoder.enter) + _linears(encoder.layers) + _linears(encoder.to_kv))
    attended = 4 * width * tokens * (len(encoder.layers) * tokens + sites)
    if encoder.own is not None:
        layers = encoder.own.layer.num_embeddings
        read += 2 * tokens * layers * (_linears(encoder.own.enter) + _linears(encoder.own.to_kv))
        attended += 4 * width * tokens * sites
    if encoder.pointers is not None:
        attended += 2 * (width + encoder.pointers.width) * tokens * sites
    written = 2 * sites * _linears(head.mlp)
    for group in head.spec.groups:
        maps: Any = head.maps[group.key]
        rows = len(group.layers) * head.spec.rank
        written += 2 * rows * (_linears(maps) + maps.own_LZF.shape[1] * maps.own_LZF.shape[2])
    return float(read + attended + written)


def _linears(module: nn.Module) -> int:
    return sum(one.weight.numel() for one in module.modules() if isinstance(one, nn.Linear))


def _task_encoder_flops(hypernetwork: HyperNetwork, tokens: int) -> float:
    encoder: Any = hypernetwork.task_encoder
    if getattr(encoder, "layers", None) is None:
        codes = getattr(encoder, "code_CK", None)
        return 2.0 * (_linears(encoder) + (0 if codes is None else codes.numel()))
    queries, width = encoder.query.weight.shape
    layer = encoder.layers[0]
    each = len(encoder.layers) * (2 * tokens * _linears(layer) + 4 * width * tokens * tokens)
    pool = encoder.pool
    pooled = 2 * queries * (_linears(pool.to_q) + _linears(pool.out)) + 2 * tokens * _linears(pool.to_kv)
    pooled += 4 * width * queries * tokens
    return float(2 * tokens * _linears(encoder.enter) + each + pooled + 2 * _linears(encoder.leave))
