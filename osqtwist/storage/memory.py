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
    ISignals,
    IStores,
)
from osqtwist.loginterfaces import Budgets
from osqtwist.node import Node, Revocation, Sighting
from osqtwist.storage.memory_logs import MemoryLogBuffer, MemorySinkQueues
from osqtwist.storage.memory_operators import MemoryOperatorStore
from osqtwist.storage.memory_queries import MemoryQueryStore


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
        node = msgspec.structs.replace(node, given_tags=before.given_tags if before else ())
        self._nodes[node.node_id] = node
        return node

    async def tag(self, node_id: str, added: Sequence[str], removed: Sequence[str]) -> None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        if node_id in self._nodes:
            node = self._nodes[node_id]
            tags = tuple(sorted({*node.given_tags, *added} - set(removed)))
            self._nodes[node_id] = msgspec.structs.replace(node, given_tags=tags)

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
            if old is None:
                self._seen[node_id] = new
            elif new.seen_at >= old.seen_at:
                self._seen[node_id] = msgspec.structs.replace(new, first_seen_at=old.first_seen_at)

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
        found = [node for node in self._nodes.values() if text in (node.node_id, node.name, node.host_identifier)]
        return found[:limit]

    async def revoke(self, revocation: Revocation) -> None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        self._revoked[revocation.node_id] = revocation

    async def restore(self, node_id: str) -> None:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        self._revoked.pop(node_id, None)

    async def revocations(self) -> list[Revocation]:
        """See :class:`osqtwist.interfaces.INodeStore`."""
        return list(self._revoked.values())


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
        self.audit = MemoryAuditStore()
        self.operators = MemoryOperatorStore(clock)

    async def ready(self) -> None:
        """See :class:`osqtwist.interfaces.IStores`."""

    async def ping(self) -> None:
        """See :class:`osqtwist.interfaces.IStores`."""

    async def close(self) -> None:
        """See :class:`osqtwist.interfaces.IStores`."""
