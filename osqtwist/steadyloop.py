"""
A look that is taken again and again, whatever one of them comes to.

Twisted's ``LoopingCall`` ends for good at the first exception, and says so to whoever waits for its Deferred: here
nobody does, and a server that no longer looks at revocations or at its files seems to be well.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

_log = Logger()


def steady_loop(clock: IReactorTime, what: str, look: Callable[[], object]) -> LoopingCall:
    """
    A ``LoopingCall``, not started yet, that outlives whatever a look raises: it is logged, and the next is at its time.

    :param what: is looked at, for the log.
    :param look: a function, or a coroutine function; the next look waits until it is done.
    """

    async def once() -> None:
        try:
            done = look()
            if inspect.isawaitable(done):
                await done
        except Exception:
            _log.failure("a look at {what} failed; it is looked at again", what=what)

    loop = LoopingCall(lambda: Deferred.fromCoroutine(once()))
    loop.clock = clock
    return loop
