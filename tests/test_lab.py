"""The laboratory: everyday tasks are many, different and well formed, and held-out operations stay held out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from lab.catalogue import written_tasks
from lab.everyday import FEWEST, everyday_tasks
from lab.everyday import write as write_everyday
from lab.micro import micro_tasks
from lab.parametric import OPERATIONS, parametric_tasks
from lab.store import build, near_tasks, twins
from lab.tasks import EverydayTask, bare, reserved_inputs
from lab.variants import source_of
from t2l.data.descriptions import read_description_files
from t2l.data.sources import Instance, Task, open_source
from t2l.demo.tasks import demo_tasks
from t2l.errors import T2LError

WRITTEN = written_tasks()


def test_there_are_enough_tasks_of_each_split() -> None:
    splits = Counter(task.split for task in everyday_tasks())
    assert splits["exam"] >= 60 and splits["validation"] >= 40
    assert len(WRITTEN) >= 150
    micro = [task for task in micro_tasks() if task.split == "train"]
    assert len(micro) <= 350
    families = Counter(task.family for task in micro)
    assert max(families.values()) < 0.5 * len(micro)


def test_wordings_are_ten_and_nobody_shares_one() -> None:
    owners: dict[str, str] = {}
    for task in WRITTEN:
        lines = (*task.descriptions, *task.evaluation)
        assert 8 <= len(lines) <= 12 and len(set(lines)) == len(lines), task.name
        assert not set(task.descriptions) & set(task.evaluation)
        for line in lines:
            other = owners.setdefault(line, task.split)
            assert not (task.split == "exam" and other == "train"), f"'{line}' is in training and in the exam"


def test_instances_are_different_and_the_same_for_a_seed() -> None:
    for task in WRITTEN:
        found = task.instances(40, seed=0)
        assert len(found) >= FEWEST, task.name
        assert len({instance.input for instance in found}) == len(found)
        assert all(instance.input.strip() and all(o.strip() for o in instance.outputs) for instance in found), task.name
        assert len({instance.outputs[0] for instance in found}) > 1, task.name
        assert all(bare(i.input) not in reserved_inputs() for i in found), task.name
    assert WRITTEN[0].instances(9, seed=3) == WRITTEN[0].instances(9, seed=3)
    assert WRITTEN[0].instances(9, seed=3) != WRITTEN[0].instances(9, seed=4)


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("sort_list", lambda text: ", ".join(sorted(text.split(", "), key=str.casefold))),
        ("largest_number", lambda text: str(max(int(part) for part in text.split(", ")))),
        ("name_initials", lambda text: "".join(f"{part[0]}." for part in text.split())),
        ("list_to_json", lambda text: json.dumps(text.split(", "))),
        ("thousands_separator", lambda text: f"{int(text):,}"),
        ("title_to_slug", lambda text: "-".join(text.rstrip(".?!").lower().split())),
        ("count_sentences", lambda text: str(text.count("."))),
        ("json_city", lambda text: json.loads(text)["city"]),
    ],
)
def test_answers_are_right(name: str, check) -> None:
    task = next(task for task in WRITTEN if task.name == name)
    for instance in task.instances(25, seed=1):
        assert instance.outputs == (check(instance.input),)


def test_micro_operations_have_natural_inputs() -> None:
    tasks = {task.name: task for task in micro_tasks()}
    text, answer = tasks["give_last_item"].draw(Random(0))
    assert answer == text.split(", ")[-1]
    text, answer = tasks["drop_first_word"].draw(Random(0))
    assert answer == " ".join(text.split()[1:])
    assert tasks["sentiment"].split == "train" and tasks["animal_sound"].split == "exam"


def test_words_of_the_description_decide() -> None:
    tasks = parametric_tasks()
    assert len({task.descriptions for task in tasks}) == len(tasks) >= 250
    by_operation: dict[str, set[str]] = {}
    for task in tasks:
        by_operation.setdefault(task.family, set()).add(task.split)
    assert len(by_operation) == len(OPERATIONS)
    assert {"train", "validation"} in by_operation.values() and {"exam"} in by_operation.values()
    assert all(splits <= {"train", "validation"} or len(splits) == 1 for splits in by_operation.values())
    for task in tasks:
        if task.family in ("words named_labels", "words code_book"):
            for instance in task.instances(20, seed=0):
                assert all(instance.outputs[0] in text for text in task.descriptions), task.name
        if task.family == "words always_say":
            assert len({instance.outputs for instance in task.instances(20, seed=0)}) == 1


def test_no_task_draws_what_the_demo_shows() -> None:
    shown = demo_tasks()[0].examples[0].text
    task = EverydayTask("x", "y", "z", ("z",), lambda rng: (rng.choice((shown.upper(), "fresh", f"not {shown}")), "a"))
    assert {instance.input for instance in task.instances(3, seed=0)} == {"fresh", f"not {shown}"}
    assert bare(shown) in reserved_inputs()


def test_the_folder_is_read_back(tmp_path: Path) -> None:
    counts = write_everyday(tmp_path / "out")
    sources = {source.name: source for source in open_source(tmp_path / "out")}
    assert len(sources) == sum(counts.values())
    listed = {split: (tmp_path / "out" / f"{split}.txt").read_text().split() for split in counts}
    assert sorted(name for names in listed.values() for name in names) == sorted(sources)
    told = read_description_files([tmp_path / "out" / "descriptions.jsonl"])
    assert all(told.of(name) for name in sources)
    with pytest.raises(T2LError):
        write_everyday(tmp_path / "out")


def real(name: str, category: str) -> Task:
    instances = tuple(Instance(f"{name} {n}", ("yes" if n % 2 else "no",)) for n in range(60))
    return Task(name, f'Answer "yes" if it fits {name}, otherwise "no".', instances, categories=(category,))


def test_near_tasks_leave_their_category_in_training() -> None:
    tasks = [real(f"task{n}_x", "many") for n in range(100, 110)] + [real(f"task{n}_x", "few") for n in range(110, 113)]
    found = near_tasks(tasks, 0)
    assert len(found) == 2 and all(name < "task110" for name in found)


def test_twins_of_held_out_tasks_are_left_out() -> None:
    tasks = {name: real(name, "c") for name in ("task1_a", "task2_b", "task3_c")}
    tasks["task2_b"] = Task("task2_b", tasks["task1_a"].definition.upper(), tasks["task2_b"].instances)
    assert twins(tasks, {"task1_a"}) == ["task2_b"] and twins(tasks, {"task3_c"}) == []


def test_the_store_keeps_variants_with_their_sources_and_refuses_test_tasks(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        "lab.store.everyday_tasks",
        lambda seed: [task for task in WRITTEN if task.name in ("spam_or_not", "opinion_or_fact", "email_addressee")],
    )
    (tmp_path / "tasks").mkdir()
    names = [f"task{n}_x" for n in range(100, 106)]
    for name in names:
        task = real(name, "c")
        native = {
            "Definition": [task.definition],
            "Categories": ["c"],
            "Instances": [{"input": i.input, "output": list(i.outputs)} for i in task.instances],
        }
        (tmp_path / "tasks" / f"{name}.json").write_text(json.dumps(native))
    (tmp_path / "train.txt").write_text("\n".join(names), encoding="utf-8-sig")
    (tmp_path / "test.txt").write_text("task999_y\n")
    (tmp_path / "d.jsonl").write_text(
        "".join(json.dumps({"name": n, "descriptions": ["Does it fit? Say yes or no."]}) + "\n" for n in names)
    )
    given = {
        "tasks": tmp_path / "tasks",
        "names": tmp_path / "train.txt",
        "described": [tmp_path / "d.jsonl"],
        "exclude": ["task105_*"],
    }
    build(tmp_path / "out", never=[tmp_path / "test.txt"], **given)
    splits = json.loads((tmp_path / "out" / "splits.json").read_text())
    where = {name: split for split, listed in splits.items() for name in listed}
    assert set(where) == {source.name for source in open_source(tmp_path / "out")}
    assert "task105_x" not in where and where["everyday_opinion_or_fact"] == "test"
    assert sum("__" in name for name in where) > 10
    assert all(where[name] == where[source_of(name)] for name in where)
    exam = {source.name for source in open_source(tmp_path / "out" / "held_out" / "exam")}
    assert exam == {"everyday_opinion_or_fact"}
    (tmp_path / "test.txt").write_text("task101_x\n")
    with pytest.raises(T2LError, match="'task101_x' is on a list of tasks that are never trained on"):
        build(tmp_path / "other", never=[tmp_path / "test.txt"], **given)
    assert not (tmp_path / "other").exists()
