"""Operations that pick out a part of the input by its place, length or order, and do something to it.

The input is a phrase (its words), a word (its letters), a comma list (its items) or a number (its digits): nothing in
it tells which part is meant or what is to be done. Three aspects compose (action, selector, unit), so that an
operation never met in training has many neighbours that differ from it in one aspect only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from lab.world.operations.operation import MAX_INPUT_CHARS, MAX_OUTPUT_CHARS, Operation
from lab.world.operations.vocabulary import WORDS

FAMILY = "selection"

Select = Callable[[Sequence[str]], tuple[int, int]]
"""Where the selected part starts and ends in the list of units."""
Act = Callable[[list[str], int, int], list[str]]
"""What becomes of the list of units, given the selected part."""

UNITS: dict[str, str] = {"word": " ", "letter": "", "item": ",", "digit": ""}
"""Unit -> what separates units in the input."""


def _at(position: int) -> Select:
    def select(units: Sequence[str]) -> tuple[int, int]:
        start = position % len(units)
        return start, start + 1

    return select


def _by(best: Callable[..., str], key: Callable[[str], int] | None = None) -> Select:
    def select(units: Sequence[str]) -> tuple[int, int]:
        start = units.index(best(units, key=key))
        return start, start + 1

    return select


def _span(start: int | None, stop: int | None) -> Select:
    return lambda units: slice(start, stop).indices(len(units))[:2]


PLACES: dict[str, Select] = {
    "first": _at(0),
    "second": _at(1),
    "third": _at(2),
    "fourth": _at(3),
    "third-from-last": _at(-3),
    "next-to-last": _at(-2),
    "last": _at(-1),
}
SPANS: dict[str, Select] = {
    "first-two": _span(None, 2),
    "first-three": _span(None, 3),
    "last-two": _span(-2, None),
    "last-three": _span(-3, None),
}
LENGTHS: dict[str, Select] = {"longest": _by(max, len), "shortest": _by(min, len)}
ALPHABET: dict[str, Select] = {"alphabetically-first": _by(min), "alphabetically-last": _by(max)}
SIZES: dict[str, Select] = {"largest": _by(max), "smallest": _by(min)}
EXTREMES: dict[str, dict[str, Select]] = {
    "word": {**LENGTHS, **ALPHABET},
    "letter": ALPHABET,
    "item": {**LENGTHS, **ALPHABET},
    "digit": SIZES,
}
SELECTORS: dict[str, Select] = {**PLACES, **SPANS, **LENGTHS, **ALPHABET, **SIZES}

ACTIONS: dict[str, Act] = {
    "give": lambda units, i, j: units[i:j],
    "drop": lambda units, i, j: units[:i] + units[j:],
    "capitalize": lambda units, i, j: units[:i] + [unit.upper() for unit in units[i:j]] + units[j:],
    "double": lambda units, i, j: units[:j] + units[i:j] + units[j:],
    "mask": lambda units, i, j: units[:i] + ["*" for _ in units[i:j]] + units[j:],
    "front": lambda units, i, j: units[i:j] + units[:i] + units[j:],
    "back": lambda units, i, j: units[:i] + units[j:] + units[i:j],
    "reverse": lambda units, i, j: units[:i] + [unit[::-1] for unit in units[i:j]] + units[j:],
}


def _combinations() -> list[tuple[str, str, str]]:
    """Every (action, selector, unit) that changes something, fits the answer's length and has one meaning."""
    return [
        (action, selector, unit)
        for unit in UNITS
        for action in ACTIONS
        for selector in (*PLACES, *SPANS, *EXTREMES[unit])
        if _has_effect(action, selector, unit)
    ]


def _has_effect(action: str, selector: str, unit: str) -> bool:
    if action == "capitalize":
        return unit != "digit"
    if action == "reverse":  # of several units: each spelled backwards, or their order?
        return unit in ("word", "item") and selector not in SPANS
    if action == "double":
        return not selector.endswith("-three")
    if action == "front":
        return not (selector in PLACES or selector in SPANS) or not selector.startswith("first")
    if action == "back":
        return selector not in ("last", "last-two", "last-three")
    return True


def _draw_units(rng: Random, unit: str) -> list[str]:
    if unit == "digit":
        return [str(rng.randrange(10)) for _ in range(rng.randint(4, 6))]
    if unit == "letter":
        return list(rng.choice(_LETTER_WORDS))
    return rng.sample(_SHORT_WORDS, rng.randint(4, 5))


def _unambiguous(units: list[str], selector: str) -> bool:
    keys = sorted(map(len, units)) if selector in LENGTHS else sorted(units)
    return selector not in (*LENGTHS, *ALPHABET, *SIZES) or (keys[0] != keys[1] and keys[-1] != keys[-2])


def _operation(action: str, selector: str, unit: str) -> Operation:
    select, act, separator = SELECTORS[selector], ACTIONS[action], UNITS[unit]

    def draw(rng: Random) -> tuple[str, str]:
        while True:
            units = _draw_units(rng, unit)
            text, answer = separator.join(units), separator.join(act(units, *select(units)))
            if len(text) <= MAX_INPUT_CHARS and len(answer) <= MAX_OUTPUT_CHARS and _unambiguous(units, selector):
                return text, answer

    return Operation(f"{action}-{selector}-{unit}", FAMILY, draw)


_SHORT_WORDS = [word for word in WORDS if 3 <= len(word) <= 5]
_LETTER_WORDS = [word for word in WORDS if 4 <= len(word) <= 7]

ASPECTS: dict[str, tuple[str, str, str]] = {"-".join(parts): parts for parts in _combinations()}
"""Operation name -> (action, selector, unit)."""
OPERATIONS: tuple[Operation, ...] = tuple(_operation(*parts) for parts in ASPECTS.values())
