"""Reconstruction training (Text-to-LoRA, arXiv 2506.06105, section 3.1): regression onto a library of adapters.

Two targets. Factors: L1 distance between generated and target A and B, in z-scores of each weight element over the
library; the output affine holds the library's mean and standard deviation, so that what the hypernetwork gives in use
are weights. Deltas: L1 distance between the products B A, those of the library times a constant, as the reference
implementation has it without ``factorized``; the output affine divides A and B by its root.

Axis letters: N tasks in a batch, K conditions of one task, E condition width, L layers, R rank, I in-features,
O out-features.

Level 4. The library is read a few adapters at a time and never held in memory. This file does not know the base model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from t2l.data.sampler import permutation
from t2l.data.store import DataStore, TaskEntry
from t2l.encoders import DescriptionEncoder, encoder_from_config
from t2l.encoders.cache import default_cache_folder
from t2l.errors import RecipeError, T2LError, bullets
from t2l.hypernet import HyperNetwork
from t2l.library import Library
from t2l.lora import LoraSpec, LoraWeights
from t2l.model import TextToLora
from t2l.prompting import recorded
from t2l.recipes.reader import Recipe
from t2l.recipes.sections import ReconSection
from t2l.storage import check_tensors, new_file, read_tensors, write_tensors
from t2l.training.batches import key_of
from t2l.training.conditions import Conditions, Wanted
from t2l.training.loop import Done, Job, Say, run, seed_draws
from t2l.training.run_folder import RunFolder
from t2l.training.sft_run import conditions_for, finished
from t2l.training.source import fresh_hypernetwork, muon_and_adamw
from t2l.training.task_library import open_store

if TYPE_CHECKING:
    from accelerate import Accelerator

_NUMBER = re.compile(r"(?:^|[-_])(?:task|lol_?)0*(\d+)(?:[-_]|$)", re.IGNORECASE)
_SHOWN = 8
_AFFINE: dict[str, Any] = {"head_init": "linear", "output_gain": True, "output_shift": True}
_LEAST_SPREAD = 1e-3  # of the typical element's standard deviation


@dataclass(frozen=True)
class ReconPlan:
    """What a run will do, known before it starts.

    Args:
        library: the adapters, those that were left out named in its ``odd``.
        tasks: adapter -> its task.
        learned: adapters that are learned.
        held_out: adapters to measure on.
        left_out: adapter -> why it is neither.
    """

    library: Library
    tasks: Mapping[str, TaskEntry]
    learned: tuple[str, ...]
    held_out: tuple[str, ...]
    left_out: Mapping[str, str]

    @property
    def spec(self) -> LoraSpec:
        """In which the adapters are read."""
        return self.library.spec


def plan_recon(recipe: Recipe) -> ReconPlan:
    """Which adapters are learned and which measure; reads headers, no weights.

    Raises:
        RecipeError: the recipe names no library or no store.
        AdapterError: adapters do not fit the others, or are without descriptions; they are named.
        T2LError: the library or the store cannot be read.
    """
    if recipe.recon.library is None:
        raise RecipeError(
            "The recipe names no library of adapters.",
            "Give a folder: recon.library=FOLDER (t2l train library makes one).",
        )
    store = open_store(recipe)
    library = Library.open(recipe.recon.library, skip_odd=recipe.recon.skip_odd)
    tasks = tasks_of(library.names, store)
    left_out = dict(library.odd)
    for name in library.names:
        if name not in tasks:
            left_out[name] = "the store has no such task"
        elif not tasks[name].descriptions:
            left_out[name] = "its task has no description"
    missing = [name for name in left_out if name not in library.odd]
    if missing and not recipe.recon.skip_odd:
        listed = bullets((f"{name}: {left_out[name]}" for name in missing), _SHOWN)
        raise T2LError(
            f"{len(missing)} of {len(library)} adapters cannot be learned:{listed}",
            "Prepare a store with these tasks, or leave the adapters out: recon.skip_odd=true",
        )
    usable = [name for name in library.names if name not in left_out]
    held_out = [name for name in usable if tasks[name].split == "validation"]
    learned = [name for name in usable if tasks[name].split == "train"]
    for name in usable:
        if tasks[name].split == "test":
            left_out[name] = "its task is a test task"
    if not held_out and recipe.recon.held_out > 0 and len(learned) > 3:
        count = max(1, round(recipe.recon.held_out * len(learned)))
        order = permutation(len(learned), key_of("held out", recipe.loop.seed))
        drawn = {learned[int(place)] for place in order[:count]}
        held_out = [name for name in learned if name in drawn]
        learned = [name for name in learned if name not in drawn]
    if len(learned) < 2:
        raise T2LError(f"{len(learned)} adapters of '{library.folder}' can be learned; it takes at least 2.")
    return ReconPlan(library, tasks, tuple(learned), tuple(held_out), left_out)


def run_recon(
    recipe: Recipe, folder: RunFolder, accelerator: Accelerator, *, accept_changes: bool = False, say: Say
) -> TextToLora:
    """Trains, from the beginning or from where the run in the folder was left; the selected checkpoint.

    Args:
        accept_changes: go on though the recipe is not the one that the run began with.

    Raises:
        RecipeError: the folder's run began with another recipe; the differences are named.
        T2LError: as `plan_recon` and `t2l.training.loop.run`.
    """
    plan, store = plan_recon(recipe), open_store(recipe)
    if accelerator.is_main_process:
        for line in folder.open(recipe, "recon", accept_changes=accept_changes):
            say(f"Changed since the run began: {line}")
    accelerator.wait_for_everyone()
    encoder = encoder_from_config(recipe.encoder, device=str(accelerator.device))
    places = {name: store.task_index(task.name) for name, task in plan.tasks.items()}
    learned = tuple(dict.fromkeys(places[name] for name in plan.learned))
    noisy = replace(recipe, condition=replace(recipe.condition, noise=recipe.recon.noise, examples=0.0))
    hypernetwork = fresh_hypernetwork(recipe, plan.spec, encoder, **_AFFINE)
    others = [places[name] for name in plan.held_out]
    conditions, standardize = conditions_for(
        noisy, store, encoder, hypernetwork, learned, others, folder, accelerator, say
    )
    cache = default_cache_folder() / "statistics"
    set_affine(hypernetwork, plan.library, plan.learned, recipe.recon, cache)
    hypernetwork.to(accelerator.device).train()
    measured = plan.held_out[: recipe.validation.tasks] if recipe.validation.every else ()
    job = ReconJob(
        hypernetwork,
        plan.library,
        conditions,
        places,
        plan.learned,
        recipe.recon,
        seed=recipe.loop.seed,
        held_out=measured,
        descriptions=recipe.validation.descriptions,
    )
    recon = recipe.recon
    loop = replace(recipe.loop, steps=recon.steps, warmup=recon.warmup, decay=recon.decay, schedule="linear")
    settings = recipe.to_dict()
    selected = run(job, loop, folder, accelerator, validate_every=recipe.validation.every, settings=settings, say=say)
    metadata = {
        "trained_by": "t2l train recon",
        "training_tasks": len(plan.learned),
        "recipe": settings,
        "seed": recipe.loop.seed,
        "step": selected,
        **recorded(plan.library.settings),
    }
    whole = finished(hypernetwork, folder, selected, standardize)
    return TextToLora(encoder_from_config(recipe.encoder), whole, metadata)


class ReconJob(Job):
    """A hypernetwork that learns, for each task's conditions, that task's adapter of the library.

    Build it with ``head_init="linear"``, ``output_gain=True`` and ``output_shift=True``, and see `set_affine`.

    Args:
        conditions: of the tasks.
        places: adapter -> its task in ``conditions``.
        learned: adapters that are learned.
        held_out: adapters to measure on; neither learned nor counted in the library's statistics.
        descriptions: conditions of a held-out task that are measured.

    Raises:
        T2LError: an adapter is both learned and held out.
    """

    def __init__(
        self,
        hypernetwork: HyperNetwork,
        library: Library,
        conditions: Conditions,
        places: Mapping[str, int],
        learned: Sequence[str],
        recon: ReconSection,
        *,
        seed: int = 0,
        held_out: Sequence[str] = (),
        descriptions: int = 2,
    ) -> None:
        if both := sorted(set(learned) & set(held_out)):
            raise T2LError(f"'{both[0]}' is to be learned and held out.")
        self.module = self.hypernetwork = hypernetwork
        self.library, self.conditions, self.places, self.recon = library, conditions, places, recon
        self.learned, self.held_out, self.seed, self.descriptions = list(learned), list(held_out), seed, descriptions

    def optimizers(self) -> list[torch.optim.Optimizer]:
        rate, decay = self.recon.learning_rate, self.recon.weight_decay
        return muon_and_adamw(self.module, lambda *_: False, matrix_lr=0, other_lr=rate, other_decay=decay)

    def learn(self, step: int, rank: int, world: int) -> Done:
        drawn = self._drawn(step)
        generator = torch.Generator().manual_seed(step)
        condition_NE = self._conditions([wanted for _, wanted in drawn], generator)[rank::world]
        own = [name for name, _ in drawn[rank::world]]
        if not own:
            return Done(0.0, 0, 0)
        seed_draws(self.seed, step, rank)
        loss = target_loss(self.hypernetwork, condition_NE, self.library.weights(own), self.recon)
        loss = loss * (len(own) / len(drawn))
        loss.backward()
        return Done(loss.detach(), len(own), 0)

    def identify(self, step: int) -> list[dict[str, Any]]:
        return [{"adapter": name, "description": wanted.description} for name, wanted in self._drawn(step)]

    def validation_parts(self) -> int:
        return len(self.held_out)

    @torch.no_grad()
    def validate(self, part: int) -> dict[str, float]:
        """The mean loss of a held-out task's conditions against its adapter."""
        name = self.held_out[part]
        place, target = self.places[name], self.library.weights([name])
        count = min(self.descriptions, self.conditions.count(place))
        condition_KE = self._conditions([Wanted(place, number) for number in range(count)])
        losses = [target_loss(self.hypernetwork, row_1E, target, self.recon) for row_1E in condition_KE.split(1)]
        return {"loss": float(torch.stack(losses).mean())}

    def _drawn(self, step: int) -> list[tuple[str, Wanted]]:
        rng = Random(f"{self.seed}/{step}")
        names = rng.sample(self.learned, min(self.recon.tasks, len(self.learned)))
        places = [self.places[name] for name in names]
        wanted = [Wanted(place, rng.randrange(self.conditions.count(place))) for place in places]
        return list(zip(names, wanted, strict=True))

    def _conditions(self, wanted: Sequence[Wanted], generator: torch.Generator | None = None) -> Tensor:
        return self.conditions.on_device(self.conditions.gather(wanted, generator), self.hypernetwork.device)


def tasks_of(names: Sequence[str], store: DataStore) -> dict[str, TaskEntry]:
    """Adapter -> task of the store: of the same name, else of the same number (``...-task022`` is ``task022_x``)."""
    by_name = {task.name: task for task in store.tasks}
    by_number: dict[int, TaskEntry] = {}
    for task in store.tasks:
        if (number := _number(task.name)) is not None:
            by_number.setdefault(number, task)
    found = {}
    for name in names:
        number = _number(name)
        task = by_name.get(name) or (by_number.get(number) if number is not None else None)
        if task is not None:
            found[name] = task
    return found


def _number(name: str) -> int | None:
    match = _NUMBER.search(name)
    return int(match[1]) if match else None


def plan_figures(recipe: Recipe, plan: ReconPlan, encoder: DescriptionEncoder) -> dict[str, Any]:
    """Plain values for people and for ``--json``: shapes, parameters, memory, steps."""
    with torch.device("meta"):
        hypernetwork = fresh_hypernetwork(recipe, plan.spec, encoder, **_AFFINE)
    parameters, adapter = hypernetwork.num_parameters, plan.spec.num_parameters
    # weights, gradient, Adam's two moments; the affine's two; the batch's targets, outputs and their gradients
    memory = 4 * (4 * parameters + 2 * adapter + 4 * recipe.recon.tasks * adapter)
    return {
        "library": str(plan.library.folder),
        "adapters": len(plan.library),
        "learned": len(plan.learned),
        "held_out": len(plan.held_out),
        "left_out": dict(plan.left_out),
        "rank": plan.spec.rank,
        "modules": plan.spec.target_modules,
        "parameters_of_an_adapter": adapter,
        "parameters_of_the_hypernetwork": parameters,
        "target": recipe.recon.target,
        "steps": recipe.recon.steps,
        "memory_gb": round(memory / 1e9, 3),
    }


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
    distances = raw.map(lambda given, goal: (given.float() - goal.float()).abs().sum(), wanted)
    return torch.stack(distances.tensors).sum() / sum(goal.numel() for goal in wanted.tensors)


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
            distances.append(
                checkpoint(lambda b, a: torch.bmm(b, a).abs().sum(), left_NOR, right_NRI, use_reentrant=False)
            )
        elements += len(condition_NE) * len(group.layers) * group.out_features * group.in_features
    return torch.stack(distances).sum() / elements


def set_affine(
    hypernetwork: HyperNetwork,
    library: Library,
    names: Sequence[str],
    recon: ReconSection,
    statistics_folder: Path | None = None,
) -> None:
    """Sets what stands between the heads' output and weights: z-scores, nothing, or the root of ``delta_scale``.

    Raises:
        T2LError: the hypernetwork was built without output gain or shift, or for other shapes.
    """
    if recon.target == "factors" and recon.z_scores:
        if statistics_folder is None:
            statistics = LibraryStatistics.of(library.stream(names))
        else:
            statistics = LibraryStatistics.cached(library, names, statistics_folder)
        statistics.set_on(hypernetwork)
        return
    one = library.weights(names[:1])
    one.check(hypernetwork.spec)
    gain = recon.delta_scale**-0.5 if recon.target == "deltas" else 1.0
    hypernetwork.output_affine.set(gain=one.map(lambda x: torch.full_like(x, gain)), shift=one.map(torch.zeros_like))


def target_loss(hypernetwork: HyperNetwork, condition_NE: Tensor, target: LoraWeights, recon: ReconSection) -> Tensor:
    """The loss that the recipe asks for."""
    if recon.target == "deltas":
        return delta_loss(hypernetwork, condition_NE, target, recon.delta_scale)
    return reconstruction_loss(hypernetwork, condition_NE, target)


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
                for means, sums, x in zip(mean.tensors, squares.tensors, value.tensors, strict=True):
                    difference = x - means
                    means += difference / count
                    sums += difference * (x - means)
        if mean is None or squares is None or count < 2:
            raise T2LError(f"The spread of a library of {count} adapters is not defined; it needs at least 2.")
        total = count
        std = squares.map(lambda sums: _floored((sums / total).sqrt()))
        return cls(mean.to(torch.float32), std.to(torch.float32))

    @classmethod
    def cached(cls, library: Library, names: Sequence[str], folder: Path) -> LibraryStatistics:
        """As `of` over some adapters of a library, read from ``folder`` where a run kept it for the same files.

        Raises:
            T2LError: fewer than two adapters.
            OutputError: the result cannot be kept.
        """
        path = folder / f"{library.fingerprint(names)}.safetensors"
        if path.is_file():
            try:
                return cls._load(path, library.spec)
            except T2LError:
                pass  # torn or of an older form: computed again, and replaced

        found = cls.of(library.stream(names))
        with new_file(path, force=True) as temporary:
            write_tensors(temporary, found._tensors())
        return found

    def set_on(self, hypernetwork: HyperNetwork) -> None:
        """Sets the output affine: heads predict z-scores, forward returns weights.

        Raises:
            T2LError: it was built without output gain or shift, or for other shapes.
        """
        self.mean.check(hypernetwork.spec)
        hypernetwork.output_affine.set(gain=self.std, shift=self.mean)

    def _tensors(self) -> dict[str, Tensor]:
        parts = {"mean": self.mean, "std": self.std}
        return {
            f"{part}.{factor}.{key}": tensor
            for part, weights in parts.items()
            for factor, tensors in (("a", weights.a), ("b", weights.b))
            for key, tensor in tensors.items()
        }

    @classmethod
    def _load(cls, path: Path, spec: LoraSpec) -> LibraryStatistics:
        tensors = read_tensors(path, T2LError)
        like = LoraWeights.zeros(spec, device="meta")
        expected = {name: tuple(tensor.shape) for name, tensor in cls(like, like)._tensors().items()}
        check_tensors(tensors, expected, source=path, error=T2LError)

        def weights(part: str) -> LoraWeights:
            a, b = ({key: tensors[f"{part}.{factor}.{key}"] for key in like.a} for factor in "ab")
            return LoraWeights(a, b)

        return cls(weights("mean"), weights("std"))


def _floored(std: Tensor) -> Tensor:
    typical = float(std.square().mean().sqrt())
    return std.clamp_min(_LEAST_SPREAD * typical if typical > 0 else 1.0)


def _check_target(hypernetwork: HyperNetwork, condition_NE: Tensor, target: LoraWeights) -> None:
    target.check(hypernetwork.spec)
    if target.num_samples != len(condition_NE):
        raise T2LError(f"{len(condition_NE)} conditions for {target.num_samples} target adapters; give one for each.")
