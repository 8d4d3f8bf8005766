"""Natural descriptions of micro-tasks, composed from phrases written by hand in ``wording/*.yaml``.

Training and evaluation descriptions share no frame and no operation or style phrase: every evaluation description says
the task in words and sentence frames that no training description of it uses. Control descriptions (vague, junk) are
here too. This file knows tasks by name and aspect; it knows no encoders and no models.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from random import Random
from typing import Any

from lab.world.operations import lexicon, selection
from lab.world.styles import PLAIN
from lab.world.tasks import MicroTask, Part
from t2l.errors import T2LError

_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_MAX_TRIES_PER_DESCRIPTION = 60


def descriptions(task: MicroTask, n: int, *, part: Part, seed: int = 0) -> list[str]:
    """``n`` different descriptions of a task, the same for the same seed.

    Args:
        part: ``"train"`` for wordings the hypernetwork may learn from, ``"evaluation"`` for unseen phrases in unseen
            frames.

    Raises:
        T2LError: the phrases written for the task do not give as many different descriptions.
    """
    rng = Random(f"{task.name}/{part}/{seed}")
    found: dict[str, None] = {}
    for _ in range(n * _MAX_TRIES_PER_DESCRIPTION):
        found.setdefault(_compose(rng, task, part))
        if len(found) == n:
            return list(found)
    raise T2LError(f"Only {len(found)} different {part} descriptions of {task.name} exist; {n} were asked for.")


def control_descriptions(kind: str) -> list[str]:
    """Descriptions that name no task: ``"vague"`` or ``"junk"`` ones."""
    return list(_load("control")[kind])


def operation_phrases(operation: str, family: str, part: Part) -> list[str]:
    """Every phrase written for an operation outside the selection family."""
    phrases = _load(family)
    found = list(phrases[operation][part]) if operation in phrases else []
    kind, _, number = operation.rpartition("-")
    if f"{kind}-K" in phrases:
        word = _NUMBER_WORDS[int(number)]
        found += [phrase.format(k=number, k_word=word) for phrase in phrases[f"{kind}-K"][part]]
    source, _, target = operation.partition("-to-")
    if source in lexicon.LANGUAGES and target in lexicon.LANGUAGES:
        kind = "to-foreign" if source == "english" else "from-foreign" if target == "english" else "foreign-to-foreign"
        names = {"source": source.capitalize(), "target": target.capitalize()}
        found += [phrase.format(**names) for phrase in phrases[kind][part]]
    return found


def _compose(rng: Random, task: MicroTask, part: Part) -> str:
    phrase = _phrase(rng, task, part)
    frames = _load("frames")[part]
    form = "sentence" if phrase[0].isupper() else "imperative"
    parts = {"do": phrase, "Do": _capitalized(phrase), "S": phrase}
    if task.style is not PLAIN:
        style = rng.choice(_load("styles")[task.style.name][part])
        form += "_style_sentence" if style[0].isupper() else "_styled"
        parts.update(style=style, Style=_capitalized(style), style_s=style)
    return rng.choice(frames[form]).format(**parts)


def _phrase(rng: Random, task: MicroTask, part: Part) -> str:
    if task.family != selection.FAMILY:
        return rng.choice(operation_phrases(task.operation.name, task.family, part))
    action, selector, unit = selection.ASPECTS[task.operation.name]
    wording = _load(selection.FAMILY)
    nouns = wording["units"][unit][part]
    selected = rng.choice(wording["selectors"][selector][part]).format(
        unit=rng.choice(nouns["one"]), units=rng.choice(nouns["many"])
    )
    template = rng.choice(wording["actions"][action][part])
    phrase = template.format(x=selected, whole=rng.choice(nouns["whole"]))
    return _capitalized(phrase) if template[0] == "{" else phrase


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


@cache
def _load(name: str) -> dict[str, Any]:
    import yaml

    text = resources.files("lab.world").joinpath(f"wording/{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)
