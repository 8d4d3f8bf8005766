"""The engine: one base in memory, its adapters, and the requests that wait for an answer. The only owner of state.

Level 5. Two threads: one runs forward passes for all requests together, one makes adapters from descriptions. This file
knows no HTTP.
"""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from t2l.adapter import Adapter
from t2l.bases import Base, load_base
from t2l.encoders import CachedEncoder
from t2l.encoders.description import prepare
from t2l.errors import T2LError
from t2l.guidance.guide import Guide, is_calibrated
from t2l.lora import LoraSpec
from t2l.model import TextToLora
from t2l.serving.adapter_store import AdapterStore
from t2l.serving.errors import BusyError, RequestError, StoppedError
from t2l.serving.maker import AdapterMaker, Combination, Composer, Made
from t2l.serving.passes import Passes
from t2l.serving.prompts import chat_tokens, check_tokens, longest_token, room
from t2l.serving.sampling import Sampling
from t2l.serving.scheduler import DecodingJob, Scheduler
from t2l.serving.stream import Completion, Stream

_T = TypeVar("_T")
_LET_THROUGH_S = 0.002  # long enough for the engine's thread to take its turn
_FEW_WAITING = 4  # for each slot, in the estimate of when to come back


@dataclass(frozen=True)
class Limits:
    """What an engine takes on.

    Args:
        slots: requests that are decoded together.
        context: the longest prompt and answer together, in tokens; the base's window bounds it.
        max_tokens: the longest answer.
        max_waiting: requests that may wait for a slot; one more is turned away.
        timeout_s: seconds after which a request is given up, waiting included.
        adapter_memory: bytes of adapters in memory.
        store_disk: bytes of adapters in the store's folder.

    Raises:
        T2LError: a value that makes no sense.
    """

    slots: int = 16
    context: int = 2048
    max_tokens: int = 1024
    max_waiting: int = 256
    timeout_s: float = 120.0
    adapter_memory: int = 1 << 30
    store_disk: int = 10 << 30

    def __post_init__(self) -> None:
        for name, least in (("slots", 1), ("context", 8), ("max_tokens", 1), ("max_waiting", 0)):
            if getattr(self, name) < least:
                raise T2LError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        for name in ("timeout_s", "adapter_memory", "store_disk"):
            if not getattr(self, name) > 0:
                raise T2LError(f"{name} is {getattr(self, name)}; it must be above 0.")


class Engine:
    """Answers requests on one base, each under its own adapter or none, all in shared forward passes.

    A request without an adapter gets, token for token, what it would get alone, whoever else is served; see
    `t2l.serving.passes`. Every method may be called from any thread.

    Args:
        base: the engine is the only one who may run it.
        t2l: makes the adapters.
        store: a folder for adapters that outlives the engine; by default they are in memory alone.

    Raises:
        BaseModelError: the checkpoint is for another base, or the base cannot share passes.

    Example:
        >>> with Engine.from_pretrained("smollm2-135m") as engine:
        ...     (made,) = engine.make(["Copy the date out of the message."]).result()
        ...     print(engine.chat("red green blue", adapter=made.adapter).text)
    """

    def __init__(self, base: Base, t2l: TextToLora, limits: Limits | None = None, *, store: Path | None = None) -> None:
        self.base = base.with_system(t2l.system)
        self.t2l = t2l
        self.limits = limits or Limits()
        full_stop = t2l.encoder.full_stop
        self.adapters = AdapterStore(
            memory=self.limits.adapter_memory,
            folder=None if store is None else Path(store).expanduser() / t2l.digest[:16],
            disk=self.limits.store_disk,
            key=lambda text: prepare([text], full_stop=full_stop)[0],
        )
        self._passes = Passes(base, t2l.spec, slots=self.limits.slots, context=self.limits.context)
        self.most_characters = self.context * longest_token(base)
        self._scheduler = Scheduler(self._passes, ends=base.ends(), decode=self._decode)
        self._changed = threading.Condition()
        self._inbox: deque[DecodingJob] = deque()
        self._turn = threading.Lock()  # whose holder runs the base
        self._draining = self._closed = False
        self._pass_s = 0.05  # how long a pass takes, roughly
        self.guide = Guide.of(t2l) if is_calibrated(t2l) else None
        self._maker = AdapterMaker(t2l, self.adapters, guide=self.guide)
        self._composer = Composer(t2l, self.adapters, self._maker)
        self._thread = threading.Thread(target=self._run, name="t2l-engine", daemon=True)
        self._thread.start()

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path | None = None,
        base: str | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str | None = None,
        limits: Limits | None = None,
        store: Path | None = None,
    ) -> Engine:
        """An engine for a checkpoint (the one that ships by default) and the base that it is for.

        Args:
            base: another place where the base lies.
            dtype: of the base; as it is stored by default, and float32 on the CPU where it is small.

        Raises:
            CheckpointError: there is no such checkpoint.
            BaseModelError: the base cannot be loaded or does not fit.
        """
        t2l = TextToLora.from_pretrained(checkpoint, device=device)
        t2l.encoder = CachedEncoder(t2l.encoder)
        name = t2l.spec.base_name(base)
        return cls(load_base(name, device=device, dtype=dtype), t2l, limits, store=store)

    @property
    def name(self) -> str:
        """The base's name in requests; of a folder or file, only its own name."""
        return Path(self.base.name).name if Path(self.base.name).exists() else self.base.name

    def base_for(self, adapter: Adapter | None) -> Base:
        """The base, prompted as the adapter was trained; as the checkpoint was where the adapter does not say it.

        Raises:
            BaseModelError: the base's chat template cannot express the adapter's system message.
        """
        system = None if adapter is None else adapter.system
        return self.base if system is None else self.base.with_system(system)

    @property
    def context(self) -> int:
        """The longest prompt and answer together, in tokens."""
        return self._passes.context

    @property
    def exact(self) -> bool:
        """Whether a request's logits are, bit for bit, the same whoever else is served (tried at the start)."""
        return self._passes.exact

    @property
    def running(self) -> bool:
        """Whether requests are taken."""
        return self._thread.is_alive() and not self._draining

    def make(self, descriptions: Sequence[str]) -> Future[list[Made]]:
        """Adapters for descriptions, batched with those of others who wait; known ones come from the store.

        Raises:
            DescriptionError: a description that cannot be encoded.
            BusyError: too many are waiting.
            StoppedError: the engine is closed.
        """
        return self._maker.order(descriptions)

    def combine(self, wanted: Combination) -> Future[Made]:
        """One adapter from several adapters or descriptions, or one made stronger or weaker.

        Raises:
            DescriptionError: a description that cannot be encoded.
            UnknownModelError: an id that is not kept.
            BusyError: too many are waiting.
            StoppedError: the engine is closed.

        Example:
            >>> engine.combine(Combination(["Copy the date out.", "Name the city."], [0.5, 0.5])).result()
        """
        return self._composer.order(wanted)

    def with_maker(self, work: Callable[[], _T]) -> Future[_T]:
        """Runs ``work`` in the thread that makes adapters: nothing else uses encoder and hypernetwork meanwhile.

        Raises:
            BusyError, StoppedError: as `make`.
        """
        return self._maker.order_and([], lambda _: work())

    @contextmanager
    def base_in_turns(self) -> Iterator[Callable[[], None]]:
        """The base for other work, such as a few steps of training, in turns with those who are served.

        Gives a function to be called often, while nothing stands in the base's modules: it lets passes through.

        Example:
            >>> with engine.base_in_turns() as let_through:  # doctest: +SKIP
            ...     tune_adapters(engine.base.model, ..., watch=lambda step, weights: let_through())
        """

        def let_through() -> None:
            self._turn.release()
            try:
                time.sleep(_LET_THROUGH_S)
            finally:
                self._turn.acquire()

        with self._turn:
            yield let_through

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling | None = None,
        *,
        adapter: Adapter | None = None,
        strength: float = 1.0,
        timeout_s: float | None = None,
    ) -> Stream:
        """Queues a request and gives its answer's stream at once.

        Args:
            prompt: tokens.
            adapter: made by this engine's checkpoint; the plain base by default.
            strength: multiplies what the adapter changes: 0 is the base, 1 the adapter as it is.
            timeout_s: less than the limit's, where it is given.

        Raises:
            RequestError: tokens that the base does not know, no room for the answer, or a foreign adapter.
            BusyError: too many are waiting.
            StoppedError: the engine is closed.
        """
        sampling = sampling or Sampling()
        max_tokens = room(len(prompt), sampling.max_tokens, self.context, self.limits.max_tokens)
        tokens = check_tokens(self.base, prompt)  # of a prompt that is short enough to be looked through
        if adapter is not None and _rank_only(adapter.spec, self.t2l.spec):
            raise RequestError(
                f"The adapter has rank {adapter.spec.rank}; up to {self.t2l.spec.rank} is served here.",
                "Combine with method svd to get one that is served; this one can be downloaded.",
                field="model",
            )
        if adapter is not None and adapter.spec != self.t2l.spec:
            raise RequestError("The adapter is of another shape than those of this engine's checkpoint.")
        if not math.isfinite(strength):
            raise RequestError(f"The strength is {strength}; it must be a finite number.", field="strength")
        seconds = self.limits.timeout_s if timeout_s is None else min(timeout_s, self.limits.timeout_s)
        weights = None if adapter is None else adapter.weights
        job = DecodingJob(tokens, max_tokens, sampling, weights, deadline=time.monotonic() + seconds, strength=strength)
        with self._changed:
            if not self.running:
                raise StoppedError("The server is shutting down.")
            ahead = self._scheduler.waiting + self._scheduler.active + len(self._inbox) - self.limits.slots
            if ahead >= self.limits.max_waiting:
                rounds = 1 + ahead // (self.limits.slots * _FEW_WAITING)
                raise BusyError(
                    f"{ahead} requests are waiting already; at most {self.limits.max_waiting} may.",
                    retry_after_s=max(1.0, rounds * 64 * self._pass_s),
                )
            self._inbox.append(job)
            self._changed.notify_all()
        return job.stream

    def chat(
        self,
        text: str,
        sampling: Sampling | None = None,
        *,
        adapter: Adapter | None = None,
        strength: float = 1.0,
        timeout_s: float | None = None,
    ) -> Completion:
        """The answer to one user message; waits for it. Raises what `submit` raises."""
        prompt = chat_tokens(self.base_for(adapter), [{"role": "user", "content": text}])
        return self.submit(prompt, sampling, adapter=adapter, strength=strength, timeout_s=timeout_s).result()

    def stats(self) -> dict[str, Any]:
        """Numbers for monitoring, by name."""
        store = self.adapters
        return {
            **asdict(self._scheduler.counts),
            "slots": self.limits.slots,
            "active": self._scheduler.active,
            "waiting": self._scheduler.waiting + len(self._inbox),
            "adapters": len(store.entries()),
            "adapter_bytes": store.memory_bytes,
            "adapter_hits": store.hits,
            "adapter_misses": store.misses,
            "adapter_evictions": store.evictions,
            "adapter_store_errors": store.store_errors,
            "adapters_made": self._maker.made,
            "adapter_batches": self._maker.batches,
            "adapters_waiting": self._maker.waiting,
            "reserved_bytes": self._passes.bytes_reserved,
        }

    def close(self, drain_s: float = 0.0) -> None:
        """Takes no more requests, gives those under way ``drain_s`` seconds, and ends both threads."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or (not self._inbox and self._scheduler.idle), drain_s)
            self._closed = True
            self._changed.notify_all()
        self._thread.join(30)
        self._maker.stop()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decode(self, tokens: list[int]) -> str:
        return str(self.base.tokenizer.decode(tokens, skip_special_tokens=True)) if tokens else ""

    def _run(self) -> None:
        """The engine's thread: one pass after the other while there is anything to do."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._inbox or not self._scheduler.idle)
                while self._inbox:
                    self._scheduler.add(self._inbox.popleft())
                if self._closed:
                    self._scheduler.stop()
                    return
            begun = time.monotonic()
            try:
                with self._turn:
                    begun = time.monotonic()
                    self._scheduler.step()
            except Exception as problem:  # out of memory, a bug: those in slots are told, those who wait are served
                traceback.print_exception(problem)
                self._scheduler.fail_active(problem)
            self._pass_s += 0.1 * (time.monotonic() - begun - self._pass_s)
            if self._scheduler.idle:
                with self._changed:
                    self._changed.notify_all()


def _rank_only(spec: LoraSpec, served: LoraSpec) -> bool:
    """Whether an adapter is for the same modules and only its rank is too large."""
    return spec.groups == served.groups and spec.rank > served.rank
