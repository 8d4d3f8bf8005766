"""Training on a store, end to end on a tiny base: exact losses, resumption after a kill, processes, bad input."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from helpers import enable_checkpointing, random_weights, tiny_base, tokens
from t2l.batched import apply_batched
from t2l.cli import app
from t2l.errors import OutputError, RecipeError, T2LError
from t2l.lora import LoraSpec
from t2l.training.cross_entropy import chunked_loss
from t2l.training.recipes import Recipe, load_recipe, recipe_names
from t2l.training.run_folder import RunFolder
from t2l.training.sft import IGNORED, Batch, SftConfig, answer_loss, sft_loss
from t2l.training.sft_step import MicroBatch, Terms, backward_through
from t2l.training.trainer import Done, Job
from t2l.training.trainer import run as run_job

ROOT = Path(__file__).resolve().parents[1]
QUICK = ["loop.steps=6", "loop.save_every=2", "loop.batch=4", "loop.micro_batch=2", "validation.every=3"]
QUICK += ["validation.samples=2", "validation.tasks=2", "data.max_length=48", "loop.log_every=2"]


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
            loss = answer_loss(base, own.ids_ST, own.labels_ST, 0.1, at_once=at_once)
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


def gradients_of(base: Any, terms: Terms, micro: MicroBatch) -> tuple[float, list[torch.Tensor]]:
    source = Given(LoraSpec.from_base(base.config))
    torch.manual_seed(7)
    loss = backward_through(base, source, micro, terms)  # pyright: ignore[reportArgumentType]
    return loss, [parameter.grad for parameter in source.parameters()]  # pyright: ignore[reportReturnType]


def test_recomputed_activations_give_the_same_gradients() -> None:
    terms = Terms(SftConfig(0.1, 1e-3, neftune=5.0))
    micro = MicroBatch(batch(), torch.zeros(3, 1))
    base = tiny_base().train()
    plain = gradients_of(base, terms, micro)
    enable_checkpointing(base, reentrant=False)
    torch.testing.assert_close(gradients_of(base, terms, micro), plain)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch.compile looks at every input
def test_a_compiled_base_gives_the_same_gradients_and_is_not_compiled_at_each_step() -> None:
    from torch._dynamo.testing import CompileCounter

    from t2l.training.frozen_base import decoder_layers

    terms, counter = Terms(SftConfig()), CompileCounter()
    plain, compiled = tiny_base().train(), tiny_base().train()
    for layer in decoder_layers(compiled):
        layer.compile(backend=counter, dynamic=True)
    spec = LoraSpec.from_base(plain.config)
    adapters = apply_batched(compiled, spec, random_weights(spec, 3), range(3))
    counts = []
    for length in (9, 12, 10, 14, 8, 11):
        micro = MicroBatch(batch(length=length), torch.zeros(3, 1))
        source = Given(spec)
        loss = backward_through(compiled, source, micro, terms, adapters=adapters)  # pyright: ignore
        counts.append(counter.frame_count)
        expected_loss, expected = gradients_of(plain, terms, micro)
        assert loss == pytest.approx(expected_loss, abs=1e-5)
        torch.testing.assert_close([p.grad for p in source.parameters()], expected, rtol=1e-4, atol=1e-6)
    torch.compiler.reset()
    assert counts[0] > 0
    assert counts[-1] == counts[2], counts


def test_a_step_is_the_loss_of_the_embedded_world() -> None:
    """The same numbers as `sft_loss`, through which the world's studies train."""
    base, own = tiny_base(), batch()
    config = SftConfig(label_smoothing=0.1, weight_penalty=1e-2)
    loss, gradients = gradients_of(base, Terms(config), MicroBatch(own, torch.zeros(3, 1)))
    source = Given(LoraSpec.from_base(base.config))
    expected = sft_loss(base, source, torch.zeros(3, 1), [own], config)  # pyright: ignore[reportArgumentType]
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-6)
    torch.testing.assert_close(gradients, [parameter.grad for parameter in source.parameters()])


def test_distillation_from_a_teacher_that_reads_the_same_is_nothing_where_adapters_are_nothing() -> None:
    base, own = tiny_base(), batch()
    micro = MicroBatch(own, torch.zeros(3, 1), teacher=own)
    source = Given(LoraSpec.from_base(base.config))
    for value in source.b.values():
        torch.nn.init.zeros_(value)
    terms = Terms(SftConfig(weight_penalty=0.0), distill=1.0)
    assert backward_through(base, source, micro, terms) == pytest.approx(0, abs=1e-6)  # pyright: ignore
    assert gradients_of(base, terms, micro)[0] > 1e-4


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


def environment() -> dict[str, str]:
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE", "RANK", "WORLD"))}
    return keep | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def command(store: Path, out: Path, *changes: str, verb: str = "sft") -> list[str]:
    words = [sys.executable, "-m", "t2l", "train", verb, "embedded-real-tasks", f"data.store={store}"]
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
    theirs = (whole / "checkpoint" / "model.safetensors").read_bytes()
    assert (out / "checkpoint" / "model.safetensors").read_bytes() == theirs


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


def test_a_single_lora_is_trained_by_the_same_loop(store: Path, tmp_path: Path) -> None:
    from t2l.adapter import Adapter

    out = tmp_path / "run"
    words = command(store, out, "data.tasks=word-1", "loop.steps=2", "validation.every=0", verb="lora")[3:]
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

    micro_batches = 2

    def __init__(self, wrong: dict[int, float]) -> None:
        self.module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.module.weight)
        self.wrong = wrong

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(self.module.parameters(), lr=0.1)]

    def learn(self, step: int, number: int, share: float) -> Done:
        loss = (self.module(torch.ones(1, 1)) - 1).square().sum() * self.wrong.get(step, 1.0)
        (loss * share).backward()
        return Done(float(loss.detach()), 1, 1)

    def identify(self, step: int, number: int) -> list[dict[str, Any]]:
        return [{"task": f"task of step {step}", "sample": number}]

    def validation_parts(self) -> int:
        return 0

    def validate(self, part: int) -> dict[str, float]:
        raise AssertionError("there is nothing to validate")


def one_process(**changes: Any) -> Any:
    known: dict[str, Any] = {"num_processes": 1, "process_index": 0, "is_main_process": True}
    return SimpleNamespace(**(known | {"device": torch.device("cpu"), "wait_for_everyone": lambda: None} | changes))


def learn(tmp_path: Path, wrong: dict[int, float], *changes: str) -> tuple[Line, list[str], RunFolder]:
    recipe = load_recipe("embedded-real-tasks", ["loop.steps=40", "loop.warmup=0", "validation.every=0", *changes])
    job, said, folder = Line(wrong), [], RunFolder(tmp_path / "run")
    folder.folder.mkdir()
    run_job(job, recipe, folder, one_process(), say=said.append)
    return job, said, folder


def test_an_update_that_is_not_finite_is_left_out_and_its_samples_are_kept(tmp_path: Path) -> None:
    job, said, folder = learn(tmp_path, {7: float("nan"), 9: float("inf")})
    assert bool(torch.isfinite(job.module.weight).all())
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


def test_processes_that_do_not_divide_the_micro_batches_are_refused(tmp_path: Path) -> None:
    recipe = load_recipe("embedded-real-tasks")
    accelerator = one_process(num_processes=3)
    with pytest.raises(RecipeError, match="3 processes cannot share out the 2 micro-batches"):
        run_job(Line({}), recipe, RunFolder(tmp_path), accelerator, say=print)


# --- the plan -----------------------------------------------------------------------------------------------------


def real_config(model: str) -> Any:
    """The shapes of the real base, made on the spot."""
    from transformers import Gemma2Config, LlamaConfig, MistralConfig, Qwen3Config

    if "Mistral" in model:
        return MistralConfig(num_key_value_heads=8, vocab_size=32000)
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
    if recipe.base.model != "t2l-embedded-base":
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
