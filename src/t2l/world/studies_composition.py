"""What strength and composition do to accuracy: a probe of a trained checkpoint on near held-out tasks.

Adapters are made stronger and weaker, blended between two tasks (in the hypernetwork's task features and in weights),
added and subtracted, and each is asked the inputs of its own task or of both. See `t2l.composition` for the methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from t2l.adapter import Adapter
from t2l.bases import Base
from t2l.composition import combine, interpolate, scale, subtract
from t2l.lora import LoraWeights
from t2l.model import TextToLora
from t2l.world.evaluate import bootstrap
from t2l.world.exact_match import Query, exact_match
from t2l.world.tasks import NEAR, MicroTask, tasks_of
from t2l.world.wording import descriptions

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the second task, in a blend."""
SPACES = {"features": "task features", "weights": "weights"}
"""Where blends are made -> how a table says it."""
SUMS = {
    "cat": "sum, ranks side by side",
    "svd": "sum, back at one rank",
    "factors": "A and B added apart",
    "half": "half of each, ranks side by side",
    "difference": "first minus second",
}
"""Way of adding two adapters -> how a table says it."""
INPUTS = 10
WORDINGS = 4
"""Descriptions of a task, each with its own adapter, where strength is measured; pairs have one of each."""
PAIRS = 40


def composition(t2l: TextToLora, base: Base, say: Callable[[str], None], seed: int) -> dict[str, Any]:
    """Exact match in percent, each figure as (mean, low, high) with a 95% bootstrap interval over tasks or pairs."""
    tasks = tasks_of(*NEAR)
    say(f"composition: {len(STRENGTHS)} strengths on {len(tasks)} tasks")
    texts = {task.name: descriptions(task, WORDINGS, part="train", seed=seed + 1) for task in tasks}
    made = dict(zip(texts, _grouped(t2l.generate([text for some in texts.values() for text in some])), strict=True))
    asked = [
        (scale(adapter, strength), task) for strength in STRENGTHS for task in tasks for adapter in made[task.name]
    ]
    right = _shares(base, asked, seed)
    by_task = [right[place : place + WORDINGS] for place in range(0, len(right), WORDINGS)]
    means = [sum(some) / len(some) for some in by_task]
    strength = [bootstrap(means[n * len(tasks) : (n + 1) * len(tasks)], seed) for n in range(len(STRENGTHS))]

    pairs = _pairs(tasks, seed)
    say(f"composition: {len(pairs)} pairs of tasks, blended, added and subtracted")

    def on_both(make: Callable[[MicroTask, MicroTask], Adapter]) -> dict[str, tuple[float, float, float]]:
        adapters = [make(one, other) for one, other in pairs]
        sides = ([one for one, _ in pairs], [other for _, other in pairs])
        asked = [row for side in sides for row in zip(adapters, side, strict=True)]
        right = _shares(base, asked, seed)
        halves = (right[: len(pairs)], right[len(pairs) :])
        return {name: bootstrap(half, seed) for name, half in zip(("first", "second"), halves, strict=True)}

    def own(task: MicroTask) -> Adapter:
        return made[task.name][0]

    def blended(one: MicroTask, other: MicroTask, share: float) -> Adapter:
        return t2l.blend([texts[one.name][0], texts[other.name][0]], [1 - share, share])

    blends = {
        "features": [on_both(lambda one, other, s=s: blended(one, other, s)) for s in SHARES],
        "weights": [on_both(lambda one, other, s=s: interpolate(own(one), own(other), s)) for s in SHARES],
    }
    say("composition: sums")
    sums = {
        "cat": on_both(lambda one, other: combine([own(one), own(other)])),
        "svd": on_both(lambda one, other: combine([own(one), own(other)], method="svd")),
        "factors": on_both(lambda one, other: combine([own(one), own(other)], method="factors")),
        "half": blends["weights"][SHARES.index(0.5)],
        "difference": on_both(lambda one, other: subtract(own(one), own(other))),
    }
    return {
        "tasks": len(tasks),
        "pairs": [[one.name, other.name] for one, other in pairs],
        "strengths": list(STRENGTHS),
        "strength": strength,
        "shares": list(SHARES),
        "blends": {
            space: {side: [point[side] for point in points] for side in ("first", "second")}
            for space, points in blends.items()
        },
        "sums": sums,
    }


def composition_summary(result: dict[str, Any]) -> str:
    """The answer in a few sentences."""
    strength = dict(zip(result["strengths"], result["strength"], strict=True))
    best = max(strength, key=lambda value: strength[value][0])
    middle = result["shares"].index(0.5)
    halves = {space: [sides[side][middle][0] for side in sides] for space, sides in result["blends"].items()}
    alone = result["blends"]["weights"]["first"][0][0]
    added = result["sums"]["cat"]
    return (
        f"Exact match is {strength[1.0][0]:.1f}% at strength 1, {strength[0.5][0]:.1f}% at half of it, "
        f"{strength[2.0][0]:.1f}% at twice, and highest at {best:g} ({strength[best][0]:.1f}%). Of the first task of a "
        f"pair its own adapter answers {alone:.1f}%; half-way to the second, blended in task features, "
        f"{halves['features'][0]:.1f}% and {halves['features'][1]:.1f}% of the second, in weights "
        f"{halves['weights'][0]:.1f}% and {halves['weights'][1]:.1f}%. The sum of both answers "
        f"{added['first'][0]:.1f}% of the first and {added['second'][0]:.1f}% of the second: an adapter says which one "
        "task is wanted."
    )


def composition_rows(result: dict[str, Any]) -> list[list[str]]:
    """A table of everything that was measured; cells of a base or task that was not asked are empty."""
    rows = [["adapter", "inputs of its own or the first task", "inputs of the second task"]]
    for value, figure in zip(result["strengths"], result["strength"], strict=True):
        rows.append([f"strength {value:g}" + (" (the base)" if value == 0 else ""), _cell(figure), ""])
    for space, sides in result["blends"].items():
        for place, share in enumerate(result["shares"]):
            name = f"{1 - share:g} of the first, {share:g} of the second, in {SPACES[space]}"
            rows.append([name, *(_cell(sides[side][place]) for side in ("first", "second"))])
    for way, sides in result["sums"].items():
        if way != "half":  # stands above
            rows.append([SUMS[way], _cell(sides["first"]), _cell(sides["second"])])
    return rows


def _cell(figure: Sequence[float]) -> str:
    return "{:.1f} ({:.1f} to {:.1f})".format(*figure)


def _grouped(adapters: Sequence[Adapter]) -> list[list[Adapter]]:
    return [list(adapters[place : place + WORDINGS]) for place in range(0, len(adapters), WORDINGS)]


def _pairs(tasks: Sequence[MicroTask], seed: int) -> list[tuple[MicroTask, MicroTask]]:
    """Tasks of different operations, each task first about as often as every other."""
    rng = Random(f"composition/{seed}")
    firsts = [task for _ in range(1 + PAIRS // len(tasks)) for task in rng.sample(list(tasks), len(tasks))][:PAIRS]
    return [(one, rng.choice([other for other in tasks if other.operation is not one.operation])) for one in firsts]


def _shares(base: Base, asked: Sequence[tuple[Adapter, MicroTask]], seed: int) -> list[float]:
    """The share of right answers of each adapter to evaluation inputs of the task beside it; one shape for all."""
    spec = asked[0][0].spec
    weights = LoraWeights.cat([adapter.weights for adapter, _ in asked])
    queries = [
        Query(example, adapter=place)
        for place, (_, task) in enumerate(asked)
        for example in task.examples(INPUTS, seed=seed)
    ]
    right = exact_match(base.model, queries, spec, weights)
    return [sum(right[place * INPUTS : (place + 1) * INPUTS]) / INPUTS for place in range(len(asked))]
