"""The page of results: what it says of stored runs, and plots that are the same each time they are drawn."""

from __future__ import annotations

import importlib
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from t2l.storage import write_json
from t2l.world.studies import PROBES, STUDIES, Study
from t2l.world.tasks import tasks_of

TOOLS = Path(__file__).resolve().parents[1] / "tools"
VERSIONS = {"python": "3.11", "torch": "2"}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(TOOLS))
    module = importlib.import_module("results")
    runs = tmp_path / "runs"
    runs.mkdir()
    monkeypatch.setattr(module, "RUNS", runs)
    monkeypatch.setattr(module, "IMAGES", tmp_path / "images")
    yield module
    for name in ("results", "results_sni", "results_studies"):
        sys.modules.pop(name, None)


def arm_result(study: Study, label: str, right: int) -> dict[str, Any]:
    arm = study.arm(label)
    tasks = tasks_of("unseen-operation")[:4]
    scores = [
        [task.name, task.split, condition, min(10, right + place), 10]
        for place, task in enumerate(tasks)
        for condition in ("matched", "paraphrase", "other-task")
    ]
    if label == "one-hot":
        scores = [[task.name, "train", "matched", right, 10] for task in tasks_of("train")[:3]]
    return {
        "row": arm.row,
        "varies": arm.varies,
        "seed": arm.seed,
        "steps": 100,
        "budget": 100,
        "parameters": 5_000_000,
        "cpu_seconds": 90.0,
        "command": f"t2l world study {study.name} --arm {label} --steps 100",
        "effort": {"examples": 10, "wordings": 2},
        "machine": "2 CPU cores",
        "versions": VERSIONS,
        "scores": scores,
    }


def guidance_result() -> dict[str, Any]:
    three = [0.5, 0.4, 0.6]
    group = {"descriptions": 4, "confidence": 0.9, "below": 0.1, "expected_gain": 0.2, "gain": 0.25}
    policies = ("base", "warn", "none", "static", "nearest", "blend")
    row = dict.fromkeys(("near", "far", "junk", "vague", "mixture"), three)
    point = {"group": "near", "unit": "a", "wording": "unseen", "confidence": 0.9, "expected_gain": 0.2, "gain": 0.25}
    return {
        "threshold": 0.5,
        "groups": {"near, unseen": group, "junk": group},
        "detection": {"near from far": three, "near from junk and far": three},
        "calibration": {"error": three, "bins": 5},
        "coverage": [{"coverage": 0.5, "accuracy": three}, {"coverage": 1.0, "accuracy": three}],
        "policies": {
            "table": dict.fromkeys(policies, row),
            "blend_minus": {policy: three for policy in policies if policy != "blend"},
            "blend_minus_base": row,
        },
        "ensemble": {kind: {"single": 1.0, "ensemble": 2.0, "gain": three} for kind in ("training", "unseen")},
        "points": [point, {**point, "group": "junk"}],
        "facts": {},
    }


def probe_results() -> dict[str, dict[str, Any]]:
    families = [{"task": f"t{i}", "family": "ab"[i % 2], "split": "train", "x": i, "y": -i} for i in range(4)]
    pair = {"similarity": 0.9, "similarity_other": 0.1, "agreement": 0.8, "agreement_other": 0.2}
    sides = {"same": [0.9, 0.8, 1.0], "other": [0.1, 0.0, 0.2]}
    third = {"after": [70.0, 60.0, 80.0]} | {
        key: [1.0, -2.0, 4.0] for key in ("minus_fresh_best", "minus_fresh_last", "minus_fresh_third")
    }
    return {
        "distance": {
            "points": [{"task": f"t{i}", "split": "far", "distance": i / 9, "accuracy": 1 - i / 9} for i in range(9)],
            "spearman": [-1.0, -1.0, -0.9],
        },
        "encodings": {"points": families, "same_family": [90.0, 80.0, 100.0], "perplexity": 1},
        "interpolation": {
            "weights": [0.0, 0.5, 1.0],
            "first": [90.0, 40.0, 0.0],
            "second": [0.0, 30.0, 95.0],
            "first_interval": [[80, 95], [30, 50], [0, 0]],
            "second_interval": [[0, 0], [20, 40], [90, 99]],
        },
        "composition": {
            "tasks": 2,
            "pairs": [["a", "b"]],
            "strengths": [0.0, 0.5, 1.0, 2.0],
            "strength": [[5.0, 0.0, 9.0], [40.0, 30.0, 50.0], [80.0, 70.0, 90.0], [60.0, 50.0, 70.0]],
            "shares": [0.0, 0.5, 1.0],
            "blends": {
                space: {"first": [[80.0, 70.0, 90.0]] * 3, "second": [[9.0, 5.0, 12.0]] * 3}
                for space in ("features", "weights")
            },
            "sums": {
                way: {"first": [30.0, 20.0, 40.0], "second": [31.0, 21.0, 41.0]}
                for way in ("cat", "svd", "factors", "half", "difference")
            },
        },
        "guidance": guidance_result(),
        "examples": {
            "tasks": ["a"],
            "few": 8,
            "more": 32,
            "as_given": 0.2,
            "choosing": {
                "candidates": 14.0,
                "outputs": {"after": [30.0, 20.0, 40.0], "gain": [10.0, 5.0, 15.0]},
                "inputs": {"after": [25.0, 20.0, 30.0], "gain": [5.0, 0.0, 10.0]},
            },
            "embedding": {"steps": 30, "after": [50.0, 40.0, 60.0], "gain": [30.0, 20.0, 40.0]},
            "by_number": {
                "numbers": [4, 8],
                "steps": {"warm": 32, "fresh": 48},
                **{key: [[40.0, 30.0, 50.0], [60.0, 50.0, 70.0]] for key in ("embedding", "warm", "fresh")},
            },
            "warm_start": {
                "looks": [0, 8],
                "examples": 32,
                "warm": [[20.0, 10.0, 30.0], [80.0, 70.0, 90.0]],
                "plain": [[20.0, 10.0, 30.0], [75.0, 65.0, 85.0]],
                "fresh": [[0.0, 0.0, 0.0], [60.0, 50.0, 70.0]],
                "ratios": {key: [[0.5, 0.1, 0.05, 0.3], [1.0, 0.4, 0.2, 9.0]] for key in ("warm", "plain")},
                "third": {
                    "steps": dict.fromkeys(("warm", "plain", "fresh"), 4),
                    "fresh_best_step": 8,
                    **dict.fromkeys(("warm", "plain", "fresh"), third),
                },
            },
        },
        "two-ways": {
            "points": [{"texts": ["Do a|b.", "Please ab."], "split": "far", "accuracy": [1.0, 0.5], **pair}],
            "similarity": sides,
            "agreement": sides,
        },
    }


def fill(folder: Path) -> None:
    """The folder of a world in which every arm of every study is done."""
    for study in STUDIES.values():
        for place, arm in enumerate(study.arms):
            result = arm_result(study, arm.label, place % 7)
            write_json(folder / "studies" / study.name / f"{arm.label}.json", result)
    for name, result in probe_results().items():
        document = {"study": name, "question": PROBES[name], "command": f"t2l world study {name}", "result": result}
        write_json(folder / "studies" / name / "result.json", {**document, "machine": "2 cores", "versions": VERSIONS})


def world_run() -> dict[str, Any]:
    cell = {"mean": 50.0, "low": 40.0, "high": 60.0}
    conditions = {"matched": "matched", "3-shot": "3 shots", "empty": "nothing", "oracle": "the task's own"}
    columns = ("train", "unseen-operation", "near", "near, input half-reveals", "near, input says nothing")
    figure = {"name": "share-of-oracle", "text": "matched, as % of the task-specific LoRA", "target": "at least 95"}
    result = {
        "seed": 0,
        "effort": {"examples": 20, "wordings": 4},
        "conditions": conditions,
        "percent": {column: dict.fromkeys(conditions, cell) for column in columns},
        "headlines": [{**figure, "mean": 80.0, "low": 70.0, "high": 90.0, "reached": False}],
        "flops": {"adapter": 24.0, "generation": 100.0, "3-shot": 100.0},
        "missing": ["Not measured: Arrow."],
    }
    return {
        "command": "t2l world evaluate --json",
        "date": "today",
        "machine": "2",
        "versions": VERSIONS,
        "result": result,
    }


def test_the_page_has_every_study_with_its_command_and_a_plot(results: ModuleType, tmp_path: Path) -> None:
    fill(tmp_path / "world")
    names = results.results_studies.gather(tmp_path / "world", results.RUNS)
    assert names == [*STUDIES, *PROBES]
    (results.RUNS / "world.json").write_text(json.dumps(world_run()))
    results.draw()
    page = results.page()
    for name in names:
        assert f"`t2l world study {name}" in page and f"](images/{name}.svg)" in page
        ElementTree.parse(results.IMAGES / f"{name}.svg")
    assert "paper: seeds 0, 1, 2" in page and "**ours**" in page and "Not run" not in page
    assert "ours minus paper, points: near" in page
    for line in page.splitlines():  # every row of a table has as many cells as its head
        assert not line.startswith("|") or line.endswith("|"), line
    first = {path.name: path.read_bytes() for path in results.IMAGES.iterdir()}
    results.draw()
    assert first == {path.name: path.read_bytes() for path in results.IMAGES.iterdir()}
    assert max(len(svg) for svg in first.values()) < 100_000
    assert results.page() == page


def test_the_page_says_which_figures_are_reached(results: ModuleType, tmp_path: Path) -> None:
    fill(tmp_path / "world")
    results.results_studies.gather(tmp_path / "world", results.RUNS)
    (results.RUNS / "world.json").write_text(json.dumps(world_run()))
    rows = re.findall(r"^\| (.+) \| (.+) \| (.+) \| (yes|\*\*no\*\*) \|$", results.page(), re.MULTILINE)
    reached = {name: answer for name, _, _, answer in rows}
    assert reached["matched, as % of the task-specific LoRA"] == "**no**"
    assert reached["operations of an answer, as % of one after 3 examples"] == "yes"
    assert set(reached) >= {"SFT minus reconstruction, equal compute", "more training tasks, equal compute"}
    assert "another task's (at least 40)" in results.page()
    assert "### The gate" in results.page() and "Not measured: Arrow." in results.page()


def test_an_unfinished_study_names_what_was_not_run(results: ModuleType, tmp_path: Path) -> None:
    study = STUDIES["size"]
    write_json(tmp_path / "world" / "studies" / "size" / "L.json", arm_result(study, "L", 3))
    assert results.results_studies.gather(tmp_path / "world", results.RUNS) == ["size"]
    text = results.results_studies.section("size", results.results_studies.stored(results.RUNS)["size"], results._table)
    assert "Not run: M, S." in text


def test_the_stored_page_is_what_the_stored_runs_give() -> None:
    sys.path.insert(0, str(TOOLS))
    try:
        module = importlib.import_module("results")
        assert module.PAGE.read_text() == module.page()
        for name in module.results_studies.stored(module.RUNS):
            assert (module.IMAGES / f"{name}.svg").is_file()
    finally:
        sys.path.remove(str(TOOLS))
        for name in ("results", "results_sni", "results_studies"):
            sys.modules.pop(name, None)


def test_the_gates_section_has_every_row_with_its_paired_difference(results: ModuleType) -> None:
    from t2l.evaluation.gate import gate_of

    chances = {"base": 0, "matched": 3, "other-task": 1, "static": 1, "3-shot": 4}
    items = [
        {"task": f"t{task}", "row": row, "number": 0, "document": document, "right": float(document % 5 < chance)}
        for task in range(4)
        for document in range(10)
        for row, chance in chances.items()
    ]
    found = json.loads(json.dumps(gate_of(items).to_dict()))
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
    assert "| **matched**: what matched is | 60.0 (" in text
    for row, gap in (("base", "+60.0"), ("other-task", "+40.0"), ("static", "+40.0"), ("3-shot", "-20.0")):
        assert re.search(rf"\*\*{row}\*\*: what {row} is \| \d+\.0 \(.*\) \| \{gap[0]}{gap[1:]} \(", text), row
    assert (
        "40 questions" in text
        and "adapters of 77 training tasks" in text
        and "Not measured: junk." in text
        and "t2l world export world-build/near" in text
    )
