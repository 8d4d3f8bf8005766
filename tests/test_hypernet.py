"""The hypernetwork: exact sizes, starts, shapes for any spec, batched equals one by one, strict loading."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from t2l.errors import CheckpointError, DescriptionError, T2LError
from t2l.heads import Variant, rotate_by_rank
from t2l.hypernet import HyperNetwork, build_task_encoder
from t2l.lora import LoraSpec, LoraWeights, ModuleGroup

VARIANTS: tuple[Variant, ...] = ("L", "M", "S", "R")
WIDTH = 12  # E


def group(key: str, layers: tuple[int, ...], in_features: int, out_features: int) -> ModuleGroup:
    return ModuleGroup(key, f"model.layers.{{layer}}.part.{key}", layers, in_features, out_features)


def uneven_spec(rank: int = 3) -> LoraSpec:
    """Groups of differing depth and shape, with keys as `LoraSpec.from_base` makes them."""
    groups = (
        group("q_proj@10x14", (0, 2), 10, 14),
        group("self_attn/v_proj", (0, 1, 4), 10, 6),
        group("q_proj@10x8", (3,), 10, 8),
    )
    return LoraSpec(groups, num_layers=5, rank=rank)


def conditions(num_samples: int, seed: int = 0, width: int = WIDTH) -> Tensor:
    return torch.randn(num_samples, width, generator=torch.Generator().manual_seed(seed))


def build(variant: Variant, spec: LoraSpec | None = None, **settings: object) -> HyperNetwork:
    """A tiny hypernetwork with every parameter away from zero, in eval mode."""
    settings = {"trunk_dim": 16, "head_dim": 20, "head_init": "linear", "seed": 1, **settings}
    return HyperNetwork(spec or uneven_spec(), WIDTH, variant, **settings).eval()  # pyright: ignore[reportArgumentType]


def tensors_of(weights: LoraWeights) -> list[Tensor]:
    return [*weights.a.values(), *weights.b.values()]


@pytest.mark.parametrize(("variant", "expected"), [("L", 55_424_000), ("M", 34_412_288), ("S", 4_994_816)])
def test_parameter_counts_with_mistral_shapes(variant: Variant, expected: int) -> None:
    layers = tuple(range(32))
    spec = LoraSpec((group("q_proj", layers, 4096, 4096), group("v_proj", layers, 4096, 1024)), num_layers=32)
    with torch.device("meta"):
        assert HyperNetwork(spec, 1024, variant).num_parameters == expected
        assert HyperNetwork(spec, 1024, variant, output_gain=True, output_shift=True).num_parameters == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes_follow_the_spec(variant: Variant) -> None:
    spec = uneven_spec()
    weights = build(variant, spec)(conditions(4))
    weights.check(spec)
    assert weights.num_samples == 4


@pytest.mark.parametrize(
    ("variant", "learned"), [("L", False), ("M", False), ("S", False), ("S", True), ("R", False), ("R", True)]
)
def test_batched_equals_one_by_one(variant: Variant, learned: bool) -> None:
    hypernetwork, condition_NE = build(variant, learned_rank_positions=learned), conditions(5)
    together = hypernetwork(condition_NE)
    for row in range(5):
        alone = hypernetwork(condition_NE[row : row + 1])
        for both, single in zip(tensors_of(together.select(row)), tensors_of(alone), strict=True):
            torch.testing.assert_close(both, single, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(tensors_of(together.select(0))[0], tensors_of(together.select(1))[0], atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_subset_of_layers_gives_the_same_adapters_there(variant: Variant) -> None:
    full = LoraSpec((group("q", (0, 1, 2, 3), 10, 14), group("v", (0, 1, 2, 3), 10, 6)), num_layers=4, rank=3)
    part = LoraSpec((group("q", (1, 3), 10, 14), group("v", (2,), 10, 6)), num_layers=4, rank=3)
    whole, some = build(variant, full), build(variant, part)
    some.load_state_dict(whole.state_dict())
    expected, got = whole(conditions(2)), some(conditions(2))
    for key, rows in (("q", [1, 3]), ("v", [2])):
        torch.testing.assert_close(got.a[key], expected.a[key][:, rows], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got.b[key], expected.b[key][:, rows], rtol=1e-5, atol=1e-6)


def test_m_and_s_use_only_the_columns_that_they_keep() -> None:
    """The cut product equals the full product, cut afterwards."""
    for variant in ("M", "S"):
        hypernetwork = build(variant)
        wide = uneven_spec().group("self_attn/v_proj")
        linear = hypernetwork.head.linear(wide)
        before = hypernetwork(conditions(2)).b[wide.key]
        with torch.no_grad():
            unused = slice(wide.out_features, None)
            linear.weight.unflatten(0, (-1, wide.in_features))[:, unused].fill_(1e6)
            linear.bias.unflatten(0, (-1, wide.in_features))[:, unused].fill_(1e6)
        after = hypernetwork(conditions(2))
        torch.testing.assert_close(after.b[wide.key], before, rtol=0, atol=0)
        assert after.a[wide.key].abs().max() > 1e5


def test_l_begins_exactly_at_the_base_model() -> None:
    hypernetwork = HyperNetwork(uneven_spec(), WIDTH, "L", trunk_dim=16, head_dim=20)
    weights = hypernetwork(conditions(3))
    for key, a_NLRI in weights.a.items():
        assert weights.b[key].abs().max() == 0
        assert 0.5 / math.sqrt(10) < a_NLRI.abs().max() <= 1 / math.sqrt(10)
        torch.testing.assert_close(a_NLRI[0], a_NLRI[2], rtol=0, atol=0)


@pytest.mark.parametrize(("variant", "scale"), [("M", math.sqrt(2)), ("S", math.sqrt(6)), ("R", math.sqrt(3))])
def test_the_others_begin_with_one_scaled_start_for_a_and_b(variant: Variant, scale: float) -> None:
    hypernetwork = HyperNetwork(uneven_spec(rank=3), WIDTH, variant, trunk_dim=16, head_dim=20)
    for key, a_NLRI in hypernetwork(conditions(2)).a.items():
        bound = 1 / math.sqrt(10) / scale
        assert 0.5 * bound < a_NLRI.abs().max() <= bound
        b_NLOR = hypernetwork(conditions(2)).b[key]
        assert 0.2 * bound < b_NLOR.abs().max() <= bound
        if variant != "R":
            columns = min(a_NLRI.shape[-1], b_NLOR.shape[-2])
            torch.testing.assert_close(a_NLRI[..., :columns], b_NLOR.mT[..., :columns], rtol=0, atol=0)


def test_the_seed_alone_decides_the_start() -> None:
    torch.manual_seed(3)
    first = build("M", seed=5).state_dict()
    state = torch.get_rng_state()
    second, other = build("M", seed=5).state_dict(), build("M", seed=6).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    drawn = [name for name in first if "norm" not in name and first[name].std() > 0]
    assert drawn
    assert all(not torch.equal(first[name], other[name]) for name in drawn)


@pytest.mark.parametrize("kind", ["linear", "discrete", "vq", "softmax"])
def test_no_parameter_is_left_unset(kind: str) -> None:
    for variant in VARIANTS:
        hypernetwork = build(variant, task_encoder=kind, output_gain=True, output_shift=True)
        for name, tensor in hypernetwork.state_dict().items():
            assert torch.isfinite(tensor).all(), name
            assert tensor.abs().max() < 6, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient(variant: Variant) -> None:
    hypernetwork = build(variant, learned_rank_positions=variant in ("S", "R")).train()
    sum(tensor.square().sum() for tensor in tensors_of(hypernetwork(conditions(3)))).backward()  # pyright: ignore
    for name, parameter in hypernetwork.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_dropout_only_in_training() -> None:
    hypernetwork = build("L", dropout=0.5)
    first, second = (hypernetwork(conditions(1)).a["q_proj@10x8"] for _ in range(2))
    assert torch.equal(first, second)
    hypernetwork.train()
    assert not torch.equal(first, hypernetwork(conditions(1)).a["q_proj@10x8"])


def test_rotation_agrees_with_the_rotary_embedding_of_llama() -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    x_R1D = conditions(5, width=16).unsqueeze(1)
    config = LlamaConfig(hidden_size=16, num_attention_heads=1, max_position_embeddings=64)  # base 10000
    same_5D = x_R1D[:1].expand(1, 5, 16)
    cos, sin = LlamaRotaryEmbedding(config)(same_5D, torch.arange(5)[None])
    expected, _ = apply_rotary_pos_emb(same_5D[None], same_5D[None], cos, sin)
    torch.testing.assert_close(rotate_by_rank(x_R1D[0], 5), expected[0, 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_is_close_to_float32(variant: Variant) -> None:
    hypernetwork = build(variant)
    exact = hypernetwork(conditions(2))
    rounded = hypernetwork.to(torch.bfloat16)(conditions(2))
    for expected, got in zip(tensors_of(exact), tensors_of(rounded), strict=True):
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.float(), expected, rtol=0.1, atol=0.02)


def random_like(weights: LoraWeights, seed: int) -> LoraWeights:
    generator = torch.Generator().manual_seed(seed)
    return weights.map(lambda tensor: torch.rand(tensor[:1].shape, generator=generator) + 0.1)


def test_output_affine_is_gain_then_shift_and_not_trained() -> None:
    plain = build("M")
    raw = plain(conditions(2))
    gain, shift = random_like(raw, 1), random_like(raw, 2)
    affine = build("M", output_gain=True, output_shift=True)
    affine.load_state_dict(plain.state_dict(), strict=False)
    affine.output_affine.set(gain=gain, shift=shift)
    assert affine.num_parameters == plain.num_parameters
    got = affine(conditions(2))
    for key in got.a:
        torch.testing.assert_close(got.a[key], raw.a[key] * gain.a[key] + shift.a[key])
        torch.testing.assert_close(got.b[key], raw.b[key] * gain.b[key] + shift.b[key])
    back = affine.output_affine.normalise(got)
    for tensor, expected in zip(tensors_of(back), tensors_of(affine.raw(conditions(2))), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(T2LError, match="no output gain"):
        plain.output_affine.set(gain=gain)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["linear", "discrete", "vq", "softmax"])
def test_config_and_tensors_round_trip(variant: Variant, kind: str) -> None:
    if kind == "discrete":  # 64 classes + 5 layers + 3 groups: even
        assert build_task_encoder("discrete", WIDTH, 8).out_features == 64
    original = build(variant, task_encoder=kind, head_bias=False, output_shift=True)
    config = json.loads(json.dumps(original.to_config()))
    restored = HyperNetwork.from_tensors(config, original.state_dict(), source="memory").eval()
    assert restored.to_config() == original.to_config()
    assert not any(tensor.is_meta for tensor in restored.state_dict().values())
    for expected, got in zip(tensors_of(original(conditions(2))), tensors_of(restored(conditions(2))), strict=True):
        assert torch.equal(expected, got)
    fresh = HyperNetwork.from_config(config, seed=4)
    assert set(fresh.state_dict()) == set(original.state_dict())


def test_from_tensors_names_what_does_not_fit() -> None:
    original = build("L")
    config, tensors = original.to_config(), dict(original.state_dict())
    name = "trunk.mixer.1.weight"
    missing = {key: value for key, value in tensors.items() if key != name}
    for damaged, words in (
        (missing, f"missing {name}"),
        ({**tensors, "extra": torch.zeros(1)}, "unexpected extra"),
        ({**tensors, name: tensors[name].T}, f"{name} has shape"),
        ({**tensors, name: tensors[name] * math.nan}, f"{name} holds NaN"),
        ({**tensors, name: tensors[name].long()}, f"{name} has dtype"),
        ({**tensors, name: tensors[name].half()}, "several dtypes"),
    ):
        with pytest.raises(CheckpointError, match=words):
            HyperNetwork.from_tensors(config, damaged, source="here")


@pytest.mark.parametrize(
    "change",
    [
        {"variant": "X"},
        {"variant": []},
        {"trunk_dim": "wide"},
        {"trunk_dim": 10**30},
        {"head_dim": 0},
        {"dropout": 1.0},
        {"spec": {}},
        {"spec": None},
        {"task_encoder": "other"},
        {"learned_rank_positions": True},
        {"unheard_of": 1},
        {"seed": 2},
    ],
)
def test_a_damaged_config_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(CheckpointError):
        HyperNetwork.from_config({**build("L").to_config(), **change})


def test_a_missing_field_is_named() -> None:
    config = build("L").to_config()
    del config["embedding_dim"]
    with pytest.raises(CheckpointError, match="embedding_dim"):
        HyperNetwork.from_config(config)


def test_embeddings_of_another_width_are_refused() -> None:
    with pytest.raises(DescriptionError, match=r"\(2, 5\).*\(N, 12\)"):
        build("L")(conditions(2, width=5))
    with pytest.raises(DescriptionError):
        build("L")(conditions(2)[0])


def test_rotation_needs_an_even_width() -> None:
    spec = LoraSpec((group("q", (0, 1, 2), 10, 14), group("v", (0, 1, 2), 10, 6)), num_layers=3)
    with pytest.raises(T2LError, match="even"):
        build("S", spec, task_encoder="discrete")  # 64 + 3 + 2
    build("S", spec, task_encoder="discrete", learned_rank_positions=True)
