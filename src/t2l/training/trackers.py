"""Where a run's numbers go: lines on the terminal, TensorBoard always, trackio or Weights & Biases if asked.

Level 4. Knows names and numbers; does not know what they mean.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from t2l.errors import T2LError


class Trackers:
    """TensorBoard and the others of one run; made in the main process alone.

    Raises:
        T2LError: a tracker that was asked for is not installed.
    """

    def __init__(
        self, folder: Path, asked: Sequence[str], settings: Mapping[str, Any], start: int, say: Callable[[str], None]
    ) -> None:
        self._others = [_module(name) for name in asked]
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1 if start else None)
        except ImportError:
            say("TensorBoard is not installed, so its files are not written (pip install 't2l[train]').")
        for tracker in self._others:
            tracker.init(project="t2l", name=folder.name, config=dict(settings))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step, by name."""
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        for tracker in self._others:
            tracker.log(dict(values), step=step)

    def close(self) -> None:
        """Writes what is still in memory."""
        if self._board is not None:
            self._board.close()
        for tracker in self._others:
            tracker.finish()


class Progress:
    """A line now and then: loss, rate, tokens, memory and the time that is left."""

    def __init__(self, start: int, steps: int, every: int, device: torch.device, say: Callable[[str], None]) -> None:
        self._begun, self._start, self._steps, self._every = time.monotonic(), start, steps, every
        self._device, self._say = device, say
        self._losses: list[float] = []
        self._samples = self._tokens = 0
        self._computed = 0.0

    def step(self, done: int, loss: float, samples: int, tokens: int, padding: float = 0.0) -> dict[str, float]:
        """Notes one step; prints at every so many. The rate of the run, for the trackers."""
        self._losses.append(loss)
        self._samples += samples
        self._tokens += tokens
        self._computed += tokens / max(1e-9, 1 - padding)
        seconds = max(1e-9, time.monotonic() - self._begun)
        rates = {"samples_per_second": self._samples / seconds, "tokens_per_second": self._tokens / seconds}
        memory = memory_gib(self._device)
        padded = 1 - self._tokens / max(1.0, self._computed)
        if done % self._every == 0 or done == self._steps:
            mean = sum(self._losses) / len(self._losses)
            left = seconds / (done - self._start) * (self._steps - done)
            self._say(
                f"step {done}/{self._steps}  loss {mean:.4f}  {rates['samples_per_second']:.2f} samples/s  "
                f"{rates['tokens_per_second']:,.0f} tokens/s  {padded:.1%} padding  {memory:.2f} GiB  "
                f"{_duration(left)} left"
            )
            self._losses.clear()
        return {**rates, "padding": padding, "memory_gib": memory}


def memory_gib(device: torch.device) -> float:
    """The most memory that was used: of the device where it is CUDA, of this process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 2**30


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as problem:
        raise T2LError(
            f"loop.trackers asks for {name}, which is not installed.", f"Install it: pip install {name}"
        ) from problem
