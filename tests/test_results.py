"""The page of results: what it says of stored runs."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"
MODULES = ("results", "results_costs", "results_sni", "descriptions")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(TOOLS))
    module = importlib.import_module("results")
    runs = tmp_path / "runs"
    runs.mkdir()
    monkeypatch.setattr(module, "RUNS", runs)
    yield module
    for name in MODULES:
        sys.modules.pop(name, None)


def test_the_stored_page_is_what_the_stored_runs_give() -> None:
    sys.path.insert(0, str(TOOLS))
    try:
        module = importlib.import_module("results")
        assert {path: path.read_text() for path in module.pages()} == module.pages()
    finally:
        sys.path.remove(str(TOOLS))
        for name in MODULES:
            sys.modules.pop(name, None)


def test_the_gates_section_has_every_row_with_its_paired_difference(results: ModuleType) -> None:
    from t2l.evaluation.statistics import gate_of

    chances = {"base": 0, "t2l": 3, "other-task": 1, "static": 1, "3-shot": 4}
    items = [
        {"task": f"t{task}", "row": row, "number": 0, "document": document, "right": float(document % 5 < chance)}
        for task in range(4)
        for document in range(10)
        for row, chance in chances.items()
    ]
    found = json.loads(json.dumps(asdict(gate_of(items, judged=True))))
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


def test_answers_to_behaviours_are_judged_by_their_rules(results: ModuleType) -> None:
    keeps = results.descriptions.keeps
    judged = [
        ("Turquoise.", {"same": "turquoise"}, True), ("turquoise blue", {"same": "turquoise"}, False),
        ("OH NO!", {"upper": True}, True), ("Oh no", {"upper": True}, False), ("42", {"upper": True}, False),
        ("blue", {"words": 1}, True), ("dark blue", {"words": 1}, False),
        ("Arr, no.", {"holds any": ["arr"]}, True), ("Array", {"holds any": ["arr"]}, False),
        ("Nobody knows", {"lacks": "no"}, True), ("No, never", {"lacks": "no"}, False),
        ("[yes]", {"begins": "[", "ends": "]"}, True), ("[yes", {"begins": "[", "ends": "]"}, False),
        ('{"city": "Oslo"}', {"json key": "city"}, True), ('{"town": 1}', {"json key": "city"}, False),
        ("Oslo", {"json key": "city"}, False), ("a", {"one of": ["A", "B"]}, True),
        ("C", {"one of": ["A", "B"]}, False),
    ]  # fmt: skip
    assert [keeps(answer, rule) for answer, rule, _ in judged] == [expected for *_, expected in judged]
    assert keeps(" OSLO", {}, "OSLO") and not keeps("Oslo", {}, "OSLO")


def test_the_page_of_descriptions_counts_by_kind(results: ModuleType) -> None:
    module = results.descriptions
    tasks = ["sort", "add"]
    answers = [
        {
            "task": task,
            "kind": kind,
            "description": kind,
            "answer": "x",
            "right": kind == "own" or (place, task) == (0, "add"),
        }
        for kind in module.KINDS
        for task in tasks
        for place in range(4)
    ]
    behaviour = {
        "input": "Hi?",
        "adapter": "a|b",
        "description-in-prompt": "HI",
        "adapter keeps": False,
        "multi-task-prompt keeps": True,
    }
    case = {
        "description": "Shout.",
        "rule": {"upper": True},
        "rows": [{**behaviour, "description-in-prompt keeps": True}],
    }
    result = {
        "checkpoint": "d" * 64, "base": "tiny", "weights": None, "tasks": tasks, "answers": answers,
        "base_told_the_task": [True] * 4 + [False] * 4, "base_told_mentions": [True] * 8, "one_lora_told_the_task": [],
        "behaviours": [{"question": "Loud?", "cases": [case]}],
    }  # fmt: skip
    run = {
        "result": module.kept(result),
        "command": "made",
        "date": "today",
        "machine": "here",
        "versions": {"torch": "2"},
    }
    text = module.page(run, results._table)
    assert "| the task's own description | 100% (100 to 100) | 8 |" in text and "| random strings | 12% (" in text
    assert (
        "prompt | 50% (" in text
        and "counted | 100% (" in text
        and "| sort | 4 of 4 | 0 of 4 |" in text
        and "| add | 4 of 4 | 1 of 4 |" in text
    )
    assert "## Loud?" in text and "| Shout. | 0 of 1 | 1 of 1 | 1 of 1 | `a\\|b` |" in text
    drawn = {kind for _, kind, _ in module._described(module.texts())}
    assert drawn == set(module.KINDS)


def test_one_table_says_what_it_costs(results: ModuleType) -> None:
    """Each row names what one would use instead, the ratio, who else computed, and the command."""
    machine = {"cores": 2, "processor": "P", "memory_gb": 25, "threads": 2, "others": 0.31, "quiet": False}
    ratio = {"ratio": 1.5, "low": 1.25, "high": 12.0}
    ways = {name: {"seconds": 1.0, "gb": 0.5} for name in ("import", "help", "demo", "run", "plain")}
    targets = {"run_s": 4.0, "run_gb": 0.4, "import_s": 0.3, "help_s": 0.3, "demo_first_answer_s": 6.0}
    start = {
        "ways": ways,
        "targets": targets,
        "run_times_plain": ratio,
        "baseline": "plain",
        "tokens": 16,
        "repeats": 3,
    }
    start["machine"] = machine
    runs = {"start": {"command": "python benchmarks/start.py", "result": start}}
    text = results.results_costs.costs(runs, results._table)
    row = next(line for line in text.splitlines() if "from the shell" in line)
    assert row.split(" | ")[1:] == ["plain", "1.50x (1.25 to 12.00)", "31%", "`python benchmarks/start.py` |"]
    assert results.results_costs.costs({}, results._table) == ""
    section = results.results_costs.start(start, results._table)
    assert (
        "**Other programs took 31%" in section
        and "| `import t2l` | 1.00 s | 0.3 s | **no** | 0.50 GB |  |  |" in section
    )
    assert "| 1.00 s | 4 s | yes | 0.50 GB | 0.4 GB | **no** |" in section
