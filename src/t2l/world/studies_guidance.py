"""How well a calibrated checkpoint knows which descriptions to trust, and what its fallback policies are worth.

Everything is measured on tasks and controls that the calibration has not seen: near and far held-out tasks in phrases
of the training kind and in phrases never trained on, and the world's own vague and junk descriptions.

Axis letters: N descriptions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from t2l.adapter import Adapter
from t2l.bases import Base
from t2l.errors import T2LError
from t2l.guidance.calibration import THRESHOLD
from t2l.guidance.ensemble import ensemble_embeddings
from t2l.guidance.fallback import POLICIES, TaskAdapters, blend_strength, nearest_adapter
from t2l.guidance.guide import Confidence, Guide
from t2l.lora import LoraWeights
from t2l.model import TextToLora
from t2l.world.calibration import unseen_wordings
from t2l.world.evaluate import RESAMPLES
from t2l.world.exact_match import Example, Query, exact_match
from t2l.world.tasks import NEAR, tasks_of
from t2l.world.wording import control_descriptions, descriptions

WORDINGS = 4
INPUTS = 20
BINS = 5
COVERAGES = tuple(share / 10 for share in range(1, 11))
CONTROLS = ("junk", "vague")
NEAREST_TRAINED = "nearest, trained"
"""The policy ``nearest`` with trained adapters of training tasks."""
MIXTURE = ("near", "far", "junk")
"""The groups of the mixture on which policies are compared; each has the same share."""


@dataclass(frozen=True)
class Item:
    """A description that is asked for.

    Args:
        group: near, far, junk or vague.
        unit: what is resampled: the task, or the text of a control.
        wording: "training" or "unseen" phrases; "" for controls.
        text: the description.
        examples: on which its adapter is scored; a control's are drawn from all held-out tasks.
    """

    group: str
    unit: str
    wording: str
    text: str
    examples: tuple[Example, ...]


def guidance(
    t2l: TextToLora, base: Base, say: Callable[[str], None], seed: int, library: TaskAdapters | None = None
) -> dict[str, Any]:
    """Detection, calibration, coverage, policies and ensembling.

    Args:
        library: trained adapters of training tasks: the policy ``nearest`` is then measured with them as well.

    Raises:
        CheckpointError: the checkpoint is not calibrated.
    """
    guide = Guide.of(t2l)
    items = held_out_items(seed)
    say(f"guidance: {len(items)} descriptions")
    embedding_NE = t2l.encoder.encode([item.text for item in items])
    with torch.inference_mode():
        weights = t2l.hypernetwork(embedding_NE)
    confidences = guide.assess_embeddings(embedding_NE, weights)
    say("guidance: answers of the base, and under generated adapters")
    alone = _shares(base, t2l, items, None, [-1] * len(items))
    rows = list(range(len(items)))
    policies: dict[str, list[float]] = {"warn": _shares(base, t2l, items, weights, rows), "none": list(alone)}
    say("guidance: ensembles of rewordings")
    near = [row for row in rows if items[row].group == "near"]
    with torch.inference_mode():
        together = t2l.hypernetwork(ensemble_embeddings(t2l, [items[row].text for row in near]))
    ensembled = _shares(base, t2l, [items[row] for row in near], together, list(range(len(near))))
    distrusted = [row for row in rows if confidences[row].value < THRESHOLD]
    strengths = [blend_strength(guide.calibration.scale.share_of_best(one.value)) for one in confidences]
    faded = [row for row in rows if strengths[row] < 1]
    changed = {"static": distrusted, "nearest": distrusted, "blend": faded, NEAREST_TRAINED: distrusted}
    for policy, some in changed.items():
        if (policy == "static" and guide.calibration.static is None) or (policy == NEAREST_TRAINED and library is None):
            continue
        say(f"guidance: the policy '{policy}' for {len(some)} descriptions")
        if policy == "blend":
            instead = _faded(weights, some, strengths)
        else:
            instead = _instead(guide, some, confidences, policy, library)
        shares = _shares(base, t2l, [items[row] for row in some], instead, list(range(len(some))))
        policies[policy] = _replaced(policies["warn"], some, shares)
    policies["none"] = _replaced(policies["warn"], distrusted, [alone[row] for row in distrusted])
    found = _Found(items, confidences, alone, policies, seed)
    return {
        "threshold": THRESHOLD,
        "groups": found.groups(),
        "detection": found.detection(),
        "calibration": found.calibration(),
        "coverage": found.coverage(),
        "policies": found.compared(),
        "ensemble": _ensemble_gain(items, near, policies["warn"], ensembled, seed),
        "points": found.points(),
        "library": None if library is None else _found_in(library, distrusted, confidences),
        "facts": guide.calibration.facts,
    }


def held_out_items(seed: int) -> list[Item]:
    """Descriptions of near and far tasks in both kinds of phrases, and the world's controls."""
    items = []
    for group, tasks in (("near", tasks_of(*NEAR)), ("far", tasks_of("far"))):
        for task in tasks:
            examples = tuple(task.examples(INPUTS, seed=seed))
            training = descriptions(task, WORDINGS, part="train", seed=seed + 1)
            for wording, texts in (("training", training), ("unseen", unseen_wordings(task, seed, WORDINGS))):
                items += [Item(group, task.name, wording, text, examples) for text in texts]
    every = [example for task in tasks_of(*NEAR, "far") for example in task.examples(INPUTS, seed=seed)]
    rng = Random(f"guidance/{seed}")
    for kind in CONTROLS:
        for text in control_descriptions(kind):
            items.append(Item(kind, text, "", text, tuple(rng.sample(every, min(2 * INPUTS, len(every))))))
    return items


def auroc(trusted: Sequence[float], others: Sequence[float]) -> float:
    """Chance that one of ``trusted`` has the higher value than one of ``others``; equal ones count half."""
    if not trusted or not others:
        raise T2LError("An AUROC compares two groups that are not empty.")
    one, other = torch.tensor(trusted)[:, None], torch.tensor(others)[None]
    return float(((one > other).double() + 0.5 * (one == other).double()).mean())


def calibration_error(pairs: Sequence[tuple[float, float]], bins: int = BINS) -> float:
    """Mean distance of predicted and measured gain over equally large groups by prediction."""
    ordered = sorted(pairs)
    total = 0.0
    for number in range(bins):
        part = ordered[number * len(ordered) // bins : (number + 1) * len(ordered) // bins]
        if part:
            total += abs(sum(predicted - measured for predicted, measured in part)) / len(ordered)
    return total


class _Found:
    """The measurements, and what they come to, each with a 95% interval that resamples units within groups."""

    def __init__(
        self,
        items: Sequence[Item],
        confidences: Sequence[Confidence],
        alone: Sequence[float],
        policies: Mapping[str, Sequence[float]],
        seed: int,
    ) -> None:
        self.items, self.confidences, self.alone, self.policies = items, confidences, alone, policies
        self.seed = seed
        self.value = [confidence.value for confidence in confidences]
        self.units: dict[str, dict[str, list[int]]] = {}
        for row, item in enumerate(items):
            self.units.setdefault(item.group, {}).setdefault(item.unit, []).append(row)

    def groups(self) -> dict[str, Any]:
        """Mean confidence, expected and measured gain of each group and wording."""
        found = {}
        for group, wording in dict.fromkeys((item.group, item.wording) for item in self.items):
            rows = self._rows(group, wording)
            found[f"{group}, {wording}".rstrip(", ")] = {
                "descriptions": len(rows),
                "confidence": _mean([self.value[row] for row in rows]),
                "below": _mean([float(self.value[row] < THRESHOLD) for row in rows]),
                "expected_gain": _mean([self.confidences[row].expected_gain for row in rows]),
                "gain": _mean([self._gain(row) for row in rows]),
            }
        return found

    def detection(self) -> dict[str, list[float]]:
        """AUROC of telling near tasks' descriptions from others, by the confidence alone."""

        def against(group: str, rows: Mapping[str, Sequence[int]]) -> float:
            return auroc([self.value[row] for row in rows["near"]], [self.value[row] for row in rows[group]])

        found = {
            f"near from {group}": self._interval(lambda rows, group=group: against(group, rows))
            for group in ("far", *CONTROLS)
        }
        found["near from junk and far"] = self._interval(
            lambda rows: (against("junk", rows) + against("far", rows)) / 2
        )
        return found

    def calibration(self) -> dict[str, Any]:
        """Calibration error of the expected gain on the mixture, each group with the same share."""

        def error(rows: Mapping[str, Sequence[int]]) -> float:
            return calibration_error([pair for group in MIXTURE for pair in self._spread(rows[group])])

        return {"error": self._interval(error), "bins": BINS}

    def coverage(self) -> list[dict[str, Any]]:
        """Accuracy of the adapters that are kept, when those with the lowest confidence are left out."""

        def kept(rows: Mapping[str, Sequence[int]], share: float) -> float:
            return 100 * _covered([triple for group in MIXTURE for triple in self._shared(rows[group])], share)

        return [
            {"coverage": share, "accuracy": self._interval(lambda rows, share=share: kept(rows, share))}
            for share in COVERAGES
        ]

    def compared(self) -> dict[str, Any]:
        """Exact match, %, of every policy by group and on the mixture, and the blend against each, paired."""
        names = [policy for policy in (*POLICIES, NEAREST_TRAINED) if policy in self.policies]
        ways = {"base": self.alone, **{policy: self.policies[policy] for policy in names}}

        def mixture(values: Sequence[float], rows: Mapping[str, Sequence[int]]) -> float:
            return 100 * _mean([_mean([values[row] for row in rows[group]]) for group in MIXTURE])

        table = {}
        for name, values in ways.items():
            table[name] = {
                group: self._interval(
                    lambda rows, group=group, values=values: 100 * _mean([values[row] for row in rows[group]])
                )
                for group in (*MIXTURE, "vague")
            }
            table[name]["mixture"] = self._interval(lambda rows, values=values: mixture(values, rows))
        blend = ways["blend"]
        against = {
            name: self._interval(lambda rows, values=values: mixture(blend, rows) - mixture(values, rows))
            for name, values in ways.items()
            if name != "blend"
        }
        groups = {
            group: self._interval(
                lambda rows, group=group: 100 * _mean([blend[row] - self.alone[row] for row in rows[group]])
            )
            for group in (*MIXTURE, "vague")
        }
        return {"table": table, "blend_minus": against, "blend_minus_base": groups}

    def points(self) -> list[dict[str, Any]]:
        """Every description's confidence, expected and measured gain."""
        return [
            {
                "group": item.group,
                "unit": item.unit,
                "wording": item.wording,
                "confidence": round(confidence.value, 4),
                "expected_gain": round(confidence.expected_gain, 4),
                "gain": round(self._gain(row), 4),
            }
            for row, (item, confidence) in enumerate(zip(self.items, self.confidences, strict=True))
        ]

    def _gain(self, row: int) -> float:
        return self.policies["warn"][row] - self.alone[row]

    def _rows(self, group: str, wording: str) -> list[int]:
        return [row for row, item in enumerate(self.items) if (item.group, item.wording) == (group, wording)]

    def _spread(self, rows: Sequence[int]) -> list[tuple[float, float]]:
        """(expected, measured) of a group, repeated so that every group has about as many."""
        most = max(len(self._all(group)) for group in MIXTURE)
        pairs = [(self.confidences[row].expected_gain, self._gain(row)) for row in rows]
        return [pairs[place % len(pairs)] for place in range(most - most % len(pairs) or most)]

    def _shared(self, rows: Sequence[int]) -> list[tuple[float, float, float]]:
        """(confidence, accuracy, weight) of a group, whose weights sum to 1."""
        return [(self.value[row], self.policies["warn"][row], 1 / len(rows)) for row in rows]

    def _all(self, group: str) -> list[int]:
        return [row for rows in self.units[group].values() for row in rows]

    def _interval(self, figure: Callable[[Mapping[str, Sequence[int]]], float]) -> list[float]:
        rng = Random(self.seed)
        values = []
        for _ in range(RESAMPLES // 4):
            drawn = {
                group: [row for unit in rng.choices(list(units), k=len(units)) for row in units[unit]]
                for group, units in self.units.items()
            }
            values.append(figure(drawn))
        values.sort()
        whole = figure({group: self._all(group) for group in self.units})
        return [
            round(number, 4)
            for number in (whole, values[int(0.025 * len(values))], values[-1 - int(0.025 * len(values))])
        ]


def _covered(triples: Sequence[tuple[float, float, float]], share: float) -> float:
    """Mean accuracy of the most trusted ``share`` of the weight."""
    budget = share * sum(weight for _, _, weight in triples)
    right = taken = 0.0
    for _, accuracy, weight in sorted(triples, key=lambda triple: -triple[0]):
        used = min(weight, budget - taken)
        if used <= 0:
            break
        right, taken = right + used * accuracy, taken + used
    return right / taken


def _instead(
    guide: Guide, rows: Sequence[int], confidences: Sequence[Confidence], policy: str, library: TaskAdapters | None
) -> LoraWeights:
    """What the policy gives for the descriptions in ``rows``, as `t2l.guidance.fallback.guided` does one by one."""
    if policy == "static":
        static = guide.calibration.static
        assert static is not None
        return static.select(torch.zeros(len(rows), dtype=torch.long))
    nearest = {confidences[row].nearest[0].task: confidences[row].nearest[0] for row in rows}
    place = {task: index for index, task in enumerate(nearest)}
    used = library if policy == NEAREST_TRAINED else None
    made = LoraWeights.cat([_of_spec(guide, nearest_adapter(guide, one, used)[0]) for one in nearest.values()])
    return made.select(torch.tensor([place[confidences[row].nearest[0].task] for row in rows]))


def _of_spec(guide: Guide, adapter: Adapter) -> LoraWeights:
    """The adapter's weights under the checkpoint's scaling."""
    ratio = adapter.spec.scaling / guide.t2l.spec.scaling
    return LoraWeights(dict(adapter.weights.a), {key: b * ratio for key, b in adapter.weights.b.items()})


def _faded(weights: LoraWeights, rows: Sequence[int], strengths: Sequence[float]) -> LoraWeights:
    """The generated adapters in ``rows``, each with its strength."""
    strength_N = torch.tensor([strengths[row] for row in rows])
    chosen = weights.select(torch.tensor(list(rows)))
    return LoraWeights(dict(chosen.a), {key: b * strength_N[:, None, None, None] for key, b in chosen.b.items()})


def _found_in(library: TaskAdapters, rows: Sequence[int], confidences: Sequence[Confidence]) -> dict[str, int]:
    """Of the descriptions that are not trusted, how many have a nearest task with a trained adapter."""
    found = sum(confidences[row].nearest[0].task in library for row in rows)
    return {"distrusted": len(rows), "trained": found}


def _shares(
    base: Base, t2l: TextToLora, items: Sequence[Item], weights: LoraWeights | None, rows: Sequence[int]
) -> list[float]:
    """Share of right answers to each item's inputs under the adapter in its row, -1 for none."""
    queries = [Query(example, adapter=row) for item, row in zip(items, rows, strict=True) for example in item.examples]
    right = iter(exact_match(base.model, queries, t2l.spec, weights))
    return [sum(next(right) for _ in item.examples) / len(item.examples) for item in items]


def _replaced(values: Sequence[float], rows: Sequence[int], others: Sequence[float]) -> list[float]:
    changed = list(values)
    for row, other in zip(rows, others, strict=True):
        changed[row] = other
    return changed


def _ensemble_gain(
    items: Sequence[Item], rows: Sequence[int], single: Sequence[float], ensembled: Sequence[float], seed: int
) -> dict[str, Any]:
    """Exact match, %, of one phrasing and of the ensemble on near tasks, and the difference, paired by task."""
    found = {}
    for wording in ("training", "unseen"):
        tasks: dict[str, list[tuple[float, float]]] = {}
        for place, row in enumerate(rows):
            if items[row].wording == wording:
                tasks.setdefault(items[row].unit, []).append((single[row], ensembled[place]))
        means = [(_mean([one for one, _ in some]), _mean([other for _, other in some])) for some in tasks.values()]
        rng = Random(seed)
        gaps = sorted(
            100 * _mean([other - one for one, other in rng.choices(means, k=len(means))]) for _ in range(RESAMPLES)
        )
        found[wording] = {
            "single": round(100 * _mean([one for one, _ in means]), 2),
            "ensemble": round(100 * _mean([other for _, other in means]), 2),
            "gain": [
                round(100 * _mean([other - one for one, other in means]), 2),
                round(gaps[int(0.025 * RESAMPLES)], 2),
                round(gaps[int(0.975 * RESAMPLES) - 1], 2),
            ],
        }
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
