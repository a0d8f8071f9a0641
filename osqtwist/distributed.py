"""
Distributed queries for nodes: reads that are held until there is work, and the results that come back.

The store is the truth.  This process keeps the open queries in memory, and for each node what the store last said
of them, so that a read with nothing to do costs no store call.  A ``queries`` signal tells of one that was added,
approved or called off.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from osqtwist.interfaces import IQueryStore, ISignals, StoreFull, StoreUnavailable
from osqtwist.metrics import Metrics
from osqtwist.offers import Offers
from osqtwist.parking import ParkedReads
from osqtwist.query import DistributedQuery, Offer, QueryResult, Taken
from osqtwist.targeting import NodeFacts

MAX_HOLD = 12.0
"""osquery gives up 16 s after it began to connect (tls.cpp) and its watcher kills at 11 s of a blocked stop."""
MAX_QUERIES_AT_ONCE = 20
"""All results of one read come in one body, which must arrive within osquery's 16 s."""
_ASKED_FOR_AT_ONCE = 100
"""Queries that the store is asked for in one call; where nothing is known of a node, most may be settled long ago."""

# A query for all nodes must not fill the way to the store for everything else.
_MOST_TAKING = 256
QUERY_BURST = 3072
"""
Connections that wait to be accepted, and nodes that have just been given a query and will come with the result.

Nobody can tell them from others before they are served, so this many can stand before a log post or an enrollment:
some four seconds of work, of the 16 that osquery waits.  The kernel's queue (``ports.BACKLOG``) takes a quarter more.
"""
_OUT_FOR = 2.0
"""Seconds after which a node that has not come back takes its time, and others theirs: they will not come at once."""
_MOST_UNSURE = 10_000
"""Nodes of which it is kept that the store did not say what it gave them; for the others the lease has to end."""
_T = TypeVar("_T")


class Distributed(Service):
    """
    Issues queries, gives them to nodes, and takes their results.

    :param burst: once so many nodes have been given a query and are about to come back, with the connections that wait
        to be accepted, the others wait for the query.
    :ivar queued: how many connections of nodes wait to be accepted; set by whoever has the ports.
    """

    queued: Callable[[], int] = staticmethod(lambda: 0)
    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        queries: IQueryStore,
        signals: ISignals,
        parked: ParkedReads,
        metrics: Metrics,
        burst: int = QUERY_BURST,
    ) -> None:
        self._clock = clock
        self._queries = queries
        self._signals = signals
        self._parked = parked
        self._metrics = metrics
        self._burst = burst
        self._offers = Offers(clock, queries, signals, parked, metrics, self._is_busy)
        self._is_closing = False
        self._taking = 0
        self._out: deque[float] = deque()
        self._unsure: dict[str, Sequence[str]] = {}

    def startService(self) -> None:
        """Begin to follow the open queries."""
        super().startService()
        self._is_closing = False
        self._offers.start()

    def stopService(self) -> None:
        """Answer every held read with nothing to do, and stop.  Reads that come later are not held."""
        super().stopService()
        self._is_closing = True
        self._offers.stop()
        self._parked.wake(lambda _: True)

    def end_reads_of(self, node_id: str) -> None:
        """Wake a node's parked reads, so that a revocation is looked at now."""
        self._parked.wake_node(node_id)

    async def read(
        self, facts: NodeFacts, until: float, may_go_on: Callable[[], bool] = lambda: True, address: str = ""
    ) -> Sequence[DistributedQuery]:
        """
        Work for a node: queries it holds under a lease from now on, or none when the hold is over.

        Queries with a discovery query come one at a time: osquery drops a whole reply when one discovery query
        fails (distributed.cpp).  Cancelling it, when the node goes away, gives back what was taken; while it waits it
        fires with nothing.

        :param until: clock time at which to answer with nothing.
        :param may_go_on: looked at after each wake-up; false ends the wait.
        :param address: where the node is; of a node, and of an address, so many reads are held.
        """
        parked = self._parked.park(facts, address)
        # Parked first, then looking: a wake-up while we look is kept, so none falls between.
        try:
            while not self._is_closing and may_go_on():
                work = await self._take_some(facts)
                if work:
                    return work
                if not await parked.woken(until):
                    break
        finally:
            self._parked.remove(parked)
        return ()

    async def record(self, results: Sequence[QueryResult]) -> None:
        """
        Keep one node's results; fires when the store has them.

        Results that came before, or that nobody asked for, are passed over: the node must not send them for ever.
        """
        if not results:
            return
        if self._out:
            self._out.popleft()
        new = set(await self._queries.add_results(results))
        for result in results:
            self._metrics.query_results.labels(new="yes" if result.query_id in new else "no").inc()
            self._offers.open.settle(result.node_id, result.query_id, math.inf)

    async def issue(self, query: DistributedQuery) -> None:
        """
        Ask nodes something; fires when the store has it and the reads parked here are awake.

        A query that opens later, or waits for approval, is stored and wakes nobody yet.
        """
        await self._queries.add(query)
        await self._announce(query.query_id)

    async def approve(self, approved: DistributedQuery) -> bool:
        """Put a query that waits for approval into its approved form; false if it does not wait any more."""
        is_done = await self._queries.approve(approved)
        if is_done:
            await self._announce(approved.query_id)
        return is_done

    async def cancel(self, query_id: str) -> bool:
        """Ask no more nodes; false if there is no such query."""
        is_known = await self._queries.cancel(query_id, self._clock.seconds())
        if is_known:
            await self._announce(query_id)
        return is_known

    async def _announce(self, query_id: str) -> None:
        try:
            await self._signals.publish("queries", query_id)
        except (StoreUnavailable, StoreFull):
            self._log.warn("query {query} is stored, but other processes learn of it late", query=query_id)
        await self._offers.look_at(query_id)

    async def _take_some(self, facts: NodeFacts) -> Sequence[DistributedQuery]:
        while True:
            now = self._clock.seconds()
            candidates = self._offers.open.for_node(facts, now, _ASKED_FOR_AT_ONCE)
            if not candidates:
                return ()
            together = [query for query in candidates if not query.discovery]
            group, most = (together, MAX_QUERIES_AT_ONCE) if together else (candidates, 1)
            taken = await self._take(facts.node_id, [query.query_id for query in group], now, most)
            if taken is None:
                return ()
            work = [query for query in group if query.query_id in taken]
            if work:
                self._out.append(now)
                self._metrics.queries_offered.inc(len(work))
                return work

    async def _take(self, node_id: str, query_ids: Sequence[str], now: float, most: int) -> set[str] | None:
        """Which of these queries the node holds now under a lease; nothing if the store does not say."""
        if (unsure := self._unsure.get(node_id)) and await self._give_back(node_id, unsure):
            del self._unsure[node_id]
        asked = Deferred.fromCoroutine(self._queries.take(node_id, query_ids, now, most))
        self._taking += 1
        asked.addBoth(self._has_taken)
        answer: Deferred[dict[str, Taken]] = Deferred()
        asked.addCallbacks(answer.callback, answer.errback)
        try:
            outcomes = await answer
        except CancelledError:
            # The node went away while the store was giving: let it have the queries at its next read.
            asked.addCallback(lambda _: Deferred.fromCoroutine(self._give_back(node_id, query_ids)))
            raise
        except (StoreUnavailable, StoreFull) as problem:
            self._metrics.store_failures.labels(kind=type(problem).__name__).inc()
            # It may have given them all the same, and then the lease would keep them from the node.
            if len(self._unsure) < _MOST_UNSURE and node_id not in self._unsure:
                self._unsure[node_id] = query_ids
            return None
        for query_id, taken in outcomes.items():
            if taken.offer is not Offer.LEFT:
                settled = taken.lease_ends_at if taken.offer in (Offer.TAKEN, Offer.LEASED) else math.inf
                self._offers.open.settle(node_id, query_id, settled)
        return {query_id for query_id, taken in outcomes.items() if taken.offer is Offer.TAKEN}

    def _is_busy(self) -> bool:
        long_ago = self._clock.seconds() - _OUT_FOR
        while self._out and self._out[0] < long_ago:
            self._out.popleft()
        return self._taking >= _MOST_TAKING or len(self._out) + self.queued() >= self._burst

    def _has_taken(self, result: _T) -> _T:
        self._taking -= 1
        return result

    async def _give_back(self, node_id: str, query_ids: Sequence[str]) -> bool:
        try:
            await self._queries.release(node_id, query_ids)
        except (StoreUnavailable, StoreFull):
            return False  # The lease ends by itself.
        for query_id in query_ids:
            self._offers.open.settle(node_id, query_id, 0.0)
        return True
