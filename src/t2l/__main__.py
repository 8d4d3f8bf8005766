"""The command ``t2l``, also as ``python -m t2l``: what must be so before the first heavy import."""

from __future__ import annotations

import os
import sys

from t2l.commands.interrupts import STOPPED, watch_interrupts

_SPINS = "1000"
"""Turns that a thread of libgomp waits awake for the next product of matrices before it sleeps. By its own default,
300,000, threads that wait keep those from the cores that compute: beside two busy processes ``t2l run`` took 5 times as
long (docs/log.md)."""


def main() -> None:
    """The entry point."""
    watch_interrupts()
    try:
        if "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
        from t2l.cli import main as run

        run()
    except KeyboardInterrupt:  # before there is a verb, or after its end
        sys.stderr.write(f"\n{STOPPED}\n")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
