"""Loading someone else's model: leave to run its code, and errors that say what to do.

Level 1. This file knows no particular library.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from t2l.errors import BaseModelError, EncoderError

_LEAVE = "T2L_TRUST_REMOTE_CODE"


def may_run_code(trust_remote_code: bool) -> bool:
    """Whether the user lets a model's own code run: by argument, or by the environment."""
    return trust_remote_code or os.environ.get(_LEAVE, "") == "1"


@contextmanager
def loading(model: str, extra: str | None = None) -> Iterator[None]:
    """Turns whatever goes wrong while ``model`` loads into one `EncoderError`.

    Args:
        extra: the extra of this distribution that brings the library.
    """
    try:
        yield
    except BaseModelError as problem:  # says already what to do
        raise EncoderError(problem.message, problem.fix) from problem
    except ImportError as problem:
        fix = f"pip install 't2l[{extra}]'" if extra else None
        raise EncoderError(f"The encoder '{model}' needs a library that is not here: {problem}.", fix) from problem
    except Exception as problem:  # the hub, the disk and the libraries each raise their own kinds
        if "trust_remote_code" in str(problem):
            raise EncoderError(
                f"The encoder '{model}' brings Python code of its own, which was not run.",
                "If you trust its authors with everything this account may do, pass trust_remote_code=True, or set "
                f"{_LEAVE}=1 for the command line.",
            ) from problem
        first_line = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise EncoderError(
            f"The encoder '{model}' cannot be loaded: {first_line}",
            "Give a folder, or a hub id that can be reached (for a gated model: hf auth login).",
        ) from problem
