"""
Saved queries in Redis.

==================  =======  =========================================================================
``savedqueries``    hash     by name, as JSON: up to 130 kB each, 1,000 at most
==================  =======  =========================================================================
"""

from __future__ import annotations

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.savedquery import SavedQuery
from osqtwist.savedqueryinterfaces import MOST_SAVED, ISavedQueryStore, Kept
from osqtwist.storage.redis_connection import RedisConnection, Script

# KEYS: the hash.  ARGV: name, JSON, whether it may replace one, how many there may be.
_KEEP = Script(
    """
    if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
        if ARGV[3] == '0' then return 'taken' end
    elseif redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then
        return 'full'
    end
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
    return 'kept'
    """
)

_decoder = msgspec.json.Decoder(SavedQuery)


@implementer(ISavedQueryStore)
@attrs.frozen
class RedisSavedQueryStore:
    """See :class:`osqtwist.savedqueryinterfaces.ISavedQueryStore`."""

    _redis: RedisConnection
    _key: str

    async def keep(self, saved: SavedQuery, replace: bool) -> Kept:
        """One script."""
        words = [saved.name, msgspec.json.encode(saved), int(replace), MOST_SAVED]
        return Kept((await self._redis.run(_KEEP, [self._key], words)).decode())

    async def get(self, name: str) -> SavedQuery | None:
        """One command."""
        found = await self._redis.execute("HGET", self._key, name)
        return _decoder.decode(found) if found else None

    async def all(self) -> list[SavedQuery]:
        """One command."""
        found = [_decoder.decode(each) for each in await self._redis.execute("HVALS", self._key)]
        return sorted(found, key=lambda saved: saved.name)

    async def forget(self, name: str) -> bool:
        """One command."""
        return bool(await self._redis.execute("HDEL", self._key, name))
