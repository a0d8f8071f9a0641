"""
All stores in the memory of one process: for tests, demonstrations and the reference server.

They keep every promise of :mod:`osqtwist.interfaces` but surviving a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
    INodeStore,
    IQueryStore,
    ISignals,
    IStores,
    StoredResult,
)
from osqtwist.loginterfaces import Budgets
from osqtwist.node import MOST_ADDRESSES, AddressSeen, FormerNode, Node, Revocation, Sighting
from osqtwist.query import DistributedQuery, Offer, QueryProgress, QueryResult, Taken
from osqtwist.storage.memory_clones import MemoryCloneStore
from osqtwist.storage.memory_logs import MemoryLogBuffer, MemorySinkQueues
from osqtwist.storage.memory_operators import MemoryOperatorStore


def _after(place: str) -> int:
    return int(place or 0)


@implementer(INodeStore)
@attrs.define
class MemoryNodeStore:
    """Nodes in dicts."""

    _nodes: dict[str, Node] = attrs.field(factory=dict, init=False)
    _seen: dict[str, Sighting] = attrs.field(factory=dict, init=False)
    _revoked: dict[str, Revocation] = attrs.field(factory=dict, init=False)

    async def record(self, node: Node) -> Node:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        before = self._nodes.get(node.node_id)
        before = before or Node(node_id=node.node_id, name="", proof="secret")
        node = msgspec.structs.replace(
            node, given_tags=before.given_tags, found_tags=before.found_tags, note=before.note, former=before.former
        )
        self._nodes[node.node_id] = node
        return node

    async def tag(self, node_id: str, added: Sequence[str], removed: Sequence[str]) -> None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        if node_id in self._nodes:
            node = self._nodes[node_id]
            tags = tuple(sorted({*node.given_tags, *added} - set(removed)))
            self._nodes[node_id] = msgspec.structs.replace(node, given_tags=tags)

    async def tag_found(self, node_id: str, added: Sequence[str], removed: Sequence[str]) -> None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        if node_id in self._nodes:
            node = self._nodes[node_id]
            tags = tuple(sorted({*node.found_tags, *added} - set(removed)))
            self._nodes[node_id] = msgspec.structs.replace(node, found_tags=tags)

    async def annotate(self, node_id: str, note: str) -> None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        if node_id in self._nodes:
            self._nodes[node_id] = msgspec.structs.replace(self._nodes[node_id], note=note)

    async def merge(self, former: FormerNode, node_id: str) -> None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        into = self._nodes.get(node_id)
        if into is None:
            return
        gone = self._nodes.pop(former.node_id, None) or msgspec.structs.replace(into, given_tags=(), note="", former=())
        self._nodes[node_id] = msgspec.structs.replace(
            into,
            given_tags=tuple(sorted({*into.given_tags, *gone.given_tags})),
            note="; ".join(filter(None, (into.note, gone.note))),
            former=(*into.former, *gone.former, former),
        )
        before, seen = self._seen.pop(former.node_id, None), self._seen.get(node_id)
        if before and seen:
            first = min(before.first_seen_at, seen.first_seen_at)
            self._seen[node_id] = msgspec.structs.replace(seen, first_seen_at=first)

    async def forget(self, node_id: str) -> None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        self._nodes.pop(node_id, None)
        self._seen.pop(node_id, None)

    async def get(self, node_id: str) -> Node | None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        return self._nodes.get(node_id)

    async def get_many(self, node_ids: Sequence[str]) -> dict[str, Node]:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        return {node_id: self._nodes[node_id] for node_id in node_ids if node_id in self._nodes}

    async def saw(self, sightings: Mapping[str, Sighting]) -> None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        for node_id, new in sightings.items():
            old = self._seen.get(node_id)
            if old and new.seen_at < old.seen_at:
                self._seen[node_id] = msgspec.structs.replace(old, config=new.config or old.config)
                continue
            known = old.addresses if old else ()
            if new.address and (not known or known[0].address != new.address):
                left = [AddressSeen(each.address, old.seen_at) for each in known[:1] if old]
                others = [each for each in (*left, *known[1:]) if each.address != new.address]
                known = (AddressSeen(new.address, new.seen_at), *others)[:MOST_ADDRESSES]
            self._seen[node_id] = msgspec.structs.replace(
                new,
                first_seen_at=old.first_seen_at if old else new.first_seen_at,
                config=new.config or (old.config if old else None),
                addresses=known,
            )

    async def sightings(self, node_ids: Sequence[str]) -> dict[str, Sighting]:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        return {node_id: self._seen[node_id] for node_id in node_ids if node_id in self._seen}

    async def seen_since(self, moment: float, offset: int, count: int) -> list[str]:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        found = [(seen.seen_at, node_id) for node_id, seen in self._seen.items() if seen.seen_at >= moment]
        return [node_id for _, node_id in sorted(found, reverse=True)[offset : offset + count]]

    async def count_since(self, moment: float) -> int:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        return sum(seen.seen_at >= moment for seen in self._seen.values())

    async def expiring(self, start: float, end: float, count: int) -> list[str]:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        ends = [(node.certificate.not_after, node_id) for node_id, node in self._nodes.items() if node.certificate]
        return [node_id for moment, node_id in sorted(ends) if start <= moment < end][:count]

    async def count_expiring(self, start: float, end: float) -> int:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        return len(await self.expiring(start, end, len(self._nodes)))

    async def find(self, text: str, limit: int) -> list[Node]:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        return [node for node in self._nodes.values() if text in _names(node)][:limit]

    async def revoke(self, revocation: Revocation) -> None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        self._revoked[revocation.node_id] = revocation

    async def restore(self, node_id: str) -> None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        self._revoked.pop(node_id, None)

    async def revocations(self) -> list[Revocation]:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        return list(self._revoked.values())


def _names(node: Node) -> set[str]:
    own = {node.node_id, node.name, node.host_identifier}
    return own.union(*((former.node_id, former.name, former.host_identifier) for former in node.former))


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

    async def ready(self) -> None:
        """See :class:`osqtwist.interfaces.IStores`."""

    async def ping(self) -> None:
        """See :class:`osqtwist.interfaces.IStores`."""

    async def close(self) -> None:
        """See :class:`osqtwist.interfaces.IStores`."""
