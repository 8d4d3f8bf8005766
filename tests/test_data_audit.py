"""The audit: benchmarks in their own schemas, overlaps that were planted, and boilerplate that says nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from command import document, done, refused
from t2l.data.audit import Auditor, audit
from t2l.data.benchmarks import BENCHMARKS, Benchmark, benchmark_name, fetch_benchmark, find_benchmarks, read_benchmark
from t2l.data.sources import Instance, Task, open_source
from t2l.errors import DataError
from test_data_prepare import folder, native

QUESTION = "Which property of a mineral can be determined just by looking at it under plain light?"
ARC = {
    "id": "Mercury_7",
    "question": QUESTION,
    "choices": {"text": ["luster", "mass"], "label": ["A", "B"]},
    "answerKey": "A",
}
ARC_OLD = {"id": "x", "question": {"stem": QUESTION, "choices": [{"text": "luster", "label": "A"}]}, "answerKey": "A"}
ROWS: dict[str, list[dict[str, Any]]] = {
    "arc_challenge": [ARC, ARC_OLD],
    "arc_easy": [ARC],
    "openbookqa": [
        {"id": "7-980", "question_stem": "The sun is responsible for", "choices": ARC["choices"], "answerKey": "A"}
    ],
    "boolq": [{"question": "is the sky blue", "answer": True, "passage": "The sky over Oslo is often grey."}],
    "gsm8k": [{"question": "Natalia sold 48 clips in April and half as many in May.", "answer": "#### 72"}],
    "hellaswag": [
        {"ctx": "A man sits on a roof. He", "endings": ["starts pulling up tiles", "b", "c", "d"], "label": "0"}
    ],
    "piqa": [{"goal": "dry your socks", "sol1": "hang them up", "sol2": "eat them", "label": 0}],
    "winogrande": [{"sentence": "Ann beat Sue because _ was fast.", "option1": "Ann", "option2": "Sue", "answer": "1"}],
    "humaneval": [{"task_id": "HumanEval/0", "prompt": "def f(x):\n    '''adds one'''", "canonical_solution": "x"}],
    "mbpp": [{"task_id": 2, "text": "Write a function to find shared elements.", "code": "x", "test_list": []}],
}


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_is_read_in_its_own_schema(name: str, tmp_path: Path) -> None:
    benchmark = read_benchmark(name, written(tmp_path / "x.jsonl", ROWS[name]))
    assert len(benchmark.items) == len(ROWS[name])
    words = {"openbookqa": "responsible", "boolq": "Oslo", "hellaswag": "pulling", "piqa": "hang"}
    for item in benchmark.items:
        assert words.get(name, "") in item


def test_files_are_found_by_name_in_json_and_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    written(tmp_path / "ARC-Easy.jsonl", ROWS["arc_easy"])
    (tmp_path / "gsm8k").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(ROWS["gsm8k"]), tmp_path / "gsm8k" / "test.parquet")
    (tmp_path / "piqa.json").write_text(json.dumps(ROWS["piqa"]))
    (tmp_path / "notes.txt").write_text("x")
    assert {b.name: len(b.items) for b in find_benchmarks(tmp_path)} == {"arc_easy": 1, "gsm8k": 1, "piqa": 1}
    with pytest.raises(DataError, match="no file named after"):
        find_benchmarks(tmp_path / "gsm8k")


def test_bad_benchmark_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Row 1 .* is not one of gsm8k: KeyError 'question'; it has goal"):
        read_benchmark("gsm8k", written(tmp_path / "x.jsonl", ROWS["piqa"]))
    for file, text in (("a.jsonl", "{"), ("b.parquet", "no parquet")):
        (tmp_path / file).write_text(text)
        with pytest.raises(DataError, match="cannot be read"):
            read_benchmark("piqa", tmp_path / file)
    with pytest.raises(DataError, match="no benchmark 'hellaswg'(.|\n)*'hellaswag'"):
        benchmark_name("hellaswg")
    assert benchmark_name("ARC-Challenge") == "arc_challenge"
    with pytest.raises(DataError, match="cannot be fetched from the hub"):
        fetch_benchmark("piqa")


def task(name: str, *texts: str) -> Task:
    return Task(name, "", tuple(Instance(text, ("yes",)) for text in texts))


LONG = "one fine morning in the early spring the young farmer walked over his fields and counted every single lamb"


def test_what_was_planted_is_found_and_nothing_else() -> None:
    other = "she sells sea shells by the sea shore while the grey gulls circle high above the empty pier"
    auditor = Auditor([Benchmark("gsm8k", (LONG, other)), Benchmark("piqa", ("wash the car with soap",))])
    copied = auditor.audit(task("a", "Question: " + LONG.upper().replace(" ", ",  ") + "? Answer now"))
    assert [(o.benchmark, o.items, o.touched, o.held) for o in copied.overlaps] == [
        ("gsm8k", 2, 1, 1),
        ("piqa", 1, 0, 0),
    ]
    assert copied.flags == ("holds 1 of 2 items of gsm8k",) and str(copied.overlaps[0].example).startswith("one fine")
    # eight words of it touch; seven do not; a run does not cross from one instance to the next
    words = LONG.split()
    touched = auditor.audit(task("b", "so " + " ".join(words[3:11]) + " then"))
    assert (touched.overlaps[0].touched, touched.overlaps[0].held) == (1, 0) and not touched.flags
    assert auditor.audit(task("c", "so " + " ".join(words[3:10]) + " then")).overlaps[0].touched == 0
    split = Task("d", "", (Instance(" ".join(words[:6]), ("",)), Instance(" ".join(words[6:12]), ("",))))
    assert auditor.audit(split).overlaps[0].touched == 0
    # items shorter than a run are compared whole
    short = auditor.audit(task("e", "First, wash the car, with soap; then rest."))
    assert short.overlaps[1].held == 1
    assert auditor.audit(task("f", "wash the car with water")).overlaps[1].touched == 0


def test_the_threshold_is_of_runs() -> None:
    words = LONG.split()
    half = " ".join(words[: 8 + 5])  # 6 of its 12 runs
    for threshold, held in ((0.5, 1), (0.51, 0)):
        overlap = Auditor([Benchmark("piqa", (LONG,))], threshold=threshold).audit(task("x", half)).overlaps[0]
        assert overlap.held == held, threshold
    with pytest.raises(DataError, match="at least 2"):
        Auditor([], n=1)


def test_few_shot_items_are_no_test_items(tmp_path: Path) -> None:
    def write(file: str, *questions: str) -> None:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(
            "".join(json.dumps({"question": text, "passage": "p"}) + "\n" for text in questions)
        )

    write("gsm8k/main/test.jsonl", "one")
    write("gsm8k/main/train.jsonl", "two", "three")
    write("boolq/train.jsonl", "four")
    write("boolq/dev.jsonl", "five", "six")
    found = {each.name: each.items for each in find_benchmarks(tmp_path)}
    assert found == {"gsm8k": ("one",), "boolq": ("five p", "six p")}
    (tmp_path / "gsm8k" / "main" / "test.jsonl").rename(tmp_path / "gsm8k" / "questions.jsonl")
    assert {each.name: each.items for each in find_benchmarks(tmp_path)} == found
    (tmp_path / "gsm8k" / "questions.jsonl").unlink()
    assert [each.name for each in find_benchmarks(tmp_path)] == ["boolq"]


def test_boilerplate_says_nothing() -> None:
    stem = "which of the following statements best describes what happens when"
    items = tuple(f"{stem} number{i} alpha{i} beta{i} gamma{i} delta{i} eps{i} zeta{i} eta{i}" for i in range(30))
    overlap = Auditor([Benchmark("arc_easy", items)]).audit(task("x", stem + " it rains")).overlaps[0]
    assert overlap.touched == 0 and overlap.items == 30


def test_names_flag_without_any_benchmark_and_bad_files_are_named(tmp_path: Path) -> None:
    names = ["task1398_obqa_question_generation", "task047_miscellaneous_answering_science_questions", "task900_x"]
    source = folder(tmp_path / "in", *((name, native(name)) for name in names), ("task901_bad", "{"))
    found, unread = audit(open_source(source), Auditor([]))
    flags = {each.name: each.flags for each in found}
    assert flags[names[0]] == ("made from OpenBookQA",) and "ARC" in flags[names[1]][0] and flags[names[2]] == ()
    assert "is not JSON" in unread["task901_bad"]


def test_the_command(tmp_path: Path) -> None:
    planted = native("x")
    planted["Instances"].append({"id": "p", "input": f"{QUESTION} (A) luster (B) mass", "output": ["A"]})
    source = folder(tmp_path / "in", ("task900_x", planted), ("task901_y", native("y")))
    file = written(tmp_path / "arc.jsonl", [ARC])
    words = ("data", "audit", source)
    report = document(*words, "--benchmark", f"arc_easy={file}")
    assert report["benchmarks"] == {"arc_easy": 1}
    assert [(t["name"], t["flags"]) for t in report["tasks"]] == [
        ("task900_x", ["holds 1 of 1 items of arc_easy"]),
        ("task901_y", []),
    ]
    shown = done(*words, "--benchmark", f"arc_easy={file}").stdout
    assert "2 tasks, 1 flagged" in shown and "Which property of a mineral" in shown
    assert "judged by their names alone" in done(*words).stderr
    assert "has no '='" in refused(*words, "--benchmark", "arc_easy")
