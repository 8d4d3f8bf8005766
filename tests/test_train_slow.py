"""The recipe for the embedded base on real tasks, as the page 'train your own' has it: killed, resumed, used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import MICRO_BASE, MICRO_RECIPE

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DATA.is_dir(), reason="needs the real tasks in ../shared/data")]
STEPS = 200


def t2l(*words: str) -> list[str]:
    return [sys.executable, "-m", "t2l", *words]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}


def run(*words: str) -> str:
    done = subprocess.run(t2l(*words), capture_output=True, text=True, env=environment(), timeout=3600)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def steps_of(out: Path) -> int:
    file = out / "metrics.jsonl"
    return file.read_text().count("\n") if file.is_file() else 0


def test_the_real_task_recipe_is_killed_resumed_and_used(tmp_path: Path) -> None:
    store, out, adapter = tmp_path / "store", tmp_path / "run", tmp_path / "adapter"
    prepare = ["data", "prepare", str(DATA / "natural-instructions"), "-o", str(store), "--base", MICRO_BASE]
    prepare += ["--descriptions", str(DATA / "task-descriptions"), "--without-descriptions", "drop"]
    run(*prepare, "--max-samples", "60", "--max-prompt", "200", "--max-response", "50")
    train = ["train", "sft", MICRO_RECIPE, f"data.store={store}", "-o", str(out), "--cpu"]
    process = subprocess.Popen(t2l(*train), env=environment(), stderr=subprocess.DEVNULL)
    try:
        while steps_of(out) < STEPS // 2 + 10:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    said = run(*train)
    assert f"Going on from step {STEPS // 2} of {STEPS}" in said
    assert steps_of(out) == STEPS
    run("generate", "Answer the question with one word.", "-c", str(out / "checkpoint"), "-o", str(adapter))
    assert (adapter / "adapter_model.safetensors").is_file()
