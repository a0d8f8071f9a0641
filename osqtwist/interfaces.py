"""
The contracts between services and stores.

Every method is a coroutine unless it says otherwise.  Two failures are common to all of them and mean that the
answer is not known, never that a node is: :class:`StoreUnavailable` and :class:`StoreFull`.  Cancelling a call
that has begun may or may not undo it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from zope.interface import Attribute, Interface

from osqtwist.auditentry import AuditEntry
from osqtwist.carve import CarveSession
from osqtwist.clone import Clone
from osqtwist.node import FormerNode, Node, Revocation, Sighting
from osqtwist.query import DistributedQuery, QueryProgress, QueryResult, Taken
from osqtwist.querycost import ResultCost

Report = Callable[[str, str, Mapping[str, Any]], object]
"""Called with the kind of something that happened, the id of the node, and the facts; see osqtwist.fleetevents."""


class StoreUnavailable(Exception):
    """The store did not answer, or not in time.  What was asked of it may or may not have happened."""


class ListLost(StoreUnavailable):
    """
    The store answers, and does not know who is refused: it is new, or came back without its data.

    What a process knows of it stays in force.
    """


class StoreFull(Exception):
    """The store answers but keeps nothing new: out of memory, out of disk, or read-only.  Nothing was stored."""


class NoSuchThing(LookupError):
    """What somebody asked for by name is not there; the text says what."""


@attrs.frozen
class StoredResult:
    """A query result in the store; ids grow with arrival and name a place to go on from."""

    result_id: str
    result: QueryResult


@attrs.frozen
class CarveProgress:
    """How far a carve has come."""

    session: CarveSession
    received_blocks: int


class INodeStore(Interface):
    """Nodes, when they were seen, and which are revoked."""

    async def record(node: Node) -> Node:
        """
        Keep a node, over what was kept under its id before; answers with it.

        Its given and found tags, its note and its former nodes are not taken from it, but stay as they are kept.
        """

    async def tag(node_id: str, added: Sequence[str], removed: Sequence[str]) -> None:
        """Change the given tags of a node that is kept."""

    async def tag_found(node_id: str, added: Sequence[str], removed: Sequence[str]) -> None:
        """The same for its found tags."""

    async def annotate(node_id: str, note: str) -> None:
        """Replace the note of a node that is kept."""

    async def merge(former: FormerNode, node_id: str) -> None:
        """
        Have a node that is kept take over from another, at once.

        It gets that one's given tags, its note behind its own, and its first sighting, and is found by its id and its
        names; of the other nothing is kept, but for a revocation.
        """

    async def forget(node_id: str) -> None:
        """Keep nothing of a node any more, but for a revocation."""

    async def get(node_id: str) -> Node | None:
        """The node with this id."""

    async def get_many(node_ids: Sequence[str]) -> dict[str, Node]:
        """The nodes with these ids; ids that are unknown are left out."""

    async def saw(sightings: Mapping[str, Sighting]) -> None:
        """
        Note when nodes were last heard of, many in one exchange with the store.

        An older sighting never replaces a newer one, and ``first_seen_at`` of the first is kept, as are the last few
        addresses and the last config.
        """

    async def sightings(node_ids: Sequence[str]) -> dict[str, Sighting]:
        """When these nodes were last seen; nodes never seen are left out."""

    async def seen_since(moment: float, offset: int, count: int) -> list[str]:
        """Ids of nodes seen at or after ``moment`` (Unix time; 0 for all), newest first, a page at a time."""

    async def count_since(moment: float) -> int:
        """How many nodes were seen at or after ``moment``."""

    async def last_seen_between(start: float, end: float, offset: int, count: int) -> list[tuple[str, float]]:
        """Ids and times of nodes last seen from ``start`` on and before ``end``, a page at a time."""

    async def expiring(start: float, end: float, count: int) -> list[str]:
        """Ids of nodes whose newest certificate ends from ``start`` on and before ``end``, the first to end first."""

    async def count_expiring(start: float, end: float) -> int:
        """How many such nodes there are."""

    async def issuers() -> dict[str, int]:
        """How many nodes' newest certificate is of each issuer."""

    async def renewed(start: float, count: int) -> list[str]:
        """Ids of nodes that came with another certificate at ``start`` or later, the last to come first."""

    async def count_renewed(start: float) -> int:
        """How many such nodes there are."""

    async def find(text: str, limit: int) -> list[Node]:
        """Nodes whose id, name or host identifier is exactly ``text``, without looking at every node."""

    async def revoke(revocation: Revocation) -> None:
        """Refuse a node from now on; replaces an earlier revocation of it."""

    async def restore(node_id: str) -> None:
        """Take a revocation back; nothing happens if there is none."""

    async def revocations() -> list[Revocation]:
        """
        All revocations.

        :raise ListLost: :meth:`begin_revocations` was never called on what the store has.
        """

    async def begin_revocations(those: Sequence[Revocation]) -> bool:
        """
        Begin the list with these, unless it has begun; false if it had.

        Nothing that is on it already is changed.
        """


class IQueryStore(Interface):
    """Distributed queries, who took them, and what they answered."""

    async def add(query: DistributedQuery) -> None:
        """Keep a new query."""

    async def get(query_id: str) -> DistributedQuery | None:
        """The query with this id, open or not."""

    async def get_many(query_ids: Sequence[str]) -> dict[str, DistributedQuery]:
        """The queries with these ids; ids that are unknown are left out."""

    async def open_ids(now: float) -> list[str]:
        """The ids of the queries that nodes are offered now or will be, without anybody's approval."""

    async def recent(count: int) -> list[DistributedQuery]:
        """The newest queries, open or not, newest first."""

    async def approve(approved: DistributedQuery) -> bool:
        """
        Put a query that waits for approval into its approved form.

        False if it does not wait: it is unknown, cancelled, or somebody else was faster.
        """

    async def cancel(query_id: str, now: float) -> bool:
        """Offer a query to nobody any more; false if it is unknown.  Results of nodes that took it still count."""

    async def take(node_id: str, query_ids: Sequence[str], now: float, most: int) -> dict[str, Taken]:
        """
        Give queries to a node under a lease, atomically for each; the answer has an entry for each id.

        A query whose lease ran out is given again, with one attempt more, until its attempts are used up.

        :param most: so many are given, in their order; those behind are left.
        """

    async def release(node_id: str, query_ids: Sequence[str]) -> None:
        """
        Undo a take that the node cannot have seen: the lease ends now and the attempt does not count.

        A query that the node answered meanwhile stays answered.
        """

    async def add_results(results: Sequence[QueryResult]) -> list[str]:
        """
        Keep a node's results; all are of one node.  Answers with the ids of the queries whose result is new.

        A second result of the same node to the same query, and a result to a query that the node never took or
        that is unknown, is left out and no error.  Rows past the query's limits are dropped, the result kept with
        ``rows_dropped``.  ``elapsed`` is set from the newest lease.  The Deferred fires when the results would survive
        a restart of this process.
        """

    async def results(query_id: str, after: str, count: int) -> list[StoredResult]:
        """Results in the order of arrival, those after the id ``after`` (empty: from the first)."""

    async def given(node_id: str, query_ids: Sequence[str]) -> dict[str, bool]:
        """Which of these queries a node was given, and whether it answered."""

    async def costs(query_id: str) -> list[ResultCost]:
        """What each result cost, without its rows."""

    async def progress(query_id: str) -> QueryProgress:
        """How far a query has come; all zero if it is unknown."""


class ICarveStore(Interface):
    """Which carves there are and which of their blocks have come.  The bytes are in files, not here."""

    async def add(session: CarveSession) -> None:
        """Keep a new session."""

    async def get(session_id: str) -> CarveProgress | None:
        """The session and how many distinct blocks came."""

    async def mark(session_id: str, block_id: int) -> int:
        """Note that a block is written; answers with how many distinct blocks came, this one included."""

    async def complete(session: CarveSession) -> bool:
        """Keep the finished form of a session; false if it was already complete, and then nothing changes."""

    async def forget(session_id: str) -> None:
        """Delete a session and its marks; nothing happens if it is unknown."""

    async def recent(count: int) -> list[CarveProgress]:
        """The newest sessions, newest first."""

    async def unfinished(node_id: str) -> list[CarveSession]:
        """A node's sessions that are not complete."""


MOST_CLONES = 2000
"""Clones that are kept; others are served, and not reported."""


class ICloneStore(Interface):
    """Which nodes are clones, or may be."""

    async def keep(clone: Clone) -> bool:
        """
        Keep a clone, over what was kept under its id before; true if it is news, and so to be reported.

        It is news if it is found, and was not yet.  One that was found stays so.  Past :data:`MOST_CLONES` a new one is
        not kept, and no news.
        """

    async def all() -> list[Clone]:
        """Every clone that is kept."""

    async def drop(clone_ids: Sequence[str]) -> None:
        """Keep these no more."""


class ISignals(Interface):
    """
    Wake-ups between processes.  A signal says "look again" and may be lost; the store is the truth.

    Topics in use: ``queries`` (payload: query id; it was added, approved or cancelled), ``results`` (payload: query
    id), ``nodes`` (payload: node id; its record or a revocation changed), ``clones``, ``denials`` (what is kept of them
    changed), ``secrets`` (what operators handed out changed), ``logs`` (a batch was appended), ``sinks`` (payload:
    sink; it was paused, resumed, rewound or forgotten), ``ease`` (the level of load changed), ``rollouts`` (which
    version of the configuration nodes get changed).
    """

    async def publish(topic: str, payload: str = "") -> None:
        """
        Wake every subscriber of a topic, in every process, this one included.

        Fires when the store has it.  A failure is for the caller to see: the thing itself is already stored.
        """

    def subscribe(topic: str, look: Callable[[str], None]) -> Callable[[], None]:
        """
        Have ``look`` called with each payload of a topic; answers with a callable that ends it.  Not a coroutine.

        After a connection to the store was lost and found, ``look`` is called with an empty payload, which
        stands for every signal that may have been missed.  ``look`` must not raise.
        """


class IAuditStore(Interface):
    """What operators did, in order; nothing in it is ever changed."""

    async def append(entry: AuditEntry) -> AuditEntry:
        """Keep an entry behind all others; answers with it as it stands there: its number and its hashes."""

    async def read(start: int, count: int) -> list[AuditEntry]:
        """Entries from this number on."""

    async def length() -> int:
        """How many there are."""

    async def streamed() -> int:
        """The number of the newest entry that was made a log line, 0 if none was."""

    async def advance(before: int, now: int) -> bool:
        """Have :meth:`streamed` say ``now`` if it says ``before``; false, and nothing, if it does not."""


LOAD_IS_OLD = 45.0
"""Seconds after which what a process said of its load counts no more."""


@attrs.frozen
class Load:
    """
    How busy the processes are that serve nodes.

    :ivar level: see :mod:`osqtwist.ease`; since when, Unix time, is :attr:`since`.
    :ivar busy: of each process, the share of a processor.
    """

    level: int
    since: float
    busy: tuple[float, ...] = ()


class ILoadStore(Interface):
    """What processes say of their load, and the level that follows from it."""

    async def report(name: str, busy: float | None, now: float) -> Load:
        """Keep what a process says, if it says anything, and answer with what all said lately."""

    async def change(seen: Load, level: int, now: float) -> bool:
        """Change the level, unless another did since this was seen; says whether."""


class IStores(Interface):
    """All stores of one server, with one life."""

    nodes = Attribute("an INodeStore")
    queries = Attribute("an IQueryStore")
    logs = Attribute("an osqtwist.loginterfaces.ILogBuffer")
    sinks = Attribute("an osqtwist.loginterfaces.ISinkLevers; an ISinkQueues where lines are delivered from")
    log_servers = Attribute("an osqtwist.loginterfaces.LogServer for each server that the two are on")
    carves = Attribute("an ICarveStore")
    clones = Attribute("an ICloneStore")
    denials = Attribute("an osqtwist.denialinterfaces.IDenialStore")
    audit = Attribute("an IAuditStore")
    loads = Attribute("an ILoadStore")
    alerts = Attribute("an osqtwist.alertinterfaces.IAlertStore")
    secrets = Attribute("an osqtwist.enrollinterfaces.ISecretStore")
    pending = Attribute("an osqtwist.enrollinterfaces.IPendingStore")
    operators = Attribute("an osqtwist.operatorinterfaces.IOperatorStore")
    rollouts = Attribute("an osqtwist.rolloutinterfaces.IRolloutStore")
    saved_queries = Attribute("an osqtwist.savedqueryinterfaces.ISavedQueryStore")
    history = Attribute("an osqtwist.historyinterfaces.IHistoryStore")
    signals = Attribute("an ISignals")

    async def ready() -> None:
        """
        Fire when the store answers.

        :raise StoreUnavailable: it does not; the text is one sentence for an operator.
        """

    async def ping() -> None:
        """Fire if the store answers now, or fail with :class:`StoreUnavailable`."""

    async def close() -> None:
        """Let go of every connection; what is under way fails with :class:`StoreUnavailable`."""
