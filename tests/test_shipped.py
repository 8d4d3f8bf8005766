"""The real checkpoint that ships: small, for its base, the default, and as good on the demo as its record says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import t2l
from t2l import compiled
from t2l.adapter import Adapter
from t2l.base_structure import base_config
from t2l.bases import Base
from t2l.comparison import answer_told, told
from t2l.demo.gallery import gallery, shipped_record
from t2l.demo.measure import MAX_NEW_TOKENS
from t2l.demo.tasks import demo_tasks
from t2l.errors import CheckpointError
from t2l.evaluation.statistics import gate_of
from t2l.lora import LoraSpec, LoraWeights
from t2l.model import TENSOR_FILE, TextToLora, default_checkpoint, reading_lora, shipped_checkpoint
from t2l.prompting import NONE

REVIEW = "Say whether the review is positive or negative."


@pytest.fixture(scope="module")
def folder() -> Path:
    try:
        return shipped_checkpoint("smollm2-135m")
    except CheckpointError:
        pytest.skip("needs the checkpoint smollm2-135m, which is not here")


@pytest.fixture
def as_shipped(folder: Path, smollm2_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a user has: the default checkpoint, and its base converted."""
    monkeypatch.setenv("T2L_CACHE", str(smollm2_cache))
    monkeypatch.delenv("T2L_CHECKPOINT")
    return folder


def test_it_is_small_and_the_default(as_shipped: Path) -> None:
    assert (as_shipped / TENSOR_FILE).stat().st_size <= 25e6
    assert default_checkpoint() == "smollm2-135m"
    assert (as_shipped / "README.md").is_file()  # data, licences, figures, limits


def test_one_lora_that_reads_lies_beside_it(as_shipped: Path, smollm2: Base) -> None:
    """Its card says how it is prompted; it answers with a label that the description names."""
    folder = reading_lora(as_shipped)
    assert folder is not None and reading_lora(folder) is None and reading_lora(None) is None
    lora, asked = Adapter.load(folder), (REVIEW, "The soup was cold and the waiter was rude.")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3e6
    ((text,), framed) = told([asked]), smollm2.with_system(NONE)
    said = (folder / "README.md").read_text(encoding="utf-8").split("`")
    (frame,) = [part for part in said if "{description}" in part]
    filled = frame.replace("\\n", "\n").replace("{description}", REVIEW).replace("{input}", asked[1])
    assert filled == framed.prompt(text)
    assert answer_told(framed, [asked], lora=lora, max_new_tokens=8)[0] in ("positive", "negative")


def test_it_fits_its_base(as_shipped: Path) -> None:
    made = TextToLora.from_pretrained()
    modules = [group.key for group in made.spec.groups]
    again = LoraSpec.from_base(
        base_config("smollm2-135m"), target_modules=modules, rank=made.spec.rank, alpha=made.spec.alpha, dropout=0.0
    )
    assert made.spec.groups == again.groups and made.spec.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert made.system == NONE


def test_the_readme_example_does_what_it_says(as_shipped: Path, smollm2: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_base", lambda *_: smollm2.with_system(NONE))
    f = t2l.compile(REVIEW)
    assert f("The soup was cold and the waiter was rude.") == "negative"
    assert f(["We will be back!", "Never again."]) == ["positive", "negative"]


def test_the_readme_tells_the_counts_of_the_record() -> None:
    record = shipped_record()
    if record is None:
        pytest.skip("needs the measured demo of the checkpoint smollm2-135m, which is not here")
    readme = " ".join((Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8").split())
    alone, told, adapter = (record["right"][row] for row in ("base", "description-in-prompt", "adapter"))
    assert (
        f"Of the demo's {record['inputs']} answers {adapter} are right with the adapter, {told} of the base told the "
        f"task, {alone} of the base alone"
    ) in readme
    alone, told, adapter = (record["mentioned"][row] for row in ("base", "description-in-prompt", "adapter"))
    assert f"inside a longer one counts, {adapter}, {told} and {alone}." in readme


def test_the_record_of_the_demo_can_be_measured_again(as_shipped: Path, smollm2: Base) -> None:
    record: Any = shipped_record()
    assert record is not None, "run: t2l demo --all --keep"
    works, fails = gallery(record)
    made = TextToLora.from_pretrained()
    names = {one["name"] for one in (works[0], works[-1], fails[0])}
    tasks = [task for task in demo_tasks() if task.name in names]
    adapters = made.generate([task.description for task in tasks])
    answers = smollm2.with_system(made.system).answer(
        [example.text for task in tasks for example in task.examples],
        spec=made.spec,
        weights=LoraWeights.cat([adapter.weights for adapter in adapters]),
        index=[row for row, task in enumerate(tasks) for _ in task.examples],
        max_new_tokens=MAX_NEW_TOKENS,
    )
    recorded = {one["name"]: [example["adapter"] for example in one["examples"]] for one in record["tasks"]}
    assert answers == [answer for task in tasks for answer in recorded[task.name]]


def test_descriptions_do_the_work(as_shipped: Path, smollm2: Base) -> None:
    """The gate on twelve tasks of the demo: a change that makes descriptions stop working fails here."""
    record: Any = shipped_record()
    names = [one["name"] for one in gallery(record)[0]]
    tasks = [task for task in demo_tasks() if task.name in names]
    made = TextToLora.from_pretrained()
    texts = [task.description for task in tasks]
    weights = LoraWeights.cat([*(one.weights for one in made.generate(texts)), made.blend(texts).weights])
    count = len(tasks)
    adapter_of = {"t2l": range(count), "other-task": [*range(1, count), 0], "static": [count] * count}
    asked = [
        (row, place, document)
        for row, index in adapter_of.items()
        for place in range(count)
        for document in range(len(tasks[place].examples))
    ]
    answers = smollm2.with_system(made.system).answer(
        [tasks[place].examples[document].text for _, place, document in asked],
        spec=made.spec,
        weights=weights,
        index=[adapter_of[row][place] for row, place, _ in asked],
        max_new_tokens=16,
    )
    items = [
        {"row": row, "task": tasks[place].name, "document": document, "number": 0,
         "right": float(tasks[place].is_right(answer, tasks[place].examples[document]))}
        for (row, place, document), answer in zip(asked, answers, strict=True)
    ]  # fmt: skip
    gate = gate_of(items, judged=True)
    assert gate.passed, gate.verdict
    assert gate.accuracy["t2l"][""].mean > 2 * max(gate.accuracy[row][""].mean for row in ("other-task", "static"))
