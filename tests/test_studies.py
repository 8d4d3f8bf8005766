"""Studies of the embedded world: what their arms vary, and how runs are shared, resumed and reported."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from t2l.bases import EMBEDDED_BASE, load_base
from t2l.encoders import MiniLmEncoder
from t2l.errors import T2LError
from t2l.storage import read_json, write_json
from t2l.world import evaluate as evaluate_module
from t2l.world import studies_commands, studies_run
from t2l.world.conditions import DescriptionTable
from t2l.world.evaluate import Effort
from t2l.world.studies import FEWEST_STEPS, STUDIES, Arm, Study, find_study
from t2l.world.studies_figures import difference, rows_of
from t2l.world.studies_inputs import StudyInputs, chosen, scrambled, shortest
from t2l.world.studies_run import finished, result_path, run_study, settings_of
from t2l.world.tasks import find_task, tasks_of
from t2l.world.wording import descriptions

TASKS = [find_task(name) for name in ("give-first-word", "antonym", "add-2", "give-last-word")]
EFFORT = Effort(examples=1, wordings=1, train_tasks=2)
SMALL = {"trunk_dim": 8, "head_dim": 8, "tasks": 2, "samples": 2}


class FewInputs(StudyInputs):
    """Four tasks, four descriptions each, and the embedded base."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, TASKS)

    def base(self) -> Any:
        return load_base(EMBEDDED_BASE, dtype=torch.float32).model

    def _texts(self, task: Any) -> list[str]:
        return descriptions(task, 4, part="train")


@pytest.fixture
def inputs(tmp_path: Path) -> FewInputs:
    made = FewInputs(tmp_path)
    table = DescriptionTable.embed(MiniLmEncoder("tokens"), [made._texts(task) for task in TASKS])
    table.save(tmp_path / "descriptions.safetensors")
    return made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies_run, "STUDY_SPLITS", ("train", "unseen-operation"))
    few = {"train": TASKS, "unseen-operation": tasks_of("unseen-operation")[:3]}
    monkeypatch.setattr(evaluate_module, "tasks_of", few.__getitem__)


def run(study: Study, folder: Path, inputs: FewInputs, **given: Any) -> list[str]:
    lines: list[str] = []
    run_study(study, folder, inputs=inputs, effort=EFFORT, say=lines.append, **given)
    return lines


def test_arms_have_labels_of_their_own_and_vary_what_they_say() -> None:
    for study in STUDIES.values():
        labels = [arm.label for arm in study.arms]
        assert len(set(labels)) == len(labels) >= 2
        settings = [settings_of(arm, 1000) for arm in study.arms]
        assert all(one != other for i, one in enumerate(settings) for other in settings[:i]), study.name
    with pytest.raises(T2LError, match="Did you mean 'encoder'"):
        find_study("encodr")
    with pytest.raises(T2LError, match="no arm called 'XL'"):
        find_study("size").arm("XL")


def test_equal_compute_is_equal_and_scaled_compute_is_scaled() -> None:
    tasks = find_study("tasks")
    sizes = {arm.label: arm.recipe(1000) for arm in tasks.arms}
    work = {label: (recipe.loop.steps, recipe.tasks * recipe.samples, recipe.views) for label, recipe in sizes.items()}
    assert len({work[label] for label in ("16", "64", "256", "all")}) == 1
    assert sizes["256-scaled"].loop.steps == round(1000 * 256 / len(tasks_of("train")))
    assert sizes["16-scaled"].loop.steps == FEWEST_STEPS
    for name, study in STUDIES.items():
        if name != "tasks":
            assert {arm.recipe(500).loop.steps for arm in study.arms} == {500}


def test_repetitions_share_a_row() -> None:
    arms = [arm for arm in find_study("recipe").arms if arm.row == "paper"]
    assert [arm.seed for arm in arms] == [0, 1, 2] == [arm.recipe(10).loop.seed for arm in arms]
    assert [arm.label for arm in arms] == ["paper", "paper-seed1", "paper-seed2"]


def test_poolings_of_token_states_are_those_of_the_encoder(inputs: FewInputs) -> None:
    texts = inputs._texts(TASKS[1])
    table = DescriptionTable.load(inputs.folder / "descriptions.safetensors")
    for pooling in ("mean", "layers"):
        expected_NE = MiniLmEncoder(pooling).encode(texts)
        found_NE = torch.stack([table.pooled(pooling).get(1, row) for row in range(4)])
        torch.testing.assert_close(found_NE, expected_NE, atol=2e-2, rtol=1e-2)


def test_other_qualities_of_descriptions(inputs: FewInputs) -> None:
    table = DescriptionTable.load(inputs.folder / "descriptions.safetensors")
    some = chosen(table, [[2, 0]] * 4)
    assert torch.equal(some.get(3, 0), table.get(3, 2)) and torch.equal(some.get(0, 1), table.get(0, 0))
    assert shortest(["ccc", "a", "bb", "aa"], 3) == [1, 3, 2]
    text = "Please give the very first word of the whole line."
    assert scrambled(text) == scrambled(text) != text
    assert set(scrambled(text).split()) <= set(text.split()) and scrambled("word") == "word"


@pytest.mark.usefixtures("quick")
def test_a_study_runs_its_arms_once_and_writes_all_about_them(tmp_path: Path, inputs: FewInputs) -> None:
    arms = (
        Arm("small", "a small one", SMALL),
        Arm("mean", "its mean", SMALL | {"views": 1, "contrast": 0.0}, encoder="mean", targets=("q_proj",), rank=2),
        Arm("one-hot", "no language", SMALL, encoder="one-hot"),
    )
    study = Study("mini", "Which?", arms)
    lines = run(study, tmp_path, inputs, steps=2)
    assert [line.split(",")[0] for line in lines] == [
        f"mini/{arm.label}: arm {number} of 3" for number, arm in enumerate(arms, start=1)
    ]
    done = finished(tmp_path, study)
    assert list(done) == ["small", "mean", "one-hot"]
    result = done["small"]
    assert result["command"] == "t2l world study mini --arm small --steps 2"
    assert result["steps"] == 2 and result["seed"] == 0 and result["versions"]["torch"]
    assert result["settings"] == settings_of(arms[0], 2)
    assert {score[1] for score in result["scores"]} == {"train", "unseen-operation"}
    assert {score[1] for score in done["one-hot"]["scores"]} == {"train"}
    assert not list((tmp_path / "studies" / "work").glob("*.pt"))
    assert run(study, tmp_path, inputs, steps=2) == []
    with pytest.raises(T2LError, match=r"recipe\.loop\.steps 2 \(now 3\)"):
        run(study, tmp_path, inputs, steps=3)


@pytest.mark.usefixtures("quick")
def test_the_same_run_in_another_study_is_taken_over(
    tmp_path: Path, inputs: FewInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Study("one", "?", (Arm("a", "as one", SMALL),))
    second = Study("two", "?", (Arm("b", "as another", SMALL),))
    monkeypatch.setattr(studies_run, "STUDIES", {"one": first, "two": second})
    run(first, tmp_path, inputs, steps=2)
    assert run(second, tmp_path, inputs, steps=2) == ["two/b: the same run as one/a"]
    one, two = (read_json(result_path(tmp_path, s, s.arms[0]), T2LError) for s in (first, second))
    assert one["scores"] == two["scores"] and two["varies"] == "as another" and two["row"] == "b"


@pytest.mark.usefixtures("quick")
def test_a_killed_arm_goes_on_where_it_was(tmp_path: Path, inputs: FewInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    saving = replace(Arm("a", "", SMALL).recipe(3).loop, save_every=1)
    study = Study("mini", "?", (Arm("a", "", SMALL | {"loop": saving}),))
    progress = studies_run.printed_progress
    seen: list[int] = []

    def stops_after_two(name: str, every: int) -> Any:
        def report(done: int, steps: int, loss: float) -> None:
            seen.append(done)
            if seen == [1, 2]:
                raise KeyboardInterrupt
            progress(name, every)(done, steps, loss)

        return report

    monkeypatch.setattr(studies_run, "printed_progress", stops_after_two)
    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path, inputs, steps=3)
    assert finished(tmp_path, study) == {}
    run(study, tmp_path, inputs, steps=3)
    assert seen == [1, 2, 3]


def test_an_arm_that_another_process_runs_is_left_to_it(tmp_path: Path, inputs: FewInputs) -> None:
    study = Study("mini", "?", (Arm("a", "", SMALL),))
    work = studies_run._work_path(tmp_path, settings_of(study.arms[0], 2))
    with studies_run.locked(work.with_suffix(".lock")) as free:
        assert free
        assert run(study, tmp_path, inputs, steps=2) == ["mini/a: another process is at it"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(T2LError, match="(?s)no base in.*--stage base"):
        StudyInputs(tmp_path).base()
    with pytest.raises(T2LError, match="(?s)no embedded descriptions.*--stage descriptions"):
        StudyInputs(tmp_path).table(Arm("a", ""))
    with pytest.raises(T2LError, match="No study is called"):
        studies_commands.run("nothing", None, tmp_path, None, None, False, None, None)  # pyright: ignore


def stored(label: str, row: str, seed: int, right: dict[str, int]) -> dict[str, Any]:
    scores = [[task, "unseen-operation", "matched", count, 10] for task, count in right.items()]
    return {
        "row": row,
        "varies": row,
        "seed": seed,
        "steps": 5,
        "parameters": 7,
        "cpu_seconds": 60.0 + seed,
        "command": f"t2l world study x --arm {label}",
        "scores": scores,
    }


def test_rows_average_their_seeds_and_compare_task_by_task() -> None:
    results = {
        "a": stored("a", "a", 0, {"add-7": 8, "multiply-4": 2}),
        "b": stored("b", "b", 0, {"add-7": 4, "multiply-4": 0}),
        "a-seed1": stored("a-seed1", "a", 1, {"add-7": 6, "multiply-4": 2}),
    }
    one, other = rows_of(results)
    assert (one.name, one.seeds, one.cpu_seconds) == ("a", (0, 1), 60.5) and other.seeds == (0,)
    assert one.figures["near"][0] == pytest.approx(45.0) and one.by_seed["near"] == pytest.approx([50.0, 40.0])
    assert set(one.figures) == {"near", "unseen-operation"}
    mean, low, high = difference(one, other)
    assert mean == pytest.approx(25.0) and (low, high) == pytest.approx((20.0, 30.0))


def test_the_table_of_a_study_and_the_list_of_all(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    for label, arm in (("L", "L"), ("M", "M")):
        write_json(tmp_path / "studies" / "size" / f"{label}.json", stored(label, arm, 0, {"add-7": 8}))
    studies_commands.list_studies(tmp_path, False, console)
    studies_commands._print_table("Which?", finished(tmp_path, find_study("size")), console)
    text = console.file.getvalue()  # pyright: ignore
    assert "2 of 3 arms done" in text and "distance" in text and "80 (80-80)" in text
