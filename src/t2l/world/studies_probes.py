"""Studies that look at a trained checkpoint and train nothing.

    distance        held-out tasks: how far their descriptions are from training ones, and how often answers are right
    encodings       a map of all tasks as the hypernetwork encodes them
    interpolation   adapters between two descriptions
    composition     adapters stronger and weaker, blended, added and subtracted
    two-ways        two adapters of one task, from descriptions in different words
    guidance        which descriptions a calibrated checkpoint trusts, and its fallback policies
    examples        choosing, tuning and warm starts from a few examples

Axis letters: N descriptions, E embedding width, K feature width, C blends.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from t2l.bases import Base, load_base
from t2l.deltas import delta_similarity
from t2l.encoders import CachedEncoder, MiniLmEncoder
from t2l.errors import T2LError
from t2l.lora import LoraWeights
from t2l.model import MICRO_WORLD, TextToLora
from t2l.storage import write_json
from t2l.world.evaluate import RESAMPLES, Effort, bootstrap, evaluate
from t2l.world.exact_match import Query, exact_match
from t2l.world.operations.operation import MAX_OUTPUT_CHARS
from t2l.world.studies import PROBES
from t2l.world.studies_composition import composition, composition_summary
from t2l.world.studies_examples import examples_study
from t2l.world.studies_guidance import guidance
from t2l.world.studies_guidance_figures import examples_summary, guidance_summary
from t2l.world.tasks import NEAR, SPLITS, MicroTask, tasks_of
from t2l.world.wording import descriptions
from t2l.world.workfolder import built_library

SEED = 0
NEIGHBOURS = 8  # training descriptions of each training task among which the nearest is sought
WORDINGS = 4  # descriptions of a task
INPUTS = 10
PAIRS = 20
POINTS = 11
_PACKAGES = ("torch", "transformers", "numpy")
_MEASURED = (*NEAR, "far")
Say = Callable[[str], None]


def run_probe(
    name: str, folder: Path, checkpoint: str | None, *, say: Say = lambda line: None, t2l: TextToLora | None = None
) -> dict[str, Any]:
    """Runs one of `PROBES` and writes its result to ``folder/studies/<name>/result.json``.

    Args:
        checkpoint: folder or hub id; that of the embedded world by default.
        t2l: instead of a checkpoint.
    """
    if t2l is None:
        t2l = TextToLora.from_pretrained(checkpoint or MICRO_WORLD)
        t2l.encoder = CachedEncoder(t2l.encoder)
    base = load_base(t2l.spec.base_model or "")
    t2l.spec.check_base(base.model)
    probes: dict[str, Callable[[TextToLora, Base, Say], dict[str, Any]]] = {
        "distance": distance,
        "encodings": encodings,
        "interpolation": interpolation,
        "composition": lambda t2l, base, say: composition(t2l, base, say, SEED),
        "two-ways": two_ways,
        "guidance": lambda t2l, base, say: guidance(t2l, base, say, SEED, built_library(folder)),
        "examples": lambda t2l, base, say: examples_study(t2l, base, say, SEED, folder / "studies" / name / "parts"),
    }
    document = {
        "study": name,
        "question": PROBES[name],
        "command": f"t2l world study {name}" + (f" --checkpoint {checkpoint}" if checkpoint else ""),
        "checkpoint": t2l.digest,
        "seed": SEED,
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}},
        "result": probes[name](t2l, base, say),
    }
    write_json(folder / "studies" / name / "result.json", document)
    return document


def probe_summary(name: str, result: dict[str, Any]) -> str:
    """The answer in a sentence or two."""
    if name == "distance":
        mean, low, high = result["spearman"]
        return (
            f"Spearman's rank correlation of distance and accuracy over {len(result['points'])} held-out tasks: "
            f"{mean:.2f} ({low:.2f} to {high:.2f})."
        )
    if name == "encodings":
        return (
            "The training task whose encoding is nearest is of the same family for "
            "{:.0f}% ({:.0f} to {:.0f}) of the held-out tasks.".format(*result["same_family"])
        )
    if name == "interpolation":
        first, second, middle = result["first"], result["second"], len(result["weights"]) // 2
        return (
            f"Half-way between two descriptions {first[middle]:.0f}% of the answers to the first task's inputs are "
            f"right and {second[middle]:.0f}% of those to the second's, against {first[0]:.0f}% and "
            f"{second[-1]:.0f}% at the ends."
        )
    summaries = {"composition": composition_summary, "guidance": guidance_summary, "examples": examples_summary}
    if name in summaries:
        return summaries[name](result)
    similar, agreed = result["similarity"], result["agreement"]
    return (
        f"Adapters of one task in two wordings have cosine similarity {similar['same'][0]:.2f} and give the same "
        f"answer to {100 * agreed['same'][0]:.0f}% of the inputs; those of two tasks {similar['other'][0]:.2f} and "
        f"{100 * agreed['other'][0]:.0f}%."
    )


def distance(t2l: TextToLora, base: Base, say: Say) -> dict[str, Any]:
    """Accuracy against cosine distance from the nearest training description, in MiniLM's sentence vectors."""
    encoder = MiniLmEncoder("mean")
    known, held_out = tasks_of("train"), tasks_of(*_MEASURED)
    say(f"distance: embedding {NEIGHBOURS * len(known)} training descriptions")
    texts = [text for task in known for text in descriptions(task, NEIGHBOURS, part="train", seed=SEED)]
    known_NE = F.normalize(encoder.encode(texts), dim=-1)
    effort = Effort(examples=INPUTS, wordings=WORDINGS)
    scores = evaluate(
        base.model,
        t2l.encoder,
        t2l.hypernetwork,
        effort=effort,
        splits=_MEASURED,
        conditions=("matched",),
        seed=SEED,
        report=say,
    )
    right = {score.task: score.right / score.total for score in scores}
    points = []
    for task in held_out:
        own_NE = F.normalize(encoder.encode(descriptions(task, WORDINGS, part="train", seed=SEED + 1)), dim=-1)
        similarity_NN = own_NE @ known_NE.T
        nearest = known[int(similarity_NN.mean(dim=0).argmax()) // NEIGHBOURS].name
        gap = float((1 - similarity_NN.amax(dim=1)).mean())
        points.append(
            {"task": task.name, "split": task.split, "distance": gap, "accuracy": right[task.name], "nearest": nearest}
        )
    pairs = [(point["distance"], point["accuracy"]) for point in points]
    return {"points": points, "spearman": spearman_interval(pairs, SEED)}


def encodings(t2l: TextToLora, base: Base, say: Say) -> dict[str, Any]:
    """t-SNE (van der Maaten and Hinton, JMLR 2008) of task features, averaged over a task's descriptions."""
    try:
        from sklearn.manifold import TSNE
    except ImportError as problem:
        raise T2LError("The map of encodings is drawn with scikit-learn.", "pip install scikit-learn") from problem
    tasks = tasks_of(*SPLITS)
    say(f"encodings: {WORDINGS * len(tasks)} descriptions")
    rows = []
    for task in tasks:
        with torch.inference_mode():
            feature_NK = t2l.hypernetwork.encode(
                t2l.encoder.encode(descriptions(task, WORDINGS, part="train", seed=SEED + 1))
            )
        rows.append(feature_NK.mean(dim=0))
    feature_NK = F.normalize(torch.stack(rows).float(), dim=-1)
    perplexity = min(30.0, (len(tasks) - 1) / 3)
    place_N2 = TSNE(2, perplexity=perplexity, init="pca", random_state=SEED).fit_transform(feature_NK.numpy())
    trained = [row for row, task in enumerate(tasks) if task.split == "train"]
    held_out = [row for row, task in enumerate(tasks) if task.split in NEAR]
    nearest = (feature_NK[held_out] @ feature_NK[trained].T).argmax(dim=1).tolist()
    same = [
        float(tasks[row].family == tasks[trained[place]].family) for row, place in zip(held_out, nearest, strict=True)
    ]
    points = [
        {
            "task": task.name,
            "family": task.family,
            "split": task.split,
            "x": round(float(x), 2),
            "y": round(float(y), 2),
        }
        for task, (x, y) in zip(tasks, place_N2, strict=True)
    ]
    return {"points": points, "same_family": bootstrap(same, SEED), "perplexity": perplexity}


def interpolation(t2l: TextToLora, base: Base, say: Say) -> dict[str, Any]:
    """Exact match on inputs of either task, for adapters from blends of the task features of two descriptions."""
    rng = Random(f"interpolation/{SEED}")
    tasks = tasks_of("train")
    pairs: list[tuple[MicroTask, MicroTask]] = []
    while len(pairs) < PAIRS:
        one, other = rng.sample(tasks, 2)
        if one.family == other.family and one.operation is not other.operation:
            pairs.append((one, other))
    weights = [point / (POINTS - 1) for point in range(POINTS)]
    shares: list[list[list[float]]] = [[], []]  # of the first task and of the second, pair by pair
    for number, pair in enumerate(pairs, start=1):
        say(f"interpolation: pair {number} of {len(pairs)}")
        texts = [descriptions(task, 1, part="train", seed=SEED + 1)[0] for task in pair]
        lora = _blended(t2l, texts, weights)
        for side, task in enumerate(pair):
            queries = [
                Query(example, adapter=point) for point in range(POINTS) for example in task.examples(INPUTS, seed=SEED)
            ]
            right = exact_match(base.model, queries, t2l.spec, lora)
            shares[side].append([sum(right[i * INPUTS : (i + 1) * INPUTS]) / INPUTS for i in range(POINTS)])
    found: dict[str, Any] = {"weights": weights, "pairs": [[task.name for task in pair] for pair in pairs]}
    for name, rows in zip(("first", "second"), shares, strict=True):
        columns = [bootstrap(column, SEED) for column in zip(*rows, strict=True)]
        found[name] = [mean for mean, _, _ in columns]
        found[f"{name}_interval"] = [[low, high] for _, low, high in columns]
    return found


@torch.inference_mode()
def _blended(t2l: TextToLora, texts: Sequence[str], weights: Sequence[float]) -> LoraWeights:
    hypernetwork = t2l.hypernetwork
    one_K, other_K = hypernetwork.encode(t2l.encoder.encode(texts))
    blend_CK = torch.stack([(1 - weight) * one_K + weight * other_K for weight in weights])
    return hypernetwork.output_affine(hypernetwork.decode(blend_CK))


def two_ways(t2l: TextToLora, base: Base, say: Say) -> dict[str, Any]:
    """Two adapters of each task, from a description in training phrases and one in phrases never seen in training."""
    tasks = [*tasks_of("train")[::16], *tasks_of(*NEAR)]
    texts = [
        [descriptions(task, 1, part="train", seed=SEED + 1)[0], descriptions(task, 1, part="evaluation", seed=SEED)[0]]
        for task in tasks
    ]
    with torch.inference_mode():
        lora = t2l.hypernetwork(t2l.encoder.encode([text for pair in texts for text in pair]))
    cosine_NN = delta_similarity(lora)
    rng = Random(f"two ways/{SEED}")
    points = []
    for row, task in enumerate(tasks):
        say(f"two-ways: task {row + 1} of {len(tasks)}")
        other = rng.choice([i for i, t in enumerate(tasks) if t.operation is not task.operation])
        examples = task.examples(INPUTS, seed=SEED)
        index = [2 * row, 2 * row + 1, 2 * other]
        answers = base.answer(
            [question for _ in index for question, _ in examples],
            spec=t2l.spec,
            weights=lora.select(torch.tensor(index)),
            index=[place for place in range(len(index)) for _ in examples],
            max_new_tokens=MAX_OUTPUT_CHARS + 10,
        )
        said = [answers[place * INPUTS : (place + 1) * INPUTS] for place in range(len(index))]
        expected = [answer for _, answer in examples]
        points.append(
            {
                "task": task.name,
                "split": task.split,
                "texts": texts[row],
                "similarity": float(cosine_NN[index[0], index[1]]),
                "similarity_other": float(cosine_NN[index[0], index[2]]),
                "agreement": _agreement(said[0], said[1]),
                "agreement_other": _agreement(said[0], said[2]),
                "accuracy": [_agreement(said[0], expected), _agreement(said[1], expected)],
            }
        )

    def over_tasks(name: str) -> list[float]:
        return [value / 100 for value in bootstrap([point[name] for point in points], SEED)]

    return {
        "points": points,
        "similarity": {"same": over_tasks("similarity"), "other": over_tasks("similarity_other")},
        "agreement": {"same": over_tasks("agreement"), "other": over_tasks("agreement_other")},
    }


def spearman(pairs: Sequence[tuple[float, float]]) -> float:
    """Spearman's rank correlation; equal values share their mean rank. 0 where one side is constant."""
    first, second = (_ranks(np.array(column)) for column in zip(*pairs, strict=True))
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def spearman_interval(pairs: Sequence[tuple[float, float]], seed: int) -> tuple[float, float, float]:
    """The correlation and its 95% interval, resampling pairs."""
    rng = Random(seed)
    values = sorted(spearman(rng.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    return spearman(pairs), values[int(0.025 * RESAMPLES)], values[int(0.975 * RESAMPLES) - 1]


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def _agreement(one: Sequence[str], other: Sequence[str]) -> float:
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
