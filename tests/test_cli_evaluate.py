"""evaluate, report, flops and inspect --compare as people use them: every row, the gate, a kill, and bad input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from benchmark_data import write_benchmarks, write_task
from helpers import fill, random_weights, save_tiny_llama, tiny_config, untrained
from lab.micro_world import write_exam
from lab.world.tasks import Split, tasks_of
from t2l.adapter import Adapter
from t2l.baselines.arrow import arrow_model
from t2l.baselines.hyperdecoder import input_states, load_hyperdecoder
from t2l.baselines.static import average_of
from t2l.bases import Base, load_base
from t2l.data.descriptions import read_description_files
from t2l.encoders import OneHotEncoder
from t2l.hypernet import HyperNetwork
from t2l.library import Library
from t2l.lora import LoraSpec
from t2l.model import TextToLora
from t2l.training.sft import IGNORED

pytest.importorskip("lm_eval")
pytest.importorskip("accelerate")
from command import SOURCE, document, done, files_below, refused, t2l
from t2l.errors import T2LError
from t2l.evaluation.benchmarks import PAPER10
from t2l.evaluation.rows import GATE
from t2l.evaluation.runs import read_run
from t2l.evaluation.wording import _texts, paper_wording
from test_evaluation import Drawn

FEW = ("--limit", "4", "--max-new-tokens", "5")


def exported(folder: Path, split: Split, count: int) -> None:
    """Micro-tasks of several families as local data; beside them what ``t2l data prepare`` reads."""
    tasks = tasks_of(split)
    write_exam(folder, tasks[:: len(tasks) // count][:count], 8)
    training, described = [], []
    for file in sorted(folder.glob("*/task.json")):
        about, name = json.loads(file.read_text()), file.parent.name
        described.append(
            {"name": name, "descriptions": about["descriptions"], "evaluation_descriptions": about["paraphrases"]}
        )
        for line in map(json.loads, file.with_name("train.jsonl").read_text().splitlines()):
            training.append({"task": name, "prompt": line["input"], "response": line["output"]})
    for name, lines in (("tasks", training), ("descriptions", described)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def known_texts(place: Path) -> list[str]:
    """Every description that a test below gives to the checkpoint."""
    own = [text for one in read_description_files([place / "descriptions.jsonl"]).sets for text in one.descriptions]
    own += [text for one in read_description_files([place / "descriptions.jsonl"]).sets for text in one.evaluation]
    paper = [wording for name in PAPER10 if (wording := paper_wording(name))]
    own += [text for one in paper for text in (*one.matched, *one.paraphrase)]
    own += [text for name in ("up", "down") for text in (f"Do {name}.", f"Say {name}.")]
    return list(dict.fromkeys([*own, *_texts()["vague"], *_texts()["junk"], "."]))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A tiny base and a checkpoint for it, tasks of the micro world, and every baseline, made by commands."""
    folder = tmp_path_factory.mktemp("evaluate")
    base = save_tiny_llama(folder / "base")
    exam = folder / "exam"
    exported(exam, "far", 3)
    exported(folder / "learned", "unseen-operation", 5)
    texts = known_texts(exam) + known_texts(folder / "learned")
    encoder = OneHotEncoder(list(dict.fromkeys(texts)))
    untrained(base, encoder, std=0.6, training_tasks=5).save_pretrained(folder / "checkpoint")
    recipe: dict[str, Any] = {
        "base": {"model": str(base), "dtype": "float32", "attention": "eager"},
        "encoder": {"kind": "one-hot", "names": encoder.names},
        "lora": {"rank": 2, "dropout": 0.0},
        "data": {"store": str(folder / "store"), "descriptions_per_task": 4},
        "hypernetwork": {"trunk_dim": 8, "head_dim": 8, "dropout": 0.0},
        "optimizer": {"learning_rate": 0.05, "matrix_learning_rate": 0.05},
        "loop": {"steps": 8, "tasks": 4, "samples": 1, "save_every": 8, "log_every": 8},
        "validation": {"every": 0},
        "library": {"split": "all", "steps": 6, "together": 8, "check_every": 3, "learning_rate": 0.1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    own = {**recipe, "data": {**recipe["data"], "store": str(folder / "exam-store")}}
    (folder / "own.yaml").write_text(yaml.safe_dump(own))
    for what, store in (("learned", "store"), ("exam", "exam-store")):
        tasks, described = folder / what / "tasks.jsonl", folder / what / "descriptions.jsonl"
        done("data", "prepare", tasks, "-d", described, "-o", folder / store, "--base", base, "--validation", "1")
    done("train", "library", folder / "recipe.yaml", "-o", folder / "library", "--cpu")
    done("train", "library", folder / "own.yaml", "-o", folder / "own", "--cpu")
    done("train", "lora", folder / "recipe.yaml", "-o", folder / "lora", "--cpu")
    done("train", "hyperdecoder", folder / "recipe.yaml", "-o", folder / "hyper", "--cpu")
    return SimpleNamespace(
        folder=folder,
        base=base,
        exam=exam,
        checkpoint=folder / "checkpoint",
        library=folder / "library",
        own=folder / "own",
        multi_task=folder / "lora" / "adapter",
        hyperdecoder=folder / "hyper" / "hyperdecoder",
        descriptions=folder / "learned" / "descriptions.jsonl",
        recipe=folder / "recipe.yaml",
    )


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("T2L_CACHE", str(tmp_path / "cache"))


def run_of(place: SimpleNamespace, *words: str | Path, out: str = "run") -> dict[str, Any]:
    """A run on the exam, from its file."""
    done("evaluate", "--checkpoint", place.checkpoint, "--data", place.exam, "--out", out, *words)
    return read_run(Path(out))


def rows_of(run: dict[str, Any], row: str) -> list[dict[str, Any]]:
    return [item for item in run["items"] if item["row"] == row]


def questions(place: SimpleNamespace, task: str, part: str = "test") -> list[tuple[str, str]]:
    lines = (place.exam / task / f"{part}.jsonl").read_text().splitlines()
    return [(pair["input"], pair["output"]) for pair in map(json.loads, lines)]


# --- every row, through the command -----------------------------------------------------------------------------------


def alone(base: Base, adapter: Adapter | None, asked: list[str]) -> list[str]:
    """The answers of one adapter put on by itself."""
    given = {} if adapter is None else {"spec": adapter.spec, "weights": adapter.weights}
    return [base.answer([text], max_new_tokens=5, **given)[0] for text in asked]


def by_arrow(place: SimpleNamespace, base: Base, task: str, asked: list[str]) -> list[str]:
    routed = arrow_model(base.model, Library.open(place.library))
    return alone(Base(routed, base.tokenizer, base.name), None, asked)


def by_hyperdecoder(place: SimpleNamespace, base: Base, task: str, asked: list[str]) -> list[str]:
    source, answers = load_hyperdecoder(place.hyperdecoder), []
    for text in asked:
        ids_1T = torch.tensor(base.tokenizer([base.prompt(text)], add_special_tokens=False)["input_ids"])
        more_1T = torch.cat([ids_1T, ids_1T[:, -1:]], dim=1)  # a token to be answered, which is not read
        labels_1T = torch.full_like(more_1T, IGNORED)
        labels_1T[:, -1] = more_1T[:, -1]
        weights = source(input_states(base.model, more_1T, labels_1T))
        answers += base.answer([text], max_new_tokens=5, spec=source.spec, weights=weights)
    return answers


def by_average(place: SimpleNamespace, base: Base, task: str, asked: list[str]) -> list[str]:
    return alone(base, average_of(Library.open(place.library)), asked)


ROWS: dict[str, tuple[tuple[str, ...], Callable[..., list[str]]]] = {
    "base": ((), lambda place, base, task, asked: alone(base, None, asked)),
    "average": (("library",), by_average),
    "multi-task": (
        ("multi_task",),
        lambda place, base, task, asked: alone(base, Adapter.load(place.multi_task), asked),
    ),
    "arrow": (("library",), by_arrow),
    "hyperdecoder": (("hyperdecoder",), by_hyperdecoder),
    "task-specific": (
        ("own",),
        lambda place, base, task, asked: alone(base, Library.open(place.own).adapter(task), asked),
    ),
}
OPTIONS = {
    "library": "--library",
    "multi_task": "--multi-task",
    "hyperdecoder": "--hyperdecoder",
    "own": "--task-adapters",
}


@pytest.mark.parametrize("row", ROWS)
def test_a_rows_answers_are_those_of_what_it_names(row: str, place: SimpleNamespace) -> None:
    needs, expected = ROWS[row]
    given = [word for need in needs for word in (OPTIONS[need], getattr(place, need))]
    run = run_of(place, "--rows", row, *given, *FEW)
    base = load_base(str(place.base))
    assert list(run["rows"]) == [row] and len(run["items"]) == 3 * 4
    for task in run["tasks"]:
        asked = questions(place, task)[:4]
        found = [item for item in rows_of(run, row) if item["task"] == task]
        answers = expected(place, base, task, [question for question, _ in asked])
        assert [item["answer"] for item in found] == [answer.split("\n")[0] for answer in answers]
        assert [item["target"] for item in found] == [target for _, target in asked]
    if row != "base":
        plain = run_of(place, "--rows", "base", *FEW, out="plain")
        assert [item["answer"] for item in plain["items"]] != [item["answer"] for item in run["items"]]


def test_the_t2l_row_has_the_descriptions_adapters_and_no_description_in_any_prompt(place: SimpleNamespace) -> None:
    run = run_of(place, "--rows", "t2l,description-in-prompt", "--wordings", "2", *FEW)
    base, checkpoint = load_base(str(place.base)), TextToLora.from_pretrained(place.checkpoint)
    for task in run["tasks"]:
        texts = json.loads((place.exam / task / "task.json").read_text())["descriptions"][:2]
        asked = [question for question, _ in questions(place, task)[:4]]
        for number, adapter in enumerate(checkpoint.generate(texts)):
            own = [i for i in rows_of(run, "t2l") if (i["task"], i["number"]) == (task, number)]
            assert [item["answer"] for item in own] == [a.split("\n")[0] for a in alone(base, adapter, asked)]
            assert [item["prompt"] for item in own] == [base.prompt(text) for text in asked], "the input alone"
        said = [item["prompt"] for item in rows_of(run, "description-in-prompt") if item["task"] == task]
        assert said == [base.prompt(f"{text}\n\n{question}") for text in texts for question in asked]


def test_a_description_goes_into_a_prompt_whose_template_knows_no_system_role(
    place: SimpleNamespace, tmp_path: Path
) -> None:
    base = save_tiny_llama(tmp_path / "strict")
    config = json.loads((base / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    (base / "chat_template.jinja").write_text(strict + "{{ bos_token }}{{ messages[0]['content'] }}>")
    run = run_of(place, "--base", base, "--rows", "description-in-prompt", "--wordings", "1", *FEW)
    assert all(item["prompt"].startswith("<s>") and "\n\n" in item["prompt"] for item in run["items"])


def test_examples_come_from_the_train_split_alone(place: SimpleNamespace) -> None:
    run = run_of(place, "--rows", "shots", "--shots", "3", *FEW)
    assert list(run["rows"]) == ["3-shot"]
    for item in run["items"]:
        train, test = questions(place, item["task"], "train"), questions(place, item["task"])
        assert not {question for question, _ in train} & {question for question, _ in test}
        *shown, asked = item["prompt"].removeprefix("<s>").split("\n")
        pairs = [tuple(line.split(">", 1)) for line in shown]
        assert len(pairs) == 3 and set(pairs) <= set(train)
        assert asked.removesuffix(">") == test[item["document"]][0]


def test_nearest_takes_the_adapter_of_the_description_that_is_nearest(place: SimpleNamespace, tmp_path: Path) -> None:
    names, tasks = Library.open(place.library).names, sorted(path.name for path in place.exam.glob("*/"))
    said = {task: json.loads((place.exam / task / "task.json").read_text())["descriptions"] for task in tasks}
    # each task's own text describes one adapter of the library, so that one has to be taken
    lines = [{"name": names[place_ + 1], "descriptions": [said[task][0]]} for place_, task in enumerate(tasks)]
    (tmp_path / "known.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    known = ("--library", place.library, "--descriptions", "known.jsonl")
    run = run_of(place, "--rows", "nearest", "--wordings", "1", *known, *FEW)
    base = load_base(str(place.base))
    for number, task in enumerate(tasks):
        adapter = Library.open(place.library).adapter(names[number + 1])
        asked = [question for question, _ in questions(place, task)[:4]]
        found = [item["answer"] for item in run["items"] if item["task"] == task]
        assert found == [answer.split("\n")[0] for answer in alone(base, adapter, asked)]
    error = refused("evaluate", "--checkpoint", place.checkpoint, "--data", place.exam, "--library", place.library)
    assert "No adapter of the library has a description" in error and "--descriptions" in error


def test_a_library_does_without_the_adapters_of_measured_tasks(place: SimpleNamespace, tmp_path: Path) -> None:
    library, own = Library.open(place.library), Library.open(place.own)
    for source in (library, own):
        for name in source.names:
            source.adapter(name).save(tmp_path / "mixed" / name)
    given = ("--rows", "average,arrow", *FEW)
    clean = run_of(place, *given, "--library", place.library)
    mixed = run_of(place, *given, "--library", "mixed", out="mixed-run")
    assert (clean["library"], mixed["library"]) == (5, 5)
    assert mixed["notes"] == ["3 adapters of the library are of tasks that are measured; they were omitted."]
    for row in ("average", "arrow"):
        assert [i["answer"] for i in rows_of(mixed, row)] == [i["answer"] for i in rows_of(clean, row)]
    words = ("evaluate", "--checkpoint", place.checkpoint, "--data", place.exam, "--rows", "average", "--out", "none")
    assert "knows the answers" in refused(*words, "--library", place.own)
    assert not Path("none").exists()


def test_all_rows_stand_in_one_table(place: SimpleNamespace) -> None:
    baselines = [word for name, option in OPTIONS.items() for word in (option, getattr(place, name))]
    known = ("--descriptions", place.descriptions)
    shown = done("evaluate", "--checkpoint", place.checkpoint, "--data", place.exam, *baselines, *known, *FEW).stdout
    run = read_run(next(Path("t2l-runs").iterdir()))
    wanted = ["base", "description-in-prompt", "3-shot", "t2l", "average", "nearest", "multi-task", "arrow"]
    assert sorted(run["rows"]) == sorted([*wanted, "hyperdecoder", "task-specific"])
    for row in run["rows"]:
        assert row in shown
    assert run["training_tasks"] == 5 and run["findings"]["passed"] is None
    assert "The gate" not in shown, "rows alone decide no gate"


# --- training what is compared ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hyperdecoder_is_trained_by_the_same_loop_and_goes_on_after_a_kill(
    place: SimpleNamespace, tmp_path: Path
) -> None:
    held = ("validation.every=3", "validation.tasks=1", "validation.samples=4", "loop.save_every=2", "--cpu")
    shown = done("train", "hyperdecoder", place.recipe, *held, "-o", "whole").stderr
    assert "plain_base" in shown and "other_description" not in shown
    plan = document("train", "hyperdecoder", place.recipe, "--dry-run")
    source = load_hyperdecoder("whole/hyperdecoder")
    assert plan["trained_parameters"] == source.num_parameters and source.embedding_dim == 32
    program = (
        "import os, signal, sys\n"
        "from t2l.training.loop import _Run\n"
        "keep = _Run._save\n"
        "def save(self, *args, **more):\n"
        "    keep(self, *args, **more)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "_Run._save = save\n"
        "from t2l.cli import main\n"
        "main()\n"
    )
    words = ["train", "hyperdecoder", str(place.recipe), *held, "-o", "killed"]
    ended = subprocess.run([sys.executable, "-c", program, *words], env=environment(), capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not Path("killed/hyperdecoder").exists()
    done(*words)
    one, other = (load_file(f"{run}/hyperdecoder/model.safetensors") for run in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    contrast = ("loss.contrast=0.1", "loss.views=2", "loop.samples=2")
    said = refused("train", "hyperdecoder", place.recipe, *contrast, "-o", "no", "--cpu")
    assert "loss.contrast=0" in said


def test_checkpoints_know_how_many_tasks_they_were_trained_on(place: SimpleNamespace) -> None:
    done("train", "sft", place.recipe, "-o", "few", "data.tasks=[]", "loop.steps=2", "--cpu")
    done("train", "recon", place.recipe, f"recon.library={place.library}", "recon.steps=2", "-o", "recon", "--cpu")
    for folder in ("few", "recon"):
        assert TextToLora.from_pretrained(f"{folder}/checkpoint").metadata["training_tasks"] == 4, "one is held out"


# --- the gate ---------------------------------------------------------------------------------------------------------


def test_the_gate_has_its_conditions_one_baseline_more_and_a_verdict(place: SimpleNamespace) -> None:
    words = ("--gate", "--multi-task", place.multi_task, "--wordings", "2", "--max-new-tokens", "5")
    run = run_of(place, *words)
    assert set(run["rows"]) == {*GATE, "multi-task"}
    static = next(v for v in run["variants"] if v["row"] == "static")
    assert static["description"] is None
    assert [v["description"] for v in run["variants"] if v["row"] == "empty"] == ["."] * 2 * 3
    own = {v["description"] for v in run["variants"] if v["row"] == "t2l"}
    others = [v for v in run["variants"] if v["row"] == "other-task"]
    for variant in others:
        texts = json.loads((place.exam / variant["task"] / "task.json").read_text())["descriptions"]
        assert variant["description"] not in texts
    assert own & {variant["description"] for variant in others}
    last = run["findings"]["verdict"][-1]
    few = run_of(place, *words, "--limit", "2", out="few")
    assert "6 items are too few" in few["findings"]["verdict"][-1] and few["findings"]["passed"] is None
    assert "24 items are too few" in last, "three tasks of eight questions"
    shown = done("evaluate", "--checkpoint", place.checkpoint, "--data", place.exam, *words, "--out", "run").stdout
    assert last in shown, "the same command again says the same"


@pytest.mark.parametrize("protocol", ["paper", "loglikelihood"])
def test_the_ten_benchmarks_go_through_the_gate_offline(protocol: str, place: SimpleNamespace, tmp_path: Path) -> None:
    data = write_benchmarks(tmp_path / "data", count=3)
    words = ("--tasks", "paper10", "--data", data, "--protocol", protocol, "--gate", "--wordings", "1", "--out", "run")
    named = ("--tasks", "mbpp", *words[2:])
    assert "--run-generated-code" in refused("evaluate", "--checkpoint", place.checkpoint, *named)
    assert not Path("run").exists()
    given = ("--run-generated-code", "--limit", "1", "--max-new-tokens", "2")
    found = document("evaluate", "--checkpoint", place.checkpoint, *words, *given)
    assert set(found["rows"]) == set(GATE) and list(found["tasks"]) == list(PAPER10)
    assert found["settings"]["protocol"] == protocol
    items = read_run(Path("run"))["items"]
    assert {(item["row"], item["task"]) for item in items} == {(row, task) for row in found["rows"] for task in PAPER10}


@pytest.mark.parametrize("name", ["L-sft-s1", "M-recon-s5-zscore-factorized", "S-sft-s3"])
def test_the_gate_runs_on_checkpoints_of_the_reference(
    name: str, shared_dir: Path, place: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    import t2l.reference
    from lab.world.base import build_tokenizer

    theirs = shared_dir / "fixtures" / "sakana-checkpoints" / name
    if not theirs.is_dir():
        pytest.skip(f"needs {theirs.name} among the reference's checkpoints")
    for task in ("up", "down"):
        write_task(tmp_path / "data", task, [(f"{n}", f"{n}") for n in range(15)], paraphrases=[f"Say {task}."])
    config = AutoConfig.from_pretrained(theirs / "base", vocab_size=99)
    fill(AutoModelForCausalLM.from_config(config)).save_pretrained(tmp_path / "base")  # pyright: ignore
    build_tokenizer().save_pretrained(tmp_path / "base")
    opened = t2l.reference.import_checkpoint

    def with_another_encoder(source: Any) -> TextToLora:
        found = opened(source)
        found.encoder = Drawn(found.hypernetwork.embedding_dim)
        return found

    monkeypatch.setattr(t2l.reference, "import_checkpoint", with_another_encoder)
    words = ("--checkpoint", theirs, "--base", "base", "--data", "data", "--wordings", "1", "--max-new-tokens", "2")
    found = document("evaluate", "--gate", *words)
    assert set(found["rows"]) == set(GATE)
    assert found["findings"]["passed"] is False, "random weights describe nothing"
    shapes = refused("evaluate", "--gate", *words[:2], "--base", place.base, *words[4:])
    assert re.search(r"q_proj is 32x256, the adapter is for \d+x\d+", shapes)


# --- interruption -----------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(SOURCE), *sys.path])
    return {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def test_a_run_that_was_killed_goes_on_and_ends_like_one_that_was_not(place: SimpleNamespace) -> None:
    words = ["evaluate", "--checkpoint", str(place.checkpoint), "--data", str(place.exam), "--rows", "base,t2l"]
    words += ["--batch-tokens", "1", "--out"]
    command = [sys.executable, "-m", "t2l", *words, "killed"]
    answers = Path("killed/answers.jsonl")
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        until = time.monotonic() + 240
        while not (answers.is_file() and answers.read_bytes().count(b"\n") >= 3):
            assert running.poll() is None and time.monotonic() < until, "it ended before it could be killed"
            time.sleep(0.002)
        running.kill()
    assert not Path("killed/run.json").exists()
    kept = answers.read_bytes().count(b"\n")
    assert "was interrupted" in refused("report", "killed")
    note = done(*words, "killed").stderr
    assert re.search(rf"Note: {kept} answers that 'killed' has already are used", note)
    done(*words, "whole")
    one, other = read_run(Path("killed")), read_run(Path("whole"))
    assert one["items"] == other["items"] and one["findings"] == other["findings"]
    assert sorted(answers.read_text().splitlines()) == sorted(Path("whole/answers.jsonl").read_text().splitlines())


def test_ctrl_c_leaves_a_run_that_goes_on(place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    from t2l.evaluation import harness

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    words = ("evaluate", "--checkpoint", place.checkpoint, "--data", place.exam, "--rows", "base", *FEW, "--out", "run")
    with monkeypatch.context() as patch:
        patch.setattr(harness, "run_variants", stopped)
        assert t2l(*words).exit_code == 130
    assert files_below(Path("run")) == ["settings.json"]
    done(*words)
    assert read_run(Path("run"))["items"]


def test_the_first_part_of_the_help_fits_on_a_screen() -> None:
    from t2l.cli import app

    shown = CliRunner(env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).invoke(app, ["evaluate", "--help"]).stdout
    first, _, more = shown.partition("More: ")
    assert (
        max(map(len, first.splitlines())) <= 80
        and len(first.splitlines()) <= 45
        and "--suite" in first
        and "--score-only" in more
        and "--seed" in more
    )


# --- bad input --------------------------------------------------------------------------------------------------------


def made_by_us(folder: Path) -> list[str]:
    """All files but those of the caches, in which data that were read may stay."""
    return [file for file in files_below(folder) if not file.startswith("cache")]


def test_bad_words_are_named_and_leave_nothing_behind(place: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("just text")
    (tmp_path / "bad.jsonl").write_text('{"descriptions": ["x"]}\n')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    (tmp_path / "empty").mkdir()
    before = made_by_us(tmp_path)
    given = ("evaluate", "--checkpoint", place.checkpoint)
    exam = (*given, "--data", place.exam)
    for words, said in (
        ((*given, "--tasks", "arc_chalenge"), "No task is called 'arc_chalenge'.\nDid you mean 'arc_challenge'"),
        ((*given, "--tasks", "gsm8k", "--data", "empty"), "hf download openai/gsm8k --repo-type dataset"),
        ((*given, "--tasks", "boolq"), "hf download aps/super_glue"),  # the hub is not asked in tests
        ((*given, "--tasks", "boolq", "--data", "nowhere"), "There is no folder 'nowhere'"),
        ((*given, "--tasks", "all", "--data", "empty"), "No task was named"),
        ((*exam, "--rows", "averge"), "No row is called 'averge'.\nDid you mean 'average'"),
        ((*exam, "--rows", "average"), "needs --library FOLDER"),
        ((*exam, "--rows", "hyperdecoder"), "needs --hyperdecoder FOLDER"),
        ((*exam, "--hyperdecoder", "empty"), "'empty' holds no hyperdecoder.\nTrain one: t2l train hyperdecoder"),
        ((*exam, "--hyperdecoder", place.checkpoint), "is no hyperdecoder"),
        ((*exam, "--library", "empty"), "no library of adapters"),
        ((*exam, "--multi-task", "empty"), "adapter_config.json"),
        ((*exam, "--multi-task", place.library), "holds 5 adapters; one for all tasks is needed"),
        ((*exam, "--task-adapters", place.library), "has none for"),
        ((*exam, "--descriptions", "bad.yaml"), "cannot be read as descriptions"),
        ((*exam, "--descriptions", "bad.jsonl"), "has no 'name'"),
        ((*exam, "--out", "full"), "holds something else"),
        ((*exam, "--base", "nowhere/at-all"), "nowhere/at-all"),
        ((*exam, "--device", "tpu9"), "--device"),
        (("evaluate", "--checkpoint", "empty", "--data", place.exam), "is neither a checkpoint"),
    ):
        assert said in refused(*words), said
    assert made_by_us(tmp_path) == before
    assert t2l(*exam, "--limit", "0").exit_code == 2 and t2l(*exam, "--protocol", "mine").exit_code == 2


def test_what_is_for_another_base_is_refused_with_both_shapes_before_anything_is_measured(
    place: SimpleNamespace, tmp_path: Path
) -> None:
    other = LoraSpec.from_base(tiny_config(), rank=2)
    for name in ("one", "two"):
        Adapter(other, random_weights(other)).save(tmp_path / "foreign" / name)
    network = HyperNetwork(other, 24, trunk_dim=8, head_dim=8)
    from t2l.baselines.hyperdecoder import save_hyperdecoder

    save_hyperdecoder(network, tmp_path / "foreign-hyper", {})
    exam = ("evaluate", "--checkpoint", place.checkpoint, "--data", place.exam, "--out", "run")
    shapes = "q_proj is 32x256, the adapter is for 24x24"
    for words in (
        ("--multi-task", "foreign/one"),
        ("--library", "foreign", "--rows", "average"),
        ("--library", "foreign", "--rows", "base,arrow"),
        ("--hyperdecoder", "foreign-hyper"),
    ):
        assert shapes in refused(*exam, *words)
    assert not Path("run").exists()
    bases = save_foreign(tmp_path / "other-base")
    assert "q_proj is 24x24, the adapter is for 32x256" in refused(*exam, "--base", bases)


def save_foreign(folder: Path) -> Path:
    from transformers import AutoModelForCausalLM

    from lab.world.base import build_tokenizer

    fill(AutoModelForCausalLM.from_config(tiny_config(vocab_size=99))).save_pretrained(folder)  # pyright: ignore
    build_tokenizer().save_pretrained(folder)
    return folder


def test_an_endless_answer_is_bounded_and_counted(place: SimpleNamespace, tmp_path: Path) -> None:
    write_task(tmp_path / "data", "talk", [("a", "b"), ("c", "d")], until=["never said"], max_new_tokens=100000)
    words = ("--data", "data", "--rows", "base", "--max-new-tokens", "3", "--no-chat")
    told = done("evaluate", "--checkpoint", place.checkpoint, *words, "--out", "run")
    assert "No map of the tasks: 'Do talk.' is not one of" in told.stderr, "this encoder knows certain texts alone"
    shown = told.stdout
    assert "2 of 2 answers reached their bound of tokens and were cut." in shown
    assert all(item["cut"] and len(item["answer"]) <= 3 for item in read_run(Path("run"))["items"])
    done("report", "run")
    assert "2 of 2 answers were cut at their bound" in Path("t2l-report.md").read_text()


def test_a_folder_with_other_settings_is_left_alone(place: SimpleNamespace) -> None:
    words = ("evaluate", "--checkpoint", place.checkpoint, "--data", place.exam, "--rows", "base", *FEW, "--out", "run")
    done(*words)
    before = Path("run/run.json").read_bytes()
    said = refused(*words, "--seed", "1")
    assert "another seed" in said and "--restart" in said
    assert Path("run/run.json").read_bytes() == before
    done(*words, "--seed", "1", "--restart")
    assert read_run(Path("run"))["settings"]["seed"] == 1


def test_without_the_harness_the_command_that_brings_it_is_named(
    place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    assert "pip install 't2l[eval]'" in refused("evaluate", "--checkpoint", place.checkpoint, "--data", place.exam)


# --- the report -------------------------------------------------------------------------------------------------------


def test_runs_of_several_checkpoints_become_one_page_with_a_scaling_curve(place: SimpleNamespace) -> None:
    spec = TextToLora.from_pretrained(place.checkpoint)
    for count in (2, 9):
        fill(spec.hypernetwork, seed=count, std=0.6)
        TextToLora(spec.encoder, spec.hypernetwork, {"training_tasks": count}).save_pretrained(f"of-{count}")
    for name in (place.checkpoint, "of-2", "of-9"):
        words = ("--data", place.exam, "--rows", "base,t2l", "--wordings", "1", *FEW, "--out", f"run-{Path(name).name}")
        done("evaluate", "--checkpoint", name, *words)
    runs = ("run-checkpoint", "run-of-9", "run-of-2")
    said = document("report", *runs, "--out", "page.html")
    assert said == {"page": "page.html", "tables": "page.md", "runs": 3}
    page, tables = Path("page.html").read_text(), Path("page.md").read_text()
    curve = page[page.index("More training tasks") :]
    assert "<svg" in curve and all(f">{count}</text>" in curve for count in (2, 5, 9))
    rows = tables[tables.index("### More training tasks") :].splitlines()
    assert [line.split("|")[1].strip() for line in rows if re.match(r"\| \d", line)] == ["2", "5", "9"]
    assert "already exists" in refused("report", *runs, "--out", "page.html")
    done("report", *runs, "--out", "page.html", "--force")
    before = files_below(Path())
    assert "does not exist" in refused("report", runs[0], "run-missing", "--out", "new.html")
    Path("run-of-2/run.json").write_text("{")
    assert "run-of-2" in refused("report", *runs, "--out", "new.html")
    assert files_below(Path()) == before, "no half report"


# --- flops and inspect ------------------------------------------------------------------------------------------------


def test_flops_prints_costs_for_any_base(place: SimpleNamespace) -> None:
    found = document("flops", "--base", place.base, "--examples", "300", "--questions", "5")
    assert found["setting"]["examples"] == 300 and {cost["name"] for cost in found["costs"]}
    for cost in found["costs"]:
        assert cost["total"] == pytest.approx(cost["first"] + 5 * cost["each"])
    shown = done("flops", "--checkpoint", place.checkpoint).stdout
    assert "0.856 against 4.177 TFLOPs" in shown and "TFLOPs a question" in shown
    more = document("flops", "--base", place.base, "--examples", "0")
    assert more["costs"][1]["each"] < found["costs"][1]["each"], "fewer examples, cheaper prompts"
    assert "nowhere/at-all" in refused("flops", "--base", "nowhere/at-all")
    assert t2l("flops", "--question", "0").exit_code == 2


def test_inspect_compares_what_descriptions_change(place: SimpleNamespace) -> None:
    texts = known_texts(place.exam)[:4]
    asked = [word for text in texts for word in ("-d", text)]
    found = document("inspect", place.checkpoint, "--compare", *asked)
    assert found["descriptions"] == texts and len(found["pairs"]) == 6
    assert sum(site["share"] for site in found["sites"]) == pytest.approx(1)
    assert "Where descriptions change the most" in done("inspect", place.checkpoint, *asked).stdout
    assert "cannot be compared" in refused("inspect", place.checkpoint, "--compare", "-d", texts[0])
    assert "is an adapter" in refused("inspect", place.multi_task, "--compare")
    assert "no heat map" in refused("inspect", place.checkpoint, "--compare", *asked, "--heatmap", "x.png")
    assert not Path("x.png").exists()


def test_the_lora_that_reads_comes_with_the_shipped_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its row needs no option then; a folder of one's own, another base and the gate do without it."""
    from t2l.commands.evaluate import Options, _rows
    from t2l.model import reading_lora, shipped_checkpoint

    own = reading_lora(shipped_checkpoint("smollm2-135m"))
    assert own is not None
    monkeypatch.delenv("T2L_CHECKPOINT")
    for checkpoint in (None, "smollm2-135m"):
        options = Options(checkpoint=checkpoint)
        assert options.adapters == {"--multi-task-prompt": own} and "multi-task-prompt" in _rows(options, "suite")
    assert Options(multi_task_prompt=tmp_path).adapters == {"--multi-task-prompt": tmp_path}
    unlike: list[dict[str, Any]] = [{"checkpoint": str(tmp_path)}, {"base": "mistral"}, {"gate": True}]
    for others in unlike:
        assert Options(**others).adapters == {}
        assert "multi-task-prompt" not in _rows(Options(**others), "suite")
    with pytest.raises(T2LError, match="--multi-task-prompt FOLDER"):
        _rows(Options(checkpoint=str(tmp_path), rows="multi-task-prompt"), "suite")
