"""The loop of a training run on any number of processes, with a state from which a killed run goes on exactly.

What is best on held-out tasks is kept beside the newest checkpoints. Numbers go to the run's folder, to the terminal,
and to accelerate's trackers: TensorBoard where it is installed, others where they are asked for.

Level 4. A step is shared out to the processes, each of which computes its part of loss and gradient; they are summed
once a step. What is drawn at random has seeds of its own, made of (seed, step, number); so what is computed depends
neither on when the run was killed nor on how many processes there are, except for the order in which numbers are added
up. The loop is given a `Job` and does not know what is learned.
"""

from __future__ import annotations

import importlib.util
import math
import random
import signal
import statistics
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from t2l.errors import CheckpointError, RecipeError, T2LError, TrainingStopped
from t2l.recipes.sections import LoopSection
from t2l.training.run_folder import RunFolder
from t2l.training.source import WeightAverage, modules_of, rate_factor

if TYPE_CHECKING:
    from accelerate import Accelerator

_HISTORY = 64  # losses that a spike is measured against
_ENOUGH = 16  # of them, before anything is called a spike

Say = Callable[[str], None]


@dataclass(frozen=True)
class Done:
    """What one process's part of a step came to.

    Args:
        loss: its part of the step's loss; the parts sum to it.
        samples: how many were learned from.
        tokens: that the base read, without padding.
        computed: with it.
    """

    loss: Tensor | float
    samples: float
    tokens: float
    computed: float = 0.0


class Job(ABC):
    """What is trained, and how a step is learned from."""

    module: nn.Module

    @abstractmethod
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimisers of the module, at their peak learning rates."""

    @abstractmethod
    def learn(self, step: int, rank: int, world: int) -> Done:
        """Adds this process's part of a step's gradient to the module's parameters."""

    @abstractmethod
    def identify(self, step: int) -> list[dict[str, Any]]:
        """The samples of a step as plain JSON values, for the record of what went wrong."""

    @abstractmethod
    def validation_parts(self) -> int:
        """How many parts validation has (tasks); the processes share them out. 0 for no validation."""

    @abstractmethod
    def validate(self, part: int) -> dict[str, float]:
        """The measures of one part, by name; every part has the same names, "loss" among them."""


def accelerator_of(folder: Path, trackers: Sequence[str] = (), *, cpu: bool = False) -> Accelerator:
    """What places a run on its devices and logs its numbers.

    Args:
        folder: of the run, where TensorBoard's files go.
        trackers: besides TensorBoard.
        cpu: compute there, whatever else there is.

    Raises:
        T2LError: accelerate, or a tracker that was asked for, is not installed.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import ProjectConfiguration
    except ImportError as problem:
        raise T2LError("Training needs accelerate, which is not installed.", "pip install 't2l[train]'") from problem
    missing = next((name for name in trackers if importlib.util.find_spec(name) is None), None)
    if missing is not None:
        raise T2LError(
            f"loop.trackers asks for {missing}, which is not installed.", f"Install it: pip install {missing}"
        )
    board = ["tensorboard"] if importlib.util.find_spec("tensorboard") is not None else []
    project = ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "tensorboard"))
    return Accelerator(cpu=cpu, log_with=[*board, *trackers] or None, project_config=project)


def run(
    job: Job,
    loop: LoopSection,
    folder: RunFolder,
    accelerator: Accelerator,
    *,
    validate_every: int,
    settings: Mapping[str, Any] | None = None,
    say: Say,
) -> int:
    """Runs the remaining steps; the step of the checkpoint that validation selects, or of the last.

    Args:
        validate_every: steps between two validations; 0 for none.
        settings: of the run, for trackers.

    Raises:
        T2LError: losses are not finite for too many steps in a row.
        CheckpointError: the state is damaged, or of another module.
        OutputError: a checkpoint cannot be written.
        TrainingStopped: after SIGTERM or Ctrl-C.
    """
    return _Run(job, loop, folder, accelerator, validate_every, dict(settings or {}), say).go()


class _Run:
    def __init__(
        self,
        job: Job,
        loop: LoopSection,
        folder: RunFolder,
        accelerator: Accelerator,
        validate_every: int,
        settings: dict[str, Any],
        say: Say,
    ) -> None:
        self.job, self.loop, self.folder, self.accelerator, self.say = job, loop, folder, accelerator, say
        self.validate_every, self.settings = validate_every, settings
        self.optimizers = job.optimizers()
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.parameters = [parameter for parameter in job.module.parameters() if parameter.requires_grad]
        self.clipped = modules_of(job.module) if loop.clip_each else [self.parameters]
        self.average = WeightAverage(job.module, loop.ema) if loop.ema else None
        self.losses: list[float] = []
        self.best: tuple[float, int] | None = None
        self.failed = self.tokens = 0
        self.stop = StopRequest()
        self.seconds = 0.0  # that the run has taken, where the clock ends it
        if loop.minutes and accelerator.num_processes > 1:
            raise RecipeError("loop.minutes goes with one process, whose clock counts.", "Set loop.minutes=0.")

    def go(self) -> int:
        start, steps = self._resume(), self.loop.steps
        main = self.accelerator.is_main_process
        with ExitStack() as stack:
            self.stop = stack.enter_context(stop_requests(signal.SIGTERM, signal.SIGINT))
            self._begin_trackers(start)
            progress = Progress(start, steps, self.loop.log_every, self.accelerator.device, self.say)
            if start == 0:
                self._validate(0)
            begun, before = time.monotonic(), self.seconds
            for step in range(start, steps):
                numbers, stop = self._step(step)
                done = step + 1
                self.seconds = before + time.monotonic() - begun
                last = done == steps or self._elapsed() >= 1
                if main:
                    samples, tokens = int(numbers["samples"]), int(numbers["tokens"])
                    rates = progress.step(done, numbers["loss"], samples, tokens, numbers["padding"])
                    self.folder.note(self.folder.metrics, {"step": done, **numbers})
                    shown = {name: numbers[name] for name in ("loss", "grad_norm", "learning_rate")}
                    self._log("train", done, shown | rates)
                every = self.validate_every
                better = bool(every) and (done % every == 0 or last) and self._validate(done)
                if better or stop or last or done % self.loop.save_every == 0:
                    self._save(done)
                if last:
                    return self.best[1] if self.best is not None else done
                if stop:
                    raise TrainingStopped(done, steps)
        return self.best[1] if self.best is not None else steps

    def _begin_trackers(self, start: int) -> None:
        """Begins the trackers' runs; TensorBoard forgets what a killed process did after its last checkpoint."""
        if self.accelerator.is_main_process and importlib.util.find_spec("tensorboard") is None:
            self.say("TensorBoard is not installed, so its files are not written (pip install 't2l[train]').")
        own: dict[str, Any] = {"name": self.folder.folder.name, "config": self.settings}
        board = {"purge_step": start + 1 if start else None}
        self.accelerator.init_trackers("t2l", init_kwargs={"tensorboard": board, "wandb": own, "trackio": own})

    def _log(self, group: str, done: int, values: Mapping[str, float]) -> None:
        self.accelerator.log({f"{group}/{name}": value for name, value in values.items()}, step=done)

    def _elapsed(self) -> float:
        """Which fraction of its minutes the run has taken; 0 where it has no such limit."""
        minutes = self.loop.minutes
        return self.seconds / (60 * minutes) if minutes else 0.0

    def _factor(self, step: int) -> float:
        """What peak learning rates are multiplied by."""
        loop = self.loop
        return rate_factor(step, loop.steps, loop.warmup, loop.decay, cosine=loop.schedule == "cosine")

    def _step(self, step: int) -> tuple[dict[str, float], bool]:
        """One optimiser step; its numbers, and whether any process was asked to stop."""
        factor = self._factor(max(step, min(int(self._elapsed() * self.loop.steps), self.loop.steps - 1)))
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        world = self.accelerator.num_processes
        done = self.job.learn(step, self.accelerator.process_index, world)
        counts = [done.samples, done.tokens, done.computed, float(self.stop.asked)]
        sums = torch.tensor([float(done.loss), *counts], dtype=torch.float64)
        if world > 1:
            sums = self._sum(sums)
            self._sum_gradients()
        loss = float(sums[0])
        norms = [nn.utils.clip_grad_norm_(some, self.loop.clip) for some in self.clipped]
        norm = float(norms[0]) if len(norms) == 1 else math.hypot(*map(float, norms))
        if math.isfinite(loss) and math.isfinite(norm):
            self._watch(step, loss, norm)
            for optimizer in self.optimizers:
                optimizer.step()
            if self.average is not None:
                self.average.update(step)
            self.failed = 0
        else:
            self._fail(step, loss, norm)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.tokens += int(sums[2])
        padding = 1 - float(sums[2] / sums[3]) if sums[3] else 0.0
        numbers = {"loss": loss, "grad_norm": norm, "learning_rate": self.optimizers[0].param_groups[0]["lr"]}
        numbers |= {"samples": float(sums[1]), "tokens": float(sums[2]), "padding": padding}
        return numbers, bool(sums[4])

    def _watch(self, step: int, loss: float, norm: float) -> None:
        """Tells of a loss far above the recent ones; the update is made all the same, its gradient clipped."""
        if len(self.losses) >= _ENOUGH:
            usual = statistics.median(self.losses)
            if loss > self.loop.spike * abs(usual):
                self._record(step, "spike", loss, norm, f"{loss / usual:.1f} times the median of recent steps")
        self.losses = [*self.losses[1 - _HISTORY :], loss]

    def _fail(self, step: int, loss: float, norm: float) -> None:
        """Leaves an update out whose loss or gradient is not finite; too many in a row end the run."""
        self.failed += 1
        self._record(step, "not finite", loss, norm, "the update is left out")
        if self.failed >= self.loop.patience:
            raise T2LError(
                f"{self.failed} steps in a row had a loss or gradient that is not finite, the last of them step "
                f"{step + 1}; their samples are in '{self.folder.incidents}'.",
                f"The newest checkpoint is of step {self.folder.last() or 0}. "
                "Lower optimizer.learning_rate, or compute in float32 or bfloat16.",
            )

    def _record(self, step: int, kind: str, loss: float, norm: float, what: str) -> None:
        if not self.accelerator.is_main_process:
            return
        samples = self.job.identify(step)
        # JSON has no NaN
        values = {"loss": repr(loss), "grad_norm": repr(norm)}
        self.folder.note(self.folder.incidents, {"step": step + 1, "kind": kind, **values, "samples": samples})
        self.say(f"Step {step + 1}: loss {loss:.4g}, gradient norm {norm:.4g}: {what}. Its samples are kept.")

    @torch.no_grad()
    def _validate(self, done: int) -> bool:
        """Measures the held-out tasks; whether the loss is the lowest so far."""
        parts = self.job.validation_parts() if self.validate_every else 0
        if parts == 0:
            return False
        was_training = self.job.module.training
        self.job.module.eval()
        if self.average is not None:
            self.average.swap()
        names: list[str] = []
        sums = torch.zeros(0, dtype=torch.float64)
        for part in range(parts):
            if part % self.accelerator.num_processes == self.accelerator.process_index:
                measures = self.job.validate(part)
                if not names:
                    names = sorted(measures)
                    sums = torch.zeros(parts, len(names), dtype=torch.float64)
                sums[part] = torch.tensor([measures[name] for name in names], dtype=torch.float64)
        self.job.module.train(was_training)
        if self.average is not None:
            self.average.swap()
        if self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            told = [names]
            broadcast_object_list(told)
            names = told[0]
            sums = self._sum(sums if len(sums) else torch.zeros(parts, len(names), dtype=torch.float64))
        means = dict(zip(names, (sums.sum(dim=0) / parts).tolist(), strict=True))
        if self.accelerator.is_main_process:
            said = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
            self.say(f"step {done}  validation on {parts} held-out tasks: {said}")
            self.folder.note(self.folder.validation, {"step": done, **means})
            self._log("validation", done, means)
        loss = means["loss"]
        if done == 0 or not math.isfinite(loss) or (self.best is not None and loss >= self.best[0]):
            return False
        self.best = (loss, done)
        return True

    def _save(self, done: int) -> None:
        """Writes the checkpoint in the main process; its failure is every process's."""
        problem: T2LError | None = None
        if self.accelerator.is_main_process:
            training: dict[str, Any] = {
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "random": torch.get_rng_state(),
            }
            if self.average is not None:
                training["average"] = self.average.tensors()
            state = {
                "step": done,
                "data_position": done,  # batches are a function of the step
                "schedule": {"steps": self.loop.steps, "next_factor": self._factor(done)},
                "losses": self.losses,
                "best": self.best,
                "failed": self.failed,
                "tokens": self.tokens,
                "processes": self.accelerator.num_processes,
                "seconds": self.seconds,
            }
            try:
                self.folder.save(done, self.job.module.state_dict(), training, state)
                self.folder.prune(self.loop.keep, self.best[1] if self.best else None)
            except T2LError as caught:
                problem = caught
        if self._any(problem is not None):
            raise problem or T2LError("The main process could not write the checkpoint.")

    def _resume(self) -> int:
        step = self.folder.last()
        if step is None:
            if self.accelerator.is_main_process:
                self.folder.forget_after(-1)  # what a run left that was killed before its first checkpoint
            return 0
        tensors, training, state = self.folder.load(step)
        try:
            self.job.module.load_state_dict(tensors)
            for optimizer, saved in zip(self.optimizers, training["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            torch.set_rng_state(training["random"])
            if self.average is not None:
                self.average.load(training["average"])
            self.losses = [float(loss) for loss in state["losses"]]
            self.best = None if state["best"] is None else (float(state["best"][0]), int(state["best"][1]))
            self.failed, self.tokens = int(state["failed"]), int(state["tokens"])
            self.seconds = float(state.get("seconds", 0.0))
        except (KeyError, TypeError, ValueError, RuntimeError) as problem:  # as torch reports another structure
            raise CheckpointError(f"'{self.folder.place(step)}' is not of this run: {problem}") from problem
        if self.accelerator.is_main_process:
            self.folder.forget_after(step)
            self.say(f"Going on from step {step} of {self.loop.steps}.")
        self.accelerator.wait_for_everyone()
        return step

    def _sum(self, values: Tensor) -> Tensor:
        device = self.accelerator.device
        values = values.to(device if device.type != "mps" else "cpu")
        return self._reduced(values).cpu()

    def _reduced(self, values: Tensor) -> Tensor:
        reduced = self.accelerator.reduce(values, reduction="sum")
        assert isinstance(reduced, Tensor)
        return reduced

    def _sum_gradients(self) -> None:
        """One reduction for all gradients."""
        gradients = []
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        flat = self._reduced(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _any(self, value: bool) -> bool:
        if self.accelerator.num_processes == 1:
            return value
        return bool(self._sum(torch.tensor([float(value)]))[0])


def seed_draws(seed: int, step: int, number: int) -> None:
    """Dropout and noise of one part of a step, the same whoever computes it and whenever."""
    torch.manual_seed(random.Random(f"{seed}/{step}/{number}").getrandbits(63))


class StopRequest:
    """Whether the run has been asked to stop."""

    asked = False


@contextmanager
def stop_requests(*numbers: signal.Signals) -> Iterator[StopRequest]:
    """Notes the signals while it is entered; a second Ctrl-C is not waited for. Threads beside the main one hear none.

    Args:
        numbers: what asks for a stop, such as ``signal.SIGTERM``.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, _: FrameType | None) -> None:
        if request.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.asked = True

    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """A line now and then: loss, rate, tokens, memory and the time that is left."""

    def __init__(self, start: int, steps: int, every: int, device: torch.device, say: Callable[[str], None]) -> None:
        self._begun, self._start, self._steps, self._every = time.monotonic(), start, steps, every
        self._device, self._say = device, say
        self._losses: list[float] = []
        self._samples = self._tokens = 0
        self._computed = 0.0

    def step(self, done: int, loss: float, samples: int = 0, tokens: int = 0, padding: float = 0.0) -> dict[str, float]:
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
            shown = [f"step {done}/{self._steps}", f"loss {mean:.4f}"]
            if self._samples:
                shown.append(f"{rates['samples_per_second']:.2f} samples/s")
            if self._tokens:
                shown += [f"{rates['tokens_per_second']:,.0f} tokens/s", f"{padded:.1%} padding"]
            self._say("  ".join([*shown, f"{memory:.2f} GiB", f"{_duration(left)} left"]))
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
