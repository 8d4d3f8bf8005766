"""One adapter for every task: a multi-task LoRA that is trained, or the average of a library that is not.

Axis letters: N conditions, E condition width, L layers, R rank, I in-features, O out-features.

Level 5. Knows shapes and libraries; does not know tasks, texts or where batches come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from t2l.adapter import Adapter
from t2l.errors import T2LError
from t2l.library import Library
from t2l.lora import AdapterTable, LoraSource, LoraSpec, LoraWeights


class StaticLora(LoraSource):
    """A source that gives the same adapter whatever its condition; trained with the SFT loss, a multi-task LoRA.

    It trains by the same step, on the same batches, as a hypernetwork: only what it knows of the task is missing.

    Args:
        seed: of the start, which is LoRA's usual one: A Kaiming-uniform, B zero.

    Example:
        >>> from t2l.lora import ModuleGroup
        >>> spec = LoraSpec((ModuleGroup("q_proj", "model.layers.{layer}.self_attn.q_proj", (0, 1), 16, 16),), 2)
        >>> StaticLora(spec)(torch.randn(3, 4)).a["q_proj"].shape
        torch.Size([3, 2, 8, 16])
    """

    def __init__(self, spec: LoraSpec, *, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        self.table = AdapterTable(spec, [seed])

    def forward(self, condition_NE: Tensor) -> LoraWeights:
        """N times the one adapter, as views of it: no copies."""
        return self.weights().map(lambda tensor: tensor.expand(len(condition_NE), *tensor.shape[1:]))

    def weights(self) -> LoraWeights:
        """The adapter (N = 1): the parameters themselves."""
        return self.table.table()


def average_of(library: Library, names: Sequence[str] | None = None) -> Adapter:
    """The mean of a library's A and the mean of its B, element by element ("average LoRA" in the paper's tables).

    The factors are averaged, not the weight changes: (mean B)(mean A) is not the mean of B A. Adapters trained from
    different random starts share no basis of their rank space, so their factors partly cancel, and the average is
    weak by construction; adapters that share their start, or nearly do, average well. It uses no task's description.

    Args:
        names: the adapters averaged; all by default. They are read one at a time.

    Raises:
        T2LError: no adapters.
    """
    names = library.names if names is None else list(names)
    if not names:
        raise T2LError("An empty library has no average.")
    total = library.weights(names[:1]).to(torch.float64)
    for adapter in library.stream(names[1:]):
        total.map(Tensor.add_, adapter)
    return Adapter(library.spec, total.map(lambda tensor: (tensor / len(names)).float()), {"mean_of": len(names)})
