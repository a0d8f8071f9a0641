"""
The contract between delivery and log sinks.

Delivery reads the buffer, routes, retries with pauses, keeps dead letters and acknowledges; a sink only takes events
or says that it cannot.  A plug-in package adds a kind of sink with a module in ``twisted/plugins`` that has an object
providing :class:`ISinkKind`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from zope.interface import Attribute, Interface

from osqtwist.logevent import LogEvent


class SinkUnavailable(Exception):
    """
    The destination takes nothing now; as far as is known it has none of the events.  All of them are tried again.

    :ivar retry_after: seconds that the destination asked to be left alone, 0 if it did not.
    """

    def __init__(self, text: str, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class BadSinkSetting(ValueError):
    """A sink's settings cannot be used; one sentence that names the key."""


@attrs.frozen
class RefusedEvent:
    """An event that the destination will never take, by its index, and why."""

    index: int
    reason: str


@attrs.frozen
class Outcome:
    """
    What became of a delivery; what is in neither list was taken, durably as far as the destination can say.

    :ivar refused: events that will never be taken; delivery makes dead letters of them.
    :ivar again: indices of events to try again.
    :ivar retry_after: seconds that the destination asked to be left alone before :attr:`again`, 0 if it did not.
    :ivar trouble: why something is to be tried again, for the operator.
    """

    refused: tuple[RefusedEvent, ...] = ()
    again: tuple[int, ...] = ()
    retry_after: float = 0.0
    trouble: str = ""


class ILogSink(Interface):
    """
    Where log lines go.

    Delivery calls one method at a time, :meth:`open` first.  A sink mends its own connections: after a failure the
    next :meth:`deliver` simply tries again.
    """

    async def open() -> None:
        """
        Get ready.  Called again after a failure.

        :raise SinkUnavailable: not now; delivery tries again later.
        """

    async def deliver(events: Sequence[LogEvent]) -> Outcome:
        """
        Fire when the destination has the events, or has said what it makes of each.

        Never empty.  The same events may come again after a failure, a cancellation or a crash.  Bounded in time
        by the sink itself, 30 s unless its settings say otherwise.  Cancelling gives up; whether the destination
        has the events is then unknown.

        :raise SinkUnavailable: none was taken, as far as is known.
        """

    async def close() -> None:
        """Let go of everything; called once at the end, whether or not :meth:`open` succeeded."""


class ISinkKind(Interface):
    """A kind of sink that a settings file can name; plug-ins provide it together with ``twisted.plugin.IPlugin``."""

    kind = Attribute("the word after ``kind =`` in a sink's settings block")
    settings = Attribute("a msgspec.Struct class, keyword-only and with defaults, for the keys of the block")

    def make(reactor: Any, name: str, settings: Any) -> ILogSink:
        """
        A sink with these settings; does nothing yet.

        :param name: what the settings file calls it, for messages.
        :raise BadSinkSetting: they cannot work together.
        """
