"""Spans around deliveries to log sinks."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from opentelemetry.trace import SpanKind, StatusCode, Tracer
from twisted.internet.defer import CancelledError
from zope.interface import implementer

from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import ILogSink, Outcome


@implementer(ILogSink)
@attrs.define(eq=False)
class TracedSink:
    """See :class:`osqtwist.sinkinterfaces.ILogSink`; each delivery begins a trace."""

    name: str
    sink: ILogSink
    tracer: Tracer

    async def open(self) -> None:
        """Open it."""
        await self.sink.open()

    async def deliver(self, events: Sequence[LogEvent]) -> Outcome:
        """Deliver; how many lines, how many bytes and what came of them is in the span, no line is."""
        with self.tracer.start_as_current_span(
            f"sink {self.name}", kind=SpanKind.PRODUCER, record_exception=False, set_status_on_exception=False
        ) as span:
            span.set_attribute("osqtwist.sink", self.name)
            span.set_attribute("osqtwist.lines", len(events))
            span.set_attribute("osqtwist.bytes", sum(len(event.document) for event in events))
            try:
                outcome: Outcome = await self.sink.deliver(events)
            except CancelledError:
                span.set_attribute("osqtwist.outcome", "given up")
                raise
            except Exception as problem:
                span.set_attribute("error.type", type(problem).__name__)
                span.set_status(StatusCode.ERROR, type(problem).__name__)
                raise
            span.set_attribute("osqtwist.refused", len(outcome.refused))
            span.set_attribute("osqtwist.again", len(outcome.again))
            return outcome

    async def close(self) -> None:
        """Close it."""
        await self.sink.close()
