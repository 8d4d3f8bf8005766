"""Exports read back with other tools: the numbers are those of PEFT's own merge, in llama.cpp's names and order."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, OPTConfig, PreTrainedTokenizerFast

from helpers import MICRO_BASE, random_weights, tiny_base, tiny_config, tokens
from lab.world.base import build_tokenizer
from t2l.adapter import PROVENANCE_FILE, Adapter
from t2l.bases import load_base
from t2l.errors import BaseModelError, OutputError, T2LError
from t2l.export import export_adapter, gguf_names
from t2l.export.gguf_file import PROVENANCE_KEY
from t2l.export.gguf_model import check_family, window_note, write_gguf_model
from t2l.export.gguf_names import ARCHITECTURES, layout_of
from t2l.export.gguf_vocab import SPACE, read_vocabulary
from t2l.export.merged import merge_into
from t2l.lora import LoraSpec

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
PROVENANCE = {"description": "Sort the words.", "checkpoint": "abc"}


def make(kind: str = "llama", seed: int = 0, **options: Any) -> Adapter:
    spec = replace(LoraSpec.from_base(tiny_config(kind), **{"rank": 3, **options}), base_model="tiny/base")
    return Adapter(spec, random_weights(spec, seed=seed, std=0.3), PROVENANCE)


def save_base(folder: Path, kind: str = "llama", dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A tiny base on disk, with the embedded world's tokenizer."""
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


def test_without_the_gguf_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(T2LError, match=r"pip install 't2l\[export\]'"):
        gguf_names.require_gguf()


# ------------------------------------------------------------------------------------------------ GGUF model


def reference_name(name: str) -> str:
    """llama.cpp's names, written out."""
    table = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    table |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "o_proj": "attn_output"}
    table |= {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v"}
    table |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    stem, suffix = name.rsplit(".", 1)
    if stem in table:
        return f"{table[stem]}.{suffix}"
    return f"blk.{stem.split('.')[2]}.{table[stem.rsplit('.', 1)[-1]]}.{suffix}"


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True}])
def test_a_merged_gguf_holds_pefts_merge(changes: dict[str, Any], tmp_path: Path) -> None:
    where, adapter = save_base(tmp_path / "base", **changes), make(target_modules="all-linear")
    values, found = read(export_adapter(adapter, tmp_path / "m.gguf", "gguf-merged", base=where))
    expected = {}
    for name, tensor in peft_merged(adapter, where).state_dict().items():
        heads = 4 if "q_proj" in name else 2 if "k_proj" in name else 0
        expected[reference_name(name)] = interleaved(tensor, heads) if heads else tensor
    if changes.get("tie_word_embeddings"):
        del expected["output.weight"]
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5)
    config = AutoModelForCausalLM.from_pretrained(where).config
    assert values["llama.block_count"] == 2 and values["llama.attention.head_count_kv"] == 2
    assert values["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(config.rms_norm_eps)
    assert (values["llama.rope.dimension_count"], values["llama.vocab_size"]) == (6, config.vocab_size)
    assert json.loads(values[PROVENANCE_KEY]) == {"merged": adapter.digest, **PROVENANCE}


def test_the_base_alone_and_its_dtype(tmp_path: Path) -> None:
    where = save_base(tmp_path / "base", dtype=torch.bfloat16)
    path = write_gguf_model(where, None, tmp_path / "b.gguf")
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
    assert kinds["blk.0.attn_q.weight"] == "BF16" and kinds["output_norm.weight"] == "F32"
    values, found = read(path)
    model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32)
    assert torch.equal(found["blk.1.ffn_up.weight"], model.model.layers[1].mlp.up_proj.weight)
    assert values["general.file_type"] == gguf.LlamaFileType.MOSTLY_BF16 and PROVENANCE_KEY not in values


def test_llama_3_rotation_becomes_factors_as_transformers_computes_them(tmp_path: Path) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "rope_parameters": rope}
    where = save_base(tmp_path / "base", **sizes)
    _, found = read(write_gguf_model(where, None, tmp_path / "b.gguf"))
    config = AutoModelForCausalLM.from_pretrained(where).config
    slowed, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500.0 ** -(torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(plain / found["rope_freqs.weight"], slowed, rtol=1e-5, atol=1e-8)
    assert 1.0 < found["rope_freqs.weight"].median() < 8.0 or found["rope_freqs.weight"].unique().numel() > 2


def test_a_base_that_llama_cpp_would_run_differently_is_refused_or_noted() -> None:
    from transformers import LlamaConfig, MistralConfig

    with pytest.raises(BaseModelError, match="this base is of type 'phi3'"):
        check_family(tiny_config("phi3"))
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(BaseModelError, match="of kind 'dynamic'"):
        check_family(LlamaConfig(rope_parameters=rope))
    assert "last 4096 tokens" in str(window_note(MistralConfig(sliding_window=4096)))
    assert window_note(MistralConfig(sliding_window=None)) is window_note(tiny_config()) is None
    check_family(MistralConfig())


# ------------------------------------------------------------------------------------------------ tokenizers


def test_the_embedded_bases_tokenizer_is_one_character_a_token() -> None:
    tokenizer = build_tokenizer()
    found = read_vocabulary(tokenizer, len(tokenizer) + 2)
    assert (found.model, found.add_bos, found.add_eos, found.space_first) == ("t5", True, False, False)
    assert dict(found.special) == {"bos": 1, "eos": 3, "unk": 2, "pad": 0}
    kinds = [gguf.TokenType(kind).name for kind in found.types]
    assert kinds[:4] == ["CONTROL", "CONTROL", "UNKNOWN", "USER_DEFINED"] and kinds[-2:] == ["UNUSED", "UNUSED"]
    normal = {token: index for index, token in enumerate(found.tokens) if kinds[index] in ("NORMAL", "USER_DEFINED")}
    text = "Sort: b, a 1>\nA~!  z"
    ours = [normal[c] for c in text.replace(" ", SPACE)]  # what a unigram model of single characters must find
    assert ours == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert found.chat_template == tokenizer.chat_template


def byte_level(cut: Any, **options: Any) -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(["<s>", "a", "b", "ab", "Ġ", "Ġa"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("Ġ", "a")], **options))
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    ("cut", "options", "name"),
    [
        (pre_tokenizers.ByteLevel(add_prefix_space=False), {}, "gpt-2"),
        (
            pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]),
            {},
            "smollm",
        ),
        (
            pre_tokenizers.Sequence(
                [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
            ),
            {"ignore_merges": True},
            "llama-bpe",
        ),
        (
            pre_tokenizers.Sequence(
                [pre_tokenizers.Split(Regex("[aeiou]"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
            ),
            {},
            None,
        ),
    ],
)
def test_byte_level_bpe_is_named_as_llama_cpp_cuts_text_or_refused(cut: Any, options: Any, name: str | None) -> None:
    tokenizer = byte_level(cut, **options)
    if name is None:
        with pytest.raises(BaseModelError, match="cuts text in a way"):
            read_vocabulary(tokenizer, 8)
        return
    found = read_vocabulary(tokenizer, 8)
    assert (found.model, found.pre, found.merges) == ("gpt2", name, ("a b", "Ġ a"))
    assert found.tokens == ("<s>", "a", "b", "ab", "Ġ", "Ġa", "[PAD6]", "[PAD7]") and found.scores is None


def test_sentencepiece_like_bpe_gets_scores_in_the_order_of_its_merges() -> None:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), SPACE, "a", "b", "ab", f"{SPACE}ab"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    merges = [("a", "b"), (SPACE, "ab")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    found = read_vocabulary(fast, len(pieces))
    assert (found.model, found.space_first, found.add_bos) == ("llama", True, True)
    assert found.scores is not None and found.scores[-2] > found.scores[-1] > found.scores[-3]
    assert gguf.TokenType(found.types[3]).name == "BYTE" and gguf.TokenType(found.types[0]).name == "UNKNOWN"


def test_other_tokenizers_are_refused() -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "word": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(BaseModelError, match=r"no tokenizer like this base's \(WordLevel\)"):
        read_vocabulary(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"), 4)
    with pytest.raises(BaseModelError, match="token 98, the model 40 rows"):
        read_vocabulary(build_tokenizer(), 40)
    with pytest.raises(BaseModelError, match="no tokenizer.json"):
        read_vocabulary(object(), 40)


def test_the_embedded_base_can_be_exported(tmp_path: Path) -> None:
    try:
        tokenizer = load_base(MICRO_BASE).tokenizer
    except T2LError as problem:
        pytest.skip(f"needs the embedded base: {problem.message}")
    values, found = read(write_gguf_model(MICRO_BASE, None, tmp_path / "base.gguf"))
    assert len(values["tokenizer.ggml.tokens"]) == len(tokenizer) == found["token_embd.weight"].shape[0]
    assert "output.weight" not in found  # tied
    assert math.isfinite(sum(tensor.sum().item() for tensor in found.values()))
