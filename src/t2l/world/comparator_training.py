"""Training what Text-to-LoRA is compared with on the embedded world, each comparator in a folder of its own.

They learn from training tasks and the training part of their inputs, in steps like those of a hypernetwork's SFT, so
that budgets can be set equal. What a folder holds is not trained again; a killed run resumes; a folder that was made
with other settings, from other tasks or of another base is refused.

Axis letters: S samples, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from t2l.baselines.hyperdecoder import (
    CONFIG_FILE,
    input_states,
    load_hyperdecoder,
    new_hyperdecoder,
    save_hyperdecoder,
)
from t2l.baselines.static import StaticLora
from t2l.errors import T2LError
from t2l.heads import Variant
from t2l.hypernet import HyperNetwork
from t2l.library import Library
from t2l.lora import LoraSource, LoraSpec
from t2l.storage import tensors_digest
from t2l.training.loop import LoopConfig, Report, bfloat16_is_fast, printed_progress, train
from t2l.training.oracles import OracleConfig, OracleTask, Sample, train_oracles
from t2l.training.sft import Batch, SftConfig, sft_loss
from t2l.training.standardization import Standardization
from t2l.world.base import encode_runs
from t2l.world.exact_match import Example
from t2l.world.sft import example_batches
from t2l.world.tasks import MicroTask, tasks_of

_STATES_FOR_SCALE = 2048  # inputs from which the hyperdecoder's standardisation is taken
_INPUTS_AT_A_TIME = 256
_MULTI_TASK = "multi-task"


@dataclass(frozen=True)
class LibraryConfig:
    """How the task-specific adapters are trained: those of the library, and the oracles of held-out tasks.

    Args:
        steps: most optimiser steps of an adapter; it stops before when its validation loss no longer falls.
        samples: examples of each task in a step.
        validation: most distinct examples of the training part that are kept from training, for early stopping; a
            fifth of a task's where it has few.
        learning_rate: peak, of AdamW.
        check_every: steps between two looks at the validation loss.
        patience: looks in a row without a better one after which an adapter stops.
        chunk: adapters trained at once.
        seed: of starts and examples.
    """

    steps: int = 400
    samples: int = 4
    validation: int = 32
    learning_rate: float = 3e-3
    check_every: int = 25
    patience: int = 4
    chunk: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        _check_positive(self, "steps", "samples", "validation")


@dataclass(frozen=True)
class OnBatches:
    """What is trained on the batches of a hypernetwork's SFT.

    Args:
        steps: optimiser steps.
        tasks: tasks a batch.
        samples: examples a task in a batch.
        learning_rate: peak, of AdamW.
        weight_decay: of AdamW.
        seed: of start, dropout and examples.
    """

    steps: int = 3500
    tasks: int = 48
    samples: int = 2
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _check_positive(self, "steps", "tasks", "samples")


@dataclass(frozen=True)
class MultiTaskConfig(OnBatches):
    """How the multi-task LoRA is trained."""


@dataclass(frozen=True)
class HyperdecoderConfig(OnBatches):
    """How the hyperdecoder is trained: as a hypernetwork, with a condition for each input.

    Args:
        variant: of the head.
        trunk_dim: D of the hypernetwork.
        head_dim: H of the hypernetwork.
    """

    learning_rate: float = 8e-4
    weight_decay: float = 0.02
    variant: Variant = "L"
    trunk_dim: int = 320
    head_dim: int = 512


def train_library(
    base: Any,
    folder: str | Path,
    tasks: Sequence[MicroTask],
    config: LibraryConfig,
    *,
    report: Report | None = None,
) -> Library:
    """The library in ``folder``, with an adapter for each of ``tasks``; what is there already is not trained again.

    Args:
        base: the frozen tiny Llama.

    Raises:
        T2LError: the folder holds a library that was made with other settings or of another base.
    """
    oracle = OracleConfig(
        _loop(config.steps, config.seed, decay=0.5),
        learning_rate=config.learning_rate,
        check_every=config.check_every,
        patience=config.patience,
        chunk=config.chunk,
        bfloat16=bfloat16_is_fast(),
    )
    settings = {"samples": config.samples, "validation": config.validation, "base": tensors_digest(base.state_dict())}
    known = Library.create(folder, world_spec(base), {**oracle.settings(), **settings})
    missing = [_oracle_task(task, config) for task in tasks if task.name not in known]
    report = report or printed_progress("library")
    return train_oracles(base, world_spec(base), folder, missing, oracle, settings=settings, report=report)


def train_multi_task(
    base: Any, folder: str | Path, config: MultiTaskConfig, *, report: Report | None = None
) -> StaticLora:
    """The multi-task LoRA of ``folder``: one adapter trained with the SFT loss on every training task.

    Raises:
        T2LError: the folder holds one that was made with other settings or of another base.
    """
    tasks, spec = tasks_of("train"), world_spec(base)
    library = Library.create(folder, spec, _settings(base, config, tasks))
    if _MULTI_TASK in library:
        return StaticLora.of(spec, library.weights([_MULTI_TASK])).requires_grad_(False)
    base.requires_grad_(False)
    source, sft = StaticLora(spec, seed=config.seed), SftConfig()

    def loss_at(step: int) -> Tensor:
        batches, count = _step_batches(step, tasks, config)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast()):
            return sft_loss(base, source, torch.zeros(count, 1), batches, sft)

    optimizer = torch.optim.AdamW(
        source.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)
    )
    state_path = Path(folder) / ".training.pt"
    report = report or printed_progress(_MULTI_TASK)
    train(source, [optimizer], loss_at, _loop(config.steps, config.seed), state_path=state_path, report=report)
    library.add({_MULTI_TASK: (source.weights().detach(), {"steps": config.steps})})
    state_path.unlink(missing_ok=True)
    return source.requires_grad_(False)


def train_hyperdecoder(
    base: Any, folder: str | Path, config: HyperdecoderConfig, *, report: Report | None = None
) -> HyperNetwork:
    """The hyperdecoder of ``folder``: it reads the base's own last state of an input, and gives that input's adapter.

    It reads plain states, though it was trained on standardised ones.

    Raises:
        T2LError: the folder holds one that was made with other settings or of another base.
    """
    folder, tasks = Path(folder), tasks_of("train")
    settings = _settings(base, config, tasks)
    if (folder / CONFIG_FILE).is_file():
        return load_hyperdecoder(folder, settings)
    base.requires_grad_(False)
    standardize, sft = _state_scale(base, tasks, config.seed), SftConfig()
    source = new_hyperdecoder(
        world_spec(base),
        int(base.config.hidden_size),
        config.variant,
        trunk_dim=config.trunk_dim,
        head_dim=config.head_dim,
        seed=config.seed,
    ).train()

    def loss_at(step: int) -> Tensor:
        batches, _ = _step_batches(step, tasks, config)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast()):
            return hyperdecoder_loss(base, source, batches, sft, standardize)

    optimizer = torch.optim.AdamW(
        source.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)
    )
    state_path = folder.with_name(f"{folder.name}-state.pt")
    report = report or printed_progress("hyperdecoder")
    train(source, [optimizer], loss_at, _loop(config.steps, config.seed), state_path=state_path, report=report)
    standardize.fold_into(source)
    save_hyperdecoder(source, folder, settings)
    state_path.unlink(missing_ok=True)
    return source.eval().requires_grad_(False)


def hyperdecoder_loss(
    base: Any,
    source: LoraSource,
    batches: Sequence[Batch],
    config: SftConfig,
    standardize: Standardization | None = None,
) -> Tensor:
    """The SFT loss with one adapter a sample, each conditioned on the sample's own prompt.

    Args:
        batches: which conditions their samples name is not read.
        standardize: of the conditions, where the source is to read standardised ones.
    """
    condition_SW = torch.cat([input_states(base, batch.ids_ST, batch.labels_ST) for batch in batches])
    if standardize is not None:
        condition_SW = standardize(condition_SW)
    start, own = 0, []
    for batch in batches:
        own.append(replace(batch, index_S=torch.arange(start, start + len(batch.ids_ST))))
        start += len(batch.ids_ST)
    return sft_loss(base, source, condition_SW, own, config)


def world_spec(base: Any) -> LoraSpec:
    """What every comparator adapts, as the hypernetwork does: q_proj and v_proj of the base, rank 8."""
    return LoraSpec.from_base(base.config)


def input_batch(examples: Sequence[Example]) -> Batch:
    """Examples as one batch, each with an index of its own."""
    ids_ST, labels_ST = encode_runs([[example] for example in examples])
    return Batch(ids_ST, labels_ST, torch.arange(len(examples)))


def _oracle_task(task: MicroTask, config: LibraryConfig) -> OracleTask:
    """A task's own training: distinct validation examples of the training part, and all others to learn from."""
    drawn = dict(task.examples(6 * config.validation, seed=config.seed, part="train"))
    held = dict(list(drawn.items())[: min(config.validation, len(drawn) // 5)])

    def draw(step: int) -> list[Sample]:
        stream = task.stream(Random(f"{config.seed}/{task.name}/{step}"), "train")
        chosen: list[Example] = []
        while len(chosen) < config.samples:
            example = next(stream)
            if example[0] not in held:
                chosen.append(example)
        return _samples(chosen)

    # a task with fewer than five inputs has none to spare
    return OracleTask(task.name, draw, _samples(list((held or drawn).items())))


def _samples(examples: Sequence[Example]) -> list[Sample]:
    found = []
    for example in examples:
        ids_1T, labels_1T = encode_runs([[example]])
        found.append((ids_1T[0].tolist(), labels_1T[0].tolist()))
    return found


def _step_batches(step: int, tasks: Sequence[MicroTask], config: OnBatches) -> tuple[list[Batch], int]:
    """The batches of one step, as a hypernetwork's SFT draws them, and how many tasks they are of."""
    rng = Random(f"{config.seed}/{step}")
    drawn = rng.sample(list(tasks), min(config.tasks, len(tasks)))
    return example_batches(rng, drawn, config.samples), len(drawn)


def _state_scale(base: Any, tasks: Sequence[MicroTask], seed: int) -> Standardization:
    """Gives the base's states of training inputs mean 0 and variance 1."""
    rng = Random(f"states/{seed}")
    examples = [next(rng.choice(tasks).stream(rng, "train")) for _ in range(_STATES_FOR_SCALE)]
    examples.sort(key=lambda example: len(example[0]))
    parts = [examples[start : start + _INPUTS_AT_A_TIME] for start in range(0, len(examples), _INPUTS_AT_A_TIME)]
    return Standardization.of(torch.cat([_states(base, part) for part in parts]))


def _states(base: Any, examples: Sequence[Example]) -> Tensor:
    batch = input_batch(examples)
    return input_states(base, batch.ids_ST, batch.labels_ST)


def _loop(steps: int, seed: int, decay: float = 0.8) -> LoopConfig:
    return LoopConfig(steps=steps, warmup=min(200, steps // 10), decay=decay, seed=seed)


def _settings(base: Any, config: Any, tasks: Sequence[MicroTask]) -> dict[str, Any]:
    """All that determines a comparator, as plain JSON values."""
    names = blake2b("\n".join(task.name for task in tasks).encode(), digest_size=16).hexdigest()
    return {**asdict(config), "tasks_digest": names, "base": tensors_digest(base.state_dict())}


def _check_positive(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise T2LError(f"{name} is {getattr(config, name)}; it must be at least 1.")
