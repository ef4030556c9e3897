"""What a server counts, in the form that Prometheus reads."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The counters of one server; none of them has a label that a client chooses."""

    def __init__(self, waiting: Callable[[], float], cached: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "taskheads_requests", "Requests answered", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "taskheads_request_seconds",
            "From the head of a request to the end of its answer",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch_rows = Histogram(
            "taskheads_batch_rows", "Rows answered together", buckets=_ROWS, registry=self.registry
        )
        self.batch_seconds = Histogram(
            "taskheads_batch_seconds", "Time of a batch", buckets=_SECONDS, registry=self.registry
        )
        rows = Counter(
            "taskheads_rows",
            "Rows asked for, by where the answer came from",
            ("source",),
            registry=self.registry,
        )
        self.rows_of_cache, self.rows_of_model = rows.labels("cache"), rows.labels("model")
        for name, about, read in (
            ("taskheads_waiting_tokens", "Tokens of rows that wait, about", waiting),
            ("taskheads_cache_bytes", "Memory that kept answers take", cached),
        ):
            Gauge(name, about, registry=self.registry).set_function(read)

    def batch(self, rows: int, seconds: float) -> None:
        self.batch_rows.observe(rows)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Counted:
    """Counts and times every request under the path of its route."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status, start = 499, time.monotonic()

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(time.monotonic() - start)
