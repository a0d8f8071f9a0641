"""
The directory: what this process knows of nodes, kept near so that a request need not ask the store.

It caches the facts of nodes, collects when they were seen and writes that down many at a time, and holds the set
of revocations.  Whatever it caches is looked at again when a ``nodes`` signal says so, and now and then anyway.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import attrs
import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from osqtwist.authentication import Caller
from osqtwist.enrollment import certificate_record
from osqtwist.interfaces import INodeStore, ISignals, Report, StoreFull, StoreUnavailable
from osqtwist.node import ConfigServed, ConfigState, Node, Revocation, Sighting
from osqtwist.steadyloop import steady_loop
from osqtwist.tagging import Tagging
from osqtwist.targeting import NodeFacts

FLUSH_INTERVAL = 2.0
"""Seconds between two writes of what was seen."""
SEEN_AGAIN = 20.0
"""A node that comes again within so many seconds, from where it was, is not written down again: at a million nodes that
would be more than a Redis can do."""
REVOCATION_INTERVAL = 1.0
"""Seconds between two looks at the revocations, in case a signal was lost."""
ANSWERED_WITHIN = 0.5
"""Seconds after a revocation in which held reads are answered; then the node's connections are ended."""
_LOOKS_APART = 0.1
_MAX_KNOWN = 250_000


@attrs.frozen
class _Known:
    facts: NodeFacts
    fingerprint: str
    enrolled_at: float
    tagging: Tagging
    missed: int


class Directory(Service):
    """
    Facts, sightings and revocations of nodes.

    :param on_revoked: called with a node id as soon as a revocation of it is seen here.
    :param tagging: answers with the rules in force.
    :param approve: raises :class:`osqtwist.approval.ApprovalPending` for a new node that has to wait.
    :ivar end_connections: ends those of nodes that are refused; set by whoever has them.
    """

    end_connections: Callable[[], object] = staticmethod(lambda: None)

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        nodes: INodeStore,
        signals: ISignals,
        on_revoked: Callable[[str], None],
        tagging: Callable[[], Tagging] = Tagging,
        report: Report = lambda kind, node_id, facts: None,
        approve: Callable[[Node, str], Awaitable[None]] | None = None,
    ) -> None:
        self._clock = clock
        self._nodes = nodes
        self._signals = signals
        self._on_revoked = on_revoked
        self._tagging = tagging
        self._report = report
        self._approve = approve
        self._known: OrderedDict[str, _Known] = OrderedDict()
        # What is known from before signals were missed is good as long as nothing better can be had.
        self._missed = 0
        self._seen: dict[str, Sighting] = {}
        self._noted: dict[str, Sighting] = {}
        self._served: dict[str, ConfigServed] = {}
        self._revocations: dict[str, Revocation] = {}
        self._has_looked = False
        self._loops: list[LoopingCall] = []
        self._endings: list[IDelayedCall] = []
        self._looked_at = -math.inf
        self._next_look: IDelayedCall | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def startService(self) -> None:
        """Begin to write sightings down and to look at revocations."""
        super().startService()
        self._unsubscribe = self._signals.subscribe("nodes", self._changed)
        for what, look, interval in (
            ("who was seen", self.flush, FLUSH_INTERVAL),
            ("revocations", self.refresh_revocations, REVOCATION_INTERVAL),
        ):
            loop = steady_loop(self._clock, what, look)
            loop.start(interval, now=False)
            self._loops.append(loop)
        Deferred.fromCoroutine(self.refresh_revocations())

    def stopService(self) -> Deferred[None]:
        """Stop; fires when what was seen is written down, or cannot be."""
        super().stopService()
        if self._unsubscribe:
            self._unsubscribe()
        for loop in self._loops:
            loop.stop()
        self._loops.clear()
        if self._next_look is not None and self._next_look.active():
            self._next_look.cancel()
        for ending in self._endings:
            if ending.active():
                ending.cancel()
        return Deferred.fromCoroutine(self.flush())

    async def facts_of(self, caller: Caller, address: str = "") -> NodeFacts:
        """
        What a target can look at for this node.

        A node that shows a certificate and is not known yet becomes known; a new certificate is noted.

        :raise ApprovalPending: it is new, and nobody has approved of it.
        :raise StoreUnavailable: nothing of the node is in memory, and the store does not answer.
        """
        fingerprint = caller.certificate.fingerprint if caller.certificate else ""
        known = self._known.get(caller.node_id)
        if known and known.missed == self._missed and (not fingerprint or known.fingerprint == fingerprint):
            return self._facts_in_memory(caller.node_id, known)
        try:
            node = await self._nodes.get(caller.node_id)
        except StoreUnavailable:
            if known:
                return self._facts_in_memory(caller.node_id, known)
            raise
        updated = _with_certificate(node, caller, self._clock.seconds())
        if node is None and self._approve:
            await self._approve(updated, address)
        if updated is not node:
            try:
                updated = await self._nodes.record(updated)
            except StoreFull:
                # It is noted when there is room; who it is, is proven anyway.
                return self._tagging().applied(updated.facts())
        if node is None:
            self._report("node_new", updated.node_id, {"name": updated.name, "proof": updated.proof})
        return self.learn(updated)

    def _facts_in_memory(self, node_id: str, known: _Known) -> NodeFacts:
        self._known.move_to_end(node_id)
        if known.tagging is not (tagging := self._tagging()):
            known = attrs.evolve(known, facts=tagging.applied(known.facts), tagging=tagging)
            self._known[node_id] = known
        return known.facts

    def learn(self, node: Node) -> NodeFacts:
        """Keep a node in memory, over what was known of it; answers with its facts."""
        tagging = self._tagging()
        facts = tagging.applied(node.facts())
        fingerprint = node.certificate.fingerprint if node.certificate else ""
        self._known[node.node_id] = _Known(facts, fingerprint, node.enrolled_at, tagging, self._missed)
        self._known.move_to_end(node.node_id)
        while len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return facts

    def forget(self, node_id: str) -> None:
        """Write down no sighting of a node that is to be forgotten."""
        self._seen.pop(node_id, None)
        self._noted.pop(node_id, None)
        self._served.pop(node_id, None)

    def name_of(self, caller: Caller) -> str:
        """The best name known for a caller without asking the store."""
        known = self._known.get(caller.node_id)
        return known.facts.name if known else caller.name or caller.node_id

    def saw(self, node_id: str, address: str, user_agent: str) -> None:
        """
        Note that a node was heard of now.

        It reaches the store within :data:`FLUSH_INTERVAL`, if what is there is older than :data:`SEEN_AGAIN`.
        """
        now, agent = self._clock.seconds(), user_agent[:128]
        noted = self._noted.get(node_id)
        if noted and 0 <= now - noted.seen_at < SEEN_AGAIN and noted.address == address and noted.user_agent == agent:
            return
        if noted is None and len(self._noted) >= _MAX_KNOWN:
            self._noted.clear()
        if node_id in self._seen or len(self._seen) < _MAX_KNOWN:
            sighting = Sighting(seen_at=now, first_seen_at=now, address=address, user_agent=agent)
            self._seen[node_id] = self._noted[node_id] = sighting

    def served(self, node_id: str, etag: str, state: ConfigState) -> None:
        """Note which config a node was answered now; that goes to the store with its sighting."""
        if node_id in self._served or len(self._served) < _MAX_KNOWN:
            now = self._clock.seconds()
            self._served[node_id] = ConfigServed(etag, state, now)
            if node_id in self._noted and node_id not in self._seen:
                self._seen[node_id] = msgspec.structs.replace(self._noted[node_id], seen_at=now)

    def enrolled_at(self, node_id: str) -> float:
        """When a node enrolled last, as far as this process has it in memory; else 0."""
        known = self._known.get(node_id)
        return known.enrolled_at if known and known.missed == self._missed else 0.0

    async def flush(self) -> None:
        """Write down who was seen since the last time; on a failure it is kept for the next."""
        seen, self._seen = self._seen, {}
        served, self._served = self._served, {}
        if not seen:
            return
        for node_id in served.keys() & seen.keys():
            seen[node_id] = msgspec.structs.replace(seen[node_id], config=served[node_id])
        try:
            await self._nodes.saw(seen)
        except (StoreUnavailable, StoreFull) as problem:
            self._seen = seen | self._seen
            self._log.warn("sightings of {count} nodes wait for the store: {problem}", count=len(seen), problem=problem)

    async def refresh_revocations(self) -> None:
        """Look at the revocations; if the store does not answer, those known stay in force."""
        try:
            await self.look_at_revocations()
        except (StoreUnavailable, StoreFull):
            return

    async def look_at_revocations(self) -> None:
        """
        Look at the revocations.

        :raise StoreUnavailable: they cannot be seen, and those known stay in force.
        """
        self._looked_at = self._clock.seconds()
        current = {revocation.node_id: revocation for revocation in await self._nodes.revocations()}
        self._has_looked = True
        new = [node_id for node_id, revocation in current.items() if self._revocations.get(node_id) != revocation]
        self._revocations = current
        for node_id in new:
            self._on_revoked(node_id)
        if new:
            self.end_soon()

    def revocations(self) -> list[Revocation] | None:
        """Those in force; nothing before they were seen for the first time."""
        return list(self._revocations.values()) if self._has_looked else None

    def end_soon(self) -> None:
        """End the connections of whoever is refused, once there was time to answer held reads."""
        if self.running:
            self._endings = [ending for ending in self._endings if ending.active()]
            self._endings.append(self._clock.callLater(ANSWERED_WITHIN, self.end_connections))

    def is_revoked(self, node_id: str, issued_at: float = 0.0) -> bool:
        """Whether a node is refused, or at least its keys issued at this moment."""
        revocation = self._revocations.get(node_id)
        if revocation is None:
            return False
        return not revocation.keys_before or 0.0 < issued_at < revocation.keys_before

    def _changed(self, node_id: str) -> None:
        # An empty id stands for signals that were missed: any node may have changed.
        if node_id:
            if known := self._known.get(node_id):
                self._known[node_id] = attrs.evolve(known, missed=-1)
            self._noted.pop(node_id, None)
        else:
            self._missed += 1
            self._noted.clear()
        # Each enrollment is such a signal; a herd of them must not have everybody read all revocations each time.
        wait = self._looked_at + _LOOKS_APART - self._clock.seconds()
        if wait <= 0:
            Deferred.fromCoroutine(self.refresh_revocations())
        elif self._next_look is None or not self._next_look.active():
            self._next_look = self._clock.callLater(
                min(wait, _LOOKS_APART), lambda: Deferred.fromCoroutine(self.refresh_revocations())
            )


def _with_certificate(node: Node | None, caller: Caller, now: float) -> Node:
    if caller.certificate is None:
        return node or Node(node_id=caller.node_id, name=caller.name or caller.node_id, proof="secret")
    record = certificate_record(caller.certificate, now)
    if node is None:
        return Node(
            node_id=caller.node_id,
            name=caller.name or caller.node_id,
            proof="certificate" if caller.name else "secret",
            certificate=record,
        )
    if node.certificate is not None and node.certificate.fingerprint == record.fingerprint:
        return node
    return msgspec.structs.replace(node, certificate=record)
