"""Which modules are adapted, with which shapes and scaling, for many architectures, from configs alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from helpers import random_weights, tiny_base, tiny_config
from t2l.errors import BaseModelError, T2LError
from t2l.lora import LoraSpec, LoraWeights, ModuleGroup


def shapes(spec: LoraSpec) -> dict[str, tuple[int, int, int]]:
    return {g.key: (g.in_features, g.out_features, len(g.layers)) for g in spec.groups}


def tiny(config_class: type, **changes: Any) -> Any:
    values = {"num_hidden_layers": 3, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4}
    return config_class(**{**values, "num_key_value_heads": 2, "vocab_size": 40, "pad_token_id": 0, **changes})


def two_groups(**changes: Any) -> LoraSpec:
    groups = (
        ModuleGroup("q_proj", "model.layers.{layer}.self_attn.q_proj", (0, 2), 6, 8),
        ModuleGroup("v_proj", "model.layers.{layer}.self_attn.v_proj", (1,), 6, 4),
    )
    return LoraSpec(**{"groups": groups, "num_layers": 3, "rank": 2, **changes})


# --- from_base: architectures ---


def test_mistral_7b_by_default() -> None:
    spec = LoraSpec.from_base(transformers.MistralConfig())
    assert shapes(spec) == {"q_proj": (4096, 4096, 32), "v_proj": (4096, 1024, 32)}
    assert (spec.rank, spec.alpha, spec.use_rslora, spec.dropout) == (8, 16.0, True, 0.05)
    assert spec.scaling == pytest.approx(16 / math.sqrt(8))
    assert spec.num_parameters == 3_407_872
    assert spec.module_paths()[33] == "model.layers.1.self_attn.v_proj"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (tiny(transformers.LlamaConfig), {"q_proj": (24, 24, 3), "v_proj": (24, 12, 3)}),
        (tiny(transformers.Gemma2Config, head_dim=8), {"q_proj": (24, 32, 3), "v_proj": (24, 16, 3)}),
        (tiny(transformers.Qwen3Config, head_dim=10), {"q_proj": (24, 40, 3), "v_proj": (24, 20, 3)}),
        (tiny(transformers.Phi3Config), {"qkv_proj": (24, 48, 3)}),
        (tiny_config("gpt2"), {"c_attn": (24, 72, 2)}),
    ],
    ids=["llama-grouped-query", "gemma2-head-size", "qwen3-head-size", "phi3-fused", "gpt2-conv1d"],
)
def test_default_targets(config: Any, expected: dict[str, tuple[int, int, int]]) -> None:
    spec = LoraSpec.from_base(config)
    assert shapes(spec) == expected
    assert spec.fan_in_fan_out == (config.model_type == "gpt2")
    spec.check_base(transformers.AutoModelForCausalLM.from_config(config))


@pytest.mark.skipif(not hasattr(transformers, "Gemma4TextConfig"), reason="this transformers has no Gemma 4")
def test_layers_of_differing_shapes_become_groups_of_one_type() -> None:
    config = tiny(
        transformers.Gemma4TextConfig,
        head_dim=6,
        global_head_dim=12,
        num_global_key_value_heads=1,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
        hidden_size_per_layer_input=0,
        num_kv_shared_layers=0,
    )
    spec = LoraSpec.from_base(config)
    q = [group for group in spec.groups if group.key.startswith("q_proj")]
    assert {group.key: group.layers for group in q} == {"q_proj@24x48": (0, 2), "q_proj@24x24": (1,)}
    assert {group.path for group in q} == {"model.layers.{layer}.self_attn.q_proj"}
    assert spec.target_modules == ["q_proj", "v_proj"]
    spec.check_base(transformers.AutoModelForCausalLM.from_config(config))


def test_layers_of_differing_kinds_keep_their_true_depth() -> None:
    config = tiny(
        transformers.Lfm2Config, layer_types=["conv", "full_attention", "conv"], block_auto_adjust_ff_dim=False
    )
    spec = LoraSpec.from_base(config)
    assert {group.layers for group in spec.groups} == {(1,)}
    assert spec.num_layers == 3


def test_lists_of_linear_modules_outside_the_layers_are_not_layers() -> None:
    config = transformers.Gemma3nTextConfig(
        num_hidden_layers=2,
        hidden_size=24,
        intermediate_size=40,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=40,
        vocab_size_per_layer_input=40,
        head_dim=6,
        laurel_rank=4,
        altup_num_inputs=4,
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=0,
        layer_types=["sliding_attention", "full_attention"],
        activation_sparsity_pattern=[0.0, 0.0],
    )
    spec = LoraSpec.from_base(config, target_modules="all-linear")
    assert spec.num_layers == 2
    assert all(group.path.startswith("model.layers.{layer}.") for group in spec.groups)


# --- from_base: choice of modules and layers ---


def test_all_linear() -> None:
    spec = LoraSpec.from_base(tiny(transformers.LlamaConfig), target_modules="all-linear")
    assert shapes(spec) == {
        "q_proj": (24, 24, 3),
        "k_proj": (24, 12, 3),
        "v_proj": (24, 12, 3),
        "o_proj": (24, 24, 3),
        "gate_proj": (24, 40, 3),
        "up_proj": (24, 40, 3),
        "down_proj": (40, 24, 3),
    }


def test_ambiguous_names_get_their_path_as_key() -> None:
    spec = LoraSpec.from_base(tiny_config("gpt2"), target_modules=["c_proj"])
    assert shapes(spec) == {"attn/c_proj": (24, 24, 2), "mlp/c_proj": (96, 24, 2)}
    assert shapes(LoraSpec.from_base(tiny_config("gpt2"), target_modules=["mlp.c_proj"])) == {"mlp/c_proj": (96, 24, 2)}


def test_a_subset_of_layers_and_another_rank() -> None:
    spec = LoraSpec.from_base(
        tiny(transformers.LlamaConfig),
        target_modules="down_proj",
        layers=[2, 0],
        rank=5,
        alpha=10,
        use_rslora=False,
        dropout=0.0,
    )
    assert spec.groups[0].layers == spec.layers == (0, 2)
    assert spec.num_layers == 3
    assert (spec.rank, spec.scaling) == (5, 2.0)
    assert spec.num_parameters == 2 * 5 * (40 + 24)


def test_an_unknown_module_is_an_error_with_near_names() -> None:
    with pytest.raises(BaseModelError, match="'qproj'.*\n.*Did you mean 'q_proj'"):
        LoraSpec.from_base(tiny(transformers.LlamaConfig), target_modules=["qproj"])
    with pytest.raises(BaseModelError, match="'q_proj'.*\n.*Known: .*'qkv_proj'|Did you mean 'qkv_proj'"):
        LoraSpec.from_base(tiny(transformers.Phi3Config), target_modules=["q_proj"])
    with pytest.raises(BaseModelError, match="empty"):
        LoraSpec.from_base(tiny(transformers.LlamaConfig), target_modules=[])


@pytest.mark.parametrize("layers", [[3], [-1], []])
def test_layers_outside_the_base_are_an_error(layers: list[int]) -> None:
    with pytest.raises(BaseModelError, match="layers 0 to 2"):
        LoraSpec.from_base(tiny(transformers.LlamaConfig), layers=layers)


# --- from_base: sources, and what it leaves alone ---


def test_a_folder_that_holds_only_a_config(tmp_path: Path) -> None:
    tiny(transformers.LlamaConfig).save_pretrained(tmp_path)
    spec = LoraSpec.from_base(str(tmp_path))
    assert spec.base_model == str(tmp_path)
    assert shapes(spec) == {"q_proj": (24, 24, 3), "v_proj": (24, 12, 3)}


def test_a_base_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="There is no base model"):
        LoraSpec.from_base(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        LoraSpec.from_base(tmp_path)


def test_a_model_that_is_no_causal_language_model() -> None:
    with pytest.raises(BaseModelError, match="'vit' is not a causal language model"):
        LoraSpec.from_base(transformers.ViTConfig())


def test_no_weights_are_made_and_nothing_is_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Seventy billion parameters would not fit; the global generator is not advanced either."""

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", forbidden)
    state = torch.get_rng_state()
    config = transformers.LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8
    )
    assert shapes(LoraSpec.from_base(config)) == {"q_proj": (8192, 8192, 80), "v_proj": (8192, 1024, 80)}
    assert torch.equal(state, torch.get_rng_state())
    assert capfd.readouterr() == ("", "")


# --- the spec itself ---


def test_round_trip_through_json() -> None:
    spec = LoraSpec.from_base(tiny_config("gpt2"), target_modules="all-linear", layers=[1], rank=3)
    assert LoraSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"rank": 0},
        {"rank": 2.5},
        {"rank": True},
        {"alpha": 0.0},
        {"alpha": math.nan},
        {"dropout": 1.0},
        {"groups": ()},
        {"num_layers": 2},
        {"groups": (ModuleGroup("q", "l.{layer}.q", (0,), 0, 4),)},
        {"groups": (ModuleGroup("q", "l.{layer}.q", (1, 0), 4, 4),)},
        {"groups": (ModuleGroup("q", "l.{layer}.q", (), 4, 4),)},
        {"groups": (ModuleGroup("q", "l.{layer}.q", (0,), 4, 4), ModuleGroup("q", "m.{layer}.q", (0,), 4, 4))},
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(T2LError):
        two_groups(**change)


@pytest.mark.parametrize("damage", [{}, {"groups": 3}, {"groups": [{}]}, {"num_layers": "many"}, {"rank": None}])
def test_damaged_values_are_refused(damage: dict[str, Any]) -> None:
    values = {**two_groups().to_dict(), **damage} if damage else {}
    with pytest.raises(T2LError):
        LoraSpec.from_dict(values)


def test_an_unknown_group_is_an_error_with_near_names() -> None:
    assert two_groups().group("v_proj").out_features == 4
    with pytest.raises(T2LError, match="Did you mean 'q_proj'"):
        two_groups().group("q_pro")


def test_check_base_names_what_does_not_fit() -> None:
    spec = LoraSpec.from_base(tiny_config(), target_modules=["q_proj", "v_proj"])
    spec.check_base(tiny_base())
    with pytest.raises(BaseModelError, match=r"layers.0.self_attn.q_proj is 32x32, the adapter is for 24x24"):
        spec.check_base(tiny_base(hidden_size=32))
    with pytest.raises(BaseModelError, match="is not a linear module of this base"):
        spec.check_base(nn.Linear(2, 2))


# --- the tensors ---


def test_weights_select_and_stack() -> None:
    weights = random_weights(two_groups(), num_samples=3)
    assert weights.num_samples == 3
    assert weights.select(-1).num_samples == 1
    assert torch.equal(weights.select(-1).a["q_proj"][0], weights.a["q_proj"][2])
    assert weights.select(torch.tensor([2, 2])).num_samples == 2
    again = LoraWeights.cat([weights.select(row) for row in range(3)])
    assert all(torch.equal(again.b[key], weights.b[key]) for key in weights.b)


def test_delta_norms_equal_those_of_the_product() -> None:
    weights = random_weights(two_groups(), num_samples=2)
    for key, norm_NL in weights.delta_norms().items():
        torch.testing.assert_close(norm_NL.float(), torch.linalg.matrix_norm(weights.b[key] @ weights.a[key]))


def test_check_names_the_tensor_that_does_not_fit() -> None:
    spec = two_groups()
    weights = random_weights(spec)
    weights.check(spec)
    with pytest.raises(T2LError, match=r"A of q_proj is \(1, 2, 6, 2\), expected \(1, 2, 2, 6\)"):
        LoraWeights({**weights.a, "q_proj": weights.a["q_proj"].mT}, weights.b).check(spec)
    with pytest.raises(T2LError, match="B of v_proj is missing"):
        LoraWeights(weights.a, {"q_proj": weights.b["q_proj"]}).check(spec)
    with pytest.raises(T2LError, match=r"not adapted: \['o_proj'\]"):
        LoraWeights({**weights.a, "o_proj": weights.a["q_proj"]}, weights.b).check(spec)
