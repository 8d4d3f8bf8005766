"""The adapter of the training task whose description is most like the given one: retrieval in place of generation.

Axis letters: N conditions, M known descriptions, E embedding width.

Level 5. Knows embeddings and a library; does not know texts, encoders or base models.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.errors import DescriptionError, T2LError
from t2l.library import Library
from t2l.lora import LoraSource, LoraWeights


class NearestTask(LoraSource):
    """Gives for each description embedding the library's adapter of the nearest training task, by cosine similarity.

    Nothing is trained. A task is as near as the nearest of its descriptions; of equally near ones the first counts.

    Args:
        library: holds an adapter of every task named.
        names: the task of each known description, M of them; a task may have several.
        embedding_ME: their embeddings, pooled ones.

    Raises:
        T2LError: not one name for each embedding, or a name that the library lacks.
    """

    embedding_ME: Tensor

    def __init__(self, library: Library, names: Sequence[str], embedding_ME: Tensor) -> None:
        super().__init__()
        if embedding_ME.ndim != 2 or len(names) != len(embedding_ME) or not names:
            raise T2LError(
                f"{len(names)} names for embeddings of shape {tuple(embedding_ME.shape)}; give one name for each row."
            )
        lacking = sorted({name for name in names if name not in library})
        if lacking:
            raise T2LError(f"The library has no adapter for {len(lacking)} of the tasks, such as '{lacking[0]}'.")
        self.spec = library.spec
        self.library = library
        self.names = list(names)
        self.register_buffer("embedding_ME", F.normalize(embedding_ME.float(), dim=-1))

    def nearest(self, condition_NE: Tensor) -> list[str]:
        """The name of the nearest task for each of N description embeddings.

        Raises:
            DescriptionError: ``condition_NE`` is not (N, E).
        """
        if condition_NE.ndim != 2 or condition_NE.shape[1] != self.embedding_ME.shape[1]:
            raise DescriptionError(
                f"The description embeddings have shape {tuple(condition_NE.shape)}; "
                f"the known ones are {self.embedding_ME.shape[1]} wide.",
                "Use the same encoder for both.",
            )
        unit_NE = F.normalize(condition_NE.float().to(self.embedding_ME.device), dim=-1)
        return [self.names[index] for index in (unit_NE @ self.embedding_ME.T).argmax(dim=1).tolist()]

    def forward(self, condition_NE: Tensor) -> LoraWeights:
        """The nearest tasks' adapters, read from the library and put where the condition is."""
        with torch.no_grad():
            return self.library.weights(self.nearest(condition_NE)).to(condition_NE.device)
