"""Metrics for Prometheus: requests by route and status, and the engine's own numbers.

Level 5. A registry for each server, none for the process. This file knows the engine's `stats` and plain ASGI.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from t2l.serving.access import App, Receive, Scope, Send

_COUNTERS = {
    "prompt_tokens": "Tokens of prompts that were read.",
    "completion_tokens": "Tokens that were computed.",
    "prefill_passes": "Forward passes over prompts.",
    "decode_passes": "Forward passes that gave each request one more token.",
    "finished": "Requests that were answered to the end.",
    "cancelled": "Requests whose client left.",
    "failed": "Requests that ran out of time or whose logits were not finite.",
    "adapter_hits": "Descriptions whose adapter was kept.",
    "adapter_misses": "Descriptions whose adapter was not kept.",
    "adapter_evictions": "Adapters that gave way to others.",
    "adapter_store_errors": "Adapters that could not be written or read.",
    "adapters_made": "Adapters that were generated.",
    "adapter_batches": "Forward passes of the hypernetwork.",
}
_GAUGES = {
    "slots": "Requests that can be decoded together.",
    "active": "Requests in a slot.",
    "waiting": "Requests that wait for a slot.",
    "adapters": "Adapters that are kept.",
    "adapter_bytes": "Bytes of adapters in memory.",
    "adapters_waiting": "Descriptions that wait for their adapter.",
    "reserved_bytes": "Bytes of the cache of keys and values and of the slots' adapters.",
}


class Metrics:
    """The numbers of one server.

    Args:
        stats: the engine's.
    """

    def __init__(self, stats: Callable[[], Mapping[str, Any]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineNumbers(stats))  # pyright: ignore[reportArgumentType]
        self._requests = Counter("t2l_http_requests", "HTTP requests.", ["route", "status"], registry=self._registry)
        self._seconds = Histogram(
            "t2l_http_request_seconds", "Until the answer's end.", ["route"], registry=self._registry
        )

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def count(self, route: str, status: int, seconds: float) -> None:
        """One more request; ``status`` 0 where none was sent."""
        self._requests.labels(route, str(status or "none")).inc()
        self._seconds.labels(route).observe(seconds)


class Counted:
    """An ASGI application whose requests are counted."""

    def __init__(self, app: App, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, status = time.perf_counter(), 0

        async def noted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            if scope["type"] == "http":  # the route, never the path itself: anybody may ask for any
                route = getattr(scope.get("route"), "path", "other")
                self._metrics.count(route, status, time.perf_counter() - begun)


class _EngineNumbers:
    """Reads the engine's numbers when Prometheus asks."""

    def __init__(self, stats: Callable[[], Mapping[str, Any]]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Any]:
        numbers = self._stats()
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"t2l_{name}", text, value=numbers[name])
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"t2l_{name}", text, value=numbers[name])
