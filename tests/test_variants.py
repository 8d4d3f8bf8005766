"""Variants: labels renamed safely, answers in another form, files that the loader reads, splits by source."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from t2l.data.descriptions import DescriptionSet, read_description_files
from t2l.data.label_variants import Relabelling, are_options, labels_of, mapped, relabellings, renamed, speaks_of_form
from t2l.data.sources import Instance, Task, open_source
from t2l.data.style_variants import STYLES
from t2l.data.variants import VariantConfig, source_of, variants_of, write_variants
from t2l.errors import DataError, OutputError

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


def test_files_are_read_back_and_name_their_source(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    native = {"Definition": ['Answer "yes" if it fits, otherwise "no".'], "Instances": [
        {"input": f"{number}", "output": ["yes" if number % 2 else "no"]} for number in range(60)
    ]}  # fmt: skip
    (tmp_path / "in" / "task901_fits.json").write_text(json.dumps(native))
    described = read_description_files([])
    config = VariantConfig(labels=2, styles=1)
    summary = write_variants(open_source(tmp_path / "in"), described, tmp_path / "out", config)
    assert summary["by_kind"] == {"label": 2, "style": 1}
    sources = {source.name: source.read() for source in open_source(tmp_path / "out")}
    told = read_description_files([tmp_path / "out" / "descriptions.jsonl"])
    assert len(sources) == 3
    for name, made in sources.items():
        assert source_of(name) == "task901_fits"
        record = json.loads((tmp_path / "out" / "tasks" / f"{name}.json").read_text())
        assert record["Variant_of"] == "task901_fits"
        found = told.of(name)
        assert found is not None and found.name == name and found.descriptions[0] == made.definition
    with pytest.raises(OutputError):
        write_variants(open_source(tmp_path / "in"), described, tmp_path / "out", config)


def test_bad_numbers_and_tasks_without_variants_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--labels is -1"):
        VariantConfig(labels=-1)
    (tmp_path / "task902_x.json").write_text(
        json.dumps({"Definition": ["x"], "Instances": [{"input": "a", "output": ["b"]}]})
    )
    with pytest.raises(DataError, match="None of the 1 tasks has a variant"):
        write_variants(open_source(tmp_path), read_description_files([]), tmp_path / "out", VariantConfig())
    assert not (tmp_path / "out").exists()
