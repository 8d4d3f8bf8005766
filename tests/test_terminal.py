"""What is printed is text: a foreign file cannot make the terminal do anything."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest
import typer
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from helpers import tiny_pair
from t2l import cli
from t2l.adapter import PROVENANCE_FILE
from t2l.commands.terminal import Notes, messages, print_json, results, say, say_error, shown
from t2l.errors import DescriptionWarning, T2LError

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


def warn(*texts: str) -> None:
    for text in texts:
        warnings.warn(DescriptionWarning({text: (len(text), 8)}), stacklevel=1)


def test_warnings_about_descriptions_are_one_note(capsys: pytest.CaptureFixture[str]) -> None:
    notes = Notes()
    with notes.of_warnings():
        warn("a long text", "a longer text", "a long text")
        warnings.warn("a library's own", UserWarning, stacklevel=1)
    with notes.of_warnings():
        warn("a long text")  # known already
    assert len(notes.texts) == 1 and notes.texts[0].startswith("2 descriptions are longer than the 8 tokens")
    assert printed(capsys).count("Note: ") == 1


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["a long text"], ["Note: The description 'a long text...' has 11 tokens"]),
        (
            ["a long text", "a long text", "a longer text", "the longest text"],
            ["Note: The description 'a long text...' has 11", "Note: In all: 3 descriptions are longer than the 8"],
        ),
    ],
)
def test_a_verb_that_keeps_no_notes_warns_once_with_the_number_and_names_no_file(
    texts: list[str], said: list[str]
) -> None:
    app = typer.Typer(cls=cli.Verbs)

    @app.command("work")
    def work() -> None:
        warn(*texts)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("of a library", UserWarning, stacklevel=1)

    app.command("other")(lambda: None)
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["work"])
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert [line for line in lines if "of a library" in line] == ["Note: of a library"]
    told = [line for line in lines if "of a library" not in line]
    assert len(told) == len(said) and all(line.startswith(start) for line, start in zip(told, said, strict=True))
    assert ".py" not in result.output and "DescriptionWarning" not in result.output


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
