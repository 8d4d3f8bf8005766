"""Many adapters side by side as parameters: what a library is trained in, and, with one row, a multi-task LoRA.

Axis letters: N rows of the table, C conditions, L layers, R rank, I in-features, O out-features.

Level 1. Knows shapes; does not know what the adapters are for or how they are trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from t2l.errors import T2LError
from t2l.lora import LoraSource, LoraSpec, LoraWeights


class AdapterTable(LoraSource):
    """N adapters side by side, each a row.

    A begins Kaiming-uniform, within 1 / sqrt(I), and B at zero, as LoRA does: training begins at the base.

    Args:
        seeds: one for each row; a row's start depends on its own seed alone.

    Example:
        >>> from t2l.lora import ModuleGroup
        >>> spec = LoraSpec((ModuleGroup("q_proj", "model.layers.{layer}.self_attn.q_proj", (0, 1), 16, 16),), 2)
        >>> AdapterTable(spec, seeds=[0, 1, 2]).rows(torch.tensor([2, 0])).a["q_proj"].shape
        torch.Size([2, 2, 8, 16])
    """

    def __init__(self, spec: LoraSpec, seeds: Sequence[int]) -> None:
        super().__init__()
        if not seeds:
            raise T2LError("A table of adapters needs at least one row.")
        self.spec = spec
        self.num_rows = len(seeds)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.a, self.b = nn.ParameterDict(), nn.ParameterDict()
        for group in spec.groups:
            depth, bound = len(group.layers), group.in_features**-0.5
            shape = (depth, spec.rank, group.in_features)
            rows = [torch.empty(shape).uniform_(-bound, bound, generator=generator) for generator in generators]
            self.a[group.key] = nn.Parameter(torch.stack(rows))
            self.b[group.key] = nn.Parameter(torch.zeros(self.num_rows, depth, group.out_features, spec.rank))

    def forward(self, condition_NE: Tensor) -> LoraWeights:
        """The rows of a one-hot condition (C, N)."""
        return self.rows(condition_NE.argmax(dim=1))

    def rows(self, row_C: Tensor) -> LoraWeights:
        """The rows with these numbers."""
        return self.table().map(lambda tensor: tensor.index_select(0, row_C.to(tensor.device)))

    def table(self) -> LoraWeights:
        """All rows: the parameters themselves."""
        return LoraWeights(dict(self.a.items()), dict(self.b.items()))
