"""Descriptions of the micro world: many of them, and nothing that tells evaluation from training leaks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from importlib import resources
from itertools import chain
from typing import Any

import pytest
import yaml

from lab.world.operations import selection
from lab.world.styles import STYLES
from lab.world.tasks import OPERATIONS, all_tasks, find_task, tasks_of
from lab.world.wording import control_descriptions, descriptions, operation_phrases
from t2l.errors import T2LError

Table = dict[str, list[str]]
FAMILIES = ("lexicon", "classify", "extract", "convert", "arithmetic")


@cache
def wording(name: str) -> Any:
    text = resources.files("lab.world").joinpath(f"wording/{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def normal(phrase: str) -> str:
    """A phrase without what does not tell it from another: case, final stop, blanks."""
    return " ".join(phrase.lower().rstrip(".!?").split())


@pytest.fixture(scope="module")
def train_table() -> Table:
    """What a hypernetwork is trained on, for every task, also for those it is not trained on."""
    return {task.name: descriptions(task, 40, part="train") for task in all_tasks()}


@pytest.fixture(scope="module")
def evaluation_table() -> Table:
    return {task.name: descriptions(task, 10, part="evaluation") for task in all_tasks()}


def test_every_task_has_enough_different_descriptions(train_table: Table, evaluation_table: Table) -> None:
    for table, count in ((train_table, 40), (evaluation_table, 10)):
        few = {name: len(texts) for name, texts in table.items() if len(set(map(normal, texts))) < 0.9 * count}
        assert few == {}
        assert all(len(set(texts)) == count for texts in table.values())


def test_descriptions_are_clean_text(train_table: Table, evaluation_table: Table) -> None:
    for text in chain.from_iterable([*train_table.values(), *evaluation_table.values()]):
        assert text == text.strip() and "\n" not in text and "  " not in text
        assert "{" not in text and "}" not in text, text  # a placeholder that nobody filled
        assert 8 <= len(text) <= 300, text
        assert text[0].isupper() or not text[0].isalpha(), text


def test_no_evaluation_description_is_a_training_description(train_table: Table, evaluation_table: Table) -> None:
    trained = {normal(text) for texts in train_table.values() for text in texts}
    leaked = [text for texts in evaluation_table.values() for text in texts if normal(text) in trained]
    assert leaked == []


def test_no_description_of_a_held_out_task_is_in_the_training_table(train_table: Table) -> None:
    trained = {normal(text) for task in tasks_of("train") for text in train_table[task.name]}
    for task in tasks_of("validation", "unseen-combination", "unseen-operation", "far"):
        shown = descriptions(task, 20, part="train", seed=1) + train_table[task.name]
        assert [text for text in shown if normal(text) in trained] == [], task.name


def test_a_description_means_one_task(train_table: Table, evaluation_table: Table) -> None:
    for table in (train_table, evaluation_table):
        owners: dict[str, set[str]] = defaultdict(set)
        for name, texts in table.items():
            for text in texts:
                owners[normal(text)].add(name)
        assert {text: names for text, names in owners.items() if len(names) > 1} == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_phrase_serves_two_operations_or_both_parts(family: str) -> None:
    uses: Counter[str] = Counter()
    for operation in (op for op in OPERATIONS.values() if op.family == family):
        for part, least in (("train", 10), ("evaluation", 3)):
            phrases = [normal(phrase) for phrase in operation_phrases(operation.name, family, part)]
            assert len(set(phrases)) == len(phrases) >= least, (operation.name, part)
            uses.update(phrases)
    assert uses and [phrase for phrase, times in uses.items() if times > 1] == []


def _pools() -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, phrases by key and part) of everything that descriptions are composed from, frames and nouns aside."""
    aspects = wording("selection")
    yield "selectors", aspects["selectors"]
    yield "actions", aspects["actions"]
    yield "styles", wording("styles")


@pytest.mark.parametrize(("name", "pool"), list(_pools()), ids=lambda value: value if isinstance(value, str) else "")
def test_no_aspect_or_style_phrase_serves_two_meanings_or_both_parts(name: str, pool: dict[str, Any]) -> None:
    uses = Counter(normal(phrase) for parts in pool.values() for part in parts.values() for phrase in part)
    assert len(uses) > 50 and [phrase for phrase, times in uses.items() if times > 1] == []


def test_training_and_evaluation_share_no_frame() -> None:
    frames = wording("frames")
    assert frames["train"].keys() == frames["evaluation"].keys()
    train, evaluation = (
        {normal(f) for some in frames[part].values() for f in some} for part in ("train", "evaluation")
    )
    assert train and evaluation and train & evaluation == set()


def test_every_aspect_operation_and_style_has_its_words() -> None:
    aspects = wording("selection")
    for place, key in enumerate(("actions", "selectors", "units")):
        assert {parts[place] for parts in selection.ASPECTS.values()} == set(aspects[key])
    assert set(wording("styles")) == set(STYLES) - {"plain"}
    for family in FAMILIES:
        named = {op.name for op in OPERATIONS.values() if op.family == family}
        written = wording(family).keys()
        templates = set(written) - named
        if family == "lexicon":  # translations share templates, beside what some have of their own
            assert templates == {"to-foreign", "from-foreign", "foreign-to-foreign"} and named <= set(written)
        else:
            numbered = {f"{name.rpartition('-')[0]}-K" for name in named - written}  # add-7 is written as add-K
            assert templates == numbered, family


def test_numbers_are_said_in_words_and_in_digits() -> None:
    texts = descriptions(find_task("add-7"), 60, part="train")
    assert any(" 7" in text for text in texts) and any("seven" in text for text in texts)


def test_the_same_seed_gives_the_same_descriptions() -> None:
    task = tasks_of("unseen-combination")[0]
    assert descriptions(task, 8, part="train", seed=3) == descriptions(task, 8, part="train", seed=3)
    assert descriptions(task, 8, part="train", seed=3) != descriptions(task, 8, part="train", seed=4)
    assert descriptions(task, 3, part="train", seed=3) == descriptions(task, 8, part="train", seed=3)[:3]


def test_more_descriptions_than_there_are_is_an_error() -> None:
    with pytest.raises(T2LError, match=r"Only \d+ different evaluation descriptions of sentiment exist; 5000"):
        descriptions(find_task("sentiment"), 5000, part="evaluation")


def test_controls_name_no_task(train_table: Table) -> None:
    for kind in ("vague", "junk"):
        texts = control_descriptions(kind)
        assert len(set(texts)) >= 12
        assert not set(map(normal, texts)) & {normal(text) for some in train_table.values() for text in some}
