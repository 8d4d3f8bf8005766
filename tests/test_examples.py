"""Every sentence that is shown anywhere as an example answers as tests/golden/examples.json says."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command import environment
from t2l.bases import Base
from t2l.demo.gallery import shipped_record
from t2l.demo.measure import Session
from t2l.demo.tasks import demo_tasks
from t2l.model import TextToLora

ROOT = Path(__file__).resolve().parents[1]
GOLDEN: dict[str, dict[str, str]] = json.loads((ROOT / "tests" / "golden" / "examples.json").read_text("utf-8"))


def tool() -> Any:
    spec = importlib.util.spec_from_file_location("examples", ROOT / "tools" / "examples.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_has_an_answer() -> None:
    assert tool().lacking(GOLDEN) == [], "give it an input in tests/golden/examples.json; run: python tools/examples.py"


def test_an_example_without_an_answer_is_seen(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        't2l run "Do this." "to that"\nt2l run "Do that." --input "x"\nt2l generate "One." "Two." --out a\n'
        'f = t2l.compile("Three.")\nt2l explain "No." --checkpoint another\n{"task_description": "Four."}\n'
    )
    golden = {"Do this.": {"to this": "done"}, "Do that.": {"x": "done"}, "Three.": {"x": "y"}}
    wanted = ["README.md: Do this. to that", "README.md: Four.", "README.md: One.", "README.md: Two."]
    assert tool().lacking(golden, tmp_path) == wanted


def test_the_examples_answer_as_they_did(smollm2: Base) -> None:
    made = TextToLora.from_pretrained("smollm2-135m")
    assert tool().answered(GOLDEN, made, smollm2.with_system(made.system)) == GOLDEN, "run: python tools/examples.py"


def test_the_examples_that_pages_begin_with_are_right() -> None:
    """They are what a newcomer tries first; their answers are not only the same as ever."""
    right = {
        "Say whether the review is positive or negative.": ("The soup was cold and the waiter was rude.", "negative"),
        "Is this message spam? Answer yes or no.": ("You won a free phone!", "yes"),
        "Copy the date out of the message.": ("The meeting is on 3 June.", "3 June"),
        "Which city is named in the sentence?": ("We met in Lisbon last spring.", "Lisbon"),
        "How much money is it? Give the amount only.": ("Please pay $12.50 by Friday.", "$12.50"),
    }
    assert {description: GOLDEN[description][text] for description, (text, _) in right.items()} == {
        description: answer for description, (_, answer) in right.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_the_command_lines_run_as_they_stand(page: str, tmp_path: Path, smollm2_cache: Path) -> None:
    """All that use what a clone has, in a shell, in ten minutes of computing; a reader's own files lie there."""
    text = (ROOT / page).read_text(encoding="utf-8")
    shell = [
        block for block in re.findall(r"^```sh$\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL) if "t2l" in block
    ]
    lines = [line for block in shell for line in block.replace("\\\n", " ").splitlines()]
    lines = [line for line in lines if not re.match(r"make |source |t2l workbench|t2l import|.*mistral", line)]
    assert len(lines) >= 4
    (tmp_path / "reviews.txt").write_text("We will be back!\nNever again.\n")
    (tmp_path / "mail.txt").write_text("Hello, the printer on the second floor jams on every page.\n")
    (tmp_path / "tasks.txt").write_text("Name the city.\nCopy the date out.\n")
    (tmp_path / "t2l").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m t2l "$@"\n')
    (tmp_path / "t2l").chmod(0o755)
    own = {"PATH": f"{tmp_path}:{os.defpath}", "T2L_CACHE": str(smollm2_cache), "T2L_CHECKPOINT": "smollm2-135m"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for line in lines:
        command = ["bash", "-o", "pipefail", "-c", line]
        ran = subprocess.run(
            command, cwd=tmp_path, env=environment() | own, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert ran.returncode == 0, (line, ran.stderr)
        assert (ran.stdout + ran.stderr).strip(), line
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 600


@pytest.mark.slow
def test_every_answer_of_the_demo_and_the_gallery_is_the_recorded_one(smollm2: Base) -> None:
    record = shipped_record()
    if record is None:
        pytest.skip("needs the measured demo of the checkpoint smollm2-135m, which is not here")
    made = TextToLora.from_pretrained("smollm2-135m")
    found = list(Session(made, smollm2.with_system(made.system)).try_all())
    assert len(found) == len(demo_tasks())
    for outcome, recorded in zip(found, record["tasks"], strict=True):
        answers = [(one.base, one.prompted, one.adapted) for one in outcome.compared]
        keys = ("base", "description-in-prompt", "adapter")
        assert answers == [tuple(example[key] for key in keys) for example in recorded["examples"]], recorded["name"]
