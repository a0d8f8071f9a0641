"""
Delivery: batches from the log buffer to one sink, at least once.

A batch is taken from the sink's cursor, becomes events, goes to the sink, and is settled only after the sink has every
line of it or has said that it never will; the lines it refused are dead letters by then.  What was taken and not
settled when a process dies is found again: by the same consumer at once, by another after :data:`CLAIM_IDLE`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs
import msgspec
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from osqtwist.courier import Courier
from osqtwist.interfaces import IStores, StoreFull, StoreUnavailable
from osqtwist.logbatch import DeadLine, LogBatch
from osqtwist.logevent import LogEvent
from osqtwist.loginterfaces import NoSuchSink, SinkReport, StoredBatch
from osqtwist.lookagain import LookAgain
from osqtwist.routing import Route

CLAIM_IDLE = 60.0
"""Seconds after which batches of a consumer that shows no life are taken over."""
KEEP_ALIVE = 15.0
REPORT_INTERVAL = 5.0
_CLAIM_INTERVAL = 20.0
_LOOK = 2.0
_STORE_PAUSE = 1.0
_UNEXPECTED_PAUSE = 15.0
_HEED_INTERVAL = 5.0
_MAX_BATCHES = 500
# Those of before a crash come without regard to their size.
_MAX_LEFT_OVERS = 32


@attrs.define(eq=False)
class SinkDelivery(Service):
    """
    Serves one sink as one consumer.

    :ivar kind: the sink's kind, for reports.
    :ivar consumer: the name of this process among those that serve the sink; the same after a restart.
    :ivar from_start: whether a sink that is new gets what is in the buffer already.
    """

    reactor: Any
    stores: IStores
    kind: str
    courier: Courier
    route: Route
    consumer: str
    from_start: bool = True
    _look: LookAgain = attrs.field(init=False)
    _is_paused: bool = attrs.field(default=False, init=False)
    _has_left_overs: bool = attrs.field(default=True, init=False)
    _under_way: list[str] = attrs.field(factory=list, init=False)
    _is_told: bool = attrs.field(default=True, init=False)
    _heeded_at: float = attrs.field(default=0.0, init=False)
    _claimed_at: float = attrs.field(default=0.0, init=False)
    _running: Deferred[None] | None = attrs.field(default=None, init=False)
    _loops: list[LoopingCall] = attrs.field(factory=list, init=False)
    _forget: list[Callable[[], None]] = attrs.field(factory=list, init=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._look = LookAgain(self.reactor)

    def startService(self) -> None:
        """Begin to deliver."""
        super().startService()
        subscribe = self.stores.signals.subscribe
        self._forget = [subscribe("logs", self._look.wake), subscribe("sinks", self._told)]
        self._repeat(KEEP_ALIVE, self._keep_alive)
        self._repeat(REPORT_INTERVAL, self.report)
        self._running = Deferred.fromCoroutine(self._run())

    def stopService(self) -> Deferred[None]:
        """Stop; what is under way is given up, and comes again after the next start."""
        super().stopService()
        for forget in self._forget:
            forget()
        for loop in self._loops:
            loop.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await self._running
        await self.courier.close()

    def _told(self, sink: str) -> None:
        if sink in ("", self.courier.name):
            self._is_told = True
            self._look.wake()

    def _repeat(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        async def quietly() -> None:
            try:
                await work()
            except (StoreUnavailable, StoreFull, NoSuchSink):
                return

        loop = LoopingCall(lambda: Deferred.fromCoroutine(quietly()))
        loop.clock = self.reactor
        loop.start(seconds, now=False)
        self._loops.append(loop)

    async def _run(self) -> None:
        """Deliver until cancelled; nothing else ends it."""
        try:
            while True:
                await deferLater(self.reactor, await self._turn())
        except CancelledError:
            return

    async def _turn(self) -> float:
        """Work until something goes wrong; answers with how long to wait then."""
        name = self.courier.name
        try:
            await self.stores.sinks.ensure(name, self.from_start)
            while True:
                await self._heed_operators()
                batches = [] if self._is_paused else await self._next()
                if batches:
                    await self._deliver(batches)
                else:
                    await self._look.wait(_LOOK)
        except NoSuchSink:
            # An operator had it forgotten while it is still served: it begins anew.
            return _STORE_PAUSE
        except (StoreUnavailable, StoreFull) as problem:
            self.courier.pace.trouble(f"the store: {problem}")
            return _STORE_PAUSE
        except CancelledError:
            raise
        except Exception as problem:
            self._log.failure("delivery to {name} failed unexpectedly", name=name)
            self.courier.pace.trouble(f"unexpected: {problem!r}")
            return _UNEXPECTED_PAUSE
        finally:
            # What is not settled is taken up again first.
            self._has_left_overs = True

    async def _heed_operators(self) -> None:
        """See, from time to time and when told, whether the sink is paused or its dead letters are asked for."""
        now = self.reactor.seconds()
        if not self._is_told and now - self._heeded_at < _HEED_INTERVAL:
            return
        self._is_told, self._heeded_at = False, now
        sinks, name = self.stores.sinks, self.courier.name
        self._is_paused = name in await sinks.paused()
        if not self._is_paused and await sinks.was_asked_again(name):
            await self._deliver_dead_letters()

    async def _deliver_dead_letters(self) -> None:
        """Bring what the sink refused to it again; what it refuses again is a dead letter again."""
        sinks, name = self.stores.sinks, self.courier.name
        last = ""
        # Only those that are there now: what is refused again comes behind them.
        count = (await sinks.lag([name]))[name].dead_letters
        while count > 0 and (page := await sinks.dead_letters(name, last, min(count, _MAX_LEFT_OVERS))):
            count -= len(page)
            last = page[-1].batch_id
            for letter in page:
                events = [event_of(letter.batch, dead) for dead in letter.batch.dead]
                refused = await self.courier.bring(events)
                again = [DeadLine(letter.batch.dead[each.index].line, each.reason) for each in refused]
                await sinks.settle(name, (), [_letter(letter.batch, again)] if again else ())
                await sinks.forget_dead_letters(name, [letter.batch_id])

    async def _next(self) -> list[StoredBatch]:
        """The next batches: those not settled before, those that another consumer left, new ones."""
        sinks, name = self.stores.sinks, self.courier.name
        if self._has_left_overs:
            if mine := await sinks.taken(name, self.consumer, _MAX_LEFT_OVERS):
                return list(mine)
            self._has_left_overs = False
        now = self.reactor.seconds()
        if now - self._claimed_at >= _CLAIM_INTERVAL:
            if theirs := await sinks.claim(name, self.consumer, CLAIM_IDLE, _MAX_LEFT_OVERS):
                return list(theirs)
            self._claimed_at = now
        return list(await sinks.take(name, self.consumer, _MAX_BATCHES, self.courier.limits.bytes))

    async def _deliver(self, batches: Sequence[StoredBatch]) -> None:
        """Bring batches to the sink, however long it takes, and settle them."""
        pace = self.courier.pace
        self._under_way = [each.batch_id for each in batches]
        try:
            events: list[LogEvent] = []
            sources: list[int] = []
            dead: dict[int, list[DeadLine]] = {}
            for source, stored in enumerate(batches):
                found, unusable = self.route.events(stored.batch)
                events += found
                sources += [source] * len(found)
                pace.left_out += stored.batch.count - len(found) - len(unusable)
                for index, reason in unusable:
                    dead.setdefault(source, []).append(DeadLine(f"line {index}".encode(), reason))
            for refused in await self.courier.bring(events):
                letter = DeadLine(events[refused.index].document, refused.reason)
                dead.setdefault(sources[refused.index], []).append(letter)
            pace.refused += sum(len(lines) for lines in dead.values())
            await self._settle([_letter(batches[source].batch, lines) for source, lines in sorted(dead.items())])
            pace.batches += len(batches)
        finally:
            self._under_way = []

    async def _settle(self, dead: Sequence[LogBatch]) -> None:
        """Settle, however often it takes: the sink has the lines, and they should not go there again."""
        while True:
            try:
                await self.stores.sinks.settle(self.courier.name, self._under_way, dead)
                return
            except (StoreUnavailable, StoreFull) as problem:
                self.courier.pace.trouble(f"the store: {problem}")
                await deferLater(self.reactor, _STORE_PAUSE)

    async def _keep_alive(self) -> None:
        await self.stores.sinks.keep_alive(self.courier.name, self.consumer, self._under_way)

    async def report(self) -> None:
        """Say how it goes."""
        pace = self.courier.pace
        await self.stores.sinks.report(
            SinkReport(
                sink=self.courier.name,
                kind=self.kind,
                consumer=self.consumer,
                state="paused" if self._is_paused else self.courier.state,
                at=self.reactor.seconds(),
                since=pace.since,
                lines=pace.lines,
                bytes=pace.bytes,
                batches=pace.batches,
                rate=round(pace.rate(), 2),
                left_out=pace.left_out,
                refused=pace.refused,
                failures=pace.failures,
                trouble=pace.last_trouble,
                trouble_at=pace.trouble_at,
            )
        )


def event_of(batch: LogBatch, dead: DeadLine) -> LogEvent:
    """A dead line as the event that it was."""
    try:
        found = _event_ids.decode(dead.line).osqtwist.event_id
    except msgspec.MsgspecError:
        found = hashlib.sha256(dead.line).hexdigest()[:32]
    return LogEvent(found, batch.node_id, batch.node_name, batch.log_type, batch.received_at, dead.line)


class _Facts(msgspec.Struct):
    event_id: str


class _Document(msgspec.Struct):
    osqtwist: _Facts


_event_ids = msgspec.json.Decoder(_Document)


def _letter(batch: LogBatch, lines: Sequence[DeadLine]) -> LogBatch:
    """The dead letter of a batch: its facts and the refused lines."""
    return msgspec.structs.replace(batch, data=b"[]", count=0, dead=tuple(lines))
