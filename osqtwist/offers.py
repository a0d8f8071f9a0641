"""
The queries that this process offers to nodes, kept in step with the store: opened when their time has come, dropped
when they are over; and the parked reads that a new one wakes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from osqtwist.interfaces import IQueryStore, ISignals, StoreFull, StoreUnavailable
from osqtwist.metrics import Metrics
from osqtwist.openqueries import Concerned, OpenQueries
from osqtwist.parking import ParkedReads
from osqtwist.query import DistributedQuery
from osqtwist.steadyloop import steady_loop

REFRESH_INTERVAL = 5.0
"""Seconds between two looks at the open queries, in case a signal was lost."""
_WAKE_PAUSE = 0.02
"""Seconds in which queries gather before all reads are looked through for them again."""
_LONGEST_PAUSE = 3600.0


class Offers:
    """
    Follows the open queries.

    :ivar open: those that are offered now.
    :param is_busy: while true, most reads are not woken; see :meth:`ParkedReads.wake`.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        queries: IQueryStore,
        signals: ISignals,
        parked: ParkedReads,
        metrics: Metrics,
        is_busy: Callable[[], bool],
    ) -> None:
        self.open = OpenQueries()
        self._clock = clock
        self._queries = queries
        self._signals = signals
        self._parked = parked
        self._metrics = metrics
        self._is_busy = is_busy
        self._scheduled: dict[str, DistributedQuery] = {}
        self._to_wake: list[DistributedQuery] = []
        self._woke_at = -math.inf
        self._calls: dict[str, IDelayedCall] = {}
        self._loop: LoopingCall | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin to follow them."""
        self._unsubscribe = self._signals.subscribe("queries", self._look_again)
        self._loop = steady_loop(self._clock, "open queries", self.refresh)
        self._loop.start(REFRESH_INTERVAL, now=True)

    def stop(self) -> None:
        """Stop; nothing is woken any more."""
        if self._unsubscribe:
            self._unsubscribe()
        if self._loop and self._loop.running:
            self._loop.stop()
        self._loop = None
        for name in list(self._calls):
            self._call_off(name)

    async def refresh(self) -> None:
        """Look at all open queries, and wake the parked reads that a new one concerns."""
        before = self.open.ids() | self._scheduled.keys()
        now = self._clock.seconds()
        try:
            current = set(await self._queries.open_ids(now))
            new = await self._queries.get_many(sorted(current - before))
        except (StoreUnavailable, StoreFull):
            return
        for query_id in before - current:
            self._drop(query_id)
        self.open.forget_idle(now)
        self._take_up(new.values())

    async def look_at(self, query_id: str) -> None:
        """Look at one query, which was added, approved or called off."""
        try:
            found = await self._queries.get_many([query_id])
        except (StoreUnavailable, StoreFull):
            return
        self._take_up(found.values())

    def _look_again(self, query_id: str) -> None:
        # An empty id stands for signals that were missed.
        looking = self.look_at(query_id) if query_id else self.refresh()
        Deferred.fromCoroutine(looking).addErrback(
            lambda failure: self._log.failure("the open queries could not be read", failure)
        )

    def _take_up(self, queries: Iterable[DistributedQuery]) -> None:
        """Offer what is open, keep what opens later, drop what is over or waits for approval."""
        now = self._clock.seconds()
        for query in sorted(queries, key=lambda query: (query.created_at, query.query_id)):
            state = query.state(now)
            if state == "scheduled":
                self._scheduled[query.query_id] = query
            elif state != "open":
                self._drop(query.query_id)
            elif query.query_id not in self.open:
                self._scheduled.pop(query.query_id, None)
                self.open.add(query)
                self._to_wake.append(query)
        self._metrics.open_queries.set(len(self.open))
        if self._scheduled:
            first = min(query.opens_at for query in self._scheduled.values())
            self._call("open", first - now, lambda: self._take_up(list(self._scheduled.values())))
        self._wake_concerned()

    def _drop(self, query_id: str) -> None:
        self.open.discard(query_id)
        self._scheduled.pop(query_id, None)

    def _wake_concerned(self) -> None:
        """Wake the reads of those that new queries are for: at once, but not for each of many that come together."""
        if not self._to_wake or "wake" in self._calls:
            return
        remaining = self._woke_at + _WAKE_PAUSE - self._clock.seconds()
        if 0 < remaining <= _WAKE_PAUSE:
            self._call("wake", remaining, self._wake_concerned)
            return
        targets, self._to_wake = {query.target for query in self._to_wake}, []
        self._woke_at = self._clock.seconds()
        # What is for some nodes does not wait behind what is for all.
        for names_nodes in (True, False):
            some = [target for target in targets if bool(target.plain_names) is names_nodes]
            if some:
                concerned = Concerned.by(some)
                self._parked.wake(concerned, self._is_busy, concerned.names)

    def _call(self, name: str, seconds: float, work: Callable[[], object]) -> None:
        """Do something later, instead of what was to be done later under that name."""
        self._call_off(name)

        def call() -> None:
            del self._calls[name]
            work()

        if self._loop is not None:
            self._calls[name] = self._clock.callLater(min(max(0.0, seconds), _LONGEST_PAUSE), call)

    def _call_off(self, name: str) -> None:
        if name in self._calls:
            self._calls.pop(name).cancel()
