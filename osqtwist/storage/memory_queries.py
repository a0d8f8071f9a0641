"""Distributed queries in the memory of one process; see :mod:`osqtwist.storage.memory`."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.interfaces import IQueryStore, ISignals, StoredResult
from osqtwist.query import DistributedQuery, Offer, QueryProgress, QueryResult, Taken
from osqtwist.querycost import ResultCost


@attrs.define
class _Asked:
    lease_ends_at: float
    attempts: int
    is_answered: bool = False


@attrs.define
class _Kept:
    query: DistributedQuery
    asked: dict[str, _Asked] = attrs.field(factory=dict)
    results: list[QueryResult] = attrs.field(factory=list)
    results_bytes: int = 0
    results_rows: int = 0


@implementer(IQueryStore)
@attrs.define
class MemoryQueryStore:
    """Queries in dicts."""

    _signals: ISignals
    _kept: dict[str, _Kept] = attrs.field(factory=dict, init=False)

    async def add(self, query: DistributedQuery) -> None:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        for kept in list(self._kept.values()):
            if kept.query.expires_at + kept.query.keep < query.created_at:
                del self._kept[kept.query.query_id]
        self._kept[query.query_id] = _Kept(query)

    async def get(self, query_id: str) -> DistributedQuery | None:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        kept = self._kept.get(query_id)
        return kept.query if kept else None

    async def get_many(self, query_ids: Sequence[str]) -> dict[str, DistributedQuery]:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        return {query_id: self._kept[query_id].query for query_id in query_ids if query_id in self._kept}

    async def open_ids(self, now: float) -> list[str]:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        found = [kept.query for kept in self._kept.values()]
        return [query.query_id for query in found if query.state(now) in ("open", "scheduled")]

    async def recent(self, count: int) -> list[DistributedQuery]:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        found = sorted(
            (kept.query for kept in self._kept.values()),
            key=lambda query: (query.created_at, query.query_id),
            reverse=True,
        )
        return found[:count]

    async def approve(self, approved: DistributedQuery) -> bool:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        kept = self._kept.get(approved.query_id)
        if kept is None or not kept.query.is_waiting or kept.query.cancelled_at:
            return False
        kept.query = approved
        return True

    async def cancel(self, query_id: str, now: float) -> bool:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        kept = self._kept.get(query_id)
        if kept is None:
            return False
        if not kept.query.cancelled_at:
            kept.query = msgspec.structs.replace(kept.query, cancelled_at=now)
        return True

    async def take(self, node_id: str, query_ids: Sequence[str], now: float, most: int) -> dict[str, Taken]:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        found: dict[str, Taken] = {}
        for query_id in query_ids:
            found[query_id] = self._take(node_id, query_id, now) if most else Taken(Offer.LEFT)
            most -= found[query_id].offer is Offer.TAKEN
        return found

    def _take(self, node_id: str, query_id: str, now: float) -> Taken:
        kept = self._kept.get(query_id)
        if kept is None or not kept.query.is_open(now):
            return Taken(Offer.CLOSED)
        asked = kept.asked.setdefault(node_id, _Asked(0.0, 0))
        if asked.is_answered:
            return Taken(Offer.ANSWERED)
        if asked.lease_ends_at > now:
            return Taken(Offer.LEASED, asked.lease_ends_at)
        if asked.attempts >= kept.query.max_attempts:
            return Taken(Offer.EXHAUSTED)
        asked.attempts += 1
        asked.lease_ends_at = now + kept.query.lease
        return Taken(Offer.TAKEN, asked.lease_ends_at)

    async def release(self, node_id: str, query_ids: Sequence[str]) -> None:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        for query_id in query_ids:
            kept = self._kept.get(query_id)
            asked = kept.asked.get(node_id) if kept else None
            if kept and asked and not asked.is_answered and asked.lease_ends_at:
                asked.lease_ends_at = 0.0
                asked.attempts -= 1
                if not asked.attempts:
                    del kept.asked[node_id]

    async def add_results(self, results: Sequence[QueryResult]) -> list[str]:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        new = []
        for result in results:
            kept = self._kept.get(result.query_id)
            asked = kept.asked.get(result.node_id) if kept else None
            if kept is None or asked is None or asked.is_answered:
                continue
            asked.is_answered = True
            query, size, rows = kept.query, kept.results_bytes + len(result.rows), kept.results_rows + result.row_count
            elapsed = max(0.0, result.received_at - (asked.lease_ends_at - query.lease)) if asked.lease_ends_at else 0.0
            stored = msgspec.structs.replace(result, elapsed=elapsed)
            if size > query.max_results_bytes or rows > query.max_results_rows:
                stored = msgspec.structs.replace(stored, rows=msgspec.Raw(b"[]"), rows_dropped=True)
            else:
                kept.results_bytes, kept.results_rows = size, rows
            kept.results.append(stored)
            new.append(result.query_id)
        for query_id in new:
            await self._signals.publish("results", query_id)
        return new

    async def results(self, query_id: str, after: str, count: int) -> list[StoredResult]:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        kept = self._kept.get(query_id)
        start = int(after.partition("-")[0] or 0)
        page = kept.results[start : start + count] if kept else []
        return [StoredResult(f"{start + number}-0", result) for number, result in enumerate(page, 1)]

    async def given(self, node_id: str, query_ids: Sequence[str]) -> dict[str, bool]:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        kept = {query_id: self._kept[query_id].asked.get(node_id) for query_id in query_ids if query_id in self._kept}
        return {query_id: asked.is_answered for query_id, asked in kept.items() if asked}

    async def costs(self, query_id: str) -> list[ResultCost]:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        kept = self._kept.get(query_id)
        return [ResultCost.of(result) for result in kept.results] if kept else []

    async def progress(self, query_id: str) -> QueryProgress:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        kept = self._kept.get(query_id)
        if kept is None:
            return QueryProgress()
        return QueryProgress(
            offered=sum(asked.attempts > 0 for asked in kept.asked.values()),
            answered=len(kept.results),
            failed=sum(result.status != 0 for result in kept.results),
            results_bytes=kept.results_bytes,
            results_rows=kept.results_rows,
        )
