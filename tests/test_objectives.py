"""Contrast and distillation: against computations written out, and a student that follows its teacher."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from helpers import MICRO_BASE, MICRO_RECIPE, random_weights, tiny_base, tokens
from t2l.adapter import Adapter
from t2l.base_structure import base_config, load_tokenizer
from t2l.batched import apply_batched
from t2l.cli import app
from t2l.data.prompts import prompt_text
from t2l.data.store import DataStore
from t2l.errors import RecipeError, T2LError
from t2l.lora import AdapterTable, LoraSpec
from t2l.recipes.reader import load_recipe
from t2l.recipes.sections import LossSection
from t2l.training.batches import IGNORED, Batch, StoreBatches
from t2l.training.conditions import ConditionTable
from t2l.training.sft import Share, Teacher, contrastive_loss, learn_step

PLAIN = LossSection(label_smoothing=0.0, weight_penalty=0.0)


def test_contrast_is_the_log_share_of_the_other_view() -> None:
    features_CK = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0], [0.0, -2.0]])
    unit = [(1.0, 0.0), (0.6, 0.8), (-1.0, 0.0), (0.0, -1.0)]
    expected = 0.0
    for row, partner in ((0, 1), (1, 0), (2, 3), (3, 2)):
        cosine = [sum(x * y for x, y in zip(unit[row], other, strict=True)) for other in unit]
        total = sum(math.exp(cosine[other] / 0.5) for other in range(4) if other != row)
        expected -= (cosine[partner] / 0.5 - math.log(total)) / 4
    assert contrastive_loss(features_CK, 2, temperature=0.5).item() == pytest.approx(expected, rel=1e-5)


def asked(prompts: list[list[int]], answers: list[list[int]]) -> Batch:
    """Prompts with answers, of which the answers are labelled and weighed by the divergence alone."""
    width = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    ids_ST = torch.zeros(len(prompts), width, dtype=torch.long)
    labels_ST = torch.full_like(ids_ST, IGNORED)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        whole = torch.tensor([*prompt, *answer])
        ids_ST[row, : len(whole)] = whole
        labels_ST[row, len(prompt) : len(whole)] = whole[len(prompt) :]
    rows, ones_S = torch.arange(len(prompts)), torch.ones(len(prompts))
    return Batch(ids_ST, labels_ST, rows, 0 * ones_S, ones_S, tuple(range(len(prompts))))


def log_probabilities(base: Any, spec: LoraSpec, weights: Any, batch: Batch, row: int) -> Tensor:
    """What one sample's labels are predicted from, computed alone and through the base's own logits."""
    length = int((batch.labels_ST[row] != IGNORED).nonzero().max()) + 1
    with torch.no_grad(), apply_batched(base, spec, weights, [0]):
        log_TV = base(batch.ids_ST[row : row + 1, :length]).logits[0].log_softmax(dim=-1)
    return log_TV[:-1][batch.labels_ST[row, 1:length] != IGNORED]


def test_distillation_is_the_divergence_from_the_adapted_base_that_reads_more() -> None:
    base = tiny_base()
    spec = LoraSpec.from_base(base.config, rank=2)
    student = asked([[5, 6], [7, 8, 9]], [[3, 4], [11]])
    teacher = asked([[21, 22, 23, 5, 6], [24, 7, 8, 9]], [[3, 4], [11]])
    student = replace(student, weight_S=torch.tensor([0.4, 0.0]), divergence_S=torch.tensor([0.6, 1.0]))
    own, theirs = random_weights(spec, 2, seed=1), random_weights(spec, seed=2)
    expected = 0.0
    for row in range(2):
        student_KV = log_probabilities(base, spec, own.select(row), student, row)
        teacher_KV = log_probabilities(base, spec, theirs, teacher, row)
        divergence = (teacher_KV.exp() * (teacher_KV - student_KV)).sum(-1).mean().item()
        labels_K = student.labels_ST[row][student.labels_ST[row] != IGNORED]
        answer = -student_KV[torch.arange(len(labels_K)), labels_K].mean().item()
        expected += (0.4 * answer + 0.6 * divergence if row == 0 else divergence) / 2
    states = Teacher(base, spec, theirs).states([teacher])
    table = AdapterTable(spec, [0, 0])
    for parameters, given in ((table.a, own.a), (table.b, own.b)):
        for key, tensor in given.items():
            parameters[key].data.copy_(tensor)
    loss = learn_step(base, table, torch.eye(2), [student], PLAIN, teacher=states)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    other = replace(teacher, labels_ST=teacher.labels_ST.clamp(max=3))
    with pytest.raises(T2LError, match="same answers"):
        learn_step(base, table, torch.eye(2), [student], PLAIN, teacher=Teacher(base, spec, theirs).states([other]))


def test_processes_that_share_a_step_read_their_own_samples_teacher_alone() -> None:
    base = tiny_base()
    spec = LoraSpec.from_base(base.config, rank=2)
    inputs, answers = tokens(3, 3, seed=5).tolist(), tokens(3, 2, seed=6).tolist()
    whole = asked(inputs, answers)
    micros = [
        replace(
            whole,
            **{name: getattr(whole, name)[row : row + 1] for name in ("ids_ST", "labels_ST", "index_S")},
            weight_S=torch.tensor([0.5]),
            divergence_S=torch.tensor([0.5]),
            numbers=(row,),
        )
        for row in range(3)
    ]
    teacher, reads = Teacher(base, spec, random_weights(spec, seed=2)), asked([[9, *own] for own in inputs], answers)

    def learned(rank: int, world: int) -> tuple[float, list[Tensor]]:
        share, table = Share(rank, world), AdapterTable(spec, [1, 2, 3])
        wanted = {number for number, _ in share.numbers(3)}
        states = teacher.states([reads], wanted)
        assert set(states.place) == wanted
        loss = learn_step(base, table, torch.eye(3), micros, PLAIN, teacher=states, share=share)
        return float(loss), [torch.zeros(1) if p.grad is None else p.grad for p in table.parameters()]

    expected, gradients = learned(0, 1)
    for world in (2, 4):  # of four processes one has nothing to do
        parts = [learned(rank, world) for rank in range(world)]
        assert sum(loss for loss, _ in parts) == pytest.approx(expected, rel=1e-5)
        sums = [torch.stack(own).sum(dim=0) for own in zip(*(own for _, own in parts), strict=True)]
        torch.testing.assert_close(sums, gradients, rtol=1e-4, atol=1e-6)


def test_a_student_follows_the_teacher_that_reads_its_description_also_on_inputs_of_another_task() -> None:
    """Two descriptions, inputs of two tasks crossed: each student comes near the teacher under its own description."""
    base = tiny_base()
    spec = LoraSpec.from_base(base.config, rank=4)
    teacher = Teacher(base, spec, random_weights(spec, seed=2, std=0.4))
    inputs = tokens(4, 3, seed=5).tolist()
    answers = tokens(4, 2, seed=6).tolist()
    described = [[30, 31, 32], [33, 34, 35], [30, 31, 32], [33, 34, 35]]  # the second pair has the inputs of the other
    student = replace(asked(inputs, answers), index_S=torch.tensor([0, 1, 0, 1]))
    reads = asked([[*text, *own] for text, own in zip(described, inputs, strict=True)], answers)
    wrong = asked([[*text, *own] for text, own in zip(described[::-1], inputs, strict=True)], answers)
    states = teacher.states([reads])
    table = AdapterTable(spec, [0, 1])
    optimizer = torch.optim.Adam(table.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(float(learn_step(base, table, torch.eye(2), [student], PLAIN, teacher=states)))
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]
    table.zero_grad()
    against = float(learn_step(base, table, torch.eye(2), [student], PLAIN, teacher=teacher.states([wrong])))
    assert losses[-1] < 0.5 * against


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of four small tasks for the embedded base, and a LoRA for it as the teacher."""
    folder = tmp_path_factory.mktemp("taught")
    words = ["oslo", "rome", "bern", "kiev", "lima", "cairo"]
    lines = [{"task": f"t{n}", "prompt": word, "response": word[n]} for n in range(4) for word in words]
    texts = [{"name": f"t{n}", "split": "train", "descriptions": [f"Letter {n}.", f"Give {n}."]} for n in range(4)]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in texts))
    command = ["data", "prepare", str(folder / "tasks.jsonl"), "-d", str(folder / "texts.jsonl")]
    command += ["--base", MICRO_BASE, "--validation", "0", "-o"]
    for name, more in (("store", ["--template", "withheld"]), ("included", ["--template", "included"])):
        done = CliRunner().invoke(app, [*command, str(folder / name), *more])
        assert done.exit_code == 0, done.output
    spec = LoraSpec.from_base(base_config(MICRO_BASE), rank=2)
    provenance = DataStore.open(folder / "store").prompts
    Adapter(spec, random_weights(spec, std=0.02), dict(provenance)).save(folder / "teacher")
    Adapter(spec, random_weights(spec), {**provenance, "prompt": "Q: {input}"}).save(folder / "framed")
    return folder


def test_the_teacher_reads_each_samples_description_and_input_and_crossed_ones_that_of_another_task(
    place: Path,
) -> None:
    store = DataStore.open(place / "store")
    changes = [f"loss.teacher={place / 'teacher'}", "loss.distill=0.25", "loss.crossed=0.5", "loss.views=2"]
    changes += ["loop.tasks=4", "loop.samples=2", "loop.micro_tokens=90"]
    recipe = load_recipe(MICRO_RECIPE, changes)
    tables = {task: torch.arange(2.0)[:, None] + 10 * task for task in range(4)}
    batches = StoreBatches(
        store, ConditionTable.of(tables), recipe.data, recipe.loop, recipe.loss, recipe.condition, recipe.base
    )
    tokenizer, frame = load_tokenizer(MICRO_BASE), store.manifest["frame"]
    step, picks, crossed = batches.step(3), batches.picks(3), 0
    assert torch.equal(batches.step(3).teachers[0].ids_ST, step.teachers[0].ids_ST)
    assert isinstance(step.gathered, Tensor)
    read = {}
    for batch in step.teachers:
        for number, ids_T, labels_T in zip(batch.numbers, batch.ids_ST, batch.labels_ST, strict=True):
            read[number] = ids_T[: int((labels_T != IGNORED).nonzero().min())].tolist()
    for micro in step.micros:
        assert micro.weight_S is not None and micro.divergence_S is not None
        for row, number in enumerate(micro.numbers):
            task, sample, _ = picks[number]
            by, view = divmod(int(step.gathered[micro.index_S[row]]), 10)
            word = tokenizer.decode(store.sample(task, sample).input_ids[: store.sample(task, sample).prompt_length])
            word = word.removeprefix(frame["before"]).removesuffix(frame["after"])
            said = prompt_text(word, store.tasks[by].descriptions[view], included=True)
            said = said.replace("\n", " ")  # which ends a text of this base, so data prepare replaces it too
            framed = f"{frame['before']}{said}{frame['after']}"
            assert read[number] == tokenizer(framed, add_special_tokens=not frame["chat"])["input_ids"]
            alone = by != task
            crossed += alone
            weights = (float(micro.weight_S[row]), float(micro.divergence_S[row]))
            assert weights == ((0.0, 1.0) if alone else (0.75, 0.25))
    assert crossed == 4, "half of the tasks, two samples each"


def test_a_run_with_a_teacher_ends_and_one_that_cannot_be_is_refused(place: Path, tmp_path: Path) -> None:
    words = ["train", "sft", MICRO_RECIPE, f"data.store={place / 'store'}", "validation.every=0", "--cpu"]
    words += ["loop.steps=2", "loop.tasks=4", "loop.samples=2", "loss.distill=0.5", "loss.crossed=0.5", "-o"]
    done = CliRunner().invoke(app, [*words, str(tmp_path / "run"), f"loss.teacher={place / 'teacher'}"])
    assert done.exit_code == 0, done.output
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(math.isfinite(json.loads(line)["loss"]) for line in lines) and len(lines) == 2
    for changes, said in (
        ([f"loss.teacher={place / 'framed'}"], "trained with prompts of the form 'Q: {input}'"),
        ([f"loss.teacher={place / 'teacher'}", f"data.store={place / 'included'}"], "hold one already"),
        ([f"loss.teacher={place / 'nothing'}"], "nothing"),
        (["loss.teacher=null"], "only a teacher knows"),
    ):
        refused = CliRunner().invoke(app, [*words, str(tmp_path / "refused"), *changes])
        assert refused.exit_code == 2 and said in refused.output.replace("\n", " "), refused.output
    with pytest.raises(RecipeError, match="no effect"):
        load_recipe(MICRO_RECIPE, ["loss.teacher=folder"])
