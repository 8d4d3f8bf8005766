"""Adapters from adapters: the weight changes add up as said, whatever the ranks, scalings and modules of the parts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import random_weights, tiny_base, tiny_config, tokens
from t2l.adapter import Adapter
from t2l.composition import combine, conform, reduce_rank, scale, subtract
from t2l.encoders.one_hot import OneHotEncoder
from t2l.errors import BaseModelError, DescriptionError, T2LError
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.model import TextToLora

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
EXACT: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}


def make(seed: int, rank: int = 3, kind: str = "llama", **options: Any) -> Adapter:
    spec = replace(LoraSpec.from_base(tiny_config(kind), rank=rank, **options), base_model="tiny/base")
    return Adapter(spec, random_weights(spec, seed=seed, std=0.3), {"description": f"task {seed}", "checkpoint": "abc"})


def change(adapter: Adapter, path: str) -> torch.Tensor:
    """The weight change of one module; zero where the adapter leaves it alone."""
    if path not in adapter.spec.module_paths():
        every = LoraSpec.from_base(tiny_config(), target_modules="all-linear").groups
        (group,) = (group for group in every if path in group.module_paths())
        return torch.zeros(group.out_features, group.in_features)
    return adapter.delta(path)


def assert_sum(result: Adapter, parts: list[Adapter], shares: list[float]) -> None:
    paths = {path for part in parts for path in part.spec.module_paths()}
    assert set(result.spec.module_paths()) == paths
    for path in paths:
        total = sum(share * change(part, path).double() for share, part in zip(shares, parts, strict=True))
        torch.testing.assert_close(result.delta(path), torch.as_tensor(total).float(), **EXACT)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, -2.0])
def test_a_strength_multiplies_the_change(strength: float) -> None:
    adapter = make(0)
    weaker = scale(adapter, strength)
    for path in adapter.spec.module_paths():
        torch.testing.assert_close(weaker.delta(path), strength * adapter.delta(path), **EXACT)
    assert weaker.spec == adapter.spec
    assert weaker.provenance == {**adapter.provenance, "strength": strength}
    assert scale(weaker, 0.5).provenance["strength"] == strength / 2


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shares=st.lists(st.floats(-3, 3), min_size=1, max_size=4),
    ranks=st.lists(st.integers(1, 4), min_size=4, max_size=4),
    stabilised=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_ranks_side_by_side_are_exactly_the_sum(shares: list[float], ranks: list[int], stabilised: list[bool]) -> None:
    parts = [make(n, ranks[n], use_rslora=stabilised[n]) for n in range(len(shares))]
    result = combine(parts, shares)
    assert_sum(result, parts, shares)
    assert result.spec.rank == sum(part.spec.rank for part in parts)
    assert result.spec.scaling == 1.0


def test_parts_with_other_modules_and_layers_add_up() -> None:
    parts = [
        make(0, 2),
        make(1, 3, target_modules="all-linear"),
        make(2, 1, target_modules=["down_proj"], layers=[1]),
        make(3, 2, target_modules=["down_proj"], layers=[0]),
    ]
    assert_sum(combine(parts, [1, 2, -1, 0.5]), parts, [1, 2, -1, 0.5])
    assert_sum(combine(parts[2:]), parts[2:], [1, 1])  # layers of one module from two parts


def test_a_sum_behaves_like_its_parts_added_in_peft() -> None:
    first, second = make(0), make(1, 2)
    ids = tokens(2, 7)
    with torch.inference_mode():
        found = combine([first, second], [1, 1]).apply(tiny_base())(ids).logits
        model = second.apply(first.apply(tiny_base()), "second")
        model.base_model.set_adapter(["default", "second"])
        torch.testing.assert_close(found, model(ids).logits, rtol=1e-4, atol=1e-4)


def test_the_full_rank_loses_nothing_and_a_lower_one_is_the_best_there_is() -> None:
    parts = [make(0), make(1)]
    exact = combine(parts, [0.5, 0.5])
    whole = combine(parts, [0.5, 0.5], method="svd", rank=6)
    assert_sum(whole, parts, [0.5, 0.5])
    assert whole.provenance["composition"]["kept"] == 1.0
    near = combine(parts, [0.5, 0.5], method="svd")
    assert near.spec.rank == 3
    norms = {"kept": 0.0, "whole": 0.0}
    for path in near.spec.module_paths():
        singular = torch.linalg.svdvals(exact.delta(path).double())
        lost = torch.linalg.matrix_norm((exact.delta(path) - near.delta(path)).double())
        torch.testing.assert_close(lost, singular[3:].square().sum().sqrt(), rtol=1e-4, atol=1e-5)
        norms["kept"] += singular[:3].square().sum().item()
        norms["whole"] += singular.square().sum().item()
    assert near.provenance["composition"]["kept"] == pytest.approx(norms["kept"] / norms["whole"], abs=1e-5)


def test_a_rank_above_what_there_is_is_filled_with_zeros() -> None:
    part = make(0, 2)
    wide = combine([part], method="svd", rank=40)  # wider than the smaller side of k_proj-like modules
    assert wide.spec.rank == 40
    assert_sum(wide, [part], [1])


def test_factors_are_averaged_apart() -> None:
    first, second = make(0), make(1, use_rslora=False)
    same = combine([first, first], [0.25, 0.75], method="factors")
    assert_sum(same, [first], [1])
    mixed = combine([first, second], [0.5, 0.5], method="factors")
    path, key = first.spec.module_paths()[0], first.spec.groups[0].key
    a = (first.weights.a[key][0, 0] + second.weights.a[key][0, 0]) / 2
    b = (first.weights.b[key][0, 0] * first.spec.scaling + second.weights.b[key][0, 0] * second.spec.scaling) / 2
    torch.testing.assert_close(mixed.delta(path), b @ a, **EXACT)
    with pytest.raises(T2LError, match="same rank and modules"):
        combine([first, make(1, 2)], method="factors")


def test_interpolation_and_subtraction() -> None:
    first, second = make(0), make(1)
    assert_sum(combine([first, second], [0.7, 0.3]), [first, second], [0.7, 0.3])
    assert_sum(subtract(first, second), [first, second], [1, -1])
    nothing = subtract(first, first, method="svd", rank=1)
    assert all(nothing.delta(path).abs().max() < 1e-6 for path in nothing.spec.module_paths())


def test_the_parts_are_remembered_and_the_folder_reads_back(tmp_path: Path) -> None:
    parts = [make(0), scale(make(1), 0.5)]
    made = combine(parts, [1, -0.5])
    record = made.provenance["composition"]
    assert (record["method"], record["weights"]) == ("cat", [1.0, -0.5])
    assert record["parts"][1] == {
        "digest": parts[1].digest, "description": "task 1", "checkpoint": "abc", "strength": 0.5
    }  # fmt: skip
    again = Adapter.load(made.save(tmp_path / "a"))
    assert again.digest == made.digest and again.provenance["composition"] == record
    json.dumps(combine([again, made]).provenance)


def test_what_cannot_be_combined_is_refused() -> None:
    first = make(0)
    other = Adapter(replace(first.spec, base_model="other/base"), first.weights)
    with pytest.raises(BaseModelError, match="'tiny/base' and 'other/base'"):
        combine([first, other])
    wider = LoraSpec.from_base(tiny_config(hidden_size=32), rank=2)
    with pytest.raises(BaseModelError, match="24x24 in one and 32x32"):
        combine([first, Adapter(wider, random_weights(wider))])
    for arguments, message in (
        ({"adapters": []}, "no adapter"),
        ({"adapters": [first], "weights": [1, 2]}, "2 weights for 1"),
        ({"adapters": [first], "weights": [float("nan")]}, "finite"),
        ({"adapters": [first], "method": "averge"}, "no method 'averge'"),
        ({"adapters": [first], "rank": 2}, "no effect"),
        ({"adapters": [first], "method": "svd", "rank": -1}, "at least 1"),
    ):
        with pytest.raises(T2LError, match=message):
            combine(**arguments)
    with pytest.raises(T2LError, match="strength is 'much'"):
        scale(first, "much")  # type: ignore[arg-type]


def test_rank_reduction_of_zero_weights_keeps_everything() -> None:
    spec = make(0).spec
    _, weights, kept = reduce_rank(spec, random_weights(spec, std=0.0), 2)
    assert kept == 1.0 and all(torch.isfinite(tensor).all() for tensor in weights.b.values())


# In the task features

TASKS = ["add three", "drop the last word", "answer in capitals"]


@pytest.fixture
def t2l() -> TextToLora:
    spec = LoraSpec.from_base(tiny_config(), rank=3)
    hypernetwork = HyperNetwork(spec, len(TASKS), trunk_dim=8, head_dim=8, head_init="linear", output_shift=True)
    hypernetwork.output_affine.set(shift=random_weights(spec, seed=9))
    return TextToLora(OneHotEncoder(TASKS), hypernetwork)


def test_the_ends_of_a_blend_are_the_descriptions_own_adapters(t2l: TextToLora) -> None:
    first, second = t2l.generate(TASKS[::2])
    for weights, expected in (([1, 0], first), ([0, 1], second)):
        found = t2l.blend(TASKS[::2], weights)
        for path in found.spec.module_paths():
            torch.testing.assert_close(found.delta(path), expected.delta(path), **EXACT)
    assert t2l.blend(TASKS[::2]).digest not in (first.digest, second.digest)


@pytest.mark.parametrize("weights", [None, [0.5, 0.75, -0.25]])  # without weights it is the mean
def test_a_blend_is_the_adapter_of_the_averaged_features(t2l: TextToLora, weights: list[float] | None) -> None:
    found, expected_weights = t2l.blend(TASKS, weights), weights or [1 / 3] * 3
    with torch.no_grad():
        mixed_1K = torch.tensor([expected_weights]) @ t2l.hypernetwork.encode(t2l.encoder.encode(TASKS))
        expected = t2l.hypernetwork.output_affine(t2l.hypernetwork.decode(mixed_1K))
    for key in expected.a:
        torch.testing.assert_close(found.weights.a[key], expected.a[key])
        torch.testing.assert_close(found.weights.b[key], expected.b[key])
    assert found.spec == t2l.spec and found.provenance["checkpoint"] == t2l.digest
    record = found.provenance["composition"]
    assert record["method"] == "features" and record["weights"] == pytest.approx(expected_weights)


@pytest.mark.parametrize("weights", [[1.0], [1.0, float("inf")]])
def test_a_blend_needs_a_weight_for_each_description(t2l: TextToLora, weights: list[float]) -> None:
    with pytest.raises(DescriptionError, match="one finite number for each"):
        t2l.blend(TASKS[::2], weights)
    with pytest.raises(DescriptionError, match="takes a list"):
        t2l.blend("add three")


def test_an_adapter_conforms_to_a_wider_spec_or_is_refused() -> None:
    adapter = make(3, rank=2, target_modules=["q_proj"], use_rslora=False)
    wide = replace(LoraSpec.from_base(tiny_config(), rank=5, alpha=7.0), base_model="tiny/base")
    fitted = conform(adapter, wide)
    assert fitted.spec == wide and fitted.provenance == adapter.provenance
    for path in wide.module_paths():
        torch.testing.assert_close(fitted.delta(path), change(adapter, path), **EXACT)
    assert conform(fitted, wide) is fitted
    with pytest.raises(BaseModelError, match="rank 5; at most 2"):
        conform(fitted, adapter.spec)
    with pytest.raises(BaseModelError, match="v_proj .* not adapted here"):
        conform(make(4, rank=2), replace(adapter.spec, rank=3))


@pytest.mark.parametrize("method", ["cat", "svd", "factors"])
def test_sums_beyond_the_range_of_float32_are_refused(method: Any) -> None:
    with pytest.raises(T2LError, match="not finite"):
        combine([make(0), make(1)], [1e300, 1e300], method=method)
    with pytest.raises(T2LError, match="not finite"):
        scale(make(0), 1e300)
