"""Signals of a description that need no task data: what a confidence is computed from.

Axis letters: N descriptions, P noise samples, M training tasks, E embedding width, W width of one vector a text, K
feature width.

Level 5. All of it needs the encoder, the hypernetwork and what a calibration keeps of the training tasks; no base.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2l.encoders.encoder import one_vector
from t2l.guidance.familiarity import TaskSpace
from t2l.guidance.wording import paraphrases
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraWeights
from t2l.model import TextToLora

SIGNALS = {
    "strangeness": -1,
    "embedding_distance": -1,
    "encoding_distance": -1,
    "noise": -1,
    "dropout": -1,
    "norm": 1,
    "drift": 1,
}
"""Name of a signal -> the direction in which it may move the confidence.

``strangeness``: how far the embedding is from the span of the training descriptions; 1 is usual.
``embedding_distance``: to the nearest training task, between embeddings, over that of a description to its own task.
``encoding_distance``: the same between task features, as the hypernetwork encodes descriptions.
``noise``: how much the encoding turns when noise is added to the embedding: 1 - cosine similarity.
``dropout``: how much the adapter turns when hidden units of the hypernetwork are left out: 1 - cosine similarity.
``norm``: logarithm of the adapter's norm over that of the mean adapter.
``drift``: distance of the adapter from the mean adapter, over the norm of that.
"""
OF_EMBEDDING = ("strangeness", "embedding_distance")
"""The signals that know nothing of the hypernetwork, only the embeddings of the training descriptions."""
COSTLY = ("noise", "dropout")
"""The signals that run the hypernetwork again."""
NOISE_SAMPLES = 6
NOISE = 0.5  # standard deviation, in that of `TaskSpace.spread`
DROPOUT_SAMPLES = 6
DROPOUT = 0.2  # of the hidden units


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
def measure(
    t2l: TextToLora,
    known: Known,
    embedding_NE: Tensor,
    task_NK: Tensor,
    weights: LoraWeights,
    *,
    without: Collection[str] = (),
) -> Tensor:
    """All `SIGNALS` of N descriptions, (N, number of signals), float32.

    Args:
        embedding_NE: as the checkpoint's encoder gives them; of token states the mean over tokens is compared.
        task_NK: as the hypernetwork encodes them.
        weights: their adapters.
        without: signals that need not be measured; of `COSTLY` ones they are NaN.
    """
    assert set(known.mean.a) == set(weights.a), "adapters of another spec"
    mean_norm = _flat(known.mean).norm().clamp_min(1e-12)
    flat_NW = _flat(weights)
    none_N = torch.full((len(flat_NW),), torch.nan)
    return torch.stack(
        [
            *of_embedding(known.embedding, one_vector(embedding_NE, t2l.encoder.token_dim)),
            known.encoding.distances(task_NK).amin(dim=1),
            none_N if "noise" in without else _noise(t2l, known, embedding_NE, task_NK),
            none_N if "dropout" in without else _dropout(t2l, task_NK, flat_NW),
            (flat_NW.norm(dim=1) / mean_norm).clamp_min(1e-6).log(),
            (flat_NW - _flat(known.mean)).norm(dim=1) / mean_norm,
        ],
        dim=1,
    )


def of_embedding(space: TaskSpace, embedding_NW: Tensor) -> tuple[Tensor, Tensor]:
    """The signals `OF_EMBEDDING`, (N,) each, by one vector a text."""
    return space.strangeness(embedding_NW), space.distances(embedding_NW).amin(dim=1)


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
    """Disagreement of the encodings of P noisy copies; the noise is the same for every description and token."""
    generator = torch.Generator().manual_seed(0)
    space = known.embedding
    noise_PW = NOISE * space.spread * torch.randn(NOISE_SAMPLES, len(space.mean_W), generator=generator)
    turned = torch.zeros(len(embedding_NE))
    state_NTW = embedding_NE.unflatten(1, (-1, len(space.mean_W)))
    real_NT1 = (state_NTW != 0).any(dim=-1, keepdim=True)  # what is padding stays so
    for noise_W in noise_PW:
        noisy_NK = t2l.hypernetwork.encode((state_NTW + noise_W * real_NT1).flatten(1)).float().cpu()
        turned += 1 - F.cosine_similarity(noisy_NK, task_NK)
    return turned / NOISE_SAMPLES


def _dropout(t2l: TextToLora, task_NK: Tensor, flat_NW: Tensor) -> Tensor:
    """Disagreement of the adapters that P thinned hypernetworks make; the masks are the same for every description."""
    step = max(1, t2l.chunk_size() // DROPOUT_SAMPLES)
    turned = []
    for part_NK, own_NW in zip(task_NK.split(step), flat_NW.split(step), strict=True):
        thinned = _thinned(t2l.hypernetwork, torch.Generator().manual_seed(0))
        many_NK = part_NK.to(thinned.device, thinned.dtype).repeat(DROPOUT_SAMPLES, 1)  # one pass for all samples
        flat_PNW = _flat(thinned.output_affine(thinned.decode(many_NK))).unflatten(0, (DROPOUT_SAMPLES, -1))
        turned.append(1 - F.cosine_similarity(flat_PNW, own_NW, dim=-1).mean(dim=0))
    return torch.cat(turned)


def _thinned(hypernetwork: HyperNetwork, generator: torch.Generator) -> HyperNetwork:
    """The same parameters, not copied, in a network that leaves out hidden units wherever training can."""
    shared = {id(tensor): tensor for tensor in (*hypernetwork.parameters(), *hypernetwork.buffers())}
    thinned = copy.deepcopy(hypernetwork, shared)
    for module in list(thinned.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, _Mask(generator))
    return thinned


class _Mask(nn.Module):
    """Leaves out hidden units, by a generator of its own: other ones in each of P samples."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.rand((DROPOUT_SAMPLES, 1, *x.shape[1:]), generator=self.generator) >= DROPOUT
        mask = (kept / (1 - DROPOUT)).to(x.device, x.dtype)
        return (x.unflatten(0, (DROPOUT_SAMPLES, -1)) * mask).flatten(0, 1)


def _flat(weights: LoraWeights) -> Tensor:
    parts = [*weights.a.values(), *weights.b.values()]
    return torch.cat([part.float().cpu().flatten(1) for part in parts], dim=1)
