"""The tasks that a checkpoint for a real base is calibrated on, and a check of what the calibration is worth.

    python -m lab.calibration tasks FOLDER OUT.jsonl     # FOLDER as lab.store writes it; OUT for t2l calibrate --tasks
    python -m lab.calibration micro OUT.jsonl            # the same for the micro world's checkpoint
    python -m lab.calibration check CHECKPOINT --run RUN --data FOLDER

Both steps and ``t2l calibrate`` between them: ``make calibrate CHECKPOINT=... DATA=...``. Known tasks carry labels of
our own (``known_tasks.yaml``, or a description that the laboratory wrote), never the texts of others.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

from lab.everyday import everyday_tasks
from lab.tasks import PREFIX
from lab.world.tasks import tasks_of
from lab.world.wording import descriptions
from t2l.demo.measure import RECORD_FILE
from t2l.errors import T2LError
from t2l.guidance.calibration import read
from t2l.guidance.guide import Guide
from t2l.model import TextToLora

KNOWN_WORDINGS, WORDINGS, EXAMPLES = 3, 2, 3
LONGEST_INPUT = 800  # characters, of an example
ADDRESSES = ("TODO", "JOB", "Spec:", "Hi", "OK,", "Pls", "Could you", "Help me", "Do exactly this", "Behave as follows")
VALIDATION = ("validation_everyday", "validation_real")


def records(folder: Path) -> Iterator[dict[str, Any]]:
    """The records for ``t2l calibrate --tasks``: known tasks with labels, and validation tasks with examples."""
    described = _descriptions(folder)
    everyday = {PREFIX + task.name: task for task in everyday_tasks(0)}
    numbered = yaml.safe_load(Path(__file__).with_name("known_tasks.yaml").read_text(encoding="utf-8"))
    for name in _names(folder, "train_everyday"):
        label = _label((*everyday[name].descriptions, everyday[name].definition))
        yield {"task": name, "label": label, "descriptions": _drawn(described[name], name, KNOWN_WORDINGS)}
    for name in _names(folder, "train_real"):
        number = int(name.removeprefix("task").partition("_")[0])
        if number in numbered:
            texts = _drawn(described[name], name, KNOWN_WORDINGS)
            yield {"task": f"task{number}", "label": numbered[number], "descriptions": texts}
    for part in VALIDATION:
        for name in _names(folder, part):
            instances = json.loads((folder / "tasks" / f"{name}.json").read_text(encoding="utf-8"))["Instances"]
            short = [one for one in instances if 0 < len(one["input"].strip()) <= LONGEST_INPUT and all(one["output"])]
            rng = Random(f"calibration/{name}")
            examples = [
                {"input": one["input"], "output": one["output"]} for one in rng.sample(short, min(EXAMPLES, len(short)))
            ]
            if examples:
                yield {"task": name, "descriptions": _drawn(described[name], name, WORDINGS), "examples": examples}


def micro_records() -> Iterator[dict[str, Any]]:
    """The same of the micro world."""
    for task in tasks_of("train"):
        yield {"task": task.name, "descriptions": descriptions(task, KNOWN_WORDINGS + 1, part="train")}
    for task in tasks_of("validation"):
        texts = [*descriptions(task, 3, part="train", seed=1), *descriptions(task, 1, part="evaluation", seed=1)]
        pairs = [{"input": asked, "output": answer} for asked, answer in task.examples(10, seed=1)]
        yield {"task": task.name, "descriptions": texts, "examples": pairs}


def check(checkpoint: str, run: Path | None, folder: Path | None) -> list[str]:
    """What a calibration is worth, in lines: on the demo's tasks, on texts of `CONTROLS`, and on a run of an exam."""
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    guide = Guide.of(TextToLora.from_pretrained(checkpoint))
    assert guide.t2l.folder is not None
    demo = json.loads((guide.t2l.folder / RECORD_FILE).read_text(encoding="utf-8"))["tasks"]
    measured = {"demo": {task["description"]: _demo_gain(task) for task in demo}}
    if run is not None and folder is not None:
        measured["exam"] = _run_gains(run, folder)
    scale = guide.calibration.scale

    def confidences(texts: Sequence[str]) -> list[float]:
        return scale.confidence(guide.calibration.known.measure(*read(guide.t2l, texts))).tolist()

    lines, good = [], []
    for name, gains in measured.items():
        gain, found = list(gains.values()), confidences(list(gains))
        good += found
        expected = [scale.expected_gain(value) for value in found]
        rank, _ = spearmanr(expected, gain)
        low, high = (
            [g for g, value in zip(gain, found, strict=True) if (value < 0.5) == sign] for sign in (True, False)
        )
        lines.append(
            f"{name}: {len(gain)} tasks, mean confidence {_mean(found):.2f}; gain of the {len(high)} above 0.5 "
            f"{_mean(high):+.3f}, of the {len(low)} below {_mean(low):+.3f}; expected {_mean(expected):+.3f}; "
            f"rank correlation {rank:.2f}"
        )
    for kind, texts in _controls().items():
        bad = confidences(texts)
        area = roc_auc_score([1] * len(good) + [0] * len(bad), [*good, *bad])
        below = sum(value < 0.5 for value in bad)
        lines.append(f"{kind}: {below} of {len(bad)} below 0.5, mean {_mean(bad):.2f}, AUROC against tasks {area:.3f}")
    return lines


def _demo_gain(task: dict[str, Any]) -> float:
    return (task["right"]["adapter"] - task["right"]["base"]) / len(task["examples"])


def _run_gains(run: Path, folder: Path) -> dict[str, float]:
    """Description -> ROUGE-L under its adapter minus that of the base, from ``t2l evaluate --suite sni``."""
    scores = json.loads((run / "run.json").read_text(encoding="utf-8"))["scores"]
    found = {}
    for name, task in scores["t2l"].items():
        description = json.loads((folder / "tasks" / f"{name}.json").read_text(encoding="utf-8"))["Definition"][0]
        found[description] = task["rouge_l"] - scores["base"][name]["rouge_l"]
    return found


@cache
def _controls() -> dict[str, list[str]]:
    """Texts not to be trusted that no calibration has seen."""
    text = Path(__file__).with_name("calibration_controls.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def _label(texts: Sequence[str]) -> str:
    """The plainest of a task's descriptions: the shortest sentence of three to nine words, else the shortest text.

    One that begins with a form of address ("TODO:", "Could you") is taken only where there is no other.
    """
    direct = [text for text in texts if not text.startswith(ADDRESSES)] or list(texts)
    plain = [text for text in direct if 3 <= len(text.split()) <= 9 and text.endswith(".") and text[0].isupper()]
    return min(plain or direct, key=len)


def _drawn(texts: Sequence[str], name: str, count: int) -> list[str]:
    return Random(f"calibration/{name}/wordings").sample(list(texts), min(count, len(texts)))


def _descriptions(folder: Path) -> dict[str, list[str]]:
    lines = (folder / "descriptions.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["name"]: record["descriptions"] for record in map(json.loads, lines)}


def _names(folder: Path, part: str) -> list[str]:
    return (folder / "splits" / f"{part}.txt").read_text(encoding="utf-8").split()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m lab.calibration", description="Tasks for t2l calibrate; a check.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    write = verbs.add_parser("tasks", help="write the tasks for t2l calibrate --tasks")
    write.add_argument("folder", type=Path, help="as lab.store writes it")
    write.add_argument("out", type=Path, help="the file to write")
    micro = verbs.add_parser("micro", help="the same for the micro world's checkpoint")
    micro.add_argument("out", type=Path, help="the file to write")
    look = verbs.add_parser("check", help="what the calibration of a checkpoint is worth")
    look.add_argument("checkpoint", help="folder or name")
    look.add_argument("--run", type=Path, help="a run of t2l evaluate --suite sni with the rows base and t2l")
    look.add_argument("--data", type=Path, help="where the run's tasks are, as lab.store writes it")
    given = parser.parse_args()
    try:
        if given.verb != "check":
            wanted = records(given.folder) if given.verb == "tasks" else micro_records()
            lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in wanted]
            given.out.write_text("".join(lines), encoding="utf-8")
            print(f"{given.out}: {len(lines)} tasks")
        else:
            print("\n".join(check(given.checkpoint, given.run, given.data)))
    except (T2LError, OSError) as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
