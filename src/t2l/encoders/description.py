"""What counts as a task description, and the form in which every encoder reads it.

Level 1. This file knows text only: no encoder, no tokens, no files.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from t2l.errors import DescriptionError, DescriptionWarning

MAX_DESCRIPTION_CHARS = 8192
MAX_EXAMPLE_CHARS = 400
_ALLOWED_CONTROLS = "\t\n\r"


def prepare(texts: Sequence[str], *, full_stop: bool = True) -> list[str]:
    """The texts as the encoders read them: checked, stripped, and closed with a full stop after a final letter.

    The convention of Text-to-LoRA (arXiv 2506.06105, reference implementation). Duplicates stay.

    Args:
        full_stop: append the full stop; names of tasks (one-hot) go without.

    Raises:
        DescriptionError: a text is not a string, is blank, holds control characters or bytes that were not UTF-8, or
            is longer than `MAX_DESCRIPTION_CHARS`; the message says which one.

    Example:
        >>> prepare(["  Answer in French", "Is it true?"])
        ['Answer in French.', 'Is it true?']
    """
    if isinstance(texts, str):
        raise DescriptionError("Descriptions come as a list, not as one string.", f"Write [{texts[:40]!r}].")
    prepared = []
    for number, text in enumerate(texts, start=1):
        which = "The description" if len(texts) == 1 else f"Description {number} of {len(texts)}"
        _check(text, which)
        text = text.strip()
        prepared.append(f"{text}." if full_stop and text[-1].isalpha() else text)
    return prepared


def with_examples(description: str, examples: Sequence[tuple[str, str]]) -> str:
    """A description followed by examples (input, output), in the form that hypernetworks are trained on.

    Inputs and outputs are cut to `MAX_EXAMPLE_CHARS` characters.

    Example:
        >>> print(with_examples("Give the plural.", [("cat", "cats")]))
        Give the plural.
        <BLANKLINE>
        Input: cat
        Output: cats
    """
    shown = [
        f"Input: {given.strip()[:MAX_EXAMPLE_CHARS]}\nOutput: {answer.strip()[:MAX_EXAMPLE_CHARS]}"
        for given, answer in examples
    ]
    return "\n\n".join([description, *shown])


def warn_unseen(text: str, tokens: int, window: int) -> None:
    """Warns that an encoder reads only the first ``window`` of a description's ``tokens``."""
    warnings.warn(DescriptionWarning({text: (tokens, window)}), stacklevel=3)


@contextmanager
def warned_once() -> Iterator[None]:
    """What `warn_unseen` says in the block comes as one warning at its end, with the number of descriptions."""
    unread: dict[str, tuple[int, int]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("always", DescriptionWarning)
        before = warnings.showwarning

        def collect(message: Warning | str, *where: Any, **more: Any) -> None:
            if isinstance(message, DescriptionWarning):
                unread.update(message.unread)
            else:
                before(message, *where, **more)

        warnings.showwarning = collect
        yield
    if unread:
        warnings.warn(DescriptionWarning(unread), stacklevel=4)


def _check(text: object, which: str) -> None:
    if not isinstance(text, str):
        raise DescriptionError(f"{which} is {type(text).__name__}, not text: {str(text)[:40]!r}.")
    if len(text) > MAX_DESCRIPTION_CHARS:
        raise DescriptionError(
            f"{which} has {len(text)} characters; at most {MAX_DESCRIPTION_CHARS} are read.",
            "Say what the task is in a few sentences.",
        )
    for position, character in enumerate(text):
        category = unicodedata.category(character)
        if category == "Cs":
            raise DescriptionError(
                f"{which} is not valid UTF-8: byte or surrogate U+{ord(character):04X} at character {position + 1}.",
                "Save the text as UTF-8.",
            )
        if category == "Cc" and character not in _ALLOWED_CONTROLS:
            raise DescriptionError(
                f"{which} holds the control character U+{ord(character):04X} at character {position + 1}.",
                "Remove it; is this a text file?",
            )
    if all(unicodedata.category(character)[0] in "ZC" for character in text):
        raise DescriptionError(f"{which} is blank.", "Say in words what the adapter should do.")
