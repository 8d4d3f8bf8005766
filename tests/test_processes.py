"""Processes that meet, and Ctrl-C at random moments: exit code 130, one sentence, nothing half-written, and it goes on.

The moments are drawn from a seed; where exactly they fall depends on the machine, what must hold then does not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmark_data import write_task
from helpers import MICRO_BASE, MICRO_CHECKPOINT
from t2l.adapter import Adapter
from t2l.model import TextToLora

TASKS = [
    "Give the last word in capital letters.",
    "Add 3 to the number.",
    "Write the words in reverse order.",
    "Give the first word.",
    "Count the words.",
]
WORDS = ["garden", "window", "silver", "bottle", "market", "planet", "copper", "ribbon", "basket", "candle"]
VERBS: dict[str, list[str]] = {
    "generate": ["generate", "--file", "tasks.txt", "--out", "made"],
    "export": ["export", "adapters/0", "--to", "gguf", "--out", "made.gguf"],
    "combine": ["combine", "adapters/0", "adapters/1", "--out", "made"],
    "refine": ["refine", "adapters/0", "--examples", "examples.jsonl", "--steps", "6", "--out", "made"],
    "calibrate": ["calibrate", "--checkpoint", "checkpoint", "--tasks", "known.jsonl"],
    "evaluate": ["evaluate", "--data", "exam", "--rows", "base,t2l", "--limit", "6", "--out", "made"],
    "prepare": ["data", "prepare", "natural", "--base", MICRO_BASE, "--validation", "0", "--output", "made"],
}

WHOLE = {"generate", "export", "combine", "refine"}
TIMED: tuple[str, ...] = ("settings.json", "run.json", "manifest.json")  # they hold times or where the data were


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the verbs read."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "tasks.txt").write_text("\n".join([*TASKS, *(f"Add {n} to the number." for n in range(4, 12))]))
    for number, adapter in enumerate(TextToLora.from_pretrained().generate(TASKS[:2])):
        adapter.save(folder / "adapters" / str(number))
    pairs = [(word, word[2:]) for word in WORDS]
    (folder / "examples.jsonl").write_text("".join(json.dumps({"input": a, "output": b}) + "\n" for a, b in pairs))
    write_task(folder / "exam", "cut", pairs)
    natural = folder / "natural"
    natural.mkdir()
    for number in range(6):
        instances = [{"id": f"{number}-{n}", "input": word, "output": [word[number:]]} for n, word in enumerate(WORDS)]
        task = {"Definition": [f"Cut {number} letters off."], "Input_language": ["English"], "Instances": instances}
        task |= {"Output_language": ["English"], "Instruction_language": ["English"], "Categories": ["Text"]}
        task |= {"Positive Examples": [], "Negative Examples": []}
        (natural / f"task00{number}_cut.json").write_text(json.dumps(task))
    known = [{"task": f"t{n}", "descriptions": [f"Add {n}.", f"Plus {n}."]} for n in range(4)]
    known += [
        {"task": f"v{n}", "descriptions": [text], "examples": [{"input": a, "output": b} for a, b in pairs[:2]]}
        for n, text in enumerate(TASKS)
    ]
    (folder / "known.jsonl").write_text("".join(json.dumps(one) + "\n" for one in known))
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "model.safetensors"):
        (checkpoint / name).write_bytes((MICRO_CHECKPOINT / name).read_bytes())
    return folder


def stopped(given: Path, verb: str, moments: int) -> dict[str, Any]:
    here = Path(__file__).resolve().parent
    environment = {**os.environ, "PYTHONPATH": str(here.parent / "src"), "COLUMNS": "300"}
    words = [sys.executable, str(here / "interrupts.py"), str(given), str(moments), "7", *VERBS[verb]]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=3000)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("verb", list(VERBS))
def test_ctrl_c_at_twenty_random_moments(given: Path, verb: str) -> None:
    report = stopped(given, verb, 20)
    statuses = [one["status"] for one in report["trials"]]
    assert statuses.count(130) >= 5, statuses
    check(given, verb, report)


def test_ctrl_c_at_a_few_moments(given: Path) -> None:
    """The fast part of the above."""
    check(given, "generate", stopped(given, "generate", 3))


def check(given: Path, verb: str, report: dict[str, Any]) -> None:
    alone, before = report["alone"], {str(path.relative_to(given)) for path in given.rglob("*") if path.is_file()}
    assert alone["status"] == 0, alone["said"]
    for one in report["trials"]:
        told = f"{one['after_s']:.3f} of {alone['seconds']:.3f} s: {one['status']}, {one['said'][-1500:]}"
        assert one["status"] in (0, 130), told
        assert "Traceback" not in one["said"] and "Exception ignored" not in one["said"], told
        assert not [name for name in one["files"] if name.endswith((".tmp", ".old"))], told
        if one["status"] == 0:
            continue
        assert one["said"].count("Stopped.") == 1, told
        new = {name: digest for name, digest in one["files"].items() if name not in before}
        if verb in WHOLE:  # each file and each folder is there as it should be, or not at all
            assert all(alone["files"].get(name) == digest for name, digest in new.items()), told
            for folder in {name.rpartition("/")[0] for name in new} - {""}:
                inside = [{name for name in files if name.startswith(f"{folder}/")} for files in (new, alone["files"])]
                assert inside[0] == inside[1], told
        if verb in WHOLE and new:  # what is there is not overwritten unasked
            assert one["again"] == 0 or (one["again"] == 2 and "already exists" in one["said_again"]), told
            continue
        assert one["again"] == 0, one["said_again"]
        assert {name for name, digest in one["files_again"].items() if alone["files"].get(name) != digest} <= {
            name for name in alone["files"] if name.endswith(TIMED)
        }
        assert set(one["files_again"]) == set(alone["files"]), told


@pytest.mark.parametrize("after_s", [0.05, 0.15, 0.4])
def test_ctrl_c_before_there_is_a_verb(after_s: float, tmp_path: Path) -> None:
    """While Python starts nobody can catch it; from our first line on, it is our sentence or none, and 130."""
    here = Path(__file__).resolve().parent
    program = (
        "import sys, threading, signal, time\n"
        "threading.Timer(float(sys.argv.pop()), signal.raise_signal, [signal.SIGINT]).start()\n"
        "from t2l.__main__ import main\n"
        "sys.argv[0] = 't2l'\n"
        "main()\n"
    )
    words = [sys.executable, "-c", program, "generate", TASKS[0], "--out", str(tmp_path / "made"), str(after_s)]
    environment = {**os.environ, "PYTHONPATH": str(here.parent / "src")}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr
    assert "Stopped." in done.stderr and not (tmp_path / "made").exists()


def test_ctrl_c_in_a_destructor_is_not_lost() -> None:
    """Python drops what is raised there, and a verb that goes on has not been stopped."""
    program = (
        "import signal, sys, time, types\n"
        "class Dying:\n"
        "    def __del__(self):\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "def run():\n"
        "    Dying()\n"
        "    time.sleep(30)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.modules['t2l.cli'] = types.SimpleNamespace(main=run)\n"
        "from t2l.__main__ import main\n"
        "main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 130 and done.stderr.split() == ["Stopped.", "Nothing", "was", "left", "half-written."]


@pytest.mark.parametrize("raised", ["SafetensorError('no shape')", "RuntimeError('no shape')"])
def test_ctrl_c_that_a_library_makes_an_error_of_is_no_fault(raised: str, given: Path, tmp_path: Path) -> None:
    """Torch met Ctrl-C while it asked a storage for its length, and said that the file was damaged."""
    program = (
        "import signal, sys\n"
        "from safetensors import SafetensorError\n"
        "import t2l.cli, t2l.storage\n"
        "def load_file(path):\n"
        "    try:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    except KeyboardInterrupt as stop:\n"
        f"        raise {raised} from stop\n"
        "t2l.storage.load_file = load_file\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from t2l.__main__ import main\n"
        "main()\n"
    )
    words = [sys.executable, "-c", program, "generate", TASKS[0], "--out", str(tmp_path / "made")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src")}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 130 and "whole" not in done.stderr and "bug" not in done.stderr, done.stderr
    assert done.stderr.count("Stopped.") == 1 and not (tmp_path / "made").exists()


def test_ctrl_c_waits_for_what_reads_tensors(tmp_path: Path) -> None:
    """Until then it would be an error of the reader's own, or be dropped."""
    program = (
        "import signal, sys, types\n"
        "from t2l.commands.interrupts import watch_interrupts\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "watch_interrupts()\n"
        "code = 'def read(): signal.raise_signal(signal.SIGINT); print(\"whole\", flush=True)'\n"
        "exec(compile(code, sys.argv[1], 'exec'))\n"
        "read()\n"
        "import time; time.sleep(30)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src")}
    for place, said in ((f"{tmp_path}/safetensors/torch.py", "whole\n"), (f"{tmp_path}/other.py", "")):
        words = [sys.executable, "-c", program, place]
        done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=60)
        assert done.stdout == said and done.stderr.endswith("KeyboardInterrupt\n"), (done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("given_before", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_threads_that_wait_soon_sleep(given_before: dict[str, str], expected: str) -> None:
    """Or a busy machine's cores go to those that wait; what the user has set stays."""
    program = (
        "import os, sys, types\n"
        "run = lambda: print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)\n"
        "sys.modules['t2l.cli'] = types.SimpleNamespace(main=run)\n"
        "from t2l.__main__ import main\n"
        "main()\n"
    )
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment = {**kept, **given_before, "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout.split() == [expected, "False"], done.stderr


EIGHT = """
import json, os, sys
sys.path.insert(0, TESTS)
import interrupts
from pathlib import Path
import t2l.cli, t2l.model, transformers.models.llama.modeling_llama
os.environ["T2L_CACHE"] = sys.argv[1]
places = [Path(sys.argv[2]) / str(n) for n in range(8)]
for n, place in enumerate(places):
    place.mkdir()
children = [
    interrupts.start(place, ["generate", "--file", sys.argv[3], f"Add {n} to the number.", "--out", "made"], cache=None)
    for n, place in enumerate(places)
]
print(json.dumps([interrupts.ended(child) for child in children]))
"""


def test_eight_commands_at_once_on_a_cold_cache(given: Path, tmp_path: Path) -> None:
    here = Path(__file__).resolve().parent
    program = EIGHT.replace("TESTS", repr(str(here)))
    (tmp_path / "work").mkdir()
    words = [sys.executable, "-c", program, str(tmp_path / "cache"), str(tmp_path / "work"), str(given / "tasks.txt")]
    environment = {**os.environ, "PYTHONPATH": str(here.parent / "src"), "COLUMNS": "300"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=600)
    said = "".join(path.read_text() for path in (tmp_path / "work").glob("*.err"))
    assert done.returncode == 0 and json.loads(done.stdout) == [0] * 8, (done.stderr, said)
    assert "Traceback" not in said and "damaged" not in said
    t2l = TextToLora.from_pretrained()
    for number in range(8):
        texts = [f"Add {number} to the number.", *(given / "tasks.txt").read_text().split("\n")]
        alone = {text: adapter.digest for text, adapter in zip(texts, t2l.generate(texts), strict=True)}
        made = [Adapter.load(folder) for folder in (tmp_path / "work" / str(number) / "made").iterdir()]
        assert {adapter.provenance["description"]: adapter.digest for adapter in made} == alone
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["embeddings.sqlite"]
