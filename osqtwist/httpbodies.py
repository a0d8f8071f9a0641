"""Bodies of HTTP requests and answers that are in memory as a whole."""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer


@implementer(IBodyProducer)
@attrs.frozen
class WholeBody:
    """
    A body that is written at once; it is in memory anyway.

    Twisted's client loses sight of a failure if a request is cancelled while its body is being written.
    """

    _body: bytes

    @property
    def length(self) -> int:
        """In bytes."""
        return len(self._body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Write it."""
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Nothing is left to pause."""

    def resumeProducing(self) -> None:
        """Nor to resume."""

    def stopProducing(self) -> None:
        """Nor to stop."""


@attrs.define(eq=False)
class BoundedBody(Protocol):
    """
    Collects an answer's body, within reason.

    :ivar done: fires with the body, or fails; with :class:`ValueError` if it has more than :attr:`most` bytes.
    """

    done: Deferred[bytes]
    most: int
    _pieces: list[bytes] = attrs.field(factory=list)
    _size: int = 0

    def dataReceived(self, data: bytes) -> None:
        """Keep some of it; past the limit the connection is closed."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size > self.most and self.transport is not None:
            self._pieces.clear()
            self.transport.loseConnection()

    def give_up(self) -> None:
        """Want no more of it."""
        if self.transport is not None:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """That was all."""
        if self.done.called:
            return
        if self._size > self.most:
            self.done.errback(ValueError(f"the answer has more than {self.most} bytes"))
        elif reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(b"".join(self._pieces))
        else:
            self.done.errback(reason)
