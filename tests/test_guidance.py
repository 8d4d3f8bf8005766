"""Confidence in descriptions: spaces of training tasks, the small model, what is kept, and the fallback policies."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from helpers import fill, random_weights
from t2l.encoders import MiniLmEncoder
from t2l.encoders.description import prepare
from t2l.errors import CheckpointError, DescriptionError, T2LError
from t2l.guidance import calibrate as calibrate_module
from t2l.guidance import calibration as calibration_module
from t2l.guidance.calibrate import CONTROLS, Example, ValidationTask, calibrate, control_texts
from t2l.guidance.calibration import JSON_FILE, TENSOR_FILE, Calibration, Scale, fit_scale
from t2l.guidance.ensemble import ensemble, ensemble_embeddings
from t2l.guidance.fallback import blend_strength, check_policy, guided
from t2l.guidance.familiarity import TaskSpace
from t2l.guidance.guide import Guide, explain_uncalibrated, is_calibrated
from t2l.guidance.signals import SIGNALS, rewording_spread
from t2l.guidance.wording import findings, paraphrases
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec, LoraWeights, ModuleGroup
from t2l.model import TextToLora
from t2l.serving.adapter_store import AdapterStore
from t2l.serving.maker import AdapterMaker
from t2l.world.wording import control_descriptions

SPEC = LoraSpec((ModuleGroup("q_proj", "model.layers.{layer}.self_attn.q_proj", (0, 1), 8, 8),), 2, rank=2)
TRAINING = {
    "last": ["Give the last word.", "Return the final word of the line.", "Answer with the last word."],
    "first": ["Give the first word.", "Return the first word of the line.", "Answer with the first word."],
    "upper": ["Write the text in capital letters.", "Put the text in upper case.", "Capitalize every letter."],
    "reverse": ["Reverse the word.", "Write the word backwards.", "Spell the word from its end."],
    "count": ["Count the words.", "Say how many words there are.", "Give the number of words."],
    "double": ["Double the number.", "Multiply the number by two.", "Give twice the number."],
}
NEAR = (
    "Give the second word.",
    "Return the third word of the line.",
    "Write the word in lower case.",
    "Triple the number.",
)


def tasks() -> list[ValidationTask]:
    return [
        ValidationTask(f"task-{row}", (text,), tuple((f"{row} {i}", "right") for i in range(3)))
        for row, text in enumerate(NEAR)
    ]


def score(weights: LoraWeights | None, asked: Sequence[tuple[int, Example]]) -> list[bool]:
    """Adapters of the first descriptions, which are the tasks', are right; the base never is."""
    return [weights is not None and row < len(NEAR) for row, _ in asked]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated") / "checkpoint"
    network = HyperNetwork(SPEC, 384, trunk_dim=8, head_dim=8, head_init="linear")
    fill(network, std=0.2)
    t2l = TextToLora(MiniLmEncoder("mean"), network)
    t2l.save_pretrained(folder)
    t2l = TextToLora.from_pretrained(folder)
    calibrate(t2l, TRAINING, tasks(), score, static=random_weights(SPEC, seed=3)).save(folder)
    return folder


@pytest.fixture
def guide(made: Path) -> Guide:
    return Guide.of(TextToLora.from_pretrained(made))


def test_a_space_gives_mahalanobis_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([3.0, 1.0, 0.2])
    rows_MDW = torch.randn(60, 40, 3, generator=generator) * spread + torch.tensor([1.0, 2.0, 3.0])
    space = TaskSpace.of(rows_MDW, axes=3)
    point = rows_MDW.flatten(0, 1).mean(dim=0) + torch.tensor([3.0, 0.0, 0.0])
    ridge = 0.05 * (9 + 1 + 0.04) / 3
    assert float(space.places(point[None]).norm()) == pytest.approx(3 / math.sqrt(9 + ridge), rel=0.03)
    nearest = space.distances(rows_MDW[7].mean(dim=0, keepdim=True))[0]
    assert int(nearest.argmin()) == 7
    assert float(nearest.min()) == pytest.approx(0, abs=1e-3)


def test_what_lies_off_the_axes_is_strange() -> None:
    generator = torch.Generator().manual_seed(0)
    rows_MDW = torch.randn(20, 10, 6, generator=generator) * torch.tensor([1.0, 1.0, 1.0, 0.1, 0.1, 0.1])
    space = TaskSpace.of(rows_MDW, axes=3)
    within, off = torch.tensor([[2.0, 1.0, 1.0, 0.1, 0.0, 0.1]]), torch.tensor([[0.0, 0.0, 0.0, 2.0, 0.0, 0.0]])
    assert float(space.strangeness(off)) > 5 * float(space.strangeness(within))
    usual = space.strangeness(rows_MDW.flatten(0, 1)).square().mean().sqrt()
    assert float(usual) == pytest.approx(1, abs=0.01)


def test_a_stored_space_is_the_same_but_for_rounding() -> None:
    rows_MDW = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(0))
    space = TaskSpace.of(rows_MDW, axes=4)
    again = TaskSpace.from_tensors(space.tensors("x"), "x")
    point = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(again.distances(point), space.distances(point), atol=5e-3, rtol=5e-3)
    broken = {**space.tensors("x"), "x.scale_K": torch.ones(3)}
    with pytest.raises(CheckpointError, match="do not fit"):
        TaskSpace.from_tensors(broken, "x")
    with pytest.raises(CheckpointError, match="lacks"):
        TaskSpace.from_tensors({}, "x")


def test_the_small_model_separates_and_its_gain_never_falls() -> None:
    generator = torch.Generator().manual_seed(0)
    trusted = [True] * 60 + [False] * 40
    signal_NF = torch.randn(100, len(SIGNALS), generator=generator)
    signal_NF[:60, 0] -= 2
    gain = [0.4 if kind else 0.0 for kind in trusted]
    scale = fit_scale(signal_NF, trusted, gain)
    value_N = scale.confidence(signal_NF)
    assert float(value_N[:60].mean()) > 0.7
    assert float(value_N[60:].mean()) < 0.3
    assert scale.weight[0] < 0
    assert list(scale.gain) == sorted(scale.gain)
    assert list(scale.score) == sorted(scale.score)
    assert scale.expected_gain(0.0) == scale.gain[0]
    assert scale.expected_gain(1.0) == scale.gain[-1]
    assert scale.gain[0] < scale.expected_gain(0.5) < scale.gain[-1]


def test_the_fit_is_the_minimum_of_the_penalised_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    signal_NF = torch.randn(40, len(SIGNALS), generator=generator)
    trusted = (signal_NF[:, 1] + torch.randn(40, generator=generator) > 0).tolist()
    monkeypatch.setattr(calibration_module, "SIGNALS", dict.fromkeys(SIGNALS, 0))  # either direction
    scale = fit_scale(signal_NF, trusted, [0.0] * 40)
    label = torch.tensor(trusted, dtype=torch.float64)
    share = torch.where(label > 0, 0.5 / label.sum(), 0.5 / (1 - label).sum())
    standard = (signal_NF.double() - torch.tensor(scale.mean).double()) / torch.tensor(scale.spread).double()
    weight = torch.tensor(scale.weight, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(scale.bias, dtype=torch.float64, requires_grad=True)
    each = torch.nn.functional.binary_cross_entropy_with_logits(standard @ weight + bias, label, reduction="none")
    loss = (share * each).sum() + 0.01 * weight.square().sum() + 1e-6 * bias.square()
    slope_w, slope_b = torch.autograd.grad(loss, [weight, bias])
    assert float(slope_w.abs().max()) < 1e-6
    assert abs(float(slope_b)) < 1e-6


def test_a_signal_that_speaks_in_the_wrong_direction_is_left_out() -> None:
    generator = torch.Generator().manual_seed(2)
    trusted = [True] * 50 + [False] * 50
    signal_NF = torch.randn(100, len(SIGNALS), generator=generator)
    signal_NF[:50, 1] += 2  # farther, and trusted more: not believed
    signal_NF[:50, 0] -= 1
    scale = fit_scale(signal_NF, trusted, [0.0] * 100)
    assert scale.weight[1] == 0
    assert scale.weight[0] < 0
    assert all(weight * sign >= 0 for weight, sign in zip(scale.weight, SIGNALS.values(), strict=True))


def test_one_kind_alone_cannot_be_fitted() -> None:
    with pytest.raises(T2LError, match="both kinds"):
        fit_scale(torch.zeros(3, len(SIGNALS)), [True] * 3, [0.0] * 3)


def test_descriptions_of_tasks_are_trusted_more_than_senseless_ones(guide: Guide) -> None:
    known, junk, foreign = guide.assess(["Give the last word.", "zzz %%% ###", "Write a poem about the sea."])
    assert known.value > 0.5 > junk.value
    assert known.value > foreign.value
    assert known.expected_gain > junk.expected_gain
    assert known.nearest[0].task in TRAINING
    assert known.nearest[0].similarity == max(neighbour.similarity for neighbour in known.nearest)
    assert set(known.signals) == set(SIGNALS)
    assert json.loads(json.dumps(known.to_dict()))["nearest"][0]["similarity"] <= 1.0001
    assert known.warning("Give the last word.") is None
    assert "Low confidence" in (junk.warning("zzz") or "")


def test_an_assessment_does_not_depend_on_what_stands_beside_it(guide: Guide) -> None:
    texts = ["Give the last word.", "Sing.", "Reverse the word, please."]
    together = guide.assess(texts)
    for text, one in zip(texts, together, strict=True):
        assert guide.assess([text])[0].value == pytest.approx(one.value, abs=1e-4)
    adapters = guide.t2l.generate(texts)
    assert [c.value for c in guide.assess(texts, adapters)] == pytest.approx([c.value for c in together], abs=1e-6)
    assert guide.assess([]) == []


def test_a_calibration_is_read_back_and_refused_where_it_does_not_belong(made: Path, tmp_path: Path) -> None:
    t2l = TextToLora.from_pretrained(made)
    own = {"checkpoint": t2l.digest, "encoder": t2l.encoder.identity, "spec": t2l.spec}
    found = Calibration.load(made, **own)
    assert found.known.names == tuple(TRAINING)
    assert found.static is not None
    assert found.facts["validation_tasks"] == [f"task-{row}" for row in range(len(NEAR))]
    assert found.facts["mean_gain"] == 1.0
    assert found.facts["mean_gain_of_controls"] == 0.0
    with pytest.raises(CheckpointError, match="another checkpoint"):
        Calibration.load(made, **{**own, "checkpoint": "other"})
    for file, damage in ((JSON_FILE, b"{"), (JSON_FILE, b"{}"), (TENSOR_FILE, b"x"), (TENSOR_FILE, None)):
        folder = tmp_path / f"{file}-{damage}"
        folder.mkdir()
        for name in (JSON_FILE, TENSOR_FILE):
            (folder / name).write_bytes((made / name).read_bytes())
        (folder / file).unlink()
        if damage is not None:
            (folder / file).write_bytes(damage)
        with pytest.raises(CheckpointError):
            Calibration.load(folder, **own)


@pytest.mark.parametrize("change", ["bias", "gain", "mean", "tasks"])
def test_a_calibration_with_numbers_that_do_not_fit_is_refused(change: str, made: Path, tmp_path: Path) -> None:
    t2l = TextToLora.from_pretrained(made)
    value = json.loads((made / JSON_FILE).read_text())
    if change == "tasks":
        value["tasks"] = value["tasks"][1:]
    else:
        value["scale"][change] = "x" if change == "bias" else [1.0] * 99
    (tmp_path / JSON_FILE).write_text(json.dumps(value))
    (tmp_path / TENSOR_FILE).write_bytes((made / TENSOR_FILE).read_bytes())
    with pytest.raises(CheckpointError, match="Calibrate again"):
        Calibration.load(tmp_path, checkpoint=t2l.digest, encoder=t2l.encoder.identity, spec=t2l.spec)


def test_without_a_calibration_the_command_is_named(made: Path) -> None:
    t2l = TextToLora.from_pretrained(made)
    t2l.folder = None
    assert not is_calibrated(t2l)
    with pytest.raises(CheckpointError, match="t2l calibrate"):
        Guide.of(t2l)
    found = explain_uncalibrated(t2l, "Do the task.")
    assert found.confidence is None
    assert "t2l calibrate" in (found.note or "")
    assert found.findings


def test_too_few_tasks_are_refused(made: Path) -> None:
    t2l = TextToLora.from_pretrained(made)
    with pytest.raises(T2LError, match="at least"):
        calibrate(t2l, TRAINING, tasks()[:2], score)
    with pytest.raises(T2LError, match="as many"):
        calibrate(t2l, {**TRAINING, "odd": ["One alone."]}, tasks(), score)
    bare = ValidationTask("bare", (), (("a", "b"),))
    with pytest.raises(T2LError, match="bare"):
        calibrate(t2l, TRAINING, [*tasks(), bare], score)


def test_gains_are_paired_with_the_base() -> None:
    alone = {("a", "x"): True, ("b", "x"): False}
    asked = [(0, ("a", "x")), (0, ("b", "x")), (1, ("a", "x")), (1, ("b", "x"))]
    assert calibrate_module._gains(asked, [True, True, False, False], alone, 2) == [0.5, -0.5]


def test_the_controls_are_not_those_of_the_evaluation() -> None:
    texts = {text.lower() for kind in CONTROLS for text in control_texts(kind)}
    assert len(texts) > 100
    assert not texts & {text.lower() for kind in ("vague", "junk") for text in control_descriptions(kind)}


# --- policies -------------------------------------------------------------------------------------------------------

JUNK = "zzz %%% ###"


def test_a_trusted_description_is_left_alone_by_every_policy(guide: Guide) -> None:
    (plain,) = guide.t2l.generate(["Give the last word."])
    for policy in ("warn", "none", "static", "nearest", "blend"):
        (found,) = guided(guide, ["Give the last word."], policy)
        assert found.adapter is not None
        assert found.adapter.digest == plain.digest
        assert found.action == "generated"
        assert found.warning is None


def test_each_policy_does_what_it_says(guide: Guide) -> None:
    (plain,) = guide.t2l.generate([JUNK])
    found = {policy: guided(guide, [JUNK], policy)[0] for policy in ("warn", "none", "static", "nearest", "blend")}
    assert all(one.warning for one in found.values())
    assert found["none"].adapter is None
    warn, static, nearest, blend = (found[name].adapter for name in ("warn", "static", "nearest", "blend"))
    assert warn is not None
    assert static is not None
    assert nearest is not None
    assert blend is not None
    assert warn.digest == plain.digest
    torch.testing.assert_close(static.weights.b["q_proj"], random_weights(SPEC, seed=3).b["q_proj"], atol=1e-3, rtol=0)
    neighbour = found["nearest"].confidence.nearest[0]
    assert nearest.digest == guide.t2l.generate([neighbour.description])[0].digest
    assert nearest.provenance["fallback"]["task"] == neighbour.task
    assert nearest.provenance["fallback"]["asked"] == JUNK
    strength = blend_strength(found["blend"].confidence.value, 0.5)
    torch.testing.assert_close(blend.weights.b["q_proj"], strength * plain.weights.b["q_proj"])
    assert blend.provenance["fallback"]["policy"] == "blend"


def test_the_blend_fades() -> None:
    assert [blend_strength(value, 0.5) for value in (0.0, 0.25, 0.375, 0.5, 1.0)] == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_policies_are_refused_before_any_work(guide: Guide) -> None:
    with pytest.raises(T2LError, match="nearest"):
        check_policy(guide, "nearst", 0.5)
    with pytest.raises(T2LError, match="threshold"):
        check_policy(guide, "warn", 1.5)
    with pytest.raises(T2LError, match="threshold"):
        check_policy(guide, "warn", math.nan)
    calibration = Calibration(**{**vars(guide.calibration), "static": None})
    with pytest.raises(CheckpointError, match="--static"):
        check_policy(Guide(guide.t2l, calibration), "static", 0.5)


def test_a_description_that_cannot_be_encoded_is_an_error_here_too(guide: Guide) -> None:
    with pytest.raises(DescriptionError):
        guided(guide, ["  "])


# --- explanations and ensembles ---------------------------------------------------------------------------------------


def test_an_explanation_offers_a_training_task_s_words(guide: Guide) -> None:
    found = guide.explain("last word, do not give anything else")
    kinds = [finding.kind for finding in found.findings]
    assert "negation" in kinds
    assert found.confidence is not None
    assert 0 <= found.rewording < 2
    if found.rewrite is not None:
        assert found.rewrite[0] in {text for texts in TRAINING.values() for text in texts}
        assert found.rewrite[1] > found.confidence.value
    json.dumps(found.to_dict())


def test_an_ensemble_is_the_mean_of_the_embeddings(guide: Guide) -> None:
    text = "Give the last word."
    encoder = guide.t2l.encoder
    mean_E = encoder.encode([text, *paraphrases(text)]).mean(dim=0)
    (row_E,) = ensemble_embeddings(guide.t2l, [text])
    torch.testing.assert_close(row_E / row_E.norm(), mean_E / mean_E.norm())
    assert float(row_E.norm()) == pytest.approx(math.sqrt(encoder.dim), rel=1e-4)
    (adapter,) = ensemble(guide.t2l, [text])
    assert adapter.provenance["ensemble"] == paraphrases(text)
    assert adapter.provenance["description"] == text
    (spread,) = rewording_spread(guide.t2l, [text])
    assert 0 < spread < 1


# --- wording ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("!!! ??? ... ###", "not-words"),
        ("qwrt zxcv bnm", "not-words"),
        ("Do the task.", "vague"),
        ("You know what to do.", "vague"),
        ("Answer correctly.", "vague"),
        ("Translate.", "too-short"),
        ("the last word of the sentence", "no-verb"),
        ("Sort the names and then count them.", "several-tasks"),
        ("Give the word, but do not give its article.", "negation"),
        ("Give the first or the last word.", "contradiction"),
        ("Say either positive or negative.", "options"),
        ("Simplify.", "no-output-form"),
    ],
)
def test_a_weakness_of_wording_is_named(text: str, kind: str) -> None:
    found = findings(text)
    assert kind in [finding.kind for finding in found]
    assert all(finding.advice for finding in found)


@pytest.mark.parametrize(
    "text",
    ["Give the last word.", "Translate the English word into French.", "Add seven to the number.", "Reverse the word."],
)
def test_a_plain_description_is_left_in_peace(text: str) -> None:
    assert findings(text) == []


def test_rewordings_are_other_texts_that_can_be_encoded() -> None:
    for text in ("Give the last word.", "é", "ALL CAPS HERE", "x" * 100, "'; DROP TABLE tasks; --"):
        made = paraphrases(text)
        assert text not in made
        assert len(set(made)) == len(made) >= 3
        assert all(one.strip() for one in made)


def test_a_scale_is_read_between_its_steps() -> None:
    scale = Scale((0.0,), (1.0,), (1.0,), 0.0, (0.2, 0.6), (0.0, 0.4))
    assert scale.expected_gain(0.4) == pytest.approx(0.2)
    assert scale.expected_gain(0.1) == 0.0
    assert scale.expected_gain(0.9) == 0.4


def test_the_server_says_how_sure_it_is_of_new_and_of_kept_adapters(guide: Guide) -> None:
    store = AdapterStore(memory=1 << 24, folder=None, disk=1 << 24, key=lambda text: prepare([text])[0])
    maker = AdapterMaker(guide.t2l, store, guide=guide)
    try:
        texts = ["Give the last word.", JUNK]
        for cached in (False, True):
            sure, unsure = maker.order(texts).result(timeout=60)
            assert sure.cached is unsure.cached is cached
            assert sure.confidence is not None
            assert unsure.confidence is not None
            assert sure.confidence.value > 0.5 > unsure.confidence.value
            assert sure.warnings == ()
            assert any("Low confidence" in warning for warning in unsure.warnings)
    finally:
        maker.stop()
