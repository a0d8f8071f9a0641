"""
Housekeeping of the log buffer: what the server deletes by itself, and what it warns of before it is too late.

A batch that some sink has not settled is never deleted here.  Without any sink, batches are deleted by age alone.
"""

from __future__ import annotations

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from osqtwist.admission import Admission
from osqtwist.interfaces import IStores, Report, StoreFull, StoreUnavailable
from osqtwist.sinkview import SinkState, SinkView

INTERVAL = 5.0
REPLAY_SHARE = 0.5
"""The share of the budget up to which batches are kept after every sink has them, to be replayed."""
WARN_SHARE = 0.5
"""A sink that is behind by this share of the budget is warned of."""
WARN_AGAIN = 600.0
_AT_ONCE = 200
_AT_MOST = 200


@attrs.define(eq=False)
class _Rounds(Service):
    """Does something every few seconds, whatever comes of it."""

    clock: IReactorTime
    stores: IStores
    _loop: LoopingCall | None = attrs.field(default=None, init=False)
    _log = Logger()

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._round()))
        self._loop.clock = self.clock
        self._loop.start(INTERVAL, now=False)

    def stopService(self) -> None:
        """End."""
        super().stopService()
        if self._loop and self._loop.running:
            self._loop.stop()

    async def _round(self) -> None:
        try:
            await self.go_round()
        except (StoreUnavailable, StoreFull):
            return
        except Exception:
            self._log.failure("housekeeping failed; it is tried again")

    async def go_round(self) -> None:
        """What there is to do."""
        raise NotImplementedError


@attrs.define(eq=False)
class BufferWatch(_Rounds):
    """Tells the admission how full the log buffer is; in every process that takes logs."""

    admission: Admission

    async def go_round(self) -> None:
        """Look."""
        size = await self.stores.logs.size()
        self.admission.fill = size.bytes / size.budget_bytes if size.budget_bytes else 0.0


@attrs.define(eq=False)
class LogKeeping(_Rounds):
    """
    Trims, and warns of sinks that fall behind; once for each server.

    :ivar report: told of sinks that fall behind.
    :ivar max_age: seconds; 0 keeps batches for as long as there is room.
    """

    sinks: SinkView
    max_age: float
    report: Report = lambda kind, node_id, facts: None
    _warned: dict[str, float] = attrs.field(factory=dict, init=False)
    _was_shut: bool = attrs.field(default=False, init=False)
    _away: tuple[str, ...] = attrs.field(default=(), init=False)

    async def go_round(self) -> None:
        """Sweep, then look."""
        await self.sweep()
        await self.look()

    async def sweep(self) -> None:
        """Delete what is too old, and what no sink needs while room is short."""
        before = self.clock.seconds() - self.max_age if self.max_age else 0.0
        budget = (await self.stores.logs.size()).budget_bytes
        deleted = 0
        for _ in range(_AT_MOST):
            part = await self.stores.logs.trim(before, int(budget * REPLAY_SHARE), _AT_ONCE)
            deleted += part
            if not part:
                break
        if deleted:
            self._log.debug("{count} log batches and dead letters are deleted", count=deleted)

    async def look(self) -> None:
        """See how full the buffer is, and who is behind."""
        size = await self.stores.logs.size()
        if size.away != self._away:
            self._away = size.away
            if size.away:
                names = ", ".join(size.away)
                self._log.error("log servers that do not answer: {names}; their nodes keep their lines", names=names)
            else:
                self._log.info("all log servers answer again")
        if size.is_shut != self._was_shut:
            self._was_shut = size.is_shut
            if size.is_shut:
                self._log.error("the log buffer is full (--log-budget-mib): nodes are told to keep their lines")
            else:
                self._log.info("the log buffer takes lines again")
        states = await self.sinks.states()
        for state in states:
            self._warn(state, size.budget_bytes)
        self._warned = {name: at for name, at in self._warned.items() if name in {each.name for each in states}}

    def _warn(self, state: SinkState, budget: int) -> None:
        now = self.clock.seconds()
        is_behind = bool(budget) and state.lag.bytes >= budget * WARN_SHARE
        is_unserved = state.state == "unserved" and state.lag.lines > 0
        if not (is_behind or is_unserved):
            if self._warned.pop(state.name, None) is not None:
                self._log.info("sink {name} has caught up", name=state.name)
            return
        if now - self._warned.get(state.name, -WARN_AGAIN) < WARN_AGAIN:
            return
        self._warned[state.name] = now
        facts = {"sink": state.name, "state": state.state, "lines": state.lag.lines, "trouble": state.trouble}
        self.report("sink_behind", "", facts)
        self._log.warn(
            "sink {name} is {state} and {lines} lines ({mib} MiB) behind{trouble}; once the log buffer is full, nodes "
            "keep their lines. Mend it, or have nothing wait for it any more: osqtwist sink forget {name}",
            name=state.name,
            state=state.state,
            lines=state.lag.lines,
            mib=state.lag.bytes // 2**20,
            trouble=f" ({state.trouble})" if state.trouble else "",
        )
