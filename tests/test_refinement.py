"""From a few examples: losses of adapters, tuned embeddings and warm starts, on a tiny base; and files of examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import MICRO_BASE, fill, random_weights, tiny_llama
from lab.world.base import encode_runs
from t2l.bases import load_base
from t2l.commands.refine import read_examples
from t2l.errors import T2LError
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.training.refinement import (
    RefineConfig,
    answer_samples,
    fit_losses,
    fresh_adapters,
    tune_adapters,
    tune_with_hypernetwork,
)

PAIRS = [("ab", "b"), ("cd", "d"), ("ef", "f"), ("gh", "h")]


def samples() -> list[Any]:
    found = []
    for pair in PAIRS:
        ids_1T, labels_1T = encode_runs([[pair]])
        found.append((ids_1T[0].numpy(), int((labels_1T[0] < 0).sum())))
    return found


@pytest.fixture(scope="module")
def base() -> Any:
    return tiny_llama().requires_grad_(False)


@pytest.fixture(scope="module")
def spec(base: Any) -> LoraSpec:
    return LoraSpec.from_base(base.config, rank=2)


def test_samples_are_those_that_the_embedded_base_was_trained_on() -> None:
    base = load_base(MICRO_BASE)
    for (ids, prompt), (expected, length) in zip(answer_samples(base, PAIRS), samples(), strict=True):
        assert (ids.tolist(), prompt) == (expected.tolist(), length)
    with pytest.raises(T2LError, match="room for"):
        answer_samples(base, [("a" * 600, "b")])


def test_each_adapter_has_its_own_loss(base: Any, spec: LoraSpec) -> None:
    weights = random_weights(spec, 3, seed=1)
    losses = fit_losses(base, spec, weights, samples())
    alone = torch.cat([fit_losses(base, spec, weights.select(row), samples()) for row in range(3)])
    torch.testing.assert_close(losses, alone)
    assert len(set(losses.tolist())) == 3


def test_tuning_lowers_the_loss_and_rows_do_not_disturb_each_other(base: Any, spec: LoraSpec) -> None:
    start = random_weights(spec, 2, seed=2)
    config = RefineConfig(steps=12, learning_rate=0.02, batch=4)
    seen: list[int] = []
    tuned = tune_adapters(
        base, spec, start, [samples(), samples()[:2]], config, watch=lambda step, weights: seen.append(step)
    )
    assert seen == list(range(13))
    assert bool((fit_losses(base, spec, tuned, samples()[:2]) < fit_losses(base, spec, start, samples()[:2])).all())
    alone = tune_adapters(base, spec, start.select(1), [samples()[:2]], config)
    torch.testing.assert_close(tuned.b["q_proj"][1], alone.b["q_proj"][0], atol=1e-4, rtol=1e-3)


def test_a_fresh_start_is_the_base(base: Any, spec: LoraSpec) -> None:
    weights = fresh_adapters(spec, 2, seed=0)
    assert all(not bool(tensor.any()) for tensor in weights.b.values())
    assert not torch.equal(weights.a["q_proj"][0], weights.a["q_proj"][1])


def test_with_its_hypernetwork_an_adapter_moves_by_its_embedding_and_by_itself(base: Any, spec: LoraSpec) -> None:
    network: Any = fill(HyperNetwork(spec, 6, trunk_dim=8, head_dim=8, head_init="linear"), std=0.2)
    network.eval().requires_grad_(True)
    embedding_NE = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [3.0]])
    before = embedding_NE.clone()
    with torch.no_grad():
        start = network(embedding_NE)
    own = [samples(), samples()[:2]]
    config = RefineConfig(steps=1, learning_rate=0.01, warmup=0)  # after one step the two moves just add up
    seen: list[int] = []
    both = tune_with_hypernetwork(
        base,
        network,
        embedding_NE,
        start,
        own,
        config,
        embedding_rate=0.02,
        watch=lambda step, weights: seen.append(step),
    )
    assert seen == [0, 1] and torch.equal(embedding_NE, before)
    by_itself = tune_adapters(base, spec, start, own, config)
    still = RefineConfig(steps=1, learning_rate=1e-12, warmup=0)  # of the adapter itself
    by_embedding = tune_with_hypernetwork(base, network, embedding_NE, start, own, still, embedding_rate=0.02)
    for key, b_NLOR in both.b.items():
        assert not torch.allclose(by_itself.b[key], start.b[key], atol=1e-4)
        assert not torch.allclose(by_embedding.b[key], start.b[key], atol=1e-4)
        torch.testing.assert_close(b_NLOR, by_itself.b[key] + by_embedding.b[key] - start.b[key], atol=1e-5, rtol=1e-4)
    alone = tune_with_hypernetwork(
        base, network, embedding_NE[1:], start.select(1), own[1:], config, embedding_rate=0.02
    )
    torch.testing.assert_close(alone.a["q_proj"][0], both.a["q_proj"][1], atol=1e-4, rtol=1e-3)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_with_a_hypernetwork_any_adapter_is_the_start(base: Any, spec: LoraSpec) -> None:
    network: Any = fill(HyperNetwork(spec, 6, trunk_dim=8, head_dim=8, head_init="linear"), std=0.4).eval()
    other = random_weights(spec, 1, seed=4)
    first: list[Any] = []
    tune_with_hypernetwork(
        base,
        network,
        torch.ones(1, 6),
        other,
        [samples()],
        RefineConfig(steps=1),
        watch=lambda step, weights: first.append(weights.map(torch.clone)),
    )
    for key in other.a:
        torch.testing.assert_close(first[0].a[key], other.a[key])
        torch.testing.assert_close(first[0].b[key], other.b[key])
        assert not torch.equal(first[1].b[key], first[0].b[key])
    with pytest.raises(T2LError, match="2 embeddings for 1"):
        tune_with_hypernetwork(base, network, torch.ones(2, 6), other, [samples()], RefineConfig(steps=1))
    with pytest.raises(T2LError, match="above 0"):
        tune_with_hypernetwork(
            base, network, torch.ones(1, 6), other, [samples()], RefineConfig(steps=1), embedding_rate=float("nan")
        )


def test_settings_that_make_no_sense_are_refused(base: Any, spec: LoraSpec) -> None:
    for wrong in ({"steps": 0}, {"batch": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}):
        with pytest.raises(T2LError):
            RefineConfig(**wrong)
    with pytest.raises(T2LError, match="samples"):
        tune_adapters(base, spec, random_weights(spec, 2), [samples()], RefineConfig(steps=1))
    with pytest.raises(T2LError, match="samples"):
        tune_adapters(base, spec, random_weights(spec, 1), [[]], RefineConfig(steps=1))


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "pairs"),
    [
        ("a.jsonl", '{"input": "b a", "output": "a b"}\n\n{"input": "x", "output": ""}\n', [("b a", "a b"), ("x", "")]),
        ("a.csv", 'input,output\n"b, a",a b\n', [("b, a", "a b")]),
        ("a.csv", "\ufeffinput;output;note\nb a;a, b;x\n", [("b a", "a, b")]),
        (
            "a.json",
            '\ufeff[\n  {"input": "1 + 2", "output": 3},\n  {"input": 7, "output": 0.5}]',
            [("1 + 2", "3"), ("7", "0.5")],
        ),
    ],
)
def test_examples_are_read(name: str, text: str, pairs: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = read_examples(tmp_path / name)
    assert found == pairs


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.jsonl", "", "no record"),
        ("a.jsonl", "{", "Line 1"),
        ("a.jsonl", "[1]", "not a JSON object"),
        ("a.jsonl", '{"input": "a", "outputs": "b"}', "Did you mean 'output'"),
        ("a.jsonl", '{"input": " "}', "has no input"),
        ("a.jsonl", '{"input": "a", "output": [3]}', "not text"),
        ("a.jsonl", '{"input": "a", "output": NaN}', "not text"),
        ("a.txt", "b a\na b\n", "plain text, not records"),
        ("a.jsonl", '{"input": "a", "output": "b"}\n{"input": "c"}', "has no output"),
        ("a.csv", "question,answer\na,b\n", "no column 'input'"),
        ("a.csv", "input,output\na\n", "Row 2"),
    ],
)
def test_examples_that_cannot_be_used_are_named(name: str, text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(T2LError, match=problem):
        read_examples(tmp_path / name)


def test_a_missing_or_binary_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("no.csv", "b.csv"):
        with pytest.raises(T2LError, match="cannot be read"):
            read_examples(tmp_path / name)
