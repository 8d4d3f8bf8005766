"""Reconstruction: statistics against numpy, z-scores that invert, and a hypernetwork that regresses onto a library."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import dies_at, random_weights, tiny_config
from t2l.errors import T2LError
from t2l.hypernet import HyperNetwork
from t2l.library import Library
from t2l.lora import LoraSpec, LoraWeights
from t2l.recipes.reader import recipe_from
from t2l.recipes.sections import LoopSection, ReconSection
from t2l.training.conditions import ConditionTable
from t2l.training.loop import run as run_job
from t2l.training.reconstruction import LibraryStatistics, ReconJob, delta_loss, reconstruction_loss, set_affine
from t2l.training.run_folder import RunFolder
from t2l.training.sft_run import finished

NAMES = ["t0", "t1", "t2", "t3", "t4", "t5"]


@pytest.fixture(scope="module")
def spec() -> LoraSpec:
    return LoraSpec.from_base(tiny_config(), rank=2)


@pytest.fixture
def library(spec: LoraSpec, tmp_path: Path) -> Library:
    library = Library.create(tmp_path / "library", spec)
    weights = random_weights(spec, len(NAMES), seed=4)
    library.add({name: (weights.select(i), {}) for i, name in enumerate(NAMES)})
    return library


def network(spec: LoraSpec, **changes: object) -> HyperNetwork:
    values = {"trunk_dim": 16, "head_dim": 24, "dropout": 0.0, "head_init": "linear"}
    values |= {"output_gain": True, "output_shift": True}
    return HyperNetwork(spec, 6, "L", **(values | changes))  # type: ignore[arg-type]


PLACES = {name: place for place, name in enumerate(NAMES)}


def table(noise: float = 0.0) -> ConditionTable:
    """A condition for each task."""
    found = ConditionTable.of({place: torch.eye(6)[[place]] for place in range(6)})
    found.noise = noise
    return found


def tensors(weights: LoraWeights) -> dict[str, Tensor]:
    return {f"a.{k}": v for k, v in weights.a.items()} | {f"b.{k}": v for k, v in weights.b.items()}


def test_statistics_are_numpys_whatever_comes_at_a_time(library: Library) -> None:
    found = LibraryStatistics.of(library.stream())
    batched = LibraryStatistics.of([library.weights(NAMES[:4]), library.weights(NAMES[4:])])
    for key, all_N in tensors(library.weights(NAMES)).items():
        for statistics in (found, batched):
            np.testing.assert_allclose(tensors(statistics.mean)[key][0], all_N.double().numpy().mean(0), atol=1e-7)
            np.testing.assert_allclose(tensors(statistics.std)[key][0], all_N.double().numpy().std(0), atol=1e-7)


def test_only_one_adapter_of_the_library_is_held(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read = library._read
    monkeypatch.setattr(library, "_read", lambda name: asked.append(1) or read(name))
    stream = library.stream()
    next(stream)
    assert len(asked) == 1
    LibraryStatistics.of(stream)
    assert len(asked) == len(NAMES)


def test_z_scores_invert_and_have_mean_0_and_variance_1(spec: LoraSpec, library: Library) -> None:
    hypernetwork = network(spec)
    LibraryStatistics.of(library.stream()).set_on(hypernetwork)
    weights = library.weights(NAMES)
    scores = hypernetwork.output_affine.normalise(weights)
    for key, score_N in tensors(scores).items():
        torch.testing.assert_close(score_N.mean(0), torch.zeros_like(score_N[0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(score_N.var(0, correction=0), torch.ones_like(score_N[0]), atol=1e-4, rtol=0)
        torch.testing.assert_close(tensors(hypernetwork.output_affine(scores))[key], tensors(weights)[key])


def test_an_element_that_never_varies_has_small_z_scores(spec: LoraSpec) -> None:
    weights = random_weights(spec, 4)
    weights.a["q_proj"][:, 0, 0, 0] = 0.7
    weights.b["v_proj"][:] = 0.0
    hypernetwork = network(spec)
    LibraryStatistics.of([weights]).set_on(hypernetwork)
    scores = hypernetwork.output_affine.normalise(weights)
    assert float(scores.a["q_proj"][:, 0, 0, 0].abs().max()) < 1e-2 and not scores.b["v_proj"].any()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors(scores).values())


def test_the_loss_is_the_mean_distance_in_z_scores(spec: LoraSpec, library: Library) -> None:
    hypernetwork = network(spec).eval()
    statistics = LibraryStatistics.of(library.stream())
    statistics.set_on(hypernetwork)
    condition_NE, target = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)), library.weights(["t3", "t1"])
    given, mean, std = tensors(hypernetwork(condition_NE)), tensors(statistics.mean), tensors(statistics.std)
    distances = [((given[k] - goal).abs() / std[k]).flatten() for k, goal in tensors(target).items()]
    loss = reconstruction_loss(hypernetwork, condition_NE, target)
    torch.testing.assert_close(loss, torch.cat(distances).mean(), rtol=1e-4, atol=1e-5)
    assert set(mean) == set(std)
    plain = network(spec, output_gain=False, output_shift=False).eval()
    given = tensors(plain(condition_NE))
    distances = [(given[k] - goal).abs().flatten() for k, goal in tensors(target).items()]
    torch.testing.assert_close(reconstruction_loss(plain, condition_NE, target), torch.cat(distances).mean())


def trained(
    folder: Path, job: ReconJob, loop: LoopSection, every: int = 0, at: Callable[[int], None] = lambda step: None
) -> tuple[HyperNetwork, list[float]]:
    """What the loop selects, and the loss of each step."""
    known = {"num_processes": 1, "process_index": 0, "is_main_process": True, "device": torch.device("cpu")}
    nothing = {name: lambda *_, **__: None for name in ("wait_for_everyone", "init_trackers", "log")}
    learn = job.learn

    def watched(step: int, rank: int, world: int) -> Any:
        at(step)
        return learn(step, rank, world)

    job.learn = watched
    place, accelerator = RunFolder(folder), SimpleNamespace(**known, **nothing)
    place.folder.mkdir(parents=True, exist_ok=True)
    selected = run_job(job, loop, place, accelerator, validate_every=every, say=lambda text: None)  # pyright: ignore
    lines = [json.loads(line) for line in place.metrics.read_text().splitlines()]
    return finished(job.hypernetwork, place, selected), [line["loss"] for line in lines]


def test_a_library_is_regressed_onto_and_a_killed_run_resumes(spec: LoraSpec, library: Library, tmp_path: Path) -> None:
    recon, loop = ReconSection(learning_rate=1e-2), LoopSection(steps=150, warmup=0.1, decay=0.7, save_every=50)

    def job() -> ReconJob:
        hypernetwork = network(spec)
        set_affine(hypernetwork, library, NAMES, recon)
        return ReconJob(hypernetwork.train(), library, table(0.05), PLACES, NAMES, recon)

    whole, losses = trained(tmp_path / "whole", job(), loop)
    assert np.mean(losses[-5:]) < 0.3 * losses[0]
    target = library.weights(NAMES)
    near = reconstruction_loss(whole, torch.eye(6), target).item()
    assert near < 0.3 < 1.0 < reconstruction_loss(whole, torch.eye(6).roll(1, 0), target).item()
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", job(), loop, at=dies_at(70))
    resumed, again = trained(tmp_path / "killed", job(), loop)
    assert again == losses
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_processes_share_a_step_without_changing_it(spec: LoraSpec, library: Library) -> None:
    found = []
    for world in (1, 2, 5):
        hypernetwork = network(spec)
        recon = ReconSection(tasks=4)
        set_affine(hypernetwork, library, NAMES, recon)
        job = ReconJob(hypernetwork, library, table(0.05), PLACES, NAMES, recon)
        loss = sum(float(job.learn(3, rank, world).loss) for rank in range(world))
        found.append((loss, [parameter.grad for parameter in hypernetwork.parameters()]))
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        torch.testing.assert_close(gradients, found[0][1], rtol=1e-4, atol=1e-6)


def test_statistics_are_computed_once_for_the_same_files(
    spec: LoraSpec, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    read = library._read
    monkeypatch.setattr(library, "_read", lambda name: asked.append(name) or read(name))

    def statistics() -> LibraryStatistics:
        return LibraryStatistics.cached(library, library.names, tmp_path / "cache")

    first, again = statistics(), statistics()
    assert asked == NAMES
    for part in ("mean", "std"):
        for key, tensor in tensors(getattr(first, part)).items():
            assert torch.equal(tensor, tensors(getattr(again, part))[key])
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    statistics()
    assert len(asked) == 12
    library.add({"t0": (random_weights(spec, seed=9), {})})  # other files
    other = statistics()
    assert len(asked) == 18
    assert not torch.equal(tensors(other.mean)["a.q_proj"], tensors(first.mean)["a.q_proj"])


def test_deltas_are_compared_as_products_whatever_their_factors(spec: LoraSpec, library: Library) -> None:
    hypernetwork = network(spec).eval()
    set_affine(hypernetwork, library, library.names, ReconSection(target="deltas", delta_scale=100.0))
    condition_NE, target = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)), library.weights(["t3", "t1"])
    given = hypernetwork(condition_NE)  # in use: A and B each divided by 10
    distances = []
    for group in spec.groups:
        ours = given.b[group.key] @ given.a[group.key]
        theirs = target.b[group.key] @ target.a[group.key]
        distances.append(100.0 * (ours - theirs).abs().flatten())
    expected = torch.cat(distances).mean()
    loss = delta_loss(hypernetwork, condition_NE, target, 100.0)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    parameters = list(hypernetwork.parameters())
    wanted = torch.autograd.grad(expected, parameters)
    for found, goal in zip(torch.autograd.grad(loss, parameters), wanted, strict=True):
        torch.testing.assert_close(found, goal, rtol=1e-3, atol=1e-6)
    turned = target.map(torch.neg)  # (-B)(-A) is the same change
    torch.testing.assert_close(delta_loss(hypernetwork, condition_NE, turned, 100.0), loss)


def test_it_ends_with_what_was_best_on_held_out_tasks_also_after_a_kill(
    spec: LoraSpec, library: Library, tmp_path: Path
) -> None:
    loop = LoopSection(steps=60, warmup=0.1, decay=0.7, save_every=25)
    recon = ReconSection(learning_rate=2e-2, target="deltas", delta_scale=100.0)

    def job() -> ReconJob:
        hypernetwork, learned = network(spec), NAMES[:5]
        set_affine(hypernetwork, library, learned, recon)
        return ReconJob(hypernetwork.train(), library, table(), PLACES, learned, recon, held_out=["t5"])

    def measured(name: str) -> list[dict[str, float]]:
        return [json.loads(line) for line in RunFolder(tmp_path / name).validation.read_text().splitlines()]

    whole, _ = trained(tmp_path / "whole", job(), loop, 20)
    assert [record["step"] for record in measured("whole")] == [0, 20, 40, 60]
    lowest = min(record["loss"] for record in measured("whole")[1:])
    best = job()
    best.hypernetwork.load_state_dict(whole.state_dict())
    best.hypernetwork.eval()
    assert best.validate(0)["loss"] == pytest.approx(lowest, rel=1e-6)
    for moment in (40, 47):  # between a saved state and its measurement; after both
        name = f"killed-{moment}"
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / name, job(), loop, 20, dies_at(moment))
        resumed, _ = trained(tmp_path / name, job(), loop, 20)
        assert measured(name) == measured("whole")
        for key, tensor in whole.state_dict().items():
            assert torch.equal(tensor, resumed.state_dict()[key]), key


def test_what_is_held_out_is_not_learned(spec: LoraSpec, library: Library) -> None:
    job = ReconJob(network(spec), library, table(), PLACES, NAMES[:5], ReconSection(tasks=3), held_out=["t5"])
    drawn = {record["adapter"] for step in range(20) for record in job.identify(step)}
    assert drawn == set(NAMES[:5])
    with pytest.raises(T2LError, match="'t5' is to be learned and held out"):
        ReconJob(network(spec), library, table(), PLACES, NAMES, ReconSection(), held_out=["t5"])


def test_what_does_not_fit_is_refused(spec: LoraSpec, library: Library) -> None:
    statistics = LibraryStatistics.of(library.stream())
    with pytest.raises(T2LError, match="output_gain=True"):
        statistics.set_on(network(spec, output_gain=False))
    with pytest.raises(T2LError, match="expected"):
        statistics.set_on(network(replace(spec, rank=4)))
    with pytest.raises(T2LError, match="at least 2"):
        LibraryStatistics.of(library.stream(["t0"]))
    with pytest.raises(T2LError, match="1 conditions for 2 target adapters"):
        reconstruction_loss(network(spec), torch.zeros(1, 6), library.weights(["t0", "t1"]))
    for wrong in ({"learning_rate": 0}, {"target": "delta"}, {"delta_scale": 0.0}, {"tasks": 0}):
        with pytest.raises(T2LError, match=next(iter(wrong))):
            recipe_from({"recon": wrong})
