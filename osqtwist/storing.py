"""Which stores a process has: all on one Redis server, or the log buffer on others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from twisted.logger import Logger

from osqtwist.interfaces import IStores, StoreUnavailable
from osqtwist.loginterfaces import Budgets
from osqtwist.metrics import StoreMetrics
from osqtwist.settings import BadSetting, Settings
from osqtwist.storage.redis import RedisStores
from osqtwist.storage.redis_durability import NotDurable
from osqtwist.storage.redis_url import BadRedisURL, RedisPlace, check_redis, parse_redis_url
from osqtwist.storage.sharded import Shard, ShardedStores

_DRAIN = "drain:"

_log = Logger()


class LogServer(msgspec.Struct, frozen=True):
    """One value of ``--log-redis``."""

    place: Any
    is_draining: bool

    @property
    def called(self) -> str:
        """What messages call it."""
        return f"log server {self.place.name}"


def log_servers(settings: Settings) -> list[LogServer]:
    """
    The servers of the log buffer; none if it is on ``--redis``.

    :raise BadRedisURL: one cannot be understood.
    :raise BadSetting: one is there twice, or none takes lines.
    """
    found = []
    for text in settings.log_redis:
        try:
            place = parse_redis_url(text.removeprefix(_DRAIN))
        except BadRedisURL as problem:
            raise BadRedisURL(str(problem).replace("--redis", "--log-redis")) from None
        found.append(LogServer(place, text.startswith(_DRAIN)))
    names = [server.place.name for server in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadSetting(f"--log-redis {twice[0]} is there twice")
    if found and all(server.is_draining for server in found):
        raise BadSetting("--log-redis: every server is marked drain:, so none takes lines")
    return found


def look_at_log_servers(settings: Settings) -> None:
    """
    Look at each before anything else starts; one that is away is warned of, since nodes of the others can be served.

    :raise NotDurable: one that takes lines cannot promise what ``--durability`` says.
    """
    for server in log_servers(settings):
        level = "append" if server.is_draining or settings.role == "delivery" else settings.durability
        try:
            for warning in check_redis(server.place, level):
                _log.warn("{called}: {warning}", called=server.called, warning=warning)
        except StoreUnavailable as problem:
            _log.error("{problem}", problem=str(problem).replace("--redis", "--log-redis"))
        except NotDurable as problem:
            raise NotDurable(f"--log-redis {server.place.name}: {problem}") from None


def server_stores(reactor: Any, settings: Settings, place: RedisPlace, metrics: StoreMetrics | None = None) -> IStores:
    """The stores of a process that serves nodes or operators."""
    servers = log_servers(settings)
    if not servers:
        return RedisStores(
            reactor, place, settings.redis_prefix, settings.budgets, settings.durability, metrics=metrics
        )
    main = RedisStores(reactor, place, settings.redis_prefix, settings.budgets, metrics=metrics)
    shards = [
        Shard(
            server.place.name,
            RedisStores(
                reactor,
                server.place,
                settings.redis_prefix,
                _share(settings),
                settings.durability,
                called=server.called,
                metrics=metrics,
            ),
            server.is_draining,
        )
        for server in servers
    ]
    if place.name not in {shard.name for shard in shards}:
        # It may hold lines from before there were others.
        shards.append(Shard(place.name, main, is_draining=True))
    return ShardedStores(main, shards)


def delivery_stores(reactor: Any, settings: Settings, place: RedisPlace) -> Sequence[RedisStores]:
    """The stores of each server that lines are delivered from."""
    servers = {server.place.name: server for server in log_servers(settings)}
    budgets = _share(settings) if servers else settings.budgets
    found = [
        RedisStores(reactor, server.place, settings.redis_prefix, budgets, called=server.called)
        for server in servers.values()
    ]
    if place.name not in servers:
        found.append(RedisStores(reactor, place, settings.redis_prefix, budgets))
    return found


def _share(settings: Settings) -> Budgets:
    """What each server may hold: the same part of the whole."""
    taking = sum(not server.is_draining for server in log_servers(settings))
    whole = settings.budgets
    return Budgets(whole.live // taking, whole.low_mark, whole.dead // taking, whole.duplicate_window)
