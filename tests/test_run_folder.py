"""A training run's folder on a bad day: a full disk, damaged checkpoints, names that only look like steps."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from t2l import cli
from t2l.errors import CheckpointError, OutputError
from t2l.training.run_folder import STATE_FILE, RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run with two whole checkpoints."""
    made = RunFolder(tmp_path / "run")
    for step in (2, 4):
        made.save(step, {"weight": torch.full((64,), float(step))}, {"moments": torch.zeros(64)}, {"step": step})
    return made


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-70] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize("name", ["model.safetensors", "training.pt", STATE_FILE])
@pytest.mark.parametrize("damage", [flipped, cut, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_checkpoint_is_told_in_one_way_whichever_file_it_is(
    folder: RunFolder, name: str, damage: Callable[[Path], Any]
) -> None:
    path = folder.place(4) / name
    if name == STATE_FILE and damage is Path.unlink:
        pytest.skip("without its state it is no checkpoint, and the one before it is the newest")
    if name == STATE_FILE and damage is flipped:
        path.write_text(path.read_text().replace("digests", "digest\\u0000s", 1)[:-3])
    else:
        damage(path)
    with pytest.raises(CheckpointError, match=r"The checkpoint of step 4 is damaged: ") as told:
        folder.load(4)
    assert told.value.fix == f"To go on from step 2: rm -r '{folder.place(4)}'"
    assert "\n" not in told.value.message
    for file in folder.place(4).iterdir():
        file.unlink()
    folder.place(4).rmdir()
    assert folder.last() == 2 and float(folder.load(2)[0]["weight"][0]) == 2


def test_the_only_checkpoint_says_how_to_begin_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save(2, {"weight": torch.zeros(64)}, {}, {"step": 2})
    flipped(folder.place(2) / "model.safetensors")
    with pytest.raises(CheckpointError, match="the digests differ") as told:
        folder.load(2)
    assert told.value.fix == f"To begin anew: rm -r '{folder.place(2)}'"


def test_a_checkpoint_of_before_has_no_digests_and_is_read(folder: RunFolder) -> None:
    import json

    path = folder.place(4) / STATE_FILE
    state = json.loads(path.read_text())
    assert set(state.pop("digests")) == {"model.safetensors", "training.pt"}
    path.write_text(json.dumps(state))
    assert float(folder.load(4)[0]["weight"][0]) == 4


@pytest.mark.parametrize("name", ["²", "٣", "00000005 ", "-0000004", "x", "4", "1_000_000_0"])
def test_only_names_of_steps_are_steps(folder: RunFolder, name: str) -> None:
    (folder.steps / name).mkdir()
    (folder.steps / name / STATE_FILE).write_text("{}")
    assert folder.saved() == [2, 4]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_while_a_metrics_line_is_written_is_no_bug(folder: RunFolder) -> None:
    with pytest.raises(OutputError, match="No space left") as told:
        folder.note(Path("/dev/full"), {"step": 1})
    assert "goes on from its newest checkpoint" in str(told.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
def test_a_full_disk_anywhere_is_the_machines_and_not_a_bug_of_ours(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr("t2l.inspection.inspect", full)
    result = CliRunner().invoke(cli.app, ["inspect"])
    assert result.exit_code == 2
    assert "Cannot write 'some/file'" in result.stderr and "bug" not in result.stderr
