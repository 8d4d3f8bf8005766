"""Our encoder for `model_type: new` is transformers' GteModel, with the rotary rule of the published checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from helpers import fill
from t2l.encoders import encoder_from_config
from t2l.encoders.gte import inverse_frequencies
from t2l.errors import DescriptionWarning, EncoderError
from t2l.model import TextToLora
from t2l.reference import import_checkpoint
from test_reference import make_args, make_state, save

TEXTS = ["sort the words", "copy", "is it true that the words sort the words that copy it"]
SCALINGS: list[dict[str, Any] | None] = [
    None,
    {"type": "ntk", "factor": 2.0},
    {"type": "ntk", "factor": 8.0, "mixed_b": 0.625},
]


def write_model(folder: Path, scaling: dict[str, Any] | None = None, types: int = 2, prefix: str = "new.") -> Any:
    """A folder as the hub has them, with code that must not run; returns transformers' model of the same weights."""
    gte = pytest.importorskip("transformers.models.gte", reason="this transformers has no GteModel to compare with")
    values = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    values |= {"vocab_size": 20, "type_vocab_size": types, "layer_norm_eps": 1e-12, "max_position_embeddings": 32}
    theirs = gte.GteModel(gte.GteConfig(**values, pad_token_id=0, hidden_act="gelu")).eval()
    fill(theirs, seed=3, std=0.4)
    pairs, factor = range(4), 1.0 if scaling is None else scaling["factor"]
    mixed = None if scaling is None else scaling.get("mixed_b")
    base = 500.0 * (1.0 if mixed else factor)
    found = [base ** (-2 * pair / 8) for pair in pairs]
    if mixed:
        a = math.log(factor) / 4**mixed
        found = [value / math.exp(a * (pair + 1) ** mixed) for pair, value in zip(pairs, found, strict=True)]
    else:
        found = [value / factor ** (2 / 8) for value in found]
    theirs.rotary_emb.inv_freq = torch.tensor(found)
    save_file({prefix + name: part for name, part in old_names(theirs).items()}, folder / "model.safetensors")
    config = {**values, "model_type": "new", "hidden_act": "gelu", "rope_theta": 500.0, "rope_scaling": scaling}
    config |= {"position_embedding_type": "rope", "layer_norm_type": "layer_norm", "pack_qkv": True}
    config |= {"auto_map": {"AutoConfig": "own.NewConfig", "AutoModel": "own.NewModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise RuntimeError('foreign code ran')")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_cls_token": true, "pooling_mode_max_tokens": false}'
    )
    steps = [{"idx": 0, "type": "sentence_transformers.models.Transformer"}]
    (folder / "modules.json").write_text(json.dumps([*steps, {"type": "sentence_transformers.models.Pooling"}]))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({word for text in TEXTS for word in text.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    tokenizer.save(str(folder / "tokenizer.json"))
    return theirs


def old_names(model: Any) -> dict[str, Tensor]:
    """The names and joined projections of the published files."""
    theirs = model.state_dict()
    tensors = {name: part for name, part in theirs.items() if name.startswith("embeddings.")}
    for depth in range(2):
        old, new = f"encoder.layer.{depth}.", f"layers.{depth}."
        for kind in ("weight", "bias"):
            joined = [theirs[f"{new}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            tensors[f"{old}attention.qkv_proj.{kind}"] = torch.cat(joined)
            tensors[f"{old}attention.o_proj.{kind}"] = theirs[f"{new}self_attn.o_proj.{kind}"]
            tensors[f"{old}mlp.down_proj.{kind}"] = theirs[f"{new}mlp.down_proj.{kind}"]
            tensors[f"{old}attn_ln.{kind}"] = theirs[f"{new}post_attention_layernorm.{kind}"]
            tensors[f"{old}mlp_ln.{kind}"] = theirs[f"{new}post_mlp_layernorm.{kind}"]
        joined = [theirs[f"{new}mlp.{part}_proj.weight"] for part in ("up", "gate")]
        tensors[f"{old}mlp.up_gate_proj.weight"] = torch.cat(joined)
    return {name: part.contiguous().clone() for name, part in tensors.items()}


def encoder(folder: Path | str, dim: int | None = None) -> Any:
    return encoder_from_config({"kind": "sentence-transformer", "model": str(folder), "dim": dim})


def expected(model: Any, folder: Path, texts: list[str]) -> Tensor:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with torch.no_grad():
        ids = [torch.tensor([tokenizer.encode(f"{text}.").ids]) for text in texts]
        rows = torch.stack([model(input_ids=row).last_hidden_state[0, 0] for row in ids])
    return rows / rows.norm(dim=-1, keepdim=True) * math.sqrt(32)


@pytest.mark.parametrize(("scaling", "types"), [(scaling, types) for scaling in SCALINGS for types in (2, 0)])
def test_embeddings_are_those_of_an_independent_implementation(
    scaling: dict[str, Any] | None, types: int, tmp_path: Path
) -> None:
    theirs = write_model(tmp_path, scaling, types, prefix="new." if types else "")
    ours = encoder(tmp_path)
    found = ours.encode(TEXTS)
    torch.testing.assert_close(found, expected(theirs, tmp_path, TEXTS), atol=2e-5, rtol=0)
    assert torch.equal(found, torch.cat([ours.encode([text]) for text in TEXTS]))
    assert ours.dim == 32 and ours.to_config()["kind"] == "sentence-transformer"


def test_the_published_rule() -> None:
    large = {"hidden_size": 1024, "num_attention_heads": 16, "rope_theta": 160000}
    rule = inverse_frequencies({**large, "rope_scaling": {"type": "ntk", "factor": 2.0}})
    by_hand = [320000 ** (-2 * pair / 64) / 2 ** (2 / 64) for pair in range(32)]
    torch.testing.assert_close(rule, torch.tensor(by_hand), rtol=1e-6, atol=0)
    plain = inverse_frequencies({**large, "rope_scaling": None})
    torch.testing.assert_close(plain, torch.tensor([160000 ** (-pair / 32) for pair in range(32)]), rtol=1e-6, atol=0)


def test_it_is_found_in_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--someone--gte" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    theirs = write_model(snapshot, SCALINGS[1])
    (tmp_path / "models--someone--gte" / "refs").mkdir()
    (tmp_path / "models--someone--gte" / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = encoder("someone/gte", dim=32)
    torch.testing.assert_close(found.encode(TEXTS), expected(theirs, snapshot, TEXTS), atol=2e-5, rtol=0)
    assert found.identity == "sentence-transformer/someone/gte@main"


def test_a_long_text_is_cut_with_a_warning(tmp_path: Path) -> None:
    write_model(tmp_path)
    ours = encoder(tmp_path)
    with pytest.warns(DescriptionWarning, match="44 tokens; the encoder reads 32"):
        long = ours.encode(["sort " * 41])
    assert torch.equal(long, ours._reader.embed(["sort " * 30]) / ours._reader.embed(["sort " * 30]).norm() * 32**0.5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "yarn"),
        ({"rope_scaling": {"type": "ntk", "factor": 0.5}}, "only 'ntk' by 1 or more"),
        ({"position_embedding_type": "absolute"}, "only 'rope'"),
        ({"logn_attention_scale": True}, "logn_attention_scale: True"),
        ({"hidden_act": "sinus"}, "KeyError: 'sinus'"),
        ({"num_hidden_layers": 3}, r"missing encoder\.layer\.2"),
        ({"type_vocab_size": 0}, "unexpected embeddings.token_type_embeddings"),
        ("mean", "pooling_mode_mean_tokens; only the first token"),
        ("dense", "Dense; only the first token"),
        ("nan", "NaN"),
        ("tokenizer", "cannot be loaded"),
    ],
)
def test_another_model_of_the_kind_is_refused(change: Any, says: str, tmp_path: Path) -> None:
    write_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if isinstance(change, dict):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
    elif change == "mean":
        (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    elif change == "dense":
        (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense"}]')
    elif change == "nan":
        tensors = load_file(tmp_path / "model.safetensors")
        save_file({name: part * torch.nan for name, part in tensors.items()}, tmp_path / "model.safetensors")
    else:
        (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(EncoderError, match=says):
        encoder(tmp_path).encode(["sort"])


def test_an_imported_checkpoint_needs_no_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the reference's files to an adapter, with the encoder named in its settings."""
    monkeypatch.setattr("test_reference.WIDTH", 32)
    place = tmp_path / "encoder"
    place.mkdir()
    write_model(place, SCALINGS[1])
    args = make_args(emb_model=str(place))
    import_checkpoint(save(tmp_path / "reference", args, make_state(args))).save_pretrained(tmp_path / "ours")
    (adapter,) = TextToLora.from_pretrained(tmp_path / "ours").generate(["sort the words"])
    assert all(bool(part.any()) for part in adapter.weights.b.values())
