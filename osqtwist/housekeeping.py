"""
Housekeeping of the log buffer: what the server deletes by itself, and what it warns of before it is too late.

A batch that some sink has not settled is never deleted here.  Without any sink, batches are deleted by age alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import ClassVar

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from osqtwist.admission import Admission
from osqtwist.interfaces import IStores, Report, StoreFull, StoreUnavailable
from osqtwist.loginterfaces import BufferSize, LogServer
from osqtwist.sinkview import SinkState, SinkView

INTERVAL = 5.0
REPLAY_SHARE = 0.5
"""The share of the budget up to which batches are kept after every sink has them, to be replayed."""
WARN_SHARE = 0.5
"""A sink that is behind by this share of the budget is warned of; of a server's budget if there are several."""
WARN_AGAIN = 600.0
_AT_ONCE = 200
_AT_MOST = 200


async def sizes_of(stores: IStores) -> list[tuple[LogServer, BufferSize]]:
    """
    How full each server of the log buffer is that answers.

    :raise StoreUnavailable: none does.
    """
    found: list[tuple[LogServer, BufferSize]] = []
    trouble: StoreUnavailable | StoreFull | None = None
    for server in stores.log_servers:
        try:
            found.append((server, await server.logs.size()))
        except (StoreUnavailable, StoreFull) as problem:
            trouble = problem
    if trouble is not None and not found:
        raise trouble
    return found


@attrs.define(eq=False)
class Rounds(Service):
    """Does something every few seconds, whatever comes of it."""

    interval: ClassVar[float] = INTERVAL

    clock: IReactorTime
    stores: IStores
    _loop: LoopingCall | None = attrs.field(default=None, init=False)
    _log = Logger()

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._round()))
        self._loop.clock = self.clock
        self._loop.start(self.interval, now=False)

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
class BufferWatch(Rounds):
    """
    Tells the admission how full the log buffer is; in every process that takes logs.

    Of several servers the fullest counts: nodes that post much are the only ones to feel it.
    """

    admission: Admission

    async def go_round(self) -> None:
        """Look."""
        sizes = await sizes_of(self.stores)
        self.admission.fill = max(
            (size.bytes / size.budget_bytes for server, size in sizes if size.budget_bytes and not server.is_draining),
            default=0.0,
        )


@attrs.define(eq=False)
class LogKeeping(Rounds):
    """
    Trims, and warns of sinks that fall behind; once for each server.

    :ivar report: told of sinks that fall behind.
    :ivar max_age: seconds; 0 keeps batches for as long as there is room.
    """

    sinks: SinkView
    max_age: float
    report: Report = lambda kind, node_id, facts: None
    _warned: dict[str, float] = attrs.field(factory=dict, init=False)
    _shut: set[str] = attrs.field(factory=set, init=False)
    _away: list[str] = attrs.field(factory=list, init=False)

    async def go_round(self) -> None:
        """Sweep, then look."""
        await self.sweep()
        await self.look()

    async def sweep(self) -> None:
        """Delete what is too old, and what no sink needs while room is short; on each server that answers."""
        before = self.clock.seconds() - self.max_age if self.max_age else 0.0
        deleted = 0
        for server, size in await sizes_of(self.stores):
            with suppress(StoreUnavailable, StoreFull):
                for _ in range(_AT_MOST):
                    part = await server.logs.trim(before, int(size.budget_bytes * REPLAY_SHARE), _AT_ONCE)
                    deleted += part
                    if not part:
                        break
        if deleted:
            self._log.debug("{count} log batches and dead letters are deleted", count=deleted)

    async def look(self) -> None:
        """See how full the buffer is, and who is behind."""
        sizes = await sizes_of(self.stores)
        self._look_who_is_away([server.name for server, _ in sizes])
        for server, size in sizes:
            self._look_whether_full(server, size)
        states = await self.sinks.states()
        budgets = {server.name: size.budget_bytes for server, size in sizes if not server.is_draining}
        for state in states:
            self._warn(state, budgets)
        self._warned = {name: at for name, at in self._warned.items() if name in {each.name for each in states}}

    def _look_who_is_away(self, there: list[str]) -> None:
        away = [server.name for server in self.stores.log_servers if server.name not in there]
        if away == self._away:
            return
        self._away = away
        if away:
            self._log.error(
                "log servers that do not answer: {names}; their nodes keep their lines, and what they hold is "
                "delivered once they are back",
                names=", ".join(away),
            )
        else:
            self._log.info("all log servers answer again")

    def _look_whether_full(self, server: LogServer, size: BufferSize) -> None:
        if size.is_shut == (server.name in self._shut):
            return
        where = f" on {server.name}" if len(self.stores.log_servers) > 1 else ""
        if size.is_shut:
            self._shut.add(server.name)
            self._log.error(
                "the log buffer{where} is full (--log-budget-mib): nodes are told to keep their lines", where=where
            )
        else:
            self._shut.discard(server.name)
            self._log.info("the log buffer{where} takes lines again", where=where)

    def _warn(self, state: SinkState, budgets: Mapping[str, int]) -> None:
        now = self.clock.seconds()
        is_behind = any(
            budgets.get(server) and lag.bytes >= budgets[server] * WARN_SHARE for server, lag in state.lags.items()
        )
        is_unserved = state.state == "unserved" and state.lag.bytes > 0
        if not (is_behind or is_unserved):
            # Of a server that is away nobody knows.
            if not self._away and self._warned.pop(state.name, None) is not None:
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
