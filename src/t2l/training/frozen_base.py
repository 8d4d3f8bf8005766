"""The base as training wants it: frozen, quantised, activations recomputed, compiled, sharded, or recorded as graphs.

Axis letters: C conditions, S samples, T tokens, K labelled positions, W hidden width, L layers, R rank.

Level 4. From the section ``base`` of a recipe to a model. A small base starts thousands of kernels for a micro-batch,
and starting them takes longer than running them: a recorded graph starts them all at once. Its shapes are fixed, so a
step's samples are put into batches of a few shapes; slots that stay free weigh nothing. This file does not know what is
trained through the base.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2l.base_names import canonical_name
from t2l.base_structure import language_model, load_tokenizer
from t2l.bases import Base, load_base
from t2l.batched import apply_batched
from t2l.data.prompts import tokenizer_digest
from t2l.errors import BaseModelError, RecipeError
from t2l.lora import LoraSpec, LoraWeights
from t2l.recipes.reader import Recipe
from t2l.recipes.sections import BaseSection
from t2l.training.batches import Batch, Shape
from t2l.training.sft import divergence_of, logits_of

_WARM_UP = 2


def load_frozen_base(section: BaseSection, device: torch.device) -> Base:
    """The base of a recipe on a device, in training mode and without dropout of its own.

    Raises:
        BaseModelError: it cannot be found or loaded, or bitsandbytes or FlashAttention is asked for and missing.
    """
    loading: dict[str, Any] = {"attn_implementation": attention_of(section, device)}
    if section.quantization != "none":
        loading["quantization_config"] = _few_bits(section)
        loading["device_map"] = {"": str(device)}
    dtype = dtype_of(section, device)
    base = load_base(section.model, device=device, dtype=dtype, revision=section.revision, loading=loading)
    model = base.model
    without_dropout(model)
    if section.activation_checkpointing:
        enable_activation_checkpointing(model)
    if section.compile:
        compile_layers(model)
    model.train()
    return base


def check_base_of_store(manifest: Mapping[str, Any], base: str, revision: str | None = None) -> str | None:
    """Whether a store's tokens are those of a base, by its name, its folder, or its tokenizer; a note where none says.

    Raises:
        BaseModelError: the store was made with another tokenizer or chat template.
    """
    made_for = str(manifest.get("base") or "")
    if canonical_name(made_for) == canonical_name(base):
        return None
    if made_for and Path(made_for).expanduser().resolve() == Path(base).expanduser().resolve():
        return None
    digest = (manifest.get("settings") or {}).get("tokenizer")
    if digest is None:
        return f"The store says that it was made for '{made_for}' and not with which tokenizer; the base is '{base}'."
    if digest != tokenizer_digest(load_tokenizer(base, revision=revision)):
        raise BaseModelError(
            f"The store was made for '{made_for}'; '{base}' has another tokenizer or chat template.",
            f"Prepare the data for this base (t2l data prepare ... --base {base}), or train on '{made_for}'.",
        )
    return None


def dtype_of(section: BaseSection, device: torch.device) -> str:
    """In which dtype the base is held and computes."""
    if section.dtype != "auto":
        return section.dtype
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else bfloat16_is_fast()
    return "bfloat16" if native else "float32"


def bfloat16_is_fast() -> bool:
    """Whether this CPU multiplies bfloat16 natively."""
    return torch.cpu._is_avx512_bf16_supported()


def attention_of(section: BaseSection, device: torch.device) -> str | None:
    """The attention that transformers is asked for; None where it is to choose what the architecture allows.

    Raises:
        BaseModelError: FlashAttention is asked for by name and cannot be had here.
    """
    there = device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None
    fits = dtype_of(section, device) in ("bfloat16", "float16")
    if section.attention == "flash_attention_2" and not (there and fits):
        why = "it takes bfloat16 or float16" if there else "flash-attn is not installed, or there is no CUDA device"
        raise BaseModelError(
            f"base.attention=flash_attention_2 cannot be had: {why}.", "Use base.attention=sdpa, or auto."
        )
    if section.attention == "auto":
        return "flash_attention_2" if there and fits else "eager" if device.type == "cpu" else None
    return section.attention


def without_dropout(model: nn.Module) -> None:
    """No dropout of the base's own: what is trained is not the base."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            vars(module)["attention_dropout"] = 0.0


def enable_activation_checkpointing(model: Any) -> None:
    """Each layer's activations are recomputed in backward; under whichever name this transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def compile_layers(model: Any) -> None:
    """Compiles each decoder layer in place: one graph serves all layers, and module paths stay what they are."""
    for layer in decoder_layers(model):
        layer.compile(dynamic=True)


def shard(model: Any) -> None:
    """Spreads the weights over the processes (FSDP, `torch.distributed.fsdp.fully_shard`), layer by layer.

    Module paths stay what they are, so per-sample adapters find their modules. Tied embeddings stay whole, since they
    are used both at the beginning and at the end.
    """
    from torch.distributed.fsdp import fully_shard

    for layer in decoder_layers(model):
        fully_shard(layer)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is embeddings.weight:
        fully_shard(model.base_model, ignored_params={embeddings.weight})
    else:
        fully_shard(head)
        fully_shard(model.base_model)


def decoder_layers(model: Any) -> nn.ModuleList:
    """The list of layers of a base's language model: its longest module list.

    Raises:
        BaseModelError: it has none.
    """
    lists = [module for module in language_model(model).modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise BaseModelError("This base has no list of layers.", "Set base.compile=false and base.shard=false.")
    return max(lists, key=len)


def _few_bits(section: BaseSection) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BaseModelError(
            f"base.quantization={section.quantization} needs bitsandbytes, which is not installed.",
            "Install it: pip install bitsandbytes; or set base.quantization=none",
        )
    from transformers import BitsAndBytesConfig

    if section.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype_of(section, torch.device("cuda"))),
    )


class _Recorded:
    """One shape's graph with what it reads and gives."""

    def __init__(self, shape: Shape, device: torch.device, dtype: torch.dtype, width: int) -> None:
        self.ids_ST = torch.zeros(shape.samples, shape.width, dtype=torch.int64, device=device)
        self.index_S = torch.zeros(shape.samples, dtype=torch.int64, device=device)
        self.place_K = torch.zeros(shape.labelled, dtype=torch.int64, device=device)
        self.target_K = torch.zeros(shape.labelled, dtype=torch.int64, device=device)
        self.weight_K = torch.zeros(shape.labelled, device=device)
        self.divergence_K = torch.zeros(shape.labelled, device=device)
        self.teacher_KW = torch.zeros(shape.labelled, width, dtype=dtype, device=device)
        self.loss = torch.zeros((), device=device)
        lowest = torch.finfo(dtype).min
        self.mask_11TT = torch.full((1, 1, shape.width, shape.width), lowest, dtype=dtype, device=device).triu(1)
        self.graph = torch.cuda.CUDAGraph() if device.type == "cuda" else None


class GraphedBase:
    """Loss and gradients of samples under the adapters of at most C conditions, by recorded graphs.

    Args:
        base: frozen causal LM on a CUDA device.
        spec: of the adapters.
        conditions: C.
        shapes: see `t2l.training.batches.shapes_of`.
        taught: whether there is a teacher, from whom the divergence is computed as well.
    """

    def __init__(
        self, base: Any, spec: LoraSpec, conditions: int, shapes: Sequence[Shape], *, taught: bool = False
    ) -> None:
        self.base, self.shapes, self.taught = base, tuple(shapes), taught
        self.device = next(base.parameters()).device
        self.weights = LoraWeights.zeros(spec, conditions, device=self.device)
        self._sums = self.weights.map(torch.zeros_like)
        self._adapters = apply_batched(base, spec, self.weights.map(torch.Tensor.detach), [0])
        self._recorded: dict[Shape, _Recorded] = {}
        self._pool: Any = None

    def begin(self, weights: LoraWeights) -> None:
        """Takes a step's adapters, and sets their gradients to zero."""
        with torch.no_grad():
            self.weights.map(lambda kept, tensor: kept[: len(tensor)].copy_(tensor), weights)
            for tensor in self._sums.tensors:
                tensor.zero_()

    def gradients(self, conditions: int) -> LoraWeights:
        """The gradients of the adapters that `begin` took."""
        return self._sums.map(lambda tensor: tensor[:conditions])

    def record(self) -> None:
        """Records every shape, before anything else runs on the device."""
        for shape in self.shapes:
            self._record(shape)

    def learn(self, micro: Batch, part: float, teacher_KW: Tensor | None = None) -> Tensor:
        """Adds ``part`` times the gradient of a micro-batch's mean loss; gives that much loss, on the device.

        Args:
            micro: with a shape and its arrays, on the CPU; see `t2l.training.batches.arrays_of`.
            teacher_KW: what the teacher's hidden states are where it has labels.
        """
        assert micro.shape is not None and micro.arrays is not None
        recorded = self._recorded.get(micro.shape) or self._record(micro.shape)
        buffers = [recorded.ids_ST, recorded.index_S, recorded.place_K, recorded.target_K, recorded.weight_K]
        if self.taught:
            assert teacher_KW is not None
            buffers.append(recorded.divergence_K)
            recorded.teacher_KW[: len(teacher_KW)].copy_(teacher_KW)
        for buffer, array in zip(buffers, micro.arrays, strict=True):
            buffer.copy_(array, non_blocking=True)
        for weights in buffers[4:]:
            weights.mul_(part)
        if recorded.graph is None:
            self._run(recorded)
        else:
            recorded.graph.replay()
        return recorded.loss.clone()

    def _record(self, shape: Shape) -> _Recorded:
        embeddings = self.base.get_input_embeddings().weight
        recorded = _Recorded(shape, self.device, embeddings.dtype, embeddings.shape[1] if self.taught else 0)
        self._recorded[shape] = recorded
        if recorded.graph is None:  # elsewhere the same is computed without a graph, for tests
            return recorded
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._run(recorded)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(recorded.graph, pool=self._pool, capture_error_mode="thread_local"):
            self._run(recorded)
        self._pool = self._pool or recorded.graph.pool()
        return recorded

    def _run(self, recorded: _Recorded) -> None:
        # leaves of their own for each recording: a gradient then belongs to no stream but the recorded one
        local = self.weights.map(lambda tensor: tensor.detach().requires_grad_())
        with self._adapters.rebind_rows(local, recorded.index_S):
            # the mask is given whole, as looking at it would wait for the device, which a recording cannot
            hidden_STW = self.base.base_model(
                input_ids=recorded.ids_ST, attention_mask=recorded.mask_11TT, use_cache=False
            ).last_hidden_state
            hidden_KW = hidden_STW.flatten(0, 1).index_select(0, recorded.place_K)
            logits_KV = logits_of(self.base, hidden_KW).float()
            loss_K = F.cross_entropy(logits_KV, recorded.target_K, reduction="none")
            loss = (loss_K * recorded.weight_K).sum()
            if self.taught:
                divergence_K = divergence_of(logits_KV, logits_of(self.base, recorded.teacher_KW).float())
                loss = loss + (divergence_K * recorded.divergence_K).sum()
            gradients = torch.autograd.grad(loss, local.tensors)
        for total, gradient in zip(self._sums.tensors, gradients, strict=True):
            total.add_(gradient)
        recorded.loss.copy_(loss.detach())


def check_graphs(recipe: Recipe, device: str) -> None:
    """Refuses recorded graphs where they cannot be had.

    Raises:
        RecipeError: the device is no CUDA device, or the loss draws noise.
    """
    if device != "cuda":
        raise RecipeError(
            "loop.graphs records CUDA graphs, and this device is not one of CUDA.", "Set loop.graphs=false."
        )
    loss = recipe.loss
    if loss.neftune or loss.label_smoothing or recipe.lora.dropout or recipe.base.shard:
        raise RecipeError(
            "loop.graphs repeats one recorded computation: without NEFTune, label smoothing, LoRA dropout "
            "and sharding.",
            "Set those to 0, or loop.graphs=false.",
        )
