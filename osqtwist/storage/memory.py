"""
All stores in the memory of one process: for tests, demonstrations and the reference server.

They keep every promise of :mod:`osqtwist.interfaces` but surviving a restart.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from osqtwist.auditentry import NO_ENTRY, AuditEntry
from osqtwist.carve import CarveSession
from osqtwist.interfaces import (
    CarveProgress,
    IAuditStore,
    ICarveStore,
    ISignals,
    IStores,
)
from osqtwist.loginterfaces import Budgets, LogServer
from osqtwist.storage.memory_alerts import MemoryAlertStore
from osqtwist.storage.memory_clones import MemoryCloneStore
from osqtwist.storage.memory_denials import MemoryDenialStore
from osqtwist.storage.memory_enrollment import MemoryPendingStore, MemorySecretStore
from osqtwist.storage.memory_history import MemoryHistoryStore
from osqtwist.storage.memory_loads import MemoryLoadStore
from osqtwist.storage.memory_logs import MemoryLogBuffer, MemorySinkQueues
from osqtwist.storage.memory_nodes import MemoryNodeStore
from osqtwist.storage.memory_operators import MemoryOperatorStore
from osqtwist.storage.memory_queries import MemoryQueryStore
from osqtwist.storage.memory_rollouts import MemoryRolloutStore
from osqtwist.storage.memory_savedqueries import MemorySavedQueryStore


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
    _streamed: int = attrs.field(default=0, init=False)

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

    async def streamed(self) -> int:
        """See :class:`osqtwist.interfaces.IAuditStore`."""
        return self._streamed

    async def advance(self, before: int, now: int) -> bool:
        """See :class:`osqtwist.interfaces.IAuditStore`."""
        if is_next := self._streamed == before:
            self._streamed = now
        return is_next


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
        self.denials = MemoryDenialStore()
        self.audit = MemoryAuditStore()
        self.rollouts = MemoryRolloutStore()
        self.secrets = MemorySecretStore()
        self.pending = MemoryPendingStore()
        self.saved_queries = MemorySavedQueryStore()
        self.operators = MemoryOperatorStore(clock)
        self.loads = MemoryLoadStore()
        self.alerts = MemoryAlertStore(clock)
        self.history = MemoryHistoryStore()

    @property
    def log_servers(self) -> list[LogServer]:
        """See :class:`osqtwist.interfaces.IStores`."""
        return [LogServer("memory", self.logs, self.sinks)]

    async def ready(self) -> None:
        """See :class:`osqtwist.interfaces.IStores`."""

    async def ping(self) -> None:
        """See :class:`osqtwist.interfaces.IStores`."""

    async def close(self) -> None:
        """See :class:`osqtwist.interfaces.IStores`."""
