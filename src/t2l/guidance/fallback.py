"""What to do with a description of low confidence: a warning, no adapter, another adapter, or a weaker one.

Level 5. The policies differ only below the threshold, but for the blend, which goes by the expected gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from t2l.adapter import Adapter
from t2l.composition import scale
from t2l.errors import CheckpointError, T2LError, did_you_mean
from t2l.guidance.calibration import THRESHOLD
from t2l.guidance.guide import Confidence, Guide, Neighbour

Policy = Literal["warn", "none", "static", "nearest", "blend"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
"""Below the threshold: ``warn`` gives the generated adapter all the same, ``none`` no adapter, ``static`` the
multi-task adapter that the calibration holds, ``nearest`` the adapter of the nearest training task: from a library of
trained ones where one is given and has it, else from the task's description. ``blend``, whatever the threshold: the
generated adapter with the strength of `blend_strength`."""
FADED, WHOLE = 0.1, 0.2
"""The blend keeps nothing of an adapter whose expected gain is at most the first share of the best expected gain, and
all of it from the second on."""


class TaskAdapters(Protocol):
    """Trained adapters by the names of training tasks, such as a library of them."""

    def __contains__(self, name: object, /) -> bool: ...

    def adapter(self, name: str, /) -> Adapter: ...


@dataclass(frozen=True, eq=False)
class Guided:
    """What a description led to.

    Args:
        adapter: None where the policy gives none.
        confidence: in the description.
        action: what the policy did; ``"generated"`` where the description is trusted.
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
    library: TaskAdapters | None = None,
) -> list[Guided]:
    """An adapter for each description, or what the policy gives instead.

    Args:
        threshold: below it a description is not trusted; from 0 to 1.
        adapters: those of the descriptions, where they have been made already.
        library: trained adapters of training tasks, for the policy ``nearest``.

    Raises:
        T2LError: an unknown policy, or a threshold that is no share.
        CheckpointError: the policy is ``static`` and the calibration holds no multi-task adapter.
        DescriptionError: as for `TextToLora.generate`.
    """
    check_policy(guide, policy, threshold)
    made = list(guide.t2l.generate(descriptions) if adapters is None else adapters)
    return [
        _decide(guide, text, adapter, confidence, policy, threshold, library)
        for text, adapter, confidence in zip(descriptions, made, guide.assess(descriptions, made), strict=True)
    ]


def check_policy(guide: Guide, policy: str, threshold: float) -> None:
    """Refuses what `guided` would refuse, before any work."""
    if policy not in POLICIES:
        raise T2LError(f"There is no policy '{policy}'.", did_you_mean(policy, POLICIES))
    if not 0 <= threshold <= 1:
        raise T2LError(f"The threshold is {threshold}; confidences are from 0 to 1.")
    if policy == "static" and guide.calibration.static is None:
        raise CheckpointError(
            "This checkpoint's calibration holds no multi-task adapter.",
            "Give one when you calibrate: t2l calibrate --static ADAPTER",
        )


def blend_strength(share_of_best: float) -> float:
    """How much of the generated adapter the blend keeps, by `Scale.share_of_best` of the confidence."""
    return min(1.0, max(0.0, (share_of_best - FADED) / (WHOLE - FADED)))


def nearest_adapter(guide: Guide, nearest: Neighbour, library: TaskAdapters | None) -> tuple[Adapter, str]:
    """The adapter of a training task, and where it comes from: ``"library"`` or ``"description"``."""
    if library is not None and nearest.task in library:
        return library.adapter(nearest.task), "library"
    (made,) = guide.t2l.generate([nearest.description])
    return made, "description"


def _decide(
    guide: Guide,
    text: str,
    adapter: Adapter,
    confidence: Confidence,
    policy: Policy,
    threshold: float,
    library: TaskAdapters | None,
) -> Guided:
    warning = confidence.warning(text, threshold)
    record = {"policy": policy, "confidence": round(confidence.value, 4), "threshold": threshold}
    if policy == "blend":
        strength = blend_strength(guide.calibration.scale.share_of_best(confidence.value))
        if strength == 1:
            return Guided(adapter, confidence, "generated", warning)
        faded = scale(adapter, strength)
        provenance = {**faded.provenance, "fallback": record}
        return Guided(Adapter(faded.spec, faded.weights, provenance), confidence, f"strength {strength:.2f}", warning)
    if warning is None:
        return Guided(adapter, confidence, "generated", None)
    if policy == "none":
        return Guided(None, confidence, "no adapter", warning)
    if policy == "static":
        static = guide.calibration.static
        assert static is not None
        provenance = {**adapter.provenance, "fallback": record}
        return Guided(Adapter(adapter.spec, static, provenance), confidence, "multi-task adapter", warning)
    if policy == "nearest":
        nearest = confidence.nearest[0]
        other, source = nearest_adapter(guide, nearest, library)
        record |= {"asked": text, "task": nearest.task, "source": source}
        provenance = {**other.provenance, "fallback": record}
        action = f"nearest task, {nearest.task}, by its {'trained adapter' if source == 'library' else 'description'}"
        return Guided(Adapter(other.spec, other.weights, provenance), confidence, action, warning)
    return Guided(adapter, confidence, "generated", warning)
