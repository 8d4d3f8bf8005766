"""What is said of the studies ``guidance`` and ``examples``: a sentence each, and rows of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t2l.world.studies_examples import NEVER

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
_ARMS = {
    "warm": "the generated adapter, with its hypernetwork (`t2l refine`)",
    "plain": "the generated adapter alone (`t2l refine --plain`)",
    "fresh": "a fresh LoRA",
}
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
    choosing, tuned, third = result["choosing"], result["embedding"], warm["third"]
    ratios = {
        name: ", ".join(f"{100 * goal:.0f}%: {_ratio(three)}" for goal, *three in warm["ratios"][name])
        for name in ("warm", "plain")
    }
    against = {goal: _three(third["warm"][f"minus_fresh_{goal}"], 1) for goal in ("best", "third")}
    return (
        f"From {100 * result['as_given']:.1f}% as given: choosing among {choosing['candidates']:.0f} wordings by the "
        f"outputs of {result['few']} examples adds {_three(choosing['outputs']['gain'], 1)} points, by their inputs "
        f"alone {_three(choosing['inputs']['gain'], 1)}; {tuned['steps']} steps on the embedding add "
        f"{_three(tuned['gain'], 1)}. Fine-tuning on {warm['examples']} examples from the generated adapter, with its "
        f"hypernetwork, reaches a share of a fresh LoRA's best accuracy in this share of its steps, on one schedule: "
        f"{ratios['warm']}; without the hypernetwork {ratios['plain']} (target at most {SHARE_OF_STEPS:.2f}). A "
        f"schedule of a third of the steps ({third['steps']['warm']}) ends at {_three(third['warm']['after'], 1)}% "
        f"with the hypernetwork: {against['best']} points over the fresh LoRA's best on "
        f"the whole schedule (after step {third['fresh_best_step']}), and {against['third']} "
        f"over a fresh LoRA on the same third."
    )


def examples_tables(result: Mapping[str, Any]) -> list[list[list[str]]]:
    """Accuracy by steps of fine-tuning, ratios of steps, shorter schedules, accuracy by the number of examples."""
    warm, few = result["warm_start"], result["by_number"]
    curves = [[f"exact match, %, on {warm['examples']} examples", *(f"step {step}" for step in warm["looks"])]]
    curves += [[label, *(_three(three, 1) for three in warm[name])] for name, label in _ARMS.items()]
    goals = [goal for goal, *_ in warm["ratios"]["warm"]]
    ratios = [["steps, over a fresh LoRA's, to", *(f"{100 * goal:.0f}% of its best" for goal in goals)]]
    for name in ("warm", "plain"):
        ratios.append([_ARMS[name], *(_ratio(three) for _, *three in warm["ratios"][name])])
    third = warm["third"]
    thirds = [["a schedule of a third of the steps", "exact match, %", "minus the fresh LoRA's best on all steps"]]
    thirds += [
        [label, _three(third[name]["after"], 1), _three(third[name]["minus_fresh_best"], 1)]
        for name, label in _ARMS.items()
    ]
    counts = [["exact match, %, by examples", *map(str, few["numbers"])]]
    counts += [[label, *(_three(three, 1) for three in few[name])] for name, label in number_labels(result).items()]
    return [curves, ratios, thirds, counts]


def number_labels(result: Mapping[str, Any]) -> dict[str, str]:
    """What is done with a number of examples, for tables and plots."""
    few = result["by_number"]
    return {
        "embedding": f"embedding alone, {result['embedding']['steps']} steps",
        "warm": f"generated adapter with its hypernetwork, {few['steps']['warm']} steps",
        "fresh": f"fresh LoRA, {few['steps']['fresh']} steps",
    }


def _ratio(three: Sequence[float]) -> str:
    mean, low, high = ("never" if value >= NEVER else f"{value:.2f}" for value in three)
    return f"{mean} ({low} to {high})"


def _three(three: Sequence[float], digits: int) -> str:
    mean, low, high = three
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
