"""A better adapter from a few examples: the wording that fits them best, its embedding moved, or a warm start.

Level 6. It runs in turns with the engine's passes, so that others are answered meanwhile. This file knows no page.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from t2l.adapter import Adapter
from t2l.errors import DescriptionError, T2LError
from t2l.guidance.choosing import answer_samples, candidates
from t2l.lora import LoraWeights
from t2l.prompting import recorded
from t2l.serving.engine import Engine
from t2l.training.refinement import (
    EMBEDDING_ALONE_RATE,
    WARM_RATE,
    BestStep,
    RefineConfig,
    fit_losses,
    held_out,
    refine_embeddings,
    tune_with_hypernetwork,
)

Way = Literal["wording", "embedding", "adapter"]
"""What examples change: which wording is taken, then the embedding of it, or then embedding and adapter together."""
MOST_EXAMPLES = 200
MOST_STEPS = 100
_MOST_CANDIDATES = 24
_LOOKS = 10  # at the held-out examples, in a run


@dataclass(frozen=True, eq=False)
class Learned:
    """What examples led to.

    Args:
        adapter: with its origin in the provenance.
        description: the wording that fitted best.
        tried: how many wordings were tried.
        held: the numbers of the examples that nothing was learned from; all of them where there are few.
        before: loss on these of the description as it was given.
        chosen: of the best wording.
        after: of the adapter.
        step: after which that was measured.
    """

    adapter: Adapter
    description: str
    tried: int
    held: tuple[int, ...]
    before: float
    chosen: float
    after: float
    step: int


def learn(
    engine: Engine,
    description: str,
    pairs: Sequence[tuple[str, str]],
    way: Way,
    steps: int,
    report: Callable[[int], None] = lambda step: None,
) -> Learned:
    """An adapter of the engine's checkpoint that fits the examples; waits for it.

    Args:
        pairs: inputs and outputs.
        report: called with the number of steps that are done.

    Raises:
        T2LError: no examples, too many of them or of the steps, or one that is longer than the base's window.
        DescriptionError: a description that cannot be encoded.
    """
    if way not in get_args(Way):
        raise T2LError(f"There is no way '{way}'.", f"There are: {', '.join(get_args(Way))}.")
    if not pairs or len(pairs) > MOST_EXAMPLES or not all(output.strip() for _, output in pairs):
        raise T2LError(
            f"Of {len(pairs)} examples {sum(bool(output.strip()) for _, output in pairs)} have an output.",
            f"Give 1 to {MOST_EXAMPLES}, each with an output.",
        )
    if not 1 <= steps <= MOST_STEPS:
        raise T2LError(f"{steps} steps were asked for; 1 to {MOST_STEPS} are taken.")
    t2l, base = engine.t2l, engine.base
    samples = answer_samples(base, pairs)
    held = held_out(len(pairs))
    few = len(held) == len(pairs)
    own = [sample for number, sample in enumerate(samples) if few or number not in held]
    looked_at = [samples[number] for number in held]

    def offered() -> tuple[list[str], Any]:
        texts = candidates(engine.guide, [description])[:_MOST_CANDIDATES]
        try:
            return texts, t2l.encoder.encode(texts)
        except DescriptionError:  # an encoder that knows names of tasks, and no rewordings
            return [description], t2l.encoder.encode([description])

    texts, embedding_NE = engine.with_maker(offered).result()
    with torch.no_grad():
        weights = t2l.hypernetwork(embedding_NE).detach()
    with engine.base_in_turns() as let_through:
        fits = []
        for row in range(len(texts)):
            fits.append(float(fit_losses(base.model, t2l.spec, weights.select(row), own)[0]))
            let_through()
        place = fits.index(min(fits))
        start, start_1E = weights.select(place), embedding_NE[place : place + 1]
        before = float(fit_losses(base.model, t2l.spec, weights.select(0), looked_at)[0])
        best = BestStep(base.model, t2l.spec, looked_at, steps, _LOOKS)

        def look(step: int, weights: LoraWeights) -> None:
            let_through()
            report(step)
            best.watch(step, weights)

        def look_at_embedding(step: int, embedding_1E: torch.Tensor) -> None:
            with torch.no_grad():
                look(step, t2l.hypernetwork(embedding_1E).map(torch.Tensor.float).detach())

        if way == "wording":
            look(0, start)
        elif way == "embedding":
            config = RefineConfig(steps, EMBEDDING_ALONE_RATE)
            refine_embeddings(base.model, t2l.hypernetwork, start_1E, [own], config, watch=look_at_embedding)
        else:
            config = RefineConfig(steps, WARM_RATE)
            tune_with_hypernetwork(base.model, t2l.hypernetwork, start_1E, start, [own], config, watch=look)
    digest = hashlib.sha256(json.dumps([list(pair) for pair in pairs]).encode()).hexdigest()
    record = {"sha256": digest, "way": way, "candidates": len(texts), "steps": best.step, "of_steps": steps}
    provenance = {
        "description": texts[place],
        "encoder": t2l.encoder.identity,
        "checkpoint": t2l.digest,
        "base_model": t2l.spec.base_model,
        **recorded(t2l.metadata),
        "asked": [description],
        "examples": {**record, "loss_before": round(before, 6), "loss_after": round(best.loss, 6)},
    }
    assert best.weights is not None
    adapter = Adapter(t2l.spec, best.weights, provenance)
    return Learned(adapter, texts[place], len(texts), held, before, best.before, best.loss, best.step)
