"""Variants: labels renamed safely, answers in another form, as many renamings as are asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab.answer_styles import STYLES
from lab.labels import Relabelling, are_options, labels_of, mapped, relabellings, renamed, speaks_of_form
from lab.variants import VariantConfig, source_of, variants_of
from t2l.data.descriptions import DescriptionSet
from t2l.data.sources import Instance, Task
from t2l.errors import DataError

SPAM = Relabelling("invented", {"spam": "zarp", "ham": "mivo"}, keeps_sense=False)
YES = Relabelling("switch", {"yes": "agree", "no": "disagree"}, keeps_sense=True)
GRADE = Relabelling("series", {"A": "X", "B": "Y"}, keeps_sense=False)


def task(outputs: list[str], name: str = "task900_toy", copies: int = 30) -> Task:
    instances = [Instance(f"input {turn} {output}", (output,)) for turn in range(copies) for output in outputs]
    return Task(name, 'Say "spam" if it is unwanted and "ham" if it is not.', tuple(instances), categories=("Toy",))


@pytest.mark.parametrize(
    ("text", "names", "wanted"),
    [
        ('Write "spam" if it is junk, otherwise "ham".', SPAM, 'Write "zarp" if it is junk, otherwise "mivo".'),
        ("Write spam for junk and ham for the rest.", SPAM, "Write zarp for junk and mivo for the rest."),
        ("Is it spam or ham?", SPAM, None),  # other names would lose the sense
        ("Write spam for junk. Spammers lie; ham is for spam filters.", SPAM, None),  # an old label would be left
        ("Does it fit? Answer yes or no.", YES, "Does it fit? Answer agree or disagree."),
        ("If there is no answer say no, otherwise yes.", YES, "If there is no answer say disagree, otherwise agree."),
        ("Say yes. There are no other answers.", YES, None),  # "no" stands here as an ordinary word only
        ("A yes/no question.", YES, "An agree/disagree question."),
        ('Answer "A" if a thing is new and "B" if it is a copy.', GRADE,
         'Answer "X" if a thing is new and "Y" if it is a copy.'),
        ("A text is given. Answer A if it is new, B if it is old.", GRADE,
         "A text is given. Answer X if it is new, Y if it is old."),
    ],
)  # fmt: skip
def test_a_description_keeps_its_sense_or_is_refused(text: str, names: Relabelling, wanted: str | None) -> None:
    assert renamed(text, names) == wanted


def test_a_swap_exchanges_labels_at_once() -> None:
    swap = Relabelling("swap", {"spam": "ham", "ham": "spam"}, keeps_sense=False)
    assert renamed('"spam" for junk, "ham" for the rest', swap) == '"ham" for junk, "spam" for the rest'


def test_the_mapping_sentence_gives_every_label_its_name() -> None:
    for seed in range(30):
        text = mapped("Is it spam or ham?", SPAM, Random(seed))
        assert text.startswith("Is it spam or ham? ")
        assert all(text.count(name) >= 1 for name in ("zarp", "mivo"))
        assert text.split("? ", 1)[1].count("spam") >= 1


def test_only_small_sets_of_short_labels_are_labels() -> None:
    assert labels_of(task(["Yes.", "No."])) in (("No", "Yes"), ("Yes", "No"))
    assert labels_of(task(["one"])) is None
    assert labels_of(task([str(number) for number in range(9)])) is None
    assert labels_of(task(["yes", "YES"])) is None
    assert labels_of(task(["yes", "no"], copies=5)) is None
    assert are_options(["A", "B"]) and are_options(["Option 1", "Option 2"]) and not are_options(["0", "1"])


def test_relabellings_are_different_and_complete() -> None:
    found = relabellings(["positive", "negative"], Random(0))
    assert {"valence", "swap", "common", "invented", "phrase", "case", "series"} <= {way.kind for way in found}
    for way in found:
        assert set(way.names) == {"positive", "negative"}
        assert len(set(way.names.values())) == 2
        assert dict(way.names) != {"positive": "positive", "negative": "negative"}


def test_only_a_bare_switch_is_exchanged_wherever_it_stands() -> None:
    bare = [way for way in relabellings(["yes", "no"], Random(0)) if way.kind == "switch"]
    other = [way for way in relabellings(["valid", "invalid"], Random(0)) if way.kind == "switch"]
    assert bare and all(way.keeps_sense for way in bare)
    assert other and not any(way.keeps_sense for way in other)
    assert (
        speaks_of_form("Answer in lower case.") and speaks_of_form("Give one digit.") and not speaks_of_form("Say yes.")
    )


def test_label_variants_say_what_they_answer() -> None:
    spam = task(["spam", "ham"])
    described = DescriptionSet(spam.name, ("Is it spam or ham?", 'Reply "ham" for mail and "spam" for junk.'))
    config = VariantConfig(labels=6, styles=0, instances=20)
    made = variants_of(spam, described, config)
    assert [variant.task.name for variant in made] == [f"task900_toy__label_{n}" for n in range(1, 7)]
    assert len({tuple(sorted(i.outputs[0] for i in variant.task.instances)) for variant in made}) == 6
    for variant in made:
        answers = {instance.outputs[0] for instance in variant.task.instances}
        assert len(answers) == 2 and len(variant.task.instances) == 20
        counts = [sum(i.outputs[0] == answer for i in variant.task.instances) for answer in answers]
        assert counts == [10, 10]
        for text in variant.descriptions.descriptions:
            assert all(answer.casefold() in text.casefold() for answer in answers), text
    again = variants_of(spam, described, config)
    assert again == made
    assert variants_of(spam, described, VariantConfig(labels=6, styles=0, instances=20, seed=1)) != made


def test_every_style_changes_answers_and_has_wordings_of_its_own() -> None:
    wordings = [line for style in STYLES for line in style.wordings]
    assert len(wordings) == len(set(wordings))
    assert len({style.name for style in STYLES}) == len(STYLES)
    for style in STYLES:
        assert len(style.training) >= 7 and len(style.evaluation) == 2, style.name
        assert any(style.apply(answer) not in (None, answer) for answer in ("word", "Two Big words here", "HIGH")), (
            style.name
        )
    apply = {style.name: style.apply for style in STYLES}
    assert apply["json_answer"]('say "hi"') == '{"answer": "say \\"hi\\""}'
    assert apply["backwards"]("star.") == "rats" and apply["backwards"]("two words") is None
    assert apply["stop"]("done.") is None and apply["exclaim"]("done.") == "done!"
    assert apply["first_three"]("a b c d") == "a b c" and apply["last_word"]("one two.") == "two"


def test_style_variants_put_the_sentence_beside_the_description() -> None:
    made = variants_of(task(["spam", "ham"]), None, VariantConfig(labels=0, styles=3, instances=25))
    assert [variant.kind for variant in made] == ["style"] * 3
    by_name = {style.name: style for style in STYLES}
    for variant in made:
        style = by_name[variant.way]
        assert {i.outputs[0] for i in variant.task.instances} == {style.apply("spam"), style.apply("ham")}
        for text in variant.descriptions.descriptions:
            assert "unwanted" in text
            assert any(line.rstrip(".") in text for line in style.training)
            assert not any(line in text for line in style.evaluation)


@pytest.mark.parametrize("outputs", [["spam", "ham"], ["7", "9"]])
def test_more_renamings_begin_with_those_of_a_smaller_number(outputs: list[str]) -> None:
    given, described = task(outputs), DescriptionSet("task900_toy", (f"Is it {outputs[0]} or {outputs[1]}?",))
    few = variants_of(given, described, VariantConfig(labels=5, styles=0, instances=20, descriptions=6))
    many = variants_of(given, described, VariantConfig(labels=24, styles=0, instances=20, descriptions=6))
    assert many[:5] == few
    assert len(many) == 24 and all(source_of(variant.task.name) == given.name for variant in many)
    names = [frozenset((i.input, i.outputs) for i in variant.task.instances) for variant in many]
    assert len(set(names)) == 24
    assert all(len(variant.descriptions.descriptions) <= 6 for variant in many)


def test_bad_numbers_are_one_sentence() -> None:
    with pytest.raises(DataError, match="--labels is -1"):
        VariantConfig(labels=-1)
    with pytest.raises(DataError, match="--descriptions is 0"):
        VariantConfig(descriptions=0)
