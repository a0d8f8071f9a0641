"""Housekeeping: what the server deletes by itself, so that nothing grows without bound."""

from __future__ import annotations

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from osqtwist.interfaces import ILogBuffer, StoreFull, StoreUnavailable

INTERVAL = 60.0
_AT_ONCE = 200


@attrs.define(eq=False)
class LogRetention(Service):
    """
    Deletes log batches and dead letters past their age.

    :ivar max_age: seconds; 0 keeps everything.
    """

    clock: IReactorTime
    buffer: ILogBuffer
    max_age: float
    _loop: LoopingCall | None = attrs.field(default=None, init=False)
    _log = Logger()

    def startService(self) -> None:
        """Begin."""
        super().startService()
        if self.max_age:
            self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self.sweep()))
            self._loop.clock = self.clock
            self._loop.start(INTERVAL, now=False)

    def stopService(self) -> None:
        """End."""
        super().stopService()
        if self._loop and self._loop.running:
            self._loop.stop()

    async def sweep(self) -> None:
        """Delete what is too old now."""
        before = self.clock.seconds() - self.max_age
        deleted = 0
        try:
            while part := await self.buffer.trim(before, _AT_ONCE):
                deleted += part
        except (StoreUnavailable, StoreFull):
            return
        if deleted:
            self._log.info("{count} log batches past their retention are deleted", count=deleted)
