"""
The delivery process: every sink of the settings, served on stores of its own.

``twistd osqtwist`` starts one as a child when its settings have sinks; ``--role delivery`` makes the whole twistd
process one, on this host or another.
"""

from __future__ import annotations

import hashlib
import socket
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, Any

import attrs
import msgspec
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, DeferredList, gatherResults, maybeDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from osqtwist.alerting import SINK as ALERTS
from osqtwist.alerting import AlertSink
from osqtwist.alertrule import read_rules
from osqtwist.childside import begin, read_instructions, run
from osqtwist.courier import Courier, DeliveryLimits
from osqtwist.delivery import SinkDelivery
from osqtwist.interfaces import IStores, StoreFull, StoreUnavailable
from osqtwist.pace import Pace
from osqtwist.routing import Route, RouteSettings
from osqtwist.settings import BadSetting, Settings
from osqtwist.sharedsink import SharedSink
from osqtwist.sinkinterfaces import BadSinkSetting, ILogSink
from osqtwist.sinksettings import SinkPlan, read_sinks
from osqtwist.statefolder import StateFolder, lock_slot
from osqtwist.steadytime import steady
from osqtwist.storage.redis_url import parse_redis_url
from osqtwist.storing import delivery_stores, server_stores
from osqtwist.tracing import traces_of

_READY_PAUSE = 2.0
# Alerts raise no alerts.
_NOT_ALERTS = Route(RouteSettings(when="not log_type:alert"))


@attrs.define(eq=False)
class _Stream:
    """What is delivered from one server."""

    reactor: Any
    stores: IStores
    deliveries: Sequence[SinkDelivery]
    _started: list[SinkDelivery] = attrs.field(factory=list, init=False)
    _log = Logger()

    async def start(self, known: Collection[str]) -> None:
        """
        Begin, as soon as the server answers.

        :param known: sinks that other servers know.  On a server that was added they get all there is, since nodes may
            have posted there before us; ``start = "next"`` is for new sinks.
        """
        while True:
            try:
                await self.stores.ready()
                for delivery in self.deliveries:
                    if delivery.courier.name in known:
                        await self.stores.sinks.ensure(delivery.courier.name, True)
                break
            except (StoreUnavailable, StoreFull) as problem:
                self._log.error("{problem}", problem=str(problem))
                await deferLater(self.reactor, _READY_PAUSE)
        for delivery in self.deliveries:
            delivery.startService()
            self._started.append(delivery)
        names = ", ".join(each.courier.name for each in self.deliveries)
        self._log.info(
            "delivers to {names} as {consumer}, from {server}",
            names=names,
            consumer=self.deliveries[0].consumer,
            server=self.stores.log_servers[0].name,
        )

    async def known_sinks(self) -> set[str]:
        """The sinks that have a cursor here; none if the server does not answer."""
        try:
            await self.stores.ready()
            return set(await self.stores.sinks.names())
        except (StoreUnavailable, StoreFull):
            return set()

    async def stop(self) -> None:
        """Stop all."""
        stopping = [each.stopService() for each in self._started]
        for stopped in stopping:
            await stopped
        for delivery in self.deliveries:
            # The sink may be another stream's too, and waits for all of them.
            if delivery not in self._started:
                await delivery.courier.close()
        await self.stores.close()


@attrs.define(eq=False)
class DeliveryService(Service):
    """
    All sinks of one delivery process, on each server that has log lines.

    :ivar slot: the file whose lock makes the consumer's name this process' own; closed at the end.
    :ivar services: run for as long as this does.
    """

    streams: Sequence[_Stream]
    slot: IO[str]
    services: Sequence[IService] = ()
    _starting: Deferred[None] | None = attrs.field(default=None, init=False)

    def startService(self) -> None:
        """Begin on each server, as soon as it answers."""
        super().startService()
        for service in self.services:
            service.startService()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(lambda failure: None)

    def stopService(self) -> Deferred[None]:
        """Stop all; fires when each sink is closed."""
        super().stopService()
        if self._starting is not None:
            self._starting.cancel()
        return Deferred.fromCoroutine(self._stop())

    async def _start(self) -> None:
        known: set[str] = set()
        if len(self.streams) > 1 and any(not each.from_start for each in self.streams[0].deliveries):
            asked = [Deferred.fromCoroutine(stream.known_sinks()) for stream in self.streams]
            known = known.union(*await gatherResults(asked, consumeErrors=True))
        starting = [Deferred.fromCoroutine(stream.start(known)) for stream in self.streams]
        await DeferredList(starting, consumeErrors=True)

    async def _stop(self) -> None:
        for stream in self.streams:
            await stream.stop()
        for service in self.services:
            await maybeDeferred(service.stopService)
        self.slot.close()


def delivery_service(reactor: Any, settings: Settings, redis_url: str) -> DeliveryService:
    """
    The delivery process' service.

    :raise BadSinkSetting: a sink's settings cannot be used.
    :raise BadSetting: traces are wanted, and their packages are not there.
    """
    plans = read_sinks(settings.sink)
    servers = delivery_stores(reactor, settings, parse_redis_url(redis_url))
    traces = traces_of(reactor, settings, "delivery")
    sinks = [(plan, _shared(traces.sink(plan.name, plan.make(reactor)), len(servers))) for plan in plans]
    state = StateFolder(Path(settings.state).absolute())
    slot, number = lock_slot(state.path, "delivery")
    where = hashlib.sha256(str(state.path).encode()).hexdigest()[:6]
    consumer = f"{socket.gethostname()}/{where}/{number}"

    def delivery(stores: IStores, plan: SinkPlan, sink: ILogSink) -> SinkDelivery:
        courier = Courier(reactor, plan.name, sink, plan.keys.limits(), Pace(reactor))
        from_start = plan.keys.start == "oldest"
        return SinkDelivery(reactor, stores, plan.keys.kind, courier, plan.route, consumer, from_start)

    rules = read_rules(settings.alert)
    alerts = _alert_sink(reactor, settings, redis_url, len(servers)) if rules else None

    def alerting(stores: IStores) -> list[SinkDelivery]:
        if alerts is None:
            return []
        courier = Courier(reactor, ALERTS, alerts, DeliveryLimits(), Pace(reactor))
        return [SinkDelivery(reactor, stores, ALERTS, courier, _NOT_ALERTS, consumer, from_start=False)]

    streams = [
        _Stream(reactor, stores, [*(delivery(stores, plan, sink) for plan, sink in sinks), *alerting(stores)])
        for stores in servers
    ]
    return DeliveryService(streams, slot, traces.services)


def _alert_sink(reactor: Any, settings: Settings, redis_url: str, users: int) -> ILogSink:
    stores = server_stores(reactor, settings, parse_redis_url(redis_url))
    return _shared(AlertSink(reactor, stores, read_rules(settings.alert)), users)


def _shared(sink: ILogSink, users: int) -> ILogSink:
    return SharedSink(sink, users) if users > 1 else sink


class Instructions(msgspec.Struct):
    """What a parent tells its delivery process."""

    settings: Settings
    redis_url: str


def child_words() -> list[str]:
    """How a delivery process is started as a child."""
    return [sys.executable, "-P", "-m", "osqtwist.delivering"]


def main() -> None:
    """Run as a child."""
    from twisted.internet import reactor  # noqa: PLC0415 - the one place where this process' reactor comes from

    begin()
    instructions = read_instructions(Instructions)
    loop = steady(reactor)
    try:
        service = delivery_service(loop, instructions.settings, instructions.redis_url)
    except (BadSetting, BadSinkSetting) as problem:
        Logger().error("{problem}", problem=str(problem))
        raise SystemExit(1) from None
    run(loop, service)


if __name__ == "__main__":
    main()
