"""Costs by formula: within 2% of torch's own counter, and the paper's comparison to its last digit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from helpers import counted, tiny_base, tokens
from t2l.batched import apply_batched
from t2l.errors import T2LError
from t2l.evaluation.flops import (
    ENCODERS,
    Setting,
    TransformerShape,
    answer_flops,
    compare,
    fine_tuning_flops,
    forward_flops,
    generation_flops,
    hypernetwork_flops,
    paper_setting,
)
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.model import TextToLora


@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi3"])
def test_reading_and_writing_cost_what_torch_counts(kind: str) -> None:
    model = tiny_base(kind)
    shape, ids = TransformerShape.of(model), tokens(1, 40)
    assert shape == TransformerShape.of_config(model.config)
    assert counted(lambda: model(ids)) == pytest.approx(forward_flops(shape, 40, logits=40), rel=0.02)

    def write() -> None:
        out = model(ids, use_cache=True, logits_to_keep=1)
        for step in range(5):
            out = model(ids[:, step : step + 1], past_key_values=out.past_key_values, use_cache=True)

    assert counted(write) == pytest.approx(answer_flops(shape, 40, 6), rel=0.02)


@pytest.mark.parametrize("variant", ["L", "M", "S", "R", "S learned"])
def test_a_hypernetwork_costs_what_torch_counts(variant: Any) -> None:
    spec = LoraSpec.from_base(tiny_base(num_hidden_layers=3).config)
    learned = variant.endswith("learned")
    net = (
        HyperNetwork(spec, 64, variant[0], trunk_dim=16, head_dim=24, learned_rank_positions=learned)
        .eval()
        .requires_grad_(False)
    )
    assert counted(lambda: net(torch.ones(1, 64))) == pytest.approx(hypernetwork_flops(net), rel=0.02)


@pytest.mark.parametrize("kind", ["discrete", "vq", "softmax"])
def test_every_task_encoder_is_counted(kind: Any) -> None:
    spec = LoraSpec.from_base(tiny_base().config, rank=1)
    net = HyperNetwork(spec, 640, "L", trunk_dim=16, head_dim=8, task_encoder=kind).eval().requires_grad_(False)
    assert counted(lambda: net(torch.ones(1, 640))) == pytest.approx(hypernetwork_flops(net), rel=0.02)


def test_making_an_adapter_of_the_embedded_world_costs_what_torch_counts() -> None:
    t2l = TextToLora.from_pretrained()
    text = "Give the last word of the line in capital letters and leave all the others away."
    words = len(t2l.encoder._tokens(text))  # pyright: ignore[reportAttributeAccessIssue]
    formula = generation_flops(t2l.hypernetwork, ENCODERS["minilm"], words)
    assert counted(lambda: t2l.hypernetwork(t2l.encoder.encode([text]))) == pytest.approx(formula, rel=0.02)
    read = counted(lambda: t2l.encoder.encode([text]))
    assert read == pytest.approx(forward_flops(ENCODERS["minilm"], words, logits=0), rel=0.02)


def test_fine_tuning_costs_what_torch_counts() -> None:
    """Deep and narrow: the first layer's products need no gradient of their input, which the formula leaves out."""
    model = tiny_base(num_hidden_layers=16, intermediate_size=96)
    spec = LoraSpec.from_base(model.config, rank=2)
    from torch.utils.flop_counter import FlopCounterMode

    from helpers import random_weights

    weights = random_weights(spec).map(lambda tensor: tensor.requires_grad_())
    ids = tokens(1, 48)
    with FlopCounterMode(display=False) as counter, apply_batched(model, spec, weights, [0]):
        model(ids, labels=ids).loss.backward()
    formula = fine_tuning_flops(TransformerShape.of(model), spec, steps=1, batch=1, tokens=48)
    assert counter.get_total_flops() == pytest.approx(formula, rel=0.02)


def test_the_papers_setting_comes_out_as_the_paper_says() -> None:
    """Its assumptions are in `paper_flops`: reading alone, no grouped queries, an MLP of 4 H, one module's price."""
    found = {name: value / 1e12 for name, value in paper_setting().items()}
    assert round(found["encoder"], 3) == 0.029
    assert round(found["question"], 3) == 0.827
    assert round(found["t2l"], 3) == 0.856
    assert round(found["in_context"], 3) == 4.177
    assert found["in_context"] / found["t2l"] == pytest.approx(4.88, abs=0.01)


def test_a_cached_prefix_takes_the_saving_of_many_questions_away() -> None:
    from transformers import MistralConfig

    config = MistralConfig()
    with torch.device("meta"):
        net = HyperNetwork(LoraSpec.from_base(config), 1024, "L")
    shape, setting = TransformerShape.of_config(config), Setting(answer=16)
    ours, shown, cached, tuned = compare(shape, net, ENCODERS["gte-large-en-v1.5"], setting)
    assert 3.5 < shown.total(1) / ours.total(1) < 5
    assert cached.total(1) > 3.5 * ours.total(1), "the first question pays for the prefix"
    assert 0.95 < cached.total(10_000) / ours.total(10_000) < 1.1, "the ten thousandth does not"
    assert tuned.first > 1000 * ours.first
    assert cached.memory == 256 * 32 * 2 * 8 * 128 * 2, "32 MiB of keys and values in half precision"
    assert ours.memory == 2 * 3_407_872
    slow = compare(shape, net, ENCODERS["minilm"], replace(setting, bandwidth=1.0))
    assert slow[0].each_s == pytest.approx(16 * (2 * shape.parameters + ours.memory) / 1e9, rel=0.05), (
        "weights, 16 times"
    )
    with pytest.raises(T2LError, match="tflops is 0"):
        replace(setting, tflops=0)
