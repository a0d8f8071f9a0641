"""
Timers that go on when somebody sets the clock.

Twisted keeps its timers by the clock of the wall.  Set back by an hour it stands still for an hour: no held read ends,
no connection is given up, no process is started again.  Set forward, everything that waits is over at once, children
are taken for hung and killed.  Here a reactor keeps its timers by the time since the machine started, and whoever asks
it for the time still gets that of the wall, since what is written down is meant for people.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import directlyProvides, providedBy

from osqtwist.metrics import Metrics

WATCH_INTERVAL = 1.0
JUMP = 2.0
"""Seconds by which the clock has to be off, from one look to the next, to be worth a word."""
_OFTEN_CALLED = ("callLater", "callFromThread", "addReader", "removeReader", "addWriter", "removeWriter")


class SteadyReactor:
    """A reactor, but for the time that it tells: the reactor's own timers no longer go by it."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        for name in _OFTEN_CALLED:
            setattr(self, name, getattr(reactor, name))
        directlyProvides(self, providedBy(reactor))

    @staticmethod
    def seconds() -> float:
        """Unix time, as the clock has it now."""
        return time.time()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


def steady(reactor: Any, monotonic: Callable[[], float] = time.monotonic) -> Any:
    """
    Have a reactor keep its timers by a clock that nobody sets.

    What it has scheduled already stays in place: the steady clock begins at what the other one shows.
    """
    offset = reactor.seconds() - monotonic()
    reactor.seconds = lambda: offset + monotonic()
    return SteadyReactor(reactor)


@attrs.define(eq=False)
class ClockWatch(Service):
    """Says it when the clock was set."""

    reactor: Any
    metrics: Metrics
    monotonic: Callable[[], float] = time.monotonic
    _offset: float = attrs.field(default=0.0, init=False)
    _loop: LoopingCall | None = attrs.field(default=None, init=False)
    _log = Logger()

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self._offset = self._difference()
        self._loop = LoopingCall(self.look)
        self._loop.clock = self.reactor
        self._loop.start(WATCH_INTERVAL, now=False)

    def stopService(self) -> None:
        """End."""
        super().stopService()
        if self._loop and self._loop.running:
            self._loop.stop()

    def look(self) -> None:
        """Compare the two clocks."""
        before, self._offset = self._offset, self._difference()
        jump = self._offset - before
        if abs(jump) < JUMP:
            return
        direction = "forward" if jump > 0 else "back"
        self.metrics.clock_jumps.labels(direction=direction).inc()
        self._log.warn(
            "the clock was set {direction} by {seconds:.0f} s: certificates, ends of queries and secrets, and what is "
            "written down go by it",
            direction=direction,
            seconds=abs(jump),
        )

    def _difference(self) -> float:
        return float(self.reactor.seconds()) - self.monotonic()
