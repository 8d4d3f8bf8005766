"""The system message is part of a checkpoint: derived, recorded, used by every verb, refused where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from helpers import MICRO_RECIPE, byte_tokenizer, random_weights, save_byte_llama, untrained
from t2l.adapter import Adapter
from t2l.bases import Base, load_base
from t2l.cli import app
from t2l.composition import combine
from t2l.data.prompts import Frame
from t2l.data.store import DataStore
from t2l.errors import BaseModelError, T2LError
from t2l.lora import LoraSpec
from t2l.model import TextToLora
from t2l.prompting import Prompting
from t2l.serving.engine import Engine, Limits
from t2l.serving.prompts import chat_tokens
from t2l.serving.sampling import Sampling
from t2l.training.refinement import answer_samples

TURNS = (
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEFAULT = (  # as SmolLM2's and Qwen2.5's do
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}" + TURNS
)
BEGIN = (  # as Llama 3's: a token before all else
    "{% for m in messages %}{% if loop.first %}{{ '<|endoftext|>' }}{% if m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}{% endif %}" + TURNS
)
NO_ROLE = (  # as Gemma's
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TURNS
)
DEAF = "{% for m in messages %}{% if m['role'] != 'system' %}" + TURNS.replace("{% endfor", "{% endif %}{% endfor")
INSIDE = (  # puts its own text into the first user's message
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if loop.first %}Be kind. {% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}"
)
BARE = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
KIND = "<|im_start|>system\nBe kind.<|im_end|>\n"
BRIEF = "<|im_start|>system\nBe brief.<|im_end|>\n"


def prompting(template: str, system: str, begin: str = "<|im_start|>") -> Prompting:
    tokenizer = byte_tokenizer(template)
    tokenizer.bos_token = begin
    return Prompting(tokenizer, "a base", system)


@pytest.mark.parametrize(
    ("template", "system", "expected"),
    [
        (DEFAULT, "template", KIND + BARE),
        (DEFAULT, "none", BARE),
        (DEFAULT, "Be brief.", BRIEF + BARE),
        (NO_ROLE, "template", BARE),
        (NO_ROLE, "none", BARE),
    ],
)
def test_a_prompt_with_its_own_another_or_no_system_message(template: str, system: str, expected: str) -> None:
    assert prompting(template, system).prompt("hi") == expected
    assert prompting(template, system).written == expected.replace("hi", "{input}")
    frame = Frame.of(byte_tokenizer(template), "a base", system)
    assert frame.written == expected.replace("hi", "{input}")
    assert (frame.opening, frame.closing) == ("", "<|im_end|>")


@pytest.mark.parametrize("system", ["none", "Be brief.", "template"])
def test_the_written_prompt_becomes_a_chat_template_for_other_runtimes(system: str) -> None:
    own = prompting(DEFAULT, system)
    before, after = (json.dumps(part) for part in own.written.split("{input}"))  # as docs/runtimes.md does
    template = "{{ " + before + " + messages[-1]['content'] + " + after + " }}"
    message = [{"role": "user", "content": "hi"}]
    rendered = byte_tokenizer(DEFAULT).apply_chat_template(message, chat_template=template, tokenize=False)
    assert rendered == own.prompt("hi")


def test_the_token_that_begins_a_text_stays() -> None:
    assert prompting(BEGIN, "none", "<|endoftext|>").prompt("hi") == f"<|endoftext|>{BARE}"
    assert prompting(BEGIN, "Be brief.", "<|endoftext|>").prompt("hi") == f"<|endoftext|>{BRIEF}{BARE}"


def test_a_conversation_keeps_its_turns_and_the_system_message_that_it_brings() -> None:
    turns = [("user", "a"), ("assistant", "b"), ("user", "hi")]
    messages = [{"role": role, "content": text} for role, text in turns]
    before = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    assert prompting(DEFAULT, "none").render(messages) == before + BARE
    assert prompting(DEFAULT, "Be brief.").render(messages) == BRIEF + before + BARE
    own = [{"role": "system", "content": "Be brief."}, *messages]
    for system in ("template", "none", "Be long."):
        assert prompting(DEFAULT, system).render(own) == BRIEF + before + BARE
    with pytest.raises(BaseModelError, match="user's message come first"):
        prompting(DEFAULT, "none").render(messages[1:])


@pytest.mark.parametrize(
    ("template", "system", "message"),
    [
        (NO_ROLE, "Be brief.", "refuses a system message: no system role"),
        (DEAF, "Be brief.", "does not show the system message as it is"),
        (INSIDE, "none", "a later message of a user's looks different from the first"),
        (DEFAULT, " ", "is empty"),
        ("", "Be brief.", "has no chat template"),
    ],
)
def test_what_a_template_cannot_express_is_refused(template: str, system: str, message: str) -> None:
    with pytest.raises(BaseModelError, match=message):
        prompting(template, system)


def test_without_a_template_there_is_nothing_to_leave_out() -> None:
    assert prompting("", "none").prompt("hi") == "hi"
    assert Frame.of(byte_tokenizer(""), "a base", "none") == Frame.of(byte_tokenizer(""), "a base")


# ------------------------------------------------------------------------------------------------ every verb


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_byte_llama(tmp_path_factory.mktemp("prompting") / "base", DEFAULT)


def command(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def prepared(folder: Path, out: Path, system: str) -> Path:
    lines = [
        {"task": f"word-{task}", "prompt": word, "response": word[task]}
        for task in range(2)
        for word in ("oslo", "rome", "bern", "kiev")
    ]
    (out.parent / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (out.parent / "texts.jsonl").write_text(
        "".join(json.dumps({"name": f"word-{task}", "descriptions": [f"Do {task}."]}) + "\n" for task in range(2))
    )
    words = ["data", "prepare", out.parent / "tasks.jsonl", "-o", out, "--base", folder, "--validation", 0]
    done = command(*words, "--descriptions", out.parent / "texts.jsonl", "--system", system)
    assert done.exit_code == 0, done.output
    return out


def train(store: Path, folder: Path, out: Path, verb: str = "sft", steps: int = 1) -> Any:
    settings = ["loop.tasks=2", "loop.samples=1", "validation.every=0", f"loop.steps={steps}", "loop.save_every=1"]
    where = [f"data.store={store}", f"base.model={folder}", "hypernetwork.trunk_dim=8", "hypernetwork.head_dim=8"]
    return command("train", verb, MICRO_RECIPE, *where, *settings, "-o", out, "--cpu")


def test_store_checkpoint_adapter_and_answers_have_one_frame(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = DataStore.open(prepared(folder, tmp_path / "plain", "template"))
    store = DataStore.open(prepared(folder, tmp_path / "store", "none"))
    told = {"system": "none", "prompt": BARE.replace("hi", "{input}")}
    assert store.prompts == told and plain.prompts == {"system": "template", "prompt": KIND + told["prompt"]}
    sample = store.sample(0, 0)
    tokenizer = byte_tokenizer(DEFAULT)
    assert tokenizer.decode(sample.input_ids[: sample.prompt_length]) == BARE.replace("hi", "oslo")

    done = train(store.folder, folder, tmp_path / "run")
    assert done.exit_code == 0, done.output
    t2l = TextToLora.from_pretrained(tmp_path / "run" / "checkpoint")
    assert t2l.system == "none" and t2l.metadata["prompt"] == told["prompt"]
    (adapter,) = t2l.generate(["Do a thing."])
    adapter.save(tmp_path / "adapter")
    record = json.loads((tmp_path / "adapter" / "t2l.json").read_text())["provenance"]
    assert {name: record[name] for name in told} == told and Adapter.load(tmp_path / "adapter").system == "none"
    assert f"```text\n{told['prompt']}\n```" in (tmp_path / "adapter" / "README.md").read_text()

    read: list[str] = []
    encode = Base._encode

    def noted(self: Base, texts: Any, most: int) -> Any:
        read.extend(self.prompt(text) for text in texts)
        return encode(self, texts, most)

    monkeypatch.setattr(Base, "_encode", noted)
    done = command(
        "run", "Do.", "--input", "hi", "--checkpoint", tmp_path / "run" / "checkpoint", "--max-new-tokens", 4
    )
    assert done.exit_code == 0, done.output
    assert BARE in read and all(KIND not in text for text in read)

    done = train(plain.folder, folder, tmp_path / "run", steps=2)
    assert done.exit_code != 0 and "--accept-changes" in done.output  # another recipe
    (tmp_path / "store").rename(tmp_path / "gone")
    (tmp_path / "plain").rename(tmp_path / "store")  # under the same name now: the recipe is the same
    done = train(store.folder, folder, tmp_path / "run")
    assert done.exit_code != 0 and "was begun with prompts of the form" in done.output

    done = train(tmp_path / "gone", folder, tmp_path / "single", "lora")
    assert done.exit_code == 0, done.output
    assert Adapter.load(tmp_path / "single" / "adapter").system == "none"


def test_a_store_for_a_frame_that_the_base_has_not_is_not_made(tmp_path: Path) -> None:
    folder = save_byte_llama(tmp_path / "base", NO_ROLE)
    (tmp_path / "tasks.jsonl").write_text(json.dumps({"task": "a", "prompt": "b", "response": "c"}) + "\n")
    done = command("data", "prepare", tmp_path / "tasks.jsonl", "-o", tmp_path / "s", "--base", folder, "--system", "X")
    assert done.exit_code == 2 and "cannot express" in done.output and not (tmp_path / "s").exists()


def test_another_system_message_does_not_go_on_with_an_unfinished_store(folder: Path, tmp_path: Path) -> None:
    prepared(folder, tmp_path / "store", "none")
    words = ["data", "prepare", tmp_path / "tasks.jsonl", "-o", tmp_path / "store", "--base", folder, "--update"]
    done = command(*words, "--system", "template")
    assert done.exit_code != 0 and "settings" in done.output


def pair(folder: Path, **metadata: Any) -> tuple[Base, TextToLora]:
    return load_base(folder), untrained(folder, ["task"], std=0.4, **metadata)


def test_a_server_takes_the_checkpoints_frame_and_an_adapters_own(folder: Path) -> None:
    base, t2l = pair(folder, system="none")
    ask = [{"role": "user", "content": "hi"}]
    with Engine(base, t2l, Limits(slots=2, context=100)) as engine:
        (made,) = engine.make(["task"]).result(60)
        other = Adapter(t2l.spec, made.adapter.weights, {"system": "Be brief."})
        unknown = Adapter(t2l.spec, made.adapter.weights)
        found = [engine.base_for(one) for one in (None, made.adapter, unknown, other)]
        texts = [engine.base.tokenizer.decode(chat_tokens(one, ask)) for one in found]
        assert texts == [BARE, BARE, BARE, BRIEF + BARE]
        for adapter, framed in ((made.adapter, found[1]), (other, found[3])):
            (expected,) = framed.answer(["hi"], spec=t2l.spec, weights=adapter.weights, max_new_tokens=6)
            assert engine.chat("hi", Sampling(max_tokens=6), adapter=adapter).text == expected
    assert engine.base.tokenizer.decode(answer_samples(engine.base, [("hi", "x")])[0][0]) == f"{BARE}x<|im_end|>"


def test_only_adapters_for_the_same_prompts_are_combined(folder: Path) -> None:
    spec = LoraSpec.from_base(folder, rank=2)
    told = {"system": "none", "prompt": "..."}
    first, second = (Adapter(spec, random_weights(spec, seed=seed), told) for seed in (0, 1))
    whole = combine([first, Adapter(spec, random_weights(spec, seed=2)), second])
    assert {name: whole.provenance[name] for name in told} == told
    assert "system" not in whole.provenance["composition"]["parts"][0]
    with pytest.raises(T2LError, match="different system messages: 'none' and 'Be brief.'"):
        combine([first, Adapter(spec, random_weights(spec), {"system": "Be brief."})])


def test_smollm2_without_its_system_message(smollm2: Any) -> None:
    framed = smollm2.with_system("none")
    assert framed.prompt("hi") == BARE and framed.model is smollm2.model
    tokens = [len(base.tokenizer(base.prompt("hi"))["input_ids"]) for base in (framed, smollm2)]
    assert tokens[1] - tokens[0] == 21
    assert smollm2.with_system("Be brief.").prompt("hi") == BRIEF + BARE
