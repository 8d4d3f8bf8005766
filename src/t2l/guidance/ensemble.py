"""One adapter from a description and its rewordings together: their embeddings are averaged, one forward pass.

Axis letters: P phrasings, E embedding width.

Level 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from t2l.adapter import Adapter
from t2l.errors import CheckpointError
from t2l.guidance.wording import paraphrases
from t2l.model import TextToLora


def ensemble(t2l: TextToLora, descriptions: Sequence[str]) -> list[Adapter]:
    """One adapter for each description, from the mean embedding of it and of its rewordings.

    The provenance names the description and the rewordings.

    Raises:
        DescriptionError: as for `TextToLora.generate`.
        CheckpointError: the encoder keeps tokens apart, so that embeddings of two texts have no mean.
    """
    embedding_NE = ensemble_embeddings(t2l, descriptions)
    made = t2l.generate_from_embeddings(embedding_NE)
    return [
        Adapter(
            adapter.spec,
            adapter.weights,
            {
                "description": text,
                "encoder": t2l.encoder.identity,
                "ensemble": paraphrases(text),
                **adapter.provenance,
            },
        )
        for text, adapter in zip(descriptions, made, strict=True)
    ]


def ensemble_embeddings(t2l: TextToLora, descriptions: Sequence[str]) -> Tensor:
    """(N, E): for each description the mean over its phrasings, brought back to an embedding's length."""
    if t2l.encoder.token_dim is not None or not t2l.encoder.full_stop:
        raise CheckpointError(f"Embeddings of the encoder {t2l.encoder.identity} cannot be averaged.")
    rows = []
    for text in descriptions:
        own_PE = t2l.encoder.encode([text, *paraphrases(text)])
        mean_E = own_PE.mean(dim=0)
        rows.append(mean_E * (own_PE[0].norm() / mean_E.norm().clamp_min(1e-12)))
    return torch.stack(rows)
