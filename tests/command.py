"""The command line in this process, as the tests call it: what it prints, as text, as JSON, or as a refusal."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from t2l import cli

SOURCE = Path(__file__).resolve().parents[1] / "src"


def t2l(*words: str | Path, stdin: bytes | None = None) -> Result:
    """Runs the command in this process; wide, so that no line is broken."""
    return CliRunner(env={"COLUMNS": "300", "T2L_DEBUG": ""}).invoke(
        cli.app, [str(word) for word in words], input=stdin, prog_name="t2l"
    )


def done(*words: str | Path, stdin: bytes | None = None) -> Result:
    result = t2l(*words, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result


def document(*words: str | Path, stdin: bytes | None = None) -> dict[str, Any]:
    """What ``--json`` prints: one JSON document and nothing else on stdout."""
    return json.loads(done(*words, "--json", stdin=stdin).stdout)


def refused(*words: str | Path, stdin: bytes | None = None) -> str:
    """The error that people see: no traceback, nothing on stdout, exit code 2."""
    result = t2l(*words, stdin=stdin)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert "Traceback" not in result.stderr and result.stderr.startswith(("Error: ", "Note: ")), result.stderr
    return result.stderr


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def environment() -> dict[str, str]:
    """Of a process that runs this source."""
    return {**os.environ, "PYTHONPATH": str(SOURCE)}
