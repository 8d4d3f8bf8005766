"""Ctrl-C at random moments: forks a verb of t2l for each of them and prints, as JSON, how each ended.

    python tests/interrupts.py FOLDER MOMENTS SEED WORDS...

FOLDER holds what the verb reads; every trial runs in a fresh copy of it. Libraries are imported once, before the forks,
so that the moments fall into the verb's own work. The first trial is left alone: it tells how long the verb takes.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

IMPORTED = ["torch", "transformers.models.llama.modeling_llama", "transformers.models.auto", "t2l.model", "t2l.cli"]


def content(folder: Path) -> dict[str, str]:
    """Digest of every file by its path, hidden ones too."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "cache" not in path.parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def start(place: Path, words: list[str], cache: str | None = "cache") -> int:
    """A process that runs the verb in ``place``, with its own cache there; what it says goes into files beside it."""
    if child := os.fork():
        return child
    code: Any = 99
    try:
        os.chdir(place)
        if cache is not None:
            os.environ["T2L_CACHE"] = str(place / cache)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(place.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["t2l", *words]
        from t2l.__main__ import main

        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(code)


def ended(child: int) -> int:
    """The exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def trial(given: Path, place: Path, words: list[str], after_s: float | None) -> dict[str, Any]:
    """How a verb ends that gets Ctrl-C, what lies there then, and how the same command ends after that."""
    shutil.copytree(given, place)
    begun = time.monotonic()
    child = start(place, words)
    if after_s is not None:
        time.sleep(after_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGINT)
    status = ended(child)
    found = {"after_s": after_s, "seconds": time.monotonic() - begun, "status": status, "files": content(place)}
    found["said"] = place.with_suffix(".err").read_text()
    if after_s is not None and status != 0:
        again = ended(start(place, words))
        found |= {"again": again, "files_again": content(place), "said_again": place.with_suffix(".err").read_text()}
    return found


def main() -> None:
    given, moments, seed, *words = sys.argv[1:]
    for name in IMPORTED:
        importlib.import_module(name)
    chance = random.Random(int(seed))
    with tempfile.TemporaryDirectory() as folder:
        trial(Path(given), Path(folder) / "first", words, None)  # what is read for the first time is slow
        alone = trial(Path(given), Path(folder) / "alone", words, None)
        trials = [
            trial(Path(given), Path(folder) / str(number), words, chance.uniform(0, 1.05 * alone["seconds"]))
            for number in range(int(moments))
        ]
    print(json.dumps({"alone": alone, "trials": trials}))


if __name__ == "__main__":
    main()
