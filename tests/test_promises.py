"""Every line of "What is promised" names its test, and the test is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
NAMED = re.compile(r"`(\w+): (\w+)`")


def promises(page: str) -> list[str]:
    """The list items of the section."""
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    section = text.partition("## What is promised\n")[2].partition("\n## ")[0]
    items = re.findall(r"^- .*(?:\n  .*)*", section, re.MULTILINE)
    assert len(items) >= 8
    return items


@pytest.mark.parametrize("page", ["serving.md", "workbench.md"])
def test_every_promise_names_tests_that_exist(page: str) -> None:
    for promise in promises(page):
        named = NAMED.findall(promise)
        assert named, f"no test behind: {promise}"
        for file, begin in named:
            source = (REPOSITORY / "tests" / f"test_{file}.py").read_text(encoding="utf-8")
            assert re.search(rf"def test_{begin}", source), f"tests/test_{file}.py has no test_{begin}..."
