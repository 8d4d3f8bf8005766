"""How many threads torch computes with inside a block.

Level 0. The number is the calling thread's own: other threads keep theirs. It matters for more than speed: the products
of a matrix library may round differently in one thread than in several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Input = TypeVar("Input")
Outcome = TypeVar("Outcome")
_EACH = 8  # items that are worth a thread

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


def each_alone(function: Callable[[Input], Outcome], items: Sequence[Input]) -> list[Outcome]:
    """What a function gives for each item, every one computed in one thread, so that none depends on the others.

    Many items are shared out to as many threads as torch would use for one.
    """
    workers = min(torch.get_num_threads(), len(items) // _EACH)
    if workers < 2:
        with threads(1):
            return [function(item) for item in items]
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(function, items))
