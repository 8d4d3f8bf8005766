"""Arrow (arXiv 2405.11157): every token goes through those adapters of a library that are made for tokens like it.

The prototype of an adapter at a module is the top right singular vector of B A, the input direction that it changes
most. A token's scores are the absolute products with the prototypes; a softmax over the ``top_k`` largest mixes these
adapters' outputs. No description is read and nothing is trained. The routing is PEFT's own, `create_arrow_model`.

Axis letters: T tokens, M adapters, O out-features.

Level 5. Knows a base and a library; does not know texts or tasks.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2l.errors import T2LError
from t2l.training.library import Library


def arrow_model(
    base: Any,
    library: Library,
    names: Sequence[str] | None = None,
    *,
    top_k: int = 3,
    temperature: float = 1.0,
    seed: int = 0,
) -> Any:
    """The base with Arrow routing over the library's adapters: a causal LM like ``base``, which is left as it is.

    Parameters are shared with ``base``, not copied. PEFT computes the output of every adapter for every token before
    it mixes them, so a forward pass needs T x M x O numbers a module: keep batches small where the library is large.
    Each adapter acts with its own scaling (rank-stabilised where the spec says so); scores do not depend on it.

    Args:
        base: frozen Hugging Face causal LM.
        names: the adapters routed over; all by default.
        top_k: adapters a token is mixed from; all of the library's where it has fewer.
        temperature: of the softmax over their scores; the lower, the more the best one counts.
        seed: of the starting vectors of the power iteration that finds the prototypes.

    Raises:
        T2LError: no adapters, top_k or temperature that cannot be, or a PEFT without Arrow.
        BaseModelError: the base has not the modules or shapes of the library.
    """
    try:
        from peft import ArrowConfig, create_arrow_model
    except ImportError as problem:
        raise T2LError("This PEFT has no Arrow routing.", "Update it: pip install -U 'peft>=0.18'") from problem
    names = library.names if names is None else list(names)
    if not names:
        raise T2LError("Arrow routes over adapters, and there is none.")
    if top_k < 1 or temperature <= 0:
        raise T2LError(f"top_k={top_k} must be at least 1 and temperature={temperature} positive.")
    library.spec.check_base(base)
    routed = copy.deepcopy(base, {id(tensor): tensor for tensor in [*base.parameters(), *base.buffers()]})
    config = ArrowConfig(top_k=min(top_k, len(names)), router_temperature=temperature, rng_seed=seed)
    with tempfile.TemporaryDirectory(prefix="t2l-arrow-") as folder:
        paths = []
        for number, name in enumerate(names):
            path = Path(folder) / str(number)
            library.adapter(name).save(path, form="rslora")
            paths.append(str(path))
        model = create_arrow_model(routed, paths, config)
    plain = model.get_base_model()
    plain.requires_grad_(False)
    return plain.train(base.training)
