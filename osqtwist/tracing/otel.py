"""
Spans, and their export by the SDK of OpenTelemetry: OTLP over HTTP, configured by its own environment variables.

The SDK collects spans in a queue of bounded length and sends them from a thread of its own, which never touches the
reactor; what does not fit into the queue is dropped.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from osqtwist import __version__
from osqtwist.interfaces import IStores
from osqtwist.sinkinterfaces import ILogSink
from osqtwist.tracing import Traces
from osqtwist.tracing.requests import TracedAdmin, TracedExchange
from osqtwist.tracing.sinks import TracedSink
from osqtwist.tracing.stores import trace_stores
from osqtwist.web.admin import AdminAPI
from osqtwist.web.exchange import Exchange

BY_ENVIRONMENT = "otel"
"""The value of ``--traces`` that leaves the destination to the environment."""
FLUSH_SECONDS = 2.0
"""How long a stop waits for the last spans to be sent."""
COMPLAINT_SECONDS = 300.0
"""How long a complaint of the SDK is not repeated: it makes some every second while a collector is away."""


class OpenTelemetry(Traces):
    """
    Spans of one process.

    :param to: the URL of a collector, or :data:`BY_ENVIRONMENT`.
    :param part: what the process is.
    """

    def __init__(self, reactor: Any, to: str, part: str) -> None:
        about = {
            "service.name": "osqtwist",
            "service.version": __version__,
            "service.instance.id": f"{socket.gethostname()}/{os.getpid()}",
            "osqtwist.part": part,
        }
        # The environment knows better what the service is called.
        resource = Resource(about).merge(OTELResourceDetector().detect())
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.provider = provider
        self.tracer: Tracer = provider.get_tracer("osqtwist", __version__)
        self.services = (Export(reactor, provider, to),)

    def exchange(self, exchange: Exchange) -> Exchange:
        """See :class:`~osqtwist.tracing.Traces`."""
        return TracedExchange.around(exchange, self.tracer)

    def stores(self, stores: IStores) -> IStores:
        """See :class:`~osqtwist.tracing.Traces`."""
        return trace_stores(stores, self.tracer)

    def admin(self, admin: AdminAPI) -> AdminAPI:
        """See :class:`~osqtwist.tracing.Traces`."""
        return TracedAdmin.around(admin, self.tracer)

    def sink(self, name: str, sink: ILogSink) -> ILogSink:
        """See :class:`~osqtwist.tracing.Traces`."""
        return TracedSink(name, sink, self.tracer)


class Export(Service):
    """
    Sends spans while it runs.

    Its thread is started with it, and not before: twistd forks in between.
    """

    def __init__(self, reactor: Any, provider: TracerProvider, to: str) -> None:
        self._reactor = reactor
        self._provider = provider
        self._to = to
        self._complaints = Complaints(reactor)

    def startService(self) -> None:
        """Begin."""
        super().startService()
        logging.getLogger("opentelemetry").addHandler(self._complaints)
        exporter = OTLPSpanExporter(endpoint=None if self._to == BY_ENVIRONMENT else endpoint_of(self._to))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))

    def stopService(self) -> Deferred[None]:
        """Fires when the last spans are sent, or would take longer than :data:`FLUSH_SECONDS`."""
        super().stopService()
        done: Deferred[None] = Deferred()

        def say() -> None:
            if not done.called:
                done.callback(None)

        def shut() -> None:
            self._provider.shutdown()
            self._reactor.callFromThread(say)

        # Not a thread of the reactor's pool: the reactor waits for those at its end, and a collector may hang.
        threading.Thread(target=shut, name="last spans", daemon=True).start()
        done.addTimeout(FLUSH_SECONDS, self._reactor)
        done.addErrback(lambda _: None)
        done.addBoth(lambda _: logging.getLogger("opentelemetry").removeHandler(self._complaints))
        return done


class Complaints(logging.Handler):
    """Hands what the SDK has to say, in whatever thread, on to the log."""

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        super().__init__(logging.WARNING)
        self._reactor = reactor
        self._told: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Say it, unless it was said lately."""
        kind = f"{record.name} {record.lineno}"
        if record.created - self._told.get(kind, 0.0) < COMPLAINT_SECONDS:
            return
        self._told[kind] = record.created
        text = record.getMessage().replace("\n", " ")[:500]
        self._reactor.callFromThread(self._log.warn, "traces: {text}", text=text)


def endpoint_of(url: str) -> str:
    """The whole URL: a collector takes traces at ``/v1/traces`` unless another path is given."""
    return url if url.partition("://")[2].partition("/")[2] else f"{url.rstrip('/')}/v1/traces"
