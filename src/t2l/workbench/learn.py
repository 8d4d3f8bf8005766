"""A better adapter from a few examples: what ``t2l refine`` does, on the engine's base, in turns with its passes.

Level 6. So others are answered meanwhile. This file knows no page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from t2l.adapter import Adapter
from t2l.errors import T2LError
from t2l.lora import LoraWeights
from t2l.prompting import recorded
from t2l.serving.engine import Engine
from t2l.training.refinement import EMBEDDING_RATE, WARM_RATE, RefineConfig, Refined, answer_samples, refine

MOST_EXAMPLES = 200
MOST_STEPS = 100


def learn(
    engine: Engine,
    description: str,
    pairs: Sequence[tuple[str, str]],
    steps: int,
    report: Callable[[int], None] = lambda step: None,
) -> tuple[Adapter, Refined]:
    """An adapter of the engine's checkpoint, refined on examples, and how it went; waits for it.

    Args:
        pairs: inputs and outputs.
        report: called with the number of steps that are done.

    Raises:
        T2LError: no examples, too many of them or of the steps, or one that is longer than the base's window.
        DescriptionError: a description that cannot be encoded.
    """
    if not pairs or len(pairs) > MOST_EXAMPLES or not all(output.strip() for _, output in pairs):
        raise T2LError(
            f"Of {len(pairs)} examples {sum(bool(output.strip()) for _, output in pairs)} have an output.",
            f"Give 1 to {MOST_EXAMPLES}, each with an output.",
        )
    if not 1 <= steps <= MOST_STEPS:
        raise T2LError(f"{steps} steps were asked for; 1 to {MOST_STEPS} are taken.")
    t2l, base, config = engine.t2l, engine.base, RefineConfig(steps, WARM_RATE)
    samples = answer_samples(base, pairs)
    (made,) = engine.make([description]).result()
    embedding_1E = engine.with_maker(lambda: t2l.encoder.encode([description])).result()
    with engine.base_in_turns() as let_through:

        def watch(step: int, weights: LoraWeights) -> None:
            let_through()
            report(step)

        source = (t2l.hypernetwork, embedding_1E)
        found = refine(base.model, t2l.spec, made.adapter.weights, samples, config, source=source, watch=watch)
    record = found.record(config, made.adapter, pairs, embedding_rate=EMBEDDING_RATE, checkpoint=t2l.digest)
    origin = {"description": description, "base_model": t2l.spec.base_model, **recorded(t2l.metadata)}
    adapter = Adapter(t2l.spec, found.weights, {**origin, "refined": record})
    return adapter, found
