"""Which texts a task is described by, under each condition of the description gate.

Level 5. An empty description is refused by every encoder, so a full stop stands for it. This file knows texts; it knows
no model and no benchmark's data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from random import Random
from typing import Any

import yaml

from t2l.errors import DescriptionError

GATE = {
    "matched": "adapter from the task's own description",
    "paraphrase": "adapter from the same in other words",
    "vague": "adapter from a vague description",
    "other-task": "adapter from another task's description",
    "junk": "adapter from junk",
    "empty": "adapter from a full stop alone",
    "static": "mean of the matched adapters, for all tasks",
}
"""Condition -> how a table names it. ``static`` reads no description."""


@dataclass(frozen=True)
class Wording:
    """How one task may be described: ``matched`` texts, and ``paraphrase``s of them."""

    task: str
    matched: tuple[str, ...]
    paraphrase: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@cache
def _texts() -> dict[str, Any]:
    return yaml.safe_load(resources.files("t2l.evaluation").joinpath("descriptions.yaml").read_text("utf-8"))


def paper_wording(benchmark: str) -> Wording | None:
    """The descriptions of one of the paper's ten benchmarks; None for any other name."""
    texts = _texts()
    if benchmark not in texts["matched"]:
        return None
    return Wording(benchmark, tuple(texts["matched"][benchmark]), tuple(texts["paraphrase"][benchmark]))


def texts_for(condition: str, wording: Wording, others: Sequence[Wording], count: int, seed: int = 0) -> list[str]:
    """``count`` texts that describe a task under a condition, the same for the same seed.

    Args:
        condition: of `GATE`, but ``static``.
        others: every task of the run; "other-task" draws from those with another name.

    Raises:
        DescriptionError: the task has no such texts, or there is no other task.
    """
    rng = Random(f"{wording.task}/{condition}/{seed}")
    if condition == "empty":
        return ["."] * count
    if condition in ("vague", "junk"):
        return _some(list(wording.extra.get(condition) or _texts()[condition]), count, rng)
    if condition == "other-task":
        rest = [other for other in others if other.task != wording.task and other.matched]
        if not rest:
            raise DescriptionError(
                "There is one task alone, so no other task's description can be tried.", "Give two tasks or more."
            )
        return [rng.choice(rng.choice(rest).matched) for _ in range(count)]
    texts = wording.matched if condition == "matched" else wording.paraphrase
    if not texts:
        raise DescriptionError(
            f"The task '{wording.task}' has no {'description' if condition == 'matched' else 'paraphrases'}.",
            'Give some: --descriptions FILE.yaml with {"matched": {TASK: [...]}, "paraphrase": {TASK: [...]}}',
        )
    return list(texts[:count]) if len(texts) >= count else _some(list(texts), count, rng)


def _some(texts: list[str], count: int, rng: Random) -> list[str]:
    drawn = rng.sample(texts, min(count, len(texts)))
    return drawn + rng.choices(texts, k=count - len(drawn))
