"""The embedded world: its tasks and splits, the tiny base, the scoring, and whether what ships does what it should."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import random_weights
from t2l.bases import EMBEDDED_BASE, Base, load_base
from t2l.encoders import DescriptionEncoder, OneHotEncoder
from t2l.errors import T2LError
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.model import MICRO_WORLD, TextToLora, shipped_checkpoint
from t2l.training import source as optimizers_module
from t2l.training.batches import IGNORED
from t2l.training.conditions import Standardization
from t2l.training.source import muon_and_adamw
from t2l.world import evaluate as evaluate_module
from t2l.world import exact_match as exact_match_module
from t2l.world import pretrain as pretrain_module
from t2l.world import sft as sft_module
from t2l.world import tasks as tasks_module
from t2l.world.base import (
    UNKNOWN,
    VOCABULARY,
    base_config,
    build_tokenizer,
    encode_runs,
    few_shot_batch,
)
from t2l.world.conditions import DescriptionTable
from t2l.world.evaluate import CONDITIONS, Effort, bootstrap, evaluate, summarize
from t2l.world.exact_match import Query, exact_match
from t2l.world.loop import LoopConfig
from t2l.world.operations import selection
from t2l.world.operations.operation import MAX_INPUT_CHARS, MAX_OUTPUT_CHARS, Operation
from t2l.world.sft import SftRecipe, example_batches, train_hypernetwork
from t2l.world.styles import PLAIN
from t2l.world.tasks import (
    FAR_OPERATIONS,
    NEAR,
    OPERATIONS,
    SPLITS,
    UNSEEN_OPERATIONS,
    VALIDATION_OPERATIONS,
    all_tasks,
    find_task,
    part_of,
    pretraining_draw,
    tasks_of,
)
from t2l.world.wording import descriptions
from t2l.world.workfolder import embedded_encoder, embedded_spec

REPOSITORY = Path(__file__).resolve().parents[1]

# Tasks and splits


def test_there_are_enough_tasks_of_every_split() -> None:
    count = {split: len(tasks_of(split)) for split in SPLITS}
    assert count["train"] >= 500
    assert (count["unseen-combination"], count["unseen-operation"], count["far"]) == (20, 20, 10)
    assert count["validation"] >= 10
    assert sum(count.values()) == len(all_tasks()) == len({task.name for task in all_tasks()})
    assert NEAR == ("unseen-combination", "unseen-operation")


def test_held_out_tasks_and_operations_are_never_trained_on() -> None:
    trained = {task.operation.name for task in tasks_of("train")}
    assert trained.isdisjoint({*UNSEEN_OPERATIONS, *FAR_OPERATIONS, *VALIDATION_OPERATIONS})
    for split, operations in (("unseen-operation", UNSEEN_OPERATIONS), ("far", FAR_OPERATIONS)):
        assert {task.operation.name for task in tasks_of(split)} == set(operations)
        assert not set(operations) & {task.operation.name for task in all_tasks() if task.split != split}


def test_an_unseen_combination_has_both_of_its_parts_in_training() -> None:
    operations = {task.operation.name for task in tasks_of("train")}
    styles = {task.style.name for task in tasks_of("train")}
    pairs = {(task.operation.name, task.style.name) for task in tasks_of("train")}
    for task in tasks_of("unseen-combination"):
        assert task.style is not PLAIN
        assert task.operation.name in operations and task.style.name in styles
        assert (task.operation.name, task.style.name) not in pairs


def test_an_unseen_operation_has_neighbours_in_training() -> None:
    trained = {task.operation.name: task.operation for task in tasks_of("train")}
    families = {task.family for task in tasks_of("unseen-operation")}
    assert len(families) >= 4
    for task in tasks_of("unseen-operation"):
        if task.family == selection.FAMILY:
            own = selection.ASPECTS[task.operation.name]
            near = [
                name
                for name, aspects in selection.ASPECTS.items()
                if name in trained and sum(a != b for a, b in zip(own, aspects, strict=True)) == 1
            ]
        else:
            near = [name for name, operation in trained.items() if operation.family == task.family]
        assert len(near) >= 3, task.name


def test_tasks_that_reveal_themselves_and_tasks_that_do_not_are_both_there() -> None:
    for split in ("train", *NEAR):
        assert {task.operation.reveals for task in tasks_of(split)} == {True, False}


def test_an_unknown_task_gets_near_names() -> None:
    with pytest.raises(T2LError, match="Did you mean 'give-last-word'"):
        find_task("give-last-wrod")


# Examples


def test_examples_are_short_printable_and_answer_something() -> None:
    for task in all_tasks():
        for part in ("train", "evaluation"):
            for question, answer in task.examples(8, seed=0, part=part):
                assert question and answer, task.name
                longest = MAX_OUTPUT_CHARS if task.style is PLAIN else MAX_OUTPUT_CHARS + 10  # a style adds a few
                assert len(question) <= MAX_INPUT_CHARS and len(answer) <= longest, (task.name, answer)
                for text in (question, answer):
                    assert all(32 <= ord(c) < 127 for c in text) and ">" not in text, (task.name, text)


def test_training_and_evaluation_inputs_of_an_operation_never_meet() -> None:
    inputs: dict[tuple[str, str], set[str]] = {}
    for task in all_tasks():
        for part in ("train", "evaluation"):
            some = {question for question, _ in task.examples(12, seed=1, part=part)}
            inputs.setdefault((task.operation.name, part), set()).update(some)
    for operation in OPERATIONS:
        train, evaluation = inputs[operation, "train"], inputs[operation, "evaluation"]
        assert train and evaluation and train.isdisjoint(evaluation), operation


def test_a_task_is_a_function_of_its_input_and_not_constant() -> None:
    for name, operation in OPERATIONS.items():
        rng = Random(f"function/{name}")
        answers: dict[str, str] = {}
        for _ in range(80):
            question, answer = operation.draw(rng)
            assert answers.setdefault(question, answer) == answer, (name, question)
        assert len(set(answers.values())) > 1, name


@pytest.mark.parametrize(
    ("name", "question", "answer"),
    [
        ("give-next-to-last-word", "red fish blue", "fish"),
        ("drop-second-item", "a,bc,d", "a,d"),
        ("mask-second-digit", "4711", "4*11"),
        ("reverse-last-item", "ab,cd", "ab,dc"),
    ],
)
def test_selections_by_hand(name: str, question: str, answer: str) -> None:
    action, selector, unit = selection.ASPECTS[name]
    separator = selection.UNITS[unit]
    units = question.split(separator) if separator else list(question)
    chosen = selection.SELECTORS[selector](units)
    assert separator.join(selection.ACTIONS[action](units, *chosen)) == answer


def _fingerprint() -> str:
    total = sha256()
    for task in all_tasks()[::9]:
        total.update(repr((task.name, task.split, task.examples(2, seed=4))).encode())
        total.update(repr(descriptions(task, 2, part="train", seed=4)).encode())
    return total.hexdigest()


def test_the_world_is_the_same_in_every_process() -> None:
    task = find_task("sum")
    assert task.examples(6, seed=0) == task.examples(6, seed=0) != task.examples(6, seed=1)
    assert task.examples(3, seed=0) == task.examples(6, seed=0)[:3]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY / 'tests'}"}
    program = "import test_world; print(test_world._fingerprint())"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={**environment, "PYTHONHASHSEED": "7"}, capture_output=True, text=True)
    assert done.stdout.strip() == _fingerprint(), done.stderr


@pytest.mark.parametrize(
    "name", ["give-last-word", "purchase-city", "words-to-kebab", "is-palindrome", "sum", "antonym"]
)
def test_pretraining_sees_evaluation_inputs_only_of_knowledge_and_sums(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = OPERATIONS[name]
    monkeypatch.setattr(tasks_module, "_operations_of", lambda family: (operation,))
    parts = set()
    for seed in range(12):
        for question, _ in islice(pretraining_draw(Random(seed)), 30):
            parts.add(part_of(name, question))
    known = operation.closed or operation.family == "arithmetic"
    assert parts == ({"train", "evaluation"} if known else {"train"})


def test_pretraining_draws_held_out_operations_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    chosen = Random.choice

    def choice(self: Random, options: Any) -> Any:
        picked = chosen(self, options)
        if isinstance(picked, Operation):
            seen.add(picked.name)
        return picked

    monkeypatch.setattr(Random, "choice", choice)
    for seed in range(6000):
        pretraining_draw(Random(seed)).__next__()
    assert seen >= {*UNSEEN_OPERATIONS, *FAR_OPERATIONS, *VALIDATION_OPERATIONS}


# The tiny base: tokens and shapes


def test_the_tokenizer_is_one_token_a_character_and_reversible() -> None:
    tokenizer = build_tokenizer()
    text = "".join(chr(code) for code in range(32, 127))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == 95 == len(set(ids)) and len(tokenizer) == len(VOCABULARY) == 99
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(tokenizer("  a  b ")["input_ids"], skip_special_tokens=True) == "  a  b "
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<pad>", "<s>", "<unk>", "\n"]


def test_the_chat_template_is_the_form_of_pretraining() -> None:
    tokenizer = build_tokenizer()
    turns = [("red fish", "fish"), ("two cats", "cats")]
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "<s>red fish>fish\ntwo cats>cats\n"
    ids_NT, labels_NT = encode_runs([turns])
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids_NT[0].tolist()
    predicted = ids_NT[0][labels_NT[0] != IGNORED]
    assert tokenizer.decode(predicted) == "fish\ncats\n"
    opened = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert opened == "<s>red fish>"


def test_text_beyond_ascii_is_unknown_and_no_error() -> None:
    tokenizer = build_tokenizer()
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("é日🙂a\t", add_special_tokens=False)["input_ids"])
    assert tokens == [UNKNOWN, UNKNOWN, UNKNOWN, "a", UNKNOWN]


def test_runs_are_padded_and_only_answers_are_learned() -> None:
    ids_NT, labels_NT = encode_runs([[("ab", "c")], [("a", "bcd"), ("e", "f")]])
    assert ids_NT.shape == labels_NT.shape == (2, 11)
    assert ids_NT[0].tolist()[6:] == [0] * 5 and set(labels_NT[0].tolist()[6:]) == {IGNORED}
    spelled = ["".join(VOCABULARY[i] for i in row[row != IGNORED].tolist()) for row in labels_NT]
    assert spelled == ["c\n", "bcd\nf\n"]


def test_a_pretraining_batch_keeps_to_its_budget() -> None:
    for seed in range(6):
        ids_NT, labels_NT = few_shot_batch(Random(seed), pretraining_draw, 2000)
        assert 800 <= ids_NT.numel() <= 4000  # a row holds one example at least, however short its budget
        assert bool((labels_NT != IGNORED).any(dim=1).all())
    again, _ = few_shot_batch(Random(5), pretraining_draw, 2000)
    assert torch.equal(ids_NT, again)


def test_the_pretraining_loss_is_the_mean_over_labels() -> None:
    logits_NTV = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    labels_NT = torch.tensor([[1, IGNORED, 3, IGNORED, IGNORED], [2, IGNORED, IGNORED, 4, 5]])
    picked = [(0, 1, 3), (1, 2, 4), (1, 3, 5)]  # a label is predicted from the place before
    expected = -sum(logits_NTV[n, t].log_softmax(-1)[v] for n, t, v in picked) / 3
    model = SimpleNamespace(  # whose hidden states are the logits
        base_model=lambda input_ids, use_cache: SimpleNamespace(last_hidden_state=logits_NTV),
        get_output_embeddings=lambda: torch.nn.Identity(),
        config=SimpleNamespace(),
    )
    torch.testing.assert_close(pretrain_module.run_loss(model, labels_NT, labels_NT), expected)


def test_the_base_has_the_shape_that_ships(base: Base) -> None:
    assert base.model.num_parameters() == pytest.approx(3.2e6, rel=0.03)
    ours = base_config()
    for name in ("hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads", "tie_word_embeddings"):
        assert getattr(base.model.config, name) == getattr(ours, name)
    assert base.tokenizer("Ab 1>")["input_ids"] == build_tokenizer()("Ab 1>")["input_ids"]


# Scoring


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(EMBEDDED_BASE)


def greedy(base: Base, queries: list[Query], **adapters: Any) -> list[str]:
    """The answers that token-by-token generation gives."""
    texts = []
    for query in queries:
        shown = "".join(f"{question}>{answer}\n" for question, answer in query.shots)
        texts.append(shown + query.example[0])
    return base.answer(texts, max_new_tokens=MAX_OUTPUT_CHARS + 1, **adapters)


def test_exact_match_is_what_greedy_generation_says(base: Base) -> None:
    """Plain and adapted, without and with examples; among the queries are ones whose answer is right."""
    spec = embedded_spec()
    weights = random_weights(spec, 3, std=0.02)
    tasks = [find_task(name) for name in ("give-first-word", "words-to-kebab", "antonym", "add-2")]
    queries = [
        Query(example, adapter=adapter, shots=tuple(task.examples(shots, seed=3, part="train")))
        for task in tasks
        for adapter, shots in ((-1, 0), (-1, 3), (2, 0), (0, 3))
        for example in task.examples(1, seed=2)
    ]
    said = greedy(base, queries, spec=spec, weights=weights, index=[query.adapter for query in queries])
    # the base's own answers as expected ones: right by construction, whatever the base has learned
    queries += [
        Query((query.example[0], answer), query.adapter, query.shots)
        for query, answer in zip(queries, said, strict=True)
        if len(answer) <= MAX_OUTPUT_CHARS
    ]
    said = greedy(base, queries, spec=spec, weights=weights, index=[query.adapter for query in queries])
    expected = [answer == query.example[1] for query, answer in zip(queries, said, strict=True)]
    assert True in expected and False in expected
    for batch in (256, 5):
        assert exact_match(base.model, queries, spec, weights, batch=batch) == expected


def test_exact_match_without_adapters_in_a_batch_that_could_have_them(base: Base) -> None:
    spec = embedded_spec()
    queries = [Query(example) for example in find_task("give-first-word").examples(3, seed=0)]
    assert exact_match(base.model, queries, spec, random_weights(spec, 2)) == exact_match(base.model, queries)
    assert exact_match(base.model, []) == []


def test_equal_queries_are_answered_once_and_counted_each_time(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    original = exact_match_module.labelled_logits

    def counting(model: Any, ids_ST: Tensor, labels_ST: Tensor) -> Any:
        rows.append(len(ids_ST))
        return original(model, ids_ST, labels_ST)

    monkeypatch.setattr(exact_match_module, "labelled_logits", counting)
    wrong = Query((find_task("give-first-word").examples(1, seed=0)[0][0], "~"))
    (said,) = greedy(base, [wrong])
    own = Query((wrong.example[0], said))
    assert exact_match(base.model, [wrong, own, wrong, own, own]) == [False, True, False, True, True]
    assert rows == [2]


class FirstLetters(DescriptionEncoder):
    """An encoder of 8 numbers that needs no weights: counts of letters."""

    identity = "first-letters"  # pyright: ignore[reportAssignmentType]
    dim = 8  # pyright: ignore[reportAssignmentType]

    def embed(self, texts: Any) -> Tensor:
        return torch.tensor([[float(text.lower().count(letter)) for letter in "aeioutrs"] for text in texts])

    def to_config(self) -> dict[str, Any]:
        return {"kind": "first-letters"}

    @classmethod
    def from_config(cls, config: Any, *, device: str, trust_remote_code: bool) -> FirstLetters:
        return cls()


def test_an_evaluation_scores_every_condition_on_every_task(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_module, "tasks_of", lambda split: tasks_of(split)[:3])
    source = HyperNetwork(embedded_spec(), 8, trunk_dim=8, head_dim=8).eval()
    lines: list[str] = []
    effort = Effort(examples=2, wordings=2, train_tasks=2)
    scores = evaluate(base.model, FirstLetters(), source, effort=effort, report=lines.append)
    assert {(s.split, s.condition) for s in scores} == {(split, c) for split in SPLITS for c in CONDITIONS}
    assert lines == [f"{split}: 3 tasks" for split in SPLITS]
    assert len(scores) == 3 * len(SPLITS) * len(CONDITIONS)
    for score in scores:
        assert score.total == (2 if score.condition == "base" or score.condition.endswith("shot") else 4)
        assert 0 <= score.right <= score.total
    # an L hypernetwork begins exactly at the base: without training a description changes nothing
    right = {(s.task, s.condition): s.right for s in scores}
    assert all(right[task, "matched"] == 2 * right[task, "base"] for task, _ in right)
    again = evaluate(base.model, FirstLetters(), source, effort=effort, splits=["far"], conditions=["3-shot"])
    assert again == [s for s in scores if (s.split, s.condition) == ("far", "3-shot")]
    summary = summarize(scores)
    assert list(summary) == list(SPLITS) and all(set(row) == set(CONDITIONS) for row in summary.values())
    assert all(0 <= low <= mean <= high <= 100 for row in summary.values() for mean, low, high in row.values())


def test_bootstrap_intervals() -> None:
    assert bootstrap([0.5] * 9) == (50.0, 50.0, 50.0)
    mean, low, high = bootstrap([0.0, 1.0] * 50)
    assert mean == 50.0 and 35 < low < 45 < 55 < high < 65
    assert bootstrap([0.0, 1.0, 0.3], seed=1) == bootstrap([0.0, 1.0, 0.3], seed=1)


# Training on it, and building it


def test_a_training_batch_holds_training_inputs_under_the_right_adapters() -> None:
    tasks = tasks_of("train")[:30:6]
    batches = example_batches(Random(0), tasks, samples=3)
    assert len(batches) == sft_module.LENGTH_BUCKETS
    seen: list[int] = []
    for batch in batches:
        for ids_T, labels_T, row in zip(batch.ids_ST, batch.labels_ST, batch.index_S.tolist(), strict=True):
            text = "".join(VOCABULARY[i] for i in ids_T.tolist() if i > 2).rstrip("\n")
            question, _, answer = text.partition(">")
            assert part_of(tasks[row].operation.name, question) == "train"
            assert "".join(VOCABULARY[i] for i in labels_T.tolist() if i >= 0) == answer + "\n"
            seen.append(row)
    assert sorted(seen) == sorted(list(range(5)) * 3)
    widths = [batch.ids_ST.shape[1] for batch in batches]
    assert widths == sorted(widths)


def test_the_views_of_a_task_share_its_examples() -> None:
    tasks = tasks_of("train")[:20:4]
    seen = torch.cat([batch.index_S for batch in example_batches(Random(0), tasks, samples=4, views=2)])
    assert torch.bincount(seen).tolist() == [2] * 10  # two descriptions a task, two examples each


def test_conditions_are_descriptions_or_blends_of_their_length() -> None:
    rows_KE = torch.nn.functional.normalize(torch.randn(10, 16, generator=torch.Generator().manual_seed(0)), dim=1) * 4
    table = DescriptionTable(rows_KE, range(11), count=5, width=16)
    plain = Standardization(torch.zeros(16), torch.ones(16))
    loop = LoopConfig(steps=1)
    for step in range(10):
        recipe = SftRecipe(loop, mix=0.0, noise=0.0)
        pure_CE = sft_module._conditions(Random(step), recipe, table, [1, 0], plain, step)
        for place, row_E in enumerate(pure_CE):
            own_KE = rows_KE[5:] if place < 2 else rows_KE[:5]
            assert any(torch.equal(row_E, other_E) for other_E in own_KE)
        recipe = SftRecipe(loop, mix=1.0, noise=0.0)
        mixed_CE = sft_module._conditions(Random(step), recipe, table, [1, 0], plain, step)
        torch.testing.assert_close(mixed_CE.norm(dim=1), torch.full((4,), 4.0))


@pytest.mark.parametrize("distill", [0.0, 0.5])
def test_a_hypernetwork_learns_on_the_world(base: Base, tmp_path: Path, distill: float) -> None:
    tasks = [find_task(name) for name in ("give-first-word", "give-last-word", "add-2", "antonym")]
    encoder = OneHotEncoder([task.name for task in tasks])
    table = DescriptionTable.embed(encoder, [[task.name] * 2 for task in tasks])
    losses: list[float] = []
    recipe = SftRecipe(
        LoopConfig(steps=20, warmup=2, decay=0.0),
        trunk_dim=16,
        head_dim=16,
        tasks=4,
        samples=4,
        learning_rate=2e-3,
        matrix_learning_rate=0.0,
        noise=0.0,
        distill=distill,
    )
    hypernetwork = train_hypernetwork(
        recipe,
        base.model,
        embedded_spec(),
        encoder,
        tasks,
        table,
        state_path=tmp_path / "state.pt",
        report=lambda done, steps, loss: losses.append(loss),
    )
    assert len(losses) == 20 and sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert not hypernetwork.training and (tmp_path / "state.pt").is_file()


def test_a_recipe_that_cannot_be_is_refused() -> None:
    with pytest.raises(T2LError, match="cannot be shared out"):
        SftRecipe(LoopConfig(steps=1), samples=3, views=2)
    with pytest.raises(T2LError, match="needs views=2"):
        SftRecipe(LoopConfig(steps=1), views=1)


def test_an_old_torch_is_told_what_pretraining_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers_module.torch, "optim", SimpleNamespace(AdamW=torch.optim.AdamW))
    with pytest.raises(T2LError, match=r"torch 2\.9 or newer"):
        muon_and_adamw(torch.nn.Linear(2, 2), lambda name, matrix: True, matrix_lr=1e-3, other_lr=1e-3)


# What ships


def test_the_assets_are_small() -> None:
    assets = shipped_checkpoint(MICRO_WORLD).parent
    size = {path: path.stat().st_size for path in assets.rglob("*") if path.is_file()}
    assert sum(size[path] for path in size if path.relative_to(assets).parts[0] in ("base", "checkpoint")) <= 25e6
    assert sum(size.values()) <= 51e6


def test_the_shipped_checkpoint_fits_the_shipped_base(base: Base) -> None:
    t2l = TextToLora.from_pretrained()
    assert (
        t2l.spec == embedded_spec() == replace(LoraSpec.from_base(base.model.config, rank=8), base_model=EMBEDDED_BASE)
    )
    assert t2l.encoder.identity == embedded_encoder().identity


def test_what_ships_does_held_out_tasks_from_their_descriptions(base: Base) -> None:
    """Counts on a small seeded sample: the right description against none and against another task's."""
    t2l = TextToLora.from_pretrained()
    scores = evaluate(
        base.model,
        t2l.encoder,
        t2l.hypernetwork,
        effort=Effort(examples=5, wordings=1),
        splits=NEAR,
        conditions=("base", "matched", "other-task"),
    )
    right = {c: sum(s.right for s in scores if s.condition == c) for c in ("base", "matched", "other-task")}
    asked = sum(s.total for s in scores if s.condition == "matched")
    assert right["matched"] >= 0.2 * asked, right
    assert right["matched"] > 2 * right["base"], right
    assert right["matched"] > 3 * right["other-task"], right
