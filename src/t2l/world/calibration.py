"""What a calibration needs of the embedded world: its training and validation tasks, and how answers are scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from t2l.errors import T2LError
from t2l.guidance.calibrate import Example, Score, ValidationTask, calibrate
from t2l.guidance.calibration import Calibration
from t2l.lora import LoraSpec, LoraWeights
from t2l.model import TextToLora
from t2l.world.exact_match import Query, exact_match
from t2l.world.tasks import MicroTask, tasks_of
from t2l.world.wording import descriptions

KNOWN = 16  # training descriptions of each training task
WORDINGS = 4  # descriptions of a validation task, in training phrases and in unseen ones, each
INPUTS = 10
SEED = 0


def calibrate_world(
    t2l: TextToLora, base: Any, *, static: LoraWeights | None = None, report: Callable[[str], None] = lambda line: None
) -> Calibration:
    """The calibration of a checkpoint of the embedded world, on its validation tasks.

    Args:
        base: the tiny Llama.
        static: the multi-task adapter.
    """
    training = {task.name: descriptions(task, KNOWN, part="train") for task in tasks_of("train")}
    validation = [
        ValidationTask(task.name, tuple(wordings(task, SEED + 1)), tuple(task.examples(INPUTS, seed=SEED + 1)))
        for task in tasks_of("validation")
    ]
    facts = {"tasks": "embedded world", "seed": SEED}
    return calibrate(t2l, training, validation, scorer(base, t2l.spec), static=static, facts=facts, report=report)


def wordings(task: MicroTask, seed: int, count: int = WORDINGS) -> list[str]:
    """``count`` descriptions in phrases of the training kind, then at most as many in phrases never trained on."""
    found = descriptions(task, count, part="train", seed=seed)
    return found + unseen_wordings(task, seed, count)


def unseen_wordings(task: MicroTask, seed: int, count: int = WORDINGS) -> list[str]:
    """At most ``count`` descriptions of the evaluation part; some tasks have fewer."""
    while count > 1:
        try:
            return descriptions(task, count, part="evaluation", seed=seed)
        except T2LError:
            count -= 1
    return descriptions(task, 1, part="evaluation", seed=seed)


def scorer(base: Any, spec: LoraSpec) -> Score:
    """Exact match of greedy answers of the tiny Llama."""

    def score(weights: LoraWeights | None, asked: Sequence[tuple[int, Example]]) -> list[bool]:
        return exact_match(base, [Query(example, adapter=row) for row, example in asked], spec, weights)

    return score
