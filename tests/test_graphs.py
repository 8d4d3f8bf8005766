"""Micro-batches of recorded shapes: every sample has a slot, and the gradients are those of the plain step."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch

from helpers import tiny_base
from t2l.lora import LoraSpec, LoraWeights
from t2l.recipes.sections import LossSection
from t2l.training.batches import IGNORED, Batch, Shape, arrays_of, cut_into_shapes, shapes_of
from t2l.training.frozen_base import GraphedBase
from t2l.training.sft import Teacher, learn_step

SHAPES = (Shape(4, 6), Shape(2, 12))
CONDITIONS = 3


class Given(torch.nn.Module):
    """A source that gives its own parameters as adapters."""

    def __init__(self, spec: LoraSpec) -> None:
        super().__init__()
        self.spec = spec
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> torch.nn.Parameter:
            return torch.nn.Parameter(0.1 * torch.randn(CONDITIONS, *shape, generator=generator))

        groups = spec.groups
        self.a = torch.nn.ParameterList([drawn(len(g.layers), spec.rank, g.in_features) for g in groups])
        self.b = torch.nn.ParameterList([drawn(len(g.layers), g.out_features, spec.rank) for g in groups])

    def forward(self, condition_CE: torch.Tensor) -> LoraWeights:
        keys = [group.key for group in self.spec.groups]
        return LoraWeights(dict(zip(keys, self.a, strict=True)), dict(zip(keys, self.b, strict=True)))


def batch_of(lengths: list[int], seed: int = 0) -> Batch:
    rng = Random(seed)
    width = max(lengths)
    ids_ST = torch.zeros(len(lengths), width, dtype=torch.int64)
    labels_ST = torch.full((len(lengths), width), IGNORED)
    for row, length in enumerate(lengths):
        ids_ST[row, :length] = torch.tensor([rng.randrange(1, 30) for _ in range(length)])
        labels_ST[row, length - 2 : length] = ids_ST[row, length - 2 : length]
    return Batch(ids_ST, labels_ST, torch.tensor(sorted(rng.randrange(CONDITIONS) for _ in lengths)))


def test_every_sample_has_one_slot_and_none_is_too_narrow() -> None:
    rng = Random(3)
    lengths = [rng.randrange(3, 40) for _ in range(200)]
    cut = cut_into_shapes(lengths, shapes_of((8, 16, 32), 64))
    assert sorted(row for _, rows in cut for row in rows) == list(range(200))
    for shape, rows in cut:
        if shape is None:
            assert len(rows) == 1 and lengths[rows[0]] > 32
        else:
            assert len(rows) <= shape.samples and max(lengths[row] for row in rows) <= shape.width


def test_too_many_labels_for_a_shape_are_left_to_the_plain_step() -> None:
    batch = batch_of([6, 6])
    assert arrays_of(batch, Shape(2, 6)) is not None
    assert arrays_of(Batch(batch.ids_ST, batch.ids_ST, batch.index_S), Shape(2, 6)) is None


@pytest.mark.parametrize("distilled", [False, True])
def test_gradients_and_loss_are_those_of_the_plain_step(distilled: bool) -> None:
    base = tiny_base("llama").eval().requires_grad_(False)
    spec = LoraSpec.from_base(base.config, target_modules=["q_proj", "down_proj"], rank=2)
    plain, recorded = Given(spec), Given(spec)
    batches = [batch_of([5, 6, 4]), batch_of([9, 12], seed=1), batch_of([6, 3, 3, 3], seed=2)]
    states = None
    if distilled:
        fractions = torch.tensor([0.3, 0.3, 1.0, 0.3])
        first = [0, 3, 5]
        for place, batch in enumerate(batches):
            count = len(batch.ids_ST)
            numbers = tuple(range(first[place], first[place] + count))
            divergence_S = fractions[:count]
            batches[place] = replace(batch, weight_S=1 - divergence_S, divergence_S=divergence_S, numbers=numbers)
        teachers = [replace(batch, ids_ST=(batch.ids_ST + 1) % 30) for batch in batches]  # it reads something else
        states = Teacher(base).states(teachers)
    terms = LossSection(label_smoothing=0.0, weight_penalty=0.0)
    condition_CE = torch.zeros(CONDITIONS, 1)
    loss = learn_step(base, plain, condition_CE, batches, terms, teacher=states)  # pyright: ignore[reportArgumentType]
    shaped = [
        replace(batch, shape=shape, arrays=arrays_of(batch, shape))
        for batch, shape in zip(batches, (SHAPES[0], SHAPES[1], SHAPES[0]), strict=True)
    ]
    graphed = GraphedBase(base, spec, CONDITIONS, SHAPES, taught=distilled)
    how: Any = {"graphed": graphed, "teacher": states}
    for _ in range(2):  # nothing is left of the step before
        recorded.zero_grad()
        # the last one without its arrays goes through the plain step beside the others
        mixed = [*shaped[:2], batches[2]]
        own = learn_step(base, recorded, condition_CE, mixed, terms, **how)  # pyright: ignore[reportArgumentType]
    assert float(own) == pytest.approx(float(loss), rel=1e-5)
    for expected, found in zip(plain.parameters(), recorded.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-6, rtol=1e-4)
    recorded.zero_grad()
    learn_step(base, recorded, condition_CE, shaped, terms, **how)  # pyright: ignore[reportArgumentType]
    for expected, found in zip(plain.parameters(), recorded.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-6, rtol=1e-4)
