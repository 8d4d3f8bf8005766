"""The two lock files name the same versions, and every one of the second has hashes."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[\w,-]+\])?==(\S+)", re.MULTILINE)


def pins(text: str) -> dict[str, str]:
    return {re.sub(r"[._-]+", "-", name).lower(): version for name, version in PIN.findall(text)}


def test_both_locks_hold_the_same_versions() -> None:
    plain, hashed = ((REPOSITORY / name).read_text() for name in ("requirements.lock", "requirements-hashed.lock"))
    assert pins(plain) == pins(hashed) and len(pins(plain)) > 100
    assert "--hash" not in plain  # one hash in it would demand those of GPU builds as well


def test_every_pin_has_hashes_in_the_form_that_pip_reads() -> None:
    text = (REPOSITORY / "requirements-hashed.lock").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    entries = re.split(r"\n(?=\S)", "\n".join(lines))
    named = [entry for entry in entries if "[" not in entry.partition("==")[0]]
    assert len(named) == len(pins(text))
    form = re.compile(r"[A-Za-z0-9._-]+(\[[\w,-]+\])?==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+")
    for entry in entries:
        assert form.fullmatch(entry.rstrip("\n")), entry[:80]


def test_the_server_needs_a_fastapi_that_refuses_bodies_which_are_not_said_to_be_json() -> None:
    """Older ones read JSON from what any page may post; see the release notes of 0.132."""
    (bound,) = re.findall(r'"fastapi>=([0-9.]+)"', (REPOSITORY / "pyproject.toml").read_text())
    assert tuple(int(part) for part in bound.split(".")) >= (0, 132)
