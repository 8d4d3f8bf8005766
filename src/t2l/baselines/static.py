"""Adapters that no hypernetwork makes: a multi-task LoRA, the average of a library, or the one of the nearest task.

Axis letters: N conditions, M known descriptions, E condition width, L layers, R rank, I in-features, O out-features.

Level 5. Knows shapes, libraries and embeddings; does not know texts, encoders or where batches come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.adapter import Adapter
from t2l.errors import DescriptionError, T2LError
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


def nearest_tasks(names: Sequence[str], embedding_ME: Tensor, condition_NE: Tensor) -> list[str]:
    """For each of N description embeddings the name of the nearest task, by cosine similarity.

    Nothing is trained. A task is as near as the nearest of its descriptions; of equally near ones the first counts.

    Args:
        names: the task of each known description, M of them; a task may have several.
        embedding_ME: their embeddings, one vector each.

    Raises:
        T2LError: not one name for each known embedding.
        DescriptionError: ``condition_NE`` is not (N, E).
    """
    if embedding_ME.ndim != 2 or len(names) != len(embedding_ME) or not names:
        raise T2LError(
            f"{len(names)} names for embeddings of shape {tuple(embedding_ME.shape)}; give one name for each row."
        )
    if condition_NE.ndim != 2 or condition_NE.shape[1] != embedding_ME.shape[1]:
        raise DescriptionError(
            f"The description embeddings have shape {tuple(condition_NE.shape)}; "
            f"the known ones are {embedding_ME.shape[1]} wide.",
            "Use the same encoder for both.",
        )
    known_ME, unit_NE = (F.normalize(rows.float().cpu(), dim=-1) for rows in (embedding_ME, condition_NE))
    return [str(names[int(index)]) for index in (unit_NE @ known_ME.T).argmax(dim=1)]
