"""
``python -m bench.traces``: the CPU of one request's exchange with two store calls, without traces, with all, with 1 %.

Nothing of TLS, HTTP or Redis is in it, so the differences are what matters: compare them with the CPU of a whole
connection (``make bench``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.http_headers import Headers
from zope.interface import implementer

from osqtwist.loginterfaces import ILogBuffer
from osqtwist.metrics import Metrics
from osqtwist.tracing.otel import BY_ENVIRONMENT, OpenTelemetry
from osqtwist.tracing.stores import TracedStore
from osqtwist.web.exchange import Exchange, Visit

ROUNDS, REQUESTS = 7, 1000


class _Request:
    channel: Any = object()
    code = 200
    client = IPv4Address("TCP", "127.0.0.1", 1)

    def __init__(self) -> None:
        self.responseHeaders = Headers()

    def setResponseCode(self, code: int) -> None:
        self.code = code


@implementer(ILogBuffer)
class _Store:
    def __getattr__(self, name: str) -> Any:
        return None

    async def size(self) -> None:
        return None


class _Nowhere(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def microseconds(exchange: Exchange, call: Callable[[], Awaitable[Any]]) -> float:
    """Of CPU for each request; the best of some rounds."""

    async def work(visit: Visit) -> bytes:
        await call()
        await call()
        return b"{}"

    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(REQUESTS):
            request: Any = _Request()
            Deferred.fromCoroutine(exchange.carry_out(request, "log", work))
        best = min(best, (time.process_time() - began) / REQUESTS * 1e6)
    return best


def traced(share: str) -> tuple[Exchange, Any]:
    """The same exchange and store, of whose traces this share is kept."""
    os.environ |= {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": share}
    traces = OpenTelemetry(None, BY_ENVIRONMENT, "bench")
    traces.provider.add_span_processor(BatchSpanProcessor(_Nowhere()))
    return traces.exchange(PLAIN), TracedStore(_Store(), "logs", traces.tracer)


PLAIN = Exchange(Clock(), Metrics(), None, 1, False)  # type: ignore[arg-type]


def main() -> None:
    """Print the three figures."""
    off = microseconds(PLAIN, _Store().size)
    print(f"without traces  {off:5.0f} us")
    for name, share in (("all requests", "1"), ("1 % of them", "0.01")):
        exchange, store = traced(share)
        more = microseconds(exchange, store.size) - off
        print(f"{name:14}  {off + more:5.0f} us, {more:.0f} more")


if __name__ == "__main__":
    main()
