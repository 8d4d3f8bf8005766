"""Exports read back with other tools: the numbers are those of PEFT's own merge, in llama.cpp's names and order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, OPTConfig

from helpers import random_weights, tiny_base, tiny_config, tokens
from lab.world.base import build_tokenizer
from t2l.adapter import PROVENANCE_FILE, Adapter
from t2l.bases import load_base
from t2l.errors import BaseModelError, OutputError
from t2l.export import export_adapter
from t2l.export.gguf_adapter import PROVENANCE_KEY
from t2l.export.gguf_names import ARCHITECTURES, layout_of
from t2l.export.merged import merge_into
from t2l.lora import LoraSpec

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
PROVENANCE = {"description": "Sort the words.", "checkpoint": "abc"}


def make(kind: str = "llama", seed: int = 0, **options: Any) -> Adapter:
    spec = replace(LoraSpec.from_base(tiny_config(kind), **{"rank": 3, **options}), base_model="tiny/base")
    return Adapter(spec, random_weights(spec, seed=seed, std=0.3), PROVENANCE)


def save_base(folder: Path, kind: str = "llama", dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A tiny base on disk, with the micro world's tokenizer."""
    tokenizer = build_tokenizer()
    changes = {"vocab_size": len(tokenizer), "eos_token_id": 3, **changes}
    tiny_base(kind, dtype=dtype, **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("llama"))


def peft_merged(adapter: Adapter, base: Path) -> Any:
    """PEFT's own merge of our folder's form that leaves the scaling to the runtime."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return adapter.apply(model).merge_and_unload()


def read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Values and tensors (float32, torch's axes) of a GGUF file."""
    reader = gguf.GGUFReader(path)
    values = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {
        t.name: torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type), dtype=np.float32))
        for t in reader.tensors
    }
    return values, tensors


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows 0, d/2, 1, d/2 + 1, ... of each head, written out one by one."""
    size = weight.shape[0] // heads
    order = [head * size + half * (size // 2) + i for head in range(heads) for i in range(size // 2) for half in (0, 1)]
    return weight[order]


# ------------------------------------------------------------------------------------------------ merged folder


@pytest.mark.parametrize(
    ("kind", "options"),
    [("llama", {"target_modules": "all-linear"}), ("llama", {"layers": [1]}), ("gpt2", {}), ("phi3", {})],
)
def test_a_merged_folder_is_what_peft_merges(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    where, adapter = save_base(tmp_path / "base", kind), make(kind, **options)
    out = export_adapter(adapter, tmp_path / "merged", "merged", base=where)
    found, expected = AutoModelForCausalLM.from_pretrained(out), peft_merged(adapter, where)
    ids = tokens(2, 9)
    with torch.inference_mode():
        torch.testing.assert_close(found(ids).logits, expected(ids).logits, rtol=1e-4, atol=1e-4)
        assert (found(ids).logits - AutoModelForCausalLM.from_pretrained(where)(ids).logits).abs().max() > 0.01
    assert not list(out.glob("*.bin")) and list(out.glob("*.safetensors"))
    assert load_base(out).answer(["ab"], max_new_tokens=4) is not None  # its tokenizer is there
    record = json.loads((out / PROVENANCE_FILE).read_text())
    assert (record["merged"], record["provenance"]) == (adapter.digest, PROVENANCE)
    assert json.loads((out / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_merged_folder_keeps_the_dtype_of_its_base(tmp_path: Path) -> None:
    where, adapter = save_base(tmp_path / "base", dtype=torch.bfloat16), make()
    merged = AutoModelForCausalLM.from_pretrained(
        export_adapter(adapter, tmp_path / "m", "merged", base=where), dtype="auto"
    )
    assert merged.dtype is torch.bfloat16
    path = adapter.spec.module_paths()[0]
    before = AutoModelForCausalLM.from_pretrained(where, dtype="auto").get_submodule(path).weight
    expected = (before.float() + adapter.delta(path)).bfloat16()  # one rounding, of the sum
    assert torch.equal(merged.get_submodule(path).weight, expected)
    wide = export_adapter(adapter, tmp_path / "w", "merged", base=where, dtype="float32")
    assert AutoModelForCausalLM.from_pretrained(wide, dtype="auto").dtype is torch.float32


def test_what_cannot_be_merged_is_refused_and_changes_nothing(base: Path, tmp_path: Path) -> None:
    model = tiny_base()
    model.model.layers[1].self_attn.v_proj.weight.data = torch.zeros(12, 24, dtype=torch.int8)
    before = model.model.layers[0].self_attn.q_proj.weight.clone()
    with pytest.raises(BaseModelError, match=r"layers\.1\.self_attn\.v_proj is stored as torch.int8"):
        merge_into(make(), model)
    assert torch.equal(model.model.layers[0].self_attn.q_proj.weight, before)
    huge = make()
    big = Adapter(huge.spec, huge.weights.map(lambda tensor: tensor * 1e4), {})
    with pytest.raises(BaseModelError, match="beyond the range of torch.float16"):
        merge_into(big, tiny_base(dtype=torch.float16))
    with pytest.raises(BaseModelError, match="does not fit"):
        export_adapter(make("gpt2"), tmp_path / "m", "merged", base=base)
    with pytest.raises(OutputError, match="is the base itself"):
        export_adapter(make(), base, "merged", base=base, force=True)
    with pytest.raises(BaseModelError, match="which base the adapters are for"):
        export_adapter(Adapter(replace(make().spec, base_model=None), make().weights), tmp_path / "m", "merged")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------ GGUF adapter


@pytest.mark.parametrize("stabilised", [True, False])
def test_llamas_arithmetic_on_the_file_gives_pefts_merge(base: Path, stabilised: bool, tmp_path: Path) -> None:
    adapter = make(target_modules="all-linear", use_rslora=stabilised)
    values, tensors = read(export_adapter(adapter, tmp_path / "a.gguf", "gguf", base=base))
    assert values["general.type"] == "adapter" and values["adapter.type"] == "lora"
    assert values["general.architecture"] == "llama"
    assert json.loads(values[PROVENANCE_KEY]) == PROVENANCE
    merged, plain = peft_merged(adapter, base), AutoModelForCausalLM.from_pretrained(base)
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    names |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    assert len(tensors) == 2 * len(adapter.spec.module_paths())
    for path in adapter.spec.module_paths():
        layer, last = path.split(".")[2], path.rsplit(".", 1)[-1]
        name = f"blk.{layer}.{names[last]}.weight"
        a, b = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        found = values["adapter.lora.alpha"] / a.shape[0] * b @ a  # llama-adapter.h: alpha / rank, B, A
        expected = merged.get_submodule(path).weight - plain.get_submodule(path).weight
        if last in ("q_proj", "k_proj"):
            expected = interleaved(expected, 4 if last == "q_proj" else 2)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("gpt2", {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up"}),
        ("phi3", {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}),
    ],
)
def test_fused_and_transposed_modules_have_their_names(kind: str, names: dict[str, str], tmp_path: Path) -> None:
    where, adapter = save_base(tmp_path / "base", kind), make(kind, target_modules="all-linear")
    values, tensors = read(export_adapter(adapter, tmp_path / "a.gguf", "gguf", base=where))
    assert values["general.architecture"] == kind
    for path in adapter.spec.module_paths():
        parts = path.split(".")
        found = names.get(".".join(parts[-2:]))
        if found is not None:
            name = f"blk.{parts[2]}.{found}.weight"
            torch.testing.assert_close(
                tensors[f"{name}.lora_b"] @ tensors[f"{name}.lora_a"], adapter.delta(path), rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_every_linear_module_of_every_architecture_has_a_name(kind: str) -> None:
    from transformers import AutoConfig

    small = {"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4}
    small |= {"num_key_value_heads": 2, "head_dim": 6, "vocab_size": 40, "pad_token_id": 0}
    small = {"n_layer": 2, "n_embd": 24, "n_head": 4, "vocab_size": 40} if kind == "gpt2" else small
    config = AutoConfig.for_model(kind, **small)
    layout = layout_of(config)
    for path in LoraSpec.from_base(config, target_modules="all-linear").module_paths():
        assert layout.tensor(f"{path}.weight").startswith("blk.")
    with pytest.raises(BaseModelError, match="no tensor for 'model.surprise.weight'"):
        layout.tensor("model.surprise.weight")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_smaller_dtypes_round_as_torch_does(base: Path, dtype: str, tmp_path: Path) -> None:
    adapter = make()
    reader = gguf.GGUFReader(export_adapter(adapter, tmp_path / "a.gguf", "gguf", base=base, dtype=dtype))
    assert {t.tensor_type.name for t in reader.tensors} == {"BF16" if dtype == "bfloat16" else "F16"}
    _, tensors = read(tmp_path / "a.gguf")
    expected = adapter.weights.a["v_proj"][0, 0].to(getattr(torch, dtype)).float()
    assert torch.equal(tensors["blk.0.attn_v.weight.lora_a"], expected)


def test_gguf_files_are_whole_or_absent(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a.gguf"
    export_adapter(make(), out, "gguf", base=base)
    before = out.read_bytes()
    with pytest.raises(OutputError, match="already exists"):
        export_adapter(make(seed=1), out, "gguf", base=base)
    big = Adapter(make().spec, make().weights.map(lambda tensor: tensor * 1e6), {})
    with pytest.raises(OutputError, match="beyond the range of torch.float16"):
        export_adapter(big, out, "gguf", base=base, dtype="float16", force=True)
    assert out.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.gguf"]
    with pytest.raises(OutputError, match="is a folder"):
        export_adapter(make(), tmp_path, "gguf", base=base)
    with pytest.raises(OutputError, match="not written as 'int4'"):
        export_adapter(make(), tmp_path / "b.gguf", "gguf", base=base, dtype="int4")
    export_adapter(make(seed=1), out, "gguf", base=base, force=True)
    assert out.read_bytes() != before


def test_a_base_that_gguf_does_not_fit_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="does not fit"):
        export_adapter(make("gpt2"), tmp_path / "a.gguf", "gguf", base=base)
    with pytest.raises(BaseModelError, match="type 'opt'"):
        layout_of(OPTConfig())
    assert not list(tmp_path.iterdir())
