"""
Garbage collection for a process that holds many requests.

Python looks for cycles that nobody refers to by going through every object there is, each time that their number has
grown by a quarter.  Ten thousand held reads are 800,000 objects, and going through them takes half a second, in which
nobody is served, every few seconds.  What this server does with a request leaves no cycles, so it looks rarely.
"""

from __future__ import annotations

import gc

import attrs
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

FULL_INTERVAL = 600.0
"""Seconds between two looks through everything."""
_NEVER = 1_000_000_000


@attrs.define(eq=False)
class RareCollections(Service):
    """Keeps Python from looking through everything more often than :data:`FULL_INTERVAL`."""

    clock: IReactorTime
    _before: tuple[int, int, int] = attrs.field(factory=gc.get_threshold, init=False)
    _loop: LoopingCall | None = attrs.field(default=None, init=False)

    def startService(self) -> None:
        """Look once, and leave out for good what is there now: modules and all that the process is made of."""
        super().startService()
        gc.collect()
        gc.freeze()
        self._before = gc.get_threshold()
        gc.set_threshold(*self._before[:2], _NEVER)
        self._loop = LoopingCall(gc.collect)
        self._loop.clock = self.clock
        self._loop.start(FULL_INTERVAL, now=False)

    def stopService(self) -> None:
        """Let Python look as it did."""
        super().stopService()
        if self._loop and self._loop.running:
            self._loop.stop()
        gc.set_threshold(*self._before)
        gc.unfreeze()
