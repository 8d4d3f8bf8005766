"""SFT of hypernetworks on the embedded world: the recipe, and which tasks, descriptions and examples make a batch.

Axis letters: N tasks in a batch, C conditions (views of the tasks), S samples, E embedding width, K feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from t2l.encoders import DescriptionEncoder
from t2l.errors import T2LError
from t2l.heads import Variant
from t2l.hypernet import HIDDEN_MATRICES, HeadInit, HyperNetwork
from t2l.lora import LoraSpec
from t2l.training.batches import IGNORED, Batch
from t2l.training.conditions import Standardization
from t2l.training.frozen_base import bfloat16_is_fast
from t2l.training.sft import contrastive_loss
from t2l.training.source import muon_and_adamw
from t2l.world.base import decode_run, encode_runs
from t2l.world.conditions import DescriptionTable
from t2l.world.loop import LoopConfig, Report, train
from t2l.world.sft_loss import SftConfig, adapted_loss, distillation_loss
from t2l.world.tasks import MicroTask

LENGTH_BUCKETS = 4
"""Batches of similar length into which the samples of one step are split."""
# On sequences this short torch's fused CPU attention is slower than plain products, its backward most of all.
_TEACHER_SHOTS = 3


@dataclass(frozen=True)
class SftRecipe:
    """All that one SFT run on the embedded world is made of; studies vary one field at a time.

    Args:
        loop: steps, schedule, seed.
        variant: of the head.
        trunk_dim: D of the hypernetwork.
        head_dim: H of the hypernetwork.
        tasks: N, tasks a batch.
        views: descriptions of each task in a batch, each with an adapter of its own; examples are shared out.
        samples: examples a task in a batch.
        train_tasks: how many of the training tasks are used, drawn at random; all by default.
        descriptions: how many descriptions of each task are used; all of the table's by default.
        learning_rate: peak, of AdamW.
        matrix_learning_rate: peak, of Muon, for the matrices inside trunk and task encoder; with 0 AdamW has them too.
        mix: share of conditions that are a random blend of two descriptions of the task (pooled encoders).
        noise: standard deviation of Gaussian noise on a standardised condition (pooled encoders).
        contrast: weight of a term that draws the features of one task's descriptions together and tasks apart.
        hard: share of the batches whose tasks all come from one family, so that they are hard to tell apart.
        distill: weight of distillation from the base with three examples in its prompt; the answers get the rest.
        sft: the terms of the loss.
    """

    loop: LoopConfig
    variant: Variant = "L"
    trunk_dim: int = 320
    head_dim: int = 512
    tasks: int = 48
    views: int = 2
    samples: int = 2
    train_tasks: int | None = None
    descriptions: int | None = None
    learning_rate: float = 8e-4
    matrix_learning_rate: float = 2e-3
    weight_decay: float = 0.02
    mix: float = 0.5
    noise: float = 0.3
    contrast: float = 0.1
    hard: float = 0.0
    distill: float = 0.0
    sft: SftConfig = field(default_factory=SftConfig)

    def __post_init__(self) -> None:
        if self.samples % self.views:
            raise T2LError(f"samples={self.samples} examples cannot be shared out to views={self.views} descriptions.")
        if self.contrast and self.views < 2:
            raise T2LError("The contrastive term compares descriptions of one task; it needs views=2.")


def train_hypernetwork(
    recipe: SftRecipe,
    base: Any,
    spec: LoraSpec,
    encoder: DescriptionEncoder,
    tasks: Sequence[MicroTask],
    table: DescriptionTable,
    *,
    state_path: Path,
    report: Report,
) -> HyperNetwork:
    """A hypernetwork trained on the training part of the tasks' examples, under their training descriptions.

    It reads plain embeddings of ``encoder``, whatever it was trained on inside.

    Args:
        base: the frozen tiny Llama.
        table: the embeddings of the descriptions of exactly these tasks, in order.
        state_path: where the state from which a killed run resumes is kept.
    """
    hypernetwork = build_hypernetwork(recipe, spec, encoder)
    standardize = None if encoder.token_dim is not None else Standardization.of(table.rows_NDE().flatten(0, 1))
    chosen = list(range(len(tasks)))
    if recipe.train_tasks is not None:
        chosen = sorted(Random(f"train tasks/{recipe.loop.seed}").sample(chosen, min(recipe.train_tasks, len(chosen))))
    families: dict[str, list[int]] = {}
    for index in chosen:
        families.setdefault(tasks[index].family, []).append(index)
    base.requires_grad_(False)
    hypernetwork.train()

    def loss_at(step: int) -> Tensor:
        rng = Random(f"{recipe.loop.seed}/{step}")
        among = chosen
        if rng.random() < recipe.hard:
            among = families[rng.choice([name for name, members in families.items() if len(members) > 1])]
        drawn = rng.sample(among, min(recipe.tasks, len(among)))
        condition_CE = _conditions(rng, recipe, table, drawn, standardize, step)
        batches = example_batches(rng, [tasks[index] for index in drawn], recipe.samples, recipe.views)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast()), sdpa_kernel(SDPBackend.MATH):
            features_CK = hypernetwork.encode(condition_CE)
            weights = hypernetwork.output_affine(hypernetwork.decode(features_CK))
            loss = adapted_loss(base, spec, weights, batches, recipe.sft)
            if recipe.distill:
                teachers = [_teacher(rng, batch, [tasks[index] for index in drawn], recipe.views) for batch in batches]
                term = distillation_loss(base, spec, weights, batches, teachers)
                loss = (1 - recipe.distill) * loss + recipe.distill * term
            if recipe.contrast:
                loss = loss + recipe.contrast * contrastive_loss(features_CK, recipe.views)
        return loss

    optimizers = muon_and_adamw(
        hypernetwork,
        lambda name, _: name.startswith(HIDDEN_MATRICES),
        matrix_lr=recipe.matrix_learning_rate,
        other_lr=recipe.learning_rate,
        matrix_decay=recipe.weight_decay,
        other_decay=recipe.weight_decay,
    )
    train(hypernetwork, optimizers, loss_at, recipe.loop, state_path=state_path, report=report)
    if standardize is not None:
        standardize.fold_into(hypernetwork)
    return hypernetwork.eval()


def build_hypernetwork(
    recipe: SftRecipe,
    spec: LoraSpec,
    encoder: DescriptionEncoder,
    *,
    head_init: HeadInit = "lora",
    output_affine: bool = False,
) -> HyperNetwork:
    """The untrained hypernetwork of a recipe, for an encoder.

    Args:
        head_init: "linear" for reconstruction.
        output_affine: it speaks in z-scores (reconstruction).
    """
    return HyperNetwork(
        spec,
        encoder.dim,
        recipe.variant,
        trunk_dim=recipe.trunk_dim,
        head_dim=recipe.head_dim,
        task_encoder="linear" if encoder.token_dim is None else "tokens",
        token_dim=encoder.token_dim,
        head_init=head_init,
        output_gain=output_affine,
        output_shift=output_affine,
        seed=recipe.loop.seed,
    )


def example_batches(rng: Random, tasks: Sequence[MicroTask], samples: int, views: int = 1) -> list[Batch]:
    """``samples`` examples of each task, in batches of similar length; task n has the conditions n*views ... ."""
    drawn = [
        (next(task.stream(rng, "train")), row * views + sample % views)
        for row, task in enumerate(tasks)
        for sample in range(samples)
    ]
    drawn.sort(key=lambda pair: len(pair[0][0]) + len(pair[0][1]))
    size = -(-len(drawn) // LENGTH_BUCKETS)
    batches = []
    for start in range(0, len(drawn), size):
        part = drawn[start : start + size]
        ids_ST, labels_ST = encode_runs([[example] for example, _ in part])
        batches.append(Batch(ids_ST, labels_ST, torch.tensor([row for _, row in part])))
    return batches


def _conditions(
    rng: Random,
    recipe: SftRecipe,
    table: DescriptionTable,
    drawn: Sequence[int],
    standardize: Standardization | None,
    step: int,
) -> Tensor:
    """``views`` conditions of each task, those of a task side by side."""
    rows = [row for index in drawn for row in table.draw(rng, index, recipe.views, recipe.descriptions)]
    if standardize is None:
        return torch.stack(rows)
    blended = []
    for place, row_E in enumerate(rows):
        if rng.random() < recipe.mix:
            (other_E,) = table.draw(rng, drawn[place // recipe.views], 1, recipe.descriptions)
            weight = rng.random()
            blend_E = weight * row_E + (1 - weight) * other_E
            row_E = blend_E * (row_E.norm() / blend_E.norm())
        blended.append(row_E)
    condition_CE = standardize(torch.stack(blended))
    generator = torch.Generator().manual_seed(step)
    return condition_CE + recipe.noise * torch.randn(condition_CE.shape, generator=generator)


def _teacher(rng: Random, batch: Batch, tasks: Sequence[MicroTask], views: int) -> Batch:
    """The same questions and answers after a few other examples of the task; only the last answer is labelled."""
    runs = []
    for row, condition in enumerate(batch.index_S.tolist()):
        stream = tasks[condition // views].stream(rng, "train")
        runs.append([*(next(stream) for _ in range(_TEACHER_SHOTS)), decode_run(batch.ids_ST[row])])
    ids_ST, labels_ST = encode_runs(runs)
    for row in range(len(runs)):
        scored = int((batch.labels_ST[row] != IGNORED).sum())
        labelled = (labels_ST[row] != IGNORED).nonzero()[:-scored]
        labels_ST[row, labelled] = IGNORED
    return Batch(ids_ST, labels_ST, batch.index_S)
