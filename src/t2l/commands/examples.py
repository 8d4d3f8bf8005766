"""Examples as a user gives them: inputs, or inputs with outputs, as records of any form; and what they are used for.

Level 6. Every complaint says where the example stands.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from t2l.data.sources import as_text
from t2l.errors import T2LError, did_you_mean
from t2l.records import Record, parse_records
from t2l.storage import read_input

if TYPE_CHECKING:
    from torch import Tensor

    from t2l.bases import Base
    from t2l.lora import LoraWeights
    from t2l.model import TextToLora

_FIELDS = ("input", "output")
_FORM = 'JSON Lines such as {"input": "b a", "output": "a b"}, a list of such, or CSV with the columns input and output'


@dataclass(frozen=True)
class Examples:
    """What a file of examples holds.

    Args:
        inputs: at least one, none empty.
        outputs: one for each input; None where the file has inputs alone.
        digest: SHA-256 of the pairs, for a provenance.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...] | None
    digest: str

    def pairs(self) -> list[tuple[str, str]]:
        """(input, output) of each.

        Raises:
            T2LError: there are no outputs.
        """
        if self.outputs is None:
            raise T2LError("The examples have inputs alone; their outputs are needed here.", f"Give {_FORM}.")
        return list(zip(self.inputs, self.outputs, strict=True))


def read_examples(path: Path) -> Examples:
    """The examples in a file of any form of `t2l.records`; a number stands for its text.

    Raises:
        T2LError: the file cannot be read, holds no example, or one that is not whole; some with an output and some
            without count as not whole.
    """
    try:
        text = read_input(path, T2LError).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise T2LError(f"The examples in '{path}' cannot be read: {problem}.", f"They are {_FORM}.") from problem
    if not text.strip():
        raise T2LError(f"'{path}' holds no example.", f"Give {_FORM}.")
    found = parse_records(text, str(path), _FIELDS, f"Give {_FORM}.", T2LError)
    if found is None:
        raise T2LError(f"'{path}' holds plain text, not examples.", f"Give {_FORM}.")
    records = [_checked(record) for record in found]
    if not records:
        raise T2LError(f"'{path}' holds no example.", f"Give {_FORM}.")
    with_output = [output is not None for _, output, _ in records]
    if any(with_output) and not all(with_output):
        place = records[with_output.index(False)][2]
        raise T2LError(f"{place} has no output, though others have.", "Give all outputs, or none.")
    inputs = tuple(question for question, _, _ in records)
    outputs = tuple(str(output) for _, output, _ in records) if all(with_output) else None
    digest = hashlib.sha256(json.dumps([inputs, outputs]).encode()).hexdigest()
    return Examples(inputs, outputs, digest)


@dataclass(frozen=True)
class Choice:
    """Which of several descriptions fits the examples best.

    Args:
        place: of the chosen one.
        scores: of each: the loss of its adapter on the outputs (lower is better), or, for inputs alone, the share of
            answers on which it agrees with most of the others (higher is better).
        by: ``"loss"`` or ``"agreement"``.
    """

    place: int
    scores: tuple[float, ...]
    by: str


def choose(base: Base, t2l: TextToLora, embedding_NE: Tensor, examples: Examples) -> Choice:
    """The best of N description embeddings by the examples; of equally good ones the first."""
    from t2l.guidance.choosing import agreement, answer_samples
    from t2l.training.refinement import fit_losses

    weights = _weights(t2l, embedding_NE)
    if examples.outputs is not None:
        losses = fit_losses(base.model, t2l.spec, weights, answer_samples(base, examples.pairs())).tolist()
        return Choice(losses.index(min(losses)), tuple(round(loss, 6) for loss in losses), "loss")
    shares = agreement(base, t2l.spec, weights, examples.inputs)
    return Choice(shares.index(max(shares)), tuple(round(share, 6) for share in shares), "agreement")


def _weights(t2l: TextToLora, embedding_NE: Tensor) -> LoraWeights:
    import torch

    with torch.no_grad():
        return t2l.hypernetwork(embedding_NE).detach()


def _checked(given: Record) -> tuple[str, str | None, str]:
    record, place = given.value, f"{given.place[:1].upper()}{given.place[1:]}"
    if not isinstance(record, dict):
        raise T2LError(f"{place} is not a JSON object.", f"Give {_FORM}.")
    unknown = next((name for name in record if name not in _FIELDS), None)
    if unknown is not None:
        raise T2LError(f"{place}: there is no field '{str(unknown)[:40]}'.", did_you_mean(str(unknown), _FIELDS))
    question, answer = as_text(record.get("input")), record.get("output")
    if question is None or not question.strip():
        raise T2LError(f"{place} has no input.", f"Give {_FORM}.")
    if answer is not None and as_text(answer) is None:
        raise T2LError(f"{place}: the output is {json.dumps(answer)[:40]}, not text.")
    return question, as_text(answer), place
