"""What descriptions change: the short cut equals the long way, and a checkpoint that ignores its text is found out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from helpers import tiny_pair
from t2l.errors import DescriptionError
from t2l.inspection import sensitivity

TEXTS = ["one", "two", "three", "four"]


def test_products_are_those_of_the_weight_changes_themselves() -> None:
    _, t2l = tiny_pair(TEXTS)
    found = sensitivity(t2l, TEXTS)
    adapters = t2l.generate(TEXTS)
    paths = t2l.spec.module_paths()
    whole = torch.stack([torch.cat([one.delta(path).flatten() for path in paths]) for one in adapters]).double()
    mean = whole.mean(dim=0)
    for number, away in enumerate(found.drift):
        assert away == pytest.approx(float((whole[number] - mean).norm() / mean.norm()), rel=1e-4)
    cosine = torch.nn.functional.cosine_similarity(whole[0], whole[1], dim=0)
    assert found.pairs[0][3] == pytest.approx(float(cosine), abs=1e-5)
    site = found.sites[0]
    path = t2l.spec.group(site.module).path.replace("{layer}", str(site.layer))
    own = torch.stack([one.delta(path).flatten() for one in adapters]).double()
    assert site.mean == pytest.approx(float(own.mean(dim=0).norm()), rel=1e-4)
    spread = (own - own.mean(dim=0)).square().sum(dim=1).mean().sqrt()
    assert site.spread == pytest.approx(float(spread), rel=1e-4)
    assert sum(one.share for one in found.sites) == pytest.approx(1)
    assert len(found.sites) == len(paths)


def test_a_checkpoint_that_ignores_its_description_has_no_drift() -> None:
    _, t2l = tiny_pair(TEXTS)
    encoder: Any = t2l.hypernetwork.task_encoder
    with torch.no_grad():
        encoder.linear.weight.zero_()
    found = sensitivity(t2l, TEXTS)
    assert max(found.drift) < 1e-6 and found.correlation is None


def test_too_few_descriptions_are_refused() -> None:
    _, t2l = tiny_pair(TEXTS)
    with pytest.raises(DescriptionError, match="2 different descriptions"):
        sensitivity(t2l, ["one", "two", "one "])
