"""Signals through Redis' publication, on a connection of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import txredisapi
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from osqtwist.interfaces import ISignals, StoreFull, StoreUnavailable
from osqtwist.storage.redis_connection import RedisConnection

PROBE_INTERVAL = 5.0
"""Seconds between two looks whether the connection still lives; a silent one gives no other sign."""


@implementer(ISignals)
@attrs.define(eq=False)
class RedisSignals:
    """
    See :class:`osqtwist.interfaces.ISignals`.

    :ivar commands: the connection that publishes.
    :ivar listener: the connection that listens; set by :meth:`listen`.
    """

    clock: IReactorTime
    commands: RedisConnection
    prefix: str
    listener: RedisConnection = attrs.field(init=False)
    _subscribers: dict[str, list[Callable[[str], None]]] = attrs.field(factory=dict, init=False)
    _probe: LoopingCall | None = attrs.field(default=None, init=False)
    _has_connected: bool = attrs.field(default=False, init=False)
    _log = Logger()

    def listen(self, listener: RedisConnection) -> None:
        """Begin to listen over a connection made with :meth:`protocol`."""
        self.listener = listener
        listener.on_connect = self._connected
        listener.open()
        self._probe = LoopingCall(lambda: Deferred.fromCoroutine(self._look_alive()))
        self._probe.clock = self.clock
        self._probe.start(PROBE_INTERVAL, now=False)

    def close(self) -> None:
        """Stop listening."""
        if self._probe and self._probe.running:
            self._probe.stop()
        self.listener.close()

    def protocol(self, **settings: Any) -> Any:
        """A protocol that hands what it hears to this object."""
        protocol = txredisapi.SubscriberProtocol(**settings)
        protocol.messageReceived = lambda pattern, channel, message: self._heard(channel, message)
        return protocol

    def channel(self, topic: str) -> str:
        """The name of a topic's channel."""
        return f"{self.prefix}signal:{topic}"

    async def publish(self, topic: str, payload: str = "") -> None:
        """One command."""
        await self.commands.execute("PUBLISH", self.channel(topic), payload)

    def subscribe(self, topic: str, look: Callable[[str], None]) -> Callable[[], None]:
        """See :class:`osqtwist.interfaces.ISignals`."""
        looks = self._subscribers.setdefault(topic, [])
        looks.append(look)
        if len(looks) == 1:
            self._tell("SUBSCRIBE", topic)

        def forget() -> None:
            if look in looks:
                looks.remove(look)
                if not looks:
                    self._subscribers.pop(topic, None)
                    self._tell("UNSUBSCRIBE", topic)

        return forget

    def _tell(self, word: str, topic: str) -> None:
        Deferred.fromCoroutine(self._ask(word, topic))

    async def _ask(self, word: str, topic: str) -> None:
        try:
            await self.listener.execute(word, self.channel(topic))
        except StoreUnavailable:
            return  # All topics are asked for again once there is a connection.
        except Exception:
            self._log.failure("signals: {word} {topic}", word=word, topic=topic)

    def _connected(self) -> None:
        topics = list(self._subscribers)
        for topic in topics:
            self._tell("SUBSCRIBE", topic)
        if self._has_connected:
            for topic in topics:
                self._hand_out(topic, "")
        self._has_connected = True

    def _heard(self, channel: bytes, message: bytes) -> None:
        topic = channel.decode().removeprefix(self.channel(""))
        self._hand_out(topic, message.decode("utf-8", "replace"))

    def _hand_out(self, topic: str, payload: str) -> None:
        for look in list(self._subscribers.get(topic, ())):
            try:
                look(payload)
            except Exception:
                self._log.failure("signals: a subscriber of {topic} failed", topic=topic)

    async def _look_alive(self) -> None:
        try:
            await self.listener.execute("PING")
        except (StoreUnavailable, StoreFull):
            return  # In the first case the connection drops itself and comes back.
