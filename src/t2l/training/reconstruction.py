"""Reconstruction training (Text-to-LoRA, arXiv 2506.06105, section 3.1): the hypernetwork learns a library by heart.

Two targets. Factors: L1 distance between generated and target A and B, in z-scores of each weight element over the
library; the output affine holds the library's mean and standard deviation, so that what the hypernetwork gives in use
are weights. Deltas: L1 distance between the products B A, those of the library times a constant, as the reference
implementation has it without ``factorized``; the output affine divides A and B by its root.

Axis letters: N tasks in a batch, K conditions of one task, E condition width, L layers, R rank, I in-features,
O out-features.

Level 4. The library is read a few adapters at a time and never held in memory. This file does not know texts, tasks
or base models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from t2l.errors import T2LError
from t2l.hypernet import HyperNetwork
from t2l.library import Library
from t2l.lora import LoraWeights
from t2l.storage import new_file, read_json, read_tensors, write_json, write_tensors
from t2l.training.library_statistics import LibraryStatistics
from t2l.training.loop import LoopConfig, Report, train

ConditionOf = Callable[[Random, str], Tensor]
"""Gives a condition (E,), such as the embedding of a random description, of the task with this name."""
Target = Literal["factors", "deltas"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True)
class ReconstructionConfig:
    """Settings of a reconstruction run.

    Args:
        loop: steps, schedule, seed; the paper's runs warm up over 10% of the steps.
        tasks: N, tasks a batch; 4 in the paper's runs.
        learning_rate: peak, of AdamW; 1e-3 in the paper's runs.
        weight_decay: of AdamW.
        noise: standard deviation of Gaussian noise on a condition.
        target: "factors" or "deltas".
        z_scores: factors in z-scores over the library (``pred_z_score`` of the reference); no effect on deltas.
        delta_scale: what target deltas are multiplied by (``delta_w_scaling`` of the reference): weight changes are
            tiny, and a network's outputs begin near 1.
    """

    loop: LoopConfig
    tasks: int = 4
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    noise: float = 0.0
    target: Target = "factors"
    z_scores: bool = True
    delta_scale: float = 10_000.0

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise T2LError(f"target is {self.target!r}; it is {' or '.join(TARGETS)}.")
        if not (math.isfinite(self.delta_scale) and self.delta_scale > 0):
            raise T2LError(f"delta_scale is {self.delta_scale}; it must be a positive number.")
        if self.tasks < 1:
            raise T2LError(f"tasks is {self.tasks}; a batch needs at least 1.")
        if self.learning_rate <= 0 or self.weight_decay < 0 or self.noise < 0:
            raise T2LError(
                f"learning_rate={self.learning_rate} must be positive; weight_decay={self.weight_decay} and "
                f"noise={self.noise} must not be negative."
            )


@dataclass(frozen=True)
class HeldOut:
    """Tasks of the library that are not learned, and what is measured on them.

    Args:
        conditions: adapter -> its conditions, (K, E).
        every: steps between two measurements; after the last step there is always one.
        best_path: where the parameters with the lowest loss are kept (safetensors).
        report: called with (steps done, loss, whether it is the lowest so far).
    """

    conditions: Mapping[str, Tensor]
    every: int
    best_path: Path
    report: Callable[[int, float, bool], None] = lambda done, loss, best: None

    def __post_init__(self) -> None:
        if not self.conditions or self.every < 1:
            raise T2LError(f"every={self.every} must be at least 1, and there must be held-out tasks to measure.")


def reconstruction_loss(hypernetwork: HyperNetwork, condition_NE: Tensor, target: LoraWeights) -> Tensor:
    """Mean absolute difference over all elements of A and B, in z-scores where the output affine holds a gain.

    Every weight element counts the same, whatever the module or factor it belongs to.

    Args:
        target: N adapters of the library, in the order of the conditions.

    Raises:
        T2LError: the target has other shapes, or is not one adapter for each condition.
    """
    _check_target(hypernetwork, condition_NE, target)
    raw = hypernetwork.raw(condition_NE)
    wanted = hypernetwork.output_affine.normalise(target.to(hypernetwork.device))
    pairs = [(raw.a[key], wanted.a[key]) for key in raw.a] + [(raw.b[key], wanted.b[key]) for key in raw.b]
    total = torch.stack([(given.float() - goal.float()).abs().sum() for given, goal in pairs]).sum()
    return total / sum(goal.numel() for _, goal in pairs)


def delta_loss(hypernetwork: HyperNetwork, condition_NE: Tensor, target: LoraWeights, scale: float) -> Tensor:
    """Mean absolute difference of ``B A`` over all elements of all weight changes, the target's times ``scale``.

    A and B are the hypernetwork's before its output affine. One layer's (N, O, I) product is in memory at a time,
    in backward as well: it is computed again there.

    Raises:
        T2LError: as for `reconstruction_loss`.
    """
    _check_target(hypernetwork, condition_NE, target)
    raw, goal = hypernetwork.raw(condition_NE), target.to(hypernetwork.device)
    distances, elements = [], 0
    for group in hypernetwork.spec.groups:
        key = group.key
        parts = (raw.a[key], raw.b[key], goal.a[key], goal.b[key])
        for a_NRI, b_NOR, goal_a_NRI, goal_b_NOR in zip(*(part.float().unbind(1) for part in parts), strict=True):
            left_NOR = torch.cat([b_NOR, -scale * goal_b_NOR], dim=2)  # one product of twice the rank
            right_NRI = torch.cat([a_NRI, goal_a_NRI], dim=1)
            distances.append(checkpoint(_sum_of_absolutes, left_NOR, right_NRI, use_reentrant=False))
        elements += len(condition_NE) * len(group.layers) * group.out_features * group.in_features
    return torch.stack(distances).sum() / elements


def train_reconstruction(
    hypernetwork: HyperNetwork,
    library: Library,
    condition_of: ConditionOf,
    config: ReconstructionConfig,
    *,
    names: Sequence[str] | None = None,
    held_out: HeldOut | None = None,
    statistics_folder: Path | None = None,
    state_path: Path,
    report: Report,
) -> HyperNetwork:
    """Trains ``hypernetwork`` to give, for each task's conditions, that task's adapter of the library.

    Build it with ``head_init="linear"``, ``output_gain=True`` and ``output_shift=True``; the library's statistics are
    set on it here. Where tasks are held out it ends with the parameters that were best on these.

    Args:
        names: the adapters learned; all that are not held out by default.
        held_out: adapters of the library to measure on; neither learned nor counted in the statistics.
        statistics_folder: where the library's statistics are kept; not at all by default.
        state_path: where the state from which a killed run resumes is kept.

    Raises:
        T2LError: the hypernetwork is built without the output affine, or for other shapes; or a task is both learned
            and held out.
    """
    apart = set(held_out.conditions) if held_out is not None else set()
    names = [name for name in library.names if name not in apart] if names is None else list(names)
    if both := sorted(apart & set(names)):
        raise T2LError(f"'{both[0]}' is to be learned and held out.")
    set_affine(hypernetwork, library, names, config, statistics_folder)
    hypernetwork.train()

    watch = None
    if held_out is not None:
        watch = _Watch(hypernetwork, library, held_out, config, afresh=not state_path.exists())

    def loss_at(step: int) -> Tensor:
        if watch is not None and step and step % watch.held_out.every == 0:
            watch.look(step)  # before the step, so that a run killed between a saved state and this looks again
        rng = Random(f"{config.loop.seed}/{step}")
        drawn = rng.sample(names, min(config.tasks, len(names)))
        condition_NE = torch.stack([condition_of(rng, name) for name in drawn])
        if config.noise:
            generator = torch.Generator().manual_seed(step)
            noise_NE = torch.randn(condition_NE.shape, generator=generator)
            condition_NE = condition_NE + config.noise * noise_NE.to(condition_NE.device)
        return target_loss(hypernetwork, condition_NE, library.weights(drawn), config)

    optimizer = torch.optim.AdamW(
        hypernetwork.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)
    )
    train(hypernetwork, [optimizer], loss_at, config.loop, state_path=state_path, report=report)
    if watch is not None:
        watch.look(config.loop.steps)
        watch.take_best()
    return hypernetwork.eval()


def set_affine(
    hypernetwork: HyperNetwork,
    library: Library,
    names: Sequence[str],
    config: ReconstructionConfig,
    statistics_folder: Path | None = None,
) -> None:
    """Sets what stands between the heads' output and weights: z-scores, nothing, or the root of ``delta_scale``.

    Raises:
        T2LError: the hypernetwork was built without output gain or shift, or for other shapes.
    """
    if config.target == "factors" and config.z_scores:
        if statistics_folder is None:
            statistics = LibraryStatistics.of(library.stream(names))
        else:
            statistics = LibraryStatistics.cached(library, names, folder=statistics_folder)
        statistics.set_on(hypernetwork)
        return
    one = library.weights(names[:1])
    one.check(hypernetwork.spec)
    gain = config.delta_scale**-0.5 if config.target == "deltas" else 1.0
    hypernetwork.output_affine.set(gain=one.map(lambda x: torch.full_like(x, gain)), shift=one.map(torch.zeros_like))


def target_loss(
    hypernetwork: HyperNetwork, condition_NE: Tensor, target: LoraWeights, config: ReconstructionConfig
) -> Tensor:
    """The loss that the config asks for."""
    if config.target == "deltas":
        return delta_loss(hypernetwork, condition_NE, target, config.delta_scale)
    return reconstruction_loss(hypernetwork, condition_NE, target)


@torch.no_grad()
def held_out_loss(
    hypernetwork: HyperNetwork, library: Library, conditions: Mapping[str, Tensor], config: ReconstructionConfig
) -> float:
    """Mean over tasks of the loss of their conditions against their adapter, one task in memory at a time."""
    training = hypernetwork.training
    hypernetwork.eval()
    losses = []
    for name, condition_KE in conditions.items():
        target = library.weights([name])
        some = [target_loss(hypernetwork, row_1E, target, config) for row_1E in condition_KE.split(1)]
        losses.append(float(torch.stack(some).mean()))
    hypernetwork.train(training)
    return sum(losses) / len(losses)


class _Watch:
    """Measures on held-out tasks and keeps the best parameters on disk, where a killed run finds them again."""

    def __init__(
        self,
        hypernetwork: HyperNetwork,
        library: Library,
        held_out: HeldOut,
        config: ReconstructionConfig,
        *,
        afresh: bool,
    ) -> None:
        self.hypernetwork, self.library, self.held_out, self.config = hypernetwork, library, held_out, config
        self.lowest = math.inf
        self.record = held_out.best_path.with_suffix(".json")
        if afresh:
            self.record.unlink(missing_ok=True)
        elif self.record.is_file() and held_out.best_path.is_file():  # steps done again give the same losses
            self.lowest = float(read_json(self.record, T2LError).get("loss", math.inf))

    def look(self, done: int) -> None:
        loss = held_out_loss(self.hypernetwork, self.library, self.held_out.conditions, self.config)
        best = loss < self.lowest
        if best:
            self.lowest = loss
            with new_file(self.held_out.best_path, force=True) as temporary:
                write_tensors(temporary, self.hypernetwork.state_dict())
            write_json(self.record, {"step": done, "loss": loss})
        self.held_out.report(done, loss, best)

    def take_best(self) -> None:
        if self.record.is_file():
            self.hypernetwork.load_state_dict(read_tensors(self.held_out.best_path, T2LError))


def _check_target(hypernetwork: HyperNetwork, condition_NE: Tensor, target: LoraWeights) -> None:
    target.check(hypernetwork.spec)
    if target.num_samples != len(condition_NE):
        raise T2LError(f"{len(condition_NE)} conditions for {target.num_samples} target adapters; give one for each.")


def _sum_of_absolutes(left_NOR: Tensor, right_NRI: Tensor) -> Tensor:
    return torch.bmm(left_NOR, right_NRI).abs().sum()
