"""Conversions: the same content written in another format, order or notation, and counts of its parts.

The operations on one kind of input (a date, a comma list, a phrase, a word, a number) share the function that draws
it, so that the input does not tell which conversion is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from lab.world.operations.operation import MAX_INPUT_CHARS, MAX_OUTPUT_CHARS, Operation
from lab.world.operations.vocabulary import NAMES, WORDS

FAMILY = "convert"


def _table(text: str) -> tuple[str, ...]:
    """A small table, written as one string."""
    return tuple(text.split())


_MONTHS = _table("January February March April May June July August September October November December")
_SURNAMES = _table(
    "Adams Allen Baker Bell Brown Carter Clark Cole Cook Davis Evans Fisher Ford Fox Gray Green Hall Hill Hunt Jones "
    "King Lane Lewis Long Mason Miller Moore Nash Parker Perry Price Reed Ross Scott Smith Stone Turner Ward West Young"
)
_KEYS = _table(
    "age city code color cost day font height lang level limit mode month name port rate role size speed type"
)
_VALUES = _table("auto big blue dark fast flat free gold green high large left low north old open red round slow soft")
_SHORT_WORDS = [word for word in WORDS if 3 <= len(word) <= 5]
_VOWEL_WORDS = [word for word in WORDS if set(word) & set("aeiou") and "y" not in word]
_WORDS_WITH_A = [word for word in _VOWEL_WORDS if "a" in word]


def _date(rng: Random) -> tuple[str, str, str]:
    return str(rng.randint(1900, 2049)), f"{rng.randint(1, 12):02d}", f"{rng.randint(1, 28):02d}"


def _time(rng: Random) -> tuple[int, str]:
    return rng.randint(0, 23), f"{rng.randint(0, 59):02d}"


def _number(rng: Random) -> int:
    return rng.randint(1, 999)


def _phrase(rng: Random) -> list[str]:
    """Two to five distinct short words: a phrase, a comma list or an identifier once they are joined."""
    return rng.sample(_SHORT_WORDS, rng.randint(2, 5))


def _list(rng: Random) -> list[str]:
    """Like a phrase, but sometimes with an item that comes twice."""
    return _repeating_list(rng) if rng.random() < 0.3 else _phrase(rng)


def _repeating_list(rng: Random) -> list[str]:
    items = rng.sample(_SHORT_WORDS, rng.randint(2, 4))
    items.insert(rng.randint(0, len(items)), rng.choice(items))
    return items


def _numbers(rng: Random) -> list[int]:
    return rng.sample(range(100), rng.randint(3, 5))


def _word(rng: Random) -> str:
    return rng.choice(WORDS)


def _vowel_word(rng: Random) -> str:
    """A word with a vowel and without the letter y, which some people count as one."""
    return rng.choice(_VOWEL_WORDS)


def _word_with_a(rng: Random) -> str:
    return rng.choice(_WORDS_WITH_A)


def _person(rng: Random) -> tuple[str, str]:
    return rng.choice(NAMES), rng.choice(_SURNAMES)


def _setting(rng: Random) -> tuple[str, str]:
    return rng.choice(_KEYS), str(rng.randint(1, 99)) if rng.random() < 0.3 else rng.choice(_VALUES)


def _iso(date: tuple[str, str, str]) -> str:
    return "-".join(date)


def _us(date: tuple[str, str, str]) -> str:
    year, month, day = date
    return f"{month}/{day}/{year}"


def _dotted(date: tuple[str, str, str]) -> str:
    return ".".join(reversed(date))


def _day_month(date: tuple[str, str, str]) -> str:
    return f"{int(date[2])} {_MONTHS[int(date[1]) - 1]}"


def _clock_24(time: tuple[int, str]) -> str:
    return f"{time[0]}:{time[1]}"


def _clock_12(time: tuple[int, str]) -> str:
    return f"{(time[0] - 1) % 12 + 1}:{time[1]} {'am' if time[0] < 12 else 'pm'}"


def _camel(words: Sequence[str]) -> str:
    return words[0] + "".join(word.capitalize() for word in words[1:])


def _numbered(items: Sequence[str]) -> str:
    return " ".join(f"{place} {item}" for place, item in enumerate(items, start=1))


def _only_vowels(word: str) -> str:
    return "".join(letter for letter in word if letter in "aeiou")


def _without_vowels(word: str) -> str:
    return "".join(letter for letter in word if letter not in "aeiou")


def _spaced(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def _operation(
    name: str,
    source: Callable[[Random], object],
    before: Callable[..., str],
    after: Callable[..., str],
    reveals: bool = False,
) -> Operation:
    """The operation that turns the content from ``source`` from one way to write it into another."""

    def draw(rng: Random) -> tuple[str, str]:
        while True:
            content = source(rng)
            text, answer = before(content), after(content)
            if len(text) <= MAX_INPUT_CHARS and 0 < len(answer) <= MAX_OUTPUT_CHARS:
                return text, answer

    return Operation(name, FAMILY, draw, reveals=reveals)


OPERATIONS: tuple[Operation, ...] = (
    _operation("iso-to-day-month", _date, _iso, _day_month, reveals=True),
    _operation("iso-to-us-date", _date, _iso, _us, reveals=True),
    _operation("iso-to-dotted-date", _date, _iso, _dotted, reveals=True),
    _operation("us-to-iso-date", _date, _us, _iso, reveals=True),
    _operation("clock-24-to-12", _time, _clock_24, _clock_12, reveals=True),
    _operation("clock-12-to-24", _time, _clock_12, _clock_24, reveals=True),
    _operation("list-to-words", _list, ",".join, " ".join),
    _operation("list-to-semicolons", _list, ",".join, ";".join),
    _operation("list-to-dashes", _list, ",".join, "-".join),
    _operation("list-to-bars", _list, ",".join, "|".join),
    _operation("list-to-slashes", _list, ",".join, "/".join),
    _operation("number-list", _list, ",".join, _numbered),
    _operation("dedupe-list", _repeating_list, ",".join, lambda items: ",".join(dict.fromkeys(items))),
    _operation("count-items", _list, ",".join, lambda items: str(len(items))),
    _operation("words-to-list", _phrase, " ".join, ",".join),
    _operation("words-to-snake", _phrase, " ".join, "_".join),
    _operation("words-to-kebab", _phrase, " ".join, "-".join),
    _operation("words-to-semicolons", _phrase, " ".join, ";".join),
    _operation("words-to-dots", _phrase, " ".join, ".".join),
    _operation("words-to-camel", _phrase, " ".join, _camel),
    _operation("initials", _phrase, " ".join, lambda words: "".join(word[0] for word in words)),
    _operation("remove-spaces", _phrase, " ".join, "".join),
    _operation("count-words", _phrase, " ".join, lambda words: str(len(words))),
    _operation("sort-words", _phrase, " ".join, lambda words: " ".join(sorted(words))),
    _operation("snake-to-words", _phrase, "_".join, " ".join, reveals=True),
    _operation("camel-to-words", _phrase, _camel, " ".join, reveals=True),
    _operation("snake-to-kebab", _phrase, "_".join, "-".join, reveals=True),
    _operation("camel-to-snake", _phrase, _camel, "_".join, reveals=True),
    _operation("camel-to-kebab", _phrase, _camel, "-".join, reveals=True),
    _operation("kebab-to-words", _phrase, "-".join, " ".join, reveals=True),
    _operation("number-to-dollars", _number, str, lambda number: f"${number}.00"),
    _operation("number-to-percent", _number, str, lambda number: f"{number}%"),
    _operation("number-to-kilometers", _number, str, lambda number: f"{number} km"),
    _operation("minutes-to-hours", _number, str, lambda number: f"{number // 60}:{number % 60:02d}"),
    _operation("spell-with-hyphens", _word, str, "-".join),
    _operation("spell-with-dots", _word, str, ".".join),
    _operation("spell-with-spaces", _word, str, " ".join),
    _operation("remove-vowels", _vowel_word, str, _without_vowels),
    _operation("keep-vowels", _vowel_word, str, _only_vowels),
    _operation("count-vowels", _vowel_word, str, lambda word: str(len(_only_vowels(word)))),
    _operation("count-letters", _word, str, lambda word: str(len(word))),
    _operation("replace-a-by-o", _word_with_a, str, lambda word: word.replace("a", "o")),
    _operation("sort-letters", _word, str, lambda word: "".join(sorted(word))),
    _operation("surname-first", _person, " ".join, lambda person: f"{person[1]}, {person[0]}", reveals=True),
    _operation("first-name-first", _person, lambda person: f"{person[1]}, {person[0]}", " ".join, reveals=True),
    _operation("setting-to-colon", _setting, "=".join, ": ".join, reveals=True),
    _operation("setting-swap", _setting, "=".join, lambda setting: "=".join(reversed(setting)), reveals=True),
    _operation("sort-ascending", _numbers, _spaced, lambda numbers: _spaced(sorted(numbers))),
    _operation("sort-descending", _numbers, _spaced, lambda numbers: _spaced(sorted(numbers, reverse=True))),
)
