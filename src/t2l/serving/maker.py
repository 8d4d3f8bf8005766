"""Adapters on request: descriptions that wait together go through the hypernetwork together.

Level 5. One thread; who asks gets a future. This file knows the store that the adapters go into; it does not know who
runs them.
"""

from __future__ import annotations

import queue
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from t2l.adapter import Adapter
from t2l.encoders.description import prepare
from t2l.errors import DescriptionError, DescriptionWarning
from t2l.guidance.guide import Confidence, Guide
from t2l.model import TextToLora
from t2l.serving.adapter_store import AdapterStore, Kept
from t2l.serving.errors import BusyError, StoppedError, UnknownModelError

_T = TypeVar("_T")
_REMEMBERED = 4096  # descriptions, 8 KB of text each at most


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


@dataclass(frozen=True)
class _Told:
    """What is said of a description whose adapter is kept."""

    warnings: tuple[str, ...]
    confidence: Confidence | None


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
        self._told: OrderedDict[str, _Told] = OrderedDict()
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

    def _all_kept(self, texts: Sequence[str]) -> list[Made] | None:
        """The adapters of all texts, where every one is kept and assessed already."""
        found: dict[str, Made] = {}
        for text in dict.fromkeys(texts):
            begun = time.perf_counter()
            with self._lock:
                told = self._told.get(text)
            kept = None if told is None else self._store.find(text, count=False)
            if told is None or kept is None:
                return None
            try:
                adapter = self._store.get(kept.id)
            except UnknownModelError:
                return None
            milliseconds = 1000 * (time.perf_counter() - begun)
            found[text] = Made(kept, adapter, True, milliseconds, told.warnings, told.confidence)
        for text in texts:
            self._store.find(text)
        return [found[text] for text in texts]

    def _remember(self, known: dict[str, Made]) -> None:
        """What is said of the latest descriptions besides their adapters."""
        with self._lock:
            for text, made in known.items():
                said = () if made.confidence is None else (made.confidence.warning(text),)
                self._told[text] = _Told(tuple(one for one in said if one is not None), made.confidence)
                self._told.move_to_end(text)
            while len(self._told) > _REMEMBERED:
                self._told.popitem(last=False)

    def _make(self, orders: list[_Order]) -> list[list[Made]]:
        known: dict[str, Made] = {}
        asked = dict.fromkeys(text for order in orders for text in order.descriptions)
        for text in asked:
            begun, kept = time.perf_counter(), self._store.find(text)
            if kept is not None:
                with suppress(UnknownModelError):  # its file was damaged
                    adapter = self._store.get(kept.id)
                    known[text] = Made(kept, adapter, True, 1000 * (time.perf_counter() - begun), ())
        missing = [text for text in asked if text not in known]
        if missing:
            begun = time.perf_counter()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("ignore")
                warnings.simplefilter("always", DescriptionWarning)
                adapters = self._t2l.generate(missing)
            said = [str(warning.message) for warning in caught]
            milliseconds = 1000 * (time.perf_counter() - begun)
            for text, adapter in zip(missing, adapters, strict=True):
                own = tuple(warning for warning in said if f"'{text.strip()[:40]}" in warning)
                known[text] = Made(self._store.add(adapter), adapter, False, milliseconds, own)
            self.made += len(missing)
            self.batches += 1
        if self._guide is not None:
            known = self._assessed(self._guide, known)
        self._remember(known)
        return [[known[text] for text in order.descriptions] for order in orders]

    @staticmethod
    def _assessed(guide: Guide, known: dict[str, Made]) -> dict[str, Made]:
        """The same with the confidence in each description, and a warning where it is low."""
        found = {}
        confidences = guide.assess(list(known), [made.adapter for made in known.values()])
        for (text, made), confidence in zip(known.items(), confidences, strict=True):
            low = confidence.warning(text)
            said = made.warnings if low is None else (*made.warnings, low)
            found[text] = replace(made, warnings=said, confidence=confidence)
        return found

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
