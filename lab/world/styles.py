"""Answer styles: what may be done to any operation's answer. Knows nothing of operations, wording or splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """A way to write an answer down.

    Args:
        name: unique (``"brackets"``); the key of its phrases in ``wording/styles.yaml``.
        apply: the plain answer -> the styled one.
        needs_letters: changes nothing in an answer without letters, so it is not combined with such operations.
    """

    name: str
    apply: Callable[[str], str]
    needs_letters: bool = False


PLAIN = Style("plain", lambda answer: answer)
STYLES: dict[str, Style] = {
    style.name: style
    for style in (
        PLAIN,
        Style("upper", str.upper, needs_letters=True),
        Style("brackets", lambda answer: f"[{answer}]"),
        Style("quotes", lambda answer: f'"{answer}"'),
        Style("twice", lambda answer: f"{answer} {answer}"),
        Style("exclaim", lambda answer: f"{answer}!"),
        Style("prefix", lambda answer: f"out: {answer}"),
        Style("hash", lambda answer: f"#{answer}"),
        Style("stop", lambda answer: f"{answer}."),
    )
}
