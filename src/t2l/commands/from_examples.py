"""``t2l generate --examples``: one adapter, from whichever wording fits a few examples best, or from a tuned embedding.

Level 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from t2l.adapter import Adapter
from t2l.bases import load_base
from t2l.commands.descriptions import Request
from t2l.commands.examples import Choice, Examples, choose
from t2l.composition import scale
from t2l.guidance.choosing import answer_samples, candidates
from t2l.guidance.guide import Guide
from t2l.model import TextToLora
from t2l.training.refinement import EMBEDDING_ALONE_RATE, RefineConfig, fit_losses, refine_embeddings

if TYPE_CHECKING:
    from torch import Tensor

    from t2l.bases import Base


def generate_from_examples(
    t2l: TextToLora,
    guide: Guide | None,
    requests: Sequence[Request],
    examples: Examples,
    out: Path,
    *,
    named: bool,
    steps: int,
    strength: float,
    **how_to_save: Any,
) -> dict[str, Any]:
    """Writes one adapter and reports which candidate it comes from, as plain JSON values.

    Args:
        guide: knows the nearest training tasks, whose descriptions are candidates too; None where there is none.
        out: the adapter's folder, or (not ``named``) the folder above.
        steps: on the embedding of the chosen candidate; 0 for none.

    Raises:
        T2LError: the base cannot be loaded, or the examples do not fit it.
    """
    base = load_base(t2l.spec.base_name()).with_system(t2l.system)
    t2l.spec.check_base(base.model)
    texts = candidates(guide, [request.description for request in requests])
    embedding_NE = t2l.encoder.encode(texts)
    choice = choose(base, t2l, embedding_NE, examples)
    text = texts[choice.place]
    chosen_1E = embedding_NE[choice.place : choice.place + 1]
    tuned_score = None
    if steps:
        chosen_1E, tuned_score = tuned(base, t2l, chosen_1E, examples, steps)
    (adapter,) = t2l.generate_from_embeddings(chosen_1E)
    chosen = {
        "description": text,
        "by": choice.by,
        "score": choice.scores[choice.place],
        "first_score": choice.scores[0],
        "steps": steps,
        "tuned_score": tuned_score,
    }
    record = {"sha256": examples.digest, "candidates": len(texts), **chosen}
    provenance = {
        "description": text,
        "encoder": t2l.encoder.identity,
        **adapter.provenance,
        "asked": [request.description for request in requests],
        "examples": {key: value for key, value in record.items() if value is not None},
    }
    adapter = Adapter(adapter.spec, adapter.weights, provenance)
    adapter = adapter if strength == 1 else scale(adapter, strength)
    folder = out if named else out / Request(text, requests[0].name, "").folder_name(f"{t2l.digest}{examples.digest}")
    adapter.save(folder, **how_to_save)
    confidence = None if guide is None else guide.assess([text])[0].to_dict()
    entry = {"description": text, "name": requests[0].name, "folder": str(folder), "digest": adapter.digest}
    return {
        "checkpoint_digest": t2l.digest,
        "base_model": t2l.spec.base_model,
        "adapters": [{**entry, "confidence": confidence, "action": "generated"}],
        "candidates": scored(texts, choice),
        "examples": len(examples.inputs),
        "chosen": chosen,
    }


def scored(texts: Sequence[str], choice: Choice) -> list[dict[str, Any]]:
    """The candidates with their scores."""
    return [{"description": text, "score": score} for text, score in zip(texts, choice.scores, strict=True)]


def tuned(base: Base, t2l: TextToLora, embedding_1E: Tensor, examples: Examples, steps: int) -> tuple[Tensor, float]:
    """The embedding after some steps on the examples, and the loss of its adapter on them."""
    samples = answer_samples(base, examples.pairs())
    config = RefineConfig(steps=steps, learning_rate=EMBEDDING_ALONE_RATE)
    moved_1E = refine_embeddings(base.model, t2l.hypernetwork, embedding_1E, [samples], config)
    with torch.no_grad():
        weights = t2l.hypernetwork(moved_1E).detach()
    return moved_1E, round(float(fit_losses(base.model, t2l.spec, weights, samples)[0]), 6)
