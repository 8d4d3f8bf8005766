"""`Guide`: confidence and expected gain of a description under a calibrated checkpoint, with the reasons.

Axis letters: N descriptions, E embedding width, M training tasks.

Level 5. The command line, the server and everything else ask here; see `t2l.guidance.fallback` for what is done about
a description that is not to be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from t2l.adapter import Adapter
from t2l.errors import CheckpointError
from t2l.guidance.calibration import JSON_FILE, THRESHOLD, Calibration
from t2l.guidance.signals import COSTLY, SIGNALS, measure, rewording_spread
from t2l.guidance.wording import WordingFinding, content_words, findings
from t2l.lora import LoraWeights
from t2l.model import TextToLora

_CANDIDATES = 8  # nearest tasks among whose phrasings a rewrite is sought
_SAME_TASK = 0.6  # similarity of encodings above which a rewrite still says the same


@dataclass(frozen=True)
class Neighbour:
    """A training task near a description.

    Args:
        task: its name.
        description: one of its training descriptions.
        similarity: cosine similarity of the encodings, along the training tasks' axes; at most 1.
    """

    task: str
    description: str
    similarity: float


@dataclass(frozen=True)
class Confidence:
    """How far a description is to be trusted.

    Args:
        value: between 0 and 1: does it describe a task of the kind that the checkpoint was trained on.
        expected_gain: share of answers, -1 to 1, by which the adapter is expected to beat the base.
        signals: what both come from; see `t2l.guidance.signals.SIGNALS`. Of the costly ones those with a weight alone.
        nearest: the nearest training tasks.
    """

    value: float
    expected_gain: float
    signals: dict[str, float]
    nearest: tuple[Neighbour, ...]

    def warning(self, description: str, threshold: float = THRESHOLD) -> str | None:
        """What a person should know, where the confidence is below the threshold."""
        if self.value >= threshold:
            return None
        return (
            f"Low confidence ({self.value:.2f}) in the description '{description.strip()[:40]}': its adapter is "
            f"expected to add {100 * self.expected_gain:+.0f} points. t2l explain says why."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        nearest = [vars(neighbour) for neighbour in self.nearest]
        rounded = {name: round(value, 4) for name, value in self.signals.items()}
        value, gain = round(self.value, 4), round(self.expected_gain, 4)
        return {"value": value, "expected_gain": gain, "signals": rounded, "nearest": nearest}


@dataclass(frozen=True)
class Explanation:
    """All that is said of one description.

    Args:
        description: as it was given.
        confidence: None where the checkpoint is not calibrated.
        findings: what is vague or contradictory.
        rewording: how much its encoding turns when it is said in other words: mean 1 - cosine similarity.
        rewrite: a better description in the nearest tasks' phrasing, with its confidence; None where there is none.
        note: why the confidence is missing; None where it is there.
    """

    description: str
    confidence: Confidence | None
    findings: tuple[WordingFinding, ...]
    rewording: float
    rewrite: tuple[str, float] | None
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        rewrite = None if self.rewrite is None else {"text": self.rewrite[0], "confidence": round(self.rewrite[1], 4)}
        return {
            "description": self.description,
            "confidence": None if self.confidence is None else self.confidence.to_dict(),
            "findings": [finding.to_dict() for finding in self.findings],
            "rewording": round(self.rewording, 4),
            "rewrite": rewrite,
            "note": self.note,
        }


class Guide:
    """Says how far descriptions are to be trusted.

    Args:
        calibration: of this checkpoint.

    Example:
        >>> guide = Guide.of(TextToLora.from_pretrained())
        >>> sure, unsure = guide.assess(["Give the last word in capital letters.", "!!! ???"])
        >>> sure.value > unsure.value
        True
    """

    def __init__(self, t2l: TextToLora, calibration: Calibration) -> None:
        self.t2l, self.calibration = t2l, calibration

    @classmethod
    def of(cls, t2l: TextToLora) -> Guide:
        """The guide of a checkpoint that was read from a folder.

        Raises:
            CheckpointError: it has not been calibrated (the command is named), or its calibration cannot be used.
        """
        if not is_calibrated(t2l):
            raise CheckpointError("This checkpoint has not been calibrated.", f"Calibrate it: {calibrate_command(t2l)}")
        assert t2l.folder is not None
        identity = t2l.encoder.identity
        return cls(t2l, Calibration.load(t2l.folder, checkpoint=t2l.digest, encoder=identity, spec=t2l.spec))

    def assess(
        self, descriptions: Sequence[str], adapters: Sequence[Adapter] | None = None, *, whole: bool = False
    ) -> list[Confidence]:
        """The confidence in each description.

        Args:
            adapters: theirs, where they have been made already.
            whole: measure those signals as well that run the hypernetwork again and have no weight in the confidence.

        Raises:
            DescriptionError: a description that cannot be encoded.
        """
        if not descriptions:
            return []
        embedding_NE = self.t2l.encoder.encode(descriptions)
        weights = None if adapters is None else LoraWeights.cat([adapter.weights for adapter in adapters])
        return self.assess_embeddings(embedding_NE, weights, whole=whole)

    @torch.inference_mode()
    def assess_embeddings(
        self, embedding_NE: Tensor, weights: LoraWeights | None = None, *, whole: bool = False
    ) -> list[Confidence]:
        """As `assess`, for N description embeddings."""
        known, scale = self.calibration.known, self.calibration.scale
        made: LoraWeights = self.t2l.hypernetwork(embedding_NE) if weights is None else weights
        task_NK = self.t2l.hypernetwork.encode(embedding_NE).float().cpu()
        without = set() if whole else scale.without_weight
        signal_NF = measure(self.t2l, known, embedding_NE, task_NK, made, without=without)
        value_N = scale.confidence(signal_NF).tolist()
        similarity_NM = known.encoding.similarities(task_NK)
        found = []
        for value, signal_F, similarity_M in zip(value_N, signal_NF.tolist(), similarity_NM, strict=True):
            top = similarity_M.topk(min(_CANDIDATES, len(similarity_M)))
            nearest = tuple(
                Neighbour(known.names[index], known.descriptions[index], round(similarity, 4))
                for similarity, index in zip(top.values.tolist(), top.indices.tolist(), strict=True)
            )
            measured = zip(SIGNALS, signal_F, strict=True)
            signals = {name: value for name, value in measured if not (name in COSTLY and name in without)}
            found.append(Confidence(value, scale.expected_gain(value), signals, nearest))
        return found

    def explain(self, description: str) -> Explanation:
        """All that can be said of one description.

        Raises:
            DescriptionError: it cannot be encoded.
        """
        (confidence,) = self.assess([description], whole=True)
        (spread,) = rewording_spread(self.t2l, [description])
        rewrite = self.rewrite(description, confidence)
        return Explanation(description, confidence, tuple(findings(description)), spread, rewrite)

    def rewrite(self, description: str, confidence: Confidence) -> tuple[str, float] | None:
        """The nearest phrasing that shares a word with the description, says nearly the same and is trusted more."""
        words = content_words(description)
        near = [
            neighbour.description
            for neighbour in confidence.nearest
            if neighbour.similarity >= _SAME_TASK and words & content_words(neighbour.description)
        ]
        near = [text for text in near if text.strip() != description.strip()]
        if not near:
            return None
        trusted = (pair for pair in zip(near, self.assess(near), strict=True) if pair[1].value > confidence.value)
        text, better = next(trusted, (None, None))
        return None if text is None or better is None else (text, better.value)


def in_words(confidence: float, expected_gain: float) -> str:
    """A confidence in a line, with a plain word where it is low and what the gain is measured on."""
    if confidence >= THRESHOLD:
        gain = f"{100 * expected_gain:+.0f} right answers in 100, against the base alone"
        return f"confidence {confidence:.2f}; expected: {gain}"
    return f"confidence {confidence:.2f}: low, the adapter may be no help (t2l explain says why)"


def explain_uncalibrated(t2l: TextToLora, description: str) -> Explanation:
    """What can be said of a description where the checkpoint has no calibration: its wording, and how stable it is."""
    (spread,) = rewording_spread(t2l, [description])
    note = f"The checkpoint has not been calibrated, so there is no confidence. Calibrate it: {calibrate_command(t2l)}"
    return Explanation(description, None, tuple(findings(description)), spread, None, note)


def is_calibrated(t2l: TextToLora) -> bool:
    """Whether the checkpoint's folder holds a calibration (of whatever state)."""
    return t2l.folder is not None and (t2l.folder / JSON_FILE).is_file()


def calibrate_command(t2l: TextToLora) -> str:
    """The command that calibrates this checkpoint."""
    place = "FOLDER" if t2l.folder is None else str(t2l.folder)
    return f"t2l calibrate --checkpoint {place} --tasks FILE"
