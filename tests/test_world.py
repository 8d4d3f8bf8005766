"""The micro world: its tasks and splits, the tiny base, and whether the ordinary commands read what it writes."""

from __future__ import annotations

import json
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
from typer.testing import CliRunner

from helpers import LAB, MICRO_BASE, MICRO_CHECKPOINT
from lab.micro_world import write
from lab.world import pretrain as pretrain_module
from lab.world import tasks as tasks_module
from lab.world.base import UNKNOWN, VOCABULARY, base_config, build_tokenizer, encode_runs, few_shot_batch
from lab.world.operations import selection
from lab.world.operations.operation import MAX_INPUT_CHARS, MAX_OUTPUT_CHARS, Operation
from lab.world.styles import PLAIN
from lab.world.tasks import (
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
from lab.world.wording import descriptions
from t2l.bases import Base, load_base
from t2l.cli import app
from t2l.errors import T2LError
from t2l.lora import LoraSpec
from t2l.model import TextToLora
from t2l.training.batches import IGNORED

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
        config=base_config(),
    )
    torch.testing.assert_close(pretrain_module.run_loss(model, labels_NT, labels_NT), expected)


def test_the_base_has_the_shape_that_ships(base: Base) -> None:
    assert base.model.num_parameters() == pytest.approx(3.2e6, rel=0.03)
    ours = base_config()
    for name in ("hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads", "tie_word_embeddings"):
        assert getattr(base.model.config, name) == getattr(ours, name)
    assert base.tokenizer("Ab 1>")["input_ids"] == build_tokenizer()("Ab 1>")["input_ids"]


# What is written, trained and kept


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(MICRO_BASE)


def test_pretraining_in_miniature_gives_a_base(tmp_path: Path) -> None:
    lines: list[str] = []
    pretrain_module.pretrain(tmp_path / "base", steps=2, tokens=300, say=lines.append)
    assert len(lines) == 1 and lines[0].startswith("step 2 of 2, loss ")
    assert load_base(tmp_path / "base").answer(["12"], max_new_tokens=2)


def test_the_ordinary_commands_read_what_is_written(tmp_path: Path) -> None:
    names = ("give-first-word", "add-2", "give-last-word+twice", "give-third-item", "add-7", "is-palindrome")
    tasks = [find_task(name) for name in names]
    assert write(tmp_path / "data", tasks=tasks, samples=12, wordings=3) == {"train": 3, "validation": 1, "test": 2}
    for task in tasks:
        given = json.loads((tmp_path / "data" / "tasks" / f"{task.name}.json").read_text())
        inputs = [instance["input"] for instance in given["Instances"]]
        assert len(set(inputs)) == len(inputs) > 4
        assert {part_of(task.operation.name, question) for question in inputs} == {"train"}
    asked = [json.loads(line) for line in (tmp_path / "data/near/add-7/test.jsonl").read_text().splitlines()]
    assert {part_of("add-7", line["input"]) for line in asked} == {"evaluation"}
    assert (tmp_path / "data" / "far" / "is-palindrome" / "task.json").is_file()

    def t2l(*words: str | Path) -> None:
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.output

    data, store = tmp_path / "data", tmp_path / "store"
    described = ("-d", data / "descriptions.jsonl", "--split-file", data / "splits.json")
    t2l("data", "prepare", data / "tasks", *described, "-o", store, "--base", MICRO_BASE, "--remove", "none")
    changes = ("loop.steps=2", "loop.tasks=3", "validation.tasks=1", "validation.every=2", "hypernetwork.trunk_dim=16")
    recipe = (LAB / "recipes" / "micro-world.yaml", f"data.store={store}", *changes)
    t2l("train", "sft", *recipe, "-o", tmp_path / "run", "--cpu")
    made = TextToLora.from_pretrained(tmp_path / "run" / "checkpoint")
    assert made.spec.groups == TextToLora.from_pretrained(MICRO_CHECKPOINT).spec.groups


def test_the_assets_are_small_and_fit_each_other(base: Base) -> None:
    sizes = [path.stat().st_size for path in (LAB / "assets").rglob("*") if path.is_file()]
    assert sum(sizes) <= 25e6
    t2l = TextToLora.from_pretrained()
    assert t2l.spec == replace(LoraSpec.from_base(base.model.config, rank=8), base_model=MICRO_BASE)


def test_the_checkpoint_does_held_out_tasks_from_their_descriptions(base: Base) -> None:
    """Counts on a small seeded sample: the right description against none and against another task's."""
    t2l = TextToLora.from_pretrained(MICRO_CHECKPOINT)
    tasks = tasks_of(*NEAR)
    weights = t2l.hypernetwork(t2l.encoder.encode([descriptions(task, 1, part="train", seed=1)[0] for task in tasks]))
    asked = [(row, *example) for row, task in enumerate(tasks) for example in task.examples(4, seed=0)]
    right = {}
    for name, move in (("matched", 0), ("other", 7)):
        index = [(row + move) % len(tasks) for row, _, _ in asked]
        said = base.answer([q for _, q, _ in asked], spec=t2l.spec, weights=weights, index=index, max_new_tokens=32)
        right[name] = sum(text == answer for text, (_, _, answer) in zip(said, asked, strict=True))
    said = base.answer([question for _, question, _ in asked], max_new_tokens=32)
    right["base"] = sum(text == answer for text, (_, _, answer) in zip(said, asked, strict=True))
    assert right["matched"] >= 0.2 * len(asked), right
    assert right["matched"] > 2 * right["base"], right
    assert right["matched"] > 3 * right["other"], right
