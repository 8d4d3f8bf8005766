"""``t2l chat``: the adapter that a line names answers, turns are kept and forgotten, a wrong line ends nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import Result

from command import t2l
from helpers import save_byte_llama, untrained
from t2l.bases import Base, load_base
from t2l.commands.chat import Conversation
from t2l.commands.terminal import shown
from t2l.data.prompts import prompt_text
from t2l.errors import T2LError
from t2l.model import TextToLora

TASKS = ["Say it loud.", "Say it low."]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return load_base(save_byte_llama(tmp_path / "base", TEMPLATE))


@pytest.fixture
def checkpoint(base: Base, tmp_path: Path) -> Path:
    return untrained(base.model.config, TASKS, std=0.4).save_pretrained(tmp_path / "checkpoint")


def talk(checkpoint: Path, tmp_path: Path, *lines: str, task: str | None = None) -> Result:
    words = ["chat", "-c", str(checkpoint), "-b", str(tmp_path / "base"), "--max-new-tokens", "8"]
    words += [] if task is None else ["--task", task]
    return t2l(*words, stdin="".join(f"{line}\n" for line in lines).encode())


def test_each_message_is_answered_by_the_adapter_of_its_task_and_base_compares(
    base: Base, checkpoint: Path, tmp_path: Path
) -> None:
    loud, low = TextToLora.from_pretrained(checkpoint).generate(TASKS)

    def answer(text: str, **adapter: object) -> str:
        return base.answer([text], max_new_tokens=8, **adapter)[0].strip()  # type: ignore[arg-type]

    expected = [
        shown(answer("abab", spec=loud.spec, weights=loud.weights)),
        shown(f"base alone: {answer('abab')}"),
        shown(f"base told the task: {answer(prompt_text('abab', TASKS[0], included=True))}"),
        shown(answer("abab", spec=low.spec, weights=low.weights)),
    ]
    assert len(set(expected)) == 4
    result = talk(checkpoint, tmp_path, "abab", "/base", f"/task {TASKS[1]}", "abab", "/quit", "abab", task=TASKS[0])
    assert result.exit_code == 0
    place = 0
    for text in expected:
        place = result.stdout.index(text, place) + len(text)


def test_a_wrong_line_is_told_and_the_conversation_goes_on(checkpoint: Path, tmp_path: Path) -> None:
    result = talk(checkpoint, tmp_path, "/tusk x", "/base", "/task", "/task   ", "", "x" * 400, "/new", "/help")
    assert result.exit_code == 0
    for words in ("no command '/tusk'", "Nothing has been asked", "No task yet", "has room for 128", "/quit"):
        assert words in result.stderr
    assert not result.stdout.strip()


def test_earlier_turns_are_seen_until_there_is_no_room(base: Base) -> None:
    conversation = Conversation(base, max_new_tokens=8)
    conversation.answer("abab", None)
    first = list(conversation.messages)
    assert [message["role"] for message in first] == ["user", "assistant"]
    seen = conversation._tokens([*first, {"role": "user", "content": "ba"}])
    assert seen == base.tokenizer(base.prompting.render([*first, {"role": "user", "content": "ba"}]))["input_ids"]
    many = [*first] * 6 + [{"role": "user", "content": "ba"}]
    kept = conversation._tokens(many)
    assert len(kept) + 8 <= 128 and str(base.tokenizer.decode(kept)).endswith("assistant\n")
    with pytest.raises(T2LError, match="has room for 128"):
        conversation.answer("a" * 200, None)
    assert conversation.messages == first
