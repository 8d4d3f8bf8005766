"""The command line: what each verb makes and prints, and that bad input gets two readable lines and loses nothing."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file
from typer.testing import CliRunner

from command import document, done, environment, files_below, refused, t2l
from helpers import save_tiny_llama, tiny_config, untrained
from lab.world.base import base_config, build_tokenizer
from t2l import cli, storage
from t2l.adapter import Adapter
from t2l.commands import generate as reading
from t2l.commands.generate import Request, read_requests, slug
from t2l.encoders import MiniLmEncoder
from t2l.errors import DescriptionError, T2LError
from t2l.model import TextToLora

NAMES = ["sort the words", "add three", "Écris en été", "日本語で答える", *(f"task {number}" for number in range(300))]


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, a checkpoint for it that knows task names, and one that reads descriptions by MiniLM."""
    where = tmp_path_factory.mktemp("assets")
    base = save_tiny_llama(where / "base")
    untrained(base, NAMES).save_pretrained(where / "checkpoint")
    untrained(base, MiniLmEncoder()).save_pretrained(where / "words")
    return where


@pytest.fixture
def checkpoint(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint that knows `NAMES`; the working directory is a fresh one."""
    monkeypatch.chdir(tmp_path)
    return assets / "checkpoint"


# ------------------------------------------------------------------------------------------------ words and help


def test_help_names_every_verb() -> None:
    text = done("--help").stdout
    for verb in ("generate", "run", "import", "inspect", "demo"):
        assert re.search(rf"\b{verb}\b", text)
        assert "Usage" in done(verb, "--help").stdout
    assert done("--version").stdout.startswith("t2l") and done("-V").stdout == done("--version").stdout
    assert "--install-completion" in text and "--restart" in done("evaluate", "--help").stdout
    assert "--force" in done("evaluate", "--help").stdout
    assert t2l().exit_code == 2  # no verb: the help, and not "done"


def imported(*words: str) -> set[str]:
    """The modules that a fresh process imports to do ``words``."""
    command = [sys.executable, "-X", "importtime", "-m", "t2l", *words]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if line.startswith("import time:")}


def test_help_imports_nothing_heavy() -> None:
    modules = imported("--help")
    assert "typer" in modules
    assert not modules & {"torch", "numpy", "transformers", "safetensors", "yaml", "t2l.model"}


def test_generate_imports_no_library_of_models(assets: Path, tmp_path: Path) -> None:
    modules = imported(
        "generate", "Sort the words.", "--checkpoint", str(assets / "words"), "--out", str(tmp_path / "a")
    )
    assert "torch" in modules
    assert not modules & {"transformers", "peft", "sentence_transformers", "huggingface_hub", "matplotlib"}
    assert (tmp_path / "a" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["genrate", "x"], "generate"),
        (["data", "preparee", "x"], "prepare"),
        (["generate", "x", "--froce"], "--force"),
        (["generate", "x", "--form", "portabel"], "portable"),
        (["run", "x", "--inputt", "y"], "--input"),
    ],
)
def test_misspelt_words_get_near_ones(words: list[str], near: str) -> None:
    result = t2l(*words)
    assert result.exit_code == 2
    assert near in result.stderr and result.stdout == ""


# ------------------------------------------------------------------------------------------------------- generate


def test_one_description_is_one_folder(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "a"
    report = document("generate", " add three ", "--checkpoint", checkpoint, "--out", out)
    (made,) = report["adapters"]
    assert made["folder"] == str(out) and made["description"] == "add three"
    adapter = Adapter.load(out)
    source = TextToLora.from_pretrained(checkpoint)
    (expected,) = source.generate(["add three"])
    assert made["digest"] == adapter.digest == expected.digest
    assert adapter.provenance["description"] == "add three"
    assert report["checkpoint_digest"] == source.digest == adapter.provenance["checkpoint"]
    assert {"encode", "generate", "write", "generate_per_adapter"} == set(report["milliseconds"])
    assert files_below(out.parent) == [
        "a",
        *(f"a/{name}" for name in ("README.md", "adapter_config.json", "adapter_model.safetensors", "t2l.json")),
    ]


def test_several_descriptions_are_folders_known_beforehand(checkpoint: Path, tmp_path: Path) -> None:
    words = ["sort the words", "Écris en été", "日本語で答える"]
    report = document("generate", *words, "--checkpoint", checkpoint, "--out", tmp_path / "many")
    folders = [Path(made["folder"]) for made in report["adapters"]]
    digest = TextToLora.from_pretrained(checkpoint).digest
    assert [folder.name for folder in folders] == [Request(word, None, "").folder_name(digest) for word in words]
    assert [folder.name[:-9] for folder in folders] == ["sort-the-words", "ecris-en-ete", "adapter"]
    assert all(re.fullmatch(r"[0-9a-f]{8}", folder.name[-8:]) for folder in folders)
    assert [Adapter.load(folder).provenance["description"] for folder in folders] == words
    assert len({made["digest"] for made in report["adapters"]}) == 3
    error = refused("generate", "task 1", *words, "--checkpoint", checkpoint, "--out", tmp_path / "many")
    assert str(folders[0]) in error and "--force" in error
    assert len(list((tmp_path / "many").iterdir())) == 3  # refused before anything was made
    again = document("generate", *words, "--checkpoint", checkpoint, "--out", tmp_path / "many", "--force")
    assert [made["folder"] for made in again["adapters"]] == [str(folder) for folder in folders]


def test_without_out_adapters_go_below_adapters(checkpoint: Path, tmp_path: Path) -> None:
    result = done("generate", "add three", "--checkpoint", checkpoint)
    (folder,) = (tmp_path / "adapters").iterdir()
    assert folder.name.startswith("add-three-")
    lines = result.stdout.splitlines()
    assert lines[0] == f"adapters/{folder.name}"
    assert re.search(r"encoding \d+ ms, generation \d+ ms", result.stdout)
    assert f"t2l run 'add three' --input TEXT --checkpoint {checkpoint}" in result.stdout
    assert "PeftModel.from_pretrained" in result.stdout


def test_many_adapters_show_each_with_its_description(checkpoint: Path) -> None:
    result = done("generate", "add three", "task 7", "--checkpoint", checkpoint)
    assert re.search(r"adapters/task-7-[0-9a-f]{8}\n  task 7\n2 adapters: .* ms each\)", result.stdout)


@pytest.mark.parametrize(
    ("options", "scaling", "dtype"),
    [([], 1.0, torch.float32), (["--form", "rslora", "--dtype", "bfloat16"], None, torch.bfloat16)],
)
def test_form_and_dtype(options: list[str], scaling: float | None, dtype: torch.dtype, checkpoint: Path) -> None:
    done("generate", "add three", "--checkpoint", checkpoint, "--out", "a", *options)
    adapter = Adapter.load("a")
    assert adapter.spec.scaling == (scaling or TextToLora.from_pretrained(checkpoint).spec.scaling)
    assert {tensor.dtype for tensor in load_file("a/adapter_model.safetensors").values()} == {dtype}


def test_a_file_of_lines(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks.txt").write_bytes("\ufeffadd three\r\n\n   \n  Écris en été  \nadd three\n".encode())
    report = document("generate", "task 1", "--file", "tasks.txt", "--checkpoint", checkpoint)
    assert [made["description"] for made in report["adapters"]] == ["task 1", "add three", "Écris en été"]
    assert report["notes"] == ["Line 5 of tasks.txt repeats line 1 of tasks.txt; its adapter is made once."]


def test_a_file_of_json_lines_through_a_pipe(checkpoint: Path) -> None:
    lines = [{"description": "add three", "name": "Plus 3", "id": 7}, {"description": "task 1", "name": None}]
    data = "\n".join(json.dumps(line) for line in lines).encode()
    report = document("generate", "--file", "-", "--checkpoint", checkpoint, stdin=data)
    assert [made["name"] for made in report["adapters"]] == ["Plus 3", None]
    assert Path(report["adapters"][0]["folder"]).name.startswith("plus-3-")
    assert Path(report["adapters"][1]["folder"]).name.startswith("task-1-")


def test_a_line_of_a_text_file_may_begin_with_a_brace(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("{x} becomes y\nadd three")
    assert [request.description for request in read_requests([], str(tmp_path / "a.txt"), print)] == [
        "{x} becomes y",
        "add three",
    ]


def test_duplicates_are_made_once_and_said(checkpoint: Path) -> None:
    result = done("generate", "add three", " add three\n", "--checkpoint", checkpoint, "--out", "a")
    assert result.stderr == "Note: Argument 2 repeats argument 1; its adapter is made once.\n"
    assert Adapter.load("a").provenance["description"] == "add three"


def test_embeddings_are_kept_on_disk(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = document("generate", "add three", "--checkpoint", assets / "words", "--out", "a")
    monkeypatch.setattr(MiniLmEncoder, "embed", lambda self, texts: pytest.fail("embedded again"))
    second = document("generate", "add three", "--checkpoint", assets / "words", "--out", "b")
    assert first["adapters"][0]["digest"] == second["adapters"][0]["digest"]


def test_slugs() -> None:
    assert slug("Translate  the WORD, into French!") == "translate-the-word-into-french"
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("x" * 100) == "x" * 40
    assert slug("one two three four five six seven eight nine") == "one-two-three-four-five-six-seven-eight"
    assert slug("?!") == "adapter"


# ------------------------------------------------------------------------------------------------- bad descriptions


def test_a_description_longer_than_the_encoder_reads_is_noted(assets: Path, tmp_path: Path) -> None:
    text = "sort the words " * 100
    report = document("generate", text, "--checkpoint", assets / "words", "--out", tmp_path / "a")
    (note,) = report["notes"]
    assert "the encoder reads 256 of them" in note
    result = done("generate", text + "now", "--checkpoint", assets / "words", "--out", tmp_path / "b")
    assert result.stderr.startswith("Note: ") and "not seen" in result.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "There is no description"),
        ([""], "Argument 1: The description is blank"),
        (["add three", " \t\n"], "Argument 2: The description is blank"),
        (["\u200b"], "blank"),
        (["x" * 9000], "9000 characters; at most 8192"),
        (["caf\udce9"], "not valid UTF-8"),
        (["a\x00b"], "control character"),
        (["add tree"], "'add three'"),  # unknown to a one-hot encoder: near names
    ],
)
def test_bad_descriptions(words: list[str], problem: str, checkpoint: Path, tmp_path: Path) -> None:
    assert problem in refused("generate", *words, "--checkpoint", checkpoint, "--out", tmp_path / "a")
    assert files_below(tmp_path) in ([], ["t2l-cache", "t2l-cache/embeddings.sqlite"])


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.txt", b"", "holds no description"),
        ("a.txt", b"\n  \n", "holds no description"),
        ("a.txt", b"add three\ncaf\xe9\n", "Line 2 of a.txt is not UTF-8: byte 0xe9 at place 4"),
        ("a.txt", b"add three\na\x01b\n", "Line 2 of a.txt: The description holds the control character"),
        ("a.txt", b"\xff\xfea\x00d\x00d\x00", "not UTF-8"),
        ("a.jsonl", b'{"description": "add three"}\n\n{"description": \n', "Line 3 of a.jsonl is not JSON"),
        ("a.jsonl", b"add three\n", "Line 1 of a.jsonl is not JSON"),
        ("a.jsonl", b"[1]\n", "holds list"),
        ("a.jsonl", b'{"desription": "add three"}', "no 'description'.\nDid you mean 'desription'?"),
        ("a.jsonl", b"{}", "no 'description'"),
        ("a.jsonl", b'{"description": 3}', "'description' is 3, not text"),
        ("a.jsonl", b'{"description": "add three", "name": ["a"]}', "'name' is"),
        ("a.jsonl", b'{"description": " "}', "Line 1 of a.jsonl: The description is blank"),
        ("a.jsonl", b'{"description": "a\\ud800"}', "not valid UTF-8"),
        ("a.jsonl", b"[" * 100_000, "not JSON"),
        ("a.txt", b'{"description": "add three"}\nadd three', "Line 2 of a.txt is not JSON"),
        ("a.json", b'[{"description": "add three"}', "'a.json' is not JSON"),
        ("a.txt", b'[\n {"description": "add three"},\n]', "'a.txt' is not JSON"),
        ("a.json", b'{"sort": "Sort the words."}', "an object without 'description'"),
        ("a.json", b'[{"description": "add three"}, 3]', "Item 2 of a.json holds int"),
        ("a.csv", b"task,text\nsort,Sort the words.\n", "names no column 'description'"),
        ("a.csv", b"description,name\nSort, then join.,sort\n", "Row 2 of a.csv has 3 columns"),
        ("a.csv", b'description,name\n"Sort', "'a.csv' is not CSV"),
        ("a.yaml", b"- description: [", "cannot be read as YAML"),
    ],
)
def test_bad_files(name: str, data: bytes, problem: str, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    assert problem in refused("generate", "--file", name, "--checkpoint", checkpoint)
    assert files_below(tmp_path) == [name]


TWO = [("Sort the words.", "sort"), ("Say it, briefly.", None)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json.dumps([{"description": one, "name": other} for one, other in TWO])),
        ("a.json", json.dumps([{"description": one, "name": other} for one, other in TWO], indent=2)),
        ("a.txt", json.dumps([{"description": one, "name": other} for one, other in TWO], indent=2)),
        ("a.json", "".join(json.dumps({"description": one, "name": other}) + "\n" for one, other in TWO)),
        ("a.csv", 'description,name\nSort the words.,sort\n"Say it, briefly.",\n'),
        ("a.csv", "Name;Description;score\r\nsort;Sort the words.;1\r\n;Say it, briefly.;2\r\n"),
        ("a.txt", 'name,description\nsort,Sort the words.\n,"Say it, briefly."\n'),
        ("a.tsv", "description\tname\nSort the words.\tsort\nSay it, briefly.\t\n"),
        ("a.yaml", "- {description: Sort the words., name: sort}\n- 'Say it, briefly.'\n"),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_files_of_records_are_told_from_plain_text(name: str, text: str, mark: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(mark + text.encode())
    found = read_requests([], str(tmp_path / name), pytest.fail)
    assert [(request.description, request.name) for request in found] == TWO


def test_lists_of_texts_and_plain_text_that_begins_as_json_does(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('["Sort the words.", "Add three."]')
    assert [request.place for request in read_requests([], str(file), pytest.fail)] == [
        f"item {number} of {file}" for number in (1, 2)
    ]
    file.write_text('{\n  "description": "Sort the words."\n}\n')
    assert [request.description for request in read_requests([], str(file), pytest.fail)] == ["Sort the words."]
    plain = ["[Formal] Rewrite the text.", "{input} is a word, give its plural.", "Description, in short"]
    (tmp_path / "a.txt").write_text("\n".join(plain))
    found = read_requests([], str(tmp_path / "a.txt"), pytest.fail)
    assert [request.description for request in found] == plain


JSON_LINE = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["description", "name", "x"]), inner),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary()
    | st.text().map(str.encode)
    | st.lists(JSON_LINE.map(json.dumps)).map(lambda x: "\n".join(x).encode()),
    ending=st.sampled_from(["txt", "jsonl", "json", "csv", "yaml"]),
)
def test_any_file_is_read_or_refused(data: bytes, ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.{ending}"
    file.write_bytes(data)
    try:
        requests = read_requests([], str(file), lambda note: None)
    except DescriptionError as problem:
        assert str(problem)
        return
    assert requests
    for request in requests:
        assert request.description and request.description == request.description.strip()
        assert re.fullmatch(r"[a-z0-9-]{1,40}-[0-9a-f]{8}", request.folder_name("digest"))


@pytest.mark.parametrize("file", ["missing.txt", ".", "a\0b", "x" * 5000])
def test_files_that_cannot_be_read(file: str, checkpoint: Path) -> None:
    assert "cannot be read" in refused("generate", "--file", file, "--checkpoint", checkpoint)


def test_a_surrogate_in_a_name_breaks_no_folder_name() -> None:
    assert reading.slug("caf\udce9") == "caf"
    with pytest.raises(DescriptionError):
        read_requests(["caf\udce9"], None, print)


# -------------------------------------------------------------------------------------------------- bad checkpoints


def damaged(checkpoint: Path, folder: Path, damage: str) -> Path:
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights, config = folder / "model.safetensors", folder / "config.json"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "foreign":
        config.write_text('{"model_type": "llama"}')
    elif damage == "not JSON":
        config.write_bytes(b"\xff")
    elif damage == "NaN":
        tensors = load_file(weights)
        next(iter(tensors.values())).view(-1)[0] = float("nan")
        storage.write_tensors(weights, tensors)
    return folder


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("truncated", "not a whole safetensors file"),
        ("no weights", "does not exist"),
        ("foreign", "not the config of a t2l checkpoint"),
        ("not JSON", "cannot be read as"),
        ("NaN", "NaN or infinite"),
    ],
)
@pytest.mark.parametrize("verb", ["generate", "run", "inspect"])
def test_a_damaged_checkpoint(verb: str, damage: str, problem: str, checkpoint: Path, tmp_path: Path) -> None:
    folder = damaged(checkpoint, tmp_path / "c", damage)
    words = {
        "generate": ["generate", "add three", "--checkpoint", folder],
        "run": ["run", "add three", "--input", "1", "--checkpoint", folder],
        "inspect": ["inspect", folder],
    }
    assert problem in refused(*words[verb])
    assert not (tmp_path / "adapters").exists()


def test_no_checkpoint_there(checkpoint: Path, tmp_path: Path, shared_dir: Path) -> None:
    assert "no folder" in refused("generate", "x", "--checkpoint", "./missing")
    assert "is not a folder here and cannot be read" in refused("generate", "x", "--checkpoint", "nobody/nothing")
    reference = shared_dir / "fixtures" / "sakana-checkpoints" / "L-sft-s1"
    assert f"t2l import {reference} OUT" in refused("generate", "x", "--checkpoint", reference)
    assert files_below(tmp_path) == []


# ------------------------------------------------------------------------------------- folders, disks, interruptions


def test_an_existing_folder_is_never_overwritten_unasked(checkpoint: Path, tmp_path: Path) -> None:
    done("generate", "add three", "--checkpoint", checkpoint, "--out", "a")
    before = Adapter.load("a").digest
    assert "already exists" in refused("generate", "task 1", "--checkpoint", checkpoint, "--out", "a")
    assert Adapter.load("a").digest == before
    done("generate", "task 1", "--checkpoint", checkpoint, "--out", "a", "--force")
    assert Adapter.load("a").digest != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("years of work")
    error = refused("generate", "task 1", "--checkpoint", checkpoint, "--out", "mine", "--force")
    assert "holds something else" in error
    assert (tmp_path / "mine" / "thesis").read_text() == "years of work"


def test_places_that_cannot_be_written(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    for out in ("file", "file/a", "file/deeper/a"):
        refused("generate", "add three", "--checkpoint", checkpoint, "--out", out)
    assert "is a file" in refused("generate", "add three", "task 1", "--checkpoint", checkpoint, "--out", "file")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # tests may run as root
    monkeypatch.setattr(TextToLora, "from_pretrained", lambda *_, **__: pytest.fail("too late"))
    assert "no right to write" in refused("generate", "add three", "--checkpoint", checkpoint, "--out", "a")
    assert files_below(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "problem", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device")]
)
def test_a_full_disk(problem: Exception, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file, calls = storage.save_file, []

    def fills_up(tensors: Any, path: str, **options: Any) -> None:
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half")
            raise problem
        save_file(tensors, path, **options)

    monkeypatch.setattr(storage, "save_file", fills_up)
    result = t2l("generate", "add three", "task 1", "task 2", "--checkpoint", checkpoint, "--out", tmp_path / "many")
    assert result.exit_code == 2 and "No space left on device" in result.stderr
    assert "1 of 3 adapters were written, each whole" in result.stderr
    (whole,) = (tmp_path / "many").iterdir()
    assert Adapter.load(whole).provenance["description"] == "add three"


def test_ctrl_c_in_the_middle(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = Adapter.save, []

    def stopped(self: Adapter, *args: Any, **options: Any) -> Path:
        calls.append(self)
        if len(calls) == 2:
            monkeypatch.setattr("t2l.adapter.write_json", lambda *_: signal.raise_signal(signal.SIGINT))
        return save(self, *args, **options)

    monkeypatch.setattr(Adapter, "save", stopped)
    result = t2l("generate", "add three", "task 1", "task 2", "--checkpoint", checkpoint, "--out", tmp_path / "many")
    assert result.exit_code == 130 and result.stdout == ""
    assert "Stopped" in result.stderr and "1 of 3 adapters were written" in result.stderr
    assert "Traceback" not in result.stderr
    (whole,) = (tmp_path / "many").iterdir()
    assert Adapter.load(whole).provenance["description"] == "add three"


def test_ctrl_c_in_a_shell(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks.txt").write_text("\n".join(NAMES))
    command = [sys.executable, "-m", "t2l", "generate", "--file", "tasks.txt", "--checkpoint", str(checkpoint)]
    process = subprocess.Popen(
        [*command, "--out", "many"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    many = tmp_path / "many"
    while process.poll() is None and not (many.is_dir() and any(p.name[0] != "." for p in many.iterdir())):
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 130, stderr
    assert "Stopped" in stderr and "Traceback" not in stderr
    found = list(many.iterdir())
    assert 0 < len(found) < len(NAMES)
    assert {Adapter.load(folder).provenance["description"] for folder in found} <= set(NAMES)


# ------------------------------------------------------------------------------------------------------------- run


def test_run_puts_both_answers_side_by_side(assets: Path, checkpoint: Path) -> None:
    from t2l.bases import load_base

    words = ["run", "add three", "--input", "7", "--checkpoint", checkpoint, "--max-new-tokens", "6"]
    report = document(*words, "--input", "12", "oslo")
    (adapter,) = TextToLora.from_pretrained(checkpoint).generate(["add three"])
    base, texts = load_base(assets / "base"), ["7", "12", "oslo"]
    plain = base.answer(texts, max_new_tokens=6)
    adapted = base.answer(texts, spec=adapter.spec, weights=adapter.weights, max_new_tokens=6)
    told = [f"add three\nGive the answer only, without an explanation.\n\n{text}" for text in texts]
    prompted = base.answer(told, max_new_tokens=6)
    assert report["base"] == str(assets / "base")  # the one that the checkpoint names
    assert report["answers"] == [
        {"input": text, "base": before, "prompted": asked, "adapted": after}
        for text, before, asked, after in zip(texts, plain, prompted, adapted, strict=True)
    ]
    assert plain != adapted and plain != prompted
    assert report["confidence"] is None  # not calibrated
    shown = done(*words, "--base", assets / "base").stdout
    for words_shown in ("with the adapter", "base told the task", "base alone", "add three", "its chat template"):
        assert words_shown in shown
    assert "confidence" not in shown


def test_run_answers_in_all_ways(assets: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from t2l.bases import load_base

    words = ["run", "add three", "--input", "7", "--checkpoint", checkpoint, "--max-new-tokens", "6", "--all-ways"]
    told = ["add three\nGive the answer only, without an explanation.\n\n7"]
    made = TextToLora.from_pretrained(checkpoint)
    (adapter, other), base = made.generate(["add three", "sort the words"]), load_base(assets / "base")
    expected = [base.answer(told, spec=x.spec, weights=x.weights, max_new_tokens=6)[0] for x in (adapter, other)]
    report = document(*words)
    assert report["answers"][0]["t2l-in-prompt"] == expected[0] and "multi-task-prompt" not in report["answers"][0]
    assert any("left out" in note for note in report["notes"])
    monkeypatch.setattr("t2l.model._ASSETS", checkpoint.parent)  # as if it shipped
    other.save(checkpoint.with_name(f"{checkpoint.name}-reading"), force=True)
    report = document(*words)
    assert report["answers"][0]["multi-task-prompt"] == expected[1] and not report["notes"]
    assert "one LoRA, told" in done(*words).stdout


def test_run_reads_files_and_pipes(checkpoint: Path, tmp_path: Path) -> None:
    words = ["run", "add three", "--checkpoint", checkpoint, "--max-new-tokens", "2"]

    def inputs(*more: str | Path, stdin: bytes | None = None) -> list[str]:
        return [row["input"] for row in document(*words, *more, stdin=stdin)["answers"]]

    (tmp_path / "two.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo\r\n")
    assert inputs("--file", tmp_path / "two.txt") == ["one\r\n\r\ntwo"]
    assert inputs("-f", tmp_path / "two.txt", "--lines") == ["one", "two"]
    assert inputs(stdin=b"piped\ntext\n") == ["piped\ntext"]
    assert inputs("--lines", stdin=b"piped\ntext\n") == ["piped", "text"]
    assert inputs("-", "7", stdin=b"piped") == ["piped", "7"]
    assert inputs("7", stdin=b"not read") == ["7"]
    assert "cannot be read" in refused(*words, "--file", tmp_path / "none.txt")
    assert "not UTF-8" in refused(*words, stdin=b"\xff\xfe")
    assert "no input" in refused(*words, stdin=b" \n")


def test_run_takes_its_description_from_a_pipe(checkpoint: Path) -> None:
    words = ("run", "-", "--checkpoint", checkpoint, "--max-new-tokens", "2")
    report = document(*words, "7", "--input", "8", stdin=b"\xef\xbb\xbfadd three\n")
    assert report["description"] == "add three" and [row["input"] for row in report["answers"]] == ["8", "7"]
    for stdin, more in ((b"add three", ()), (b"add three", ("-",))):
        assert "inputs cannot come from it" in refused(*words, *more, stdin=stdin)
    assert "holds no description" in refused(*words, "7", stdin=b" \n")


def test_run_says_how_far_a_description_is_to_be_trusted() -> None:
    words = ["run", "--max-new-tokens", "4", "--input", "red green"]
    shown = done(*words, "Give the last word in capital letters.").stdout
    assert re.search(r"confidence 0\.\d\d, expected gain \+\d+ ROUGE-L points over the base alone", shown)
    assert re.search(r"confidence 0\.\d\d: low", done(*words, "Zxq!! vbn ??").stdout)


def test_what_run_refuses(checkpoint: Path, tmp_path: Path) -> None:
    def error(*words: str | Path) -> str:
        return refused("run", "add three", "--checkpoint", checkpoint, *words)

    assert "--input" in error()
    assert "hf auth login" in error("--input", "7", "--base", "nobody/nothing")
    assert "has room for 512" in error("--input", "7", "--max-new-tokens", "600")
    assert "cannot compute on 'warp'" in error("--input", "7", "--device", "warp")
    wide = base_config()
    wide.update({"hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2})
    from transformers import LlamaForCausalLM

    LlamaForCausalLM(wide).save_pretrained(tmp_path / "wide")
    build_tokenizer().save_pretrained(tmp_path / "wide")
    assert "64x256, the adapter is for 32x128" in error("--input", "7", "--base", tmp_path / "wide")


def test_run_needs_a_base(tmp_path: Path) -> None:
    untrained(tiny_config(), ["add three"]).save_pretrained(tmp_path / "c")
    assert "--base" in refused("run", "add three", "--input", "7", "--checkpoint", tmp_path / "c")


def test_run_says_when_a_base_has_no_chat_template(assets: Path, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for path in (assets / "base").iterdir():
        if path.suffix != ".jinja":
            (folder / path.name).write_bytes(path.read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    report = document("run", "add three", "-i", "7", "--checkpoint", checkpoint, "--base", folder)
    assert report["notes"] == [f"'{folder}' has no chat template, so it continues the plain text of each input."]


# ------------------------------------------------------------------------------------------------ import and inspect


@pytest.mark.parametrize("name", ["L-sft-s1", "M-recon-s5-zscore-factorized", "S-sft-s3"])
def test_import_then_generate_gives_the_reference_adapter(name: str, shared_dir: Path, tmp_path: Path) -> None:
    source, out = shared_dir / "fixtures" / "sakana-checkpoints" / name, tmp_path / "c"
    report = document("import", source, out)
    assert report["folder"] == str(out) and report["variant"] == name[0]
    imported_one = TextToLora.from_pretrained(out)
    assert imported_one.digest == report["digest"]
    expected = load_file(source / "expected.safetensors")
    (adapter,) = imported_one.generate_from_embeddings(expected["task_emb"][:1])
    for key, tensor in adapter.state_dict().items():
        wanted = expected[f"0:{key}"]  # its float32 values reach 10 and are themselves 3e-6 from exact arithmetic
        torch.testing.assert_close(tensor, wanted, rtol=0, atol=1e-6 * max(1.0, float(wanted.abs().max())))
    assert "already exists" in refused("import", source, out)
    shown = done("import", source, out, "--force").stdout
    assert f"t2l generate DESCRIPTION --checkpoint {out}" in shown


def test_import_chooses_one_of_several(shared_dir: Path, tmp_path: Path) -> None:
    source = shared_dir / "fixtures" / "sakana-checkpoints"
    error = refused("import", source, tmp_path / "c")
    assert "S-sft-s3" in error and "--checkpoint" in error
    assert document("import", source, tmp_path / "c", "--checkpoint", "S-sft-s3")["variant"] == "S"


def test_a_pickle_that_wants_code_is_refused(shared_dir: Path, tmp_path: Path) -> None:
    source = tmp_path / "evil"
    source.mkdir()
    for path in (shared_dir / "fixtures" / "sakana-checkpoints" / "L-sft-s1").glob("a*"):
        (source / path.name).write_bytes(path.read_bytes())
    with zipfile.ZipFile(source / "hypermod.pt", "w") as archive:
        program = f"cposix\nsystem\n(Vtouch {tmp_path / 'ran'}\ntR.".encode()
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")
    assert "asks to run code" in refused("import", source, tmp_path / "c")
    assert "asks to run code" in refused("inspect", source)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "c").exists()


def test_what_import_refuses(checkpoint: Path, shared_dir: Path, tmp_path: Path) -> None:
    assert "does not exist" in refused("import", "./missing", "c")
    assert "no hypermod.pt" in refused("import", checkpoint, "c")
    source = shared_dir / "fixtures" / "sakana-checkpoints" / "L-sft-s1"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("years of work")
    assert "holds something else" in refused("import", source, "mine", "--force")


def test_inspect_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    report = document("inspect", checkpoint)
    assert report["kind"] == "checkpoint" and report["norms"] is None
    shown = done("inspect", checkpoint).stdout
    for fact in (report["digest"], "32 -> 128 in layers 0 to 1", "one-hot", f"{report['parameters']:,}"):
        assert fact in shown
    assert "Norm of the weight change" not in shown
    assert "Norm of the weight change" in done("inspect", checkpoint, "--description", "add three").stdout
    assert "--description" in refused("inspect", checkpoint, "--heatmap", "map.png")
    assert not (tmp_path / "map.png").exists()


def test_inspect_an_adapter(checkpoint: Path, tmp_path: Path) -> None:
    done("generate", "add three", "--checkpoint", checkpoint, "--out", "a")
    report = document("inspect", "a", "--heatmap", "map.png")
    assert report["kind"] == "adapter" and report["provenance"]["description"] == "add three"
    assert report["norms"]["layers"] == [0, 1] and report["heatmap"] == "map.png"
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    shown = done("inspect", "a").stdout
    assert f"{report['norms']['values'][1][0]:.4g}" in shown and report["digest"] in shown
    assert "already exists" in refused("inspect", "a", "--heatmap", "map.png")
    done("inspect", "a", "--heatmap", "map.png", "--force")


def test_what_inspect_refuses(checkpoint: Path, tmp_path: Path) -> None:
    assert "neither a checkpoint" in refused("inspect", tmp_path)
    done("generate", "add three", "--checkpoint", checkpoint, "--out", "a")
    weights = tmp_path / "a" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert "not a whole safetensors file" in refused("inspect", "a")


# ---------------------------------------------------------------------------------------------- errors and bugs


def test_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    for words, env in ((["--debug"], {}), ([], {"T2L_DEBUG": "1"})):
        result = CliRunner(env=env).invoke(cli.app, [*words, "inspect", str(tmp_path)])
        assert result.exit_code == 2
        assert "Traceback" in result.stderr and "Error: " in result.stderr


def test_brackets_in_an_error_are_no_markup(tmp_path: Path) -> None:
    assert "[red]x[/red]" in refused("inspect", tmp_path / "[red]x[/red]")


def test_a_bug_of_ours_is_called_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("t2l.inspection.inspect", broken)
    monkeypatch.delenv("T2L_DEBUG", raising=False)
    monkeypatch.setattr(sys, "argv", ["t2l", "inspect", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert "ZeroDivisionError: by zero" in said and "bug in t2l" in said and "Traceback" not in said
    monkeypatch.setattr(sys, "argv", ["t2l", "--debug", "inspect", str(tmp_path)])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_json_stays_readable_where_stdout_is_ascii(checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "t2l", "generate", "Écris en été", "--checkpoint", str(checkpoint), "--json"]
    env = {**environment(), "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(command, env=env, capture_output=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.decode("ascii"))["adapters"][0]["description"] == "Écris en été"


def test_every_error_for_people_is_one_the_command_catches() -> None:
    import t2l.errors

    kinds = [kind for kind in vars(t2l.errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert {kind.__name__ for kind in kinds if not issubclass(kind, T2LError)} == {"DescriptionWarning"}
