"""What is said of the studies ``guidance`` and ``examples``: a sentence each, and rows of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t2l.world.studies_examples import steps_to

_POLICY_NAMES = {
    "base": "the base, no adapter",
    "warn": "warn: the generated adapter all the same",
    "none": "none: no adapter below the threshold",
    "static": "static: the multi-task adapter below it",
    "nearest": "nearest: the adapter of the nearest training task's description below it",
    "nearest, trained": "nearest, from a library: that task's trained adapter below it",
    "blend": "blend: none of it where little gain is expected",
}
_GROUPS = ("near", "far", "junk", "vague", "mixture")
GOALS = (0.5, 0.75, 0.9, 1.0)
"""Shares of the fresh LoRA's best accuracy."""
DETECTION, CALIBRATION_ERROR, SHARE_OF_STEPS = 0.95, 0.05, 1 / 3
"""Targets: AUROC of telling near tasks from junk and far ones, calibration error, steps of a warm start."""


def guidance_summary(result: Mapping[str, Any]) -> str:
    """Detection, calibration error, the blend and ensembling."""
    auroc, error = result["detection"]["near from junk and far"], result["calibration"]["error"]
    against, unseen = result["policies"]["blend_minus"], result["ensemble"]["unseen"]
    rivals = {name: gap for name, gap in against.items() if name not in ("base", "warn")}
    best = min(rivals, key=lambda name: rivals[name][0])
    far, library = result["policies"]["blend_minus_base"]["far"], result.get("library")
    trained = (
        f" Of {library['distrusted']} descriptions below the threshold the nearest training task of "
        f"{library['trained']} has a trained adapter."
        if library
        else ""
    )
    return (
        f"The confidence tells near tasks' descriptions from junk and far ones, in equal shares, with an AUROC of "
        f"{_three(auroc, 3)} (target {DETECTION}); the calibration error of the expected gain on near, far and junk "
        f"ones in equal shares is {_three(error, 3)} (target {CALIBRATION_ERROR}). On that mixture the blend is "
        f"{_three(against['base'], 1)} points above the base, {_three(against['warn'], 1)} above always generating "
        f"and {_three(rivals[best], 1)} above the best other policy ({best}); on far tasks alone it is "
        f"{_three(far, 1)} above the base. Averaging rewordings adds {_three(unseen['gain'], 1)} points on near tasks "
        f"in unseen phrases.{trained}"
    )


def guidance_tables(result: Mapping[str, Any]) -> list[list[list[str]]]:
    """Groups, detection, policies and coverage."""
    groups = [["descriptions", "number", "mean confidence", "below the threshold", "expected gain", "measured gain"]]
    for name, row in result["groups"].items():
        gains = [f"{100 * row[key]:+.1f}" for key in ("expected_gain", "gain")]
        groups.append(
            [name, str(row["descriptions"]), f"{row['confidence']:.2f}", f"{100 * row['below']:.0f}%", *gains]
        )
    detection = [["told apart", "AUROC"], *([name, _three(three, 3)] for name, three in result["detection"].items())]
    table = result["policies"]["table"]
    policies = [["exact match, %", *_GROUPS]]
    policies += [[_POLICY_NAMES[name], *(_three(row[group], 1) for group in _GROUPS)] for name, row in table.items()]
    coverage = [["most trusted share of the mixture", "exact match, %"]]
    coverage += [[f"{100 * row['coverage']:.0f}%", _three(row["accuracy"], 1)] for row in result["coverage"]]
    return [groups, detection, policies, coverage]


def examples_summary(result: Mapping[str, Any]) -> str:
    """What each use of examples adds."""
    warm = result["warm_start"]
    choosing, tuned = result["choosing"], result["embedding"]
    shares = ", ".join(f"{100 * goal:.0f}%: {_share_of_steps(warm, goal)}" for goal in GOALS)
    return (
        f"From {100 * result['as_given']:.1f}% as given: choosing among {choosing['candidates']:.0f} wordings by the "
        f"outputs of {result['few']} examples adds {_three(choosing['outputs']['gain'], 1)} points, by their inputs "
        f"alone {_three(choosing['inputs']['gain'], 1)}; {tuned['steps']} steps on the embedding add "
        f"{_three(tuned['gain'], 1)}. Fine-tuning on {warm['examples']} examples from the generated adapter takes, of "
        f"the steps of a fresh LoRA to a share of its best accuracy ({shares}; mean curves, target at most "
        f"{SHARE_OF_STEPS:.2f})."
    )


def _share_of_steps(warm: Mapping[str, Any], goal: float) -> str:
    """Steps of the warm start over those of the fresh one, to ``goal`` times the best accuracy of the latter."""
    curves = {name: [mean for mean, _, _ in warm[name]] for name in ("warm", "fresh")}
    accuracy = goal * max(curves["fresh"])
    needed, taken = (steps_to(warm["looks"], curves[name], accuracy) for name in ("warm", "fresh"))
    return "not reached" if needed is None or not taken else f"{needed / taken:.2f}"


def examples_tables(result: Mapping[str, Any]) -> list[list[list[str]]]:
    """Accuracy by steps of fine-tuning."""
    warm = result["warm_start"]
    rows = [["fine-tuning, exact match, %", *(f"step {step}" for step in warm["looks"])]]
    for name, label in (("warm", "from the generated adapter"), ("fresh", "from a fresh LoRA")):
        rows.append([label, *(_three(three, 1) for three in warm[name])])
    return [rows]


def _three(three: Sequence[float], digits: int) -> str:
    mean, low, high = three
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
