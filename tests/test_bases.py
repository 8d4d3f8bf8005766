"""A base answers as plain greedy decoding does, in batches and under adapters; what cannot be loaded is explained."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import MICRO_BASE, random_weights, save_tiny_llama, tiny_llama
from lab.world.base import EOS, base_config, build_tokenizer
from t2l import bases
from t2l.base_names import locate, source_identity
from t2l.bases import Base, load_base
from t2l.errors import BaseModelError, T2LError
from t2l.lora import LoraSpec

SOURCE = Path(__file__).resolve().parents[1] / "src"
TEXTS = ["oslo", "rome, paris, berlin", "7+5", "a", "the quick brown fox jumps over the lazy dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture
def base(folder: Path) -> Base:
    return load_base(folder)


def greedy(base: Base, model: Any, text: str, max_new_tokens: int, ends: set[int]) -> str:
    """One text, no cache, no padding: the definition."""
    ids = base.tokenizer(base.prompt(text), add_special_tokens=not base.has_chat_template)["input_ids"]
    new: list[int] = []
    with torch.no_grad():
        while len(new) < max_new_tokens:
            token = int(model(torch.tensor([ids + new])).logits[0, -1].argmax())
            if token in ends:
                break
            new.append(token)
    return base.tokenizer.decode(new, skip_special_tokens=True)


def test_a_batch_answers_as_one_text_at_a_time_does(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "_BATCH", 3)  # several batches, the last one short
    ends = {base.tokenizer.eos_token_id}
    expected = [greedy(base, base.model, text, 12, ends) for text in TEXTS]
    assert base.answer(TEXTS, max_new_tokens=12) == expected
    assert len(set(expected)) > 2
    assert base.answer([], max_new_tokens=12) == []


def test_an_answer_stops_at_any_end_and_leaves_it_out(base: Base) -> None:
    whole = base.answer(TEXTS, max_new_tokens=12)
    end = whole[1][4]
    base.model.generation_config.eos_token_id = [base.tokenizer.convert_tokens_to_ids(end), 5]
    answers = base.answer(TEXTS, max_new_tokens=12)
    assert answers[1] == whole[1][: whole[1].index(end)]
    assert all(answer == text.split(end)[0] for answer, text in zip(answers, whole, strict=True) if "!" not in text)
    assert base.ends() == {base.tokenizer.convert_tokens_to_ids(end), 5, base.tokenizer.convert_tokens_to_ids(EOS)}


def test_the_base_cannot_bring_sampling_or_penalties(base: Base) -> None:
    expected = base.answer(TEXTS, max_new_tokens=12)
    base.model.generation_config.update(
        do_sample=True, temperature=3.0, repetition_penalty=9.0, no_repeat_ngram_size=1, min_new_tokens=11
    )
    assert base.answer(TEXTS, max_new_tokens=12) == expected


def test_each_text_may_have_its_own_adapter(base: Base) -> None:
    spec = LoraSpec.from_base(base.model.config, rank=2)
    weights = random_weights(spec, 2, std=0.6)
    ends = {base.tokenizer.eos_token_id}
    merged = []
    for sample in range(2):
        model = copy.deepcopy(base.model)
        for group in spec.groups:
            for depth, path in enumerate(group.module_paths()):
                change = weights.b[group.key][sample, depth] @ weights.a[group.key][sample, depth]
                model.get_submodule(path).weight += spec.scaling * change
        merged.append(model)
    plain = base.answer(TEXTS, max_new_tokens=8)
    rows = [1, -1, 0, 0, 1]
    answers = base.answer(TEXTS, spec=spec, weights=weights, index=rows, max_new_tokens=8)
    models = [base.model if row == -1 else merged[row] for row in rows]
    assert answers == [greedy(base, model, text, 8, ends) for model, text in zip(models, TEXTS, strict=True)]
    assert answers != plain and answers[1] == plain[1]
    one = base.answer(TEXTS, spec=spec, weights=weights.select(1), max_new_tokens=8)
    assert one == base.answer(TEXTS, spec=spec, weights=weights, index=torch.tensor([1] * 5), max_new_tokens=8)
    two = base.answer(TEXTS[:2], spec=spec, weights=weights, max_new_tokens=8)
    assert two == [answers_of(base, spec, weights, 0, TEXTS[0]), answers_of(base, spec, weights, 1, TEXTS[1])]
    assert base.answer(TEXTS, max_new_tokens=8) == plain  # nothing stays behind


def answers_of(base: Base, spec: LoraSpec, weights: Any, row: int, text: str) -> str:
    return base.answer([text], spec=spec, weights=weights, index=[row], max_new_tokens=8)[0]


def test_prompts(base: Base) -> None:
    assert base.prompt("oslo") == "<s>oslo>"
    assert base.note is None
    base.tokenizer.chat_template = None
    assert base.prompt("oslo") == "oslo"
    assert base.note is not None and "chat template" in base.note
    (ids,) = base._encode(["oslo"], 4)
    assert base.tokenizer.convert_ids_to_tokens(ids) == ["<s>", "o", "s", "l", "o"]


def test_dtypes(folder: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    tiny_llama().half().save_pretrained(half)
    build_tokenizer().save_pretrained(half)
    assert load_base(half).model.dtype == torch.float32  # small, so exact on the CPU
    assert load_base(half, dtype="float16").model.dtype == torch.float16
    assert load_base(folder, dtype=torch.bfloat16).model.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in load_base(folder).model.parameters())
    with pytest.raises(BaseModelError, match="bfloat16"):
        load_base(folder, dtype="bflot16")


def test_the_terminal_stays_silent(folder: Path) -> None:
    program = (
        "import sys; from t2l.bases import load_base\n"
        "load_base(sys.argv[1]).answer(['a'], max_new_tokens=2)\n"
        "from transformers.utils import logging; print(logging.is_progress_bar_enabled(), logging.get_verbosity())"
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    env |= {"PYTHONPATH": str(SOURCE), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], env=env, capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "True 30\n"  # transformers' own settings are back


@pytest.mark.parametrize(
    ("texts", "options", "problem"),
    [
        ("oslo", {}, "takes a list"),
        (["oslo"], {"max_new_tokens": 0}, "at least 1"),
        (["x" * 510], {}, "has room for 512"),
        (["a\udc80"], {}, "not valid UTF-8"),
    ],
)
def test_inputs_that_cannot_be_answered(base: Base, texts: Any, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(T2LError, match=problem):
        base.answer(texts, **options)


def test_adapters_that_do_not_fit(base: Base) -> None:
    spec = LoraSpec.from_base(base.model.config, rank=2)
    weights = random_weights(spec, 2)
    with pytest.raises(T2LError, match="both their spec and their weights"):
        base.answer(TEXTS, weights=weights)
    with pytest.raises(T2LError, match="for 2 texts; there are 5"):
        base.answer(TEXTS, spec=spec, weights=weights)
    other = base_config()
    other.hidden_size, other.intermediate_size = 64, 48
    wide = LoraSpec.from_base(other, rank=2)
    with pytest.raises(BaseModelError, match="does not fit"):
        base.answer(["a"], spec=wide, weights=random_weights(wide))


def test_without_a_chat_template_an_empty_text_is_nothing(base: Base) -> None:
    base.tokenizer.chat_template = None
    base.tokenizer._tokenizer.post_processor = None
    with pytest.raises(T2LError, match="is empty"):
        base.answer([""])


def test_a_tokenizer_of_another_model(base: Base) -> None:
    base.tokenizer.add_tokens(["oslo"])
    with pytest.raises(BaseModelError, match="do not belong together"):
        base.answer(["oslo"])


def test_names_that_lead_nowhere(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def problem(name: str | Path) -> str:
        with pytest.raises(BaseModelError) as caught:
            load_base(name)
        return str(caught.value)

    assert MICRO_BASE in problem("t2l-embeded-base")
    assert str(folder) in problem(folder.with_name("tinny"))
    assert "hf auth login" in problem("nobody/has-such-a-model")
    assert "is empty" in problem(" ")
    (tmp_path / "file").write_text("x")
    assert "is a file" in problem(tmp_path / "file")
    assert "no config.json" in problem(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "is an adapter" in problem(tmp_path)
    monkeypatch.delenv("T2L_BASES")
    assert "hf auth login" in problem(MICRO_BASE)


def test_a_base_lies_under_its_name_in_a_folder_of_bases(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine", "someone/large-1b", "HuggingFaceTB/SmolLM2-135M-Instruct"):
        (tmp_path / "bases" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bases" / name).symlink_to(folder)
    monkeypatch.setenv("T2L_BASES", str(tmp_path / "bases"))
    base = load_base("someone/large-1b")
    assert base.name == base.model.config.name_or_path == base.model.name_or_path == "someone/large-1b"
    assert locate("mine") == str(tmp_path / "bases" / "mine")
    assert locate("smollm2-135m") == str(tmp_path / "bases" / "HuggingFaceTB" / "SmolLM2-135M-Instruct")
    assert source_identity("smollm2-135m") is None
    with pytest.raises(BaseModelError, match="Did you mean 'mine'"):
        load_base("mime")
    with pytest.raises(BaseModelError):
        locate("../bases/mine")


@pytest.mark.parametrize("damage", ["missing", "truncated", "misshapen", "foreign config", "no tokenizer", "code"])
def test_a_damaged_base_is_refused(damage: str, folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    name = "model.layers.1.mlp.up_proj.weight"
    config = json.loads((tmp_path / "config.json").read_text())
    if damage == "missing":
        del tensors[name]
        save_file(tensors, weights, metadata={"format": "pt"})
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "misshapen":
        save_file({**tensors, name: tensors[name][:-1].contiguous()}, weights, metadata={"format": "pt"})
    elif damage == "foreign config":
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    elif damage == "no tokenizer":
        (tmp_path / "tokenizer.json").unlink()
    else:
        config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(BaseModelError, match="lacks 1 weights" if damage == "missing" else "base model") as caught:
        load_base(tmp_path)
    if damage == "code":
        assert "T2L_TRUST_REMOTE_CODE=1" in str(caught.value)
        assert not (tmp_path / "ran").exists()
