"""The base's part of an SFT step as CUDA graphs: forward and backward for a few fixed shapes, recorded once.

Axis letters: C conditions, S samples, T tokens, K labelled positions, W hidden width, L layers, R rank.

Level 4. A small base starts thousands of kernels for a micro-batch, and starting them takes longer than running them.
A recorded graph starts them all at once. Its shapes are fixed, so a step's samples are put into batches of a few
shapes; slots that stay free weigh nothing. Knows token ids and adapters; knows no tasks, texts or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.batched import apply_batched
from t2l.errors import RecipeError
from t2l.lora import LoraSpec, LoraWeights
from t2l.recipes.reader import Recipe
from t2l.training.sft import IGNORED, Batch, logits_of
from t2l.training.sft_step import MicroBatch, Shape

WIDTHS = (24, 40, 64, 104, 168, 272, 432)
"""Tokens of the samples of each shape; longer samples are computed without a graph."""
TOKENS = 4096
"""Tokens of a shape, padding included."""
_WARM_UP = 2


def shapes_of(widths: Sequence[int] = WIDTHS, tokens: int = TOKENS) -> tuple[Shape, ...]:
    """Shapes of about ``tokens`` tokens each, the narrowest first."""
    return tuple(Shape(max(1, tokens // width), width) for width in sorted(widths))


def cut_into_shapes(lengths: Sequence[int], shapes: Sequence[Shape]) -> list[tuple[Shape | None, list[int]]]:
    """Places of samples in batches of the given shapes, the longest samples first.

    The longest sample that is left chooses the narrowest shape that holds it, and the next ones fill its slots: what
    is recorded is computed whether or not a slot is used. Samples longer than every shape come first, in a batch of
    their own each, without a shape.

    Example:
        >>> cut_into_shapes([3, 9, 3, 30], [Shape(2, 4), Shape(2, 10)])
        [(None, [3]), (Shape(samples=2, width=10), [1, 0]), (Shape(samples=2, width=4), [2])]
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    cut: list[tuple[Shape | None, list[int]]] = []
    start = 0
    while start < len(order):
        fitting = [shape for shape in shapes if shape.width >= lengths[order[start]]]
        size = fitting[0].samples if fitting else 1
        cut.append((fitting[0] if fitting else None, order[start : start + size]))
        start += size
    return cut


class _Recorded:
    """One shape's graph with what it reads and gives."""

    def __init__(self, shape: Shape, device: torch.device, dtype: torch.dtype) -> None:
        self.ids_ST = torch.zeros(shape.samples, shape.width, dtype=torch.int64, device=device)
        self.index_S = torch.zeros(shape.samples, dtype=torch.int64, device=device)
        self.place_K = torch.zeros(shape.labelled, dtype=torch.int64, device=device)
        self.target_K = torch.zeros(shape.labelled, dtype=torch.int64, device=device)
        self.weight_K = torch.zeros(shape.labelled, device=device)
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
        shapes: see `shapes_of`.
    """

    def __init__(self, base: Any, spec: LoraSpec, conditions: int, shapes: Sequence[Shape]) -> None:
        self.base, self.shapes = base, tuple(shapes)
        self.device = next(base.parameters()).device
        a, b = {}, {}
        for group in spec.groups:
            depth = len(group.layers)
            a[group.key] = torch.zeros(conditions, depth, spec.rank, group.in_features, device=self.device)
            b[group.key] = torch.zeros(conditions, depth, group.out_features, spec.rank, device=self.device)
        self.weights = LoraWeights(a, b)
        self._sums = self.weights.map(torch.zeros_like)
        self._adapters = apply_batched(base, spec, self.weights.map(torch.Tensor.detach), [0])
        self._recorded: dict[Shape, _Recorded] = {}
        self._pool: Any = None

    def begin(self, weights: LoraWeights) -> None:
        """Takes a step's adapters, and sets their gradients to zero."""
        with torch.no_grad():
            for key, tensor in weights.a.items():
                self.weights.a[key][: len(tensor)].copy_(tensor)
                self.weights.b[key][: len(tensor)].copy_(weights.b[key])
            for tensor in _tensors(self._sums):
                tensor.zero_()

    def gradients(self, conditions: int) -> LoraWeights:
        """The gradients of the adapters that `begin` took."""
        return self._sums.map(lambda tensor: tensor[:conditions])

    def record(self) -> None:
        """Records every shape, before anything else runs on the device."""
        for shape in self.shapes:
            self._record(shape)

    def learn(self, micro: MicroBatch, part: float) -> Tensor:
        """Adds ``part`` times the gradient of a micro-batch's mean loss; gives that much loss, on the device.

        Args:
            micro: with a shape and its arrays, on the CPU; see `cut_into_shapes` and `arrays_of`.
        """
        assert micro.shape is not None and micro.arrays is not None
        recorded = self._recorded.get(micro.shape) or self._record(micro.shape)
        buffers = (recorded.ids_ST, recorded.index_S, recorded.place_K, recorded.target_K, recorded.weight_K)
        for buffer, array in zip(buffers, micro.arrays, strict=True):
            buffer.copy_(array, non_blocking=True)
        recorded.weight_K.mul_(part)
        if recorded.graph is None:
            self._run(recorded)
        else:
            recorded.graph.replay()
        return recorded.loss.clone()

    def _record(self, shape: Shape) -> _Recorded:
        recorded = _Recorded(shape, self.device, self.base.get_input_embeddings().weight.dtype)
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
            loss_K = F.cross_entropy(logits_of(self.base, hidden_KW).float(), recorded.target_K, reduction="none")
            loss = (loss_K * recorded.weight_K).sum()
            gradients = torch.autograd.grad(loss, _tensors(local))
        for total, gradient in zip(_tensors(self._sums), gradients, strict=True):
            total.add_(gradient)
        recorded.loss.copy_(loss.detach())


def check_graphs(recipe: Recipe, device: str) -> None:
    """Refuses recorded graphs where they cannot be had.

    Raises:
        RecipeError: the device is no CUDA device, or the loss draws noise or reads a teacher.
    """
    if device != "cuda":
        raise RecipeError(
            "loop.graphs records CUDA graphs, and this device is not one of CUDA.", "Set loop.graphs=false."
        )
    loss = recipe.loss
    if loss.neftune or loss.distill or loss.label_smoothing or recipe.lora.dropout or recipe.base.shard:
        raise RecipeError(
            "loop.graphs repeats one recorded computation: without NEFTune, distillation, label smoothing, LoRA "
            "dropout and sharding.",
            "Set those to 0, or loop.graphs=false.",
        )


def arrays_of(batch: Batch, shape: Shape) -> tuple[Tensor, ...] | None:
    """What a recorded graph reads of a batch, in its sizes: ids, index, places, targets, and weights of the mean loss.

    None where there are too many labels.
    """
    count, width = batch.ids_ST.shape
    ids_ST = torch.zeros(shape.samples, shape.width, dtype=torch.int64)
    ids_ST[:count, :width] = batch.ids_ST
    index_S = torch.zeros(shape.samples, dtype=torch.int64)
    index_S[:count] = batch.index_S
    sample_K, before_K = (batch.labels_ST[:, 1:] != IGNORED).nonzero(as_tuple=True)
    labelled = len(sample_K)
    if labelled > shape.labelled:
        return None
    place_K = torch.zeros(shape.labelled, dtype=torch.int64)
    place_K[:labelled] = sample_K * shape.width + before_K
    target_K = torch.zeros(shape.labelled, dtype=torch.int64)
    target_K[:labelled] = batch.labels_ST[sample_K, before_K + 1]
    weight_K = torch.zeros(shape.labelled)
    length_S = torch.bincount(sample_K, minlength=count).clamp_min(1)
    weight_K[:labelled] = 1 / (count * length_S[sample_K])
    return ids_ST, index_S, place_K, target_K, weight_K


def _tensors(weights: LoraWeights) -> list[Tensor]:
    return [*weights.a.values(), *weights.b.values()]
