"""The verbs combine and export, and --strength: what they write and print, and what they refuse before any work."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import pytest
import torch

from command import document, refused, t2l
from helpers import save_tiny_llama, untrained
from t2l.adapter import Adapter
from t2l.bases import load_base
from t2l.model import TextToLora

NAMES = ["sort the words", "add three", "say it backwards"]


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, a checkpoint for it that knows `NAMES`, and the adapters of the first two."""
    where = tmp_path_factory.mktemp("assets")
    made = untrained(save_tiny_llama(where / "base"), NAMES)
    made.save_pretrained(where / "checkpoint")
    for name, adapter in zip(("sort", "add"), made.generate(NAMES[:2]), strict=True):
        adapter.save(where / name)
    return where


@pytest.fixture
def checkpoint(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return assets / "checkpoint"


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


PATH = "model.layers.1.self_attn.q_proj"


def test_strength_on_generate_scales_the_folder(checkpoint: Path, assets: Path) -> None:
    t2l("generate", NAMES[0], "-c", checkpoint, "--strength", "-0.5", "-o", "weak")
    weak = Adapter.load("weak")
    close(weak.delta(PATH), -0.5 * Adapter.load(assets / "sort").delta(PATH))
    assert weak.provenance["strength"] == -0.5
    assert "must be a finite number" in refused("generate", "x", "--strength", "nan")


def test_strength_zero_on_run_is_the_base(checkpoint: Path) -> None:
    words = ("run", NAMES[0], "--input", "b a", "-c", checkpoint, "--max-new-tokens", "8")
    found = document(*words, "--strength", "0")
    assert found["strength"] == 0 and found["answers"][0]["base"] == found["answers"][0]["adapted"]
    strong = document(*words, "--strength", "40")
    assert strong["answers"][0]["base"] != strong["answers"][0]["adapted"]


def test_adapters_and_descriptions_are_added(checkpoint: Path, assets: Path) -> None:
    words = ("combine", assets / "sort", NAMES[1], "-w", "0.25", "-w", "2", "-c", checkpoint, "-o", "both")
    report = document(*words)
    assert [part["kind"] for part in report["parts"]] == ["adapter", "description"]
    assert (report["rank"], report["kept"], report["method"]) == (4, None, "cat")
    expected = 0.25 * Adapter.load(assets / "sort").delta(PATH) + 2 * Adapter.load(assets / "add").delta(PATH)
    close(Adapter.load("both").delta(PATH), expected)
    small = document(*words[:-1], "small", "--method", "svd", "--rank", "2")
    assert small["rank"] == 2 and 0 < small["kept"] <= 1
    text = t2l("combine", assets / "sort", assets / "add", "-o", "third").output
    assert "One adapter of rank 4." in text and re.search(r"\+1 x adapter", text)
    assert "already exists" in refused("combine", assets / "sort", assets / "add", "-o", "third")


def test_descriptions_are_blended_as_features(checkpoint: Path) -> None:
    report = document("combine", *NAMES[:2], "--method", "features", "-c", checkpoint, "-o", "blend")
    assert (report["rank"], [part["weight"] for part in report["parts"]]) == (2, [0.5, 0.5])
    expected = TextToLora.from_pretrained(checkpoint).blend(NAMES[:2])
    assert Adapter.load("blend").digest == expected.digest == report["digest"]


def test_what_cannot_be_combined_is_refused(checkpoint: Path, assets: Path) -> None:
    sort = assets / "sort"
    assert "1 weights for 2 parts" in refused("combine", sort, sort, "-w", "1", "-o", "x")
    assert "no adapter folder './nowhere/sort'" in refused("combine", sort, "./nowhere/sort", "-o", "x")
    assert "Only descriptions" in refused("combine", sort, NAMES[0], "--method", "features", "-o", "x")
    assert "no effect with method 'cat'" in refused("combine", sort, sort, "--rank", "2", "-o", "x")
    assert not Path("x").exists()


def test_every_export_is_written_and_reported(checkpoint: Path, assets: Path) -> None:
    base, sort = str(assets / "base"), assets / "sort"
    for target in ("merged", "gguf"):
        out = Path("out") / target
        report = document("export", sort, "--to", target, "--out", out)
        assert (report["to"], report["base_model"]) == (target, base)
        assert out.exists() and report["bytes"] > 1000
    assert load_base(Path("out/merged")).answer(["b a"], max_new_tokens=2)
    assert gguf.GGUFReader("out/gguf").fields["adapter.lora.alpha"].contents() == 2.0
    for form, scaled in (("portable", True), ("rslora", False)):
        document("export", sort, "--to", "peft", "--form", form, "--out", f"out/{form}")
        written = Adapter.load(f"out/{form}")
        assert (written.spec.scaling == 1.0) is scaled is not written.spec.use_rslora
        torch.testing.assert_close(written.delta(PATH), Adapter.load(sort).delta(PATH), rtol=1e-5, atol=1e-5)
    assert "llama-cli" in t2l("export", sort, "--to", "gguf", "--out", "again.gguf").stdout


def test_strength_on_export(checkpoint: Path, assets: Path) -> None:
    document("export", assets / "sort", "--to", "peft", "--strength", "3", "--out", "strong")
    close(Adapter.load("strong").delta(PATH), 3 * Adapter.load(assets / "sort").delta(PATH))


def test_what_cannot_be_exported_is_refused(checkpoint: Path, assets: Path) -> None:
    sort = assets / "sort"
    assert "--form has no effect with --to gguf" in refused(
        "export", sort, "--to", "gguf", "--form", "rslora", "-o", "x"
    )
    assert "--base has no effect" in refused("export", sort, "--to", "peft", "--base", "y", "-o", "x")
    assert "no base model" in refused("export", sort, "--to", "merged", "--base", "./nowhere", "-o", "x")
    assert "not a folder" in refused("export", "nowhere", "--to", "peft", "-o", "x")
    assert t2l("export", sort, "--to", "onnx", "-o", "x").exit_code == 2
    assert not Path("x").exists()
