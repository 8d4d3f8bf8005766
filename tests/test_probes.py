"""Studies of a checkpoint: what they measure, on a hypernetwork too small to have learned anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import random_weights
from t2l.bases import EMBEDDED_BASE, load_base
from t2l.deltas import delta_similarity
from t2l.encoders import MiniLmEncoder
from t2l.errors import T2LError
from t2l.guidance import calibrate as calibrate_module
from t2l.guidance.guide import Guide
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.model import TextToLora
from t2l.training.refinement import RefineConfig
from t2l.world import calibration, studies_composition, studies_examples, studies_guidance, studies_probes
from t2l.world import evaluate as evaluate_module
from t2l.world.studies import PROBES
from t2l.world.studies_probes import probe_summary, run_probe, spearman, spearman_interval
from t2l.world.tasks import tasks_of


def spec() -> LoraSpec:
    found = LoraSpec.from_base(load_base(EMBEDDED_BASE).model.config, rank=2)
    return LoraSpec(**{**vars(found), "base_model": EMBEDDED_BASE})


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> TextToLora:
    def some(*splits: Any) -> list[Any]:
        return [task for split in splits for task in tasks_of(split)[:3]]

    monkeypatch.setattr(studies_probes, "tasks_of", some)
    for module in (evaluate_module, studies_composition):
        monkeypatch.setattr(module, "tasks_of", some)
    for name, value in {"WORDINGS": 2, "INPUTS": 2, "PAIRS": 4}.items():
        monkeypatch.setattr(studies_composition, name, value)
    for name, value in {"NEIGHBOURS": 2, "WORDINGS": 2, "INPUTS": 2, "PAIRS": 1, "POINTS": 3}.items():
        monkeypatch.setattr(studies_probes, name, value)
    for module in (studies_guidance, studies_examples, calibration):
        monkeypatch.setattr(module, "tasks_of", some)
    for module in (studies_guidance, calibration):
        monkeypatch.setattr(module, "WORDINGS", 2)
        monkeypatch.setattr(module, "INPUTS", 2)
    for name, value in {
        "INPUTS": 2,
        "FEW": 2,
        "MORE": 3,
        "NUMBERS": (1, 2),
        "EMBEDDING": RefineConfig(steps=2, batch=2),
        "TUNING": dict.fromkeys(("warm", "plain", "fresh"), RefineConfig(steps=4, batch=2)),
        "SHORT": dict.fromkeys(("warm", "fresh"), RefineConfig(steps=2, batch=2)),
    }.items():
        monkeypatch.setattr(studies_examples, name, value)
    network = HyperNetwork(spec(), 384, trunk_dim=8, head_dim=8, head_init="linear").eval()
    return TextToLora(MiniLmEncoder("mean"), network)


@pytest.fixture
def guided(few: TextToLora, monkeypatch: pytest.MonkeyPatch) -> TextToLora:
    monkeypatch.setattr(calibration, "KNOWN", 2)
    monkeypatch.setattr(calibrate_module, "_LEAST_TASKS", 3)
    monkeypatch.setattr(calibrate_module, "control_texts", lambda kind: (f"{kind} one", f"{kind} two"))
    base = load_base(EMBEDDED_BASE)
    found = calibration.calibrate_world(few, base.model, static=random_weights(few.spec))
    monkeypatch.setattr(Guide, "of", lambda t2l: Guide(t2l, found))
    return few


@pytest.mark.parametrize("name", PROBES)
def test_a_study_of_a_checkpoint_writes_its_result(
    name: str, tmp_path: Path, few: TextToLora, request: pytest.FixtureRequest
) -> None:
    if name == "guidance":
        request.getfixturevalue("guided")
    document = run_probe(name, tmp_path, None, t2l=few)
    assert json.loads((tmp_path / "studies" / name / "result.json").read_text()) == json.loads(json.dumps(document))
    assert document["checkpoint"] == few.digest and document["command"] == f"t2l world study {name}"
    assert probe_summary(name, document["result"]).endswith(".")
    result = document["result"]
    if name == "distance":
        assert len(result["points"]) == 9
        assert all(0 <= p["distance"] <= 2 and 0 <= p["accuracy"] <= 1 for p in result["points"])
    elif name == "encodings":
        assert len(result["points"]) == 15
    elif name == "interpolation":
        assert result["weights"] == [0.0, 0.5, 1.0] and len(result["first"]) == len(result["second"]) == 3
    elif name == "composition":
        assert len(result["pairs"]) == 4 and all(one != other for one, other in result["pairs"])
        assert len(result["strength"]) == 8 and len(result["blends"]["features"]["first"]) == 5
        figures = [*result["strength"], *(side for sides in result["sums"].values() for side in sides.values())]
        assert all(0 <= low <= mean <= high <= 100 for mean, low, high in figures)
    elif name == "guidance":
        assert all(0 <= low <= mean <= high <= 1 for mean, low, high in result["detection"].values())
        assert set(result["policies"]["table"]) == {"base", "warn", "none", "static", "nearest", "blend"}
        assert {point["group"] for point in result["points"]} == {"near", "far", "junk", "vague"}
        assert [row["coverage"] for row in result["coverage"]][-1] == 1.0
    elif name == "examples":
        warm = result["warm_start"]
        assert warm["looks"] == [0, 2, 4]
        assert warm["warm"][0] == warm["plain"][0] == [round(100 * result["as_given"], 2), *warm["warm"][0][1:]]
        assert [goal for goal, *_ in warm["ratios"]["warm"]] == [0.5, 0.75, 0.9, 1.0]
        assert all(low <= high for rows in warm["ratios"].values() for _, _, low, high in rows)
        assert all(len(result["by_number"][name]) == 2 for name in ("embedding", "warm", "fresh"))
        assert result["choosing"]["candidates"] > 3
    else:
        assert all(-1.001 <= p["similarity"] <= 1.001 and 0 <= p["agreement"] <= 1 for p in result["points"])


def test_similarity_of_weight_changes_is_that_of_the_products() -> None:
    lora = random_weights(spec(), 3, seed=1)
    deltas = [torch.cat([(lora.b[key][n] @ lora.a[key][n]).flatten() for key in lora.a]).double() for n in range(3)]
    expected = torch.stack([torch.stack([torch.cosine_similarity(x, y, dim=0) for y in deltas]) for x in deltas])
    torch.testing.assert_close(delta_similarity(lora), expected.double(), atol=1e-5, rtol=1e-4)


def test_rank_correlation() -> None:
    from scipy.stats import spearmanr

    pairs = [(1.0, 3.0), (2.0, 1.0), (2.0, 0.5), (5.0, 0.5), (9.0, -4.0), (0.0, 2.0)]
    assert spearman(pairs) == pytest.approx(spearmanr(*zip(*pairs, strict=True)).statistic)
    assert spearman([(1.0, 2.0), (2.0, 2.0)]) == 0.0
    mean, low, high = spearman_interval([(x, -x) for x in range(30)], 0)
    assert (mean, low, high) == pytest.approx((-1.0, -1.0, -1.0))


def test_ends_of_a_blend_are_the_adapters_themselves(few: TextToLora) -> None:
    texts = ["Add seven.", "Give the last word."]
    blended = studies_probes._blended(few, texts, [0.0, 0.5, 1.0])
    plain = few.hypernetwork(few.encoder.encode(texts))
    for key, b_NLOR in plain.b.items():
        torch.testing.assert_close(blended.b[key][[0, 2]], b_NLOR)
        assert not torch.equal(blended.b[key][1], blended.b[key][0])


def test_how_well_values_tell_two_groups_apart() -> None:
    assert studies_guidance.auroc([3.0, 2.0], [1.0]) == 1.0
    assert studies_guidance.auroc([1.0], [1.0]) == 0.5
    assert studies_guidance.auroc([1.0, 4.0], [2.0, 3.0]) == 0.5


def test_the_calibration_error_is_that_of_groups_by_prediction() -> None:
    exact = [(0.1, 0.0), (0.1, 0.2), (0.5, 0.4), (0.5, 0.6)]
    assert studies_guidance.calibration_error(exact, bins=2) == pytest.approx(0)
    assert studies_guidance.calibration_error([(0.5, 0.2)] * 4, bins=2) == pytest.approx(0.3)


def test_steps_to_a_goal_lie_between_two_looks() -> None:
    assert studies_examples.steps_to([0, 4, 8], [0.0, 0.5, 0.9], 0.7) == pytest.approx(6)
    assert studies_examples.steps_to([0, 4], [0.8, 0.9], 0.7) == 0
    assert studies_examples.steps_to([0, 4], [0.1, 0.2], 0.7) is None


def test_the_ratio_of_steps_is_that_to_the_same_accuracy() -> None:
    fresh = {0: [0.0, 0.0], 8: [0.5, 0.5], 16: [0.8, 0.8]}
    quick = {0: [0.0, 0.0], 8: [0.8, 0.8], 16: [0.9, 0.7]}
    assert studies_examples.step_ratio(quick, fresh, 1.0, [0, 1]) == pytest.approx(0.5)
    assert studies_examples.step_ratio(quick, fresh, 0.5, [0, 1]) == pytest.approx(4 / 6.4, abs=1e-4)
    assert studies_examples.step_ratio({0: [0.0], 8: [0.1], 16: [0.2]}, fresh, 1.0, [0]) == studies_examples.NEVER


def test_parts_that_lie_there_are_not_computed_again(tmp_path: Path) -> None:
    ran: list[str] = []

    def part(name: str, **settings: int) -> Any:
        return studies_examples._Part(settings, lambda: ran.append(name) or [0.5])

    def stop() -> list[float]:
        raise KeyboardInterrupt

    def computed(**parts: Any) -> dict[str, Any]:
        return studies_examples._computed(parts, tmp_path, {"seed": 0}, lambda line: None)

    with pytest.raises(KeyboardInterrupt):
        computed(one=part("one"), two=studies_examples._Part({}, stop))
    found = computed(one=part("one"), two=part("two"))
    assert found == {"one": [0.5], "two": [0.5]} and ran == ["one", "two"]
    with pytest.raises(T2LError, match="other settings"):
        computed(one=part("one", steps=3))
