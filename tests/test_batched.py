"""Per-sample LoRA: the same numbers as merged weights and as one by one, the same gradients as the plain definition."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import enable_checkpointing, fill, random_weights, tiny_base, tiny_config, tokens
from t2l.batched import add_low_rank, apply_batched
from t2l.errors import BaseModelError, T2LError
from t2l.lora import LoraSpec, LoraWeights, ModuleGroup

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT with transformers

BASES = [
    ("llama", None),
    ("llama", "all-linear"),
    ("gpt2", None),
    ("gpt2", "all-linear"),
    ("phi3", None),
    ("phi3", "all-linear"),
]
CHECKPOINTING = ["none", "non-reentrant", "reentrant"]


def spec_of(model: Any, targets: str | None = None, rank: int = 3) -> LoraSpec:
    return LoraSpec.from_base(model.config, target_modules=targets, rank=rank, alpha=6.0)


def merged(kind: str, spec: LoraSpec, weights: LoraWeights, sample: int) -> Any:
    """The base with one adapter added into its weights."""
    model = tiny_base(kind)
    for group in spec.groups:
        for depth, path in enumerate(group.module_paths()):
            module = model.get_submodule(path)
            delta_OI = spec.scaling * weights.b[group.key][sample, depth] @ weights.a[group.key][sample, depth]
            module.weight.data += delta_OI.mT if type(module).__name__ == "Conv1D" else delta_OI
    return model


def grads_of(weights: LoraWeights, loss: Tensor) -> list[Tensor]:
    loss.backward()
    factors = [*weights.a.values(), *weights.b.values()]
    grads = []
    for factor in factors:
        assert factor.grad is not None
        grads.append(factor.grad)
    return grads


def as_leaves(weights: LoraWeights) -> LoraWeights:
    return weights.map(lambda tensor: tensor.detach().clone().requires_grad_())


def repeated_per_token(site: nn.Module, a_SRI: Tensor, b_SOR: Tensor, scaling: float) -> Callable[..., Tensor]:
    """The plain definition, in the most wasteful way: every token has an A and a B of its own."""
    original = site.forward

    def forward(x_STI: Tensor) -> Tensor:
        samples, length, _ = x_STI.shape
        a = a_SRI.repeat_interleave(length, 0)
        b = b_SOR.repeat_interleave(length, 0)
        x = x_STI.reshape(samples * length, -1, 1)
        return original(x_STI) + scaling * (b @ (a @ x)).view(samples, length, -1)

    return forward


@pytest.mark.parametrize(("kind", "targets"), BASES)
def test_each_sample_gets_what_merged_weights_would_give(kind: str, targets: str | None) -> None:
    base = tiny_base(kind)
    spec = spec_of(base, targets)
    weights = random_weights(spec, 3)
    ids = tokens(3, 7)
    plain = base(ids).logits
    with torch.no_grad(), apply_batched(base, spec, weights):
        batched = base(ids).logits
    for sample in range(3):
        expected = merged(kind, spec, weights, sample)(ids[sample : sample + 1]).logits[0]
        torch.testing.assert_close(batched[sample], expected, rtol=1e-4, atol=1e-4)
        assert (batched[sample] - plain[sample]).abs().max() > 1e-2


def test_batch_equals_one_by_one() -> None:
    base = tiny_base()
    spec = spec_of(base, "all-linear")
    weights = random_weights(spec, 4)
    ids = tokens(4, 6)
    with torch.no_grad(), apply_batched(base, spec, weights):
        batched = base(ids).logits
    for sample in range(4):
        with torch.no_grad(), apply_batched(base, spec, weights.select(sample)):
            alone = base(ids[sample : sample + 1]).logits
        torch.testing.assert_close(batched[sample : sample + 1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("use_rslora", [True, False])
def test_equals_peft(use_rslora: bool) -> None:
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    base = tiny_base()
    spec = LoraSpec.from_base(tiny_config(), rank=3, alpha=6.0, use_rslora=use_rslora)
    weights = random_weights(spec, 2)
    ids = tokens(2, 6)
    with torch.no_grad(), apply_batched(base, spec, weights):
        batched = base(ids).logits
    for sample in range(2):
        config = LoraConfig(r=3, lora_alpha=6, use_rslora=use_rslora, target_modules=["q_proj", "v_proj"])
        wrapped = get_peft_model(tiny_base(), config).eval()
        state = {}
        for group in spec.groups:
            for depth, path in enumerate(group.module_paths()):
                state[f"base_model.model.{path}.lora_A.weight"] = weights.a[group.key][sample, depth]
                state[f"base_model.model.{path}.lora_B.weight"] = weights.b[group.key][sample, depth]
        assert not set_peft_model_state_dict(wrapped, state).unexpected_keys
        expected = wrapped(input_ids=ids[sample : sample + 1]).logits[0]
        torch.testing.assert_close(batched[sample], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "index",
    [[0, 0, 1, 1, 2, 2], [2, 2, 2, 0, 0, 0], [0, 1, 0, 2, 2, 1], [1] * 6, [0, 0, -1, -1, 2, 2], [-1, 2, 0, -1, 1, 1]],
)
def test_index_picks_the_adapter_of_each_sample_and_its_gradient(index: list[int]) -> None:
    base = tiny_base()
    spec = spec_of(base)
    ids = tokens(6, 5)
    weights = as_leaves(random_weights(spec, 3))
    with apply_batched(base, spec, weights, torch.tensor(index)):
        logits = base(ids).logits
        got = grads_of(weights, logits.square().mean())
    plain = base(ids).logits
    for sample, adapter in enumerate(index):
        if adapter == -1:
            assert torch.equal(logits[sample], plain[sample])
            continue
        with torch.no_grad(), apply_batched(base, spec, weights.select(adapter)):
            alone = base(ids[sample : sample + 1]).logits[0]
        torch.testing.assert_close(logits[sample], alone, rtol=1e-5, atol=1e-5)

    one_by_one = as_leaves(weights)
    total = plain.new_zeros(())
    for sample, adapter in enumerate(index):
        own = one_by_one.select(max(adapter, 0))
        with apply_batched(base, spec, own, [-1 if adapter == -1 else 0]):
            total = total + base(ids[sample : sample + 1]).logits.square().sum()
    for mine, theirs in zip(got, grads_of(one_by_one, total / logits.numel()), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    for adapter in set(range(3)) - set(index):
        assert all(not grad[adapter].any() for grad in got)


def test_only_irregular_batches_copy_factors() -> None:
    base = nn.Sequential(nn.Linear(4, 4))
    spec = LoraSpec((ModuleGroup("0", "{layer}", (0,), 4, 4),), num_layers=1, rank=2)
    weights = random_weights(spec, 3)
    for index, runs, gathered in (
        (None, 3, False),
        ([0, 0, 1, 1, 2, 2], 3, False),
        ([1, 1, 1, 1], 1, True),
        ([0, 0, 0, 0, 1, 1], 3, True),
        ([0, 1, 0], 3, True),
    ):
        samples = apply_batched(base, spec, weights, index).samples
        assert len(samples.runs) == runs
        assert (samples.rows is not None) == gathered


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi3"])
def test_gradients_equal_autograd_through_factors_repeated_per_token(kind: str, checkpointing: str) -> None:
    ids = tokens(4, 5)
    base = tiny_base(kind)
    spec = spec_of(base, "all-linear")
    index = [0, 0, 1, 1]
    reference = as_leaves(random_weights(spec, 2))
    for group in spec.groups:
        for depth, path in enumerate(group.module_paths()):
            site = base.get_submodule(path)
            factors = (reference.a[group.key][index, depth], reference.b[group.key][index, depth])
            site.forward = repeated_per_token(site, *factors, spec.scaling)
    expected_loss = base(ids, labels=ids).loss
    expected = grads_of(reference, expected_loss)

    base = tiny_base(kind)
    if checkpointing != "none":
        enable_checkpointing(base, reentrant=checkpointing == "reentrant")
    weights = as_leaves(random_weights(spec, 2))
    with apply_batched(base, spec, weights, index):
        loss = base(ids, labels=ids, use_cache=False).loss
        got = grads_of(weights, loss)
    torch.testing.assert_close(loss, expected_loss)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_is_exact_through_a_generator_of_weights(reentrant: bool, dropout: float) -> None:
    """The weights are outputs of a network, as in training: its graph is walked once, after all layers."""
    ids = tokens(4, 5)
    spec = spec_of(tiny_base(), "all-linear")
    fixed = random_weights(spec, 4)

    def run(enable: bool) -> tuple[Tensor, Tensor]:
        base = tiny_base().train()
        if enable:
            enable_checkpointing(base, reentrant=reentrant)
        scale = torch.linspace(0.5, 1.5, 4).requires_grad_()
        weights = fixed.map(lambda tensor: torch.tanh(tensor * scale.exp().view(-1, 1, 1, 1)))
        with torch.random.fork_rng(), apply_batched(base, spec, weights, dropout=dropout):
            torch.manual_seed(5)  # dropout has no generator argument
            loss = base(ids, labels=ids, use_cache=False).loss
            loss.backward()
        assert scale.grad is not None
        return loss.detach(), scale.grad

    loss, grad = run(False)
    checkpointed_loss, checkpointed_grad = run(True)
    assert torch.equal(loss, checkpointed_loss)
    torch.testing.assert_close(grad, checkpointed_grad, rtol=1e-6, atol=1e-8)
    assert grad.abs().min() > 0


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_refuses_a_context_left_before_backward(reentrant: bool) -> None:
    base = tiny_base()
    enable_checkpointing(base, reentrant=reentrant)
    spec = spec_of(base)
    with apply_batched(base, spec, as_leaves(random_weights(spec, 2))):
        loss = base(tokens(2, 5), labels=tokens(2, 5), use_cache=False).loss
    with pytest.raises(T2LError, match="backward"):
        loss.backward()


def test_gradients_reach_the_inputs() -> None:
    base = tiny_base()
    spec = spec_of(base)
    embedded = base.get_input_embeddings()(tokens(2, 4)).requires_grad_()
    with apply_batched(base, spec, random_weights(spec, 2)):
        base(inputs_embeds=embedded).logits.square().sum().backward()
    adapted = embedded.grad.clone()
    embedded.grad = None
    base(inputs_embeds=embedded).logits.square().sum().backward()
    assert (adapted - embedded.grad).abs().max() > 1e-3


def test_several_backwards_in_one_context_add_up() -> None:
    base = tiny_base()
    spec = spec_of(base)
    ids = tokens(2, 4)
    once, twice = as_leaves(random_weights(spec, 2)), as_leaves(random_weights(spec, 2))
    with apply_batched(base, spec, once):
        base(ids).logits.square().mean().backward()
    with apply_batched(base, spec, twice):
        base(ids).logits.square().mean().backward()
        base(ids).logits.square().mean().backward()
    for key in once.a:
        torch.testing.assert_close(2 * once.a[key].grad, twice.a[key].grad)  # pyright: ignore


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_generate_with_and_without_cache(kind: str) -> None:
    base = tiny_base(kind)
    spec = spec_of(base)
    weights = random_weights(spec, 3, std=0.5)
    ids = tokens(3, 4)
    mask = torch.ones_like(ids)
    settings = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": None}
    generate = partial(base.generate, ids, attention_mask=mask, **settings)
    plain = generate()
    with apply_batched(base, spec, weights):
        cached = generate()
        uncached = generate(use_cache=False)
    assert torch.equal(cached, uncached)
    assert not torch.equal(cached, plain)
    for sample in range(3):
        one = merged(kind, spec, weights, sample)
        alone = one.generate(ids[sample : sample + 1], attention_mask=mask[:1], **settings)
        assert torch.equal(cached[sample], alone[0])


@pytest.mark.parametrize("adapter_dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_base(adapter_dtype: torch.dtype) -> None:
    base = tiny_base(dtype=torch.bfloat16)
    spec = spec_of(base)
    weights = as_leaves(random_weights(spec, 2).to(adapter_dtype))
    ids = tokens(2, 5)
    with apply_batched(base, spec, weights):
        logits = base(ids).logits
        got = grads_of(weights, logits.float().square().mean())
    assert logits.dtype == torch.bfloat16
    assert all(grad.dtype == adapter_dtype and bool(grad.any()) for grad in got)
    exact = merged("llama", spec, weights.detach().to(torch.float32), 0)(ids[:1]).logits[0]
    assert (logits[0].float() - exact).norm() < 0.05 * exact.norm()


def test_autocast() -> None:
    base = tiny_base()
    spec = spec_of(base, "all-linear")
    weights = as_leaves(random_weights(spec, 2))
    ids = tokens(2, 5)
    with apply_batched(base, spec, weights):
        exact = base(ids).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss_logits = base(ids).logits
        got = grads_of(weights, loss_logits.float().square().mean())
    assert loss_logits.dtype == torch.bfloat16
    assert (loss_logits.float() - exact).norm() < 0.05 * exact.norm()
    assert all(grad.dtype == torch.float32 and bool(grad.any()) for grad in got)


def test_layers_of_different_shapes() -> None:
    base = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 5))
    fill(base)
    spec = LoraSpec(
        (
            ModuleGroup("up", "{layer}", (0,), 6, 8),
            ModuleGroup("middle", "{layer}", (1,), 8, 8),
            ModuleGroup("down", "{layer}", (2,), 8, 5),
        ),
        num_layers=3,
        rank=2,
        alpha=3.0,
    )
    weights = random_weights(spec, 2)
    x = torch.linspace(-1, 1, 4 * 6).view(4, 6)  # no token axis at all
    with apply_batched(base, spec, weights, [1, 0, 0, 1]):
        got = base(x)
    for sample, adapter in enumerate([1, 0, 0, 1]):
        y = x[sample]
        for linear, key in zip(base, ("up", "middle", "down"), strict=True):
            delta = spec.scaling * weights.b[key][adapter, 0] @ weights.a[key][adapter, 0]
            y = F.linear(y, linear.weight + delta, linear.bias)  # pyright: ignore
        torch.testing.assert_close(got[sample], y, rtol=1e-5, atol=1e-5)


def test_a_subset_of_layers() -> None:
    base = tiny_base()
    spec = LoraSpec.from_base(base.config, layers=[1], rank=2)
    with apply_batched(base, spec, random_weights(spec, 1)):
        assert "forward" in vars(base.model.layers[1].self_attn.q_proj)
        assert "forward" not in vars(base.model.layers[0].self_attn.q_proj)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_model_follows_every_change_of_adapters() -> None:
    base = fill(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)))
    spec = LoraSpec((ModuleGroup("all", "{layer}", (0, 1), 6, 6),), num_layers=2, rank=2)
    x = torch.linspace(-1, 1, 2 * 3 * 6).view(2, 3, 6)
    compiled = torch.compile(base, backend="eager")
    plain = base(x)
    assert torch.equal(compiled(x), plain)
    for seed in range(3):
        weights = random_weights(spec, 2, seed=seed)
        with apply_batched(base, spec, weights):
            expected = base(x)
        with apply_batched(compiled, spec, weights):  # pyright: ignore
            torch.testing.assert_close(compiled(x), expected)
        assert (expected - plain).abs().max() > 1e-3
        torch.testing.assert_close(compiled(x), plain)
    torch.compiler.reset()


def test_everything_is_restored_after_an_exception() -> None:
    base = tiny_base()
    enable_checkpointing(base, reentrant=False)
    spec = spec_of(base)
    q_proj = base.model.layers[0].self_attn.q_proj
    shadow = q_proj.forward
    q_proj.forward = shadow  # as accelerate's hooks leave it
    before = [dict(vars(module)) for module in base.modules()]
    with contextlib.suppress(RecursionError), apply_batched(base, spec, random_weights(spec, 2)):
        assert q_proj.forward is not shadow
        raise RecursionError
    assert [dict(vars(module)) for module in base.modules()] == before


def test_the_handle_can_be_entered_again() -> None:
    base = tiny_base()
    spec = spec_of(base)
    ids = tokens(2, 4)
    context = apply_batched(base, spec, random_weights(spec, 2))
    assert not context.applied
    with context:
        assert context.applied
        first = base(ids).logits
    with context:
        assert torch.equal(base(ids).logits, first)
    assert not context.applied


def test_a_context_that_is_rebound_has_the_new_adapters_in_inference_mode_too() -> None:
    base, ids = tiny_base(), tokens(2, 5)
    spec = spec_of(base)
    first, second = (random_weights(spec, 2, seed=seed) for seed in (1, 2))
    with torch.inference_mode():
        with apply_batched(base, spec, second):
            expected = base(ids).logits
        context = apply_batched(base, spec, first)
        with context:
            assert not torch.equal(base(ids).logits, expected)
        with context.rebind(second):
            assert torch.equal(base(ids).logits, expected)


def test_two_contexts_at_once_are_refused() -> None:
    base = tiny_base()
    spec = spec_of(base)
    weights = random_weights(spec, 2)
    plain = base(tokens(2, 4)).logits
    with apply_batched(base, spec, weights) as context:
        inside = base(tokens(2, 4)).logits
        with pytest.raises(T2LError, match="already applied"), context:
            pass
        with pytest.raises(T2LError, match="already applied"), apply_batched(base, spec, weights):
            pass
        assert torch.equal(base(tokens(2, 4)).logits, inside)
    assert torch.equal(base(tokens(2, 4)).logits, plain)


def test_errors_name_the_values() -> None:
    base = tiny_base()
    spec = spec_of(base)
    weights = random_weights(spec, 2)
    with apply_batched(base, spec, weights), pytest.raises(T2LError, match=r"\(3, 4, 24\).*2 samples"):
        base(tokens(3, 4))
    with pytest.raises(T2LError, match="adapter 2; there are 2"):
        apply_batched(base, spec, weights, [0, 2])
    with pytest.raises(T2LError, match="adapter -2"):
        apply_batched(base, spec, weights, [0, -2])
    not_indices: list[Any] = [[], [0.5], torch.zeros(2, 2, dtype=torch.long), torch.tensor([True, False])]
    for bad in not_indices:
        with pytest.raises(T2LError, match="one whole number per sample"):
            apply_batched(base, spec, weights, bad)
    with pytest.raises(T2LError, match="dropout is 1"):
        apply_batched(base, spec, weights, dropout=1.0)
    with pytest.raises(T2LError, match="expected"):
        apply_batched(base, LoraSpec.from_base(base.config, rank=4), weights)
    other = LoraSpec.from_base(tiny_config(hidden_size=32), rank=3)
    with pytest.raises(BaseModelError, match="24x24"):
        apply_batched(base, other, random_weights(other, 2))


def test_dropout_acts_in_training_mode_only() -> None:
    base = tiny_base()
    spec = spec_of(base)
    ids = tokens(2, 6)
    with apply_batched(base, spec, random_weights(spec, 2)):
        exact = base(ids).logits
    with torch.random.fork_rng(), apply_batched(base, spec, random_weights(spec, 2), dropout=0.5):
        torch.manual_seed(0)
        assert torch.equal(base(ids).logits, exact)
        base.train()
        assert (base(ids).logits - exact).abs().max() > 1e-3


def test_the_product_keeps_only_the_narrow_intermediate() -> None:
    """Saved for backward: nothing the size of A or B times tokens, only views of what exists and the R-wide product."""
    x = torch.linspace(-1, 1, 4 * 16 * 32).view(4, 16, 32)
    y = torch.zeros(4, 16, 24)
    a = torch.linspace(-1, 1, 4 * 2 * 32).view(4, 2, 32).requires_grad_()
    b = torch.linspace(-1, 1, 4 * 24 * 2).view(4, 24, 2).requires_grad_()
    known = {tensor.untyped_storage().data_ptr() for tensor in (x, y, a, b)}
    fresh: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            fresh[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = add_low_rank(y, x, a, b, 2.0)
    assert sum(fresh.values()) == 4 * 16 * 2 * 4  # S * T * R floats
    torch.testing.assert_close(out, 2.0 * x @ a.mT @ b.mT)
