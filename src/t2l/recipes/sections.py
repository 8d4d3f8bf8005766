"""The sections of a recipe: every setting of a training run, with its default and what it means.

Level 3. Plain frozen dataclasses; `t2l.recipes.reader` reads and checks them. A field added here is at once a key of
recipes and of the command line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Quantization = Literal["none", "8bit", "4bit"]
Attention = Literal["auto", "sdpa", "flash_attention_2", "eager"]
Tracker = Literal["trackio", "wandb"]


@dataclass(frozen=True)
class BaseSection:
    """The frozen base model.

    Args:
        model: ``smollm2-135m``, a GGUF file, a folder or a hub id.
        revision: branch, tag or commit on the hub.
        dtype: in which its weights are held and it computes; "auto" is bfloat16 where the device multiplies that
            natively, float32 otherwise. With bfloat16 the hypernetwork computes in it as well (autocast); what is
            learned stays in float32.
        quantization: of its linear layers, through bitsandbytes.
        attention: "auto" takes FlashAttention where it is installed and fits, torch's own fused attention on other
            devices, and plain products on CPUs, where they are faster on sequences as short as those of tasks.
        activation_checkpointing: recompute each layer's activations in backward instead of keeping them.
        compile: compile the layers with torch.compile.
        shard: spread its weights over the processes (FSDP), for bases that do not fit on one device.
    """

    model: str = "smollm2-135m"
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "bfloat16"
    quantization: Quantization = "none"
    attention: Attention = "auto"
    activation_checkpointing: bool = False
    compile: bool = False
    shard: bool = False


@dataclass(frozen=True)
class LoraSection:
    """Which modules are adapted, and how; see `t2l.lora.LoraSpec.from_base`."""

    rank: int = 8
    alpha: float = 16.0
    rslora: bool = True
    dropout: float = 0.05
    target_modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class HypernetworkSection:
    """The hypernetwork; see `t2l.hypernet.HyperNetwork`.

    Args:
        standardize: train on embeddings with mean 0 and variance 1; the map is folded into the finished checkpoint.
        own_layers: variant T: each site also attends to the states that its own layer has of the description;
            encoder.layers must name all of them, from 0 to the number of layers.
        pointers: variant T: each site also points at words of the description, whose input embeddings go into the
            weights as they are; encoder.model must be the base and encoder.layers begin with 0.
        start: a checkpoint folder whose hypernetwork training begins from (a reconstruction-trained one, say).
    """

    variant: Literal["L", "M", "S", "T"] = "L"
    trunk_dim: int = 128
    head_dim: int = 512
    dropout: float = 0.05
    standardize: bool = True
    own_layers: bool = False
    pointers: bool = False
    start: str | None = None


@dataclass(frozen=True)
class DataSection:
    """What is trained on.

    Args:
        store: a folder that ``t2l data prepare`` made.
        tasks: only these training tasks; all of the store's by default.
        mixture: fraction of each batch's tasks by the beginning of their names, such as ``{everyday-: 0.3, "*": 0.7}``
            ("*" is the rest), or by a pattern that holds a "*", such as ``"*__label_*"``, which goes before
            beginnings; without it every task is as frequent as every other.
        descriptions_per_task: how many of each task's descriptions are used; all by default.
        max_length: longest sample in tokens; the prompt of a longer one is cut at its beginning. The store has limits
            of its own (``t2l data prepare``); this one only ever shortens.
    """

    store: str | None = None
    tasks: tuple[str, ...] = ()
    mixture: dict[str, float] = field(default_factory=dict)
    descriptions_per_task: int | None = None
    max_length: int = 1024


@dataclass(frozen=True)
class ConditionSection:
    """What the adapters are generated from.

    Args:
        noise: standard deviation of Gaussian noise on an embedding, as the hypernetwork reads it (standardised, where
            ``hypernetwork.standardize`` says so); token states get none.
        first: fraction of the draws that take a task's first description, its definition where there is one; the rest
            are drawn from all.
        examples: fraction of the descriptions that are followed by two examples of the task, so that an adapter can
            also be made from both; encoders of token states alone.
    """

    noise: float = 0.0
    first: float = 0.0
    examples: float = 0.0


@dataclass(frozen=True)
class LossSection:
    """The terms of the SFT loss.

    Args:
        label_smoothing: 0.1 in the paper's runs.
        neftune: alpha of the noise on the input embeddings (arXiv 2310.05914); 5 in the paper's runs, 0 for none.
        weight_penalty: times mean A^2 + mean B^2, per module group.
        contrast: weight of the term that draws the features of one task's descriptions together and tasks apart.
        views: descriptions of each task in a step, each with an adapter of its own, to which the task's samples are
            shared out; 2 or more for the contrast.
        distill: fraction of a sample's loss that is the divergence from a teacher, the base with more in its prompt;
            its answer gets the rest.
        teacher: the teacher's LoRA, a PEFT folder: a multi-task LoRA trained on the same tasks with their descriptions
            in the prompt (``t2l data prepare --template included``), which it then reads here. Without one the teacher
            is the plain base with examples of the task in its prompt.
        teacher_shots: how many examples that plain teacher reads.
        crossed: fraction of a step's tasks whose inputs get the description of another task in the step. There are no
            answers to these, so their loss is the divergence from the teacher alone.
    """

    label_smoothing: float = 0.1
    neftune: float = 0.0
    weight_penalty: float = 1e-3
    contrast: float = 0.0
    views: int = 1
    distill: float = 0.0
    teacher: str | None = None
    teacher_shots: int = 3
    crossed: float = 0.0


@dataclass(frozen=True)
class OptimizerSection:
    """AdamW, and Muon for the matrices inside the hypernetwork where ``matrix_learning_rate`` is not 0."""

    learning_rate: float = 1e-4
    matrix_learning_rate: float = 0.0
    weight_decay: float = 1e-2


@dataclass(frozen=True)
class LoopSection:
    """Steps, batches, schedule, and what is kept.

    Args:
        steps: optimiser steps.
        tasks: of which a step has samples, over all processes.
        samples: of each task in a step.
        micro_tokens: most tokens, padding included, that go through the base together; memory goes by it, results do
            not. The step's samples are sorted by length and cut so that few tokens are padding; the processes share
            out the parts.
        micro_overhead: what starting a micro-batch costs, in tokens: more of it gives fewer, more padded ones.
        graphs: record the base's forward and backward as CUDA graphs of a few fixed shapes: for small bases, whose
            kernels take less time to run than to start. ``micro_tokens`` then goes for over-long samples alone.
        parts: the number of a step's micro-batches is a multiple of this, so that so many processes have equally much
            to do; any number of processes may run, and trains the same.
        minutes: the run is over after so many, if it has not made its steps by then, and the learning rate follows
            the clock; 0 for none. For a GPU that is lent for a time; one process.
        warmup: fraction of the steps over which the learning rate rises.
        decay: fraction of the steps, at the end, over which it falls to zero.
        schedule: in a straight line, or along a cosine.
        clip: largest gradient norm.
        clip_each: of each module of its own, instead of all together.
        ema: decay of the exponential moving average of what is learned, which is then what validation measures and
            the checkpoint holds; 0 for none.
        seed: of the data's order, of dropout and of the hypernetwork's start.
        save_every: steps between checkpoints.
        keep: how many of the last checkpoints are kept, besides the best.
        log_every: steps between lines of progress.
        trackers: besides TensorBoard.
        spike: a loss this many times the median of the last 64 steps is reported with its batch.
        patience: steps in a row that may fail (loss or gradient not finite) before the run stops.
    """

    steps: int = 10_000
    tasks: int = 8
    samples: int = 1
    micro_tokens: int = 8192
    micro_overhead: int = 64
    graphs: bool = False
    parts: int = 1
    minutes: float = 0.0
    warmup: float = 0.1
    decay: float = 0.9
    schedule: Literal["linear", "cosine"] = "linear"
    clip: float = 1.0
    clip_each: bool = False
    ema: float = 0.0
    seed: int = 0
    save_every: int = 500
    keep: int = 2
    log_every: int = 20
    trackers: tuple[Tracker, ...] = ()
    spike: float = 3.0
    patience: int = 5


@dataclass(frozen=True)
class ValidationSection:
    """Loss on held-out tasks under generated adapters; it alone selects the best checkpoint.

    Args:
        every: steps between validations; 0 for none.
        tasks: at most so many validation tasks, spread evenly over all in the order of their names.
        samples: of each.
        descriptions: of each task, an adapter each; the samples are shared out to them.
    """

    every: int = 500
    tasks: int = 16
    samples: int = 16
    descriptions: int = 2


@dataclass(frozen=True)
class LibrarySection:
    """Task-specific LoRAs for many tasks (``t2l train library``).

    The loss, the clip, the seed and ``loop.save_every`` are those of the other sections; a LoRA's steps are its own.

    Args:
        split: whose tasks: "train", "validation", "test", or "all". ``data.tasks`` names single ones instead.
        steps: most optimiser steps of an adapter; it stops before when its validation loss no longer falls.
        learning_rate: peak, of AdamW.
        weight_decay: of AdamW.
        warmup: fraction of the steps over which the learning rate rises.
        decay: fraction of the steps, at the end, over which it falls to zero.
        samples: of each task in a step.
        validation: samples of a task kept from training, for early stopping; a fifth where it has few.
        check_every: steps between two looks at them.
        patience: looks in a row without a better loss after which an adapter stops.
        together: adapters trained at once; memory grows with it, results do not depend on it.
        pass_tokens: most tokens in one forward pass, padding included; memory goes by it, results do not.
    """

    split: Literal["train", "validation", "test", "all"] = "train"
    steps: int = 400
    learning_rate: float = 8e-5
    weight_decay: float = 0.0
    warmup: float = 0.1
    decay: float = 0.5
    samples: int = 8
    validation: int = 32
    check_every: int = 25
    patience: int = 5
    together: int = 8
    pass_tokens: int = 8192


@dataclass(frozen=True)
class ReconSection:
    """Reconstruction of a library of adapters (``t2l train recon``).

    The hypernetwork, the encoder, the clip, the seed and ``loop.save_every`` are those of the other sections.

    Args:
        library: a folder that ``t2l train library`` made, or any folder of PEFT adapter folders for one base.
        skip_odd: leave out adapters that do not fit the others, or have no description, instead of refusing.
        target: "factors", A and B; or "deltas", their products.
        z_scores: factors in z-scores of each weight element over the library.
        delta_scale: what target deltas are multiplied by.
        steps: optimiser steps; the paper's runs took 10,000 epochs.
        tasks: a batch; 4 in the paper's runs.
        learning_rate: peak, of AdamW.
        weight_decay: of AdamW.
        warmup: fraction of the steps over which the learning rate rises.
        decay: fraction of the steps, at the end, over which it falls to zero.
        noise: standard deviation of Gaussian noise on a description's embedding.
        held_out: fraction of the library kept out for validation where none of its tasks is one of the store's
            validation tasks.
    """

    library: str | None = None
    skip_odd: bool = False
    target: Literal["factors", "deltas"] = "factors"
    z_scores: bool = True
    delta_scale: float = 10_000.0
    steps: int = 100_000
    tasks: int = 4
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup: float = 0.1
    decay: float = 0.9
    noise: float = 0.0
    held_out: float = 0.05


@dataclass(frozen=True)
class HardwareSection:
    """What the recipe was written for: ``--dry-run`` estimates with it, nothing else reads it.

    Args:
        devices: processes.
        memory: GB of each device.
        teraflops: dense, in the base's dtype, of each device, as its maker states; without it ``--dry-run`` measures
            this machine.
        utilization: the fraction of them that training is expected to reach.
    """

    devices: int = 1
    memory: float = 24.0
    teraflops: float | None = None
    utilization: float = 0.35
