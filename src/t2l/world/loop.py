"""One training loop: schedule, clipping, and a state from which a killed run resumes exactly where it was.

Level 6. The loop is given a loss for each step number and does not know what is learned. Data must be a function of
the step number alone, so that nothing but this file's state is needed to go on.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from t2l.errors import T2LError, TrainingStopped
from t2l.storage import new_file, read_pickled
from t2l.training.loop import StopRequest, stop_requests

LossAt = Callable[[int], Tensor]
"""Step number -> the loss of that step's batch, with a graph."""
Report = Callable[[int, int, float], None]
"""Called after each step with (steps done, steps in all, loss)."""


@dataclass(frozen=True)
class LoopConfig:
    """Settings of one run.

    Args:
        steps: optimiser steps.
        warmup: steps over which the learning rate rises from zero.
        decay: share of the steps, at the end, over which it falls to zero in a straight line.
        clip: largest gradient norm.
        save_every: steps between saved states.
        seed: of dropout and of the data.
        cosine: the learning rate falls along a cosine instead of in a straight line.
        restart: step at which the schedule begins anew, warm-up and decay included, for the steps that are left (a warm
            restart; SGDR, arXiv 1608.03983, section 3); 0: never.
    """

    steps: int
    warmup: int = 100
    decay: float = 0.7
    clip: float = 1.0
    save_every: int = 200
    seed: int = 0
    restart: int = 0
    cosine: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.warmup < 0 or self.save_every < 1:
            raise T2LError(f"steps={self.steps}, warmup={self.warmup}, save_every={self.save_every} must be positive.")
        if not 0 <= self.decay <= 1:
            raise T2LError(f"decay is {self.decay}; it is a share of the steps, from 0 to 1.")
        if not 0 <= self.restart < self.steps:
            raise T2LError(f"restart is {self.restart}; it is a step before the last of {self.steps}, or 0 for none.")

    def factor(self, step: int) -> float:
        """What the peak learning rate is multiplied by in the given step (counted from 0)."""
        begin, end = (self.restart, self.steps) if step >= self.restart else (0, self.restart)
        rise = min(1.0, (step - begin + 1) / self.warmup) if self.warmup else 1.0
        left = min(1.0, (end - step) / max(1.0, self.decay * (end - begin)))
        return rise * (0.5 - 0.5 * math.cos(math.pi * left) if self.cosine else left)


def train(
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    loss_at: LossAt,
    config: LoopConfig,
    *,
    state_path: Path,
    report: Report,
) -> None:
    """Runs the remaining steps of a run; all of them where ``state_path`` does not exist yet.

    Raises:
        T2LError: the saved state is damaged or belongs to another run, or the loss is not finite.
        OutputError: the state cannot be written.
        TrainingStopped: after SIGTERM, when the state has been saved.
    """
    with stop_requests(signal.SIGTERM) as stop:
        _train(module, optimizers, loss_at, config, state_path, report, stop)


def _train(
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    loss_at: LossAt,
    config: LoopConfig,
    state_path: Path,
    report: Report,
    stop: StopRequest,
) -> None:
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    start = _restore(state_path, module, optimizers, config)
    for step in range(start, config.steps):
        torch.manual_seed((config.seed << 32) + step)  # dropout, the same after a resume
        for optimizer, lrs in zip(optimizers, peaks, strict=True):
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr * config.factor(step)
        loss = loss_at(step)
        value = loss.item()
        if not math.isfinite(value):
            raise T2LError(
                f"The loss is {value} in step {step + 1}.",
                f"Lower the learning rate; the state of the last save is in '{state_path}'.",
            )
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), config.clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        last = step + 1 == config.steps
        stopping = stop.asked and not last
        if (step + 1) % config.save_every == 0 or last or stopping:
            _save(state_path, module, optimizers, config, step + 1)
        report(step + 1, config.steps, value)
        if stopping:
            raise TrainingStopped(step + 1, config.steps)


def _print(line: str) -> None:
    print(line, flush=True)


def printed_progress(name: str, every: int = 20, say: Callable[[str], None] = _print) -> Report:
    """A report that says a line with the mean loss and the time left, on stdout by default."""
    begun: list[float] = []
    first: list[int] = []
    losses: list[float] = []

    def report(done: int, steps: int, loss: float) -> None:
        if not begun:
            begun.append(time.monotonic())
            first.append(done)
        losses.append(loss)
        if done % every == 0 or done == steps:
            rate = (time.monotonic() - begun[0]) / max(1, done - first[0])
            mean = sum(losses) / len(losses)
            left = rate * (steps - done) / 60
            say(f"{name}: step {done}/{steps}, loss {mean:.3f}, {left:.1f} min left")
            losses.clear()

    return report


def _restore(path: Path, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], config: LoopConfig) -> int:
    if not path.exists():
        return 0
    try:
        state = read_pickled(path, T2LError)
        state = {**state, **{name: state[name] for name in ("step", "settings", "module", "optimizers")}}
    except (T2LError, KeyError, TypeError) as problem:
        raise T2LError(f"The training state '{path}' cannot be read: {problem}", _afresh(path)) from problem
    if state["settings"] != _settings(config):
        raise T2LError(
            f"The training state '{path}' is of a run with {state.get('settings')}, not {_settings(config)}.",
            "Delete it to start afresh, or use the same settings.",
        )
    try:
        module.load_state_dict(state["module"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return int(state["step"])
    except (KeyError, TypeError, ValueError, RuntimeError) as problem:  # as torch reports another structure
        raise T2LError(f"The training state '{path}' is not of this model: {problem}", _afresh(path)) from problem


def _save(
    path: Path, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], config: LoopConfig, step: int
) -> None:
    state = {
        "step": step,
        "settings": _settings(config),
        "module": module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    with new_file(path, force=True) as temporary:
        torch.save(state, temporary)


def _settings(config: LoopConfig) -> dict[str, float]:
    names = ("steps", "warmup", "decay", "clip", "seed", "restart")
    return {name: getattr(config, name) for name in names}


def _afresh(path: Path) -> str:
    return f"Delete '{path}' to start afresh."
