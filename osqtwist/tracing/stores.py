"""Spans around store calls, by the names of the contract: ``store logs.append``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from opentelemetry.trace import SpanKind, StatusCode, Tracer, get_current_span
from zope.interface import directlyProvides, providedBy

from osqtwist.interfaces import IStores

STORES = ("nodes", "queries", "logs", "sinks", "carves", "secrets", "pending", "operators", "audit", "rollouts")
"""Those that requests, deliveries and operators call."""


def trace_stores(stores: IStores, tracer: Tracer) -> IStores:
    """The same stores; those that are called for somebody are replaced by the same with spans."""
    for name in STORES:
        setattr(stores, name, TracedStore(getattr(stores, name), name, tracer))
    return stores


class TracedStore:
    """One store.  Calls that no span is around, such as a look every few seconds, get none either."""

    def __init__(self, store: Any, name: str, tracer: Tracer) -> None:
        self._store = store
        directlyProvides(self, providedBy(store))
        for method in {each for contract in providedBy(store) for each in contract.names(all=True)}:
            work = getattr(store, method)
            if inspect.iscoroutinefunction(work):
                setattr(self, method, _traced(work, f"store {name}.{method}", tracer))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def _traced(work: Callable[..., Any], name: str, tracer: Tracer) -> Callable[..., Any]:
    @wraps(work)
    async def traced(*arguments: Any, **named: Any) -> Any:
        if not get_current_span().get_span_context().is_valid:
            return await work(*arguments, **named)
        with tracer.start_as_current_span(
            name, kind=SpanKind.CLIENT, record_exception=False, set_status_on_exception=False
        ) as span:
            span.set_attribute("db.system.name", "redis")
            try:
                return await work(*arguments, **named)
            except Exception as problem:
                span.set_attribute("error.type", type(problem).__name__)
                span.set_status(StatusCode.ERROR, type(problem).__name__)
                raise

    return traced
