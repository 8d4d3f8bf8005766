"""How many threads torch computes with inside a block.

Level 0. The number is the calling thread's own: other threads keep theirs. It matters for more than speed: the products
of a matrix library may round differently in one thread than in several.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL = 1 << 25
"""Parameters below which a model is given one thread: its pass is over before a second has begun, which only waits."""


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Computes in so many threads inside the block; None for torch's own choice."""
    before = torch.get_num_threads()
    if number is None or number == before:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
