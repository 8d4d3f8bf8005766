"""Headline figures of the embedded world: paired, on near tasks, against their targets; and costs of an answer."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from t2l.bases import EMBEDDED_BASE, load_base
from t2l.encoders import MiniLmEncoder
from t2l.errors import T2LError
from t2l.evaluation.flops import counted_generation
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.model import TextToLora
from t2l.world import build as build_module
from t2l.world import commands, comparators
from t2l.world import evaluate as evaluate_module
from t2l.world.base import encode_runs
from t2l.world.costs import answer_flops, costs
from t2l.world.evaluate import CONDITIONS, Effort, Score, described_by
from t2l.world.headlines import NEAR_GROUPS, TARGETS, compared, headlines, near_groups
from t2l.world.tasks import NEAR, find_task, tasks_of


def scores_of(condition: str, right: int) -> list[Score]:
    return [Score(task.name, task.split, condition, right, 10) for task in tasks_of("unseen-operation")]


def test_a_paired_difference_is_that_of_the_means_and_knows_no_common_noise() -> None:
    pairs = [(0.9, 0.5), (0.5, 0.1), (0.7, 0.3)]  # tasks differ, the difference does not
    assert compared(pairs, "difference") == pytest.approx((40.0, 40.0, 40.0))
    mean, low, high = compared([(1.0, 0.0), (0.0, 0.0)] * 20, "difference")
    assert mean == 50.0 and low < 40 < 60 < high
    assert compared([(0.8, 1.0), (0.2, 0.25)], "share") == pytest.approx((80.0, 80.0, 80.0))
    assert compared([(0.0, 0.0)], "share")[0] == 100.0 and compared([(0.5, 0.0)], "share")[0] == float("inf")


def test_headlines_say_whether_a_target_is_reached() -> None:
    scores = [*scores_of("matched", 9), *scores_of("other-task", 1), *scores_of("oracle", 10), *scores_of("3-shot", 9)]
    scores += [Score(task.name, "train", "multi-task", 0, 10) for task in tasks_of("train")[:3]]  # not a near task
    found = {figure.name: figure for figure in headlines(scores)}
    assert list(found) == ["share-of-oracle", "minus-other-task", "minus-3-shot"]
    assert (found["share-of-oracle"].mean, found["share-of-oracle"].reached) == (pytest.approx(90.0), False)
    assert found["minus-other-task"].reached and found["minus-other-task"].target == "at least 40"
    assert not found["minus-3-shot"].reached and found["minus-3-shot"].target == "above 0"
    paraphrase = headlines([*scores_of("matched", 9), *scores_of("paraphrase", 9)])
    assert paraphrase[0].reached and paraphrase[0].target == "at most 3"
    assert len({target.name for target in TARGETS}) == len(TARGETS)


def test_near_tasks_are_pooled_and_parted_by_what_their_input_says() -> None:
    scores = [Score(task.name, task.split, "matched", 1, 2) for task in tasks_of(*NEAR, "far")]
    grouped = near_groups(scores)
    count = {group: sum(score.split == group for score in grouped) for group in NEAR_GROUPS}
    assert count["near"] == 40 == sum(count[group] for group in NEAR_GROUPS[1:])
    assert all(find_task(s.task).operation.reveals for s in grouped if s.split == NEAR_GROUPS[1])
    assert min(count.values()) > 0


def test_the_empty_description_is_a_full_stop() -> None:
    task = find_task("add-7")
    assert described_by(task, "empty", [task], 3, 0) == ["."] * 3
    assert len(MiniLmEncoder("mean").encode(["."])) == 1


def test_the_operations_of_an_answer_are_those_of_its_products() -> None:
    base = load_base(EMBEDDED_BASE).model
    run = [("red fish", "fish"), ("one two three", "three")]
    ids_1T, _ = encode_runs([run])
    with FlopCounterMode(display=False) as counter:
        base(input_ids=ids_1T[:, :-1])
    head = base.get_output_embeddings().weight.numel()
    tokens, answer = ids_1T.shape[1] - 1, len("three") + 1
    attention = 2 * base.config.hidden_size * tokens**2 * base.config.num_hidden_layers
    # the counter takes logits everywhere, and no attention where the fused kernel is unknown to it
    expected = counter.get_total_flops() - 2 * head * (tokens - answer)
    assert expected <= answer_flops(base, run) <= expected + attention


def tiny() -> TextToLora:
    spec = LoraSpec.from_base(load_base(EMBEDDED_BASE).model.config, rank=2)
    spec = LoraSpec(**{**vars(spec), "base_model": EMBEDDED_BASE})
    return TextToLora(MiniLmEncoder("mean"), HyperNetwork(spec, 384, trunk_dim=8, head_dim=8).eval())


def test_examples_in_the_prompt_cost_more_than_an_adapter() -> None:
    t2l, base = tiny(), load_base(EMBEDDED_BASE).model
    found = costs(t2l, base, [find_task("add-7")], examples=2, seed=0)
    assert found["adapter"] < found["1-shot"] < found["3-shot"] < found["5-shot"]
    words = [len(MiniLmEncoder("mean")._tokens(text)) for text in ("Add.", "Add seven to the number that you get.")]
    short, long = (counted_generation(t2l, text) for text in ("Add.", "Add seven to the number that you get."))
    assert long / short == pytest.approx(words[1] / words[0], rel=0.15)  # nearly all of it is the encoder


@pytest.fixture
def few_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (evaluate_module, commands, comparators):
        monkeypatch.setattr(module, "tasks_of", lambda *splits: [t for s in splits for t in tasks_of(s)[:2]])
    monkeypatch.setattr(evaluate_module, "QUICK", Effort(examples=1, wordings=1, train_tasks=2))
    monkeypatch.setattr(TextToLora, "from_pretrained", lambda checkpoint=None: tiny())


@pytest.mark.usefixtures("few_tasks")
def test_the_table_has_every_condition_and_says_what_was_not_measured(tmp_path: Path) -> None:
    def run(as_json: bool) -> str:
        out = Console(file=io.StringIO(), width=200)
        commands.evaluate(True, None, tmp_path, as_json, out, Console(file=io.StringIO()))
        return out.file.getvalue()  # pyright: ignore

    document = json.loads(run(as_json=True))
    assert {"near", "train", "far"} <= set(document["percent"])
    assert set(CONDITIONS) | {"description-in-prompt"} == set(document["conditions"])
    assert [figure["name"] for figure in document["headlines"]] == [
        "minus-other-task",
        "minus-paraphrase",
        "minus-3-shot",
    ]
    built_by = {
        "average": "library",
        "multi-task": "comparators",
        "hyperdecoder": "comparators",
        "oracle": "comparators",
    }
    assert document["missing"] == [
        f"Not measured: {comparators.COMPARATORS[name]}. Build it: t2l world build --stage {stage} --dir {tmp_path}"
        for name, stage in built_by.items()
    ]
    assert document["flops"]["adapter"] < document["flops"]["3-shot"]
    text = run(as_json=False)
    assert "An empty description is refused" in text and "not reached" in text
    assert "Not measured: LoRA trained on the task itself" in text


def test_every_comparator_that_is_trained_names_the_stage_that_trains_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(comparators.BUILT_BY) == set(commands._built_in(tmp_path))
    trained: dict[str, list[str]] = {"library": [], "comparators": []}
    monkeypatch.setattr(build_module, "built_base", lambda folder: None)
    for name in ("library", "multi_task", "hyperdecoder"):
        monkeypatch.setattr(build_module, f"train_{name}", lambda base, folder, *_: trained[stage].append(folder.name))
    for stage in trained:
        build_module.build(tmp_path, [stage])
    assert trained == {"library": ["library"], "comparators": ["oracle", "multi-task", "hyperdecoder"]}
    needed = {"average": "library", "nearest": "library", "arrow": "library"}
    for condition, stage in comparators.BUILT_BY.items():
        assert needed.get(condition, condition) in trained[stage]


@pytest.mark.usefixtures("few_tasks")
def test_a_comparator_that_does_not_fit_is_named_and_the_rest_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, conditions: list[str], **kwargs: Any) -> list[Score]:
        if conditions == ["oracle"]:
            raise T2LError("It is of another base.")
        return [Score("add-7", "unseen-operation", conditions[0], 1, 1)]

    monkeypatch.setattr(comparators, "score_comparators", refuse)
    monkeypatch.setattr(commands, "_built_in", lambda folder: {})
    scores, names, missing = commands._comparators(None, MiniLmEncoder(), tmp_path, False, Console(file=io.StringIO()))
    assert {score.condition for score in scores} == set(comparators.COMPARATORS) - {"oracle"} == set(names)
    assert missing == ["Not measured: LoRA trained on the task itself. It is of another base."]
