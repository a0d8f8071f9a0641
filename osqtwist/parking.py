"""
Parked distributed reads.

A node that asks for work when there is none is *parked*: its answer waits until work arrives or its hold is over.

Rule 1: a wake-up carries no data.  The reader always goes back and looks.
Rule 2: whoever parks a read removes it, on every way out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from osqtwist.targeting import NodeFacts

_AWAKE_AT_ONCE = 256
_LOOKS_AT_ONCE = 2000
_BUSY_PAUSE = 0.005


@attrs.define(eq=False)
class ParkedRead:
    """
    One parked read.

    A wake-up that comes while nobody waits is kept: the next :meth:`woken` answers at once.
    """

    facts: NodeFacts
    _clock: IReactorTime
    address: str = ""
    _is_woken: bool = False
    _is_over: bool = False
    _waiting: Deferred[bool] | None = None

    async def woken(self, until: float) -> bool:
        """
        Wait for a wake-up; false if none came until then (clock time), or if it is cancelled.

        It is cancelled when the node goes away.  An exception for that would hold on to the whole request, through
        its traceback, until Python looks for cycles.
        """
        if self._is_over:
            return False
        if self._is_woken:
            self._is_woken = False
            return True
        remaining = until - self._clock.seconds()
        if remaining <= 0:
            return False
        self._waiting = Deferred(lambda waiting: waiting.callback(False))
        over: IDelayedCall = self._clock.callLater(remaining, self._fire, False)
        try:
            return await self._waiting
        finally:
            self._waiting = None
            if over.active():
                over.cancel()

    def wake(self) -> None:
        """Have the reader look again."""
        if not self._fire(True):
            self._is_woken = True

    def end(self) -> None:
        """Have the reader give up, now or when it has looked."""
        self._is_over = True
        self._fire(False)

    def _fire(self, is_woken: bool) -> bool:
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return False
        waiting.callback(is_woken)
        return True


@attrs.define
class ParkedReads:
    """
    Every read parked in this process.

    :ivar on_count: called with the number of parked reads when it changes.
    :ivar most_of_node: reads that one node may have parked; when it has one more, its oldest ends: most likely nobody
        is at the other end of that.  0 for any number.
    :ivar most_of_address: the same for all nodes of an address.
    :ivar on_end: called when one is ended for that.
    """

    clock: IReactorTime
    on_count: Callable[[int], object] = lambda count: None
    most_of_node: int = 0
    most_of_address: int = 0
    on_end: Callable[[], object] = lambda: None
    _of_address: dict[str, dict[ParkedRead, None]] = attrs.field(factory=dict, init=False)
    _reads: dict[ParkedRead, None] = attrs.field(factory=dict, init=False)
    _named: dict[str, tuple[ParkedRead, ...]] = attrs.field(factory=dict, init=False)

    def park(self, facts: NodeFacts, address: str = "") -> ParkedRead:
        """Park a read; the caller removes it."""
        self._make_room(facts, address)
        read = ParkedRead(facts, self.clock, address)
        if self.most_of_address and address:
            self._of_address.setdefault(address, {})[read] = None
        self._reads[read] = None
        for key in facts.name_keys():
            self._named[key] = (*self._named.get(key, ()), read)
        self.on_count(len(self._reads))
        return read

    def remove(self, read: ParkedRead) -> None:
        """Forget a read.  It is this read that goes, not whatever else its node has parked."""
        if read in self._reads:
            del self._reads[read]
            self._leave_address(read)
            for key in read.facts.name_keys():
                left = tuple(each for each in self._named[key] if each is not read)
                if left:
                    self._named[key] = left
                else:
                    del self._named[key]
        self.on_count(len(self._reads))

    def wake(
        self,
        concerns: Callable[[NodeFacts], bool],
        is_busy: Callable[[], bool] = lambda: False,
        names: Iterable[str] | None = None,
    ) -> None:
        """
        Wake every read whose node is concerned.

        The first few at once, the others a few at a time, so that other requests get their turn in between.

        :param is_busy: while true, all but the first few have to wait.
        :param names: look only at reads under these keys, of :meth:`NodeFacts.name_keys`.
        """
        if names is None:
            reads = list(self._reads)
        else:
            reads = list(dict.fromkeys(read for name in names for read in self._named.get(name, ())))
        self._wake_some(iter(reads), concerns, is_busy, 0)

    def wake_node(self, node_id: str) -> None:
        """Wake a node's reads, now."""
        for read in self._named.get(node_id.lower(), ()):
            if read.facts.node_id == node_id:
                read.wake()

    def _make_room(self, facts: NodeFacts, address: str) -> None:
        named = self._named.get(facts.node_id.lower(), ())
        if 0 < self.most_of_node <= len(named):
            mine = [read for read in named if read.facts.node_id == facts.node_id]
            if len(mine) >= self.most_of_node:
                self._end(mine[0])
        theirs = self._of_address.get(address)
        if theirs and len(theirs) >= self.most_of_address:
            self._end(next(iter(theirs)))

    def _end(self, read: ParkedRead) -> None:
        self.on_end()
        read.end()
        # One that is just looking is not gone yet, and counts no more.
        self.remove(read)

    def _leave_address(self, read: ParkedRead) -> None:
        theirs = self._of_address.get(read.address)
        if theirs is not None and read in theirs:
            del theirs[read]
            if not theirs:
                del self._of_address[read.address]

    def _wake_some(
        self,
        reads: Iterator[ParkedRead],
        concerns: Callable[[NodeFacts], bool],
        is_busy: Callable[[], bool],
        before: int,
    ) -> None:
        if before >= _AWAKE_AT_ONCE and is_busy():
            self.clock.callLater(_BUSY_PAUSE, self._wake_some, reads, concerns, is_busy, before)
            return
        woken = 0
        for looked, read in enumerate(reads, 1):
            if read in self._reads and concerns(read.facts):
                read.wake()
                woken += 1
            if woken == _AWAKE_AT_ONCE or looked == _LOOKS_AT_ONCE:
                self.clock.callLater(0, self._wake_some, reads, concerns, is_busy, before + woken)
                return

    def __len__(self) -> int:
        return len(self._reads)
