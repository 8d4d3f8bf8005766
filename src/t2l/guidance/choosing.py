"""Other wordings of a task, and their scores on a few examples.

Level 5. Knows texts, a base and its tokenizer; how well an adapter fits outputs is training's to say
(`t2l.training.refinement.fit_losses`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from t2l.bases import Base
from t2l.errors import T2LError
from t2l.guidance.guide import Guide
from t2l.guidance.wording import paraphrases
from t2l.lora import LoraSpec, LoraWeights

ANSWER_TOKENS = 64
_IGNORED = -100  # label of what is not predicted, as in torch


def candidates(guide: Guide | None, descriptions: Sequence[str]) -> list[str]:
    """The descriptions, their rewordings, and those of the training tasks that are nearest to them; each once."""
    found = list(descriptions)
    for text in descriptions:
        found += paraphrases(text)
    if guide is not None:
        for confidence in guide.assess(list(descriptions)):
            found += [neighbour.description for neighbour in confidence.nearest]
    return list(dict.fromkeys(found))


def agreement(base: Base, spec: LoraSpec, weights: LoraWeights, inputs: Sequence[str]) -> list[float]:
    """For each of N adapters the share of inputs to which it gives the answer that most of them give."""
    rows = weights.num_samples
    answers = base.answer(
        [question for _ in range(rows) for question in inputs],
        spec=spec,
        weights=weights,
        index=[row for row in range(rows) for _ in inputs],
        max_new_tokens=ANSWER_TOKENS,
    )
    said = [answers[row * len(inputs) : (row + 1) * len(inputs)] for row in range(rows)]
    usual = [Counter(column).most_common(1)[0][0] for column in zip(*said, strict=True)]
    return [sum(one == other for one, other in zip(own, usual, strict=True)) / len(inputs) for own in said]


def answer_samples(base: Base, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """Token ids of each prompt with its answer and the end of it, and labels on the answer alone.

    Raises:
        T2LError: the base's tokenizer has no end, or an example is longer than its window.
    """
    end = base.tokenizer.eos_token_id
    if not isinstance(end, int):
        raise T2LError(f"The tokenizer of '{base.name}' has no token that ends an answer, so it cannot be trained on.")
    window = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    samples: list[tuple[list[int], list[int]]] = []
    for question, answer in pairs:
        special = not base.has_chat_template
        asked = list(base.tokenizer(base.prompt(question), add_special_tokens=special)["input_ids"])
        said = [*base.tokenizer(answer, add_special_tokens=False)["input_ids"], end]
        if window is not None and len(asked) + len(said) > window:
            raise T2LError(
                f"The example {question[:40]!r} has {len(asked) + len(said)} tokens; "
                f"'{base.name}' has room for {window}."
            )
        samples.append((asked + said, [_IGNORED] * len(asked) + said))
    return samples
