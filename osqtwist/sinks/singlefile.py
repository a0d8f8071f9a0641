"""Blocking work in threads, one piece after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.threads import deferToThreadPool

_T = TypeVar("_T")


@attrs.define(eq=False)
class SingleFile:
    """Runs blocking work in the reactor's threads, one piece at a time, and does not wait for it for ever."""

    reactor: Any
    _lock: DeferredLock = attrs.field(factory=DeferredLock, init=False)

    async def run(self, seconds: float, work: Callable[[], _T]) -> _T:
        """
        Fire with what the work answers.

        When cancelled or too late the work goes on in its thread; what is run next waits for its end.

        :raise TimeoutError: it takes longer, or what was run before still does.
        """
        await self._lock.acquire().addTimeout(seconds, self.reactor)
        answer: Deferred[_T] = Deferred()

        def over(result: Any) -> None:
            self._lock.release()
            answer.callback(result)

        deferToThreadPool(self.reactor, self.reactor.getThreadPool(), work).addBoth(over)
        return await answer.addTimeout(seconds, self.reactor)
