"""Embeddings of the training descriptions of many tasks: what a hypernetwork is conditioned on in training.

Axis letters: N tasks, D descriptions a task, E embedding width, W width of one token's state, K tokens in all, T tokens
of a description, L kept layers.

This file knows encoders and texts; it knows no hypernetwork and no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.encoders import DescriptionEncoder
from t2l.encoders.encoder import to_sphere
from t2l.errors import T2LError
from t2l.storage import read_tensors, write_tensors

_TEXTS_AT_A_TIME = 512
_MINILM_WIDTH = 384


class DescriptionTable:
    """D embeddings for each of N tasks, in half precision; token states are kept without their padding.

    Args:
        state_KW: the token states of all descriptions, one after the other (pooled embeddings: one row each).
        start: where each description's rows begin, N * D + 1 numbers.
        count: D.
        width: E.
    """

    def __init__(self, state_KW: Tensor, start: Sequence[int], count: int, width: int) -> None:
        self.state_KW, self.start, self.count, self.width = state_KW, list(start), count, width

    @classmethod
    def embed(
        cls,
        encoder: DescriptionEncoder,
        texts: Sequence[Sequence[str]],
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> DescriptionTable:
        """The table of N lists of D texts.

        Args:
            report: called with (texts done, texts in all).
        """
        flat = [text for some in texts for text in some]
        token_dim = encoder.token_dim or encoder.dim
        parts, start = [], [0]
        for begin in range(0, len(flat), _TEXTS_AT_A_TIME):
            embedding_NE = encoder.encode(flat[begin : begin + _TEXTS_AT_A_TIME])
            for state_TW in embedding_NE.unflatten(-1, (-1, token_dim)):
                real = state_TW[(state_TW != 0).any(dim=-1)]
                parts.append(real.half())
                start.append(start[-1] + len(real))
            report(min(len(flat), begin + _TEXTS_AT_A_TIME), len(flat))
        return cls(torch.cat(parts), start, len(texts[0]), encoder.dim)

    def __len__(self) -> int:
        return (len(self.start) - 1) // self.count

    def get(self, task: int, description: int) -> Tensor:
        """The embedding (E,) of one description, float32."""
        row = task * self.count + description
        state_TW = self.state_KW[self.start[row] : self.start[row + 1]]
        embedding_E = torch.zeros(self.width)
        embedding_E[: state_TW.numel()] = state_TW.flatten().float()
        return embedding_E

    def draw(self, rng: Random, task: int, count: int, descriptions: int | None = None) -> list[Tensor]:
        """``count`` embeddings of different descriptions of a task (all of them where it has fewer).

        Args:
            descriptions: only the first so many of its descriptions are drawn from.
        """
        among = range(min(self.count, descriptions or self.count))
        chosen = rng.sample(among, min(count, len(among)))
        chosen += rng.choices(among, k=count - len(chosen))
        return [self.get(task, description) for description in chosen]

    def rows_NDE(self) -> Tensor:
        """All pooled embeddings as one tensor.

        Raises:
            T2LError: these are token states of differing number.
        """
        if len(self.state_KW) != len(self.start) - 1:
            raise T2LError("Token states do not stack into one tensor.", "Use a pooled encoder.")
        return self.state_KW.view(len(self), self.count, self.width)

    def pooled(self, pooling: str) -> DescriptionTable:
        """MiniLM's pooling ``"mean"`` or ``"layers"`` of a table of its token states, without running it again."""
        rows = []
        for begin, end in zip(self.start, self.start[1:], strict=False):
            state_TLW = self.state_KW[begin:end].float().unflatten(-1, (-1, _MINILM_WIDTH))
            rows.append(_pooled_row(state_TLW, pooling))
        state_KE = to_sphere(torch.stack(rows)).half()
        return DescriptionTable(state_KE, range(len(state_KE) + 1), self.count, state_KE.shape[1])

    def save(self, path: Path) -> None:
        """Writes the table, whole or not at all."""
        tensors = {
            "state_KW": self.state_KW,
            "start": torch.tensor(self.start),
            "shape": torch.tensor([self.count, self.width]),
        }
        temporary = path.with_suffix(".tmp")
        write_tensors(temporary, tensors)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> DescriptionTable:
        """What `save` wrote.

        Raises:
            T2LError: it is missing or damaged.
        """
        tensors = read_tensors(path, T2LError)
        count, width = tensors["shape"].tolist()
        return cls(tensors["state_KW"], tensors["start"].tolist(), count, width)


def _pooled_row(state_TLW: Tensor, pooling: str) -> Tensor:
    if pooling == "mean":
        return state_TLW[:, -1].mean(dim=0)
    words_TLW = state_TLW[1:-1]  # without the special tokens
    means = [words_TLW[:, layer].mean(dim=0) for layer in range(words_TLW.shape[1])]
    return torch.cat([F.normalize(part_W, dim=-1) for part_W in (*means, words_TLW[:, -1].amax(dim=0))])
