"""Easing the habits of nodes while the server is busy; all processes and hosts on the same level."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from osqtwist.configuration import NodeConfiguration
from osqtwist.ease import LEVELS, EaseRule, next_level
from osqtwist.interfaces import IStores, Load, StoreFull, StoreUnavailable
from osqtwist.metrics import Metrics

INTERVAL = 10.0
_OVER = 60.0


class Easing(Service):
    """
    Says how busy this process is, and puts the level that all agree on into the configuration.

    The level is kept in the store, with what each process last said; whoever sees first that it should be another
    changes it, and tells the others.  While the store is away it stays.

    :param name: of this process among all; empty for one that serves no nodes and only follows.
    :param cpu: the seconds of processor that this process has used.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        stores: IStores,
        configuration: NodeConfiguration,
        metrics: Metrics,
        rule: EaseRule,
        name: str,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self._clock, self._stores, self._configuration, self._metrics = clock, stores, configuration, metrics
        self._rule, self._name, self._cpu = rule, name, cpu
        self._used: deque[tuple[float, float]] = deque()
        self._loop: LoopingCall | None = None
        self._forget: Callable[[], None] | None = None
        self._level = 0

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self._forget = self._stores.signals.subscribe("ease", lambda _: self._begin_look())
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._safely()))
        self._loop.clock = self._clock
        self._loop.start(INTERVAL)

    def stopService(self) -> None:
        """End."""
        super().stopService()
        if self._forget:
            self._forget()
        if self._loop and self._loop.running:
            self._loop.stop()

    def _begin_look(self) -> None:
        Deferred.fromCoroutine(self._safely())

    async def _safely(self) -> None:
        try:
            await self._look()
        except (StoreUnavailable, StoreFull):
            return
        except Exception:
            self._log.failure("the load could not be looked at; it is tried again")

    def _busy(self) -> float | None:
        """The share of a processor over the last minute; nothing yet while that is not known."""
        now, used = self._clock.seconds(), self._cpu()
        self._used.append((now, used))
        while now - self._used[0][0] > _OVER + INTERVAL:
            self._used.popleft()
        began, before = self._used[0]
        return (used - before) / (now - began) if now - began >= _OVER - INTERVAL else None

    async def _look(self) -> None:
        now = self._clock.seconds()
        load = await self._stores.loads.report(self._name, self._busy() if self._name else None, now)
        wanted = next_level(self._rule, load.level, now - load.since, load.busy)
        if wanted != load.level and await self._stores.loads.change(load, wanted, now):
            self._tell(load, wanted)
            load = Load(wanted, now, load.busy)
            await self._stores.signals.publish("ease")
        if load.level != self._level:
            self._level = min(load.level, len(LEVELS) - 1)
            self._configuration.ease(LEVELS[self._level].options)
        self._metrics.ease_level.set(self._level)

    def _tell(self, load: Load, wanted: int) -> None:
        self._log.info(
            "nodes are {word} to level {number}: who serves them uses {busy:.0%} of a processor; {price}",
            word="eased" if wanted > load.level else "tightened",
            number=wanted,
            busy=sum(load.busy) / len(load.busy),
            price=LEVELS[wanted].price,
        )
