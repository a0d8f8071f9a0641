"""
Watching canaries: which nodes got the version that is tried, and what nodes say is wrong meanwhile.

While nothing is rolled out, it costs a look at a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from math import inf

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from osqtwist.canaryhealth import troubles
from osqtwist.interfaces import StoreFull, StoreUnavailable
from osqtwist.rolloutinterfaces import IRolloutStore, NodeTrouble
from osqtwist.targeting import NodeFacts, Target

FLUSH_INTERVAL = 2.0
_AT_ONCE = 1000
_MOST_WAITING = 5000
_MOST_TOLD = 100_000
_AGAIN = 20.0


class CanaryWatch(Service):
    """
    Collects it, in every process that serves nodes, and writes it down every few seconds.

    What cannot be written is kept for the next time, up to a bound: nodes say again what is wrong.

    :ivar run: the roll-out under way; 0 for none.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, store: IRolloutStore) -> None:
        self._clock, self._store = clock, store
        self.run = 0
        self._has_room = True
        self._served: dict[str, float] = {}
        self._said: list[NodeTrouble] = []
        self._told: dict[tuple[str, str], float] = {}
        self._canaries: Target | None = None
        self._loop: LoopingCall | None = None

    def startService(self) -> None:
        """Begin to write."""
        super().startService()
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._safely()))
        self._loop.clock = self._clock
        self._loop.start(FLUSH_INTERVAL, now=False)

    def stopService(self) -> Deferred[None]:
        """Stop; fires when what was seen is written down, or cannot be."""
        super().stopService()
        if self._loop and self._loop.running:
            self._loop.stop()
        return Deferred.fromCoroutine(self._safely())

    def follow(self, run: int, canaries: Target | None = None) -> None:
        """Watch the canaries of this roll-out from now on; 0 for none."""
        self._canaries = canaries
        if run != self.run:
            self.run, self._has_room = run, True
            self._served, self._said = {}, []
            self._told.clear()

    def served(self, node_id: str) -> None:
        """Note that a canary was answered with the version that is tried."""
        about = (node_id, "")
        if self._has_room and about not in self._told and len(self._served) < _MOST_WAITING:
            self._remember(about)
            self._served[node_id] = self._clock.seconds()

    def look(self, facts: NodeFacts, lines: Sequence[msgspec.Raw]) -> None:
        """Look through the status lines of a node; to be called only while something is rolled out."""
        found = troubles(lines)
        if not found:
            return
        now = self._clock.seconds()
        is_canary = self._canaries is not None and self._canaries.matches(facts)
        for trouble in found:
            about = (facts.node_id, f"{'canary' if is_canary else 'other'} {trouble.problem}")
            # Of a canary it may have been too early to count: another process knows when it got the version.
            if now < self._told.get(about, -inf) + (_AGAIN if is_canary else inf) or len(self._said) >= _MOST_WAITING:
                continue
            self._remember(about)
            at = trouble.at or now
            self._said.append(
                NodeTrouble(facts.node_id, facts.name[:200], trouble.kind, trouble.problem, trouble.text, at)
            )

    def _remember(self, about: tuple[str, str]) -> None:
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told[about] = self._clock.seconds()

    async def _safely(self) -> None:
        try:
            await self.flush()
        except Exception:
            self._log.failure("what canaries said could not be written down")

    async def flush(self) -> None:
        """Write down what there is."""
        while self.run and (self._served or self._said):
            run = self.run
            served = dict(islice(self._served.items(), _AT_ONCE))
            said, self._said = self._said[:_AT_ONCE], self._said[_AT_ONCE:]
            for node_id in served:
                del self._served[node_id]
            try:
                has_room = await self._store.watch(run, served, said)
            except (StoreUnavailable, StoreFull):
                if run == self.run:
                    self._served, self._said = {**served, **self._served}, [*said, *self._said]
                return
            if run == self.run:
                self._has_room = has_room
