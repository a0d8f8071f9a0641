"""A sink in memory, which keeps the contract of every sink, and fails when a test says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred
from zope.interface import implementer

from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import ILogSink, ISinkKind, Outcome, SinkUnavailable


@implementer(ILogSink)
@attrs.define(eq=False)
class MemorySink:
    """
    Keeps what it is given.

    :ivar script: what the next deliveries do, in order: an Outcome, an exception, or a Deferred to wait for; an
        Outcome with indices keeps the other events.
    """

    kept: list[LogEvent] = attrs.field(factory=list)
    script: list[Any] = attrs.field(factory=list)
    calls: list[list[str]] = attrs.field(factory=list)
    is_away: bool = False
    opened: int = 0
    closed: int = 0

    async def open(self) -> None:
        """See :class:`ILogSink`."""
        self.opened += 1
        if self.is_away:
            raise SinkUnavailable("away")

    async def deliver(self, events: Sequence[LogEvent]) -> Outcome:
        """See :class:`ILogSink`."""
        self.calls.append([event.event_id for event in events])
        if self.is_away:
            raise SinkUnavailable("away")
        step = self.script.pop(0) if self.script else Outcome()
        if callable(step):
            step = step(events)
        if isinstance(step, Deferred):
            step = await step
        if isinstance(step, Exception):
            raise step
        outcome: Outcome = step or Outcome()
        left = {each.index for each in outcome.refused} | set(outcome.again)
        self.kept += [event for index, event in enumerate(events) if index not in left]
        return outcome

    async def close(self) -> None:
        """See :class:`ILogSink`."""
        self.closed += 1


class MemorySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind needs settings."""

    shelf: str = "top"


@implementer(ISinkKind)
class MemoryKind:
    """Of the kind ``memory``."""

    kind = "memory"
    settings = MemorySettings

    def make(self, reactor: Any, name: str, settings: Any) -> MemorySink:
        """See :class:`ISinkKind`."""
        return MemorySink()
