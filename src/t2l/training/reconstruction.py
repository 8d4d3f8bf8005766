"""Reconstruction training (Text-to-LoRA, arXiv 2506.06105, section 3.1): the hypernetwork learns a library by heart.

L1 distance between generated and target A and B, in z-scores of each weight element over the library. The
hypernetwork's output affine holds the library's mean and standard deviation, so that what it gives in use are weights.

Axis letters: N tasks in a batch, E condition width, L layers, R rank, I in-features, O out-features.

Level 4. The library is read a few adapters at a time and never held in memory. This file does not know texts, tasks
or base models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from t2l.errors import T2LError
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraWeights
from t2l.training.library import Library
from t2l.training.loop import LoopConfig, Report, train

ConditionOf = Callable[[Random, str], Tensor]
"""Gives a condition (E,), such as the embedding of a random description, of the task with this name."""
_LEAST_SPREAD = 1e-3  # of the typical element's standard deviation


@dataclass(frozen=True)
class ReconstructionConfig:
    """Settings of a reconstruction run.

    Args:
        loop: steps, schedule, seed; the paper's runs warm up over 10% of the steps.
        tasks: N, tasks a batch; 4 in the paper's runs.
        learning_rate: peak, of AdamW; 1e-3 in the paper's runs.
        weight_decay: of AdamW.
        noise: standard deviation of Gaussian noise on a condition.
    """

    loop: LoopConfig
    tasks: int = 4
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.tasks < 1:
            raise T2LError(f"tasks is {self.tasks}; a batch needs at least 1.")
        if self.learning_rate <= 0 or self.weight_decay < 0 or self.noise < 0:
            raise T2LError(
                f"learning_rate={self.learning_rate} must be positive; weight_decay={self.weight_decay} and "
                f"noise={self.noise} must not be negative."
            )


@dataclass(frozen=True)
class LibraryStatistics:
    """Mean and standard deviation of every weight element over a library, as LoRA weights with N = 1.

    Args:
        mean: element by element.
        std: of the population, so that the z-scores of the library have variance 1. An element that hardly varies is
            given a thousandth of the typical spread of its factor: its z-scores stay near 0 and rounding errors small.
    """

    mean: LoraWeights
    std: LoraWeights

    @classmethod
    def of(cls, adapters: Iterable[LoraWeights]) -> LibraryStatistics:
        """From adapters that come one at a time (``library.stream()``): Welford's method in float64.

        Raises:
            T2LError: fewer than two adapters.
        """
        count = 0
        mean: LoraWeights | None = None
        squares: LoraWeights | None = None  # sums of squared differences from the mean so far
        for adapter in adapters:
            for row in range(adapter.num_samples):
                value = adapter.select(row).to(torch.float64)
                count += 1
                if mean is None or squares is None:
                    mean, squares = value.map(torch.clone), value.map(torch.zeros_like)
                    continue
                for means, sums, values in ((mean.a, squares.a, value.a), (mean.b, squares.b, value.b)):
                    for key, x in values.items():
                        difference = x - means[key]
                        means[key] += difference / count
                        sums[key] += difference * (x - means[key])
        if mean is None or squares is None or count < 2:
            raise T2LError(f"The spread of a library of {count} adapters is not defined; it needs at least 2.")
        total = count
        std = squares.map(lambda sums: _floored((sums / total).sqrt()))
        return cls(mean.to(torch.float32), std.to(torch.float32))

    def set_on(self, hypernetwork: HyperNetwork) -> None:
        """Lets the hypernetwork speak in z-scores inside and give weights outside.

        Raises:
            T2LError: it was built without output gain or shift, or for other shapes.
        """
        self.mean.check(hypernetwork.spec)
        hypernetwork.output_affine.set(gain=self.std, shift=self.mean)


def reconstruction_loss(hypernetwork: HyperNetwork, condition_NE: Tensor, target: LoraWeights) -> Tensor:
    """Mean absolute difference over all elements of A and B, in z-scores where the output affine holds a gain.

    Every weight element counts the same, whatever the module or factor it belongs to.

    Args:
        target: N adapters of the library, in the order of the conditions.

    Raises:
        T2LError: the target has other shapes, or is not one adapter for each condition.
    """
    target.check(hypernetwork.spec)
    if target.num_samples != len(condition_NE):
        raise T2LError(f"{len(condition_NE)} conditions for {target.num_samples} target adapters; give one for each.")
    raw = hypernetwork.raw(condition_NE)
    wanted = hypernetwork.output_affine.normalise(target.to(hypernetwork.device))
    pairs = [(raw.a[key], wanted.a[key]) for key in raw.a] + [(raw.b[key], wanted.b[key]) for key in raw.b]
    total = torch.stack([(given.float() - goal.float()).abs().sum() for given, goal in pairs]).sum()
    return total / sum(goal.numel() for _, goal in pairs)


def train_reconstruction(
    hypernetwork: HyperNetwork,
    library: Library,
    condition_of: ConditionOf,
    config: ReconstructionConfig,
    *,
    names: Sequence[str] | None = None,
    state_path: Path,
    report: Report,
) -> HyperNetwork:
    """Trains ``hypernetwork`` to give, for each task's conditions, that task's adapter of the library.

    Build it with ``head_init="linear"``, ``output_gain=True`` and ``output_shift=True``; the library's statistics are
    set on it here.

    Args:
        names: the adapters learned; all by default.
        state_path: where the state from which a killed run resumes is kept.

    Raises:
        T2LError: the hypernetwork is built without the output affine, or for other shapes.
    """
    names = library.names if names is None else list(names)
    LibraryStatistics.of(library.stream(names)).set_on(hypernetwork)
    hypernetwork.train()

    def loss_at(step: int) -> Tensor:
        rng = Random(f"{config.loop.seed}/{step}")
        drawn = rng.sample(names, min(config.tasks, len(names)))
        condition_NE = torch.stack([condition_of(rng, name) for name in drawn])
        if config.noise:
            generator = torch.Generator().manual_seed(step)
            noise_NE = torch.randn(condition_NE.shape, generator=generator)
            condition_NE = condition_NE + config.noise * noise_NE.to(condition_NE.device)
        return reconstruction_loss(hypernetwork, condition_NE, library.weights(drawn))

    optimizer = torch.optim.AdamW(
        hypernetwork.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)
    )
    train(hypernetwork, [optimizer], loss_at, config.loop, state_path=state_path, report=report)
    return hypernetwork.eval()


def _floored(std: Tensor) -> Tensor:
    typical = float(std.square().mean().sqrt())
    return std.clamp_min(_LEAST_SPREAD * typical if typical > 0 else 1.0)
