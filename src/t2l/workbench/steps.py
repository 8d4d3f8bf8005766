"""What a browser may ask of the page: a step that there is, with text, numbers and choices as its fields allow them.

Level 6. Gradio takes files, addresses and any JSON from whoever writes to its queue. Nothing of that is needed here, so
a body is read and written anew from what the fields of its step may hold; nothing else reaches Gradio.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from t2l.serving.errors import RequestError

MOST_TABLE = 1 << 20
"""Characters of a field without a limit of its own: a table."""

_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_Field = Callable[[Any], Any]


class Steps:
    """The steps of a page, by number, and what each of their fields may hold.

    Args:
        page: built; its fields are `gradio.Textbox`, `Slider`, `Radio` and `Checkbox`.

    Raises:
        TypeError: a step reads a component of another kind: nobody has said yet what that may hold.
    """

    def __init__(self, page: gr.Blocks) -> None:
        self._fields: Mapping[int, Sequence[_Field]] = {
            number: [_field(component) for component in step.inputs]
            for number, step in page.fns.items()
            if step.fn is not None
        }

    @property
    def numbers(self) -> list[int]:
        """Of all steps that compute anything."""
        return list(self._fields)

    def checked(self, body: bytes) -> bytes:
        """The body for Gradio: the number of a step, its fields, the session and what set it off.

        Raises:
            RequestError: it is not JSON, there is no such step, or a field cannot hold what is sent.
        """
        try:
            sent = json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise RequestError("The body is not JSON.") from None
        if not isinstance(sent, dict):
            raise RequestError("The body is not a JSON object.")
        number, session, values = sent.get("fn_index"), sent.get("session_hash"), sent.get("data")
        if type(number) is not int or number not in self._fields:
            raise RequestError("fn_index is not the number of a step of this page.")
        if not isinstance(session, str) or not _SESSION.fullmatch(session):
            raise RequestError("session_hash must be 1 to 64 letters, digits, '-' or '_'.")
        fields = self._fields[number]
        if not isinstance(values, list) or len(values) != len(fields):
            raise RequestError(f"data must be a list of {len(fields)} values.")
        trigger = sent.get("trigger_id")
        kept = {
            "fn_index": number,
            "session_hash": session,
            "data": [field(value) for field, value in zip(fields, values, strict=True)],
            "event_data": None,
            "trigger_id": trigger if type(trigger) is int and abs(trigger) < 1 << 31 else None,
        }
        return json.dumps(kept).encode()


def _field(component: Any) -> _Field:
    """What a value of this component must be; the function gives it back as it will be used."""
    if isinstance(component, gr.Textbox):
        return _text(component.max_length or MOST_TABLE)
    if isinstance(component, gr.Slider):
        return _number(component.minimum, component.maximum)
    if isinstance(component, gr.Radio):
        return _choice([value for _, value in component.choices])
    if isinstance(component, gr.Checkbox):
        return _choice([True, False])
    raise TypeError(f"no rule says what a {type(component).__name__} may hold")


def _text(most: int) -> _Field:
    def text(value: Any) -> str:
        if value is None:  # a field that nobody has touched
            return ""
        if not isinstance(value, str):
            raise RequestError("A text field holds something else than text.")
        if len(value) > most:
            raise RequestError(f"A text has {len(value)} characters; its field holds {most}.")
        return value.encode("utf-8", "replace").decode()  # a lone surrogate cannot be written anywhere

    return text


def _number(lowest: float, highest: float) -> _Field:
    def number(value: Any) -> float:
        if type(value) not in (int, float) or not lowest <= value <= highest:
            raise RequestError(f"A number must lie between {lowest:g} and {highest:g}.")
        return value

    return number


def _choice(offered: Sequence[Any]) -> _Field:
    def choice(value: Any) -> Any:
        if not any(type(value) is type(one) and value == one for one in offered):
            raise RequestError(f"A choice must be one of {', '.join(str(one) for one in offered)}.")
        return value

    return choice


def _no_constant(name: str) -> Any:
    raise ValueError(name)
