"""From messages or text to the tokens that a base reads, and whether they fit.

Level 5. This file knows a base's tokenizer and chat template; no requests of HTTP, no slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from t2l.bases import Base
from t2l.serving.errors import PromptTooLongError, RequestError


def longest_token(base: Base) -> int:
    """Characters of the longest token: a text of more than so many for each token of a context cannot fit."""
    return max((len(token) for token in base.tokenizer.get_vocab()), default=1)


def chat_tokens(base: Base, messages: Sequence[Mapping[str, str]], most: int | None = None) -> list[int]:
    """Messages (``role``, ``content``) in the base's chat template, up to where the answer begins.

    A base without a template reads one user message as plain text.

    Args:
        most: characters in all; more are refused before anything is tokenised, which takes long.

    Raises:
        RequestError: there are none, the template refuses them, or there is no template for several.
    """
    if not messages:
        raise RequestError("There are no messages.", field="messages")
    _check_text("".join(message["content"] for message in messages), "messages", most)
    if not base.has_chat_template:
        if len(messages) > 1 or messages[0]["role"] != "user":
            raise RequestError(
                f"'{base.name}' has no chat template, so it reads one user message and nothing else.",
                "Send one user message, or use /v1/completions.",
                field="messages",
            )
        return text_tokens(base, messages[0]["content"])
    try:
        text = base.prompting.render(messages)
    except Exception as problem:  # templates raise what they like
        raise RequestError(f"The base's chat template refuses these messages: {problem}", field="messages") from problem
    return _tokens(base, text, special=False)


def text_tokens(base: Base, text: str, most: int | None = None) -> list[int]:
    """Plain text as the tokenizer reads it by default.

    Args:
        most: characters; more are refused before anything is tokenised.

    Raises:
        RequestError: the text is not valid Unicode, or too long.
    """
    _check_text(text, "prompt", most)
    return _tokens(base, text, special=True)


def check_tokens(base: Base, tokens: Sequence[int]) -> list[int]:
    """Tokens that came from outside.

    Raises:
        RequestError: one is not in the vocabulary.
    """
    vocabulary = base.model.get_input_embeddings().weight.shape[0]
    outside = next((token for token in tokens if not 0 <= token < vocabulary), None)
    if outside is not None:
        raise RequestError(f"There is no token {outside}; there are {vocabulary}, from 0.", field="prompt")
    return list(tokens)


def room(prompt_tokens: int, max_tokens: int | None, context: int, limit: int) -> int:
    """How many tokens may follow a prompt: ``max_tokens``, or as many as there is room for, up to ``limit``.

    Raises:
        RequestError: the prompt is empty, more are asked for than the limit, or they do not fit.
    """
    if prompt_tokens < 1:
        raise RequestError("The prompt is empty.", "Give it some text.", field="prompt")
    if max_tokens is not None and max_tokens > limit:
        raise RequestError(f"max_tokens is {max_tokens}; this server allows {limit}.", field="max_tokens")
    wanted = min(limit, max(1, context - prompt_tokens)) if max_tokens is None else max_tokens
    if prompt_tokens + wanted > context:
        raise PromptTooLongError(
            f"The prompt has {prompt_tokens} tokens and {wanted} may follow; there is room for {context} together.",
            "Shorten the prompt, or ask for fewer tokens.",
            field="prompt" if prompt_tokens >= context else "max_tokens",
        )
    return wanted


def _tokens(base: Base, text: str, *, special: bool) -> list[int]:
    return list(base.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def _check_text(text: str, field: str, most: int | None) -> None:
    if most is not None and len(text) > most:
        raise PromptTooLongError(
            f"The text has {len(text)} characters; {most} are more than any prompt has that fits.",
            "Shorten the prompt.",
            field=field,
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError("The text is not valid UTF-8.", field=field) from None
