"""The studies of the embedded world: questions, and the training runs (arms) that answer each.

Every arm of a study is trained with the same budget of steps and differs from the standard recipe in what its study
asks about. This file knows no models and runs nothing: see `t2l.world.studies_run`, and `t2l.world.studies_probes` for
the studies that need no training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from t2l.errors import T2LError, did_you_mean
from t2l.training.loop import LoopConfig
from t2l.world.sft import SftRecipe
from t2l.world.tasks import tasks_of

STUDY_STEPS = 250
"""Optimiser steps of a full arm, unless another number is asked for: enough to rank recipes, not to finish them."""
SMALL: dict[str, Any] = {"trunk_dim": 256, "head_dim": 256, "tasks": 32}
"""Every arm is smaller than the shipped hypernetwork, so that all studies take an afternoon on two cores."""
FEWEST_STEPS = 30

EncoderName = Literal["tokens", "layers", "mean", "last-token", "one-hot"]
Quality = Literal["natural", "terse", "scrambled"]
Objective = Literal["sft", "reconstruction"]


@dataclass(frozen=True)
class Arm:
    """One training run of a study.

    Args:
        label: unique in the study; a file name. Arms that differ in nothing but the seed share what stands before
            ``-seed``.
        varies: what a table says of it.
        changes: fields of `SftRecipe` that differ from the standard recipe.
        encoder: what the hypernetwork reads: MiniLM's token states, two poolings of them, the base's own last token,
            or a one-hot row (no language).
        quality: of the descriptions trained on.
        targets: adapted modules.
        rank: of the adapters.
        scaled: steps are in proportion to the number of training tasks, rather than equal.
        objective: what the hypernetwork learns from.
        seed: of initialisation and data.
    """

    label: str
    varies: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    encoder: EncoderName = "layers"
    quality: Quality = "natural"
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    rank: int = 8
    scaled: bool = False
    objective: Objective = "sft"
    seed: int = 0

    @property
    def row(self) -> str:
        """The label without the seed: arms of one row are repetitions."""
        return self.label.partition("-seed")[0]

    def steps(self, budget: int) -> int:
        """Its optimiser steps, of a budget for full arms."""
        if not self.scaled:
            return budget
        share = self.changes["train_tasks"] / len(tasks_of("train"))
        return min(budget, max(FEWEST_STEPS, round(share * budget)))

    def recipe(self, budget: int) -> SftRecipe:
        """The whole SFT recipe."""
        steps = self.steps(budget)
        loop = LoopConfig(steps=steps, warmup=min(200, steps // 10), save_every=100, seed=self.seed)
        return replace(SftRecipe(loop, **SMALL), **self.changes)

    def with_seed(self, seed: int) -> Arm:
        """The same run with another seed."""
        return self if seed == self.seed else replace(self, label=f"{self.row}-seed{seed}", seed=seed)


@dataclass(frozen=True)
class Study:
    """A question and the arms that answer it."""

    name: str
    question: str
    arms: tuple[Arm, ...]

    def arm(self, label: str) -> Arm:
        """The arm with this label; an unknown one is a `T2LError` with near names."""
        for arm in self.arms:
            if arm.label == label:
                return arm
        labels = [arm.label for arm in self.arms]
        raise T2LError(f"The study '{self.name}' has no arm called '{label}'.", did_you_mean(label, labels))


def _few_tasks(count: int) -> dict[str, Any]:
    """A recipe for so many tasks whose batches hold as many examples and adapters' samples as the standard one's."""
    standard = SftRecipe(LoopConfig(steps=1), **SMALL)
    batch = min(count, standard.tasks)
    samples = standard.tasks * standard.samples // batch
    return {"train_tasks": count, "tasks": batch, "samples": samples - samples % standard.views}


_PAPER = {
    "views": 1,
    "contrast": 0.0,
    "mix": 0.0,
    "noise": 0.0,
    "hard": 0.0,
    "distill": 0.0,
    "matrix_learning_rate": 0.0,
}
_ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_SEEDS = (0, 1, 2)


def _seeded(*arms: Arm) -> list[Arm]:
    return [arm.with_seed(seed) for arm in arms for seed in _SEEDS]


_STUDIES = (
    Study(
        "size",
        "Which head: L, M or S?",
        tuple(Arm(variant, f"head {variant}", {"variant": variant}) for variant in ("L", "M", "S")),
    ),
    Study(
        "recipe",
        "Does the recipe do better than the paper's at the same number of steps?",
        (
            *_seeded(
                Arm(
                    "paper",
                    "as in the paper: a sentence vector, one description a task and batch, AdamW",
                    _PAPER,
                    "mean",
                ),
                Arm("ours", "three layers pooled, two descriptions a task, contrast, noise and mixing, Muon"),
            ),
            Arm(
                "paper-mix",
                "paper, with noise on and mixing of embeddings",
                _PAPER | {"mix": 0.5, "noise": 0.3},
                "mean",
            ),
            Arm("paper-layers", "paper, with three layers pooled instead of the sentence vector", _PAPER),
            Arm("ours-adamw", "ours, AdamW for all parameters", {"matrix_learning_rate": 0.0}),
            Arm("ours-no-contrast", "ours, without the contrastive term", {"contrast": 0.0}),
            Arm("ours-tokens", "ours, with token states instead of pooled layers", encoder="tokens"),
            Arm("ours-hard", "ours, half of the batches of one family (hard negatives)", {"hard": 0.5}),
            Arm("ours-distill", "ours, half of the loss distilled from three examples in the prompt", {"distill": 0.5}),
        ),
    ),
    Study(
        "tasks",
        "How many training tasks, with equal compute and with compute in proportion?",
        (
            *(Arm(f"{n}", f"{n} tasks, equal compute", _few_tasks(n)) for n in (16, 64, 256)),
            *(
                Arm(f"{n}-scaled", f"{n} tasks, compute in proportion", _few_tasks(n), scaled=True)
                for n in (16, 64, 256)
            ),
            Arm("all", "all tasks"),
        ),
    ),
    Study(
        "descriptions",
        "How many descriptions of each task?",
        (
            *(Arm(f"{n}", f"{n} a task", {"descriptions": n}) for n in (1, 4, 16)),
            Arm("64", "64 a task"),
        ),
    ),
    Study(
        "quality",
        "How good do descriptions have to be?",
        (
            Arm("natural", "16 natural ones a task", {"descriptions": 16}),
            Arm("terse", "the 16 shortest of 64 a task", {"descriptions": 16}, quality="terse"),
            Arm("scrambled", "16 natural ones, words dropped and shuffled", {"descriptions": 16}, quality="scrambled"),
        ),
    ),
    Study(
        "encoder",
        "What should read the description?",
        (
            Arm("layers", "MiniLM, three layers pooled"),
            Arm("tokens", "MiniLM, token states", encoder="tokens"),
            Arm("mean", "MiniLM, its sentence vector", encoder="mean"),
            Arm("last-token", "the base's own last token", encoder="last-token"),
            Arm("one-hot", "one-hot (no language: trained tasks alone)", encoder="one-hot"),
        ),
    ),
    Study(
        "targets",
        "Which modules, and which rank?",
        (
            Arm("qv-8", "q, v; rank 8"),
            Arm("qv-2", "q, v; rank 2", rank=2),
            Arm("qv-16", "q, v; rank 16", rank=16),
            Arm("attention-8", "q, k, v, o; rank 8", targets=_ALL_LINEAR[:4]),
            Arm("all-linear-4", "all linear; rank 4", targets=_ALL_LINEAR, rank=4),
        ),
    ),
    Study(
        "objective",
        "SFT or reconstruction of a library, at equal compute?",
        tuple(
            _seeded(
                Arm("sft", "SFT"),
                Arm("reconstruction", "reconstruction, as long as SFT took", objective="reconstruction"),
            )
        ),
    ),
)
STUDIES: dict[str, Study] = {study.name: study for study in _STUDIES}
PROBES: dict[str, str] = {
    "distance": "Does accuracy fall with the distance to the nearest training task?",
    "encodings": "How does the hypernetwork arrange the tasks?",
    "interpolation": "What lies between two descriptions?",
    "composition": "What do strength, blends, sums and differences of adapters do to accuracy?",
    "two-ways": "Do two ways of asking for one task give one adapter?",
    "guidance": "Does a checkpoint know which descriptions to trust, and what is gained by acting on it?",
    "examples": "What do a few examples add to a description?",
}
"""Studies on a trained checkpoint, which need no training: name -> question."""


def find_study(name: str) -> Study:
    """The study called ``name``; an unknown one is a `T2LError` with near names."""
    if name not in STUDIES:
        raise T2LError(f"No study is called '{name}'.", did_you_mean(name, [*STUDIES, *PROBES]))
    return STUDIES[name]
