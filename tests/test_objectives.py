"""Distillation and contrast, each against a computation written out."""

from __future__ import annotations

import math

import pytest
import torch

from t2l.errors import T2LError
from t2l.lora import LoraSpec, LoraWeights
from t2l.training.objectives import contrastive_loss, distillation_loss
from t2l.training.sft import IGNORED, Batch
from t2l.world.base import base_config, decode_run, encode_runs


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    config = base_config()
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = 2, 32, 32
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def weights_of(spec: LoraSpec, scale: float) -> LoraWeights:
    generator = torch.Generator().manual_seed(3)
    shapes = {g.key: (len(g.layers), spec.rank, g.in_features, g.out_features) for g in spec.groups}
    a = {k: scale * torch.randn(2, n, r, i, generator=generator) for k, (n, r, i, _) in shapes.items()}
    b = {k: scale * torch.randn(2, n, o, r, generator=generator) for k, (n, r, _, o) in shapes.items()}
    return LoraWeights(a, b)


def batch_of(runs: list[list[tuple[str, str]]]) -> Batch:
    ids_ST, labels_ST = encode_runs(runs)
    for row, run in enumerate(runs):
        labelled = (labels_ST[row] != IGNORED).nonzero()[: -(len(run[-1][1]) + 1)]
        labels_ST[row, labelled] = IGNORED
    return Batch(ids_ST, labels_ST, torch.tensor([0, 1]))


def test_distillation_is_the_divergence_from_the_prompted_base(model: torch.nn.Module) -> None:
    spec = LoraSpec.from_base(model.config)
    student = batch_of([[("ab", "xy")], [("cd", "z")]])
    teacher = batch_of([[("ef", "q"), ("ab", "xy")], [("gh", "rs"), ("cd", "z")]])
    weights = weights_of(spec, 0.0)  # an adapter that changes nothing: student and teacher differ by the prompt alone
    expected = 0.0
    for row in range(2):
        terms = []
        for batch in (student, teacher):
            log_TV = model(input_ids=batch.ids_ST[row : row + 1]).logits[0, :-1].log_softmax(-1)
            terms.append(log_TV[batch.labels_ST[row, 1:] != IGNORED])
        student_KV, teacher_KV = terms
        expected += (teacher_KV.exp() * (teacher_KV - student_KV)).sum(-1).mean().item() / 2
    got = distillation_loss(model, spec, weights, [student], [teacher]).item()
    assert got == pytest.approx(expected, rel=1e-4) and got > 0
    same = distillation_loss(model, spec, weights, [student], [student]).item()
    assert same == pytest.approx(0, abs=1e-6)


def test_distillation_refuses_a_teacher_of_other_answers(model: torch.nn.Module) -> None:
    spec = LoraSpec.from_base(model.config)
    student = batch_of([[("ab", "xy")], [("cd", "z")]])
    teacher = batch_of([[("ab", "xz")], [("cd", "z")]])
    with pytest.raises(T2LError, match="same answers"):
        distillation_loss(model, spec, weights_of(spec, 0.1), [student], [teacher])


def test_contrast_is_the_log_share_of_the_other_view() -> None:
    features_CK = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0], [0.0, -2.0]])
    unit = [(1.0, 0.0), (0.6, 0.8), (-1.0, 0.0), (0.0, -1.0)]
    expected = 0.0
    for row, partner in ((0, 1), (1, 0), (2, 3), (3, 2)):
        cosine = [sum(x * y for x, y in zip(unit[row], other, strict=True)) for other in unit]
        total = sum(math.exp(cosine[other] / 0.5) for other in range(4) if other != row)
        expected -= (cosine[partner] / 0.5 - math.log(total)) / 4
    assert contrastive_loss(features_CK, 2, temperature=0.5).item() == pytest.approx(expected, rel=1e-5)


def test_a_run_of_one_example_reads_back() -> None:
    ids_NT, _ = encode_runs([[("a b", "c>d")], [("longer input", "x")]])
    assert decode_run(ids_NT[0]) == ("a b", "c>d") and decode_run(ids_NT[1]) == ("longer input", "x")
