"""The report: one self-contained page from finished runs, foreign text escaped, and the same tables as Markdown."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from t2l.errors import T2LError
from t2l.evaluation.report import distances, markdown, page, scaling, task_map, worst_tasks
from t2l.evaluation.rows import ROWS
from t2l.evaluation.statistics import gate_of, rank_correlation

CHANCES = {"base": 0.1, "t2l": 0.8, "paraphrase": 0.75, "other-task": 0.2, "junk": 0.2, "static": 0.4, "3-shot": 0.5}


def run(gate: bool = True, protocol: str = "paper", evil: str = "") -> dict[str, Any]:
    rng = Random(0)
    items, chances = [], CHANCES
    for task in range(8):
        for document in range(10):
            luck = rng.random() * (0.7 if task else 1.3)
            for row, chance in chances.items():
                items.append(
                    {
                        "task": f"t{task}",
                        "row": row,
                        "number": 0,
                        "document": document,
                        "prompt": f"do this {evil}",
                        "target": "x",
                        "answer": evil or "y",
                        "right": float(luck < chance),
                    }
                )
    found = gate_of(items, judged=gate)
    features = [[rng.gauss(10 * (task % 2), 1) for _ in range(5)] for task in range(8) for _ in range(2)]
    return {
        "gate": gate,
        "command": ["t2l", "evaluate"],
        "date": "2026-11-25",
        "versions": {"t2l": "0"},
        "settings": {"base": "b", "checkpoint": "c" * 64, "protocol": protocol, "seed": 0, "limit": None},
        "rows": {row: ROWS[row].title if row in ROWS else row for row in chances},
        "tasks": {f"t{task}": {"family": f"f{task % 2}"} for task in range(8)},
        "findings": json.loads(json.dumps(asdict(found))),
        "map": {
            "tasks": [f"t{task}" for task in range(8) for _ in range(2)],
            "families": [f"f{task % 2}" for task in range(8) for _ in range(2)],
            "features": features,
        },
        "items": items,
    }


def test_the_page_is_self_contained_and_escapes_what_models_say() -> None:
    text = page([run(evil="<script>alert(1)</script> & \"quotes\" 'too'")])
    assert "<script" not in text and "&lt;script&gt;" in text
    assert not re.search(r"(src|href)=['\"](?!data:|#)", text), "nothing is loaded"
    for wanted in (
        "The gate",
        "Map of tasks",
        "Accuracy against distance",
        "Worst tasks",
        "points over a static adapter",
    ):
        assert wanted in text, wanted
    assert text.count("<svg") == 4 and text.count("<svg") == text.count("</svg>")


def test_markdown_has_the_same_figures_and_protocols_never_share_a_table() -> None:
    one, other = run(gate=False), run(gate=False, protocol="loglikelihood")
    text = markdown([one, other])
    mean = one["findings"]["accuracy"]["t2l"][""]["mean"]
    assert f"{mean:.1f} (" in text and f"{mean:.1f}" in page([one])
    tables = [line for line in text.splitlines() if line.startswith("|  | n | base")]
    assert len(tables) == 2, "a table for each protocol"
    assert "paper's protocol" in text and "log-likelihood" in text


def test_what_a_report_finds_is_in_the_run() -> None:
    whole = run()
    worst = worst_tasks(whole)
    assert worst[0].name == "t0" and worst[0].examples[0]["right"] == 0
    assert worst[0].extra is not None
    far = distances(whole)
    assert far is not None and len(far.points) == 8
    grown = [{**run(gate=False), "training_tasks": count} for count in (64, 16)]
    (curve,) = scaling(grown)
    assert curve.title.startswith("More training tasks") and [point[0] for point in curve.points] == [16, 64]
    assert curve.joined and not scaling([*grown, grown[0]])[0].joined, "two runs of one number make no line"
    other = {**grown[1], "settings": {**grown[1]["settings"], "base": "another"}}
    assert not scaling([grown[0], other]), "another base stands in no curve with it"


def test_accuracy_against_distance_is_from_training_tasks_where_they_are_known() -> None:
    whole = run()
    plain = distances(whole)
    assert plain is not None and "other task of the run" in plain.x_name
    whole["map"]["distance"] = [float(task) for task in range(8) for _ in range(2)]
    found = distances(whole)
    assert found is not None and "training task" in found.x_name
    assert [point[0] for point in found.points] == list(range(8))
    assert rank_correlation(range(9), [100.0 - x * x for x in range(9)])[0] == pytest.approx(-1)
    assert rank_correlation(range(9), [50.0] * 9) == (0, 0, 0)
    mean, low, high = rank_correlation([1, 1, 2, 3], [1, 2, 2, 3])
    assert mean == pytest.approx(5 / 6) and low <= mean <= high  # ranks 1.5, 1.5, 3, 4 and 1, 2.5, 2.5, 4


def test_a_reader_sees_the_verdict_first_what_was_asked_and_which_text_made_the_adapter() -> None:
    whole = run()
    whole["variants"] = [{"task": "t0", "row": "t2l", "number": 0, "description": "Say <x>."}]
    whole["notes"] = ["Not measured: vague."]
    whole["command"] = ["t2l", "evaluate", "--data", "my tasks"]
    text = page([whole])
    verdict = text[text.index("class='verdict") :]
    assert verdict.index(whole["findings"]["verdict"][-1]) < verdict.index("points over a static adapter")
    for wanted in ("8 tasks, 80 questions", "Adapter from: Say &lt;x&gt;.", "Note: Not measured: vague.", "rank corr"):
        assert wanted in text, wanted
    assert "&#x27;my tasks&#x27;" in text, "a command that can be given again"
    assert re.search(r"<td>t0</td><td>10</td>", text), "how many questions stand behind a figure"
    assert re.search(r">\+\d+\.\d \(\+\d+\.\d to \+\d+\.\d\)</text>", text), "a chart's figures are texts"


def test_the_map_keeps_clusters_apart() -> None:
    points, families = np.array(task_map(run())), np.array(run()["map"]["families"])
    places = {family: points[families == family] for family in ("f0", "f1")}
    within = max(np.linalg.norm(some - some.mean(axis=0), axis=1).max() for some in places.values())
    between = np.linalg.norm(places["f0"].mean(axis=0) - places["f1"].mean(axis=0))
    assert np.isfinite(between) and between > within
    assert np.array_equal(task_map(run()), points), "the same run, the same map"


def test_what_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    from t2l.evaluation.runs import read_run

    with pytest.raises(T2LError, match="does not exist"):
        read_run(tmp_path)
    (tmp_path / "answers.jsonl").write_text("")
    with pytest.raises(T2LError, match="was interrupted"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text('{"kind": "other"}')
    with pytest.raises(T2LError, match="not a run"):
        read_run(tmp_path)
