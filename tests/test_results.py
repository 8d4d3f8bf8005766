"""The page of results: what it says of stored runs."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(TOOLS))
    module = importlib.import_module("results")
    runs = tmp_path / "runs"
    runs.mkdir()
    monkeypatch.setattr(module, "RUNS", runs)
    yield module
    for name in ("results", "results_sni"):
        sys.modules.pop(name, None)


def test_the_stored_page_is_what_the_stored_runs_give() -> None:
    sys.path.insert(0, str(TOOLS))
    try:
        module = importlib.import_module("results")
        assert module.PAGE.read_text() == module.page()
    finally:
        sys.path.remove(str(TOOLS))
        for name in ("results", "results_sni"):
            sys.modules.pop(name, None)


def test_the_gates_section_has_every_row_with_its_paired_difference(results: ModuleType) -> None:
    from t2l.evaluation.gate import gate_of

    chances = {"base": 0, "t2l": 3, "other-task": 1, "static": 1, "3-shot": 4}
    items = [
        {"task": f"t{task}", "row": row, "number": 0, "document": document, "right": float(document % 5 < chance)}
        for task in range(4)
        for document in range(10)
        for row, chance in chances.items()
    ]
    found = json.loads(json.dumps(gate_of(items, judged=True).to_dict()))
    settings = {"wordings": 2, "max_new_tokens": 32, "seed": 0, "adapters": ["f" * 64], "tasks": ["t0"]}
    printed = {
        "rows": {row: f"what {row} is" for row in chances},
        "tasks": {f"t{task}": {} for task in range(4)},
        "training_tasks": 800,
        "library": 77,
        "notes": ["Not measured: junk."],
        "settings": settings,
        "findings": found,
        "map": {"features": [[0.0] * 99]},
    }
    kept = results.SMALLER["gate"](printed)
    assert "map" not in kept and "adapters" not in kept["settings"]
    assert [one["task"] for one in kept["findings"]["comparisons"]] == [None] * 4
    text = results.gate(kept)
    assert "**The gate is passed: the description does the work.**" in text
    assert "| **t2l**: what t2l is | 60.0 (" in text
    for row, gap in (("base", "+60.0"), ("other-task", "+40.0"), ("static", "+40.0"), ("3-shot", "-20.0")):
        assert re.search(rf"\*\*{row}\*\*: what {row} is \| \d+\.0 \(.*\) \| \{gap[0]}{gap[1:]} \(", text), row
    assert (
        "40 questions" in text
        and "adapters of 77 training tasks" in text
        and "Not measured: junk." in text
        and "4f5f90a" in text
    )
