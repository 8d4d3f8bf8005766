"""Folders and files are whole or absent; readers name the file, the tensor and the rule."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t2l import storage
from t2l.errors import AdapterError, CheckpointError, OutputError, T2LError
from t2l.storage import (
    check_tensors,
    check_writable,
    new_folder,
    read_json,
    read_tensors,
    tensors_digest,
    write_bytes,
    write_json,
    write_tensors,
)


def make_folder(target: Path, text: str, force: bool = False) -> None:
    with new_folder(target, marker="marker", force=force) as folder:
        (folder / "marker").write_text(text)


def test_a_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "a"
    with new_folder(target, marker="marker") as folder:
        (folder / "marker").write_text("1")
        assert not target.exists()
    assert os.listdir(target) == ["marker"]
    assert os.listdir(target.parent) == ["a"]
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize("problem", [ZeroDivisionError(), KeyboardInterrupt(), SystemExit()])
@pytest.mark.parametrize("force", [False, True])
def test_an_interrupted_folder_leaves_what_was_there(problem: BaseException, force: bool, tmp_path: Path) -> None:
    target = tmp_path / "a"
    if force:
        make_folder(target, "old")

    def interrupted() -> None:
        with new_folder(target, marker="marker", force=force) as folder:
            (folder / "marker").write_text("new")
            raise problem

    with pytest.raises(type(problem)):
        interrupted()
    assert os.listdir(tmp_path) == (["a"] if force else [])
    if force:
        assert (target / "marker").read_text() == "old"


def test_what_force_replaces(tmp_path: Path) -> None:
    make_folder(tmp_path / "a", "old")
    with pytest.raises(OutputError, match="--force"):
        make_folder(tmp_path / "a", "new")
    make_folder(tmp_path / "a", "new", force=True)
    assert (tmp_path / "a" / "marker").read_text() == "new"
    (tmp_path / "empty").mkdir()
    make_folder(tmp_path / "empty", "new", force=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis").write_text("mine")
    with pytest.raises(OutputError, match="no marker in it"):
        make_folder(tmp_path / "other", "new", force=True)
    (tmp_path / "file").write_text("mine")
    for force in (False, True):
        with pytest.raises(OutputError):
            make_folder(tmp_path / "file", "new", force=force)
    assert (tmp_path / "file").read_text() == "mine"
    check_writable(tmp_path / "new", marker="marker")
    with pytest.raises(OutputError, match="already exists"):
        check_writable(tmp_path / "a", marker="marker")
    assert sorted(os.listdir(tmp_path)) == ["a", "empty", "file", "other"]


@pytest.mark.parametrize("name", ["replace", "mkdir"])
def test_a_full_disk_is_an_output_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if name == "replace":
            patch.setattr(os, "replace", full)
        else:
            patch.setattr(Path, "mkdir", full)
        with pytest.raises(OutputError, match=r"No space left[\s\S]*Free some space"):
            make_folder(tmp_path / "a", "new")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
def test_a_stop_between_the_two_renames_keeps_the_old_folder(
    problem: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path / "a", "old")
    rename, calls = os.replace, []

    def second_fails(*names: Any) -> None:
        calls.append(names)
        if len(calls) == 2:
            raise problem
        rename(*names)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", second_fails)
        with pytest.raises((KeyboardInterrupt, OutputError)):
            make_folder(tmp_path / "a", "new", force=True)
    assert (tmp_path / "a" / "marker").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk_seen_by_the_tensor_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any, **_kwargs: Any) -> None:
        raise storage.SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr(storage, "save_file", full)

    def save() -> None:
        with new_folder(tmp_path / "a", marker="marker") as folder:
            write_tensors(folder / "x", {"x": torch.zeros(2)})

    with pytest.raises(OutputError, match="No space left"):
        save()
    assert os.listdir(tmp_path) == []


def test_one_file_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "deep" / "x.json"
    write_json(target, {"text": "é\n", "n": [1]})
    assert target.read_text(encoding="utf-8") == '{\n  "text": "é\\n",\n  "n": [\n    1\n  ]\n}\n'
    assert read_json(target, T2LError) == {"text": "é\n", "n": [1]}

    def full(*_args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        write_bytes(target, b"new")
    assert os.listdir(target.parent) == ["x.json"]
    assert read_json(target, T2LError)["n"] == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as JSON"),
        (b"{", "line 1 column 2"),
        (b"[1]", "holds list, not a JSON object"),
        (b"\xff\xfe", "cannot be read as text"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"n": ' + b"1" * 5000 + b"}", "cannot be read as JSON"),
    ],
)
def test_bad_json_names_the_file(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_json(tmp_path / "x.json", CheckpointError)
    assert "x.json" in str(caught.value)


def test_missing_files_and_folders_in_their_place(tmp_path: Path) -> None:
    for name in ("nothing", "nul\0byte"):
        with pytest.raises(AdapterError):
            read_json(tmp_path / name, AdapterError)
        with pytest.raises(AdapterError, match="does not exist"):
            read_tensors(tmp_path / name, AdapterError)
    with pytest.raises(AdapterError, match="cannot be read"):
        read_json(tmp_path, AdapterError)


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    whole = torch.arange(12, dtype=torch.float32).view(3, 4)
    tensors = {"transposed": whole.mT, "half": whole.to(torch.bfloat16), "slice": whole[:, 1:3].requires_grad_()}
    write_tensors(tmp_path / "x.safetensors", tensors, {"note": "hello"})
    back = read_tensors(tmp_path / "x.safetensors", T2LError)
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor)
        assert back[name].dtype == tensor.dtype
    from safetensors import safe_open

    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "note": "hello"}


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300))
def test_garbage_is_never_another_error(tmp_path_factory: pytest.TempPathFactory, garbage: bytes) -> None:
    path = tmp_path_factory.mktemp("garbage") / "x"
    path.write_bytes(garbage)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_tensors(path, CheckpointError)


def test_check_tensors_names_every_kind_of_problem() -> None:
    good = torch.zeros(2, 3)
    bad = {
        "extra": good,
        "shape": torch.zeros(3, 2),
        "dtype": torch.zeros(2, 3, dtype=torch.int64),
        "nan": torch.full((2, 3), float("nan")),
        "fine": good,
    }
    expected: dict[str, tuple[int, int]] = dict.fromkeys(("missing", "shape", "dtype", "nan", "fine"), (2, 3))
    with pytest.raises(CheckpointError) as caught:
        check_tensors(bad, expected, source="x.safetensors", error=CheckpointError)
    for line in (
        "'x.safetensors'",
        "missing missing (2, 3)",
        "unexpected extra (2, 3)",
        "shape has shape (3, 2), expected (2, 3)",
        "dtype has dtype torch.int64",
        "nan holds NaN",
    ):
        assert line in str(caught.value)
    assert "fine" not in str(caught.value)
    check_tensors({"fine": good}, {"fine": (2, 3)}, source="x", error=CheckpointError)
    many = {f"t{i}": good for i in range(9)}
    with pytest.raises(CheckpointError, match="and 3 more"):
        check_tensors(many, {}, source="x", error=CheckpointError)


def test_digest_depends_on_names_dtypes_shapes_and_values_alone() -> None:
    a, b = torch.arange(6.0), torch.ones(2)
    digest = tensors_digest({"a": a, "b": b})
    assert digest == tensors_digest({"b": b.clone(), "a": torch.arange(12.0)[:6]})
    others = [{"a": a}, {"a": b, "b": a}, {"a": a.view(2, 3), "b": b}, {"a": a.half(), "b": b}, {"a": a, "b": b * 2}]
    assert len({digest, *map(tensors_digest, others)}) == 6
    assert tensors_digest({"scalar": torch.tensor(1.0)}) != tensors_digest({"scalar": torch.tensor(2.0)})
    assert len(tensors_digest({"empty": torch.zeros(0)})) == 64
