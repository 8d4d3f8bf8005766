"""``t2l chat``: a conversation with the base under an adapter that ``/task DESCRIPTION`` swaps.

Level 6. `Conversation` holds the messages and answers them; `chat` reads lines, from a terminal or a pipe.
"""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2l.commands.options import BaseModel, Checkpoint, Device, checked_device, open_base, open_checkpoint
from t2l.commands.terminal import results, say, shown
from t2l.errors import T2LError

if TYPE_CHECKING:
    from t2l.adapter import Adapter
    from t2l.bases import Base

_HELP = """\
/task DESCRIPTION  swap the adapter for that of another task, and begin a new conversation
/task              which task it is
/base              the last message once more: the base alone, and the base told the task
/new               forget the conversation, keep the task
/quit              leave (or Ctrl-D)"""


class Conversation:
    """Messages of a user and the answers so far, which the base sees with every new message.

    Args:
        base: answers.
        max_new_tokens: the longest answer.
    """

    def __init__(self, base: Base, max_new_tokens: int = 128) -> None:
        self.base = base
        self.max_new_tokens = max_new_tokens
        self.messages: list[dict[str, str]] = []

    def answer(self, text: str, adapter: Adapter | None, streamer: Any = None) -> str:
        """The greedy answer to a new message; both are kept.

        Args:
            adapter: of the task; None for the base alone.
            streamer: is given the answer's tokens as they come, as transformers' ``generate`` does.

        Raises:
            T2LError: the message alone is too long for the base.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        answer = self._reply(asked, adapter, streamer)
        self.messages = [*asked, {"role": "assistant", "content": answer}]
        return answer

    def again(self, told: str | None = None) -> str:
        """What the base alone answers to the last message.

        Args:
            told: a task's description, put before the message.

        Raises:
            T2LError: nothing has been asked.
        """
        from t2l.data.prompts import prompt_text

        if not self.messages:
            raise T2LError("Nothing has been asked yet.", "Write a message first; then /base answers it without.")
        *before, last = self.messages[:-1]
        content = last["content"] if told is None else prompt_text(last["content"], told, included=True)
        return self._reply([*before, {"role": "user", "content": content}], None, None)

    def _reply(self, messages: list[dict[str, str]], adapter: Adapter | None, streamer: Any) -> str:
        import torch

        from t2l.batched import apply_batched
        from t2l.gguf_base import quiet

        ids = self._tokens(messages)
        adapted: Any = nullcontext()
        if adapter is not None:
            adapted = apply_batched(self.base.model, adapter.spec, adapter.weights, [0])
        with torch.inference_mode(), adapted, quiet():
            ids_ST, mask_ST = self.base.padded([ids])
            more = {} if streamer is None else {"streamer": streamer}
            out_ST = self.base.greedy(ids_ST, mask_ST, self.max_new_tokens, **more)
        return str(self.base.tokenizer.decode(out_ST[0, len(ids) :], skip_special_tokens=True)).strip()

    def _tokens(self, messages: list[dict[str, str]]) -> list[int]:
        """Of the whole conversation, or of as many of its last turns as the base has room for."""
        window = self.base.window
        framed = self.base.has_chat_template
        while True:
            text = self.base.prompting.render(messages) if framed else messages[-1]["content"]
            ids = self.base.tokens(text)
            if window is None or len(ids) + self.max_new_tokens <= window:
                return ids
            if not framed or len(messages) < 3:
                raise T2LError(
                    f"The message has {len(ids)} tokens and {self.max_new_tokens} may follow; '{self.base.name}' has "
                    f"room for {window}.",
                    "Shorten it, or give a smaller --max-new-tokens.",
                )
            messages = messages[2:]


def chat(
    task: Annotated[
        str | None, typer.Option("--task", "-t", metavar="DESCRIPTION", help="The task to begin with.")
    ] = None,
    checkpoint: Checkpoint = None,
    base: BaseModel = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="The longest answer.")] = 128,
    device: Device = "cpu",
) -> None:
    """Talk to the base under an adapter; /task DESCRIPTION swaps the adapter while you talk, /base compares.

    Lines come from the terminal or through a pipe. /help lists what a line may begin with.
    """
    from t2l.encoders import prepare

    if task is not None:
        prepare([task])  # refused before anything is loaded
    device = checked_device(device)
    t2l = open_checkpoint(checkpoint, device)
    loaded = open_base(t2l, base, device)
    if loaded.note:
        say(f"Note: {loaded.note}", "yellow")
    talk = _Talk(t2l, Conversation(loaded, max_new_tokens))
    say(f"{t2l.spec.base_name(base)}. /help lists the commands, Ctrl-D leaves.", "dim")
    if task is None:
        say("No task yet: the base answers alone. /task DESCRIPTION", "dim")
    else:
        talk.swap(task)
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401  history and editing of the line
    while True:
        try:
            line = input("> ") if interactive else sys.stdin.readline()
        except EOFError:
            break
        if not interactive and not line:
            break
        if line.strip() in ("/quit", "/exit"):
            break
        try:
            if line.strip():
                talk.line(line.strip())
        except T2LError as error:  # one line was wrong, the conversation goes on
            say(f"{error.message} {error.fix or ''}".strip(), "red")


class _Talk:
    """What the lines of a conversation do."""

    def __init__(self, t2l: Any, conversation: Conversation) -> None:
        self.t2l = t2l
        self.conversation = conversation
        self.task: str | None = None
        self.adapter: Adapter | None = None

    def line(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "/task":
            if rest.strip():
                self.swap(rest.strip())
            else:
                say(self.task or "No task yet: the base answers alone.", "dim")
        elif word == "/base":
            self._label("base alone", self.conversation.again())
            if self.task is not None:
                self._label("base told the task", self.conversation.again(self.task))
        elif word == "/new":
            self.conversation.messages.clear()
            say("A new conversation.", "dim")
        elif word == "/help":
            say(_HELP, "dim")
        elif line.startswith("/"):
            raise T2LError(f"There is no command '{word}'.", "/help lists them.")
        else:
            self._answer(line)

    def swap(self, task: str) -> None:
        """Makes the task's adapter; what was said under another one would only mislead the base."""
        start = time.perf_counter()
        (adapter,) = self.t2l.generate([task])
        self.task, self.adapter = task, adapter
        self.conversation.messages.clear()
        say(f"Task: {task} (adapter made in {1000 * (time.perf_counter() - start):.0f} ms)", "green")

    def _answer(self, text: str) -> None:
        from transformers import TextStreamer

        class Shown(TextStreamer):
            """Writes what it is given to stdout as it comes, control characters written out."""

            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                super().on_finalized_text(shown(text), stream_end)

        tokenizer: Any = self.conversation.base.tokenizer
        self.conversation.answer(text, self.adapter, Shown(tokenizer, skip_prompt=True, skip_special_tokens=True))

    def _label(self, label: str, answer: str) -> None:
        from rich.text import Text

        results().print(Text.assemble((f"{label}: ", "dim"), answer or "(nothing)"), soft_wrap=True)
