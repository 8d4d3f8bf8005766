"""From files as people have them to a store: what is read, what is left out and said, and what a prompt looks like."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers import MICRO_BASE
from lab.world.base import build_tokenizer
from t2l.base_structure import load_tokenizer
from t2l.data.descriptions import read_description_files
from t2l.data.hub import Hub, hub_names, parse_row
from t2l.data.prepare import PrepareConfig, prepare
from t2l.data.prompts import Frame, SampleCounts, SampleTokenizer, Template, is_included
from t2l.data.sources import open_source, read_native
from t2l.data.splits import SplitRule, near_benchmark, read_split_file, removed_by_paper, task_number
from t2l.data.store import DataStore
from t2l.errors import DataError, OutputError, T2LError


def native(name: str, count: int = 4, **changes: Any) -> dict[str, Any]:
    """A task in the native form of Super-Natural-Instructions."""
    return {
        "Contributors": ["A"],
        "Source": ["thesource"],
        "Categories": ["Text Modification"],
        "Definition": [f"Do what {name} does."],
        "Input_language": ["English"],
        "Output_language": ["English"],
        "Instruction_language": ["English"],
        "Positive Examples": [{"input": "p", "output": "q", "explanation": "e"}],
        "Negative Examples": [],
        "Instances": [{"id": f"{name}-{i}", "input": f"in {i}", "output": [f"out {i}", "other"]} for i in range(count)],
        "Instance License": ["MIT"],
        **changes,
    }


def folder(path: Path, *tasks: tuple[str, Any]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, value in tasks:
        text = value if isinstance(value, str) else json.dumps(value)
        (path / f"{name}.json").write_text(text, encoding="utf-8")
    return path


def made(source: Path, target: Path, config: PrepareConfig | None = None, **words: Any) -> DataStore:
    config = config or PrepareConfig(split=SplitRule(validation=0))
    return prepare(open_source(source), target, build_tokenizer(), base=MICRO_BASE, config=config, **words)


def texts(store: DataStore, task: str, place: int = 0) -> tuple[str, str]:
    sample = store.sample(store.task_index(task), place)
    tokenizer = build_tokenizer()
    ids = sample.input_ids
    return tokenizer.decode(ids[: sample.prompt_length]), tokenizer.decode(ids[sample.prompt_length :])


# --- sources -------------------------------------------------------------------------------------------------------


def test_native_tasks_become_a_store(tmp_path: Path) -> None:
    source = folder(tmp_path / "clone" / "tasks", ("task001_b", native("b")), ("task002_a", native("a", 2)))
    (source / "README.md").write_text("not a task")
    store = made(tmp_path / "clone", tmp_path / "store")
    assert [(task.name, task.split, task.samples) for task in store.tasks] == [
        ("task001_b", "train", 4),
        ("task002_a", "train", 2),
    ]
    assert texts(store, "task001_b", 3) == ("<s>in 3>", "out 3\n")
    assert store.tasks[0].descriptions == ("Do what b does.",)
    record = store.manifest["tasks"][0]
    assert record["licences"] == ["MIT"] and record["datasets"] == ["thesource"]
    assert len(record["source_digest"]) == 64 and record["described_by"] == "definition"
    assert store.manifest["totals"]["samples"] == 6 and store.manifest["licences"] == {"MIT": 2}


BAD_FILES = [
    ("", "is empty"),
    ("   \n", "is empty"),
    ("{not json", "is not JSON"),
    ("[1, 2]", "holds list"),
    ('{"Definition": ["x"]}', "no 'Instances'"),
    ('{"Definition": ["x"], "instances": []}', "Did you mean|no 'Instances'"),
    ('{"Instances": {}}', "is dict, not a list"),
    ('{"Instances": []}', "no instance with an input"),
    ('{"Instances": [{"input": "a", "output": []}, {"output": ["b"]}, 3]}', "no instance with an input"),
    ("[" * 100_000, "is not JSON"),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES)
def test_a_bad_file_is_named_and_the_others_go_on(text: str, message: str, tmp_path: Path) -> None:
    source = folder(tmp_path / "in", ("task001_good", native("good")), ("task002_bad", text))
    with pytest.raises(DataError, match=message):
        read_native(source / "task002_bad.json")
    store = made(source, tmp_path / "store")
    assert [task.name for task in store.tasks] == ["task001_good"]
    assert "task002_bad" in store.manifest["dropped_tasks"]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", ("task001_good", native("good")))
    (source / "task002_bytes.json").write_bytes(b'{"Definition": "\xff\xfe\x00"}')
    assert "is not JSON" in made(source, tmp_path / "store").manifest["dropped_tasks"]["task002_bytes"]


def test_the_older_form_is_read(tmp_path: Path) -> None:
    old = {
        "Title": "Old",
        "Definition": "Answer the question.",
        "Examples": {"Positive Examples": [{"input": "p", "output": "q", "reason": "r"}], "Negative Examples": []},
        "Instances": [{"input": "a", "output": "b"}, {"input": "c", "output": ["d"]}],
    }
    task = read_native(folder(tmp_path, ("subtask001_old", old)) / "subtask001_old.json")
    assert task.definition == "Answer the question." and not task.languages
    assert [(i.input, i.outputs) for i in task.instances] == [("a", ("b",)), ("c", ("d",))]
    assert task.examples[0].outputs == ("q",)


def test_another_language_is_left_out_and_said(tmp_path: Path) -> None:
    source = folder(
        tmp_path / "in",
        ("task001_en", native("en")),
        ("task002_fr", native("fr", Input_language=["French"])),
        ("task003_both", native("both", Output_language=["English", "Urdu"])),
    )
    dropped = made(source, tmp_path / "store").manifest["dropped_tasks"]
    assert "French" in dropped["task002_fr"] and "Urdu" in dropped["task003_both"]
    everything = made(source, tmp_path / "all", PrepareConfig(language=None, split=SplitRule(validation=0)))
    assert len(everything.tasks) == 3


def test_nothing_to_use_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No task of 1(.|\n)*is not JSON"):
        made(folder(tmp_path / "in", ("task001_x", "{")), tmp_path / "store")
    assert not (tmp_path / "store").exists() and not (tmp_path / "store.partial").exists()
    with pytest.raises(DataError, match="holds no task"):
        open_source(folder(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"There is no .*(.|\n)*Did you mean 'empty'"):
        open_source(tmp_path / "emtpy")
    (tmp_path / "data.csv").write_text("a,b")
    with pytest.raises(DataError, match="neither a folder nor"):
        open_source(tmp_path / "data.csv")


def test_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    lines = [
        {"task": "sum", "prompt": "1 + 2", "response": "3", "definition": "Add.", "licence": "CC0"},
        {"task": "upper", "prompt": "abc", "response": ["ABC", "Abc"]},
        "not json",
        {"task": "sum", "prompt": "2 + 2"},
        {"task": "sum", "prompt": "2 + 5", "response": "7"},
    ]
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n\n")
    config = PrepareConfig(split=SplitRule(validation=0), without_descriptions="keep")
    store = made(file, tmp_path / "store", config)
    assert [(task.name, task.samples) for task in store.tasks] == [("sum", 2), ("upper", 1)]
    assert texts(store, "sum", 1) == ("<s>2 + 5>", "7\n") and texts(store, "upper") == ("<s>abc>", "ABC\n")
    reason = store.manifest["dropped_tasks"]["(lines of mine.jsonl)"]
    assert "Line 3 " in reason and "and 1 more such lines" in reason
    assert store.manifest["tasks"][0]["licences"] == ["CC0"]
    file.write_text('{"task": "a", "question": "b"}')
    with pytest.raises(DataError, match="Line 1 .* has no text 'prompt'"):
        open_source(file)
    file.write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        open_source(file)


def test_two_sources_with_one_task(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", ("task001_a", native("a")))
    two = folder(tmp_path / "two", ("task001_a", native("a")))
    with pytest.raises(DataError, match="comes twice"):
        prepare([*open_source(one), *open_source(two)], tmp_path / "s", build_tokenizer(), base="x")


# --- the hub -------------------------------------------------------------------------------------------------------

LOTS = (
    "Definition: Say whether the text is kind.\nAnswer yes or no.\n\nPositive Example 1 -\nInput: Thank you.\n"
    "Output: yes\n\nNegative Example 1 -\nInput: Go away.\nOutput: yes\n\n"
    "Now complete the following example -\nInput: Text: hello\nmy friend\nOutput:"
)


def test_a_row_of_lots_of_loras_is_taken_apart() -> None:
    found = parse_row({"input": LOTS, "output": ["yes"], "id": "1"})
    assert not isinstance(found, str)
    definition, instance = found
    assert definition == "Say whether the text is kind.\nAnswer yes or no."
    assert instance.input == "Text: hello\nmy friend" and instance.outputs == ("yes",)
    plain = parse_row({"prompt": "1 + 1", "response": "2"})
    assert not isinstance(plain, str) and plain[1].input == "1 + 1" and plain[0] == ""
    assert parse_row({"input": "x", "output": []}) == "without an output"
    assert parse_row({"output": ["x"]}) == "without an input"


class Answer(OSError):
    """A failure that a server answered with."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"status {status}")
        self.response = type("Response", (), {"status_code": status, "headers": headers or {}})()


def test_the_hub_is_asked_with_patience_and_failures_are_named(tmp_path: Path) -> None:
    rows = [{"input": LOTS, "output": ["yes"]}, {"input": "kind?", "output": ["no"]}]
    script: dict[str, list[Any]] = {
        "org/task001_fine": [rows],
        "org/task002_flaky": [ConnectionError("reset"), Answer(503), Answer(429, {"Retry-After": "7"}), rows],
        "org/task003_gone": [Answer(404)],
        "org/task004_down": [Answer(500)] * 4,
        "org/task005_bare": [[{"input": "x"}]],
    }
    waits: list[float] = []
    notes: list[str] = []

    def load(name: str) -> Any:
        answer = script[name].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    hub = Hub(load, attempts=4, first_wait=1.0, sleep=waits.append, note=notes.append)
    config = PrepareConfig(split=SplitRule(validation=0))
    store = prepare(
        [hub.source(name) for name in script], tmp_path / "store", build_tokenizer(), base="x", config=config
    )
    assert [task.name for task in store.tasks] == ["task001_fine", "task002_flaky"]
    assert store.tasks[0].descriptions == ("Say whether the text is kind.\nAnswer yes or no.",)
    dropped = store.manifest["dropped_tasks"]
    assert "status 404" in dropped["task003_gone"]
    assert "in 4 attempts" in dropped["task004_down"]
    assert "without an output" in dropped["task005_bare"]
    assert 7.0 in waits and 0.8 <= waits[0] <= 1.2 and len(notes) == len(waits) == 6
    # once the hub answers, the same command with --update adds what failed, and reads nothing else again
    script["org/task004_down"] = [rows]
    again = prepare(
        [hub.source(f"org/{name}") for name in ("task001_fine", "task002_flaky", "task004_down")],
        tmp_path / "store",
        build_tokenizer(),
        base="x",
        config=config,
        update=True,
    )
    assert [task.name for task in again.tasks] == ["task001_fine", "task002_flaky", "task004_down"]
    again.verify()


def test_an_unreachable_hub_does_not_wait_for_each_of_hundreds() -> None:
    waits: list[float] = []

    def load(name: str) -> Any:
        raise ConnectionError("no route")

    hub = Hub(load, attempts=3, sleep=waits.append)
    for number in range(50):
        with pytest.raises(DataError, match="could not be fetched"):
            hub.source(f"org/task{number}").read()
    assert len(waits) == 3 * 2


def test_offline_is_said(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match="switched off here .* not in the cache"):
        Hub(sleep=lambda seconds: pytest.fail("waited")).source("Lots-of-LoRAs/task022_none").read()
    with pytest.raises(DataError, match="cannot be listed"):
        hub_names("hub:Lots-of-LoRAs", [])
    assert hub_names("hub:Lots-of-LoRAs", ["Lots-of-LoRAs/task1", "other/x", None]) == ["Lots-of-LoRAs/task1"]
    assert hub_names("hub:Lots-of-LoRAs/task9", []) == ["Lots-of-LoRAs/task9"]
    with pytest.raises(DataError, match="names nothing"):
        hub_names("hub:", [])


def test_datasets_itself_reads_parquet_of_the_hubs_schema(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    (tmp_path / "task007_kind").mkdir()
    rows = {"input": [LOTS, LOTS.replace("hello", "bye")], "output": [["yes"], ["no"]], "id": ["a", "b"]}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "task007_kind" / "train-00000-of-00001.parquet"))
    source = Hub().source(str(tmp_path / "task007_kind"))
    task = source.read()
    assert task.name == "task007_kind" and len(task.instances) == 2 and task.definition.startswith("Say whether")


# --- templates and limits ------------------------------------------------------------------------------------------

LLAMA3 = (
    "<|begin|>{% for m in messages %}<|head|>{{ m['role'] }}<|/head|>\n\n{{ m['content'] | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}<|begin|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|eot|>\n{% endfor %}{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}"
)
MISTRAL = (
    "<|begin|>{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}<|end|>{% endif %}{% endfor %}"
)


def subword_tokenizer(chat_template: str | None, *, metaspace: bool = False) -> Any:
    """Byte-level BPE as of Llama 3 and Qwen, or a space put before every text as of Llama 2 and Mistral."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    special = ["<unk>", "<|begin|>", "<|end|>", "<|head|>", "<|/head|>", "<|eot|>"]
    words = ["the answer is yes", "the question is no", "assistant user think", "[INST] [/INST] hello\n\n"] * 20
    alphabet = [chr(code) for code in range(32, 127)]
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")  # pyright: ignore
        tokenizer.decoder = decoders.Metaspace()  # pyright: ignore
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
        tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(words, trainer)
    begin = tokenizer.token_to_id("<|begin|>")
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore
        single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        unk_token="<unk>",
        extra_special_tokens=special[3:],
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )


@pytest.mark.parametrize("metaspace", [False, True])
@pytest.mark.parametrize("template", [LLAMA3, QWEN3, MISTRAL, None], ids=["llama3", "qwen3", "mistral", "none"])
def test_a_prompt_is_what_the_base_reads_and_a_response_what_it_writes(template: str | None, metaspace: bool) -> None:
    tokenizer = subword_tokenizer(template, metaspace=metaspace)
    frame = Frame.of(tokenizer, "x")
    text, answer = "the question is: the answer?", "yes, hello"
    rows = SampleTokenizer(tokenizer, frame).rows([(text, answer)], SampleCounts())
    prompt = rows.tokens[: rows.prompt_lengths[0]].tolist()
    response = rows.tokens[rows.prompt_lengths[0] :].tolist()
    if template is None:
        assert prompt == tokenizer(text)["input_ids"]
        assert response[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(response[:-1]).strip(" ") == f"\n{answer}"
        whole = tokenizer(f"{text}\n{answer}<|end|>")["input_ids"]
    else:
        message = [{"role": "user", "content": text}]
        asked = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        assert prompt == tokenizer(asked, add_special_tokens=False)["input_ids"]
        message.append({"role": "assistant", "content": answer})
        said = tokenizer.apply_chat_template(message, tokenize=False).rstrip("\n")
        assert tokenizer.decode(response)[-len(answer) - 7 :].startswith(answer)
        assert response[-1] == tokenizer.convert_tokens_to_ids("<|end|>" if template == MISTRAL else "<|eot|>")
        assert ("<think>" in tokenizer.decode(response)) == (template == QWEN3)
        whole = tokenizer(said, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(prompt + response) == tokenizer.decode(whole)
    if template != LLAMA3 or metaspace:  # there GPT-2's rule for spaces joins the border differently, answer or not
        assert prompt + response == whole


@pytest.mark.parametrize("template", [LLAMA3, MISTRAL, None], ids=["llama3", "mistral", "none"])
def test_what_is_too_long_loses_its_end_and_the_frame_stays(template: str | None) -> None:
    tokenizer = subword_tokenizer(template)
    frame, counts = Frame.of(tokenizer, "x"), SampleCounts()
    short = SampleTokenizer(tokenizer, frame, max_prompt=40, max_response=10)
    long = SampleTokenizer(tokenizer, frame, max_prompt=4000, max_response=4000)
    pair = ("the question is " * 60, "hello " * 60)
    rows, whole = short.rows([pair, ("hello", "yes")], counts), long.rows([pair], SampleCounts())
    assert rows.prompt_lengths.tolist()[0] == 40 and rows.offsets.tolist()[1] == 50
    assert (counts.prompts_cut, counts.responses_cut, counts.samples) == (1, 1, 2)
    after = tokenizer(frame.after, add_special_tokens=False)["input_ids"] if frame.after else []
    prompt = rows.tokens[:40].tolist()
    assert prompt[40 - len(after) :] == after
    kept = 40 - len(after)
    assert prompt[:kept] == whole.tokens[:kept].tolist()
    assert rows.tokens[40:50].tolist() == whole.tokens[whole.prompt_lengths[0] :][:10].tolist()
    dropping, counts = SampleTokenizer(tokenizer, frame, max_prompt=40, max_response=10, drop_long=True), SampleCounts()
    assert len(dropping.rows([pair, ("hello", "yes")], counts).prompt_lengths) == 1
    assert counts.dropped == {"over the limit": 1}
    with pytest.raises(DataError, match="leave no room for text"):
        SampleTokenizer(tokenizer, frame, max_prompt=1)


def test_text_of_special_tokens_and_broken_unicode(tmp_path: Path) -> None:
    tokenizer = subword_tokenizer(LLAMA3)
    counts = SampleCounts()
    pairs = [("hello<|eot|><|begin|>you", "yes"), ("a\ud800b", "no"), ("  ", "x"), ("x", "\n")]
    rows = SampleTokenizer(tokenizer, Frame.of(tokenizer, "x")).rows(pairs, counts)
    assert counts.special_text_replaced == 1
    assert counts.dropped == {"empty input": 1, "empty output": 1}
    first = tokenizer.decode(rows.tokens[: rows.offsets[1]])
    assert "hello  you<|eot|>" in first


def test_a_template_that_refuses_is_an_error_for_people() -> None:
    for template in ("{{ raise_exception('system first') }}", "{{ messages | length }}"):
        with pytest.raises(DataError, match="chat template of 'my-base'"):
            Frame.of(subword_tokenizer(template), "my-base")


def test_templates_withhold_include_or_mix_the_definition(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", ("task001_a", native("a", 200)))
    rule = SplitRule(validation=0)
    included = made(source, tmp_path / "included", PrepareConfig(template=Template.included, split=rule))
    # the embedded base's end-of-answer token is the newline, so newlines inside become spaces
    prompt, _ = texts(included, "task001_a")
    assert prompt.startswith("<s>Do what a does. Give the answer only, without an explanation.") and "in 0>" in prompt
    mixed = made(
        source, tmp_path / "mixed", PrepareConfig(template=Template.mixture, included_fraction=0.25, split=rule)
    )
    number = sum("Do what" in texts(mixed, "task001_a", place)[0] for place in range(200))
    assert number == mixed.manifest["totals"]["definitions_included"] and 30 <= number <= 70
    assert not is_included(Template.mixture, 0.0, "x") and is_included(Template.mixture, 1.0, "x")


def test_repeated_few_and_many_samples(tmp_path: Path) -> None:
    twice = native("a", 3)
    twice["Instances"] += twice["Instances"][:2]
    source = folder(
        tmp_path / "in", ("task001_a", twice), ("task002_many", native("m", 50)), ("task003_one", native("o", 1))
    )
    store = made(
        source, tmp_path / "store", PrepareConfig(max_samples=20, min_samples=2, split=SplitRule(validation=0))
    )
    assert [(task.name, task.samples) for task in store.tasks] == [("task001_a", 3), ("task002_many", 20)]
    assert store.manifest["totals"]["dropped_samples"] == {"repeated": 2, "over --max-samples": 30}
    assert "fewer than 2" in store.manifest["dropped_tasks"]["task003_one"]
    places = [int(texts(store, "task002_many", i)[0][6:-1]) for i in range(20)]
    assert places == sorted(places) and places != list(range(20))


def test_numbers_and_truth_values_are_texts(tmp_path: Path) -> None:
    given: list[Any] = [
        (7, [3]),
        ("half of 1", 0.5),
        ("is it?", True),
        ("none", None),
        ("gap", float("nan")),
        ("mixed", ["2", 2]),
    ]
    task = native("sum", Instances=[{"input": asked, "output": said} for asked, said in given])
    read = read_native(folder(tmp_path / "in", ("task001_sum", task)) / "task001_sum.json")
    pairs = [("7", ("3",)), ("half of 1", ("0.5",)), ("is it?", ("true",)), ("mixed", ("2", "2"))]
    assert [(each.input, each.outputs) for each in read.instances] == pairs
    assert read.dropped == {"without an output": 2}
    lines = [{"task": "sum", "prompt": asked, "response": said} for asked, said in given]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    sources = open_source(tmp_path / "a.jsonl")
    assert [(each.input, each.outputs) for each in sources[0].read().instances] == pairs
    with pytest.raises(DataError, match="Line 4 of .* has no text 'response', and 1 more"):
        sources[1].read()
    row = parse_row({"input": "1 + 2", "output": 3})
    assert not isinstance(row, str) and row[1].outputs == ("3",)
    assert parse_row({"input": "1 + 2", "output": None}) == "without an output"


def test_a_byte_order_mark_changes_nothing(tmp_path: Path) -> None:
    """Every file that a person writes may begin with one: editors and spreadsheets put it there."""
    from t2l.commands.guidance import read_tasks
    from t2l.commands.serve import api_keys
    from t2l.data.benchmarks import read_benchmark
    from t2l.evaluation.wording import read_wordings
    from t2l.storage import read_json, read_yaml

    line = '{"task": "task001_a", "prompt": "1", "response": "2"}\n'
    readers: list[tuple[str, str, Any]] = [
        ("a.json", json.dumps(native("a")), lambda file: read_native(file).definition),
        ("b.jsonl", line, lambda file: open_source(file)[0].read()),
        ("c.jsonl", '{"name": "a", "descriptions": ["A."]}\n', lambda file: read_description_files([file]).sets),
        ("d.jsonl", '{"name": "a", "descriptions": ["A."]}\n', lambda file: read_wordings(file).sets),
        ("e.yaml", "matched: {a: [A.]}\n", lambda file: read_wordings(file).sets),
        ("f.json", '{"test": ["a"]}', read_split_file),
        ("g.json", '{"descriptions": ["a"]}', lambda file: read_json(file, DataError)),
        ("h.yaml", "a: 1", lambda file: read_yaml(file, DataError)),
        ("i.jsonl", '{"question": "What is one and one?"}\n', lambda file: read_benchmark("gsm8k", file)),
        ("j.jsonl", '{"task": "a", "descriptions": ["A."]}\n', read_tasks),
        ("l.txt", "a\nb\n", api_keys),
    ]
    for name, text, read in readers:
        (tmp_path / name).write_bytes(text.encode())
        plain = read(tmp_path / name)
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert read(tmp_path / name) == plain, name


# --- descriptions and splits ---------------------------------------------------------------------------------------


def test_descriptions_are_found_by_name_number_and_data_set(tmp_path: Path) -> None:
    lines = [
        {"name": "lol_001", "descriptions": ["One.", "One.", " "], "evaluation_descriptions": ["Eins."]},
        {"name": "second", "hub_dataset": "Lots-of-LoRAs/task002_b", "descriptions": ["Two."]},
        {"name": "mine", "descriptions": ["Three."]},
    ]
    file = tmp_path / "d.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    found = read_description_files([tmp_path])
    for task, text in (("task001_a", "One."), ("task002_b", "Two."), ("mine", "Three.")):
        given = found.of(task)
        assert given is not None and given.descriptions == (text,)
    assert found.of("task003_c") is None
    source = folder(tmp_path / "in", ("task001_a", native("a")), ("task003_c", native("c", Definition=[])))
    rule = SplitRule(validation=0)
    kept = made(source, tmp_path / "kept", PrepareConfig(split=rule), descriptions=found)
    assert [task.descriptions for task in kept.tasks] == [("One.",), ()]
    assert kept.evaluation_descriptions(0) == ("Eins.",) and kept.evaluation_descriptions(1) == ()
    dropping = PrepareConfig(split=rule, without_descriptions="drop")
    store = made(source, tmp_path / "dropped", dropping, descriptions=found)
    assert [task.name for task in store.tasks] == ["task001_a"]
    assert store.manifest["dropped_tasks"] == {"task003_c": "it has no description"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"Line 1 of '.*' is not JSON"),
        ("[]", "has no 'name'"),
        ('{"name": "a"}\n{"name": "b", "descriptions": "x"}', "Line 2 of .* not a list of texts"),
    ],
)
def test_bad_descriptions_are_named_by_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "D.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        read_description_files([tmp_path / "D.jsonl"])
    with pytest.raises(DataError, match="cannot be read"):
        read_description_files([tmp_path / "none.jsonl"])


def test_removals_and_overlaps_by_name() -> None:
    assert task_number("task033_winogrande") == 33 and task_number("lol_1391") == 1391 and task_number("x12") is None
    assert "WinoGrande" in str(removed_by_paper("task033_winogrande_answer_generation"))
    assert removed_by_paper("task1398_obqa_question_generation") is None
    assert near_benchmark("task1398_obqa_question_generation") == "made from OpenBookQA"
    assert "HellaSwag" in str(near_benchmark("task454_swag_incorrect_answer_generation"))
    assert near_benchmark("my_boolq_copy") == "its name speaks of BoolQ"
    assert near_benchmark("task022_cosmosqa_passage_inappropriate_binary") is None


def test_two_tasks_of_one_number_are_two_tasks(tmp_path: Path) -> None:
    assert near_benchmark("task868_cfq_mcd1_explanation_to_sql") is None
    assert near_benchmark("task861_prost_mcq_answers_generation") == "PROST: physical commonsense like that of PIQA"
    for word_problem in ("task868_mawps_singleop_question_answering", "task861_asdiv_addsub_question_answering"):
        assert near_benchmark(word_problem) == "word problems like those of GSM8K"
    assert near_benchmark("lol_868") == near_benchmark("task868") == "word problems like those of GSM8K"
    assert removed_by_paper("lol_033") and removed_by_paper("task033_my_own_task") is None
    splits = SplitRule(validation=0).assign(
        {"task304_numeric_fused_head_resolution": [], "lol_304": [], "task304_x": []}
    )
    assert list(splits.values()) == ["validation", "validation", "train"]
    lines = [
        {"name": "lol_861", "hub_dataset": "Lots-of-LoRAs/task861_asdiv_addsub", "descriptions": ["Add up."]},
        {"name": "task184_snli_neutral", "descriptions": ["Change the sentence."]},
        {"name": "task868_cfq", "descriptions": ["Write SQL."]},
        {"name": "task868_mawps", "descriptions": ["Solve."]},
    ]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = read_description_files([tmp_path / "d.jsonl"])
    told = {
        name: found.of(name) for name in ("task861_asdiv_addsub", "task861_prost", "task184_break", "task868_mawps")
    }
    assert {name: given and given.descriptions[0] for name, given in told.items()} == {
        "task861_asdiv_addsub": "Add up.",
        "task861_prost": None,
        "task184_break": None,
        "task868_mawps": "Solve.",
    }
    assert found.of("lol_184") == found.of("task184_snli_neutral")


def test_splits_are_of_tasks_and_adding_one_moves_no_other() -> None:
    tasks = {f"task{number:04}_x": [f"set{number % 5}"] for number in range(1000, 1040)}
    splits = SplitRule(validation=6, test=4).assign(tasks)
    assert [list(splits.values()).count(split) for split in ("train", "validation", "test")] == [30, 6, 4]
    more = SplitRule(validation=6, test=4).assign({**tasks, "task9999_new": []})
    assert sum(splits[name] != more[name] for name in tasks) <= 2
    grouped = SplitRule(validation=6, by_dataset=True).assign(tasks)
    sets = {name: grouped[name] for name in tasks}
    for dataset in {value[0] for value in tasks.values()}:
        assert len({sets[name] for name in tasks if tasks[name][0] == dataset}) == 1
    named = SplitRule(named={"task1000_x": "test"}, validation=1).assign({"task1000_x": [], "lol_035": [], "b": []})
    assert named == {"task1000_x": "test", "lol_035": "validation", "b": "train"}
    assert set(SplitRule(validation=50).assign({"a": [], "b": [], "c": []}).values()) == {"train", "validation"}


def test_split_files(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    for text, message in (
        ('{"valid": ["a"]}', "no split 'valid'"),
        ('{"test": "a"}', "not a list"),
        ('{"test": ["a"], "train": ["a"]}', "'a' twice"),
    ):
        file.write_text(text)
        with pytest.raises(T2LError, match=message):
            read_split_file(file)
    source = folder(tmp_path / "in", ("task001_a", native("a")), ("task002_b", native("b")))
    file.write_text('{"test": ["task002_b"]}')
    rule = SplitRule(named=read_split_file(file), validation=0)
    assert [task.split for task in made(source, tmp_path / "s", PrepareConfig(split=rule)).tasks] == ["train", "test"]
    with pytest.raises(DataError, match="The splits name 'task002_c'"):
        made(source, tmp_path / "t", PrepareConfig(split=SplitRule(named={"task002_c": "test"})))


def test_exclusions(tmp_path: Path) -> None:
    names = ["task001_a", "task033_winogrande", "task1398_obqa", "task900_x"]
    source = folder(tmp_path / "in", *((name, native(name)) for name in names))

    def kept(target: str, **words: Any) -> list[str]:
        return [
            t.name for t in made(source, tmp_path / target, PrepareConfig(split=SplitRule(validation=0), **words)).tasks
        ]

    assert kept("paper") == ["task001_a", "task1398_obqa", "task900_x"]
    assert kept("strict2", remove="strict") == ["task001_a", "task900_x"]
    assert kept("none", remove="none", exclude=("task9*",)) == names[:3]
    with pytest.raises(DataError, match="--remove cannot be 'papr'"):
        PrepareConfig(remove="papr")


# --- killed, full, changed -----------------------------------------------------------------------------------------

SLOW_RUN = """
import sys, time
from t2l.data.prepare import PrepareConfig, prepare
from t2l.data.sources import open_source
from t2l.data.splits import SplitRule
from lab.world.base import build_tokenizer
prepare(open_source(sys.argv[1]), sys.argv[2], build_tokenizer(), base="x",
        config=PrepareConfig(split=SplitRule(validation=0)), report=lambda *progress: time.sleep(0.02))
"""


def test_a_run_killed_in_the_middle_goes_on_and_gives_the_same_store(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", *((f"task{n:03}_x", native(f"x{n}", 30)) for n in range(60)))
    whole = made(source, tmp_path / "whole")
    target, partial = tmp_path / "store", tmp_path / "store.partial"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.Popen([sys.executable, "-c", SLOW_RUN, str(source), str(target)], env=environment)
    journal = partial / "journal.jsonl"
    deadline = time.monotonic() + 120
    while not (journal.is_file() and journal.read_bytes().count(b"\n") > 10) and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = journal.read_bytes().count(b"\n") - 1
    assert 10 <= done < 60 and not target.exists()
    reads: list[str] = []
    sources = [
        type(given)(
            given.name,
            given.place,
            given.size,
            given.digest,
            lambda given=given: (reads.append(given.name), given.read())[1],
        )
        for given in open_source(source)
    ]
    config = PrepareConfig(split=SplitRule(validation=0))
    resumed = prepare(sources, target, build_tokenizer(), base="x", config=config)
    assert len(reads) <= 60 - done + 1
    assert resumed.manifest["digest"] == whole.manifest["digest"]
    assert (target / "samples.arrow").read_bytes() == (tmp_path / "whole" / "samples.arrow").read_bytes()
    assert not partial.exists()


def test_a_source_that_changed_is_read_again(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", *((f"task{n:03}_x", native(f"x{n}")) for n in range(4)))
    made(source, tmp_path / "store")
    folder(tmp_path / "in", ("task001_x", native("x1", 9)), ("task007_new", native("new", 2)))
    (source / "task003_x.json").unlink()
    updated = made(source, tmp_path / "store", update=True)
    fresh = made(source, tmp_path / "fresh")
    assert updated.manifest["digest"] == fresh.manifest["digest"]
    assert [task.samples for task in updated.tasks] == [4, 9, 4, 2]
    with pytest.raises(DataError, match="max_prompt: 512, now 100"):
        made(source, tmp_path / "store", PrepareConfig(max_prompt=100), update=True)
    DataStore.open(tmp_path / "store").verify()


def test_a_full_disk_leaves_what_is_done(tmp_path: Path) -> None:
    """A real one: a limit on the size of files makes the kernel refuse the write, as a full disk does."""
    source = folder(tmp_path / "in", *((f"task{n:03}_x", native(f"x{n}", 100)) for n in range(10)))
    words = ["data", "prepare", str(source), "-o", str(tmp_path / "store"), "-b", MICRO_BASE, "--validation", "0"]
    program = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
from t2l.cli import main
import sys
sys.argv = ["t2l", *{words!r}]
main()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert (
        "Cannot write" in done.stderr and "resumes where it stopped" in done.stderr and "Traceback" not in done.stderr
    )
    assert not (tmp_path / "store").exists()
    config = PrepareConfig(max_prompt=384, max_response=128, split=SplitRule(validation=0))
    resumed = prepare(
        open_source(source), tmp_path / "store", load_tokenizer(MICRO_BASE), base=MICRO_BASE, config=config
    )
    fresh = prepare(open_source(source), tmp_path / "new", load_tokenizer(MICRO_BASE), base=MICRO_BASE, config=config)
    assert len(resumed.tasks) == 10 and resumed.manifest["digest"] == fresh.manifest["digest"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", ("task001_a", native("a")))
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        made(source, tmp_path / "file" / "store")
