"""What the page says about a description before anybody asks the adapter: what known tasks are like it.

Level 6. `Adviser` is the one place where more can be plugged in: whatever judges descriptions (confidence, vagueness, a
better wording) gives an `Advice`, and the page shows all that is in it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from t2l.encoders import DescriptionEncoder
from t2l.serving.maker import Made

_AT_A_TIME = 16  # descriptions that are encoded while visitors wait


@dataclass(frozen=True)
class Near:
    """A known task and how alike the descriptions are (cosine of their embeddings)."""

    name: str
    description: str
    similarity: float


@dataclass(frozen=True)
class Advice:
    """What there is to say about a description.

    Args:
        nearest: known tasks, the nearest first.
        notes: what the writer should know, beside the maker's warnings.
        confidence: from 0 to 1, that the adapter will help; None where nobody has measured it.
        pending: why something is missing that will be there later.
    """

    nearest: Sequence[Near] = ()
    notes: Sequence[str] = ()
    confidence: float | None = None
    pending: str = ""


class Adviser(Protocol):
    """Judges a description; called from several threads."""

    def advise(self, description: str, made: Made) -> Advice:
        """What there is to say; quick, as it runs while somebody types."""
        ...


class NearestTasks:
    """Compares a description with those of known tasks.

    The known ones are encoded in a thread of its own, some at a time; until that is done `Advice.pending` says so.

    Args:
        encoder: used by nobody else.
        tasks: (name, description).
        most: how many are told.
    """

    def __init__(self, encoder: DescriptionEncoder, tasks: Sequence[tuple[str, str]], *, most: int = 4) -> None:
        self._encoder, self._tasks, self._most = encoder, list(tasks), most
        self._lock = threading.Lock()
        self._unit_NE: Tensor | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, name="t2l-known-tasks", daemon=True)
        self._thread.start()

    def advise(self, description: str, made: Made) -> Advice:
        """The nearest tasks among those that have been read."""
        del made
        if not self._tasks:
            return Advice()
        unit_NE = self._unit_NE
        if unit_NE is None:
            return Advice(pending="The known tasks are still being read.")
        near_N = unit_NE @ self._unit([description])[0]
        best = near_N.topk(min(self._most, len(near_N)))
        nearest = []
        for place, value in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            name, text = self._tasks[place]
            nearest.append(Near(name, text, float(value)))
        read = len(near_N)
        pending = "" if read == len(self._tasks) else f"Read {read} of {len(self._tasks)} known tasks so far."
        return Advice(nearest, pending=pending)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether all are read, after at most ``timeout_s`` seconds."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Reads no further."""
        self._stopped.set()

    def _read(self) -> None:
        for start in range(0, len(self._tasks), _AT_A_TIME):
            if self._stopped.is_set():
                return
            more_NE = self._unit([text for _, text in self._tasks[start : start + _AT_A_TIME]])
            self._unit_NE = more_NE if self._unit_NE is None else torch.cat([self._unit_NE, more_NE])

    def _unit(self, texts: list[str]) -> Tensor:
        with self._lock:
            embedding_NE = self._encoder.encode(texts).float()
        return torch.nn.functional.normalize(embedding_NE, dim=-1)


class NoAdvice:
    """Where no known tasks are told with the checkpoint."""

    def advise(self, description: str, made: Made) -> Advice:
        """Nothing."""
        del description, made
        return Advice()
