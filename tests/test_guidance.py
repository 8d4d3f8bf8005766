"""Confidence in descriptions: spaces of training tasks, the small model, what is kept, and the fallback policies."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import fill, untrained
from lab.world.wording import control_descriptions
from t2l.encoders import DescriptionEncoder, MiniLmEncoder
from t2l.encoders.description import prepare
from t2l.errors import CheckpointError, DescriptionError, T2LError
from t2l.guidance import calibration as calibrate_module
from t2l.guidance.calibration import (
    CONTROLS,
    JSON_FILE,
    TENSOR_FILE,
    Calibration,
    Example,
    GuidedTask,
    Scale,
    _isotonic,
    calibrate,
    clearest,
    control_texts,
    fit_scale,
    read,
)
from t2l.guidance.familiarity import SIGNALS, Span, TaskSpace, restored, stored, vectors
from t2l.guidance.guide import (
    Confidence,
    Guide,
    Neighbour,
    blend_strength,
    check_policy,
    explain_uncalibrated,
    guided,
    is_calibrated,
)
from t2l.guidance.wording import findings
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec, LoraWeights, ModuleGroup
from t2l.model import TextToLora
from t2l.serving.adapter_store import AdapterStore
from t2l.serving.maker import AdapterMaker

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


def tasks() -> list[GuidedTask]:
    known = [GuidedTask(name, tuple(texts)) for name, texts in TRAINING.items()]
    return known + [
        GuidedTask(f"task-{row}", (text,), examples=tuple((f"{row} {i}", ("right",)) for i in range(3)))
        for row, text in enumerate(NEAR)
    ]


def score(weights: LoraWeights | None, asked: Sequence[tuple[int, Example]]) -> list[float]:
    """Adapters of the first descriptions, which are the tasks', are right; the base never is."""
    return [float(weights is not None and row < len(NEAR)) for row, _ in asked]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated") / "checkpoint"
    t2l = untrained(SPEC, MiniLmEncoder("mean"), std=0.2)
    t2l.save_pretrained(folder)
    t2l = TextToLora.from_pretrained(folder)
    calibrate(t2l, tasks(), score).save(folder)
    return folder


@pytest.fixture
def guide(made: Path) -> Guide:
    return Guide.of(TextToLora.from_pretrained(made))


def spread_tasks(tasks: int, count: int) -> Tensor:
    """Tasks that differ in x and in y, and descriptions of each that differ much in y and little elsewhere."""
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(tasks, 1, 3, generator=generator) * torch.tensor([3.0, 3.0, 0.1])
    return own + torch.randn(tasks, count, 3, generator=generator) * torch.tensor([0.5, 4.0, 0.5])


def test_distances_are_those_of_mahalanobis_within_tasks() -> None:
    rows_MDW = spread_tasks(60, 40)
    space = TaskSpace.of(rows_MDW, axes=3, places=3)
    mean_MW = rows_MDW.mean(dim=1)
    within = (rows_MDW - mean_MW[:, None]).flatten(0, 1).double()
    within_WW = within.T @ within / (len(within) - len(rows_MDW))
    total = rows_MDW.flatten(0, 1).var(dim=0).mean().double()
    ridge = 0.1 * within_WW.diagonal().mean() + 0.01 * total
    inverse_WW = torch.linalg.inv(within_WW + ridge * torch.eye(3))
    point_NW = torch.tensor([[1.0, 2.0, 0.0], [1.0, -6.0, 0.5]])
    gap_NMW = (point_NW[:, None] - mean_MW).double()
    wanted = (torch.einsum("nmw,wv,nmv->nm", gap_NMW, inverse_WW, gap_NMW) / 3).sqrt()
    torch.testing.assert_close(space.distances(point_NW).double(), wanted, atol=0.03, rtol=0.03)


def test_what_differs_between_wordings_counts_less_than_what_differs_between_tasks() -> None:
    rows_MDW = spread_tasks(60, 40)
    space = TaskSpace.of(rows_MDW, axes=3, places=1)
    task_W = rows_MDW[7].mean(dim=0)
    reworded, other = task_W + torch.tensor([0.0, 3.0, 0.0]), task_W + torch.tensor([3.0, 0.0, 0.0])
    near, far = space.distances(torch.stack([reworded, other]))[:, 7].tolist()
    assert far > 2 * near


def test_what_lies_off_the_axes_is_novel() -> None:
    generator = torch.Generator().manual_seed(0)
    rows_NW = torch.randn(200, 6, generator=generator) * torch.tensor([1.0, 1.0, 1.0, 0.1, 0.1, 0.1])
    span = Span.of(rows_NW, axes=3)
    within, off = torch.tensor([[2.0, 1.0, 1.0, 0.1, 0.0, 0.1]]), torch.tensor([[0.0, 0.0, 0.0, 2.0, 0.0, 0.0]])
    assert float(span.novelty(off)) > 5 * float(span.novelty(within))
    assert float(span.novelty(rows_NW).square().mean().sqrt()) == pytest.approx(1, abs=0.05)


def test_what_is_stored_of_a_space_is_the_same() -> None:
    rows_MDW = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(0))
    point = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    space, span = TaskSpace.of(rows_MDW, axes=4, places=3), Span.of(rows_MDW.flatten(0, 1), axes=4)
    kept = {**stored(space, "x"), **stored(span, "y")}
    again = restored(TaskSpace, kept, "x")
    for measured in ("distances", "similarities"):
        torch.testing.assert_close(getattr(again, measured)(point), getattr(space, measured)(point))
    torch.testing.assert_close(restored(Span, kept, "y").novelty(point), span.novelty(point))
    assert kept["x.axis_WK"].dtype == kept["x.place_MJ"].dtype == kept["y.axis_WK"].dtype == torch.int8
    for name, bad in (
        ("x.axis_WK.scale", torch.ones(3)),
        ("x.turn_KK", torch.ones(3, 3)),
        ("x.mean_W", torch.full((6,), torch.nan)),
    ):
        with pytest.raises(CheckpointError, match="do not fit"):
            restored(TaskSpace, {**kept, name: bad}, "x")
    with pytest.raises(CheckpointError, match="do not fit"):
        restored(Span, {**kept, "y.residual": torch.ones(2)}, "y")
    with pytest.raises(CheckpointError, match="lacks"):
        restored(TaskSpace, {}, "x")


def test_the_small_model_separates_and_its_gain_never_falls() -> None:
    generator = torch.Generator().manual_seed(0)
    is_task = [True] * 60 + [False] * 40
    signal_NF = torch.randn(100, len(SIGNALS), generator=generator)
    signal_NF[:60, 0] -= 2
    scale = fit_scale(signal_NF, is_task, [0.4 * one for one in is_task])
    value_N = scale.confidence(signal_NF)
    assert float(value_N[:60].mean()) > 0.7
    assert float(value_N[60:].mean()) < 0.3
    assert scale.weight[0] < 0
    assert list(scale.gain) == sorted(scale.gain)
    assert list(scale.score) == sorted(scale.score)
    assert scale.expected_gain(0.0) == scale.gain[0]
    assert scale.expected_gain(1.0) == scale.gain[-1]
    assert scale.gain[0] < scale.expected_gain(0.5) < scale.gain[-1]


def test_the_fit_is_the_minimum_of_the_penalised_loss() -> None:
    generator = torch.Generator().manual_seed(1)
    signal_NF = torch.randn(40, len(SIGNALS), generator=generator)
    trusted = (torch.randn(40, generator=generator) - signal_NF.sum(dim=1) > 0).tolist()
    scale = fit_scale(signal_NF, trusted, [0.0] * 40)
    assert max(scale.weight) < 0  # else the minimum is another one
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
    is_task = [True] * 50 + [False] * 50
    signal_NF = torch.randn(100, len(SIGNALS), generator=generator)
    signal_NF[:50, 1] += 2  # farther, and trusted more: not believed
    signal_NF[:50, 0] -= 1
    scale = fit_scale(signal_NF, is_task, [0.0] * 100)
    assert scale.weight[1] == 0
    assert scale.weight[0] < 0


def test_the_expected_gain_is_that_of_an_even_mixture_however_many_of_each_kind_there_are() -> None:
    signal_NF = torch.zeros(90, len(SIGNALS))  # nothing tells them apart
    scale = fit_scale(signal_NF, [True] * 60 + [False] * 30, [0.3] * 60 + [-0.06] * 30)
    assert scale.gain == (pytest.approx((0.3 - 0.06) / 2),)


def test_groups_whose_gain_falls_are_joined() -> None:
    signal_NF = torch.linspace(3, -3, 16)[:, None].expand(16, len(SIGNALS))
    gain = [0.0, 0.0, 0.4, 0.4, 0.2, 0.2, *[0.5] * 10]  # in eight groups of two, from the least trusted
    scale = fit_scale(signal_NF, [False] * 8 + [True] * 8, gain)
    assert scale.gain == pytest.approx((0.0, 0.3, 0.5), abs=1e-6)


def test_one_kind_alone_cannot_be_fitted() -> None:
    with pytest.raises(T2LError, match="both kinds"):
        fit_scale(torch.zeros(3, len(SIGNALS)), [True] * 3, [0.0] * 3)


def test_descriptions_of_tasks_are_trusted_more_than_senseless_ones(guide: Guide) -> None:
    known, junk, foreign = guide.assess(["Give the last word.", "zzz %%% ###", "Write a poem about the sea."])
    assert known.value > 0.5 > junk.value
    assert known.value > foreign.value
    assert known.expected_gain > junk.expected_gain
    assert known.nearest[0].task in TRAINING
    assert 1 <= len(known.to_dict()["nearest"]) <= 8  # however many training tasks there are
    assert known.nearest[0].similarity == max(neighbour.similarity for neighbour in known.nearest)
    assert tuple(known.signals) == SIGNALS
    assert known.in_words().endswith("points over the base alone")
    assert "low, the adapter may be no help" in junk.in_words()
    assert known.nearest[0].description in known.known()
    assert json.loads(json.dumps(known.to_dict()))["nearest"][0]["similarity"] <= 1.0001
    assert known.warning("Give the last word.") is None
    assert "Low confidence" in (junk.warning("zzz") or "")


def test_an_assessment_does_not_depend_on_what_stands_beside_it(guide: Guide) -> None:
    texts = ["Give the last word.", "Sing.", "Reverse the word, please."]
    together = guide.assess(texts)
    for text, one in zip(texts, together, strict=True):
        assert guide.assess([text]) == [one]
    assert guide.assess([]) == []


def test_a_calibration_is_read_back_and_refused_where_it_does_not_belong(made: Path, tmp_path: Path) -> None:
    t2l = TextToLora.from_pretrained(made)
    own = {"checkpoint": t2l.digest, "encoder": t2l.encoder.identity}
    found = Calibration.load(made, **own)
    assert found.known.names == tuple(TRAINING)
    assert found.facts["validation_tasks"] == len(NEAR)
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


def test_a_calibration_of_an_earlier_format_names_the_command(made: Path, tmp_path: Path) -> None:
    t2l = TextToLora.from_pretrained(made)
    value = {**json.loads((made / JSON_FILE).read_text()), "format": 2}
    (tmp_path / JSON_FILE).write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match="not a calibration that this version reads") as caught:
        Calibration.load(tmp_path, checkpoint=t2l.digest, encoder=t2l.encoder.identity)
    assert "t2l calibrate" in str(caught.value.fix)


def test_a_task_is_shown_by_a_short_description_of_the_usual_kind() -> None:
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.05], [0.0, 1.0]])
    texts = ["The last word is wanted.", "Give the last word.", "Please give the last word.", "Odd."]
    assert clearest(texts, rows) == "Give the last word."  # the shortest one is not like the others
    assert clearest(["Alone."], rows[:1]) == "Alone."


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
        Calibration.load(tmp_path, checkpoint=t2l.digest, encoder=t2l.encoder.identity)


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
        calibrate(t2l, tasks()[:-1], score)
    with pytest.raises(T2LError, match="bare"):
        calibrate(t2l, [*tasks(), GuidedTask("bare", ())], score)


def test_tasks_keep_as_many_descriptions_as_each_has_and_a_label_is_shown(made: Path) -> None:
    t2l = TextToLora.from_pretrained(made)
    known = calibrate(t2l, [*tasks(), GuidedTask("odd", ("One alone.",), "an odd one")], score).known
    assert known.descriptions[-1] == "an odd one"
    assert known.descriptions[0] == TRAINING["last"][0]


def test_gains_are_paired_with_the_base(made: Path) -> None:
    alone = {("a", ("x",)): 1.0, ("b", ("x",)): 0.25}
    asked = [(row, example) for row in range(2) for example in alone]
    gains = calibrate_module._gains(
        TextToLora.from_pretrained(made), NEAR[:2], asked, alone, lambda _, rows: [1.0 - row for row, _ in rows]
    )
    assert gains == [(0.0 + 0.75) / 2, (-1.0 - 0.25) / 2]


def test_the_controls_are_not_those_of_the_evaluation() -> None:
    texts = {text.lower() for kind in CONTROLS for text in control_texts(kind)}
    assert len(texts) > 80
    assert not texts & {text.lower() for kind in ("vague", "junk") for text in control_descriptions(kind)}


class Words(DescriptionEncoder):
    """Token states without weights: each of the first 12 words is a vector drawn by its letters."""

    identity = "words"  # pyright: ignore[reportAssignmentType]
    dim = 12 * 16  # pyright: ignore[reportAssignmentType]
    token_dim = 16

    def embed(self, texts: Sequence[str]) -> Tensor:
        state_NTW = torch.zeros(len(texts), 12, 16)
        for row, text in enumerate(texts):
            for place, word in enumerate(text.lower().split()[:12]):
                generator = torch.Generator().manual_seed(zlib.crc32(word.encode()))
                state_NTW[row, place] = torch.randn(16, generator=generator)
        return state_NTW.flatten(1)

    def to_config(self) -> dict[str, Any]:
        return {"kind": "words"}

    @classmethod
    def from_config(cls, config: Any, *, device: str, trust_remote_code: bool) -> Words:
        return cls()


def test_a_checkpoint_that_reads_token_states_is_calibrated(tmp_path: Path) -> None:
    network = HyperNetwork(SPEC, 192, trunk_dim=8, head_dim=8, head_init="linear", task_encoder="tokens", token_dim=16)
    t2l = TextToLora(Words(), fill(network, std=0.2))  # pyright: ignore[reportArgumentType]
    calibrate(t2l, tasks(), score).save(tmp_path)
    kept = Calibration.load(tmp_path, checkpoint=t2l.digest, encoder="words")
    assert len(kept.known.span.mean_W) == 16  # one vector a text, whatever its length
    guide = Guide(t2l, kept)
    known, junk = guide.assess(["Give the last word.", "zzz %%% ###"])
    assert known.value > junk.value
    assert known.signals["task_distance"] < junk.signals["task_distance"]
    assert all(math.isfinite(value) for value in (*known.signals.values(), *junk.signals.values()))
    texts = ["Give the last word.", "Sing " * 12, "Sing."]  # in batches of like length, padding changes nothing
    for many, own in zip(
        read(t2l, texts), zip(*(vectors(t2l, t2l.encoder.encode([text])) for text in texts), strict=True), strict=True
    ):
        torch.testing.assert_close(many, torch.cat(own))


def test_variant_t_is_calibrated_by_standardised_states_and_the_mean_over_its_sites() -> None:
    network = HyperNetwork(SPEC, 192, "T", trunk_dim=64, head_dim=8, task_encoder="tokens", token_dim=16)
    reader: Any = network.task_encoder
    reader.mean_W.fill_(0.5)
    reader.std_W.fill_(2.0)
    t2l = TextToLora(Words(), network)
    text = "Give the last word."
    embedding_1E = t2l.encoder.encode([text])
    vector_1W, feature_1W = vectors(t2l, embedding_1E)
    state_TW = embedding_1E.unflatten(1, (-1, 16))[0, :4]
    torch.testing.assert_close(vector_1W[0], ((state_TW - 0.5) / 2).mean(dim=0))
    site_SD = network.encode(embedding_1E)[0].unflatten(0, (4, 64))
    torch.testing.assert_close(feature_1W[0], site_SD.mean(dim=0))


# --- policies -------------------------------------------------------------------------------------------------------

JUNK = "zzz %%% ###"


def test_a_trusted_description_is_left_alone_by_every_policy(guide: Guide) -> None:
    (plain,) = guide.t2l.generate(["Give the last word."])
    for policy in ("warn", "none", "blend"):
        (found,) = guided(guide, ["Give the last word."], policy)
        assert found.adapter is not None
        assert found.adapter.digest == plain.digest
        assert found.action == "generated"
        assert found.warning is None


def test_each_policy_does_what_it_says(guide: Guide) -> None:
    (plain,) = guide.t2l.generate([JUNK])
    found = {policy: guided(guide, [JUNK], policy)[0] for policy in ("warn", "none", "blend")}
    assert all(one.warning for one in found.values())
    assert found["none"].adapter is None
    warn, blend = (found[name].adapter for name in ("warn", "blend"))
    assert warn is not None
    assert blend is not None
    assert warn.digest == plain.digest
    strength = blend_strength(guide.calibration.scale.share_of_best(found["blend"].confidence.value))
    assert strength < 1
    torch.testing.assert_close(blend.weights.b["q_proj"], strength * plain.weights.b["q_proj"])
    assert blend.provenance["fallback"]["policy"] == "blend"


def test_the_blend_fades_by_the_expected_gain() -> None:
    assert [blend_strength(share) for share in (-0.5, 0.0, 0.1, 0.2, 1.0)] == [0.0, 0.0, 0.0, 1.0, 1.0]
    assert blend_strength(0.15) == pytest.approx(0.5)
    scale = Scale((0.0,), (1.0,), (1.0,), 0.0, (0.2, 0.6), (-0.1, 0.4))
    assert [scale.share_of_best(value) for value in (0.0, 0.4, 1.0)] == pytest.approx([-0.25, 0.375, 1.0])
    useless = Scale((0.0,), (1.0,), (1.0,), 0.0, (0.2, 0.6), (-0.1, 0.0))
    assert useless.share_of_best(1.0) == 0.0  # where nothing promises a gain, the base is kept


def test_policies_are_refused_before_any_work() -> None:
    with pytest.raises(T2LError, match="Did you mean 'blend'"):
        check_policy("blen", 0.5)
    with pytest.raises(T2LError, match="threshold"):
        check_policy("warn", 1.5)
    with pytest.raises(T2LError, match="threshold"):
        check_policy("warn", math.nan)


def test_a_description_that_cannot_be_encoded_is_an_error_here_too(guide: Guide) -> None:
    with pytest.raises(DescriptionError):
        guided(guide, ["  "])


# --- explanations ---------------------------------------------------------------------------------------------------


def test_an_explanation_says_what_it_found(guide: Guide) -> None:
    found = guide.explain("last word, do not give anything else")
    assert "negation" in [finding.kind for finding in found.findings]
    assert found.confidence is not None
    json.dumps(found.to_dict())


@pytest.mark.parametrize(
    ("description", "value", "near", "expected"),
    [
        ("name city", 0.1, "Find the name of the city.", "Find the name of the city."),
        ("Find the name of the city.", 0.95, "Find the name of the big city.", None),  # it is trusted already
        ("Find the name of the city.", 0.1, "Find the name of the company.", None),  # another task
        ("the", 0.1, "Find the name of the city.", None),  # says nothing that could be kept
        ("name city", 0.1, "Never find the name of the city.", None),  # trusted less still
    ],
)
def test_a_rewrite_says_the_same_and_is_trusted_more(
    guide: Guide, description: str, value: float, near: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It once offered the company's name to one who asked for the city's, at a confidence of 0.95."""
    trusted = {near: 0.05 if "Never" in near else 0.99}
    monkeypatch.setattr(Guide, "assess", lambda self, texts: [Confidence(trusted[text], 0.2, {}, ()) for text in texts])
    found = guide.rewrite(description, Confidence(value, 0.1, {}, (Neighbour("task", near, 0.9),)))
    assert found == (None if expected is None else (expected, 0.99))


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


def test_a_scale_is_read_between_its_steps() -> None:
    scale = Scale((0.0,), (1.0,), (1.0,), 0.0, (0.2, 0.6), (0.0, 0.4))
    assert scale.expected_gain(0.4) == pytest.approx(0.2)
    assert scale.expected_gain(0.1) == 0.0
    assert scale.expected_gain(0.9) == 0.4


def test_expected_gains_never_fall_as_the_score_rises() -> None:
    """Isotonic regression by its min-max formula: the largest, over what begins before, of the least mean behind."""
    score = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    gain = [0.0, 0.5, 0.2, 0.1, 0.6, 0.9, 0.7, 0.7]

    def mean(first: int, last: int) -> float:
        return sum(gain[first : last + 1]) / (last + 1 - first)

    fitted = [max(min(mean(j, k) for k in range(i, 8)) for j in range(i + 1)) for i in range(8)]
    scores, gains = _isotonic(score, gain, [1.0] * 8)
    assert list(gains) == sorted({round(value, 6) for value in fitted}) and len(gains) < 8
    assert len(scores) == len(gains) and list(scores) == sorted(scores)


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
