"""Benchmarks and tasks in local files: how they may lie, what is said when they are wrong, and which are left out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from benchmark_data import ROWS as DATA
from benchmark_data import write_benchmarks, write_task
from t2l.errors import T2LError

pytest.importorskip("lm_eval")
from t2l.evaluation.benchmarks import CODE, PAPER10, load_tasks
from t2l.evaluation.rows import chosen_rows


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("piqa/dev.jsonl", "piqa/train.jsonl"),
        ("piqa/val.ndjson", "piqa/training.json"),
        ("piqa/plain_text/validation-00000-of-00001.jsonl", "piqa/plain_text/train-00000-of-00001.jsonl"),
        ("piqa/validation.jsonl.gz", "piqa/train.json.gz"),
        ("piqa.jsonl", None),
        ("piqa_dev.jsonl", "piqa_train.jsonl"),
        ("piqa-validation.JSONL", "piqa.train.jsonl"),
    ],
)
def test_local_copies_are_found_as_people_lay_them_out(
    asked: str, shown: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for file in filter(None, (asked, shown)):
        lines = "".join(json.dumps({**row, "label": 0} if file == shown else row) + "\n" for row in DATA["piqa"])
        data = b"\xef\xbb\xbf" + lines.encode()
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(gzip.compress(data) if file.endswith(".gz") else data)
    (task,) = load_tasks(["all"], data=tmp_path)
    assert not caplog.text  # the harness has advice on options of its own
    assert task.name == "piqa" and task.can_show is (shown is not None)
    assert [doc["label"] for doc in task.harness.dataset["validation"]] == [0, 1, 0, 1, 0]


def test_a_task_of_ones_own_may_have_other_columns_in_each_split_and_numbers(tmp_path: Path) -> None:
    write_task(tmp_path, "sums", [("1 + 1", "2")])
    (tmp_path / "sums" / "train.jsonl").write_text(
        '{"input": 5, "output": 0.5, "id": 7}\n{"input": "x", "output": "y"}\n'
    )
    (tmp_path / "sums" / "test.jsonl").rename(tmp_path / "sums" / "dev.jsonl")
    (tmp_path / "sums" / "dev.jsonl").write_text('{"input": "2 + 2", "output": 4, "note": "a"}\n')
    (task,) = load_tasks(["sums"], data=tmp_path)
    assert task.harness.dataset["test"][0] == {"input": "2 + 2", "output": "4", "note": "a"}
    assert task.harness.dataset["train"][0] == {"input": "5", "output": "0.5", "id": 7} and task.can_show
    (tmp_path / "sums" / "dev.jsonl").unlink()
    with pytest.raises(T2LError, match="There is no data for 'sums'") as missing:
        load_tasks(["sums"], data=tmp_path)
    assert "hf download" not in str(missing.value) and "test.jsonl holds lines such as" in str(missing.value)


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ('{"goal": "a"}\n{"goal": \n', r"Line 2 of '.*validation.jsonl' cannot be read as JSON"),
        ("[1]\n", r"Row 1 of '.*validation.jsonl' is list, not an object"),
        ('{"goal": "a", "label": 1}\n{"goal": "b", "label": "1"}\n', "holds values of several kinds in 'label'"),
        ("", "holds no row"),
    ],
)
def test_what_is_wrong_with_local_data_is_said(lines: str, cause: str, tmp_path: Path) -> None:
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa" / "validation.jsonl").write_text(lines)
    with pytest.raises(T2LError, match=cause):
        load_tasks(["piqa"], data=tmp_path)


def test_causes_behind_an_error_occurred_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.api.task import ConfigurableTask

    def download(self: Any, *given: Any, **named: Any) -> None:
        raise RuntimeError("An error occurred while generating the dataset") from ValueError("the columns differ\nin x")

    monkeypatch.setattr(ConfigurableTask, "download", download)
    with pytest.raises(
        T2LError, match="An error occurred while generating the dataset: the columns differ\nFetch it: hf"
    ):
        load_tasks(["piqa"])


def test_groups_leave_out_what_runs_code_and_say_so(tmp_path: Path) -> None:
    data = write_benchmarks(tmp_path / "all")
    for asked in ("all", "paper10"):
        notes: list[str] = []
        found = load_tasks([asked], data=data, note=notes.append)
        assert sorted(task.name for task in found) == sorted(set(PAPER10) - set(CODE))
        assert notes == ["Omitted, as scoring runs what the model wrote: humaneval, mbpp. Add --run-generated-code."]
    for name in ("mbpp", "all,mbpp"):
        with pytest.raises(T2LError, match="add --run-generated-code"):
            load_tasks([name], data=data)
    (tmp_path / "code").mkdir()
    (data / "mbpp").rename(tmp_path / "code" / "mbpp")
    with pytest.raises(T2LError, match="add --run-generated-code"):  # nothing else would be left
        load_tasks(["all"], data=tmp_path / "code")


def test_rows_may_be_named_as_tables_name_them() -> None:
    assert chosen_rows("base, 5-shot", "benchmarks", (), [3]) == ["base", "5-shot"]
    assert chosen_rows("3-shot,base,1-shot", "benchmarks", (), [2]) == ["base", "1-shot", "3-shot"]
    assert chosen_rows("base,shots", "benchmarks", (), [2, 4]) == ["base", "2-shot", "4-shot"]
    assert chosen_rows(None, "benchmarks", (), [0]) == ["base", "description-in-prompt"]
    with pytest.raises(T2LError, match="only on benchmarks"):
        chosen_rows("3-shot", "suite", ())
