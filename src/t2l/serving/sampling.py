"""How the next token is chosen: greedily, or drawn from a seeded generator that belongs to one request.

Axis letter: V tokens of the vocabulary.

Level 5. This file knows one row of logits; it knows no batch, so that nobody's neighbours change what is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from t2l.serving.errors import RequestError

MAX_STOPS = 16
_MAX_STOP_CHARS = 256
_MAX_TEMPERATURE = 2.0


@dataclass(frozen=True)
class Sampling:
    """What a request asks for.

    Args:
        max_tokens: the longest answer; by default as long as the engine allows and the context has room for.
        temperature: 0 is greedy.
        top_p: only the likeliest tokens that together have this probability are drawn from.
        seed: equal seeds give equal draws; by default a fresh one.
        stop: texts at which the answer ends; they are not part of it.

    Raises:
        RequestError: a value that is out of range.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise RequestError(f"max_tokens is {self.max_tokens}; it must be at least 1.", field="max_tokens")
        if not 0 <= self.temperature <= _MAX_TEMPERATURE:  # false for NaN as well
            raise RequestError(
                f"temperature is {self.temperature}; it must lie between 0 and {_MAX_TEMPERATURE:g}.",
                field="temperature",
            )
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p is {self.top_p}; it must be above 0 and at most 1.", field="top_p")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise RequestError(f"seed is {self.seed}; it must fit into 64 bits.", field="seed")
        if len(self.stop) > MAX_STOPS:
            raise RequestError(f"There are {len(self.stop)} stop texts; at most {MAX_STOPS} are read.", field="stop")
        if any(not 1 <= len(text) <= _MAX_STOP_CHARS for text in self.stop):
            raise RequestError(f"A stop text has 1 to {_MAX_STOP_CHARS} characters.", field="stop")


class Picker:
    """Picks one request's tokens, one after the other."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._generator: torch.Generator | None = None
        if sampling.temperature > 0:
            self._generator = torch.Generator()
            if sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(sampling.seed)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self._generator is None

    def pick(self, logits_V: Tensor) -> int:
        """The next token."""
        if self._generator is None:
            return int(logits_V.argmax())
        scaled_V = logits_V.to("cpu", torch.float64) / max(self.sampling.temperature, 1e-4)
        if self.sampling.top_p >= 1:
            return int(torch.multinomial(scaled_V.softmax(-1), 1, generator=self._generator))
        chance_V, token_V = scaled_V.softmax(-1).sort(descending=True, stable=True)
        before_V = chance_V.cumsum(-1) - chance_V
        chance_V = chance_V.masked_fill(before_V >= self.sampling.top_p, 0)  # the first always stays
        return int(token_V[torch.multinomial(chance_V, 1, generator=self._generator)])


def is_usable(logits_SV: Tensor) -> list[bool]:
    """For each row whether a token can be picked from it: no NaN, and not infinite."""
    highest_S = logits_SV.float().amax(-1)  # NaN wins
    return [math.isfinite(value) for value in highest_S.tolist()]
