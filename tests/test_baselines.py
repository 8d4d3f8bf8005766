"""The baselines against plain computations: numpy's mean, a planted nearest task, a planted route, a prompt alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import random_weights, tiny_base, tiny_config, tokens
from t2l.baselines import arrow as arrow_module
from t2l.baselines.arrow import arrow_model
from t2l.baselines.hyperdecoder import input_states
from t2l.baselines.static import StaticLora, average_of, nearest_tasks
from t2l.batched import apply_batched
from t2l.errors import BaseModelError, DescriptionError, T2LError
from t2l.hypernet import HyperNetwork
from t2l.library import Library
from t2l.lora import LoraSpec, LoraWeights
from t2l.recipes.sections import LossSection
from t2l.training.batches import Batch
from t2l.training.conditions import Standardization
from t2l.training.sft import answer_loss, learn_step
from t2l.training.sft_run import SftJob

NAMES = ["first", "second", "third"]
PLAIN = LossSection(label_smoothing=0.0, weight_penalty=0.0)


@pytest.fixture(scope="module")
def base() -> Any:
    return tiny_base()


@pytest.fixture(scope="module")
def spec() -> LoraSpec:
    return LoraSpec.from_base(tiny_config(), rank=2)


def library_of(folder: Path, spec: LoraSpec, weights: LoraWeights) -> Library:
    library = Library.create(folder, spec)
    library.add({name: (weights.select(i), {}) for i, name in enumerate(NAMES)})
    return library


@pytest.fixture
def library(spec: LoraSpec, tmp_path: Path) -> Library:
    return library_of(tmp_path / "library", spec, random_weights(spec, 3, seed=7))


def batch(lengths: list[int], index: list[int], seed: int = 0) -> Batch:
    """Samples of 8 tokens; each prompt has its own length, then three tokens of answer, then padding."""
    ids_ST = tokens(len(lengths), 8, seed=seed)
    labels_ST = torch.full_like(ids_ST, -100)
    for row, length in enumerate(lengths):
        labels_ST[row, length : length + 3] = ids_ST[row, length : length + 3]
    return Batch(ids_ST, labels_ST, torch.tensor(index))


# Static


def test_a_static_lora_ignores_its_condition_and_learns_from_all_samples(base: Any, spec: LoraSpec) -> None:
    source = StaticLora(spec, seed=3)
    one, other = source(torch.zeros(2, 5)), source(torch.randn(2, 9, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(one.a["q_proj"], other.a["q_proj"]) and one.num_samples == 2
    samples = batch([3, 4, 2, 5], [0, 1, 0, 1])
    loss = learn_step(base, source, torch.zeros(2, 1), [samples], PLAIN)
    twin = StaticLora(spec, seed=3)
    with apply_batched(base, spec, twin.weights(), [0, 0, 0, 0]):
        plain = answer_loss(base, samples.ids_ST, samples.labels_ST)
        plain.backward()
    torch.testing.assert_close(loss, plain)
    assert len(list(source.parameters())) == 4
    for parameter, same in zip(source.parameters(), twin.parameters(), strict=True):
        assert parameter.grad is not None and same.grad is not None
        torch.testing.assert_close(parameter.grad, same.grad)


def test_the_average_is_numpys(library: Library) -> None:
    average, weights = average_of(library), library.weights(NAMES)
    for given, all_N in ((average.weights.a, weights.a), (average.weights.b, weights.b)):
        for key, tensor in all_N.items():
            np.testing.assert_allclose(given[key][0].numpy(), tensor.numpy().mean(axis=0), atol=1e-7)
    two = average_of(library, ["first", "third"]).weights.b["v_proj"][0]
    np.testing.assert_allclose(two.numpy(), weights.b["v_proj"].numpy()[[0, 2]].mean(axis=0), atol=1e-7)
    assert average.spec == library.spec


def test_an_empty_library_has_no_average(spec: LoraSpec, tmp_path: Path) -> None:
    with pytest.raises(T2LError, match="no average"):
        average_of(Library.create(tmp_path / "empty", spec))


# Nearest task


def test_the_nearest_task_is_the_planted_one() -> None:
    generator = torch.Generator().manual_seed(0)
    embedding_ME = torch.randn(6, 16, generator=generator)
    names = ["first", "first", "second", "second", "third", "third"]
    sizes_N1 = torch.tensor([[0.01], [1.0], [50.0]])
    condition_NE = sizes_N1 * (embedding_ME[[5, 2, 1]] + 0.1 * torch.randn(3, 16, generator=generator))
    assert nearest_tasks(names, embedding_ME, condition_NE) == ["third", "second", "first"]
    by_hand = torch.stack([torch.cosine_similarity(row[None], embedding_ME) for row in condition_NE]).argmax(1)
    assert nearest_tasks(names, embedding_ME, condition_NE) == [names[index] for index in by_hand.tolist()]
    with pytest.raises(DescriptionError, match="16 wide"):
        nearest_tasks(names, embedding_ME, torch.zeros(1, 8))
    with pytest.raises(T2LError, match="one name for each row"):
        nearest_tasks(names[:1], embedding_ME, condition_NE)


# Hyperdecoder


def test_the_condition_is_the_state_of_the_prompt_alone(base: Any) -> None:
    samples = batch([3, 5, 1], [0, 0, 0])
    state_SW = input_states(base, samples.ids_ST, samples.labels_ST)
    for row, length in enumerate((3, 5, 1)):
        alone = base.base_model(input_ids=samples.ids_ST[row : row + 1, :length]).last_hidden_state[0, -1]
        torch.testing.assert_close(state_SW[row], alone)
    with pytest.raises(T2LError, match="needs a prompt"):
        input_states(base, torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long))
    with pytest.raises(T2LError, match="needs a prompt"):
        input_states(base, samples.ids_ST, torch.full_like(samples.ids_ST, -100))


def test_each_sample_is_answered_under_its_own_inputs_adapter(base: Any, spec: LoraSpec) -> None:
    source = HyperNetwork(spec, 24, "L", trunk_dim=16, head_dim=24, dropout=0.0, head_init="linear").eval()
    batches = [batch([3, 5], [0, 0]), batch([2, 4, 1], [0, 0, 0], seed=1)]
    standardize = Standardization(torch.full((24,), 0.3), torch.full((24,), 2.0))
    losses = []
    for samples in batches:
        for row in range(len(samples.ids_ST)):
            one = Batch(samples.ids_ST[row : row + 1], samples.labels_ST[row : row + 1], torch.tensor([0]))
            weights = source(standardize(input_states(base, one.ids_ST, one.labels_ST)))
            with apply_batched(base, spec, weights):
                losses.append(answer_loss(base, one.ids_ST, one.labels_ST))
    job: Any = SimpleNamespace(base=base, device=torch.device("cpu"))
    job.read = lambda model, ids_ST, labels_ST: standardize(input_states(model, ids_ST, labels_ST))
    own, condition_SE = SftJob._read(job, batches)
    loss = learn_step(base, source, condition_SE, own, PLAIN)
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    assert all(parameter.grad is not None for parameter in source.trunk.parameters())


# Arrow


def planted(spec: LoraSpec) -> LoraWeights:
    """Adapter i reads input direction i alone, in every module; what it writes is its own."""
    weights = random_weights(spec, 3, seed=2, std=0.3)
    for a_NLRI in weights.a.values():
        a_NLRI.zero_()
        for i in range(3):
            a_NLRI[i, :, 0, i] = 1.0
    return weights


def test_a_token_takes_the_planted_route(base: Any, spec: LoraSpec, tmp_path: Path) -> None:
    weights = planted(spec)
    model = arrow_model(base, library_of(tmp_path / "library", spec, weights), top_k=1)
    module, plain = model.model.layers[1].self_attn.q_proj, base.model.layers[1].self_attn.q_proj
    x_STI = torch.zeros(1, 3, 24)
    for place, direction in enumerate((2, 0, 1)):  # a token a direction, its sign and strength no matter
        x_STI[0, place, direction] = (-1) ** place * 1.5
        x_STI[0, place, 10] = 9.0  # nothing reads it
    change_TO = (module(x_STI) - plain(x_STI))[0]
    for place, adapter in enumerate((2, 0, 1)):
        a_RI, b_OR = weights.a["q_proj"][adapter, 1], weights.b["q_proj"][adapter, 1]
        torch.testing.assert_close(change_TO[place], spec.scaling * b_OR @ (a_RI @ x_STI[0, place]))
    assert spec.use_rslora and spec.scaling == pytest.approx(16 / 2**0.5)


def test_routing_is_the_papers_formula(base: Any, spec: LoraSpec, tmp_path: Path) -> None:
    """Against singular vectors of B A, and a softmax over the two largest scores, written out."""
    weights = random_weights(spec, 3, seed=5)
    for a_NLRI in weights.a.values():
        a_NLRI[:, :, 0] *= 6  # one direction far ahead, so that fifteen power iterations find it
    model = arrow_model(base, library_of(tmp_path / "library", spec, weights), top_k=2, temperature=0.5)
    seen: dict[str, Tensor] = {}
    for path in ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"):
        module = model.get_submodule(path)
        module.register_forward_hook(lambda m, args, y, path=path: seen.update({f"{path}.x": args[0], path: y}))
    model(input_ids=tokens(2, 4))
    for key in ("q_proj", "v_proj"):
        path = f"model.layers.0.self_attn.{key}"
        x_TI = seen[f"{path}.x"].flatten(0, 1)
        a_MRI, b_MOR = weights.a[key][:, 0], weights.b[key][:, 0]
        delta_MOI = b_MOR @ a_MRI
        prototype_MI = torch.linalg.svd(delta_MOI).Vh[:, 0]
        score_TM = (x_TI @ prototype_MI.T).abs()
        least_T = score_TM.sort(dim=1).values[:, -2]
        share_TM = (score_TM / 0.5).masked_fill(score_TM < least_T[:, None], -torch.inf).softmax(dim=1)
        change_TO = spec.scaling * torch.einsum("tm,moi,ti->to", share_TM, delta_MOI, x_TI)
        plain_TO = base.get_submodule(path)(x_TI)
        torch.testing.assert_close(seen[path].flatten(0, 1), plain_TO + change_TO, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT with transformers
@pytest.mark.parametrize(("top_k", "gathered"), [(1, 1 << 22), (2, 1), (3, 100)])
def test_the_routed_base_is_pefts(
    base: Any, spec: LoraSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, top_k: int, gathered: int
) -> None:
    """Adapters with no direction far ahead: the power iteration stops half way, where PEFT's stops."""
    peft = pytest.importorskip("peft", minversion="0.18")
    monkeypatch.setattr(arrow_module, "_GATHERED", gathered)
    library = library_of(tmp_path / "library", spec, random_weights(spec, 3, seed=9, std=0.4))
    paths = [str(library.adapter(name).save(tmp_path / name, form="rslora")) for name in NAMES]
    config = peft.ArrowConfig(top_k=top_k, router_temperature=0.7, rng_seed=5)
    theirs = peft.create_arrow_model(tiny_base(), paths, config).eval()
    ours = arrow_model(base, library, top_k=top_k, temperature=0.7, seed=5)
    with torch.no_grad():
        ids_ST = tokens(4, 9, seed=2)
        changed = (ours(input_ids=ids_ST).logits - base(input_ids=ids_ST).logits).abs().max()
        torch.testing.assert_close(ours(input_ids=ids_ST).logits, theirs(input_ids=ids_ST).logits, rtol=1e-4, atol=1e-4)
    assert changed > 0.05


def test_the_base_is_left_as_it_is_and_its_weights_are_shared(base: Any, library: Library) -> None:
    before = base(input_ids=tokens(2, 4)).logits
    model = arrow_model(base, library, ["second"])  # one adapter: its own, for every token
    assert torch.equal(base(input_ids=tokens(2, 4)).logits, before)
    assert not any("lora" in name for name, _ in base.named_modules()) and not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    shared = {parameter.data_ptr() for parameter in model.parameters()}
    assert all(parameter.data_ptr() in shared for parameter in base.parameters())
    with apply_batched(base, library.spec, library.weights(["second"]), [0, 0]):
        wanted = base(input_ids=tokens(2, 4)).logits
    torch.testing.assert_close(model(input_ids=tokens(2, 4)).logits, wanted)


def test_what_cannot_be_routed_is_refused(base: Any, spec: LoraSpec, library: Library, tmp_path: Path) -> None:
    with pytest.raises(T2LError, match="there is none"):
        arrow_model(base, Library.create(tmp_path / "empty", spec))
    with pytest.raises(T2LError, match="top_k=0"):
        arrow_model(base, library, top_k=0)
    with pytest.raises(BaseModelError, match="does not fit"):
        arrow_model(tiny_base(hidden_size=32), library)
