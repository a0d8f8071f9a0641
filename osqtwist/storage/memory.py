"""
All stores in the memory of one process: for tests, demonstrations and the reference server.

They keep every promise of :mod:`osqtwist.interfaces` but surviving a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from osqtwist.auditentry import NO_ENTRY, AuditEntry
from osqtwist.carve import CarveSession
from osqtwist.interfaces import (
    CarveProgress,
    IAuditStore,
    ICarveStore,
    IQueryStore,
    ISignals,
    IStores,
    StoredResult,
)
from osqtwist.loginterfaces import Budgets
from osqtwist.query import DistributedQuery, Offer, QueryProgress, QueryResult, Taken
from osqtwist.storage.memory_clones import MemoryCloneStore
from osqtwist.storage.memory_loads import MemoryLoadStore
from osqtwist.storage.memory_logs import MemoryLogBuffer, MemorySinkQueues
from osqtwist.storage.memory_nodes import MemoryNodeStore
from osqtwist.storage.memory_operators import MemoryOperatorStore


def _after(place: str) -> int:
    return int(place or 0)


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


@implementer(IQueryStore)
@attrs.define
class MemoryQueryStore:
    """Queries in dicts."""

    _signals: MemorySignals
    _kept: dict[str, _Kept] = attrs.field(factory=dict, init=False)

    async def add(self, query: DistributedQuery) -> None:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        self._kept[query.query_id] = _Kept(query)

    async def get(self, query_id: str) -> DistributedQuery | None:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        kept = self._kept.get(query_id)
        return kept.query if kept else None

    async def open_queries(self, now: float) -> list[DistributedQuery]:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        found = [kept.query for kept in self._kept.values() if kept.query.is_open(now)]
        return sorted(found, key=lambda query: (query.created_at, query.query_id))

    async def recent(self, count: int) -> list[DistributedQuery]:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        found = sorted(
            (kept.query for kept in self._kept.values()),
            key=lambda query: (query.created_at, query.query_id),
            reverse=True,
        )
        return found[:count]

    async def cancel(self, query_id: str, now: float) -> bool:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        kept = self._kept.get(query_id)
        if kept is None:
            return False
        if not kept.query.cancelled_at:
            kept.query = msgspec.structs.replace(kept.query, cancelled_at=now)
        return True

    async def take(self, node_id: str, query_ids: Sequence[str], now: float) -> dict[str, Taken]:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        return {query_id: self._take(node_id, query_id, now) for query_id in query_ids}

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
            size = len(result.rows)
            if kept.results_bytes + size > kept.query.max_results_bytes:
                result = msgspec.structs.replace(result, rows=msgspec.Raw(b"[]"), rows_dropped=True)  # noqa: PLW2901
            else:
                kept.results_bytes += size
            kept.results.append(result)
            new.append(result.query_id)
        for query_id in new:
            await self._signals.publish("results", query_id)
        return new

    async def results(self, query_id: str, after: str, count: int) -> list[StoredResult]:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        kept = self._kept.get(query_id)
        start = _after(after)
        page = kept.results[start : start + count] if kept else []
        return [StoredResult(str(start + number), result) for number, result in enumerate(page, 1)]

    async def progress(self, query_id: str) -> QueryProgress:
        """See :class:`osqtwist.interfaces.IQueryStore`."""
        kept = self._kept.get(query_id)
        if kept is None:
            return QueryProgress(0, 0, 0, 0)
        return QueryProgress(
            offered=sum(asked.attempts > 0 for asked in kept.asked.values()),
            answered=len(kept.results),
            failed=sum(result.status != 0 for result in kept.results),
            results_bytes=kept.results_bytes,
        )


@implementer(ICarveStore)
@attrs.define
class MemoryCarveStore:
    """Carve sessions in dicts."""

    _sessions: dict[str, CarveSession] = attrs.field(factory=dict, init=False)
    _blocks: dict[str, set[int]] = attrs.field(factory=dict, init=False)

    async def add(self, session: CarveSession) -> None:
        """See :class:`osqtwist.interfaces.ICarveStore`."""
        self._sessions[session.session_id] = session
        self._blocks[session.session_id] = set()

    async def get(self, session_id: str) -> CarveProgress | None:
        """See :class:`osqtwist.interfaces.ICarveStore`."""
        session = self._sessions.get(session_id)
        return CarveProgress(session, len(self._blocks[session_id])) if session else None

    async def mark(self, session_id: str, block_id: int) -> int:
        """See :class:`osqtwist.interfaces.ICarveStore`."""
        blocks = self._blocks.setdefault(session_id, set())
        blocks.add(block_id)
        return len(blocks)

    async def complete(self, session: CarveSession) -> bool:
        """See :class:`osqtwist.interfaces.ICarveStore`."""
        if self._sessions[session.session_id].is_complete:
            return False
        self._sessions[session.session_id] = session
        return True

    async def forget(self, session_id: str) -> None:
        """See :class:`osqtwist.interfaces.ICarveStore`."""
        self._sessions.pop(session_id, None)
        self._blocks.pop(session_id, None)

    async def recent(self, count: int) -> list[CarveProgress]:
        """See :class:`osqtwist.interfaces.ICarveStore`."""
        found = sorted(self._sessions.values(), key=lambda session: session.started_at, reverse=True)
        return [CarveProgress(session, len(self._blocks[session.session_id])) for session in found[:count]]

    async def unfinished(self, node_id: str) -> list[CarveSession]:
        """See :class:`osqtwist.interfaces.ICarveStore`."""
        return [each for each in self._sessions.values() if each.node_id == node_id and not each.is_complete]


@implementer(ISignals)
@attrs.define
class MemorySignals:
    """Calls subscribers at the reactor's next turn, as a store would: never inside the call that publishes."""

    _clock: IReactorTime
    _subscribers: dict[str, list[Callable[[str], None]]] = attrs.field(factory=dict, init=False)

    async def publish(self, topic: str, payload: str = "") -> None:
        """See :class:`osqtwist.interfaces.ISignals`."""
        for look in list(self._subscribers.get(topic, ())):
            self._clock.callLater(0, self._deliver, topic, look, payload)

    def subscribe(self, topic: str, look: Callable[[str], None]) -> Callable[[], None]:
        """See :class:`osqtwist.interfaces.ISignals`."""
        looks = self._subscribers.setdefault(topic, [])
        looks.append(look)

        def forget() -> None:
            if look in looks:
                looks.remove(look)

        return forget

    def _deliver(self, topic: str, look: Callable[[str], None], payload: str) -> None:
        if look in self._subscribers.get(topic, ()):
            look(payload)


@implementer(IAuditStore)
@attrs.define
class MemoryAuditStore:
    """Entries in a list."""

    _entries: list[AuditEntry] = attrs.field(factory=list, init=False)

    async def append(self, entry: AuditEntry) -> AuditEntry:
        """See :class:`osqtwist.interfaces.IAuditStore`."""
        last = self._entries[-1].hash if self._entries else NO_ENTRY
        placed = entry.chained(len(self._entries) + 1, last)
        self._entries.append(placed)
        return placed

    async def read(self, start: int, count: int) -> list[AuditEntry]:
        """See :class:`osqtwist.interfaces.IAuditStore`."""
        return self._entries[start - 1 : start - 1 + count]

    async def length(self) -> int:
        """See :class:`osqtwist.interfaces.IAuditStore`."""
        return len(self._entries)


@implementer(IStores)
class MemoryStores:
    """All of them, with one life."""

    def __init__(self, clock: IReactorTime, budgets: Budgets = Budgets()) -> None:
        self.signals = MemorySignals(clock)
        self.nodes = MemoryNodeStore()
        self.queries = MemoryQueryStore(self.signals)
        self.logs = MemoryLogBuffer(self.signals, budgets)
        self.sinks = MemorySinkQueues(clock, self.logs, self.signals, budgets.dead)
        self.carves = MemoryCarveStore()
        self.clones = MemoryCloneStore()
        self.audit = MemoryAuditStore()
        self.operators = MemoryOperatorStore(clock)
        self.loads = MemoryLoadStore()

    async def ready(self) -> None:
        """See :class:`osqtwist.interfaces.IStores`."""

    async def ping(self) -> None:
        """See :class:`osqtwist.interfaces.IStores`."""

    async def close(self) -> None:
        """See :class:`osqtwist.interfaces.IStores`."""
