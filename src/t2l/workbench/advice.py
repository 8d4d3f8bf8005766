"""What the page says about a description before anybody asks the adapter: how far to trust it, and what is like it.

Level 6. `Adviser` is the one place where judgements come in: whatever judges descriptions gives an `Advice`, and the
page shows all that is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from t2l.guidance.wording import findings
from t2l.serving.maker import Made

_MOST_NEAR = 4
UNCALIBRATED = "This checkpoint is not calibrated, so it tells neither confidence nor known tasks (t2l calibrate)."


@dataclass(frozen=True)
class Near:
    """A known task and how alike the two are; at most 1."""

    name: str
    description: str
    similarity: float


@dataclass(frozen=True)
class Advice:
    """What there is to say about a description.

    Args:
        nearest: known tasks, the nearest first.
        tips: what would make the description better.
        confidence: from 0 to 1; None where nobody has measured it.
        expected_gain: share of answers, -1 to 1, by which the adapter is expected to beat the base.
        missing: why something is not there.
        rewrite: a description that says nearly the same and is trusted more, and its confidence.
        action: what was done instead of taking the generated adapter as it is; "" for nothing.
    """

    nearest: Sequence[Near] = ()
    tips: Sequence[str] = ()
    confidence: float | None = None
    expected_gain: float = 0.0
    missing: str = ""
    rewrite: tuple[str, float] | None = None
    action: str = ""


class Adviser(Protocol):
    """Judges a description; called from several threads."""

    def advise(self, description: str, made: Made) -> Advice:
        """What there is to say; quick, as it runs while somebody types."""
        ...


class Guidance:
    """What `t2l.guidance` says: the confidence that came with the adapter, and what is unclear in the wording."""

    def advise(self, description: str, made: Made) -> Advice:
        """The nearest training tasks, the confidence and the findings."""
        tips = [finding.advice for finding in findings(description)]
        told = made.confidence
        if told is None:
            return Advice(tips=tips, missing=UNCALIBRATED)
        nearest = [Near(near.task, near.description, near.similarity) for near in told.nearest[:_MOST_NEAR]]
        return Advice(nearest, tips, told.value, told.expected_gain)
