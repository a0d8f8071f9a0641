"""All stores in Redis or Valkey: a connection for commands, one for signals, one for appends that wait."""

from __future__ import annotations

import contextlib
from typing import Any

import txredisapi
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

from osqtwist.interfaces import IStores, StoreFull, StoreUnavailable
from osqtwist.loginterfaces import Budgets, LogServer
from osqtwist.metrics import StoreMetrics
from osqtwist.storage.redis_alerts import RedisAlertStore
from osqtwist.storage.redis_audit import RedisAuditStore
from osqtwist.storage.redis_carves import RedisCarveStore
from osqtwist.storage.redis_clones import RedisCloneStore
from osqtwist.storage.redis_connection import Login, NextEndpoint, RedisConnection
from osqtwist.storage.redis_denials import RedisDenialStore
from osqtwist.storage.redis_durability import Durability, waiting_command
from osqtwist.storage.redis_enrollment import RedisPendingStore, RedisSecretStore
from osqtwist.storage.redis_history import RedisHistoryStore
from osqtwist.storage.redis_loads import RedisLoadStore
from osqtwist.storage.redis_logs import RedisLogBuffer
from osqtwist.storage.redis_nodes import RedisNodeStore
from osqtwist.storage.redis_operators import RedisOperatorStore
from osqtwist.storage.redis_queries import RedisQueryStore
from osqtwist.storage.redis_rollouts import RedisRolloutStore
from osqtwist.storage.redis_savedqueries import RedisSavedQueryStore
from osqtwist.storage.redis_signals import RedisSignals
from osqtwist.storage.redis_sinks import RedisSinkQueues
from osqtwist.storage.redis_url import RedisPlace, endpoint_to

READY_WITHIN = 10.0


@implementer(IStores)
class RedisStores:
    """
    See :class:`osqtwist.interfaces.IStores`.

    Nothing connects before :meth:`ready` is called.

    :param ready_within: seconds that :meth:`ready` waits for a connection.
    :param durability: see :mod:`osqtwist.storage.redis_durability`.
    :param prefix: begins every key and channel, so that several servers can share one Redis.
    :param called: what messages and metrics call the server.
    :param metrics: where it is counted how its connections do.
    """

    def __init__(
        self,
        reactor: Any,
        place: RedisPlace,
        prefix: str = "osqtwist:",
        budgets: Budgets = Budgets(),
        durability: str = "append",
        ready_within: float = READY_WITHIN,
        called: str = "the store",
        metrics: StoreMetrics | None = None,
    ) -> None:
        where = FindServer(reactor, place)

        def connection(**more: Any) -> RedisConnection:
            may_move = place.kind == "sentinel"
            return RedisConnection(
                reactor, where, place.login, called=called, metrics=metrics, may_move=may_move, **more
            )

        self._redis = connection()
        self._connections = [self._redis]
        appends = self._redis
        if waiting_command(durability):
            appends = connection(log_trouble=False)
            self._connections.append(appends)
        self.signals = RedisSignals(reactor, self._redis, prefix)
        self._listener = connection(protocol=self.signals.protocol)
        # It subscribes to everything at once, and nobody would do it again.
        self._listener.circuit.on_trial = self._listener.circuit.most
        self.signals.listener = self._listener
        self.nodes = RedisNodeStore(self._redis, prefix)
        self.queries = RedisQueryStore(self._redis, prefix, self.signals.channel("results"))
        self.logs = RedisLogBuffer(
            self._redis, prefix, self.signals.channel("logs"), budgets, Durability(appends, durability)
        )
        self.sinks = RedisSinkQueues(self._redis, prefix, self.signals.channel("sinks"), budgets.dead)
        self.carves = RedisCarveStore(self._redis, prefix)
        self.clones = RedisCloneStore(self._redis, f"{prefix}clones")
        self.denials = RedisDenialStore(self._redis, f"{prefix}denials")
        self.audit = RedisAuditStore(self._redis, f"{prefix}audit")
        self.rollouts = RedisRolloutStore(self._redis, prefix)
        self.secrets = RedisSecretStore(self._redis, prefix)
        self.pending = RedisPendingStore(self._redis, prefix)
        self.saved_queries = RedisSavedQueryStore(self._redis, f"{prefix}savedqueries")
        self.operators = RedisOperatorStore(self._redis, prefix)
        self.alerts = RedisAlertStore(self._redis, prefix)
        self.history = RedisHistoryStore(self._redis, prefix)
        self.loads = RedisLoadStore(self._redis, f"{prefix}loads")
        self._name = place.name
        self._is_open = False
        self._ready_within = ready_within

    @property
    def log_servers(self) -> list[LogServer]:
        """See :class:`osqtwist.interfaces.IStores`."""
        return [LogServer(self._name, self.logs, self.sinks)]

    async def ready(self) -> None:
        """See :class:`osqtwist.interfaces.IStores`."""
        if not self._is_open:
            self._is_open = True
            for connection in self._connections:
                connection.open()
            self.signals.listen(self._listener)
        for connection in self._connections:
            await connection.connected(self._ready_within)
        await self._listener.connected(self._ready_within)

    async def ping(self) -> None:
        """See :class:`osqtwist.interfaces.IStores`."""
        # A server that cannot write to its disk says so even to a PING: it answers.
        with contextlib.suppress(StoreFull):
            await self._redis.execute("PING")

    async def close(self) -> None:
        """See :class:`osqtwist.interfaces.IStores`."""
        if self._is_open:
            self._is_open = False
            self.signals.close()
            for connection in self._connections:
                connection.close()


class FindServer:
    """Finds the server: where the URL says, or where the sentinels say that the master is."""

    def __init__(self, reactor: Any, place: RedisPlace) -> None:
        self._reactor = reactor
        self._place = place

    async def __call__(self) -> IStreamClientEndpoint:
        place = self._place
        if place.kind != "sentinel":
            return endpoint_to(self._reactor, place)
        trouble = "no sentinel answers"
        for host, port in place.hosts:
            where = _fixed(endpoint_to(self._reactor, place, host, port))
            sentinel = RedisConnection(self._reactor, where, Login(), log_trouble=False)
            sentinel.open()
            try:
                await sentinel.connected(2.0)
                found = await sentinel.execute("SENTINEL", "get-master-addr-by-name", place.master)
            except (StoreUnavailable, txredisapi.ResponseError) as problem:
                trouble = str(problem)
            else:
                if found:
                    return endpoint_to(self._reactor, place, found[0].decode(), int(found[1]))
                trouble = f"the sentinels know no master {place.master!r}"
            finally:
                sentinel.close()
        raise StoreUnavailable(trouble)


def _fixed(endpoint: IStreamClientEndpoint) -> NextEndpoint:
    async def always() -> IStreamClientEndpoint:
        return endpoint

    return always
