"""Distributed queries for people: asked, followed, looked up afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from osqtwist.distributed import Distributed
from osqtwist.interfaces import IStores, NoSuchThing, StoreFull, StoreUnavailable
from osqtwist.inventory import Inventory
from osqtwist.lookagain import LookAgain
from osqtwist.query import DistributedQuery, QueryResult, new_query_id
from osqtwist.sqlcheck import check_sql
from osqtwist.targeting import Target

_RESULTS_AT_ONCE = 100

Emit = Callable[[dict[str, Any]], None]


class BadQuery(ValueError):
    """No node could run this SQL; says where and why."""


def refuse_bad_sql(target: Target, *texts: str) -> None:
    """
    Look at SQL before nodes are asked.

    :raise BadQuery: none of them could run it.
    """
    for text in texts:
        # Extensions add tables, but no columns to osquery's own.
        if errors := check_sql(text, target.platforms, lenient=True).errors:
            raise BadQuery(f"{errors[0]} (in {text[:60]!r})" if len(texts) > 1 else str(errors[0]))


@attrs.frozen
class LiveQueries:
    """Asks nodes, and hands on what they answer."""

    clock: IReactorTime
    stores: IStores
    distributed: Distributed
    inventory: Inventory

    async def queries(self, count: int) -> list[dict[str, Any]]:
        """The newest queries, each with how far it has come."""
        return [await self._query_row(query) for query in await self.stores.queries.recent(count)]

    async def query(self, query_id: str) -> dict[str, Any]:
        """One query and how far it has come."""
        query = await self.stores.queries.get(query_id)
        if query is None:
            raise NoSuchThing(f"there is no query {query_id!r}")
        return await self._query_row(query)

    async def issue(
        self, sql: str, target: Target, expires_in: float, *, discovery: str = "", created_by: str = ""
    ) -> dict[str, Any]:
        """Ask nodes something."""
        query = self.new_query(sql, target, expires_in, discovery, created_by)
        await self.distributed.issue(query)
        return await self._query_row(query)

    async def run(
        self, sql: str, target: Target, expires_in: float, emit: Emit, *, discovery: str = "", created_by: str = ""
    ) -> None:
        """
        Ask nodes something and hand on what they answer, until all that are online did, or time is up.

        Emits ``begin`` with the number of nodes expected, ``result`` for each answer, ``end`` with those that
        were silent.  Cancelling it calls the query off.
        """
        query = self.new_query(sql, target, expires_in, discovery, created_by)
        look = LookAgain(self.clock)
        forget = self.stores.signals.subscribe(
            "results", lambda payload: look.wake() if payload in ("", query.query_id) else None
        )
        is_over = False
        try:
            expected = await self.inventory.online_names(target)
            await self.distributed.issue(query)
            emit({"type": "begin", "query_id": query.query_id, "expected": len(expected)})
            answered, cursor = 0, ""
            while True:
                page = await self.stores.queries.results(query.query_id, cursor, _RESULTS_AT_ONCE)
                for stored in page:
                    cursor = stored.result_id
                    answered += 1
                    expected.pop(stored.result.node_id, None)
                    emit(_result_row(stored.result))
                if page:
                    continue
                remaining = query.expires_at - self.clock.seconds()
                if remaining <= 0 or not expected:
                    break
                await look.wait(min(remaining, 2.0))
            emit({"type": "end", "answered": answered, "silent": sorted(expected.values())})
            is_over = True
        finally:
            forget()
            if not is_over:
                Deferred.fromCoroutine(self._call_off(query.query_id))

    async def results(self, query_id: str, emit: Emit) -> None:
        """Hand on the results that are in."""
        cursor = ""
        while page := await self.stores.queries.results(query_id, cursor, _RESULTS_AT_ONCE):
            for stored in page:
                cursor = stored.result_id
                emit(_result_row(stored.result))

    async def cancel(self, query_id: str) -> dict[str, Any]:
        """Ask no more nodes."""
        if not await self.distributed.cancel(query_id):
            raise NoSuchThing(f"there is no query {query_id!r}")
        return await self.query(query_id)

    async def _call_off(self, query_id: str) -> None:
        try:
            await self.distributed.cancel(query_id)
        except (StoreUnavailable, StoreFull):
            return  # It expires by itself.

    def new_query(
        self, sql: str, target: Target, expires_in: float, discovery: str, created_by: str
    ) -> DistributedQuery:
        """A query that nobody knows of yet."""
        now = self.clock.seconds()
        return DistributedQuery(
            query_id=new_query_id(now),
            sql=sql,
            target=target,
            created_at=now,
            expires_at=now + expires_in,
            discovery=discovery,
            created_by=created_by,
        )

    async def _query_row(self, query: DistributedQuery) -> dict[str, Any]:
        progress = await self.stores.queries.progress(query.query_id)
        now = self.clock.seconds()
        state = "cancelled" if query.cancelled_at else "open" if query.is_open(now) else "expired"
        return {
            "query_id": query.query_id,
            "sql": query.sql,
            "discovery": query.discovery,
            "target": msgspec.to_builtins(query.target),
            "created_at": query.created_at,
            "expires_at": query.expires_at,
            "created_by": query.created_by,
            "state": state,
            "offered": progress.offered,
            "answered": progress.answered,
            "failed": progress.failed,
            "results_bytes": progress.results_bytes,
        }


def _result_row(result: QueryResult) -> dict[str, Any]:
    return {
        "type": "result",
        "node": result.node_id,
        "name": result.node_name,
        "received_at": result.received_at,
        "status": result.status,
        "message": result.message,
        "rows": result.rows,
        "stats": result.stats,
        "rows_dropped": result.rows_dropped,
    }
