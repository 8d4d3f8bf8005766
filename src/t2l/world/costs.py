"""What an answer costs on the embedded world: with an adapter, and with examples in the prompt instead.

The formulas are those of `t2l.evaluation.flops`, attention counted as causal; logits count where an answer is
predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from t2l.evaluation.flops import TransformerShape, adapter_flops, counted_generation, forward_flops
from t2l.model import TextToLora
from t2l.world.evaluate import SHOTS
from t2l.world.exact_match import Example
from t2l.world.tasks import MicroTask
from t2l.world.wording import descriptions


def costs(t2l: TextToLora, base: Any, tasks: Sequence[MicroTask], *, examples: int, seed: int) -> dict[str, float]:
    """Operations of an answer (``"adapter"``, ``"3-shot"`` ...), and of making one adapter (``"generation"``).

    The adapter's products are counted beside the base's, as if it were not merged. Averages over inputs of the tasks.
    """
    found: dict[str, float] = {}
    for name, shots in SHOTS.items():
        runs = [run for task in tasks for run in _runs(task, shots, examples, seed)]
        found[name] = sum(answer_flops(base, run) for run in runs) / len(runs)
        if not shots:
            tokens = sum(_length(run) for run in runs) / len(runs)
            found["adapter"] = found.pop(name) + adapter_flops(t2l.spec, tokens)
    texts = [descriptions(task, 1, part="train", seed=seed + 1)[0] for task in tasks]
    found["generation"] = sum(counted_generation(t2l, text) for text in texts) / len(texts)
    return found


def answer_flops(base: Any, run: Sequence[Example]) -> float:
    """Operations of reading a run of examples and giving the last one's answer, without an adapter."""
    tokens, answer = _length(run), len(run[-1][1]) + 1
    return forward_flops(TransformerShape.of(base), tokens, logits=answer, causal=True)


def _runs(task: MicroTask, shots: int, examples: int, seed: int) -> list[list[Example]]:
    shown = task.examples(shots * examples, seed=seed, part="train")
    asked = task.examples(examples, seed=seed)
    return [[*shown[i * shots : (i + 1) * shots], example] for i, example in enumerate(asked)]


def _length(run: Sequence[Example]) -> int:
    """Tokens read: a begin, and for each example its characters, the separator and the end, but for the last end."""
    return sum(len(question) + len(answer) + 2 for question, answer in run)
