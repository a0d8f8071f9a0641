"""Long answers, written no faster than they are read."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.web.server import Request
from zope.interface import implementer

STALL = 60.0
"""Seconds for which a reader may take nothing, before its connection is closed; it can go on from where it was."""


@implementer(IPushProducer)
@attrs.define(eq=False)
class PacedAnswer:
    """
    The body of an answer that may be long.

    What has been written and not been sent is never more than the transport's own buffer and one piece.  To be used in
    a ``with``: at its end all is written.
    """

    _clock: IReactorTime
    _request: Request
    _is_paused: bool = attrs.field(default=False, init=False)
    _waiting: Deferred[None] | None = attrs.field(default=None, init=False)

    def __enter__(self) -> PacedAnswer:
        self._request.registerProducer(self, True)
        return self

    def __exit__(self, *error: object) -> None:
        # A request whose connection is gone has nothing left to unregister it from.
        if self._request.producer is self and self._request.channel is not None:
            self._request.unregisterProducer()

    async def write(self, data: bytes) -> None:
        """
        Write a piece; fires when the next may come.

        A reader that takes nothing loses its connection, and whoever writes is cancelled by that.
        """
        self._request.write(data)
        if not self._is_paused:
            return
        self._waiting = Deferred()
        channel: Any = self._request.channel
        stalled = self._clock.callLater(STALL, channel.forceAbortClient)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if stalled.active():
                stalled.cancel()

    async def break_off(self) -> None:
        """Close the connection in the middle of the answer, so that it is not taken for whole; never fires."""
        channel: Any = self._request.channel
        channel.forceAbortClient()
        # Cancelled when the connection is gone.
        await Deferred()

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """It has room again."""
        self._is_paused = False
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def stopProducing(self) -> None:
        """The connection is gone; whoever writes is cancelled by that."""
