"""Reconstruction: statistics against numpy, z-scores that invert, and a hypernetwork that learns a library by heart."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import Killed, kill_at, random_weights, silent, tiny_config
from t2l.errors import T2LError
from t2l.hypernet import HyperNetwork
from t2l.library import Library
from t2l.lora import LoraSpec, LoraWeights
from t2l.training.library_statistics import LibraryStatistics
from t2l.training.loop import LoopConfig
from t2l.training.reconstruction import (
    HeldOut,
    ReconstructionConfig,
    delta_loss,
    held_out_loss,
    reconstruction_loss,
    set_affine,
    train_reconstruction,
)

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


def condition_of(rng: Random, name: str) -> Tensor:
    return torch.eye(6)[NAMES.index(name)]


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


def test_a_library_is_learned_by_heart_and_a_killed_run_resumes(
    spec: LoraSpec, library: Library, tmp_path: Path
) -> None:
    config = ReconstructionConfig(LoopConfig(steps=150, warmup=15, save_every=50), learning_rate=1e-2, noise=0.05)
    losses: list[float] = []

    def run(state: str, report: object) -> HyperNetwork:
        return train_reconstruction(
            network(spec),
            library,
            condition_of,
            config,
            state_path=tmp_path / state,
            report=report,  # type: ignore[arg-type]
        )

    whole = run("whole", lambda done, steps, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < 0.3 * losses[0]
    target = library.weights(NAMES)
    near = reconstruction_loss(whole, torch.eye(6), target).item()
    assert near < 0.3 < 1.0 < reconstruction_loss(whole, torch.eye(6).roll(1, 0), target).item()

    def killed(done: int, steps: int, loss: float) -> None:
        if done == 70:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("killed", killed)
    resumed = run("killed", lambda done, steps, loss: None)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_statistics_are_computed_once_for_the_same_files(spec: LoraSpec, library: Library, tmp_path: Path) -> None:
    read: list[int] = []

    def statistics() -> LibraryStatistics:
        return LibraryStatistics.cached(library, folder=tmp_path / "cache", report=lambda done, _: read.append(done))

    first, again = statistics(), statistics()
    assert read == [1, 2, 3, 4, 5, 6]
    for part in ("mean", "std"):
        for key, tensor in tensors(getattr(first, part)).items():
            assert torch.equal(tensor, tensors(getattr(again, part))[key])
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    statistics()
    assert len(read) == 12
    library.add({"t0": (random_weights(spec, seed=9), {})})  # other files
    other = statistics()
    assert len(read) == 18
    assert not torch.equal(tensors(other.mean)["a.q_proj"], tensors(first.mean)["a.q_proj"])


def test_deltas_are_compared_as_products_whatever_their_factors(spec: LoraSpec, library: Library) -> None:
    config = ReconstructionConfig(LoopConfig(steps=1), target="deltas", delta_scale=100.0)
    hypernetwork = network(spec).eval()
    set_affine(hypernetwork, library, library.names, config)
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
    loop = LoopConfig(steps=60, warmup=5, save_every=20)
    config = ReconstructionConfig(loop, learning_rate=2e-2, target="deltas", delta_scale=100.0)
    aside = {"t5": torch.eye(6)[[5, 4]]}

    def run(folder: str, killed_at: int = 0) -> tuple[HyperNetwork, list[tuple[int, float, bool]]]:
        measured: list[tuple[int, float, bool]] = []
        best = tmp_path / folder / "best.safetensors"
        held = HeldOut(aside, 20, best, report=lambda done, loss, best: measured.append((done, loss, best)))
        hypernetwork, state = network(spec), tmp_path / folder / "state.pt"
        with pytest.raises(Killed) if killed_at else nullcontext():
            train_reconstruction(
                hypernetwork,
                library,
                condition_of,
                config,
                held_out=held,
                state_path=state,
                report=kill_at(killed_at),
            )
        return hypernetwork, measured

    whole, measured = run("whole")
    assert [done for done, _, _ in measured] == [20, 40, 60]
    lowest = min(loss for _, loss, _ in measured)
    assert [best for _, loss, best in measured if loss == lowest] == [True]
    assert held_out_loss(whole, library, aside, config) == pytest.approx(lowest, rel=1e-6)
    for moment in (40, 47):  # between a saved state and its measurement; after both
        _, before = run(f"killed-{moment}", moment)
        resumed, after = run(f"killed-{moment}")
        assert {(done, loss) for done, loss, _ in before + after} == {(done, loss) for done, loss, _ in measured}
        for name, tensor in whole.state_dict().items():
            assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_what_is_held_out_is_not_learned(spec: LoraSpec, library: Library, tmp_path: Path) -> None:
    held = HeldOut({"t5": torch.eye(6)[[5]]}, 1, tmp_path / "best.safetensors")
    config = ReconstructionConfig(LoopConfig(steps=3, warmup=0, save_every=1), tasks=3)
    asked: set[str] = set()

    def condition(rng: Random, name: str) -> Tensor:
        asked.add(name)
        return condition_of(rng, name)

    def run(names: list[str] | None = None) -> None:
        state = tmp_path / "state.pt"
        train_reconstruction(
            network(spec), library, condition, config, names=names, held_out=held, state_path=state, report=silent
        )

    run()
    assert asked and "t5" not in asked
    with pytest.raises(T2LError, match="'t5' is to be learned and held out"):
        run(NAMES)


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
    with pytest.raises(T2LError, match="learning_rate"):
        ReconstructionConfig(LoopConfig(steps=1), learning_rate=0)
    with pytest.raises(T2LError, match="'delta'; it is factors or deltas"):
        ReconstructionConfig(LoopConfig(steps=1), target="delta")  # type: ignore[arg-type]
    with pytest.raises(T2LError, match="delta_scale"):
        ReconstructionConfig(LoopConfig(steps=1), delta_scale=0.0)
