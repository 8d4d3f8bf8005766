"""Every kind of base that the docs name, tiny, from its folder to adapters that PEFT loads and to merged weights."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel

from helpers import byte_tokenizer, fill, random_weights
from t2l.adapter import adapters_from_weights
from t2l.base_structure import auto_class
from t2l.bases import load_base
from t2l.errors import BaseModelError
from t2l.export.merged import merge_into
from t2l.lora import LoraSource, LoraSpec, LoraWeights
from t2l.recipes.reader import load_recipe
from t2l.recipes.sections import LossSection
from t2l.training.batches import Batch
from t2l.training.frozen_base import attention_of, decoder_layers
from t2l.training.plan import plan_of
from t2l.training.sft import learn_step

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT with transformers

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
TEXT = {"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "vocab_size": 272, "max_position_embeddings": 64, "pad_token_id": 0}
TEXT |= {"bos_token_id": 1, "eos_token_id": 2, "rms_norm_eps": 1e-5}
TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
TOWER |= {"image_size": 28, "patch_size": 14}
QWEN_TOWER = {"hidden_size": 16, "depth": 3, "num_heads": 2, "out_hidden_size": 24, "intermediate_size": 16}
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
DENSE = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
NEXT = ["in_proj_qkvz", "in_proj_ba", "out_proj", *ATTENTION]
EXPERTS = "model.layers.{layer}.mlp.experts"

KINDS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "llama": ("LlamaConfig", {}, DENSE),  # SmolLM2 is one
    "mistral": ("MistralConfig", {"sliding_window": 8}, DENSE),
    "qwen2": ("Qwen2Config", {}, DENSE),
    "qwen3": ("Qwen3Config", {"head_dim": 8}, DENSE),
    "gemma2": ("Gemma2Config", {"head_dim": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}, DENSE),
    "gemma3-text": ("Gemma3TextConfig", {"head_dim": 8}, DENSE),
    "phi3": ("Phi3Config", {}, ["o_proj", "qkv_proj", "gate_up_proj", "down_proj"]),  # and Phi-4
    "smollm3": ("SmolLM3Config", {}, DENSE),
    "olmo2": ("Olmo2Config", {}, DENSE),
    "granite": ("GraniteConfig", {"logits_scaling": 4.0}, DENSE),
    "cohere2": ("Cohere2Config", {"logit_scale": 0.25, "layer_norm_eps": 1e-5}, DENSE),
    "gpt-oss": ("GptOssConfig", {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}, ATTENTION),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4}, ATTENTION),
    "qwen3-moe": ("Qwen3MoeConfig", MIXTURE, ATTENTION),
    "qwen3-next": (
        "Qwen3NextConfig",
        {
            **MIXTURE,
            **LINEAR,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"],
        },
        NEXT,
    ),
    "gemma3": (
        "Gemma3Config",
        {"text_config": {**TEXT, "head_dim": 8}, "vision_config": TOWER, "mm_tokens_per_image": 4},
        DENSE,
    ),
    "qwen2.5-vl": (
        "Qwen2_5_VLConfig",
        {
            "text_config": {**TEXT, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 1]}},
            "vision_config": QWEN_TOWER,
        },
        DENSE,
    ),
    "qwen3-vl": ("Qwen3VLConfig", {"text_config": {**TEXT, "head_dim": 8}, "vision_config": QWEN_TOWER}, DENSE),
    "mistral3": (
        "Mistral3Config",
        {
            "text_config": {**TEXT, "model_type": "mistral"},
            "vision_config": {**TOWER, "model_type": "pixtral", "head_dim": 8},
        },
        DENSE,
    ),
}
MIXTURES = ["gpt-oss", "mixtral", "qwen3-moe", "qwen3-next"]
SEEING = ["gemma3", "qwen2.5-vl", "qwen3-vl", "mistral3"]
TEXTS = ["ab ab", "7 and 5", "oslo"]


def config_of(kind: str) -> Any:
    name, changes, _ = KINDS[kind]
    if not hasattr(transformers, name):
        pytest.skip(f"this transformers has no {name}")
    return getattr(transformers, name)(**({} if kind in SEEING else TEXT), **changes)


def save_base(kind: str, folder: Path) -> Path:
    config = config_of(kind)
    model = auto_class(config).from_config(config)
    fill(model, seed=1, std=0.25)
    model.save_pretrained(folder)
    byte_tokenizer(TEMPLATE).save_pretrained(folder)
    return folder


class Given(LoraSource):
    """A source whose adapters are its parameters."""

    def __init__(self, spec: LoraSpec, weights: LoraWeights) -> None:
        super().__init__()
        self.spec = spec
        self.a = torch.nn.ParameterDict({key: torch.nn.Parameter(value) for key, value in weights.a.items()})
        self.b = torch.nn.ParameterDict({key: torch.nn.Parameter(value) for key, value in weights.b.items()})

    def forward(self, condition_NE: torch.Tensor) -> LoraWeights:
        return LoraWeights(dict(self.a.items()), dict(self.b.items()))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_from_a_folder_to_adapters_that_peft_loads(kind: str, tmp_path: Path) -> None:
    base = load_base(save_base(kind, tmp_path / "base"))
    spec = LoraSpec.from_base(tmp_path / "base", target_modules="all-linear", rank=2)
    assert [group.key for group in spec.groups] == KINDS[kind][2]
    assert all(("language_model" in group.path) == (kind in SEEING) for group in spec.groups)
    assert len(decoder_layers(base.model)) == spec.num_layers == 2, "of the language model, not of a tower"
    weights = random_weights(spec, 3, std=0.3)
    adapters = adapters_from_weights(spec, weights)
    merged = [dataclasses.replace(base, model=copy.deepcopy(base.model)) for _ in adapters]
    for adapter, other in zip(adapters, merged, strict=True):
        merge_into(adapter, other.model)

    answers = base.answer(TEXTS, spec=spec, weights=weights, max_new_tokens=5)
    assert answers == [other.answer([text], max_new_tokens=5)[0] for text, other in zip(TEXTS, merged, strict=True)]
    assert answers != base.answer(TEXTS, max_new_tokens=5)

    ids_ST = torch.randint(3, 200, (3, 7), generator=torch.Generator().manual_seed(2))
    expected = [other.model(input_ids=ids[None], labels=ids[None]) for other, ids in zip(merged, ids_ST, strict=True)]
    folder = adapters[1].save(tmp_path / "adapter")
    with torch.no_grad():
        loaded = PeftModel.from_pretrained(load_base(tmp_path / "base").model, str(folder))
        torch.testing.assert_close(loaded(input_ids=ids_ST[1:2]).logits, expected[1].logits, atol=1e-4, rtol=1e-4)
    wrapped = {name for name, module in loaded.named_modules() if hasattr(module, "lora_A")}
    assert {name.removeprefix("base_model.model.") for name in wrapped} == set(spec.module_paths())

    source = Given(spec, weights)
    batch = Batch(ids_ST, ids_ST, torch.arange(3))
    terms = LossSection(weight_penalty=0.0, label_smoothing=0.0)
    loss = learn_step(base.model, source, torch.zeros(3, 4), [batch], terms)
    own = sum(float(outcome.loss) for outcome in expected) / 3
    assert float(loss) == pytest.approx(own, rel=1e-4)
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in source.parameters())


@pytest.mark.parametrize("kind", MIXTURES)
def test_a_mixture_says_that_its_experts_are_left_out(kind: str) -> None:
    spec = LoraSpec.from_base(config_of(kind), target_modules="all-linear")
    shared = [EXPERTS, *(EXPERTS.replace("experts", f"shared_expert{end}") for end in ("", "_gate"))]
    assert list(spec.left_out) == (shared if kind == "qwen3-next" else [EXPERTS])
    assert LoraSpec.from_dict(spec.to_dict()).left_out == spec.left_out
    with pytest.raises(BaseModelError, match="no linear module called 'gate_proj'.*experts.*are left out"):
        LoraSpec.from_base(config_of(kind), target_modules=["gate_proj"])


def test_the_plan_of_a_mixture_says_it_too(tmp_path: Path) -> None:
    config_of("mixtral").save_pretrained(tmp_path)
    words = [f"base.model={tmp_path}", "lora.target_modules=[all-linear]", "hardware.teraflops=1"]
    plan = plan_of(load_recipe("mistral-7b-paper", words))
    assert f"the experts of the base are not adapted: {EXPERTS}" in plan.text()


def test_attention_that_a_base_lacks_is_left_to_transformers_or_named(tmp_path: Path) -> None:
    """Gemma 2 caps its attention's logits, which torch's fused attention cannot do."""
    section = load_recipe("mistral-7b-paper").base
    assert attention_of(section, torch.device("cuda")) is None
    assert attention_of(section, torch.device("cpu")) == "eager"
    folder = save_base("gemma2", tmp_path)
    assert load_base(folder, loading={"attn_implementation": None}).model.config._attn_implementation == "eager"
    with pytest.raises(BaseModelError, match=r"(?s)does not support the attention.*base\.attention=eager"):
        load_base(folder, loading={"attn_implementation": "sdpa"})
