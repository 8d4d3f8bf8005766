"""The description gate: paired intervals on items with a known effect, and a verdict that says what they say."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from t2l.evaluation.statistics import compared, gate_of, pooled, single


def items(chances: dict[str, float], tasks: int = 12, each: int = 40, seed: int = 0) -> list[dict[str, Any]]:
    """Right answers drawn with a row's chance; rows share their luck on an item, as paired answers do."""
    rng = Random(seed)
    found = []
    for task in range(tasks):
        for document in range(each):
            luck = rng.random()
            for row, chance in chances.items():
                score = float(luck < chance)
                found.append({"task": f"t{task}", "row": row, "number": 0, "document": document, "right": score})
    return found


def test_a_description_that_works_passes_with_the_true_effect_inside_the_interval() -> None:
    gate = gate_of(items({"base": 0.1, "t2l": 0.8, "other-task": 0.3, "static": 0.5}), judged=True)
    assert gate.passed
    against = {c.against: c.difference for c in gate.comparisons if c.task is None}
    assert against["static"].low < 30 < against["static"].high
    assert gate.verdict[0].startswith("The description adds ") and "points over a static adapter" in gate.verdict[0]
    assert f"{against['static'].low:.1f} to {against['static'].high:.1f}" in gate.verdict[0]
    assert "does the work" in gate.verdict[-1]


def test_an_adapter_that_helps_whatever_it_is_told_does_not_pass() -> None:
    gate = gate_of(items({"base": 0.1, "t2l": 0.6, "other-task": 0.6, "junk": 0.6, "static": 0.6}), judged=True)
    assert gate.passed is False
    assert any("base without an adapter" in line and "adds" in line for line in gate.verdict)
    assert "not passed" in gate.verdict[-1]
    worse = gate_of(items({"t2l": 0.3, "other-task": 0.3, "static": 0.6}), judged=True)
    assert worse.passed is False and "loses" in worse.verdict[0] and "worse than none" in worse.verdict[-1]
    beaten = gate_of(items({"t2l": 0.6, "other-task": 0.1, "static": 0.1, "multi-task": 0.6}), judged=True)
    assert beaten.passed is False, "a multi-task LoRA that does as well"


def test_what_was_not_measured_neither_passes_nor_fails() -> None:
    for lacking, chances in (
        ("another task's description", {"base": 0.1, "t2l": 0.9, "static": 0.1}),
        ("an adapter for all tasks", {"base": 0.1, "t2l": 0.9, "other-task": 0.1}),
    ):
        gate = gate_of(items(chances), judged=True)
        assert gate.passed is None and gate.verdict[-1] == f"The gate is open: {lacking} was not measured."
    few = gate_of(items({"t2l": 1.0, "other-task": 0.0, "static": 0.0}, tasks=2, each=1), judged=True)
    assert few.passed is None and "2 items are too few" in few.verdict[-1]
    rows = gate_of(items({"t2l": 0.9, "base": 0.1, "multi-task": 0.1, "other-task": 0.1}))
    assert rows.passed is None and not any("gate" in line for line in rows.verdict), "rows decide no gate"
    shots = gate_of(items({"t2l": 0.9, "1-shot": 0.1, "3-shot": 0.1}))
    assert "over 1 example in the prompt" in shots.verdict[0] and "over 3 examples in the prompt" in shots.verdict[1]


def test_a_difference_is_paired_on_the_items_that_both_answered() -> None:
    some = items({"t2l": 0.5, "static": 0.5})
    found = compared(some, "t2l", "static")
    assert found is not None and found[1].difference.low == found[1].difference.high == 0, "the same answers, no doubt"
    cut = [item for item in some if item["row"] == "t2l" or item["document"] < 5]
    less = compared(cut, "t2l", "static")
    assert less is not None and less[1].items == 60 and less[0]["t0"].items == 5
    assert compared(some, "t2l", "junk") is None


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = Random(1)
    hits = 0
    for trial in range(60):
        interval = single([float(rng.random() < 0.4) for _ in range(80)], seed=trial)
        hits += interval.low <= 40 <= interval.high
    assert 51 <= hits <= 60
    hits = 0
    for trial in range(60):  # tasks of different difficulty, a few items each
        tasks = [[float(rng.random() < 0.4 + 0.3 * side) for _ in range(10)] for side in (-1, 0, 1) for _ in range(5)]
        interval = pooled(tasks, seed=trial)
        hits += interval.low <= 40 <= interval.high
    assert hits >= 51
    tasks = [[1.0] * 10, [0.0] * 1000]
    assert pooled(tasks).mean == pytest.approx(50), "each task counts the same, however many items it has"
