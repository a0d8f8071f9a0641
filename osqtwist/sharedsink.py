"""One sink for several deliveries: each brings lines from a server of its own, one at a time."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from twisted.internet.defer import DeferredLock
from zope.interface import implementer

from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import ILogSink, Outcome


@implementer(ILogSink)
@attrs.define(eq=False)
class SharedSink:
    """
    See :class:`osqtwist.sinkinterfaces.ILogSink`, which is called for one thing at a time; here others wait.

    :ivar users: how many deliveries there are; the last of them closes it.
    """

    sink: ILogSink
    users: int
    _is_open: bool = attrs.field(default=False, init=False)
    _lock: DeferredLock = attrs.field(factory=DeferredLock, init=False)

    async def open(self) -> None:
        """Open it, unless another did."""
        await self._lock.acquire()
        try:
            if not self._is_open:
                await self.sink.open()
                self._is_open = True
        finally:
            self._lock.release()

    async def deliver(self, events: Sequence[LogEvent]) -> Outcome:
        """Deliver, after the others."""
        await self._lock.acquire()
        try:
            outcome: Outcome = await self.sink.deliver(events)
        except BaseException:
            self._is_open = False
            raise
        finally:
            self._lock.release()
        return outcome

    async def close(self) -> None:
        """Close it, if nobody else needs it."""
        self.users -= 1
        if not self.users:
            await self.sink.close()
