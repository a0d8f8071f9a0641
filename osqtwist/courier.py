"""Bringing events to one sink until it has them or refuses them for good."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import CancelledError
from twisted.internet.task import deferLater
from twisted.logger import Logger

from osqtwist.logevent import LogEvent
from osqtwist.pace import Pace
from osqtwist.sinkinterfaces import ILogSink, Outcome, RefusedEvent, SinkUnavailable

_UNEXPECTED_TRIES = 3
_LONGEST_RETRY_AFTER = 600.0


@attrs.frozen
class DeliveryLimits:
    """
    How much goes to a sink at once, and how long to wait after a failure.

    :ivar lines: events in one delivery, at most.
    :ivar bytes: bytes taken from the buffer at once; one batch more may be on top.
    :ivar first_pause: seconds; the real pause is anything from 0 to the current one (full jitter), which doubles with
        each failure up to :attr:`longest_pause`.
    """

    lines: int = 1000
    bytes: int = 4 * 2**20
    first_pause: float = 0.5
    longest_pause: float = 60.0


@attrs.define(eq=False)
class Courier:
    """
    Calls a sink, one delivery at a time, and tries again for as long as it takes.

    :ivar state: ``running``, or ``waiting`` between two tries.
    """

    reactor: Any
    name: str
    sink: ILogSink
    limits: DeliveryLimits
    pace: Pace
    jitter: Callable[[], float] = random.random
    state: str = attrs.field(default="running", init=False)
    _is_open: bool = attrs.field(default=False, init=False)
    _failures: int = attrs.field(default=0, init=False)
    _log = Logger()

    async def bring(self, events: Sequence[LogEvent]) -> list[RefusedEvent]:
        """
        Fire when the sink has each event or refused it; answers with the refused ones.

        Cancelling gives up; which events the sink has is then unknown.
        """
        refused: list[RefusedEvent] = []
        for first in range(0, len(events), self.limits.lines):
            numbers = range(first, min(first + self.limits.lines, len(events)))
            refused += await self._bring_part(events, list(numbers))
        return refused

    async def close(self) -> None:
        """Close the sink."""
        await self.sink.close()

    async def _bring_part(self, events: Sequence[LogEvent], numbers: list[int]) -> list[RefusedEvent]:
        refused: list[RefusedEvent] = []
        unexpected = 0
        while numbers:
            part = [events[number] for number in numbers]
            try:
                outcome = await self._once(part)
            except SinkUnavailable as problem:
                await self._wait(str(problem), problem.retry_after)
                continue
            except CancelledError:
                raise
            except Exception as problem:
                # A fault of the sink itself: one event must not hold up the others for ever, so look for it.
                self._log.failure("sink {name} failed unexpectedly", name=self.name)
                unexpected += 1
                if unexpected < _UNEXPECTED_TRIES:
                    await self._wait(f"unexpected: {problem!r}", 0.0)
                    continue
                if len(numbers) > 1:
                    half = len(numbers) // 2
                    refused += await self._bring_part(events, numbers[:half])
                    return refused + await self._bring_part(events, numbers[half:])
                outcome = Outcome(refused=(RefusedEvent(0, f"the sink failed: {problem!r}"),))
            refused += [RefusedEvent(numbers[each.index], each.reason) for each in outcome.refused]
            numbers = await self._after(part, numbers, outcome)
        return refused

    async def _once(self, part: list[LogEvent]) -> Outcome:
        try:
            if not self._is_open:
                await self.sink.open()
                self._is_open = True
            outcome: Outcome = await self.sink.deliver(part)
        except BaseException:
            self._is_open = False
            raise
        return outcome

    async def _after(self, part: list[LogEvent], numbers: list[int], outcome: Outcome) -> list[int]:
        """Take note of an outcome; answers with what is to be tried again, after a pause."""
        left = {each.index for each in outcome.refused}.union(outcome.again)
        taken = [event for index, event in enumerate(part) if index not in left] if left else part
        self.pace.took(len(taken), sum(len(event.document) for event in taken))
        if taken or not outcome.again:
            self._failures = 0
        if not outcome.again:
            self.state = "running"
            return []
        await self._wait(outcome.trouble or "some lines were not taken", outcome.retry_after)
        return [numbers[index] for index in outcome.again]

    async def _wait(self, trouble: str, retry_after: float) -> None:
        """Pause with full jitter, but never for less than the destination asked for."""
        if not self._failures:
            self._log.warn("sink {name}: {trouble}; tried again until it works", name=self.name, trouble=trouble)
        self.pace.trouble(trouble)
        longest = min(self.limits.longest_pause, self.limits.first_pause * 2 ** min(self._failures, 20))
        self._failures += 1
        self.state = "waiting"
        await deferLater(self.reactor, max(longest * self.jitter(), min(retry_after, _LONGEST_RETRY_AFTER)))
