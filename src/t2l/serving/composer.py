"""Adapters from adapters on request: stronger or weaker, added, subtracted, blended.

Level 5. What a part is, what may be asked for, and what becomes of it; the arithmetic is `t2l.composition`'s, the
thread the maker's. This file knows no HTTP and does not run adapters.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, get_args

from t2l import composition
from t2l.adapter import Adapter
from t2l.errors import DescriptionWarning, did_you_mean
from t2l.model import TextToLora
from t2l.serving.adapter_store import ID_PREFIX, AdapterStore, is_id
from t2l.serving.errors import RequestError, UnknownModelError
from t2l.serving.maker import AdapterMaker, Made

Method = Literal["svd", "cat", "factors", "features"]
"""As of ``t2l combine``: the nearest adapter of one rank, the exact sum with a grown rank, A and B apart, or
descriptions mixed before there are weights. ``svd`` comes first: its result can be asked as well."""

MOST_RANKS = 16  # ranks of all parts together, as a multiple of the checkpoint's: bounds what one request costs
_MOST_ORIGIN = 256 << 10  # characters of a provenance: each part brings its own along
_KEEPS_ENOUGH = 0.995


@dataclass(frozen=True)
class Combination:
    """A weighted sum of adapters or a blend of descriptions.

    Args:
        parts: ids of adapters that are kept, or descriptions. A single part is made stronger or weaker.
        weights: one for each part, negative ones subtract; 1 each by default, with ``features`` 1/n each.
        method: see `Method`.
        rank: of the result, with ``svd``; by default the checkpoint's.

    Raises:
        RequestError: a value that makes no sense.
    """

    parts: Sequence[str]
    weights: Sequence[float] | None = None
    method: Method = "svd"
    rank: int | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise RequestError("There is no part.", "Give ids of adapters or descriptions.", field="parts")
        if self.weights is not None and len(self.weights) != len(self.parts):
            told = f"There are {len(self.weights)} weights for {len(self.parts)} parts."
            raise RequestError(told, "Give one for each, or none.", field="weights")
        if not all(math.isfinite(weight) for weight in self.weights or ()):
            raise RequestError("A weight is not a finite number.", field="weights")
        if self.method not in get_args(Method):
            told = f"There is no method '{str(self.method)[:40]}' to combine adapters."
            raise RequestError(told, did_you_mean(str(self.method), get_args(Method)), field="method")
        if self.rank is not None and self.method != "svd":
            raise RequestError(f"A rank has no effect with method '{self.method}'.", "Leave it away.", field="rank")
        if self.rank is not None and self.rank < 1:
            raise RequestError(f"rank is {self.rank}; it must be at least 1.", field="rank")
        if self.method == "features" and any(_names_adapter(part) for part in self.parts):
            told = "Only descriptions can be mixed as features."
            raise RequestError(told, "Use method svd or factors for adapters.", field="parts")


class Composer:
    """Makes what a `Combination` asks for, in the maker's thread."""

    def __init__(self, t2l: TextToLora, store: AdapterStore, maker: AdapterMaker) -> None:
        self._t2l, self._store, self._maker = t2l, store, maker

    def order(self, wanted: Combination) -> Future[Made]:
        """The adapter, kept as any other; one whose rank is above the checkpoint's can only be downloaded.

        Raises:
            DescriptionError: a description that cannot be encoded.
            UnknownModelError: a part is an id that is not kept.
            BusyError, StoppedError: as `AdapterMaker.order`.
        """
        named = {part: self._store.get(part) for part in wanted.parts if _names_adapter(part)}
        described = [part for part in wanted.parts if part not in named]
        if wanted.method == "features":
            return self._maker.order_and([], lambda _: self._blend(wanted))
        return self._maker.order_and(described, lambda made: self._sum(wanted, named, made))

    def _blend(self, wanted: Combination) -> Made:
        begun = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", DescriptionWarning)
            adapter = self._t2l.blend(list(wanted.parts), wanted.weights)
        return self._keep(adapter, begun, tuple(dict.fromkeys(str(warning.message) for warning in caught)))

    def _sum(self, wanted: Combination, named: dict[str, Adapter], made: list[Made]) -> Made:
        begun = time.perf_counter()
        said = tuple(dict.fromkeys(warning for one in made for warning in one.warnings))
        new = iter(made)
        parts = [named[part] if part in named else next(new).adapter for part in wanted.parts]
        weights = list(wanted.weights or [1.0] * len(parts))
        spec = self._t2l.spec
        if len(parts) == 1 and wanted.rank is None:
            adapter = parts[0] if weights[0] == 1.0 else composition.scale(parts[0], weights[0])
            return self._keep(adapter, begun, said)
        together = sum(part.spec.rank for part in parts)
        if together > MOST_RANKS * spec.rank:
            told = f"The parts have {together} ranks together; {MOST_RANKS * spec.rank} may be combined at a time."
            raise RequestError(told, field="parts")
        if wanted.method == "svd":
            rank = wanted.rank or spec.rank
            if rank > together:
                told = f"rank is {rank}; the parts have {together} together."
                raise RequestError(told, "More than that only adds zeros.", field="rank")
            adapter = composition.combine(parts, weights, method="svd", rank=rank)
            kept = adapter.provenance["composition"]["kept"]
            if kept < _KEEPS_ENOUGH:
                said += (f"Rank {rank} holds {kept:.1%} of the sum's squared norm; method 'cat' is exact.",)
        else:
            assert wanted.method != "features"
            adapter = composition.combine(parts, weights, method=wanted.method)
        return self._keep(adapter, begun, said)

    def _keep(self, adapter: Adapter, begun: float, said: tuple[str, ...]) -> Made:
        spec = self._t2l.spec
        if len(json.dumps(adapter.provenance)) > _MOST_ORIGIN:
            raise RequestError(
                "The adapter is put together from too many adapters that were put together themselves.",
                "Combine the original descriptions in one step.",
                field="parts",
            )
        if adapter.spec.rank <= spec.rank:
            adapter = composition.conform(adapter, spec)
        else:
            said += (
                f"The adapter has rank {adapter.spec.rank}, above the {spec.rank} that are served here: it can be "
                "downloaded, not asked.",
            )
        cached = self._store.holds(adapter)
        kept = self._store.add(adapter)
        return Made(kept, adapter, cached, 1000 * (time.perf_counter() - begun), said)


def _names_adapter(part: str) -> bool:
    """Whether a part is an id rather than a description.

    Raises:
        UnknownModelError: it looks like one and is none.
    """
    if is_id(part):
        return True
    if part.startswith(ID_PREFIX) and len(part.split()) == 1:
        raise UnknownModelError(f"There is no adapter '{part[:80]}' here.", "Make it from its description.")
    return False
