"""Spans around requests: of nodes, which begin a trace each, and of operators, which may go on with theirs."""

from __future__ import annotations

from typing import Any

import attrs
from opentelemetry.trace import SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from twisted.web.server import Request

from osqtwist.web.admin import AdminAPI
from osqtwist.web.exchange import Exchange, Visit, Work
from osqtwist.web.operations import Call, Operation
from osqtwist.web.problems import problem_of

_PROPAGATOR = TraceContextTextMapPropagator()


@attrs.frozen(kw_only=True)
class TracedExchange(Exchange):
    """
    See :class:`osqtwist.web.exchange.Exchange`.

    What a node says of a trace is not looked at: it could choose what is traced.
    """

    tracer: Tracer

    @classmethod
    def around(cls, exchange: Exchange, tracer: Tracer) -> TracedExchange:
        """The same, with spans."""
        return cls(
            clock=exchange.clock,
            metrics=exchange.metrics,
            in_thread=exchange.in_thread,
            max_inflated_bytes=exchange.max_inflated_bytes,
            logs_requests=exchange.logs_requests,
            tracer=tracer,
        )

    async def carry_out(self, request: Request, route: str, work: Work, speaks_json: bool = True) -> bytes:
        """See :class:`osqtwist.web.exchange.Exchange`; no key, secret, query or row is in the span."""
        visits: list[Visit] = []

        async def seen(visit: Visit) -> bytes:
            visits.append(visit)
            return await work(visit)

        with self.tracer.start_as_current_span(
            f"node {route}", kind=SpanKind.SERVER, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                return await super().carry_out(request, route, seen, speaks_json)
            finally:
                (visit,) = visits
                span.set_attribute("osqtwist.route", route)
                span.set_attribute("osqtwist.outcome", visit.outcome)
                span.set_attribute("http.response.status_code", 0 if visit.is_gone else request.code)
                span.set_attribute("client.address", visit.address)
                for name, value in (
                    ("node.id", visit.node_id),
                    ("node.name", visit.node_name),
                    ("reason", visit.reason),
                    ("lines", visit.lines),
                    ("held_seconds", visit.held_for),
                ):
                    if value:
                        span.set_attribute(f"osqtwist.{name}", value)
                if visit.outcome == "failed":
                    span.set_status(StatusCode.ERROR, visit.reason)


@attrs.frozen(kw_only=True)
class TracedAdmin(AdminAPI):
    """
    See :class:`osqtwist.web.admin.AdminAPI`.

    A span begins once it is known who calls and that they may: the header ``traceparent`` of strangers counts for
    nothing.
    """

    tracer: Tracer

    @classmethod
    def around(cls, admin: AdminAPI, tracer: Tracer) -> TracedAdmin:
        """The same, with spans."""
        return cls(groups=admin.groups, gate=admin.gate, trail=admin.trail, repeats=admin.repeats, tracer=tracer)

    async def perform(self, operation: Operation, call: Call) -> bytes:
        """See :class:`osqtwist.web.admin.AdminAPI`."""
        with self.tracer.start_as_current_span(
            f"{operation.method} {operation.path}",
            context=_PROPAGATOR.extract(_carrier_of(call.request)) if operation.role is not None else None,
            kind=SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            span.set_attribute("http.request.method", operation.method)
            span.set_attribute("http.route", operation.path)
            span.set_attribute("osqtwist.actor", call.actor.name)
            code: int = operation.code
            try:
                answer = await super().perform(operation, call)
                code = call.request.code
                return answer
            except BaseException as failure:
                found = problem_of(failure) if isinstance(failure, Exception) else None
                code = found.status if found else 500 if isinstance(failure, Exception) else 0
                span.set_attribute("error.type", type(failure).__name__)
                if code >= 500:
                    span.set_status(StatusCode.ERROR, type(failure).__name__)
                raise
            finally:
                span.set_attribute("http.response.status_code", code)


def _carrier_of(request: Request) -> dict[str, Any]:
    names = ("traceparent", "tracestate")
    return {name: value for name in names if (value := request.getHeader(name)) is not None}
