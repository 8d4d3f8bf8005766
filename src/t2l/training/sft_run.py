"""SFT training on real data: a recipe, a data store and a base become a hypernetwork's checkpoint, or one LoRA.

Axis letters: C conditions, E embedding width.

Level 4. Puts the parts together: base, encoder, hypernetwork, micro-batches, loop. What is trained is any
`LoraSource`. This file does not know recipes by name or the command line.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from t2l.adapter import Adapter
from t2l.batched import BatchedLora, apply_batched
from t2l.data.store import DataStore
from t2l.encoders import DescriptionEncoder, encoder_from_config
from t2l.errors import DataError, RecipeError
from t2l.features import LinearTaskEncoder
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSource, LoraSpec
from t2l.model import TextToLora
from t2l.recipes.reader import Recipe
from t2l.recipes.sections import OptimizerSection, ValidationSection
from t2l.training.batches import Ahead, Batch, StepBatch, StoreBatches, collate, cut_by_tokens, train_tasks
from t2l.training.conditions import (
    Conditions,
    ConditionTable,
    NoConditions,
    Standardization,
    Wanted,
    run_conditions,
    standardise_tokens,
)
from t2l.training.frozen_base import GraphedBase, check_base_of_store, check_graphs, load_frozen_base, shard
from t2l.training.loop import Done, Job, Say, run, seed_draws
from t2l.training.run_folder import RunFolder
from t2l.training.sft import Share, Teacher, answer_loss, learn_step
from t2l.training.source import build_source, build_spec, hidden_matrices, muon_and_adamw

if TYPE_CHECKING:
    from accelerate import Accelerator

_SMALL = 8  # samples that validation takes through a base together that is spread over processes
_STATES_FOR_SCALE = 2048  # samples from which the standardisation of what a base says of its inputs is taken
Read = Callable[[Any, Tensor, Tensor], Tensor]
"""(base, ids_ST, labels_ST) -> condition_SE: a condition for each sample, from the sample's own prompt."""


class SftJob(Job):
    """A `LoraSource` trained through the frozen base on a store's tasks.

    Args:
        base: the frozen causal LM.
        source: in training mode, on the device.
        batches: of the steps.
        dropout: chance of dropping an input of the LoRA branch.
        in_step: every process runs the base equally often, as it is spread over them.
        read: for a source that reads the samples' prompts, not descriptions.
        teacher: that the loss distils from.
    """

    def __init__(
        self,
        base: Any,
        source: LoraSource,
        batches: StoreBatches,
        optimizer: OptimizerSection,
        validation: ValidationSection,
        device: torch.device,
        *,
        dropout: float = 0.0,
        in_step: bool = False,
        read: Read | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.base, self.source, self.batches, self.device = base, source, batches, device
        self.optimizer, self.validation, self.dropout, self.in_step = optimizer, validation, dropout, in_step
        self.store, self.conditions, self.read, self.teacher = batches.store, batches.conditions, read, teacher
        self.module: nn.Module = source
        self._ahead = Ahead(self._made, batches.loop.steps)
        self.autocast = next(base.parameters()).dtype == torch.bfloat16
        self._graphs: GraphedBase | None = None
        self._adapters: BatchedLora | None = None  # kept from step to step
        self._held_out = validation_tasks(self.store, validation) if validation.every else ()
        self._plain: dict[int, float] = {}  # loss of the base alone, which does not change

    def optimizers(self) -> list[torch.optim.Optimizer]:
        settings = self.optimizer
        return muon_and_adamw(
            self.source,
            hidden_matrices(self.source),
            matrix_lr=settings.matrix_learning_rate,
            other_lr=settings.learning_rate,
            matrix_decay=settings.weight_decay,
            other_decay=settings.weight_decay,
        )

    def learn(self, step: int, rank: int, world: int) -> Done:
        batch = self._ahead(step)
        micros = [micro.to(self.device) for micro in batch.micros]
        condition_CE = self.conditions.on_device(batch.gathered, self.device)
        if self.read is not None:
            micros, condition_CE = self._read(micros)
        if self._adapters is None:
            with torch.no_grad():
                weights = self.source(condition_CE[:1])
            self._adapters = apply_batched(self.base, self.source.spec, weights, [0], dropout=self.dropout)
        share, states = Share(rank, world, in_step=self.in_step), None
        if self.teacher is not None:
            wanted = {number for micro, _ in share.numbers(len(micros)) for number in micros[micro].numbers}
            states = self.teacher.states(batch.teachers, None if share.in_step else wanted)
        loss = learn_step(
            self.base,
            self.source,
            condition_CE,
            micros,
            self.batches.loss,
            dropout=self.dropout,
            teacher=states,
            adapters=self._adapters,
            share=share,
            seed=lambda number: seed_draws(self.batches.loop.seed, step, number),
            autocast=self.autocast,
            graphed=self._graphs,
        )
        return Done(loss, batch.samples / world, batch.tokens / world, batch.computed / world)

    def record(self, say: Say) -> None:
        """Records the base's graphs, where the recipe asks for them; without them where that fails."""
        loop = self.batches.loop
        if not loop.graphs:
            return
        conditions = 1 if self.conditions.shared else loop.tasks * self.batches.loss.views
        graphs = GraphedBase(
            self.base, self.source.spec, conditions, self.batches.shapes, taught=self.teacher is not None
        )
        try:
            graphs.record()
        except RuntimeError as problem:  # what CUDA refuses to record depends on versions and kernels
            say(f"Note: CUDA graphs cannot be recorded here, so steps are slower: {str(problem).splitlines()[0]}")
            self.batches.shaped = False
            torch.cuda.synchronize()
            return
        self._graphs = graphs

    def identify(self, step: int) -> list[dict[str, Any]]:
        return [
            {"task": self.store.tasks[task].name, "sample": sample, "description": description}
            for task, sample, description in self.batches.picks(step)
        ]

    def validation_parts(self) -> int:
        return len(self._held_out)

    def validate(self, part: int) -> dict[str, float]:
        """Loss under the adapters of a held-out task's descriptions, of another task's, and under none."""
        self.base.eval()
        task = self._held_out[part]
        other = self._held_out[(part + 1) % len(self._held_out)]
        if task not in self._plain:
            self._plain[task] = self._validation_loss(task, None)
        measures = {"loss": self._validation_loss(task, task), "plain_base": self._plain[task]}
        reads_descriptions = not self.conditions.shared
        if len(self._held_out) > 1 and reads_descriptions:
            measures["other_description"] = self._validation_loss(task, other)
        self.base.train()
        return measures

    def close(self) -> None:
        """Ends the thread that makes batches."""
        self._ahead.close()

    def _made(self, step: int) -> StepBatch:
        batch = self.batches.step(step)
        batch = replace(batch, gathered=self.conditions.ahead(batch.gathered))
        return batch.pinned() if self.device.type == "cuda" else batch

    def _validation_loss(self, task: int, described_by: int | None) -> float:
        """The loss on a task's samples under the adapters of a task's descriptions; under none where it is None."""
        count = min(self.validation.samples, self.store.tasks[task].samples)
        samples = [self.batches.sample(task, place) for place in range(count)]
        weights, used = None, 1
        if described_by is not None and self.read is None:
            used = min(self.validation.descriptions, self.conditions.count(described_by))
            gathered = self.conditions.gather([Wanted(described_by, number) for number in range(used)])
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                weights = self.source(self.conditions.on_device(gathered, self.device))
        total, loop, lengths = 0.0, self.batches.loop, [len(ids) for ids, _ in samples]
        if self.in_step:  # every process runs the base equally often
            runs = [list(range(start, min(count, start + _SMALL))) for start in range(0, count, _SMALL)]
        else:
            runs = cut_by_tokens(lengths, loop.micro_tokens, loop.micro_overhead)
        for rows in runs:
            rows = sorted(rows, key=lambda row: row % used)
            batch = collate([samples[row] for row in rows], [row % used for row in rows])
            micro = batch.to(self.device)
            own = weights
            if described_by is not None and self.read is not None:
                (micro,), condition_SE = self._read([micro])
                own = self.source(condition_SE)
            with nullcontext() if own is None else apply_batched(self.base, self.source.spec, own, micro.index_S):
                total += float(answer_loss(self.base, micro.ids_ST, micro.labels_ST)) * len(rows)
        return total / count

    def _read(self, micros: list[Batch]) -> tuple[list[Batch], Tensor]:
        """A condition for each sample, where the source reads prompts."""
        assert self.read is not None
        found, states, first = [], [], 0
        for micro in micros:
            count = len(micro.ids_ST)
            found.append(replace(micro, index_S=torch.arange(first, first + count)))
            states.append(self.read(self.base, micro.ids_ST, micro.labels_ST.to(self.device)))
            first += count
        return found, torch.cat(states)


def validation_tasks(store: DataStore, validation: ValidationSection) -> tuple[int, ...]:
    """Places of the held-out tasks that validation measures: those with descriptions, so many spread over all.

    Raises:
        DataError: there is none.
    """
    found = [place for place in store.split("validation") if store.tasks[place].descriptions]
    if not found:
        raise DataError(
            f"'{store.folder}' has no validation task with descriptions, so no checkpoint could be selected.",
            "Prepare the data with validation tasks, or train without: validation.every=0",
        )
    count = min(len(found), validation.tasks)
    return tuple(found[place * len(found) // count] for place in range(count))


def conditions_for(
    recipe: Recipe,
    store: DataStore,
    encoder: DescriptionEncoder,
    source: LoraSource,
    learned: Sequence[int],
    others: Sequence[int],
    folder: RunFolder,
    accelerator: Accelerator,
    say: Say,
) -> tuple[Conditions, Standardization | None]:
    """What a source is conditioned on, and what is to be folded into it at the end where that is standardised.

    Args:
        learned: places of the tasks that are trained on, over which conditions are standardised.
        others: that only validation reads.

    Raises:
        DataError: a task has no description.
        RecipeError: plain embeddings are read by ``hypernetwork.start``.
    """
    limit, tasks = recipe.data.descriptions_per_task, list(dict.fromkeys([*learned, *others]))
    conditions = run_conditions(store, encoder, tasks, limit, recipe.condition, recipe.base, folder, accelerator, say)
    wanted = recipe.hypernetwork.standardize
    if not isinstance(conditions, ConditionTable):
        if recipe.hypernetwork.start is None and wanted:
            standardise_tokens(conditions, source, tuple(learned), accelerator.device)
        return conditions, None
    linear = isinstance(getattr(source, "task_encoder", None), LinearTaskEncoder)
    if not (wanted and conditions.pooled and linear):
        return conditions, None
    if recipe.hypernetwork.start is not None:
        raise RecipeError("hypernetwork.start reads plain embeddings.", "Set hypernetwork.standardize=false with it.")
    conditions.standardize = Standardization.streamed(conditions.rows_KE([task]) for task in learned)
    return conditions, conditions.standardize


def finished(
    source: HyperNetwork, folder: RunFolder, selected: int, standardize: Standardization | None = None
) -> HyperNetwork:
    """The source of a checkpoint (its average where there is one), on the CPU, reading plain conditions."""
    load_selected(source, folder, selected)
    whole = copy.deepcopy(source)
    if standardize is not None:
        standardize.fold_into(whole)
    return whole


def load_selected(source: LoraSource, folder: RunFolder, selected: int) -> None:
    """Gives a source the parameters of a checkpoint, or their average where there is one."""
    tensors, training, _ = folder.load(selected)
    source.load_state_dict(tensors | training.get("average", {}))
    source.cpu().eval()


def train_from_store(
    recipe: Recipe,
    folder: RunFolder,
    accelerator: Accelerator,
    *,
    say: Say,
    make_source: Callable[[LoraSpec], LoraSource] | None = None,
    read: Read | None = None,
    accept_changes: bool = False,
    what: str = "sft",
) -> TextToLora | LoraSource:
    """Trains, from the beginning or from where the run in the folder was left; the selected checkpoint.

    Args:
        make_source: what is trained instead of a hypernetwork that reads descriptions.
        read: the conditions that it reads, from each sample's prompt; by default it reads none.
        accept_changes: go on with a recipe that differs from the run's.

    Raises:
        T2LError: as `t2l.training.loop.run`, and for a store, base or encoder that cannot be used.
    """
    if recipe.data.store is None:
        raise RecipeError("The recipe names no data.", "Prepare some (t2l data prepare) and add data.store=FOLDER")
    if read is not None and recipe.loss.contrast:
        raise RecipeError("loss.contrast compares descriptions, and this reads none.", "Set loss.contrast=0.")
    if read is not None and recipe.base.shard:
        raise RecipeError("A base that is spread over devices cannot be read from within.", "Set base.shard=false.")
    main = accelerator.is_main_process
    quiet: Say = say if main else _nothing
    store = DataStore.open(recipe.data.store)
    if main:
        for line in folder.open(recipe, what, accept_changes=accept_changes):
            quiet(f"Changed since the run began: {line}")
        folder.check_prompts(store.prompts)
    accelerator.wait_for_everyone()
    if note := check_base_of_store(store.manifest, recipe.base.model, recipe.base.revision):
        quiet(f"Note: {note}")
    spec = build_spec(recipe)
    encoder = encoder_from_config(recipe.encoder, device=str(accelerator.device))
    learned, standardize = train_tasks(store, recipe.data), None
    if make_source is None:
        source: LoraSource = build_source(recipe, spec, encoder)
        others = validation_tasks(store, recipe.validation) if recipe.validation.every else ()
        conditions, standardize = conditions_for(
            recipe, store, encoder, source, learned, others, folder, accelerator, quiet
        )
    else:
        conditions, source = NoConditions(), make_source(spec)
    if accelerator.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # float32 products in TF32
    base = load_frozen_base(recipe.base, accelerator.device)
    if base.note:
        quiet(f"Note: {base.note}")
    if recipe.base.shard:
        shard(base.model)
    batches = StoreBatches(store, conditions, recipe.data, recipe.loop, recipe.loss, recipe.condition, recipe.base)
    if read is not None and recipe.hypernetwork.standardize:
        standardize = _scale_of_states(read, base.model, batches, accelerator.device)
        read = _standardized(read, standardize)
    source.to(accelerator.device).train()
    teacher = _teacher(recipe, base.model, store)
    if recipe.loop.graphs:
        check_graphs(recipe, accelerator.device.type)
    job = SftJob(
        base.model,
        source,
        batches,
        recipe.optimizer,
        recipe.validation,
        accelerator.device,
        dropout=recipe.lora.dropout,
        in_step=recipe.base.shard,
        read=read,
        teacher=teacher,
    )
    job.record(quiet)
    try:
        every, settings = recipe.validation.every, recipe.to_dict()
        selected = run(job, recipe.loop, folder, accelerator, validate_every=every, settings=settings, say=quiet)
    finally:
        job.close()
    if not isinstance(source, HyperNetwork):
        load_selected(source, folder, selected)
        return source
    whole = finished(source, folder, selected, standardize)
    if make_source is not None:
        return whole
    from t2l.bases import base_weights

    weights = base_weights(recipe.base.model, revision=recipe.base.revision)
    metadata = {
        "trained_by": "t2l train sft",
        "seed": recipe.loop.seed,
        "step": selected,
        "training_tasks": len(learned),
        "recipe": settings,
        **({"base_weights": weights} if weights else {}),
        **store.prompts,
    }
    return TextToLora(encoder_from_config(recipe.encoder), whole, metadata)


def _teacher(recipe: Recipe, base: Any, store: DataStore) -> Teacher | None:
    """What the recipe's loss distils from.

    Raises:
        RecipeError: it was trained with other prompts, or the store's prompts hold descriptions already.
        AdapterError: its folder cannot be read.
        BaseModelError: it is for another base.
    """
    loss = recipe.loss
    if not (loss.distill or loss.crossed):
        return None
    if loss.teacher is None:
        return Teacher(base)
    if (store.manifest.get("settings") or {}).get("template", "withheld") != "withheld":
        raise RecipeError(
            "loss.teacher reads the description before the input; the prompts of this store hold one already.",
            "Prepare the data with --template withheld.",
        )
    adapter = Adapter.load(loss.teacher)
    told = {name: adapter.provenance[name] for name in store.prompts if name in adapter.provenance}
    if any(store.prompts[name] != value for name, value in told.items()):
        raise RecipeError(
            f"The teacher '{loss.teacher}' was trained with prompts of the form {told.get('prompt')!r}; those of the "
            f"store are {store.prompts['prompt']!r}.",
            "Prepare the data with the same --system.",
        )
    return Teacher(base, adapter.spec, adapter.weights)


def _scale_of_states(read: Read, base: Any, batches: StoreBatches, device: torch.device) -> Standardization:
    """Gives what the base says of prompts, spread over the training tasks, mean 0 and variance 1; kept on the CPU."""
    store, places, states = batches.store, train_tasks(batches.store, batches.data), []
    each = max(1, _STATES_FOR_SCALE // len(places))
    picks = [(task, sample) for task in places for sample in range(min(each, store.tasks[task].samples))]
    picks = picks[:: max(1, len(picks) // _STATES_FOR_SCALE)]
    for start in range(0, len(picks), _SMALL):
        samples = [batches.sample(task, place) for task, place in picks[start : start + _SMALL]]
        batch = collate(samples, range(len(samples))).to(device)
        states.append(read(base, batch.ids_ST, batch.labels_ST.to(device)).cpu())
    return Standardization.of(torch.cat(states))


def _standardized(read: Read, standardize: Standardization) -> Read:
    def both(base: Any, ids_ST: Tensor, labels_ST: Tensor) -> Tensor:
        state_SW = read(base, ids_ST, labels_ST)
        return standardize(state_SW.cpu()).to(state_SW.device)

    return both


def _nothing(text: str) -> None:
    """Says nothing: what only the main process tells."""
