"""Training on a store, end to end on a tiny base: exact losses, resumption after a kill, processes, bad input."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from helpers import MICRO_RECIPE, enable_checkpointing, random_weights, tiny_base, tokens
from t2l.batched import apply_batched
from t2l.cli import app
from t2l.data.sampler import TaskSampler
from t2l.data.store import DataStore
from t2l.errors import BaseModelError, OutputError, T2LError
from t2l.lora import LoraSpec
from t2l.recipes.reader import Recipe, load_recipe, recipe_names
from t2l.recipes.sections import LossSection
from t2l.training.batches import IGNORED, Batch, StoreBatches, cut, cut_by_tokens
from t2l.training.conditions import ConditionTable
from t2l.training.loop import Done, Job
from t2l.training.loop import run as run_job
from t2l.training.run_folder import RunFolder
from t2l.training.sft import Share, Teacher, answer_loss, chunked_loss, labelled_hidden, learn_step, weighted_loss

ROOT = Path(__file__).resolve().parents[1]
QUICK = [
    "loop.steps=6",
    "loop.save_every=2",
    "loop.tasks=2",
    "loop.samples=2",
    "loop.micro_tokens=60",
    "validation.every=3",
]
QUICK += ["validation.every=3", "validation.samples=2", "validation.tasks=2", "data.max_length=48", "loop.log_every=2"]


def batch(samples: int = 3, length: int = 9) -> Batch:
    ids_ST = tokens(samples, length)
    labels_ST = ids_ST.clone()
    for row in range(samples):
        labels_ST[row, : 4 + row] = IGNORED
    return Batch(ids_ST, labels_ST, torch.arange(samples))


# --- the loss -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_chunks_of_logits_give_the_loss_and_gradient_of_all_at_once(softcap: float | None) -> None:
    base = tiny_base()
    base.config.final_logit_softcapping = softcap
    spec = LoraSpec.from_base(base.config)
    found = []
    for at_once in (1 << 24, 3 * 40, 1):
        weights = random_weights(spec, 3).map(lambda tensor: tensor.requires_grad_())
        own = batch()
        with apply_batched(base, spec, weights, own.index_S):
            hidden = labelled_hidden(base, own.ids_ST, own.labels_ST)
            loss = weighted_loss(base, *hidden, torch.full((3,), 1 / 3), 0.1, at_once=at_once)
            (3 * loss).backward()
        found.append((loss.detach(), [weights.a[key].grad for key in weights.a]))
    for loss, gradients in found[1:]:
        torch.testing.assert_close(loss, found[0][0])
        torch.testing.assert_close(gradients, found[0][1])


def test_no_chunk_has_more_logits_than_asked_for() -> None:
    seen = []

    def loss_of(part_KW: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        seen.append(stop - start)
        return part_KW.square().sum()

    hidden = torch.ones(10, 4, requires_grad=True)
    chunked_loss(hidden, loss_of, 100, at_once=300).backward()
    assert seen == [3, 3, 3, 1]
    torch.testing.assert_close(hidden.grad, torch.full((10, 4), 2.0))


def test_the_softcap_of_gemma_changes_the_loss() -> None:
    base, own = tiny_base(), batch()
    plain = answer_loss(base, own.ids_ST, own.labels_ST)
    base.config.final_logit_softcapping = 0.5
    assert abs(float(answer_loss(base, own.ids_ST, own.labels_ST) - plain)) > 1e-3


class Given(torch.nn.Module):
    """A source whose adapters are its parameters."""

    def __init__(self, spec: LoraSpec) -> None:
        super().__init__()
        self.spec = spec
        weights = random_weights(spec, 3)
        self.a = torch.nn.ParameterDict({key: torch.nn.Parameter(value) for key, value in weights.a.items()})
        self.b = torch.nn.ParameterDict({key: torch.nn.Parameter(value) for key, value in weights.b.items()})

    def forward(self, condition_NE: torch.Tensor) -> Any:
        from t2l.lora import LoraWeights

        return LoraWeights(dict(self.a.items()), dict(self.b.items()))


def gradients_of(base: Any, terms: LossSection, *micros: Batch, **how: Any) -> tuple[float, list[torch.Tensor]]:
    source = Given(LoraSpec.from_base(base.config))
    torch.manual_seed(7)
    loss = learn_step(base, source, torch.zeros(3, 1), micros, terms, **how)  # pyright: ignore[reportArgumentType]
    return float(loss), [parameter.grad for parameter in source.parameters()]  # pyright: ignore[reportReturnType]


def test_recomputed_activations_give_the_same_gradients() -> None:
    terms = LossSection(neftune=5.0)
    micro = batch()
    base = tiny_base().train()
    plain = gradients_of(base, terms, micro)
    enable_checkpointing(base, reentrant=False)
    torch.testing.assert_close(gradients_of(base, terms, micro), plain)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch.compile looks at every input
def test_a_compiled_base_gives_the_same_gradients_and_is_not_compiled_at_each_step() -> None:
    from torch._dynamo.testing import CompileCounter

    from t2l.training.frozen_base import decoder_layers

    terms, counter = LossSection(label_smoothing=0.0), CompileCounter()
    plain, compiled = tiny_base().train(), tiny_base().train()
    for layer in decoder_layers(compiled):
        layer.compile(backend=counter, dynamic=True)
    spec = LoraSpec.from_base(plain.config)
    adapters = apply_batched(compiled, spec, random_weights(spec, 3), range(3))
    counts = []
    for length in (9, 12, 10, 14, 8, 11):
        micro = batch(length=length)
        source = Given(spec)
        loss = float(learn_step(compiled, source, torch.zeros(3, 1), [micro], terms, adapters=adapters))  # pyright: ignore
        counts.append(counter.frame_count)
        expected_loss, expected = gradients_of(plain, terms, micro)
        assert loss == pytest.approx(expected_loss, abs=1e-5)
        torch.testing.assert_close([p.grad for p in source.parameters()], expected, rtol=1e-4, atol=1e-6)
    torch.compiler.reset()
    assert counts[0] > 0
    assert counts[-1] == counts[2], counts


def test_how_a_step_is_cut_and_shared_changes_neither_loss_nor_gradient() -> None:
    terms = LossSection(weight_penalty=1e-2)
    base, own = tiny_base(), batch()
    whole = gradients_of(base, terms, own)
    rows = [slice(row, row + 1) for row in range(3)]
    parts = [Batch(own.ids_ST[row], own.labels_ST[row], own.index_S[row]) for row in rows]
    torch.testing.assert_close(gradients_of(base, terms, *parts), whole, rtol=1e-4, atol=1e-6)
    for in_step in (False, True):
        shares = [gradients_of(base, terms, *parts, share=Share(rank, 2, in_step)) for rank in range(2)]
        loss = sum(loss for loss, _ in shares)
        gradients = [one + two for one, two in zip(shares[0][1], shares[1][1], strict=True)]
        torch.testing.assert_close((loss, gradients), whole, rtol=1e-4, atol=1e-6)


def test_processes_that_must_keep_step_run_the_base_equally_often() -> None:
    for count, world in ((5, 2), (3, 4), (4, 4)):
        shares = [Share(rank, world, in_step=True).numbers(count) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1
        assert sorted(number for share in shares for number, counts in share if counts) == list(range(count))


def test_samples_are_cut_by_length_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, size=48).tolist()
    runs = cut_by_tokens(lengths, 1000, 50)
    assert sorted(row for run in runs for row in run) == list(range(48))
    sizes = [len(run) * max(lengths[row] for row in run) for run in runs]
    assert max(sizes) <= 1000
    assert 1 - sum(lengths) / sum(sizes) < 0.1, "little is padding"
    ordered = [lengths[row] for run in runs for row in run]
    assert ordered == sorted(lengths, reverse=True)
    assert cut_by_tokens([300, 10], 100, 0) == [[0], [1]], "one sample always fits"
    eighths = cut_by_tokens(lengths, 1000, 50, parts=8)
    assert len(eighths) % 8 == 0
    assert sorted(row for run in eighths for row in run) == list(range(48))
    assert len(cut_by_tokens([5, 5], 100, 50, parts=8)) == 2, "no more parts than samples"


def taught(own: Batch, distill: float, crossed: tuple[int, ...] = ()) -> Batch:
    """Samples a fraction of whose loss is the divergence from a teacher; the crossed ones' is nothing else."""
    alone_S = torch.tensor([float(row in crossed) for row in range(len(own.ids_ST))])
    weight_S, divergence_S = (1 - distill) * (1 - alone_S), torch.where(alone_S > 0, 1.0, distill)
    return replace(own, weight_S=weight_S, divergence_S=divergence_S, numbers=tuple(range(len(own.ids_ST))))


def test_distillation_from_a_teacher_that_reads_the_same_is_nothing_where_adapters_are_nothing() -> None:
    base, own = tiny_base(), batch()
    micro = taught(own, 1.0)
    source = Given(LoraSpec.from_base(base.config))
    for value in source.b.values():
        torch.nn.init.zeros_(value)
    terms = LossSection(weight_penalty=0.0, label_smoothing=0.0)
    states = Teacher(base).states([micro])
    loss = learn_step(base, source, torch.zeros(3, 1), [micro], terms, teacher=states)  # pyright: ignore
    assert float(loss) == pytest.approx(0, abs=1e-6)
    assert gradients_of(base, terms, micro, teacher=states)[0] > 1e-4


def test_noise_is_within_its_bound_and_off_without_alpha() -> None:
    from t2l.training.sft import noisy_embeddings

    base = tiny_base()
    ids = tokens(2, 6)
    plain = base.get_input_embeddings()(ids)
    lengths = torch.tensor([6, 2])
    with noisy_embeddings(base, lengths, 5.0):
        noise = (base.get_input_embeddings()(ids) - plain).abs()
    bounds = 5.0 / (lengths * plain.shape[-1]).sqrt()
    for row in range(2):
        assert 0.5 * bounds[row] < noise[row].max() <= bounds[row] + 1e-6
    with noisy_embeddings(base, lengths, 0.0):
        assert torch.equal(base.get_input_embeddings()(ids), plain)
    assert torch.equal(base.get_input_embeddings()(ids), plain)


# --- the run ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training tasks and two validation tasks of a few words, prepared for the embedded base."""
    folder = tmp_path_factory.mktemp("data")
    words = ["oslo", "rome", "bern", "kiev", "lima", "cairo", "quito", "paris"]
    lines, described = [], []
    for task in range(6):
        name = f"word-{task}"
        split = "validation" if task >= 4 else "train"
        described.append({"name": name, "split": split, "descriptions": [f"Do thing {task}.", f"Perform {task}."]})
        for word in words:
            response = [word.upper(), word[0], word[-1], word * 2, word[::-1], word[1:]][task]
            lines.append({"task": name, "prompt": word, "response": response})
    source, texts = folder / "tasks.jsonl", folder / "descriptions.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts.write_text("".join(json.dumps(line) + "\n" for line in described))
    splits = folder / "splits.json"
    splits.write_text(json.dumps({"validation": ["word-4", "word-5"], "train": [f"word-{i}" for i in range(4)]}))
    command = ["data", "prepare", str(source), "-o", str(folder / "store"), "--base", "t2l-embedded-base"]
    done = CliRunner().invoke(app, [*command, "--descriptions", str(texts), "--split-file", str(splits)])
    assert done.exit_code == 0, done.output
    return folder / "store"


def batches_of(store: Path, *changes: str) -> StoreBatches:
    settings = ["loop.tasks=4", "loop.samples=2", "loop.micro_tokens=90", *changes]
    recipe = load_recipe(MICRO_RECIPE, settings)
    opened = DataStore.open(store)
    tables = {task: torch.arange(2.0)[:, None] + 10 * task for task in range(len(opened.tasks))}
    return StoreBatches(
        opened, ConditionTable.of(tables), recipe.data, recipe.loop, recipe.loss, recipe.condition, recipe.base
    )


def test_a_steps_samples_are_drawn_by_the_sampler_and_depend_on_nothing_else(store: Path) -> None:
    batches, again = batches_of(store), batches_of(store)
    sampler = TaskSampler(batches.store, batches.store.split("train"), 4, 2, 0, descriptions=4)
    assert batches.picks(5) == [pick for group in sampler.groups(5) for pick in group]
    assert {task for task, _, _ in batches.picks(5)} <= set(batches.store.split("train"))
    for step in (9, 0, 5):
        ours, theirs = again.step(step), batches.step(step)
        assert len(ours.micros) == len(theirs.micros) >= 2
        assert torch.equal(ours.gathered, theirs.gathered)  # pyright: ignore[reportArgumentType]
        for one, two in zip(ours.micros, theirs.micros, strict=True):
            assert torch.equal(one.ids_ST, two.ids_ST)
            assert torch.equal(one.index_S, two.index_S)


def test_a_sample_gets_the_condition_of_its_own_task(store: Path) -> None:
    batches = batches_of(store, "loss.views=2")
    step = batches.step(0)
    assert isinstance(step.gathered, torch.Tensor)
    found = [(task, batches.store.sample(task, sample)) for task, sample, _ in batches.picks(0)]
    wanted = sorted((task, sample.input_ids.tolist()) for task, sample in found)
    answers = {tuple(s.input_ids.tolist()): s.input_ids[s.prompt_length :].tolist() for _, s in found}
    seen, views = [], []
    for micro in step.micros:
        index_S = micro.index_S
        assert index_S.tolist() == sorted(index_S.tolist()), "samples of one adapter stand together"
        for index, ids, labels in zip(index_S, micro.ids_ST, micro.labels_ST, strict=True):
            condition = int(step.gathered[index])
            length = int((labels != IGNORED).nonzero().max()) + 1
            seen.append((condition // 10, ids[:length].tolist()))
            views.append(condition % 10)
            assert answers[tuple(ids[:length].tolist())] == labels[labels != IGNORED].tolist()
    assert sorted(seen) == wanted
    assert sorted(views) == [0] * 4 + [1] * 4, "both descriptions of each task"
    assert (step.samples, step.tokens) == (8, sum(len(ids) for _, ids in wanted))


def labels_by_number(batches: Sequence[Batch]) -> dict[int, list[int]]:
    rows = [row for batch in batches for row in zip(batch.numbers, batch.labels_ST, strict=True)]
    return {number: labels[labels != IGNORED].tolist() for number, labels in rows}


def test_the_teacher_reads_examples_and_scores_the_same_answers(store: Path) -> None:
    batches = batches_of(store, "loss.distill=0.5", "loss.teacher_shots=2", "data.max_length=400")
    step = batches.step(3)
    assert labels_by_number(step.micros) == labels_by_number(step.teachers)
    assert sum(int(batch.lengths_S.sum()) for batch in step.teachers) > 2 * step.tokens
    for teacher in step.teachers:
        first = teacher.ids_ST[:, :1]
        assert ((teacher.ids_ST == first).sum(dim=1) == 1).all(), "the token that begins a text stands there once"
    for micro in step.micros:
        assert micro.weight_S is not None and micro.divergence_S is not None
        assert set(micro.weight_S.tolist()) == set(micro.divergence_S.tolist()) == {0.5}


def test_a_long_sample_loses_the_beginning_of_its_prompt() -> None:
    ids = np.arange(10, dtype=np.int32)
    kept, prompt = cut(ids, 6, 7)
    assert (kept.tolist(), prompt) == (list(range(3, 10)), 3)
    kept, prompt = cut(ids, 2, 4)
    assert (kept.tolist(), prompt) == ([1, 2, 3, 4], 1)
    assert cut(ids, 6, 10)[0] is ids


def test_every_term_of_the_loss_at_once(store: Path, tmp_path: Path) -> None:
    changes = ["loss.contrast=0.1", "loss.views=2", "loss.distill=0.5", "loss.label_smoothing=0.1", "loss.neftune=5"]
    changes += ["base.activation_checkpointing=true", "optimizer.matrix_learning_rate=1e-3", "loop.steps=2"]
    done = CliRunner().invoke(app, command(store, tmp_path / "run", *changes, "validation.every=0")[3:])
    assert done.exit_code == 0, done.output
    assert all(torch.isfinite(torch.tensor(record[1:])).all() for record in losses(tmp_path / "run"))


def environment() -> dict[str, str]:
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE", "RANK", "WORLD"))}
    return keep | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def command(store: Path, out: Path, *changes: str, verb: str = "sft") -> list[str]:
    words = [sys.executable, "-m", "t2l", "train", verb, MICRO_RECIPE, f"data.store={store}"]
    return [*words, *QUICK, *changes, "-o", str(out), "--cpu"]


def losses(out: Path) -> list[Any]:
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], record["loss"], record["grad_norm"]) for record in records]


def run(words: list[str], expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=600)
    assert done.returncode == expect, done.stderr
    return done


@pytest.fixture(scope="module")
def whole(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(command(store, out))
    return out


def test_a_run_ends_with_a_checkpoint_that_generates(whole: Path) -> None:
    from t2l.model import TextToLora

    t2l = TextToLora.from_pretrained(whole / "checkpoint")
    (adapter,) = t2l.generate(["Give the word in capital letters."])
    assert adapter.spec.base_model == "t2l-embedded-base"
    assert t2l.metadata["recipe"]["loop"]["steps"] == 6
    assert [step for step, _, _ in losses(whole)] == [1, 2, 3, 4, 5, 6]
    measured = [json.loads(line) for line in (whole / "validation.jsonl").read_text().splitlines()]
    assert [record["step"] for record in measured] == [0, 3, 6]
    assert {"loss", "plain_base", "other_description"} <= set(measured[0])
    assert measured[0]["loss"] == pytest.approx(measured[0]["plain_base"], abs=1e-5), "training begins at the base"
    assert t2l.metadata["step"] == min((record["loss"], record["step"]) for record in measured[1:])[1]
    assert list((whole / "tensorboard").iterdir())


def test_a_killed_run_goes_on_bit_for_bit(store: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(command(store, out), env=environment(), stderr=subprocess.DEVNULL)
    try:
        metrics = out / "metrics.jsonl"
        while not (metrics.is_file() and len(metrics.read_text().splitlines()) >= 3):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert len(losses(out)) < 6
    run(command(store, out))
    assert losses(out) == losses(whole)
    assert (out / "validation.jsonl").read_text() == (whole / "validation.jsonl").read_text()
    theirs = (whole / "checkpoint" / "model.safetensors").read_bytes()
    assert (out / "checkpoint" / "model.safetensors").read_bytes() == theirs


def test_a_run_with_average_cosine_and_clipping_by_module_goes_on_bit_for_bit(store: Path, tmp_path: Path) -> None:
    changes = ["loop.ema=0.9", "loop.schedule=cosine", "loop.clip_each=true", "loop.steps=4", "condition.noise=0.2"]
    changes += ["optimizer.matrix_learning_rate=1e-2", "loss.views=2", "data.mixture={word-1: 0.5, '*': 0.5}"]
    for out, steps in (("whole", [4]), ("parts", [2, 4])):
        for stop in steps:
            if stop < 4:
                _stopped_after(command(store, tmp_path / out, *changes)[3:], stop)
            else:
                done = CliRunner().invoke(app, command(store, tmp_path / out, *changes)[3:])
                assert done.exit_code == 0, done.output
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    results = [(tmp_path / out / "checkpoint" / "model.safetensors").read_bytes() for out in ("whole", "parts")]
    assert results[0] == results[1]


def _stopped_after(words: list[str], steps: int) -> None:
    """Runs a command in whose so many-th step Ctrl-C is pressed: the first one saves."""
    from t2l.training.loop import _Run

    original = _Run._step

    def step(self: Any, number: int) -> Any:
        if number + 1 == steps:
            signal.raise_signal(signal.SIGINT)
        return original(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Run, "_step", step)
        assert CliRunner().invoke(app, words).exit_code == 143


def test_sigterm_saves_and_leaves(store: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = command(store, out, "loop.save_every=1000")
    process = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
    metrics = out / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_text()):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 143, said
    assert "the same command goes on from there" in said
    done = len(losses(out))
    assert RunFolder(out).last() == done
    run(words)
    assert losses(out) == losses(whole)


def test_two_runs_on_one_folder(store: Path, whole: Path, tmp_path: Path) -> None:
    """Whoever comes second is told so, and changes nothing."""
    out = tmp_path / "run"
    words = command(store, out)
    with RunFolder(out).locked():
        said = CliRunner(env={"COLUMNS": "300"}).invoke(app, words[3:])
        assert said.exit_code == 2 and "Another process trains" in said.stderr, said.output
        assert [path.name for path in out.iterdir()] == [".lock"]
    both = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment()) for _ in range(2)]
    told = [process.communicate(timeout=300)[1] for process in both]
    statuses = [process.returncode for process in both]
    assert sorted(statuses) in ([0, 2], [0, 0]), told  # the second is refused, or came when the first was done
    assert "Traceback" not in "".join(told) and losses(out) == losses(whole)


@pytest.mark.parametrize("sharded", [False, True], ids=["whole base", "base sharded by FSDP"])
def test_two_processes_give_the_losses_of_one(sharded: bool, store: Path, whole: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = tmp_path / "run"
    words = command(store, out, *(["base.shard=true"] if sharded else []))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    run([*launch, *words[1:]])
    pairs = zip(losses(out), losses(whole), strict=True)
    assert all(one == pytest.approx(two, abs=1e-5) for one, two in pairs)


def test_a_changed_recipe_is_refused_with_the_difference_unless_told(store: Path, whole: Path) -> None:
    words = command(store, whole, "optimizer.learning_rate=1e-2")[3:]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 2
    assert "optimizer.learning_rate: 0.001 -> 0.01" in said.stderr
    assert "--accept-changes" in said.stderr
    before = losses(whole)
    again = CliRunner().invoke(app, [*command(store, whole)[3:], "loop.keep=3"])
    assert again.exit_code == 0, "what changes nothing that is computed may change"
    assert losses(whole) == before


@pytest.mark.parametrize("verb", ["lora", "multi-task"])
def test_a_single_lora_is_trained_by_the_same_loop(verb: str, store: Path, tmp_path: Path) -> None:
    from t2l.adapter import Adapter

    out = tmp_path / "run"
    words = command(store, out, "data.tasks=word-1", "loop.steps=2", "validation.every=0", verb=verb)[3:]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert Adapter.load(out / "adapter").spec.base_model == "t2l-embedded-base"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["data.tasks=word-9"], "has no task 'word-9'"),
        (["data.tasks=word-5"], "not trained on"),
        (["base.quantization=4bit"], "bitsandbytes"),
        (["base.attention=flash_attention_2"], "base.attention=sdpa"),
        (["loop.trackers=trackio"], "pip install trackio"),
    ],
)
def test_what_cannot_be_is_said(store: Path, tmp_path: Path, changes: list[str], said: str) -> None:
    done = CliRunner().invoke(app, command(store, tmp_path / "run", *changes)[3:])
    assert done.exit_code == 2, done.output
    assert said in done.stderr


def test_a_full_disk_leaves_the_older_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "run")
    tensors = {"weight": torch.arange(3.0)}
    folder.save(2, tensors, {"optimizers": []}, {"step": 2})

    def full(*args: Any) -> None:
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"step 4 cannot be written(.|\n)*goes on from step 2"):
        folder.save(4, tensors, {"optimizers": []}, {"step": 4})
    assert folder.saved() == [2]
    assert torch.equal(folder.load(2)[0]["weight"], tensors["weight"])
    assert [path.name for path in folder.steps.iterdir()] == ["00000002"]


def test_the_last_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for step in (2, 4, 6, 8):
        folder.save(step, {"weight": torch.zeros(1)}, {}, {})
    folder.prune(2, best=2)
    assert folder.saved() == [2, 6, 8]


def test_half_a_line_of_a_killed_process_is_cut(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    folder.forget_after(1)
    assert folder.metrics.read_text() == '{"step": 1, "loss": 1.0}\n'


class Line(Job):
    """A straight line through the origin, learned from one point; at chosen steps its loss is something else."""

    def __init__(self, wrong: dict[int, float]) -> None:
        self.line = self.module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.line.weight)
        self.wrong = wrong

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(self.module.parameters(), lr=0.1)]

    def learn(self, step: int, rank: int, world: int) -> Done:
        loss = (self.module(torch.ones(1, 1)) - 1).square().sum() * self.wrong.get(step, 1.0)
        loss.backward()
        return Done(loss.detach(), 1, 1)

    def identify(self, step: int) -> list[dict[str, Any]]:
        return [{"task": f"task of step {step}", "sample": number} for number in range(2)]

    def validation_parts(self) -> int:
        return 0

    def validate(self, part: int) -> dict[str, float]:
        raise AssertionError("there is nothing to validate")


def one_process(**changes: Any) -> Any:
    known: dict[str, Any] = {"num_processes": 1, "process_index": 0, "is_main_process": True}
    known |= {"init_trackers": lambda *_, **__: None, "log": lambda *_, **__: None}
    return SimpleNamespace(**(known | {"device": torch.device("cpu"), "wait_for_everyone": lambda: None} | changes))


def learn(tmp_path: Path, wrong: dict[int, float], *changes: str) -> tuple[Line, list[str], RunFolder]:
    recipe = load_recipe(MICRO_RECIPE, ["loop.steps=40", "loop.warmup=0", "validation.every=0", *changes])
    job, said, folder = Line(wrong), [], RunFolder(tmp_path / "run")
    folder.folder.mkdir()
    run_job(job, recipe.loop, folder, one_process(), validate_every=0, say=said.append)
    return job, said, folder


def test_an_update_that_is_not_finite_is_left_out_and_its_samples_are_kept(tmp_path: Path) -> None:
    job, said, folder = learn(tmp_path, {7: float("nan"), 9: float("inf")})
    assert bool(torch.isfinite(job.line.weight).all())
    assert any("the update is left out" in line for line in said)
    incidents = [json.loads(line) for line in folder.incidents.read_text().splitlines()]
    assert [(record["step"], record["kind"]) for record in incidents] == [(8, "not finite"), (10, "not finite")]
    assert incidents[0]["samples"] == [{"task": "task of step 7", "sample": 0}, {"task": "task of step 7", "sample": 1}]


def test_a_spike_is_said_and_its_samples_are_kept(tmp_path: Path) -> None:
    _, said, folder = learn(tmp_path, {30: 1e6})
    assert any("times the median" in line for line in said)
    (record,) = [json.loads(line) for line in folder.incidents.read_text().splitlines()]
    assert (record["step"], record["kind"]) == (31, "spike")


def test_too_many_failures_in_a_row_end_the_run(tmp_path: Path) -> None:
    wrong = dict.fromkeys(range(4, 40), float("nan"))
    with pytest.raises(T2LError, match="3 steps in a row(.|\n)*optimizer.learning_rate"):
        learn(tmp_path, wrong, "loop.patience=3")


# --- the plan -----------------------------------------------------------------------------------------------------


def real_config(model: str) -> Any:
    """The shapes of the real base, made on the spot."""
    from transformers import Gemma2Config, LlamaConfig, MistralConfig, Qwen3Config

    if "Mistral" in model:
        return MistralConfig(num_key_value_heads=8, vocab_size=32000)
    if "smollm2" in model:
        return LlamaConfig(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
            num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
        )  # fmt: skip
    if "Llama" in model:
        return LlamaConfig(
            vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
            num_attention_heads=32, num_key_value_heads=8,
        )  # fmt: skip
    if "gemma" in model:
        return Gemma2Config()
    return Qwen3Config(
        vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    )  # fmt: skip


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_passes_its_dry_run(name: str, tmp_path: Path) -> None:
    recipe: Recipe = load_recipe(name)
    words = ["train", "sft", name, "--dry-run"]
    real_config(recipe.base.model).save_pretrained(tmp_path)
    words.append(f"base.model={tmp_path}")
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert plan["memory_total"] <= plan["memory_limit"], plan["memory"]
    assert plan["hours"] > 0
    if name == "mistral-7b-paper":
        assert plan["trained_parameters"] == 55_424_000
        assert plan["base_parameters"] == 7_241_732_096
    assert not list(Path("runs").glob("*")) if Path("runs").exists() else True


def test_a_store_made_for_another_base_is_refused_and_one_folder_in_two_spellings_is_one_base(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaConfig

    from t2l.base_structure import load_tokenizer
    from t2l.training.frozen_base import check_base_of_store

    manifest = DataStore.open(store).manifest
    tokenizer = load_tokenizer(manifest["base"])
    for name, template in (("same", tokenizer.chat_template), ("other", "{{ messages[0].content }}")):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path / name)
        LlamaConfig(vocab_size=len(tokenizer)).save_pretrained(tmp_path / name)
    assert check_base_of_store(manifest, manifest["base"]) is None
    assert check_base_of_store(manifest, str(tmp_path / "same")) is None  # another name, the same tokenizer
    with pytest.raises(BaseModelError, match="has another tokenizer or chat template.\nPrepare the data for this base"):
        check_base_of_store(manifest, str(tmp_path / "other"))
    monkeypatch.chdir(tmp_path)
    assert check_base_of_store({"base": str(tmp_path / "other")}, "./other/") is None
    assert "not with which tokenizer" in str(check_base_of_store({"base": "a"}, "b"))
    words = ["data.store=" + str(store), "base.model=" + str(tmp_path / "other")]
    ended = CliRunner().invoke(app, ["train", "sft", MICRO_RECIPE, "--out", "run", *words])
    assert ended.exit_code == 2 and "another tokenizer" in ended.output, ended.output
