"""Waiting for something to look at."""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime


@attrs.define
class LookAgain:
    """Waits for a signal, or for a while; a signal that comes when nobody waits is kept."""

    clock: IReactorTime
    _is_due: bool = False
    _waiting: Deferred[None] | None = None

    def wake(self, payload: str = "") -> None:
        """Have the waiter look again."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            self._is_due = True
        else:
            waiting.callback(None)

    async def wait(self, seconds: float) -> None:
        """Wait for a wake-up, or for so long."""
        if self._is_due or seconds <= 0:
            self._is_due = False
            return
        self._waiting = Deferred()
        over: IDelayedCall = self.clock.callLater(seconds, self.wake)
        try:
            await self._waiting
        finally:
            self._waiting = None
            self._is_due = False
            if over.active():
                over.cancel()
