"""The demo of the micro world: what a newcomer sees, with a terminal and without."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from t2l.model import MICRO_WORLD, shipped_checkpoint
from t2l.world import demo as demo_module
from t2l.world.demo import NEXT, demo
from t2l.world.tasks import NEAR, find_task


class Terminal(Console):
    """Records what is printed and answers what is asked."""

    def __init__(self, *answers: str) -> None:
        super().__init__(file=io.StringIO(), width=80, highlight=False)
        self._answers: Iterator[str] = iter(answers)

    def input(self, *args: object, **kwargs: object) -> str:
        try:
            return next(self._answers)
        except StopIteration:
            raise EOFError from None

    @property
    def text(self) -> str:
        return self.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_the_assets_are_there() -> None:
    assert shipped_checkpoint(MICRO_WORLD).is_dir()


def test_without_a_terminal_it_shows_held_out_tasks_and_asks_nothing() -> None:
    console = Terminal("never read")
    demo(console, interactive=False, seed=13)
    shown = [task for task in demo_module._choose(13) if task.split in NEAR]
    assert len(shown) == 4
    assert console.text.count("adapter in") == len(shown)
    assert "✓" in console.text and "Right on these" in console.text
    assert "Your turn" not in console.text
    for command, _ in NEXT:
        assert command in console.text
    assert max(len(line) for line in console.text.splitlines()) <= 80


def test_the_count_is_the_number_of_ticks() -> None:
    console = Terminal()
    demo(console, interactive=False, seed=5)
    right = int(console.text.split("with the adapters ")[1].split(".")[0])
    assert right == console.text.count("✓")


def test_a_user_may_describe_and_correct_a_task() -> None:
    console = Terminal("add one to the number", "41", "", "x" * 9000, "give the first word\x00", "add two", "1", "", "")
    demo(console, interactive=True, seed=13)
    assert "Your turn" in console.text
    assert console.text.count("adapted:") == 2
    assert "9000" in console.text.replace(",", "")  # the over-long description is refused, and the demo goes on
    assert NEXT[0][0] in console.text


def test_the_end_of_input_ends_it_politely() -> None:
    console = Terminal("add one to the number")
    demo(console, interactive=True, seed=13)
    assert NEXT[-1][0] in console.text


@pytest.mark.parametrize("name", ["purchase-city", "add-7", "give-last-two-digit"])
def test_examples_are_different_and_few(name: str) -> None:
    pairs = demo_module._short(find_task(name).examples(100, seed=0))
    assert 1 <= len(pairs) == len(set(pairs)) <= demo_module.INPUTS_SHOWN
