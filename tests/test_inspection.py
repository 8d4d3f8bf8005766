"""Folders are recognised for what they are; norms are those of the weight change; the heat map is a picture of them."""

from __future__ import annotations

import json
import math
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from helpers import random_weights, tiny_base, untrained
from t2l import inspection
from t2l.adapter import Adapter
from t2l.cli import app
from t2l.encoders import OneHotEncoder
from t2l.errors import AdapterError, CheckpointError, DescriptionError, OutputError, T2LError
from t2l.hypernet import HyperNetwork
from t2l.inspection import ADAPTER, CHECKPOINT, REFERENCE, NormTable, save_heatmap
from t2l.lora import LoraSpec, ModuleGroup
from t2l.model import TextToLora

ATTENTION = "model.layers.{layer}.self_attn."
SPEC = LoraSpec(  # q_proj has two shapes, v_proj is adapted in one layer only
    (
        ModuleGroup("q_proj@6x4", f"{ATTENTION}q_proj", (0, 2), 6, 4),
        ModuleGroup("q_proj@6x5", f"{ATTENTION}q_proj", (3,), 6, 5),
        ModuleGroup("v_proj", f"{ATTENTION}v_proj", (2,), 6, 3),
    ),
    num_layers=5,
    rank=2,
    base_model="someone/tiny",
)
NAMES = ["sort the words", "add three"]


def adapter(description: str = "sort the words") -> Adapter:
    return Adapter(SPEC, random_weights(SPEC), {"description": description})


def checkpoint(folder: Path) -> TextToLora:
    t2l = untrained(SPEC, NAMES, steps=7)
    t2l.save_pretrained(folder)
    return t2l


def test_norms_are_those_of_the_weight_change() -> None:
    made = adapter()
    table = NormTable.of(made)
    assert table.layers == (0, 2, 3)
    assert table.modules == ("q_proj", "v_proj")
    assert [[norm is None for norm in row] for row in table.norm_LM] == [[False, True], [False, False], [False, True]]
    deltas = []
    for layer, row in zip(table.layers, table.norm_LM, strict=True):
        for module, norm in zip(table.modules, row, strict=True):
            if norm is not None:
                delta = made.delta(f"model.layers.{layer}.self_attn.{module}")
                assert norm == pytest.approx(float(delta.norm()), rel=1e-5)
                deltas.append(delta)
    assert len(deltas) == 4
    together = float(torch.cat([delta.flatten() for delta in deltas]).norm())
    assert table.total == pytest.approx(together, rel=1e-5)


@pytest.mark.parametrize("form", ["portable", "rslora"])
@pytest.mark.parametrize("ours", [True, False])
def test_an_adapter(form, ours: bool, tmp_path: Path) -> None:
    made = adapter()
    made.save(tmp_path / "a", form=form, dtype="bfloat16" if form == "portable" else None)
    if not ours:
        (tmp_path / "a" / "t2l.json").unlink()
    report = inspection.inspect(tmp_path / "a").to_dict()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["kind"] == ADAPTER
    assert report["written_by"] == ("t2l" if ours else "PEFT")
    assert report["form"] == (form if ours else None)
    assert report["provenance"].get("description") == ("sort the words" if ours else None)
    assert report["dtype"] == ("bfloat16" if form == "portable" else "float32")
    assert report["scaling"] == pytest.approx(1.0 if form == "portable" else 16 / math.sqrt(2))
    assert report["adapter_parameters"] == SPEC.num_parameters
    assert report["base_model"] == "someone/tiny"
    assert report["norms"]["total"] == pytest.approx(NormTable.of(made).total, rel=0.01)
    assert sum(len(module["layers"]) for module in report["modules"]) == 4
    with pytest.raises(T2LError, match="is an adapter"):
        inspection.inspect(tmp_path / "a", description="add three")


def test_a_checkpoint(tmp_path: Path) -> None:
    t2l = checkpoint(tmp_path / "c")
    report = inspection.inspect(tmp_path / "c").to_dict()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["kind"] == CHECKPOINT
    assert report["variant"] == "L" and report["embedding_dim"] == 2 and report["trunk_dim"] == 8
    assert report["parameters"] == t2l.hypernetwork.num_parameters == sum(p["parameters"] for p in report["parts"])
    squares = sum(float(parameter.detach().square().sum()) for parameter in t2l.hypernetwork.parameters())
    assert sum(part["norm"] ** 2 for part in report["parts"]) == pytest.approx(squares, rel=1e-5)
    assert {part["part"] for part in report["parts"]} >= {"trunk", "head.linears.v_proj"}
    assert report["encoder"] == {"kind": "one-hot", "names": NAMES}
    assert report["encoder_identity"] == t2l.encoder.identity
    assert report["metadata"] == {"steps": 7} and report["digest"] == t2l.digest
    assert report["norms"] is None


def test_a_checkpoint_with_a_description(tmp_path: Path) -> None:
    t2l = checkpoint(tmp_path / "c")
    report = inspection.inspect(tmp_path / "c", description=" add three ")
    (made,) = t2l.generate(["add three"])
    assert report.norms == NormTable.of(made)
    assert report.norms != inspection.inspect(tmp_path / "c", description=NAMES[0]).norms
    with pytest.raises(DescriptionError, match="add three"):
        inspection.inspect(tmp_path / "c", description="add tree")


def test_a_checkpoint_whose_encoder_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(tmp_path / "c")

    def not_here(self: OneHotEncoder) -> str:
        raise T2LError("not installed")

    monkeypatch.setattr(OneHotEncoder, "identity", property(not_here))
    monkeypatch.setattr(TextToLora, "from_pretrained", classmethod(lambda cls, source: checkpoint_in_memory()))
    assert inspection.inspect(tmp_path / "c").facts["encoder_identity"] is None


def checkpoint_in_memory() -> TextToLora:
    return TextToLora(OneHotEncoder(NAMES), HyperNetwork(SPEC, 2, trunk_dim=8, head_dim=4))


def test_a_checkpoint_of_the_reference_implementation(shared_dir: Path, tmp_path: Path) -> None:
    source = shared_dir / "fixtures" / "sakana-checkpoints" / "L-sft-s1"
    for place in (source, source / "hypermod.pt"):
        report = inspection.inspect(place)
        assert report.kind == REFERENCE
        assert report.facts["variant"] == "L"
    deeper = tmp_path / "run" / "checkpoints" / "it_100"  # as training leaves it: settings above, state below
    deeper.mkdir(parents=True)
    for name in ("args.yaml", "adapter_config.json"):
        shutil.copy(source / name, tmp_path / "run")
    shutil.copy(source / "hypermod.pt", deeper)
    assert inspection.inspect(tmp_path / "run").kind == REFERENCE


def test_what_is_none_of_these(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a checkpoint .* nor an adapter"):
        inspection.inspect(tmp_path)
    with pytest.raises(CheckpointError, match="no folder"):
        inspection.inspect(tmp_path / "missing")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="not the config of a t2l checkpoint"):
        inspection.inspect(tmp_path)


def test_the_heat_map(tmp_path: Path) -> None:
    from matplotlib.image import imread

    table = NormTable.of(adapter())
    target = save_heatmap(table, tmp_path / "deep" / "map.png", title="costs $5 and $6")
    picture = imread(target)
    assert picture.ndim == 3 and min(picture.shape[:2]) > 100
    colours = {tuple(pixel) for pixel in picture.reshape(-1, picture.shape[2]).round(2).tolist()}
    assert len(colours) > 20  # axes, numbers, colours of the norms: not a blank sheet
    before = target.read_bytes()
    with pytest.raises(OutputError, match="already exists"):
        save_heatmap(table, target)
    assert target.read_bytes() == before
    save_heatmap(table, target, title="another", force=True)
    assert target.read_bytes() != before
    assert [path.name for path in target.parent.iterdir()] == ["map.png"]
    with pytest.raises(OutputError, match=r"not called so\.\nTry .*map\.png"):
        save_heatmap(table, tmp_path / "map.pdf")
    with pytest.raises(OutputError, match="Cannot write"):
        save_heatmap(table, target / "map.png")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(T2LError, match=r"t2l\[plot\]"):
        save_heatmap(NormTable.of(adapter()), tmp_path / "map.png")


def peft_folder(folder: Path, **settings: Any) -> Path:
    """An adapter that PEFT itself wrote."""
    from peft import LoraConfig, get_peft_model

    base = tiny_base(tie_word_embeddings=False)
    config = LoraConfig(**{"r": 2, "target_modules": ["q_proj", "v_proj"], **settings})
    with warnings.catch_warnings():  # PEFT saves a targeted lm_head whole as well, and says so
        warnings.simplefilter("ignore")
        get_peft_model(base, config).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT with transformers
@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"use_dora": True}, ["DoRA"]),
        ({"modules_to_save": ["lm_head"]}, ["whole modules beside the LoRA: ['lm_head']"]),
        ({"rank_pattern": {"q_proj": 4}}, ["ranks that differ between modules: {'q_proj': 4}"]),
        ({"alpha_pattern": {"q_proj": 4}}, ["scalings that differ between modules: {'q_proj': 4}"]),
        ({"bias": "all"}, ["trained biases: 'all'"]),
        (
            {"target_modules": ["q_proj", "lm_head"]},
            ["weights of the base itself", "modules in no numbered layer: lm_head"],
        ),
        ("fp8", ["weights stored as float8_e4m3fn"]),
    ],
)
def test_an_adapter_of_another_kind_is_described(settings: Any, kind: list[str], tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "other", **({} if settings == "fp8" else settings))
    if settings == "fp8":
        tensors = load_file(folder / "adapter_model.safetensors")
        eighths = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}
        save_file(eighths, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError):
        Adapter.load(folder)
    report = inspection.inspect(folder).to_dict()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert (report["kind"], report["kind_of_adapter"], report["norms"]) == (ADAPTER, kind, None)
    assert report["peft_type"] == "LORA" and report["r"] == 2 and report["adapter_parameters"] > 100
    assert report["dtypes"] == (["float8_e4m3fn"] if settings == "fp8" else ["float32"])
    assert "PEFT" in report["fix"]
    shown = CliRunner().invoke(app, ["inspect", str(folder)])
    assert shown.exit_code == 0 and kind[0][:20] in shown.output, shown.output
    assert CliRunner().invoke(app, ["inspect", str(folder), "--heatmap", str(tmp_path / "a.png")]).exit_code == 2


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_damaged_adapter_of_another_kind_is_still_damaged(name: str, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "other", use_dora=True)
    (folder / name).write_bytes((folder / name).read_bytes()[:-40])
    with pytest.raises(T2LError, match="not a whole safetensors file|cannot be read as JSON"):
        inspection.inspect(folder)
