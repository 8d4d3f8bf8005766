"""SFT of hypernetworks on the embedded world: which tasks, descriptions and examples make a batch.

Axis letters: N tasks in a batch, S samples, E embedding width, D descriptions a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from t2l.encoders import DescriptionEncoder
from t2l.hypernet import HyperNetwork
from t2l.training.loop import LoopConfig, Report, bfloat16_is_fast, train
from t2l.training.sft import Batch, SftConfig, sft_loss
from t2l.world.base import encode_runs
from t2l.world.tasks import MicroTask
from t2l.world.wording import descriptions

LENGTH_BUCKETS = 2
"""Batches of similar length into which the samples of one step are split."""


@dataclass(frozen=True)
class WorldSftConfig:
    """Settings of an SFT run on the embedded world.

    Args:
        tasks: N, tasks a batch, each with one adapter.
        samples: examples a task in a batch.
        descriptions: D, training descriptions a task.
        learning_rate: peak, of AdamW.
        mix: share of conditions that are a random blend of two descriptions of the task.
        noise: standard deviation of Gaussian noise on a standardised condition.
    """

    tasks: int = 48
    samples: int = 2
    descriptions: int = 40
    learning_rate: float = 6e-4
    weight_decay: float = 0.01
    mix: float = 0.5
    noise: float = 0.3


def embed_descriptions(encoder: DescriptionEncoder, tasks: Sequence[MicroTask], count: int) -> Tensor:
    """Embeddings of ``count`` training descriptions of every task: (tasks, D, E)."""
    texts = [text for task in tasks for text in descriptions(task, count, part="train")]
    return encoder.encode(texts).view(len(tasks), count, -1)


def train_hypernetwork(
    hypernetwork: HyperNetwork,
    base: Any,
    tasks: Sequence[MicroTask],
    table_NDE: Tensor,
    config: WorldSftConfig,
    loop: LoopConfig,
    *,
    sft: SftConfig | None = None,
    state_path: Path,
    report: Report,
) -> None:
    """Trains ``hypernetwork`` on the training part of the tasks' examples, under their training descriptions.

    Args:
        base: the frozen tiny Llama.
        table_NDE: what `embed_descriptions` gave for these tasks, standardised (see `t2l.training.standardization`).
    """
    sft = sft or SftConfig()
    base.requires_grad_(False)
    hypernetwork.train()

    def loss_at(step: int) -> Tensor:
        rng = Random(f"{loop.seed}/{step}")
        chosen = rng.sample(range(len(tasks)), min(config.tasks, len(tasks)))
        condition_NE = torch.stack([_condition(rng, table_NDE[index], config.mix) for index in chosen])
        generator = torch.Generator().manual_seed(step)
        condition_NE = condition_NE + config.noise * torch.randn(condition_NE.shape, generator=generator)
        batches = _batches(rng, [tasks[index] for index in chosen], config.samples)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast()):
            return sft_loss(base, hypernetwork, condition_NE, batches, sft)

    optimizer = torch.optim.AdamW(
        hypernetwork.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)
    )
    train(hypernetwork, [optimizer], loss_at, loop, state_path=state_path, report=report)
    hypernetwork.eval()


def _batches(rng: Random, tasks: Sequence[MicroTask], samples: int) -> list[Batch]:
    """``samples`` examples of each task, in batches of similar length."""
    drawn = [(next(task.stream(rng, "train")), row) for row, task in enumerate(tasks) for _ in range(samples)]
    drawn.sort(key=lambda pair: len(pair[0][0]) + len(pair[0][1]))
    size = -(-len(drawn) // LENGTH_BUCKETS)
    batches = []
    for start in range(0, len(drawn), size):
        part = drawn[start : start + size]
        ids_ST, labels_ST = encode_runs([[example] for example, _ in part])
        batches.append(Batch(ids_ST, labels_ST, torch.tensor([row for _, row in part])))
    return batches


def _condition(rng: Random, table_DE: Tensor, mix: float) -> Tensor:
    """One description's embedding, or a blend of two with the length of the first."""
    first_E = table_DE[rng.randrange(len(table_DE))].float()
    if rng.random() >= mix:
        return first_E
    weight = rng.random()
    blend_E = weight * first_E + (1 - weight) * table_DE[rng.randrange(len(table_DE))].float()
    return blend_E * (first_E.norm() / blend_E.norm())
