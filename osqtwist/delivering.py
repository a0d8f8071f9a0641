"""
The delivery process: every sink of the settings, served on stores of its own.

``twistd osqtwist`` starts one as a child when its settings have sinks; ``--role delivery`` makes the whole twistd
process one, on this host or another.
"""

from __future__ import annotations

import hashlib
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import attrs
import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from osqtwist.childside import begin, read_instructions, run
from osqtwist.courier import Courier
from osqtwist.delivery import SinkDelivery
from osqtwist.interfaces import IStores, StoreFull, StoreUnavailable
from osqtwist.pace import Pace
from osqtwist.settings import Settings
from osqtwist.sinkinterfaces import BadSinkSetting
from osqtwist.sinksettings import SinkPlan, read_sinks
from osqtwist.statefolder import StateFolder, lock_slot
from osqtwist.storage.redis import RedisStores
from osqtwist.storage.redis_url import parse_redis_url

_READY_PAUSE = 2.0


@attrs.define(eq=False)
class DeliveryService(Service):
    """
    All sinks of one delivery process.

    :ivar slot: the file whose lock makes the consumer's name this process' own; closed at the end.
    """

    reactor: Any
    stores: IStores
    deliveries: Sequence[SinkDelivery]
    slot: IO[str]
    _started: list[SinkDelivery] = attrs.field(factory=list, init=False)
    _starting: Deferred[None] | None = attrs.field(default=None, init=False)
    _log = Logger()

    def startService(self) -> None:
        """Begin, as soon as the store answers."""
        super().startService()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(lambda failure: None)

    def stopService(self) -> Deferred[None]:
        """Stop all; fires when each sink is closed."""
        super().stopService()
        if self._starting is not None:
            self._starting.cancel()
        return Deferred.fromCoroutine(self._stop())

    async def _start(self) -> None:
        while True:
            try:
                await self.stores.ready()
                break
            except (StoreUnavailable, StoreFull) as problem:
                self._log.error("{problem}", problem=str(problem))
                await deferLater(self.reactor, _READY_PAUSE)
        for delivery in self.deliveries:
            delivery.startService()
            self._started.append(delivery)
        names = ", ".join(each.courier.name for each in self.deliveries)
        self._log.info("delivers to {names} as {consumer}", names=names, consumer=self.deliveries[0].consumer)

    async def _stop(self) -> None:
        stopping = [each.stopService() for each in self._started]
        for each in stopping:
            await each
        await self.stores.close()
        self.slot.close()


def delivery_service(reactor: Any, settings: Settings, redis_url: str) -> DeliveryService:
    """
    The delivery process' service.

    :raise BadSinkSetting: a sink's settings cannot be used.
    """
    plans = read_sinks(settings.sink)
    sinks = [(plan, plan.make(reactor)) for plan in plans]
    state = StateFolder(Path(settings.state).absolute())
    slot, number = lock_slot(state.path, "delivery")
    where = hashlib.sha256(str(state.path).encode()).hexdigest()[:6]
    consumer = f"{socket.gethostname()}/{where}/{number}"
    stores = RedisStores(reactor, parse_redis_url(redis_url), settings.redis_prefix, settings.budgets)

    def delivery(plan: SinkPlan, sink: Any) -> SinkDelivery:
        courier = Courier(reactor, plan.name, sink, plan.keys.limits(), Pace(reactor))
        from_start = plan.keys.start == "oldest"
        return SinkDelivery(reactor, stores, plan.keys.kind, courier, plan.route, consumer, from_start)

    return DeliveryService(reactor, stores, [delivery(plan, sink) for plan, sink in sinks], slot)


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
    try:
        service = delivery_service(reactor, instructions.settings, instructions.redis_url)
    except BadSinkSetting as problem:
        Logger().error("{problem}", problem=str(problem))
        raise SystemExit(1) from None
    run(reactor, service)


if __name__ == "__main__":
    main()
