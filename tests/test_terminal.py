"""What is printed is text: a foreign file cannot make the terminal do anything."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from helpers import tiny_pair
from t2l import cli
from t2l.adapter import PROVENANCE_FILE
from t2l.commands.terminal import Notes, messages, print_json, results, say, say_error, shown
from t2l.errors import T2LError

HOSTILE = "a\x1b[2J\x1b]0;title\x07b\x9b5m\x7f\x00\r\u202ec\u2066"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    both = capsys.readouterr()
    return both.out + both.err


def test_control_characters_are_written_out_and_nothing_else_changes() -> None:
    assert shown("\x1b[1m") == "\\x1b[1m" and shown("\u202e") == "\\u202e"
    for harmless in ("plain\ttext\n", "Größe, 日本語, עברית, العربية, 👩‍🚀", ""):
        assert shown(harmless) == harmless


def test_no_way_of_printing_sends_a_foreign_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    say(HOSTILE, "bold red", console=results())
    say_error(T2LError(HOSTILE, HOSTILE))
    Notes().add(HOSTILE)
    table = Table("x", "y", title=HOSTILE)
    table.add_row(Text(HOSTILE), HOSTILE)
    results().print(table)
    messages().print(table)
    print_json({"a": HOSTILE})
    text = printed(capsys)
    assert not OBEYED.search(text) and "\\x1b" in text


def test_json_reads_back_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({HOSTILE: HOSTILE, "ä": 1})
    assert json.loads(printed(capsys)) == {HOSTILE: HOSTILE, "ä": 1}


def test_long_lines_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    say("x" * 500)
    assert printed(capsys) == "x" * 500 + "\n"


def test_inspect_shows_what_a_foreign_adapter_says_of_itself_as_text(tmp_path: Path) -> None:
    _, t2l = tiny_pair(["task"])
    (adapter,) = t2l.generate(["task"])
    adapter.save(tmp_path / "a")
    told = json.loads((tmp_path / "a" / PROVENANCE_FILE).read_text())
    told["provenance"]["description"] = HOSTILE
    told["provenance"][HOSTILE] = HOSTILE
    (tmp_path / "a" / PROVENANCE_FILE).write_text(json.dumps(told))
    for words in (["inspect", str(tmp_path / "a")], ["inspect", str(tmp_path / "a"), "--json"]):
        result = CliRunner().invoke(cli.app, words)
        assert result.exit_code == 0 and not OBEYED.search(result.output)
        assert "title" in result.output
