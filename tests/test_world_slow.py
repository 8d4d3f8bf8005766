"""The claims of docs/results.md, measured again on the shipped assets, on every near held-out task."""

from __future__ import annotations

import pytest

from t2l.bases import EMBEDDED_BASE, load_base
from t2l.model import TextToLora
from t2l.world.evaluate import QUICK, evaluate
from t2l.world.tasks import NEAR


@pytest.mark.slow
def test_descriptions_never_seen_make_adapters_for_held_out_tasks() -> None:
    t2l = TextToLora.from_pretrained()
    conditions = ("base", "matched", "paraphrase", "other-task", "vague", "junk")
    scores = evaluate(
        load_base(EMBEDDED_BASE).model,
        t2l.encoder,
        t2l.hypernetwork,
        effort=QUICK,
        splits=NEAR,
        conditions=conditions,
        seed=1,
    )
    shares = {
        condition: sum(s.right for s in scores if s.condition == condition)
        / sum(s.total for s in scores if s.condition == condition)
        for condition in conditions
    }
    assert shares["matched"] >= 2 * shares["base"]
    assert shares["paraphrase"] >= 2 * shares["base"]
    for wrong in ("other-task", "vague", "junk"):
        assert shares["matched"] >= shares[wrong] + 0.2
        assert shares["paraphrase"] > shares[wrong]
