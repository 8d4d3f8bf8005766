"""Writes requirements-hashed.lock from what pip-compile made of requirements.lock; `make lock-hashes` calls it.

python tools/hashed_lock.py PIP_COMPILES_OUTPUT requirements-hashed.lock
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from t2l.storage import write_bytes

_WITH_EXTRAS = re.compile(r"([A-Za-z0-9._-]+)\[[\w,-]+\]==")
_LOCAL_VERSION = re.compile(r"^(torch==[0-9.]+)\+\w+", re.MULTILINE)
HEAD = """\
# requirements.lock with hashes, for `pip install --require-hashes -r requirements-hashed.lock`. Made by `make lock`.
# Of every package but torch: the hashes of all files of that version, so any platform is served. Of torch: only that of
# the CPU build for Linux x86_64 and Python 3.11, on which this file was made. Builds of torch for other platforms and
# for GPUs have other hashes, and GPU builds bring packages of NVIDIA that this file does not name: with those, use
# requirements.lock, which has no hashes, or make this file anew there: make lock-hashes.
"""


def hashed(compiled: str) -> str:
    """The lock: torch without its local version, and packages with extras named with and without them, as pip wants."""
    entries = []
    for entry in re.split(r"(?<=\n)(?=\S)", _LOCAL_VERSION.sub(r"\1", compiled)):
        if found := _WITH_EXTRAS.match(entry):
            entries.append(f"{found[1]}=={entry[found.end() :]}")
        entries.append(entry)
    return HEAD + "".join(entries)


if __name__ == "__main__":
    source, target = sys.argv[1:]
    write_bytes(target, hashed(Path(source).read_text(encoding="utf-8")).encode())
