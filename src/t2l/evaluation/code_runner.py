"""Runs a program that a model wrote, in a process of its own, for a limited time: only where the user said so.

Level 5. The process is a fresh interpreter with an empty environment in an empty folder, bounded in time, memory,
processor seconds and file size. That stops accidents, not attacks: it is no sandbox, which is why nothing here runs
unless the command line has the flag for it. This file does not know where programs come from.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass

_MEMORY = 2 << 30
_FILE_SIZE = 1 << 24
_LIMITS = """
import resource, sys
for kind, most in ((resource.RLIMIT_AS, {memory}), (resource.RLIMIT_FSIZE, {size}), (resource.RLIMIT_CPU, {seconds})):
    resource.setrlimit(kind, (most, most))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
exec(compile(sys.stdin.read(), "program", "exec"), {{"__name__": "__main__"}})
sys.stdout.flush()
__import__("os")._exit({passed})
"""
_PASSED = 86  # so that a program that leaves early with 0 has not passed


@dataclass(frozen=True)
class Outcome:
    """How a program ended; ``reason`` says why it did not pass."""

    passed: bool
    reason: str = ""


def run_program(program: str, *, timeout_s: float = 10.0) -> Outcome:
    """Whether the program ends by itself, without an error, within the time.

    Args:
        program: Python source.
        timeout_s: seconds of wall clock; the whole process group is ended then.
    """
    limits = _LIMITS.format(memory=_MEMORY, size=_FILE_SIZE, seconds=int(timeout_s) + 1, passed=_PASSED)
    with tempfile.TemporaryDirectory(prefix="t2l-code-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            text=True,
        )
        try:
            _, errors = process.communicate(program, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _end(process)
            return Outcome(False, f"no end after {timeout_s:g} s")
        finally:
            _end(process)
    if process.returncode == _PASSED:
        return Outcome(True)
    last = (errors.strip().splitlines() or [f"ended with {process.returncode}"])[-1]
    return Outcome(False, last[:200])


def _end(process: subprocess.Popen[str]) -> None:
    """Ends the program and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=5)
