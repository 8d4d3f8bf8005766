"""t2l.compile: a description as a function, made once, the same as the adapter by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import t2l
from helpers import MICRO_BASE, MICRO_CHECKPOINT, save_tiny_llama, untrained
from t2l import compiled
from t2l.adapter import Adapter
from t2l.bases import load_base
from t2l.encoders.minilm import MiniLmEncoder
from t2l.errors import BaseModelError, CheckpointError, DescriptionError
from t2l.model import TextToLora

TASK = "Give the last word."


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """No function or model is kept from test to test."""
    kept: Any = (compiled._compiled, compiled._checkpoint, compiled._base)
    yield
    for cache in kept:
        cache.cache_clear()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("compiled")
    return untrained(save_tiny_llama(where / "base"), MiniLmEncoder()).save_pretrained(where / "checkpoint")


def test_a_function_answers_as_the_adapter_does(checkpoint: Path, tmp_path: Path) -> None:
    f = t2l.compile(TASK, checkpoint=checkpoint)
    made = TextToLora.from_pretrained(checkpoint)
    (adapter,) = made.generate([TASK])
    base = load_base(str(made.spec.base_model))
    by_hand = base.answer(["red", "green"], spec=adapter.spec, weights=adapter.weights, max_new_tokens=5)
    assert f(["red", "green"], max_new_tokens=5) == [answer.strip() for answer in by_hand]
    assert f("red", max_new_tokens=5) == by_hand[0].strip()
    assert f([]) == []
    assert f.adapter.digest == adapter.digest
    assert Adapter.load(f.save(tmp_path / "saved")).provenance["description"] == TASK
    assert TASK in repr(f)


def test_a_description_is_compiled_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    f = t2l.compile(TASK, checkpoint=checkpoint)
    monkeypatch.setattr(TextToLora, "generate", None)  # would fail if it were called
    assert t2l.compile(f"  {TASK}\n", checkpoint=str(checkpoint)) is f
    assert t2l.compile(TASK, checkpoint=checkpoint).base is f.base


def test_the_key_names_what_made_the_adapter(checkpoint: Path) -> None:
    f = t2l.compile(TASK, checkpoint=checkpoint)
    compiled._compiled.cache_clear()
    assert t2l.compile(TASK, checkpoint=checkpoint).key == f.key
    assert t2l.compile("Give the first word.", checkpoint=checkpoint).key != f.key
    assert len(f.key) == 64


def test_the_default_is_the_checkpoint_that_is_named_nowhere_else(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T2L_CHECKPOINT", str(checkpoint))
    first = t2l.compile(TASK)
    assert first is t2l.compile(TASK, checkpoint=checkpoint)
    monkeypatch.setenv("T2L_CHECKPOINT", str(MICRO_CHECKPOINT))
    assert t2l.compile(TASK).key != first.key


def test_what_cannot_be_compiled_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(DescriptionError):
        t2l.compile(" ", checkpoint=tmp_path / "none")  # before anything is loaded
    with pytest.raises(CheckpointError):
        t2l.compile(TASK, checkpoint=tmp_path / "none")
    with pytest.raises(BaseModelError):
        t2l.compile(TASK, checkpoint=checkpoint, base=MICRO_BASE)
