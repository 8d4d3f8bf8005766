"""New tasks from tasks, so that the words of a description must matter: renamed labels, and answers in another form.

A variant is a task of its own, named ``TASK__KIND_N``; its split is that of its source (`source_of`), and no variant is
"another task" to its siblings. Same seed, same variants. This file does not know how labels are renamed (`lab.labels`),
which styles there are (`lab.answer_styles`), nor where variants are written (`lab.store`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from lab.answer_styles import STYLES, AnswerStyle
from lab.labels import (
    Relabelling,
    are_options,
    label_of,
    labels_of,
    mapped,
    names_all,
    relabellings,
    renamed,
    speaks_of_form,
)
from t2l.data.descriptions import DescriptionSet
from t2l.data.sources import Instance, Task
from t2l.errors import DataError

SEPARATOR = "__"
FURTHER_ROUNDS = 8
"""How often new names are drawn where more renamings are wanted than one draw gives; fourteen take one."""


@dataclass(frozen=True)
class VariantConfig:
    """How many variants are made, and how large they are.

    Args:
        labels: renamings of a task with a small set of labels.
        option_labels: of a task whose labels only point at options in the input (A, B, C).
        styles: answer styles of a task, on average; a fraction is drawn.
        instances: of a variant at most.
        min_instances: a variant with fewer is not made.
        descriptions: of a variant at most.
        max_description: characters; longer texts are used only where there is no other.
        max_answer: characters of an answer that gets a style.
        seed: of all draws.
    """

    labels: int = 3
    option_labels: int = 1
    styles: float = 1.0
    instances: int = 64
    min_instances: int = 20
    descriptions: int = 24
    max_description: int = 700
    max_answer: int = 120
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("labels", "option_labels", "styles"):
            if getattr(self, name) < 0:
                raise DataError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 0.")
        for name in ("instances", "min_instances", "descriptions"):
            if getattr(self, name) < 1:
                raise DataError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1.")


@dataclass(frozen=True)
class Variant:
    """A task made from another.

    Args:
        task: the new task; its name begins with the source's.
        source: name of the task it was made from.
        kind: ``label`` or ``style``.
        way: how, in a word: ``swap``, ``invented``, ``upper``.
        descriptions: its own.
    """

    task: Task
    source: str
    kind: str
    way: str
    descriptions: DescriptionSet


def source_of(name: str) -> str:
    """The task that a variant was made from; a task that is no variant is its own source."""
    return name.partition(SEPARATOR)[0]


def variants_of(task: Task, described: DescriptionSet | None, config: VariantConfig) -> list[Variant]:
    """All variants of one task: labels first, then styles."""
    training, evaluation = _wordings(task, described)
    return [*_label_variants(task, training, evaluation, config), *_style_variants(task, training, evaluation, config)]


def _wordings(task: Task, described: DescriptionSet | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Training and evaluation descriptions; the definition stands first among the former."""
    given = described.descriptions if described else ()
    training = dict.fromkeys((*((task.definition,) if task.definition else ()), *given))
    return tuple(training), described.evaluation if described else ()


def _label_variants(
    task: Task, training: Sequence[str], evaluation: Sequence[str], config: VariantConfig
) -> list[Variant]:
    labels = labels_of(task)
    if labels is None or not training:
        return []
    wanted = config.option_labels if are_options(labels) else config.labels
    rng = Random(f"{config.seed}/{task.name}/labels")
    meaningless = any(len(label) < 2 or label.isdigit() for label in labels) or are_options(labels)
    found: list[Variant] = []
    for relabelling in _renamings(labels, rng, f"{config.seed}/{task.name}/labels"):
        if len(found) == wanted:
            break
        told = _relabelled(training, labels, relabelling, rng, config, meaningless=meaningless)
        held = _relabelled(evaluation, labels, relabelling, rng, config, meaningless=meaningless)
        instances = _balanced(task.instances, rng, config.instances)
        changed = [
            Instance(instance.input, tuple(relabelling.names[label_of(output)] for output in instance.outputs[:1]))
            for instance in instances
        ]
        if not told or len(changed) < config.min_instances:
            continue
        found.append(_made(task, "label", len(found) + 1, relabelling.kind, told, held, changed))
    return found


def _renamings(labels: Sequence[str], rng: Random, key: str) -> Iterator[Relabelling]:
    """One draw of renamings, then further draws without those that were there before.

    Args:
        rng: of the first draw alone, so that a larger number of renamings begins with those of a smaller.
        key: of the further ones.
    """
    seen: set[tuple[str, ...]] = set()
    for turn in range(1 + FURTHER_ROUNDS):
        for relabelling in relabellings(labels, Random(f"{key}/{turn}") if turn else rng):
            names = tuple(relabelling.names.values())
            if not turn or names not in seen:
                yield relabelling
            seen.add(names)


def _relabelled(
    texts: Sequence[str],
    labels: Sequence[str],
    relabelling: Relabelling,
    rng: Random,
    config: VariantConfig,
    *,
    meaningless: bool,
) -> list[str]:
    """Descriptions with the new names in them, and descriptions with a sentence that gives the new names."""
    short = _usable(texts, config)
    inside = [text for given in short if (text := renamed(given, relabelling)) is not None]
    naming = [text for text in short if names_all(text, labels)]
    others = [] if meaningless else [text for text in short if text not in naming]
    rng.shuffle(inside)
    rng.shuffle(others)
    half = config.descriptions // 2
    inside = inside[: half if relabelling.kind != "case" else config.descriptions]
    beside = [mapped(text, relabelling, rng) for text in (naming + others)[: config.descriptions - len(inside)]]
    if relabelling.kind == "case" and len(inside) >= 4:
        beside = []
    while beside and len(inside) + len(beside) < min(6, config.descriptions):
        beside.append(mapped(rng.choice(naming or short), relabelling, rng))
    return list(dict.fromkeys((*inside, *beside)))


def _usable(texts: Sequence[str], config: VariantConfig) -> list[str]:
    """Descriptions that are short enough and leave the form of the answer open; where there are none, the first."""
    short = [text for text in texts if len(text) <= config.max_description]
    return [text for text in short if not speaks_of_form(text)] or short or list(texts[:1])


def _balanced(instances: Sequence[Instance], rng: Random, limit: int) -> list[Instance]:
    """Instances drawn from all labels in turn."""
    groups: dict[str, list[Instance]] = {}
    for instance in instances:
        groups.setdefault(label_of(instance.outputs[0]), []).append(instance)
    for group in groups.values():
        rng.shuffle(group)
    found: list[Instance] = []
    while len(found) < limit and any(groups.values()):
        found += [group.pop() for group in groups.values() if group]
    rng.shuffle(found)
    return found[:limit]


def _style_variants(
    task: Task, training: Sequence[str], evaluation: Sequence[str], config: VariantConfig
) -> list[Variant]:
    rng = Random(f"{config.seed}/{task.name}/styles")
    wanted = int(config.styles) + (rng.random() < config.styles % 1)
    short = _usable(training, config)
    if not short:
        return []
    found: list[Variant] = []
    for style in rng.sample(STYLES, len(STYLES)):
        if len(found) == wanted:
            break
        changed = _styled(task.instances, style, rng, config)
        if changed is None:
            continue
        texts = short[:1] + rng.sample(short[1:], min(len(short) - 1, config.descriptions - 1))
        told = [_joined(text, rng.choice(style.training), rng) for text in texts]
        while len(told) < 8:
            told.append(_joined(rng.choice(short), rng.choice(style.training), rng))
        held = [_joined(text, rng.choice(style.evaluation), rng) for text in evaluation[: config.descriptions]]
        found.append(_made(task, "style", len(found) + 1, style.name, list(dict.fromkeys(told)), held, changed))
    return found


def _styled(
    instances: Sequence[Instance], style: AnswerStyle, rng: Random, config: VariantConfig
) -> list[Instance] | None:
    """Instances with styled answers; None where the style changes too few of them."""
    fitting: list[Instance] = []
    looked = 0
    for instance in rng.sample(instances, len(instances)):
        answer = instance.outputs[0].strip()
        if not answer or len(answer) > config.max_answer or "\n" in answer:
            continue
        looked += 1
        new = style.apply(answer)
        if new is not None and new != answer and new.strip():
            fitting.append(Instance(instance.input, (new,)))
    enough = len(fitting) >= max(config.min_instances, 0.6 * looked)
    return fitting[: config.instances] if enough and looked >= 0.4 * len(instances) else None


def _joined(text: str, sentence: str, rng: Random) -> str:
    """A description with a sentence before or after it, mostly after."""
    text = text.strip()
    text = text if text[-1:] in ".!?:\"')" else f"{text}."
    if rng.random() < 0.25 and sentence[:1].isupper():
        return f"{sentence}{'' if sentence[-1:] in '.!?:' else '.'} {text}"
    return f"{text} {sentence}"


def _made(
    task: Task,
    kind: str,
    number: int,
    way: str,
    training: Sequence[str],
    evaluation: Sequence[str],
    instances: Sequence[Instance],
) -> Variant:
    name = f"{task.name}{SEPARATOR}{kind}_{number}"
    new = Task(
        name=name,
        definition=training[0],
        instances=tuple(instances),
        languages=task.languages,
        licences=task.licences,
        datasets=task.datasets,
        categories=task.categories,
    )
    told = DescriptionSet(name, tuple(training), tuple(text for text in evaluation if text not in training))
    return Variant(new, task.name, kind, way, told)
