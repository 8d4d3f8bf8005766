"""The adapter of the training task whose description is most like the given one: retrieval in place of generation.

Axis letters: N descriptions, M known descriptions, E embedding width.

Level 5. Knows embeddings and names; does not know texts, encoders or adapters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from t2l.errors import DescriptionError, T2LError


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
