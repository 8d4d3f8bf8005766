"""What becomes of a description that is not to be trusted: a warning, no adapter, or less of it.

Level 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from t2l.adapter import Adapter
from t2l.composition import scale
from t2l.errors import T2LError, did_you_mean
from t2l.guidance.calibration import THRESHOLD
from t2l.guidance.guide import Confidence, Guide

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
