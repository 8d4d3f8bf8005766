"""Files of strangers: each ends in one sentence, soon, and in little memory; none is run, none hangs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from helpers import tiny_pair
from t2l import cli
from t2l.adapter import Adapter
from t2l.errors import AdapterError, CheckpointError, T2LError
from t2l.inspection import inspect
from t2l.model import TextToLora
from t2l.storage import MOST_FOREIGN, parse_yaml, read_json, read_pickled, read_tensors, read_yaml
from t2l.training.rows import read_state, write_state

ENOUGH_S = 1.0
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join(['*' + before] * 10)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    (made,) = tiny_pair(["task"])[1].generate(["task"])
    return made.save(tmp_path / "adapter")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_pair(["task"])[1].save_pretrained(tmp_path / "checkpoint")


def refused(read: Callable[[], Any], *parts: str) -> None:
    """In one sentence, and soon: in this process's own time, for the machine may be busy."""
    begun = time.process_time()
    with pytest.raises(T2LError) as told:
        read()
    assert time.process_time() - begun < ENOUGH_S
    assert len(str(told.value)) < 1000
    assert all(part in str(told.value) for part in parts), told.value


def pack(source: Path, target: Path) -> None:
    """The same archive, compressed."""
    with (
        zipfile.ZipFile(source) as plain,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
    ):
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))


@pytest.mark.parametrize("name", ["adapter_config.json", "t2l.json"])
def test_a_pipe_in_place_of_a_config_is_not_waited_for(adapter: Path, name: str) -> None:
    (adapter / name).unlink()
    os.mkfifo(adapter / name)
    refused(lambda: Adapter.load(adapter), "not a regular file")
    refused(lambda: inspect(adapter))


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_a_device_without_an_end_is_not_read(adapter: Path, checkpoint: Path) -> None:
    for path in (adapter / "adapter_config.json", adapter / "t2l.json", checkpoint / "config.json"):
        path.unlink()
        path.symlink_to("/dev/zero")
    refused(lambda: Adapter.load(adapter), "not a regular file")
    refused(lambda: TextToLora.from_pretrained(checkpoint))
    for path in (adapter / "adapter_model.safetensors", checkpoint / "model.safetensors"):
        path.unlink()
        path.symlink_to("/dev/zero")
        refused(lambda path=path: read_tensors(path, AdapterError))
        refused(lambda path=path: read_pickled(path, CheckpointError), "not a regular file")
        refused(lambda path=path: read_yaml(path, CheckpointError), "not a regular file")


def test_a_config_beyond_any_reason_is_not_parsed(adapter: Path, checkpoint: Path) -> None:
    huge = '{"peft_type": "LORA", "x": [' + "0," * MOST_FOREIGN + "0]}"
    for path in (adapter / "adapter_config.json", checkpoint / "config.json"):
        path.write_text(huge)
    refused(lambda: Adapter.load(adapter), f"{MOST_FOREIGN:,}")
    refused(lambda: TextToLora.from_pretrained(checkpoint), f"{MOST_FOREIGN:,}")


def test_a_file_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(5_000_000)}, tmp_path / "plain.pt")
    pack(tmp_path / "plain.pt", tmp_path / "packed.pt")
    assert (tmp_path / "packed.pt").stat().st_size < 200_000
    assert read_pickled(tmp_path / "plain.pt", CheckpointError)["weight"].numel() == 5_000_000
    refused(lambda: read_pickled(tmp_path / "packed.pt", CheckpointError), "compressed")


def test_a_tensor_of_more_elements_than_bytes_is_refused(tmp_path: Path) -> None:
    for inside in (lambda x: {"w": x}, lambda x: {"a": {"b": [x]}}, lambda x: [(x,)]):
        torch.save(inside(torch.zeros(1).expand(10**12)), tmp_path / "wide.pt")
        refused(lambda: read_pickled(tmp_path / "wide.pt", CheckpointError), "1000000000000")


def test_the_state_of_a_killed_run_is_read_within_the_same_bounds(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    write_state(path, {"step": 3, "weight": torch.zeros(5_000_000)})
    state = read_state(path, ("step",))
    assert state is not None and state["step"] == 3 and state["weight"].numel() == 5_000_000
    pack(path, tmp_path / "packed.pt")
    refused(lambda: read_state(tmp_path / "packed.pt", ()), "compressed", "start afresh")
    write_state(path, {"wide": torch.zeros(1).expand(10**12)})
    refused(lambda: read_state(path, ()), "1000000000000", "start afresh")
    path.unlink()
    os.mkfifo(path)
    refused(lambda: read_state(path, ()), "not a regular file")


@pytest.mark.parametrize("verb", ["generate", "run", "examples"])
def test_what_a_user_names_is_read_up_to_a_size(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of ``--file /dev/zero``, or of a log of gigabytes by mistake."""
    monkeypatch.setattr("t2l.storage.MOST_INPUT", 10_000)
    out = ["--out", str(tmp_path / "out")]
    words = {
        "generate": ["generate", "--file", "/dev/zero", *out],
        "run": ["run", "Sort the words.", "--file", "/dev/zero"],
        "examples": ["refine", str(tmp_path / "adapter"), "--examples", "/dev/zero", *out],
    }[verb]
    result = CliRunner(env={"COLUMNS": "300"}).invoke(cli.app, words)
    assert result.exit_code == 2 and "'/dev/zero' has more than 10,000 bytes" in result.stderr
    assert not (tmp_path / "out").exists()


def test_very_many_tensors_are_not_read(tmp_path: Path) -> None:
    header = {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)}
    names = json.dumps(header).encode()
    path = tmp_path / "many.safetensors"
    path.write_bytes(len(names).to_bytes(8, "little") + names)
    refused(lambda: read_tensors(path, AdapterError), "names")


@pytest.mark.parametrize("value", [1e38, -1e38, 3e38, 1e-45, 0.0])
def test_values_at_the_edge_of_float32_are_measured(adapter: Path, value: float) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: torch.full_like(tensor, value) for name, tensor in tensors.items()},
        adapter / "adapter_model.safetensors",
    )
    (adapter / "t2l.json").unlink()
    for words in ([str(adapter)], [str(adapter), "--json"]):
        result = CliRunner().invoke(cli.app, ["inspect", *words])
        assert result.exit_code == 0, result.output
    report = inspect(adapter)
    assert report.norms is not None and report.norms.total < float("inf")


@pytest.mark.parametrize("name", ["x" * 10_000, "a\x00b", 7, ["x"], {"a": 1}, True])
def test_a_base_cannot_have_any_name(adapter: Path, checkpoint: Path, name: Any) -> None:
    path = adapter / "t2l.json"
    record = json.loads(path.read_text())
    record["spec"]["base_model"] = name
    path.write_text(json.dumps(record))
    refused(lambda: Adapter.load(adapter), "adapter")
    config = json.loads((checkpoint / "config.json").read_text())
    config["hypernetwork"]["spec"]["base_model"] = name
    (checkpoint / "config.json").write_text(json.dumps(config))
    refused(lambda: TextToLora.from_pretrained(checkpoint))


@pytest.mark.parametrize("verb", ["inspect", "run", "generate"])
def test_an_endless_or_impossible_path_is_refused_in_a_sentence(verb: str) -> None:
    for path in ("x" * 10_000, "a/" * 3000, "a\x00b"):
        words = {
            "inspect": ["inspect", path],
            "run": ["run", "text", "--input", "x", "--checkpoint", path],
            "generate": ["generate", "text", "--checkpoint", path],
        }[verb]
        result = CliRunner().invoke(cli.app, words)
        assert result.exit_code == 2 and "Error: " in result.stderr and "bug" not in result.stderr, result.exception


def test_a_few_lines_of_yaml_do_not_become_billions_of_values(tmp_path: Path) -> None:
    (tmp_path / "bomb.yaml").write_text(BOMB)
    refused(lambda: read_yaml(tmp_path / "bomb.yaml", CheckpointError), "aliases")
    refused(lambda: parse_yaml("[" * 5000, "deep", CheckpointError), "deep")
    for tag in ("!!python/object/apply:os.system ['true']", "!!timestamp 2001-99-99", "!!int x"):
        refused(lambda tag=tag: parse_yaml(tag, "text", CheckpointError), "text")
    assert parse_yaml("a: [1, {b: null}]\n", "fine", CheckpointError) == {"a": [1, {"b": None}]}
    result = CliRunner().invoke(cli.app, ["train", "sft", "--recipe", str(tmp_path / "bomb.yaml"), "--dry-run"])
    assert result.exit_code == 2 and "bug" not in result.stderr


def test_json_that_is_deep_or_strange_is_refused(tmp_path: Path) -> None:
    for number, text in enumerate(["[" * 100_000, "9" * 5000, '{"a": 1', "[]", "null", ""]):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        refused(lambda path=path: read_json(path, CheckpointError))
    (tmp_path / "bytes.json").write_bytes(b'{"a": "\xff"}')
    refused(lambda: read_json(tmp_path / "bytes.json", CheckpointError))


def test_refusing_takes_little_memory(tmp_path: Path) -> None:
    """In a process of its own, whose peak is its own: the worst of the files above, one after the other."""
    header = {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(300_000)}
    names = json.dumps(header).encode()
    (tmp_path / "many").write_bytes(len(names).to_bytes(8, "little") + names)
    (tmp_path / "bomb").write_text(BOMB)
    torch.save(torch.zeros(1).expand(10**12), tmp_path / "wide")
    torch.save(torch.zeros(50_000_000), tmp_path / "plain")
    pack(tmp_path / "plain", tmp_path / "packed")
    program = """
import resource, sys
from pathlib import Path
from t2l.errors import T2LError
from t2l.storage import read_pickled, read_tensors, read_yaml
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for read, name in ((read_tensors, "many"), (read_yaml, "bomb"), (read_pickled, "wide"), (read_pickled, "packed")):
    try:
        read(Path(sys.argv[1]) / name, T2LError)
    except T2LError:
        continue
    raise SystemExit(f"{name} was read")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    given = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, env=given)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 100
