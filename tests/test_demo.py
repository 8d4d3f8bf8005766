"""The demo: its tasks, how they are judged, what is counted, and what a newcomer sees."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from helpers import MICRO_BASE, MICRO_CHECKPOINT
from t2l.bases import load_base
from t2l.cli import app
from t2l.comparison import ROWS, Compared
from t2l.demo import measure, show
from t2l.demo.gallery import COMMON, gallery, page, scored, shipped_record, summary
from t2l.demo.measure import RECORD_FILE, Session, TaskOutcome
from t2l.demo.tasks import CHECKS, DemoExample, DemoTask, chosen, demo_tasks, normalised
from t2l.guidance.guide import Confidence, Neighbour
from t2l.model import TextToLora

RIGHT = {example.text: example.answers[0] for task in demo_tasks() for example in task.examples}


def task(check: str, *answers: str, text: str = "the input", **more: Any) -> tuple[DemoTask, DemoExample]:
    example = DemoExample(text, answers)
    return DemoTask("a task", "labels", "Do it.", check, (example, DemoExample("another", ("other",))), **more), example


# ------------------------------------------------------------------------------------------------------ the tasks


def test_there_are_enough_tasks_and_each_is_whole() -> None:
    tasks = demo_tasks()
    assert len(tasks) >= 30 and len({one.name for one in tasks}) == len({one.description for one in tasks}) == len(
        tasks
    )
    for one in tasks:
        assert one.check in CHECKS and len(one.examples) == 3, one.name
        assert len({example.text for example in one.examples}) == 3, one.name
        assert all(example.answers for example in one.examples), one.name
    assert len(RIGHT) == 3 * len(tasks)  # no input stands in two tasks


def test_stated_answers_are_right_and_an_echo_of_the_input_is_not() -> None:
    for one in demo_tasks():
        for example in one.examples:
            if one.check != "words":  # there they are words to be held, not answers
                assert all(one.is_right(answer, example) for answer in example.answers), one.name
            assert not one.is_right(example.text, example), one.name
            assert not one.is_right("", example), one.name


def test_a_label_task_has_no_constant_answer() -> None:
    for one in demo_tasks():
        answers = {normalised(answer) for example in one.examples for answer in example.answers}
        assert not any(all(one.is_right(answer, example) for example in one.examples) for answer in answers), one.name


@pytest.mark.parametrize(
    ("check", "answer", "right"),
    [
        ("same", ' "New  York." ', True),
        ("same", "new york", True),
        ("same", "It is New York", False),
        ("exact", "New York\n", True),
        ("exact", "new york", False),
        ("exact", "New York.", False),
        ("words", "He moved from New Jersey to York.", True),
        ("words", "Newer Yorkshire", False),
        ("words", "The Input", False),  # an echo
    ],
)
def test_how_an_answer_is_judged(check: str, answer: str, right: bool) -> None:
    one, example = task(check, "New York", text="the input")
    assert one.is_right(answer, example) is right


def test_forms_of_a_word_count_and_limits_hold() -> None:
    one, example = task("words", "when open", longest=6, ends="?")
    assert one.is_right("When does the shop open?", example)
    assert one.is_right("When is the shop opened?", example)
    assert not one.is_right("When does the shop open", example)
    assert not one.is_right("When does the little shop really open?", example)
    assert one.rule == "holds the words of a stated answer, at most 6 words, ends with '?'"


def test_json_is_judged_by_its_content() -> None:
    one, example = task("json", '{"a": 1, "b": 2}')
    assert one.is_right('{ "b": 2,\n "a": 1 }', example)
    assert not one.is_right('{"a": 1}', example)
    assert not one.is_right('The JSON is {"a": 1, "b": 2}', example)


def test_a_right_answer_in_a_sentence_is_a_mention_unless_another_answer_stands_there_too() -> None:
    one, example = task("same", "spam")
    assert one.mentions("This is spam!", example) and not one.is_right("This is spam!", example)
    assert not one.mentions("It is spam or other.", example)
    assert not one.mentions("This is spammy.", example)


def test_a_seed_draws_tasks_of_different_kinds() -> None:
    assert chosen(3, 4) == chosen(3, 4) != chosen(4, 4)
    kinds = Counter(one.kind for one in demo_tasks())
    for seed in range(5):
        assert len({one.kind for one in chosen(seed, len(kinds))}) == len(kinds)
    assert chosen(1, 10_000) == list(demo_tasks())


# -------------------------------------------------------------------------------------------------- what is counted


class Scripted:
    """A base that knows the right answers with an adapter, every second one when told the task, and none alone."""

    name, weights = "org/scripted", "dequantised Q4_1"

    def __init__(self) -> None:
        self.model = load_base(MICRO_BASE).model
        self.batches: list[int] = []

    def answer(self, texts: Sequence[str], *, index: Sequence[int], **_: Any) -> list[str]:
        self.batches.append(len(texts))
        answers = []
        for text, row in zip(texts, index, strict=True):
            *told, plain = text.rsplit("\n", 1)
            knows = row >= 0 or (told and len(plain) % 2)
            answers.append(RIGHT.get(plain, "an answer") if knows else f"I cannot say,\nbut: {'long ' * 40}")
        return answers


@pytest.fixture(scope="module")
def session() -> Session:
    base: Any = Scripted()
    made = Session(TextToLora.from_pretrained(MICRO_CHECKPOINT), base)
    made.guide = None
    return made


def test_all_tasks_share_batches_and_are_counted(session: Session) -> None:
    outcomes = list(session.try_all())
    base: Any = session.base
    assert len(base.batches) < len(demo_tasks()) / 2
    measured = measure.record(session, outcomes)
    assert measured["inputs"] == len(RIGHT)
    assert measured["right"]["base"] == 0
    by_hand = {
        row: sum(
            one.is_right(compared.answer(row), example)
            for outcome, one in zip(outcomes, demo_tasks(), strict=True)
            for compared, example in zip(outcome.compared, one.examples, strict=True)
        )
        for row in ROWS
    }
    assert measured["right"] == by_hand
    assert by_hand["adapter"] > by_hand["description-in-prompt"] > 0
    assert sum(one["right"]["adapter"] for one in measured["tasks"]) == by_hand["adapter"]
    assert json.loads(json.dumps(measured)) == measured


def test_counts_are_kept_for_the_very_checkpoint_and_tasks(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session.t2l, "folder", tmp_path)
    assert measure.kept(session.t2l, session.base) is None
    measured = measure.record(session, session.try_tasks(chosen(0, 2)))
    assert measure.keep(session, measured) == tmp_path / RECORD_FILE
    assert measure.kept(session.t2l, session.base) == measured
    for key in ("checkpoint", "tasks_digest", "base", "weights"):
        (tmp_path / RECORD_FILE).write_text(json.dumps({**measured, key: "another"}))
        assert measure.kept(session.t2l, session.base) is None, key
    (tmp_path / RECORD_FILE).write_text("{")
    assert measure.kept(session.t2l, session.base) is None


# --------------------------------------------------------------------------------------------------- what is shown


class Terminal(Console):
    """Records what is printed and answers what is asked."""

    def __init__(self, *answers: str, width: int = 80) -> None:
        super().__init__(file=io.StringIO(), width=width, highlight=False)
        self._answers: Iterator[str] = iter(answers)

    def input(self, *args: object, **kwargs: object) -> str:
        try:
            return next(self._answers)
        except StopIteration:
            raise EOFError from None

    @property
    def text(self) -> str:
        return self.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_every_answer_is_shown_with_its_tick_in_80_plain_columns(session: Session) -> None:
    console, tasks = Terminal(), chosen(2, 4)
    outcomes = session.try_tasks(tasks)
    show.show_facts(console, session, tasks, 2)
    for outcome in outcomes:
        show.show_outcome(console, outcome)
    show.show_counts(console, outcomes, None)
    show.show_next(console)
    text = console.text
    right = {row: sum(sum(outcome.right(row)) for outcome in outcomes) for row in ROWS}
    assert text.count("✓") == sum(right.values()) and text.count("✗") == 3 * 12 - sum(right.values())
    assert f"Right of the 12 shown: base alone {right['base']}" in text
    assert f"with the adapter {right['adapter']}." in text
    assert "drawn by seed 2 (others: --seed 3)" in text and "dequantised Q4_1" in text
    assert "\x1b" not in text and max(map(len, text.splitlines())) <= 80
    assert text.count("adapter in") == 4 and "confidence" not in text  # none is calibrated


def test_a_wrong_answer_says_what_was_wanted(session: Session) -> None:
    one = chosen(0, 1)[0]
    answers = tuple(Compared(example.text, "no", "no", "something quite wrong " * 9) for example in one.examples)
    console = Terminal()
    show.show_outcome(console, TaskOutcome(one, 12.3, answers, None))
    assert console.text.count("(should ") == 3 and max(map(len, console.text.splitlines())) <= 80


def test_confidence_is_shown_with_a_plain_word_where_it_is_low(session: Session) -> None:
    (outcome,) = session.try_tasks(chosen(0, 1))
    for value, low in ((0.9, False), (0.2, True)):
        console = Terminal()  # of 80 columns, where both lines are whole
        near = (Neighbour("t", "sorting words", 0.8),)
        show.show_outcome(console, TaskOutcome(outcome.task, 12.3, outcome.compared, Confidence(value, 0.1, {}, near)))
        told = ": low, the adapter may be no help" if low else ", expected gain +10 ROUGE-L points over the base alone"
        assert f"confidence {value:.2f}{told}" in console.text
        assert "nearest training task (0.80): sorting words" in console.text


def test_counts_of_all_tasks_are_shown_where_they_were_measured(session: Session) -> None:
    outcomes = session.try_tasks(chosen(0, 2))
    measured = measure.record(session, outcomes)
    console = Terminal()
    show.show_counts(console, outcomes, measured)
    assert f"Right of all {measured['inputs']}" in console.text and "--all" not in console.text


def test_a_user_may_describe_and_correct_a_task(session: Session) -> None:
    console = Terminal("Add one.", "41", "", "x" * 9000, "give the first word\x00", "Add two.", "1", "", "")
    show.ask(console, session)
    assert console.text.count("with the adapter") == 2
    assert "9000" in console.text.replace(",", "")  # the over-long description is refused, and the demo goes on
    console = Terminal("Add one.")
    show.ask(console, session)  # the end of input ends it politely
    assert "adapter in" in console.text


def test_the_command(monkeypatch: pytest.MonkeyPatch, session: Session) -> None:
    monkeypatch.setattr("t2l.commands.demo._session", lambda *_: session)
    shown = CliRunner().invoke(app, ["demo", "--seed", "2", "-n", "2"])
    assert shown.exit_code == 0 and "Right of the 6 shown" in shown.stdout and "Your turn" not in shown.stdout
    assert shown.stdout.startswith("Text-to-LoRA")
    printed = CliRunner().invoke(app, ["demo", "-n", "2", "--json"])
    assert json.loads(printed.stdout)["inputs"] == 6
    table = CliRunner().invoke(app, ["demo", "--all"])
    assert table.stdout.count("3/3") >= len(demo_tasks()) - 8 and f"Right of {len(RIGHT)}:" in table.stdout
    assert all(one.name in table.stdout for one in demo_tasks())
    refused = CliRunner().invoke(app, ["demo", "--keep"])
    assert refused.exit_code == 2 and "--all" in refused.stderr


def test_the_default_seed_is_neither_the_best_nor_the_worst(session: Session) -> None:
    measured = measure.record(session, list(session.try_all()))
    for number, one in enumerate(measured["tasks"]):
        one["right"]["adapter"] = 3 if number % 3 == 0 else 0
    measured["right"]["adapter"] = sum(one["right"]["adapter"] for one in measured["tasks"])
    right = {one["name"]: one["right"]["adapter"] for one in measured["tasks"]}
    mean = measured["right"]["adapter"] / len(right)
    shown = [sum(right[one.name] for one in chosen(seed, 3)) for seed in range(100)]
    seed = measure.representative_seed(measured, 3)
    assert shown[seed] == 3 and abs(3 - 3 * mean) <= 0.5
    assert all(count != 3 for count in shown[:seed])
    assert measure.representative_seed(None, 3) == 0


# ---------------------------------------------------------------------------------------------------- the gallery


def test_the_gallery_takes_the_best_and_the_worst_of_every_kind(session: Session) -> None:
    measured = measure.record(session, list(session.try_all()))
    right = {"labels": 3, "writing": 2, "finding": 3, "form": 3, "words": 1, "numbers": 0}
    for one in measured["tasks"]:
        one["right"]["adapter"] = right[one["kind"]]
    works, fails = gallery(measured)
    assert (len(works), len(fails)) == (12, 4)
    assert Counter(one["kind"] for one in works) == {"labels": 4, "finding": 4, "form": 4}
    assert Counter(one["kind"] for one in fails) == {"numbers": 4}
    text = page(measured)
    for one in [*works, *fails]:
        assert f"**{one['description']}** Right of 3: base alone 0" in text
    assert text.count("\n| `") == 3 * 16
    constant = works[0]
    for example in constant["examples"]:
        example["adapter"] = "positive"
    assert constant not in gallery(measured)[0]


def test_the_gallery_is_the_same_everywhere(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the demo, the workbench, the README and the docs; and its tasks do work, or do not."""
    found = shipped_record()
    if found is None:
        pytest.skip("needs the measured demo of the checkpoint smollm2-135m, which is not here")
    works, fails = gallery(found)
    assert (len(works), len(fails)) == (12, 4)
    assert all(one["right"]["adapter"] > 1 for one in works) and all(one["right"]["adapter"] < 2 for one in fails)
    root = Path(__file__).resolve().parents[1]
    assert summary(found) in (root / "README.md").read_text("utf-8")
    assert page(found) == (root / "docs" / "gallery.md").read_text("utf-8")
    console = Terminal(width=2000)
    show.show_counts(console, session.try_tasks(chosen(0, 1)), found)
    in_demo = [line for line in console.text.splitlines() if line.startswith(("Work best: ", "Do not work: "))]
    assert in_demo == [f"Work best: {', '.join(map(scored, works))}.", f"Do not work: {', '.join(map(scored, fails))}."]
    for one in [*works, *fails]:
        score = f"{one['right']['adapter']} of 3"
        assert f"| {one['description']} |" in summary(found) and f"| {score} |" in summary(found)
        assert scored(one).endswith(f" ({score})")
    pytest.importorskip("gradio", reason="needs the extra 'workbench'")
    from t2l.workbench import page as workbench

    monkeypatch.setattr(workbench, "kept", lambda *_: found)
    chips: Any = workbench.examples_for(session)  # pyright: ignore[reportArgumentType]
    titles, told = [chip.title for chip in chips], {chip.description for chip in chips}
    assert len(titles) == len(set(titles)) and {*map(scored, works), *(scored(one, "fails, ") for one in fails)} <= {
        *titles
    }
    assert [title for title in titles if "one answer to all" in title] == [
        "Restaurant review (one answer to all, 2 of 3)"
    ]
    own = {one["name"]: one for one in found["tasks"] if one["name"] in COMMON}  # a review, an email, a ticket, a table
    assert set(own) == set(COMMON) and {one["description"] for one in own.values()} <= told
    assert told - {one["description"] for one in own.values()} <= {one["description"] for one in [*works, *fails]}
    failing = [title for title in titles if "(fails, " in title or "(one answer" in title]
    assert titles[-len(failing) :] == failing


def test_the_measurement_that_ships_is_of_the_checkpoint_that_ships() -> None:
    found = shipped_record()
    if found is None:
        pytest.skip("needs the measured demo of the checkpoint smollm2-135m, which is not here")
    assert found["checkpoint"] == TextToLora.from_pretrained("smollm2-135m").digest
    assert [one["name"] for one in found["tasks"]] == [one.name for one in demo_tasks()]
