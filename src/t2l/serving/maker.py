"""Adapters on request, from descriptions or from other adapters: stronger or weaker, added, subtracted, blended.

Level 5. One thread; who asks gets a future; descriptions that wait together are looked up and made together. The
arithmetic of sums is `t2l.composition`'s. This file knows the store that the adapters go into; it knows no HTTP, and
does not know who runs them.
"""

from __future__ import annotations

import json
import math
import queue
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args

import torch

from t2l import composition
from t2l.adapter import Adapter
from t2l.encoders.description import prepare
from t2l.errors import DescriptionError, DescriptionWarning, did_you_mean
from t2l.guidance.guide import Confidence, Guide
from t2l.model import TextToLora
from t2l.serving.adapter_store import ID_PREFIX, AdapterStore, Kept, is_id
from t2l.serving.errors import BusyError, RequestError, StoppedError, UnknownModelError

CombineMethod = Literal["svd", "cat", "factors", "features"]
"""As of ``t2l combine``: the nearest adapter of one rank, the exact sum with a grown rank, A and B apart, or
descriptions mixed before there are weights. ``svd`` comes first: its result can be asked as well."""

MOST_RANKS = 16  # ranks of all parts together, as a multiple of the checkpoint's: bounds what one request costs
MOST_DESCRIPTIONS = 64  # in one request
_MOST_CHARS = 32768  # of several descriptions together
_MOST_ORIGIN = 256 << 10  # characters of a provenance: each part brings its own along
_KEEPS_ENOUGH = 0.995
_REMEMBERED = 4096  # descriptions, 8 KB of text each at most
_T = TypeVar("_T")


def check_request(descriptions: Sequence[str]) -> None:
    """Refuses what would hold up those who wait behind it: every 256 tokens are a pass of the encoder.

    Raises:
        DescriptionError: too many descriptions for one request, or too long together.
    """
    if len(descriptions) > MOST_DESCRIPTIONS:
        raise DescriptionError(
            f"There are {len(descriptions)} descriptions; {MOST_DESCRIPTIONS} may be sent in one request."
        )
    length = sum(len(text) for text in descriptions)
    if len(descriptions) > 1 and length > _MOST_CHARS:
        raise DescriptionError(
            f"The descriptions have {length} characters together; {_MOST_CHARS} may be sent in one request.",
            "Send them in several requests.",
        )


@dataclass(frozen=True)
class Made:
    """An adapter that was asked for.

    Args:
        kept: the adapter, as the store knows it.
        adapter: itself, even where the store has no room for it.
        cached: it was there already.
        milliseconds: what encoding and generation took, together with those that were made in the same pass.
        warnings: what the asker should know about the description.
        confidence: in the description; None where the checkpoint is not calibrated.
    """

    kept: Kept
    adapter: Adapter
    cached: bool
    milliseconds: float
    warnings: tuple[str, ...]
    confidence: Confidence | None = None


@dataclass(frozen=True, eq=False)
class _Order:
    descriptions: list[str]
    future: Future[Any]
    finish: Callable[[list[Made]], Any] | None = None

    @property
    def size(self) -> int:
        return max(1, len(self.descriptions))


class AdapterMaker:
    """Makes adapters in a thread of its own.

    Args:
        most: how many descriptions go into one batch.
        max_waiting: how many descriptions may wait.
        guide: says how far each description is to be trusted.
    """

    def __init__(
        self,
        t2l: TextToLora,
        store: AdapterStore,
        *,
        most: int = 64,
        max_waiting: int = 1024,
        guide: Guide | None = None,
    ) -> None:
        self._guide = guide
        self._t2l, self._store, self._most, self._max_waiting = t2l, store, most, max_waiting
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._stopped = False
        self.made = self.batches = 0
        self._told: OrderedDict[str, tuple[tuple[str, ...], Confidence | None]] = OrderedDict()  # of those kept
        self._threads = torch.get_num_threads()  # as any other process computes: a new thread would inherit anything
        self._thread = threading.Thread(target=self._run, name="t2l-adapters", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Descriptions that are waiting or being worked on."""
        return self._waiting

    def order(self, descriptions: Sequence[str]) -> Future[list[Made]]:
        """One adapter for each description, in order, each looked up first.

        Raises:
            DescriptionError: a description that cannot be encoded; nothing is made then.
            BusyError: too many are waiting.
            StoppedError: after `stop`.
        """
        if not descriptions:
            raise DescriptionError("There is no description.", "Give at least one.")
        prepare(descriptions)
        order = _Order(list(descriptions), Future())
        kept = None if self._stopped else self._all_kept(order.descriptions)
        if kept is not None:  # nothing has to be made, so nobody has to be waited for
            order.future.set_result(kept)
            return order.future
        return self._put(order)

    def order_and(self, descriptions: Sequence[str], finish: Callable[[list[Made]], _T]) -> Future[_T]:
        """As `order`, then what ``finish`` makes of the adapters, in this thread; there may be no descriptions."""
        if descriptions:
            prepare(descriptions)
        return self._put(_Order(list(descriptions), Future(), finish))

    def stop(self, timeout_s: float = 10.0) -> None:
        """Finishes what is under way, refuses what waits, and ends the thread."""
        with self._lock:
            if not self._stopped:
                self._stopped = True
                self._orders.put(None)
        self._thread.join(timeout_s)

    def _put(self, order: _Order) -> Future[Any]:
        with self._lock:
            if self._stopped:
                raise StoppedError("The server is shutting down.")
            if self._waiting and self._waiting + order.size > self._max_waiting:
                raise BusyError(f"{self._waiting} descriptions are waiting already; at most {self._max_waiting} may.")
            self._waiting += order.size
            self._orders.put(order)
        return order.future

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        open_ = True
        while open_:
            first = self._orders.get()
            orders = [] if first is None else [first]
            open_ = first is not None
            while open_ and sum(order.size for order in orders) < self._most:
                try:
                    following = self._orders.get_nowait()
                except queue.Empty:
                    break
                open_ = following is not None
                if following is not None:
                    orders.append(following)
            orders = [order for order in orders if order.future.set_running_or_notify_cancel() or self._leave(order)]
            if orders:
                self._serve(orders)
        self._refuse_the_rest()

    def _serve(self, orders: list[_Order]) -> None:
        """One batch; where one order spoils it, each on its own."""
        try:
            results = self._make(orders)
        except Exception as problem:
            if len(orders) > 1:
                for order in orders:
                    self._serve([order])
                return
            self._leave(orders[0])
            orders[0].future.set_exception(problem)
            return
        for order, made in zip(orders, results, strict=True):
            self._leave(order)
            try:
                result = made if order.finish is None else order.finish(made)
            except Exception as problem:
                order.future.set_exception(problem)
            else:
                order.future.set_result(result)

    def _look_up(self, text: str, *, count: bool = True) -> Made | None:
        """The adapter of a description, where it is kept."""
        begun = time.perf_counter()
        kept = self._store.find(text, count=count)
        if kept is None:
            return None
        try:
            adapter = self._store.get(kept.id)
        except UnknownModelError:  # its file was damaged
            return None
        return Made(kept, adapter, True, 1000 * (time.perf_counter() - begun), ())

    def _all_kept(self, texts: Sequence[str]) -> list[Made] | None:
        """The adapters of all texts, where every one is kept and assessed already."""
        with self._lock:
            told = {text: self._told.get(text) for text in texts}
        found: dict[str, Made] = {}
        for text, said in told.items():
            made = None if said is None else self._look_up(text, count=False)
            if said is None or made is None:
                return None
            found[text] = replace(made, warnings=said[0], confidence=said[1])
        for text in texts:
            self._store.find(text)
        return [found[text] for text in texts]

    def _make(self, orders: list[_Order]) -> list[list[Made]]:
        asked = dict.fromkeys(text for order in orders for text in order.descriptions)
        known = {text: made for text in asked if (made := self._look_up(text)) is not None}
        missing = [text for text in asked if text not in known]
        if missing:
            begun = time.perf_counter()
            with _warnings() as said:
                adapters = self._t2l.generate(missing)
            milliseconds = 1000 * (time.perf_counter() - begun)
            for text, adapter in zip(missing, adapters, strict=True):
                own = tuple(warning for warning in said if f"'{text.strip()[:40]}" in warning)
                known[text] = Made(self._store.add(adapter), adapter, False, milliseconds, own)
            self.made += len(missing)
            self.batches += 1
        confidences = [None] * len(known) if self._guide is None else self._guide.assess(list(known))
        for (text, made), confidence in zip(known.items(), confidences, strict=True):
            warning = None if confidence is None else confidence.warning(text)
            low = () if warning is None else (warning,)
            known[text] = replace(made, warnings=(*made.warnings, *low), confidence=confidence)
            with self._lock:
                self._told[text] = low, confidence
                self._told.move_to_end(text)
                while len(self._told) > _REMEMBERED:
                    self._told.popitem(last=False)
        return [[known[text] for text in order.descriptions] for order in orders]

    def _leave(self, order: _Order) -> bool:
        with self._lock:
            self._waiting -= order.size
        return False

    def _refuse_the_rest(self) -> None:
        while True:
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                return
            if order is not None and order.future.set_running_or_notify_cancel():
                order.future.set_exception(StoppedError("The server is shutting down."))


@dataclass(frozen=True)
class Combination:
    """A weighted sum of adapters or a blend of descriptions.

    Args:
        parts: ids of adapters that are kept, or descriptions. A single part is made stronger or weaker.
        weights: one for each part, negative ones subtract; 1 each by default, with ``features`` 1/n each.
        method: see `CombineMethod`.
        rank: of the result, with ``svd``; by default the checkpoint's.

    Raises:
        RequestError: a value that makes no sense.
    """

    parts: Sequence[str]
    weights: Sequence[float] | None = None
    method: CombineMethod = "svd"
    rank: int | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise RequestError("There is no part.", "Give ids of adapters or descriptions.", field="parts")
        if self.weights is not None and len(self.weights) != len(self.parts):
            told = f"There are {len(self.weights)} weights for {len(self.parts)} parts."
            raise RequestError(told, "Give one for each, or none.", field="weights")
        if not all(math.isfinite(weight) for weight in self.weights or ()):
            raise RequestError("A weight is not a finite number.", field="weights")
        if self.method not in get_args(CombineMethod):
            told = f"There is no method '{str(self.method)[:40]}' to combine adapters."
            raise RequestError(told, did_you_mean(str(self.method), get_args(CombineMethod)), field="method")
        if self.rank is not None and self.method != "svd":
            raise RequestError(f"A rank has no effect with method '{self.method}'.", "Omit it.", field="rank")
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
        with _warnings() as said:
            adapter = self._t2l.blend(list(wanted.parts), wanted.weights)
        return self._keep(adapter, begun, tuple(dict.fromkeys(said)))

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


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What is said of descriptions in the block; the list is there at its end."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", DescriptionWarning)
        yield said
    said += [str(warning.message) for warning in caught]
