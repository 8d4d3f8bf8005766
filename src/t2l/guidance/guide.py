"""Confidence and expected gain of a description under a calibrated checkpoint, and what a person is told about one.

Axis letters: N descriptions, M training tasks, W width of one vector a text, F signals.

Level 5. The command line, the server and everything else ask here, also for what is done about a description that is
not to be trusted (`guided`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from t2l.adapter import Adapter
from t2l.composition import scale
from t2l.errors import CheckpointError, T2LError, did_you_mean
from t2l.guidance.calibration import JSON_FILE, THRESHOLD, Calibration
from t2l.guidance.familiarity import SIGNALS, vectors
from t2l.guidance.wording import WordingFinding, content_words, findings
from t2l.model import TextToLora

_CANDIDATES = 8  # nearest tasks among whose phrasings a rewrite is sought
_SAME_TASK = 0.6  # similarity of encodings above which a rewrite still says the same


@dataclass(frozen=True)
class Neighbour:
    """A training task near a description.

    Args:
        task: its name.
        description: one of its training descriptions, or a label.
        similarity: cosine similarity of the task features, along the training tasks' axes; at most 1.
    """

    task: str
    description: str
    similarity: float


@dataclass(frozen=True)
class Confidence:
    """How far a description is to be trusted.

    Args:
        value: between 0 and 1: does it describe a task of the kind that the checkpoint was trained on.
        expected_gain: by how much, -1 to 1, an answer is expected to be better than that of the base alone.
        signals: what both come from; see `t2l.guidance.familiarity.SIGNALS`.
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
            f"Low confidence ({self.value:.2f}) in the description '{description.strip()[:40]}': its adapter may be no "
            "help. t2l explain says why."
        )

    def in_words(self, threshold: float = THRESHOLD) -> str:
        """In a line, with a plain word where it is low, and what the gain is measured against."""
        if self.value < threshold:
            return f"confidence {self.value:.2f}: low, the adapter may be no help"
        gain = f"{100 * self.expected_gain:+.0f} ROUGE-L points over the base alone"
        return f"confidence {self.value:.2f}, expected gain {gain}"

    def known(self) -> str:
        """The nearest training task in a line, and how near it is."""
        nearest = self.nearest[0]
        return f"nearest training task ({nearest.similarity:.2f}): {nearest.description}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        nearest = [vars(neighbour) for neighbour in self.nearest]
        rounded = {name: round(value, 4) for name, value in self.signals.items()}
        value, gain = round(self.value, 4), round(self.expected_gain, 4)
        words = {"in_words": self.in_words(), "known": self.known()}
        return {"value": value, "expected_gain": gain, **words, "signals": rounded, "nearest": nearest}


@dataclass(frozen=True)
class Explanation:
    """All that is said of one description.

    Args:
        description: as it was given.
        confidence: None where the checkpoint is not calibrated.
        findings: what is vague or contradictory.
        rewrite: a better description in the nearest tasks' phrasing, with its confidence; None where there is none.
        note: why the confidence is missing; None where it is there.
    """

    description: str
    confidence: Confidence | None
    findings: tuple[WordingFinding, ...]
    rewrite: tuple[str, float] | None
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        rewrite = None if self.rewrite is None else {"text": self.rewrite[0], "confidence": round(self.rewrite[1], 4)}
        return {
            "description": self.description,
            "confidence": None if self.confidence is None else self.confidence.to_dict(),
            "findings": [vars(finding) for finding in self.findings],
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
        return cls(t2l, Calibration.load(t2l.folder, checkpoint=t2l.digest, encoder=identity))

    @torch.inference_mode()
    def assess(self, descriptions: Sequence[str]) -> list[Confidence]:
        """The confidence in each description.

        Raises:
            DescriptionError: a description that cannot be encoded.
        """
        known, scale = self.calibration.known, self.calibration.scale
        found = []
        for description in descriptions:  # one at a time, so that an assessment does not depend on its company
            vector_1W, feature_1W = vectors(self.t2l, self.t2l.encoder.encode([description]))
            signal_1F = known.measure(vector_1W, feature_1W)
            (value,) = scale.confidence(signal_1F).tolist()
            similarity_M = known.features.similarities(feature_1W)[0]
            top = similarity_M.topk(min(_CANDIDATES, len(similarity_M)))
            nearest = tuple(
                Neighbour(known.names[index], known.descriptions[index], round(similarity, 4))
                for similarity, index in zip(top.values.tolist(), top.indices.tolist(), strict=True)
            )
            signals: dict[str, float] = dict(zip(SIGNALS, signal_1F[0].tolist(), strict=True))
            found.append(Confidence(value, scale.expected_gain(value), signals, nearest))
        return found

    def explain(self, description: str) -> Explanation:
        """All that can be said of one description.

        Raises:
            DescriptionError: it cannot be encoded.
        """
        (confidence,) = self.assess([description])
        rewrite = self.rewrite(description, confidence)
        return Explanation(description, confidence, tuple(findings(description)), rewrite)

    def rewrite(self, description: str, confidence: Confidence) -> tuple[str, float] | None:
        """The nearest known phrasing of a description that is not trusted: it keeps its words and is trusted more."""
        words = content_words(description)
        if confidence.value >= THRESHOLD or not words:
            return None
        near = [
            neighbour.description
            for neighbour in confidence.nearest
            if neighbour.similarity >= _SAME_TASK and words <= content_words(neighbour.description)
        ]
        near = [text for text in near if text.strip() != description.strip()]
        if not near:
            return None
        trusted = (pair for pair in zip(near, self.assess(near), strict=True) if pair[1].value > confidence.value)
        text, better = next(trusted, (None, None))
        return None if text is None or better is None else (text, better.value)


def explain_uncalibrated(t2l: TextToLora, description: str) -> Explanation:
    """What can be said of a description where the checkpoint has no calibration: its wording alone."""
    note = f"The checkpoint has not been calibrated, so there is no confidence. Calibrate it: {calibrate_command(t2l)}"
    return Explanation(description, None, tuple(findings(description)), None, note)


@torch.inference_mode()
def places(t2l: TextToLora, texts: Sequence[str]) -> tuple[Tensor, list[float] | None]:
    """Where descriptions lie: the hypernetwork's features of each (N, W), and the distance from the nearest training
    task, in standard deviations, where a calibration knows those.

    Raises:
        DescriptionError: one of them cannot be encoded.
    """
    _, feature_NW = vectors(t2l, t2l.encoder.encode(list(texts)))
    if not is_calibrated(t2l):
        return feature_NW, None
    return feature_NW, Guide.of(t2l).calibration.known.features.distances(feature_NW).amin(dim=1).tolist()


def is_calibrated(t2l: TextToLora) -> bool:
    """Whether the checkpoint's folder holds a calibration (of whatever state)."""
    return t2l.folder is not None and (t2l.folder / JSON_FILE).is_file()


def calibrate_command(t2l: TextToLora) -> str:
    """The command that calibrates this checkpoint."""
    place = "FOLDER" if t2l.folder is None else str(t2l.folder)
    return f"t2l calibrate --checkpoint {place} --tasks FILE"


# --- what becomes of a description that is not to be trusted: a warning, no adapter, or less of it --------------------

Policy = Literal["warn", "none", "blend"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
"""Below the threshold: ``warn`` gives the generated adapter all the same, ``none`` no adapter. ``blend``, whatever the
threshold: the generated adapter with the strength of `blend_strength`."""
FADED, WHOLE = 0.1, 0.2
"""The blend keeps nothing of an adapter whose expected gain is at most the first fraction of the best expected gain,
and all of it from the second on."""


@dataclass(frozen=True, eq=False)
class Guided:
    """What a description led to.

    Args:
        adapter: None where the policy gives none.
        confidence: in the description.
        action: what the policy did; ``"generated"`` where the adapter is as it was generated.
        warning: what a person should know; None where the description is trusted.
    """

    adapter: Adapter | None
    confidence: Confidence
    action: str
    warning: str | None


def guided(
    guide: Guide,
    descriptions: Sequence[str],
    policy: Policy = "warn",
    threshold: float = THRESHOLD,
    *,
    adapters: Sequence[Adapter] | None = None,
) -> list[Guided]:
    """An adapter for each description, or what the policy gives instead.

    Args:
        threshold: below it a description is not trusted; from 0 to 1.
        adapters: those of the descriptions, where they have been made already.

    Raises:
        T2LError: an unknown policy, or a threshold that is not between 0 and 1.
        DescriptionError: as for `TextToLora.generate`.
    """
    check_policy(policy, threshold)
    made = guide.t2l.generate(descriptions) if adapters is None else adapters
    return [
        _decide(guide, text, adapter, confidence, policy, threshold)
        for text, adapter, confidence in zip(descriptions, made, guide.assess(descriptions), strict=True)
    ]


def check_policy(policy: str, threshold: float) -> None:
    """Refuses what `guided` would refuse, before any work."""
    if policy not in POLICIES:
        raise T2LError(f"There is no policy '{policy}'.", did_you_mean(policy, POLICIES))
    if not 0 <= threshold <= 1:
        raise T2LError(f"The threshold is {threshold}; confidences are from 0 to 1.")


def blend_strength(share_of_best: float) -> float:
    """How much of the generated adapter the blend keeps, by `Scale.share_of_best` of the confidence."""
    return min(1.0, max(0.0, (share_of_best - FADED) / (WHOLE - FADED)))


def _decide(
    guide: Guide, text: str, adapter: Adapter, confidence: Confidence, policy: Policy, threshold: float
) -> Guided:
    warning = confidence.warning(text, threshold)
    if policy == "none" and warning is not None:
        return Guided(None, confidence, "no adapter", warning)
    strength = blend_strength(guide.calibration.scale.share_of_best(confidence.value)) if policy == "blend" else 1.0
    if strength == 1:
        return Guided(adapter, confidence, "generated", warning)
    faded = scale(adapter, strength)
    record = {"policy": policy, "confidence": round(confidence.value, 4), "threshold": threshold}
    provenance = {**faded.provenance, "fallback": record}
    return Guided(Adapter(faded.spec, faded.weights, provenance), confidence, f"strength {strength:.2f}", warning)
