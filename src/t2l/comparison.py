"""What an adapter is worth, input by input: the base's answer, its answer when told the task, and the adapter's.

Level 4. The base that reads the description in its prompt is what anybody has without an adapter, so it stands beside
it wherever answers are shown. This file knows no tasks and judges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from t2l.adapter import Adapter
from t2l.bases import Base
from t2l.data.prompts import prompt_text
from t2l.errors import T2LError
from t2l.lora import LoraWeights

ROWS = {
    "base": "base alone",
    "description-in-prompt": "base told the task",
    "adapter": "with the adapter",
}
"""Who answers, and how a person is told."""

_SMALL = 16  # inputs; adapted answers of more than these end early together


@dataclass(frozen=True)
class Compared:
    """Three answers to one input.

    Args:
        text: the input.
        base: the base's answer to the input alone.
        prompted: the base's answer to the description and the input.
        adapted: the answer with the adapter, to the input alone.
    """

    text: str
    base: str
    prompted: str
    adapted: str

    def answer(self, row: str) -> str:
        """The answer of one of `ROWS`."""
        return {"base": self.base, "description-in-prompt": self.prompted, "adapter": self.adapted}[row]


def told(asked: Sequence[tuple[str, str]]) -> list[str]:
    """Descriptions and inputs as a base that is told the task reads them."""
    return [prompt_text(text, description.strip(), included=True) for description, text in asked]


def answer_told(
    base: Base, asked: Sequence[tuple[str, str]], *, lora: Adapter | None = None, max_new_tokens: int = 64
) -> list[str]:
    """The answer to each description and input, both in the prompt, of the plain base or under one LoRA."""
    spec, weights = (None, None) if lora is None else (lora.spec, lora.weights)
    return base.answer(told(asked), spec=spec, weights=weights, max_new_tokens=max_new_tokens)


def compare(
    base: Base,
    adapters: Sequence[Adapter],
    descriptions: Sequence[str],
    asked: Sequence[tuple[int, str]],
    *,
    max_new_tokens: int = 64,
) -> list[Compared]:
    """Three answers to each input, in order, out of shared batches.

    Args:
        adapters: of one spec.
        descriptions: one for each adapter, for the prompt of the base that is told the task.
        asked: for each input the number of its adapter, and its text.

    Raises:
        T2LError: not one description for each adapter; an input that is empty or too long for the base.
        BaseModelError: the base lacks modules of the adapters, or their shapes differ.
    """
    if len(adapters) != len(descriptions) or not adapters:
        raise T2LError(f"There are {len(adapters)} adapters and {len(descriptions)} descriptions.")
    texts = [text for _, text in asked]
    weights = LoraWeights.cat([adapter.weights for adapter in adapters])
    plain, adapted = [-1] * len(asked), [row for row, _ in asked]
    prompted = told([(descriptions[row], text) for row, text in asked])
    together = [(texts, plain), (prompted, plain), (texts, adapted)]
    if len(asked) < _SMALL:  # one batch of all, rather than three small ones
        together = [([*texts, *prompted, *texts], [*plain, *plain, *adapted])]
    answers: list[str] = []
    for prompts, index in together:
        answers += base.answer(
            prompts, spec=adapters[0].spec, weights=weights, index=index, max_new_tokens=max_new_tokens
        )
    n = len(asked)
    rows = zip(texts, answers[:n], answers[n : 2 * n], answers[2 * n :], strict=True)
    return [Compared(*row) for row in rows]
