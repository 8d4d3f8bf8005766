"""How messages are put to a base: its chat template with its own, another or no system message.

Level 0. Some templates put a system message before every conversation that has none. A checkpoint is trained with one
frame around each input, so the frame is part of it: `TEMPLATE`, `NONE`, or the text of a system message. This file
knows tokenizers' templates; it does not know who asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from t2l.errors import BaseModelError

TEMPLATE = "template"
"""The system message, if any, that the chat template adds."""

NONE = "none"
"""No system message at all, whatever the template would add."""

INPUT = "{input}"
"""Stands for the input in a prompt that is written down."""

RECORDED = ("system", "prompt")
"""What a store's manifest, a checkpoint's metadata and an adapter's provenance say of prompts: the system message, and
the whole prompt with `INPUT` in it."""

_FIRST, _ANSWER, _SECOND = "qzfirstqz", "qzanswerqz", "qzsecondqz"  # no template changes letters
_FIX = f"Use --system {TEMPLATE}"


def recorded(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest, metadata or a provenance says of prompts: those of `RECORDED` that it has."""
    return {name: values[name] for name in RECORDED if name in values}


class Prompting:
    """The prompts of one base with one system message.

    Args:
        tokenizer: a Hugging Face tokenizer.
        name: of the base, for messages.
        system: `TEMPLATE`, `NONE`, or the text of a system message.

    Raises:
        BaseModelError: the chat template cannot express it: it has no system role, changes the text, or puts its own
            system message in such a way that a prompt without it cannot be derived.
    """

    def __init__(self, tokenizer: Any, name: str, system: str = TEMPLATE) -> None:
        self.system = system
        self._tokenizer, self._name = tokenizer, name
        if system == NONE and self._has_template:
            self._bare  # noqa: B018  derived now, so that what cannot be is refused now
        elif system not in (TEMPLATE, NONE):
            self._check_text()

    def render(self, messages: Sequence[Mapping[str, str]], **how: Any) -> str:
        """Messages (``role``, ``content``) as the text that the base reads, up to where the answer begins.

        A conversation that brings a system message keeps it.

        Args:
            how: for ``apply_chat_template``, such as ``continue_final_message``.
        """
        whole = [dict(message) for message in messages]
        if whole and whole[0].get("role") != "system" and self.system not in (TEMPLATE, NONE):
            whole.insert(0, {"role": "system", "content": self.system})
        text = self._apply(whole, **how)
        if self.system != NONE or not whole or whole[0].get("role") == "system":
            return text
        usual, bare = self._bare
        if not text.startswith(usual):
            raise BaseModelError(
                f"The chat template of '{self._name}' begins this conversation in another way, so its system message "
                "cannot be left out.",
                "Let a user's message come first.",
            )
        return bare + text[len(usual) :]

    def prompt(self, text: str) -> str:
        """One user message, or the text itself where there is no chat template."""
        return self.render([{"role": "user", "content": text}]) if self._has_template else text

    @property
    def written(self) -> str:
        """The prompt of an input, with `INPUT` in the input's place."""
        return self.prompt(_FIRST).replace(_FIRST, INPUT)

    @property
    def _has_template(self) -> bool:
        return bool(getattr(self._tokenizer, "chat_template", None))

    def _apply(self, messages: list[dict[str, str]], **how: Any) -> str:
        how = {"add_generation_prompt": True, **how}
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, **how))

    @cached_property
    def _bare(self) -> tuple[str, str]:
        """What stands before a first user's text, and the same without a system message.

        The second is read off a later turn of a conversation, before which no template repeats a system message.
        """
        first = {"role": "user", "content": _FIRST}
        answer = {"role": "assistant", "content": _ANSWER}
        second = {"role": "user", "content": _SECOND}
        try:
            usual, _, after = self._apply([first]).partition(_FIRST)
            begun = self._apply([first, answer], add_generation_prompt=False)
            longer = self._apply([first, answer, second])
        except Exception as problem:  # templates raise what they like
            raise self._impossible(f"it refuses a conversation: {problem}") from problem
        turn, _, rest = longer[len(begun) :].partition(_SECOND)
        begin = self._tokenizer.bos_token or ""
        bare = turn if not usual.startswith(begin) or turn.startswith(begin) else begin + turn
        if not longer.startswith(begun) or rest != after or not after or not usual.endswith(turn):
            raise self._impossible("a later message of a user's looks different from the first")
        return usual, bare

    def _check_text(self) -> None:
        if not self.system.strip():
            raise BaseModelError("The system message is empty.", f"For none at all: --system {NONE}")
        if not self._has_template:
            raise BaseModelError(
                f"'{self._name}' has no chat template, so it takes no system message.",
                f"Use --system {TEMPLATE}: inputs are then put as plain text.",
            )
        try:
            before, found, _ = self.prompt(_FIRST).partition(_FIRST)
        except Exception as problem:  # templates raise what they like
            raise self._impossible(f"it refuses a system message: {problem}") from problem
        if not found or before.count(self.system.strip()) != 1:
            raise self._impossible("it does not show the system message as it is")

    def _impossible(self, why: str) -> BaseModelError:
        shown = "no system message" if self.system == NONE else f"the system message {self.system[:40]!r}"
        return BaseModelError(f"The chat template of '{self._name}' cannot express {shown}: {why}.", f"{_FIX}.")
