"""What can be said of a description without any task data: the numbers that a confidence is made of.

Axis letters: N descriptions, P noise samples, M training tasks, E embedding width, K feature width.

Level 5. All of it needs the encoder, the hypernetwork and what a calibration keeps of the training tasks; no base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.guidance.familiarity import TaskSpace
from t2l.guidance.wording import paraphrases
from t2l.lora import LoraWeights
from t2l.model import TextToLora

SIGNALS = {
    "strangeness": -1,
    "embedding_distance": -1,
    "encoding_distance": -1,
    "noise": -1,
    "norm": 1,
    "drift": 1,
}
"""Name of a signal -> the direction in which it may move the confidence.

``strangeness``: how far the embedding is from the span of the training descriptions; 1 is usual.
``embedding_distance``: to the nearest training task, between embeddings, in standard deviations.
``encoding_distance``: to the nearest training task, as the hypernetwork encodes them, in standard deviations.
``noise``: how much the encoding turns when noise is added to the embedding: 1 - cosine similarity.
``norm``: logarithm of the adapter's norm over that of the mean adapter.
``drift``: distance of the adapter from the mean adapter, over the norm of that.
"""
NOISE_SAMPLES = 6
NOISE = 0.5  # standard deviation, in those of the training descriptions' embeddings


@dataclass(frozen=True, eq=False)
class Known:
    """What is kept of the training tasks.

    Args:
        names: of the M tasks.
        descriptions: one of each.
        embedding: where they lie as embeddings.
        encoding: where they lie as task features.
        mean: the mean of their adapters' A and of their B (N = 1).
    """

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    embedding: TaskSpace
    encoding: TaskSpace
    mean: LoraWeights


@torch.inference_mode()
def measure(t2l: TextToLora, known: Known, embedding_NE: Tensor, task_NK: Tensor, weights: LoraWeights) -> Tensor:
    """All `SIGNALS` of N descriptions, (N, number of signals), float32.

    Args:
        embedding_NE: as the checkpoint's encoder gives them.
        task_NK: as the hypernetwork encodes them.
        weights: their adapters.
    """
    size = known.mean.a
    mean_norm = _flat(known.mean).norm().clamp_min(1e-12)
    flat_NW = _flat(weights)
    assert set(size) == set(weights.a), "adapters of another spec"
    return torch.stack(
        [
            known.embedding.strangeness(embedding_NE),
            known.embedding.distances(embedding_NE).amin(dim=1),
            known.encoding.distances(task_NK).amin(dim=1),
            _noise(t2l, known, embedding_NE, task_NK),
            (flat_NW.norm(dim=1) / mean_norm).clamp_min(1e-6).log(),
            (flat_NW - _flat(known.mean)).norm(dim=1) / mean_norm,
        ],
        dim=1,
    )


@torch.inference_mode()
def rewording_spread(t2l: TextToLora, descriptions: Sequence[str]) -> list[float]:
    """How much each description's encoding turns when it is said in other words: mean 1 - cosine similarity."""
    spreads = []
    for description in descriptions:
        embedding_NE = t2l.encoder.encode([description, *paraphrases(description)])
        task_NK = t2l.hypernetwork.encode(embedding_NE).float().cpu()
        spreads.append(float((1 - F.cosine_similarity(task_NK[1:], task_NK[:1])).mean()))
    return spreads


def _noise(t2l: TextToLora, known: Known, embedding_NE: Tensor, task_NK: Tensor) -> Tensor:
    """Disagreement of the encodings of P noisy copies; the noise is the same for every description."""
    generator = torch.Generator().manual_seed(0)
    width = embedding_NE.shape[1]
    space = known.embedding
    spread = ((space.scale_K.square().sum() + space.rest.square()) / width).sqrt()
    noise_PE = NOISE * spread * torch.randn(NOISE_SAMPLES, width, generator=generator)
    turned = torch.zeros(len(embedding_NE))
    for noise_E in noise_PE:
        noisy_NK = t2l.hypernetwork.encode(embedding_NE + noise_E).float().cpu()
        turned += 1 - F.cosine_similarity(noisy_NK, task_NK)
    return turned / NOISE_SAMPLES


def _flat(weights: LoraWeights) -> Tensor:
    parts = [*weights.a.values(), *weights.b.values()]
    return torch.cat([part.float().cpu().flatten(1) for part in parts], dim=1)
