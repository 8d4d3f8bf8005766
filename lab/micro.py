"""The micro world's operations as everyday tasks: the same phrasings, inputs as people type them.

Lists have blanks after their commas, phrases are sentences, items are things of one kind. Of families with a number in
their name (add 3, add 4) only some are taken, and of selections (action, selector, unit) a draw.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from lab import content
from lab.short_wordings import short_wordings
from lab.tasks import EverydayTask, Split
from lab.world.operations import selection
from lab.world.operations.operation import Operation
from lab.world.styles import PLAIN, STYLES
from lab.world.tasks import FAR_OPERATIONS, OPERATIONS, UNSEEN_OPERATIONS, VALIDATION_OPERATIONS, MicroTask, find_task
from lab.world.wording import descriptions

SELECTIONS = {"word": 40, "item": 40, "letter": 20, "digit": 8}
"""How many selections of each unit are training tasks."""
STYLED = 30
_SHORT = short_wordings()
TRAINING_WORDINGS, EVALUATION_WORDINGS = 60, 8

_WANTED = content.words(  # selections that people ask for
    "give-first-letter give-last-letter give-second-letter give-first-two-letter give-last-three-letter "
    "drop-first-letter drop-last-letter capitalize-first-letter give-first-word give-last-word give-second-word "
    "give-longest-word give-shortest-word give-first-item give-last-item give-second-item give-next-to-last-item "
    "give-longest-item give-shortest-item give-alphabetically-first-item give-alphabetically-last-word "
    "give-first-two-item give-last-two-word drop-first-item drop-last-item drop-first-word drop-last-word "
    "capitalize-first-word capitalize-last-word capitalize-longest-word double-last-word mask-first-word "
    "front-last-item back-first-item reverse-first-word give-first-digit give-last-digit give-largest-digit"
)
_ALSO_SEEN = frozenset(["sentiment", "purchase-city", "date-month", "record-surname", "purchase-day"])
"""Held out in the world, but training data of the real base has them under another name."""
_ALSO_VALIDATION = frozenset(
    content.words("""
        country-to-demonym verb-to-agent sentence-person same-initial iso-to-dotted-date camel-to-kebab
        remove-spaces gender-counterpart complement-to-100 code-letters thing-material concatenate
    """)
)
_LEFT_OUT = frozenset(  # one of several that are nearly the same
    (
        *(f"{kind}-{number}" for kind in ("add", "subtract") for number in (4, 6, 8, 9)),
        *(f"multiply-{number}" for number in (6, 7, 8, 9)),
        *content.words("""
        subtract-7 italian-to-english portuguese-to-english dutch-to-english english-to-portuguese
        french-to-german french-to-italian spanish-to-french spanish-to-italian german-to-spanish
        german-to-italian italian-to-french italian-to-spanish italian-to-german sale-row-person
        sale-row-day sale-row-item sale-note-city sale-note-number list-to-slashes words-to-dots
        snake-to-kebab kebab-to-words spell-with-dots us-date-day us-date-month value-of-b
    """),
    )
)
_LIST = re.compile(r"[a-z]+(?:,[a-z]+)+")


def micro_tasks(seed: int = 0) -> list[EverydayTask]:
    """Everyday tasks of the micro world, training and held out."""
    rng = Random(f"{seed}/micro")
    held: dict[str, Split] = {
        **{name: "validation" for name in VALIDATION_OPERATIONS if name not in _ALSO_SEEN},
        **dict.fromkeys(_ALSO_VALIDATION, "validation"),
        **{name: "exam" for name in (*UNSEEN_OPERATIONS, *FAR_OPERATIONS) if name not in _ALSO_SEEN},
    }
    chosen = [name for name in _chosen_selections(rng, held) if name not in held]
    names = [
        name
        for name, operation in OPERATIONS.items()
        if name in held or (operation.family != selection.FAMILY and name not in _LEFT_OUT)
    ]
    plain = [find_task(name) for name in [*names, *chosen]]
    styled = rng.sample([task for task in plain if task.name not in held and _has_letters(task)], STYLED)
    styles = [style for style in STYLES.values() if style is not PLAIN]
    tasks = [_everyday(task, held.get(task.name, "train")) for task in plain]
    tasks += [_everyday(MicroTask(task.operation, rng.choice(styles), "train"), "train") for task in styled]
    return tasks


def _everyday(task: MicroTask, split: Split) -> EverydayTask:
    draw = _natural(task.operation)
    told = descriptions(task, TRAINING_WORDINGS, part="train")
    name = task.name.replace("+", "_in_").replace("-", "_")
    told = [*_SHORT.get(name, ()), *told]
    kept = descriptions(task, EVALUATION_WORDINGS, part="evaluation")

    def styled(rng: Random) -> tuple[str, str]:
        question, answer = draw(rng)
        return question, task.style.apply(answer)

    return EverydayTask(
        name=name,
        family=f"micro {task.family}",
        definition=min(told, key=lambda text: abs(len(text) - 80)),
        descriptions=tuple(told),
        evaluation=tuple(kept),
        draw=styled,
        split=split,
    )


def _chosen_selections(rng: Random, held: dict[str, Split]) -> list[str]:
    """The selections that people ask for, and others drawn until each unit has its number."""
    chosen = [name for name in _WANTED if name not in held]
    for unit, number in SELECTIONS.items():
        others = [name for name, parts in selection.ASPECTS.items() if parts[2] == unit]
        others = [name for name in others if name not in held and name not in chosen]
        missing = number - sum(selection.ASPECTS[name][2] == unit for name in chosen)
        chosen += rng.sample(others, max(0, missing))
    return chosen


def _natural(operation: Operation):
    """The operation's draw with natural inputs."""
    if operation.family == selection.FAMILY:
        return _selection_draw(*selection.ASPECTS[operation.name])

    def draw(rng: Random) -> tuple[str, str]:
        question, answer = operation.draw(rng)
        if _LIST.fullmatch(question):
            question = question.replace(",", ", ")
        if _LIST.fullmatch(answer):
            answer = answer.replace(",", ", ")
        return question, answer

    return draw


def _selection_draw(action: str, selector: str, unit: str):
    select, act = selection.SELECTORS[selector], selection.ACTIONS[action]
    separator = {"word": " ", "item": ", ", "letter": "", "digit": ""}[unit]

    def draw(rng: Random) -> tuple[str, str]:
        while True:
            units = _units(rng, unit)
            if _is_unambiguous(units, selector):
                return separator.join(units), separator.join(act(list(units), *select(units)))

    return draw


def _units(rng: Random, unit: str) -> list[str]:
    if unit == "word":
        return content.phrase(rng).split()
    if unit == "item":
        return content.items(rng, 4, 6)
    if unit == "letter":
        return list(rng.choice((*_LETTER_WORDS, rng.choice(content.FIRST_NAMES).lower())))
    return [str(rng.randrange(10)) for _ in range(rng.randint(4, 6))]


def _is_unambiguous(units: Sequence[str], selector: str) -> bool:
    if selector in selection.LENGTHS:
        keys = sorted(map(len, units))
    elif selector in (*selection.ALPHABET, *selection.SIZES):
        keys = sorted(unit.casefold() for unit in units)
        if sorted(units) != sorted(units, key=str.casefold):
            return False
    else:
        return len(units) >= 4
    return len(units) >= 3 and keys[0] != keys[1] and keys[-1] != keys[-2]


def _has_letters(task: MicroTask) -> bool:
    rng = Random(task.name)
    return all(any(letter.islower() for letter in task.draw(rng)[1]) for _ in range(10))


_LETTER_WORDS = tuple(
    word
    for word in (*content.NOUNS, *content.ADJECTIVES, *content.LISTS["fruit"], *content.LISTS["animal"])
    if 4 <= len(word) <= 9
)
