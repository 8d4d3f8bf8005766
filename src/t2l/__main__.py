"""The command ``t2l``, also as ``python -m t2l``: Ctrl-C is an end like any other, from the first import on."""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point."""
    try:
        from t2l.cli import main as run

        run()
    except KeyboardInterrupt:  # before there is a verb, or after its end
        sys.stderr.write("\nStopped. Nothing was left half-written.\n")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
