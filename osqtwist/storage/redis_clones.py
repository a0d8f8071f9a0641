"""
Clones in Redis.

==========  =====  ======================================================
``clones``  hash   the clone's id to what is known of it: 300 bytes each
==========  =====  ======================================================
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.clone import Clone
from osqtwist.interfaces import MOST_CLONES, ICloneStore
from osqtwist.storage.redis_connection import RedisConnection, Script

_KEEP = Script(
    """
    local old = redis.call('HGET', KEYS[1], ARGV[1])
    if not old and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then return 0 end
    local was_found = old and (cjson.decode(old).found_at or 0) > 0
    local is_found = ARGV[3] == '1'
    if is_found or not was_found then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
    return (is_found and not was_found) and 1 or 0
    """
)

_decoder = msgspec.json.Decoder(Clone)


@implementer(ICloneStore)
@attrs.frozen
class RedisCloneStore:
    """See :class:`osqtwist.interfaces.ICloneStore`."""

    _redis: RedisConnection
    _key: str

    async def keep(self, clone: Clone) -> bool:
        """One script call."""
        words = [clone.clone_id, msgspec.json.encode(clone), int(clone.found_at > 0), MOST_CLONES]
        return bool(await self._redis.run(_KEEP, [self._key], words))

    async def all(self) -> list[Clone]:
        """One command."""
        return [_decoder.decode(each) for each in await self._redis.execute("HVALS", self._key)]

    async def drop(self, clone_ids: Sequence[str]) -> None:
        """One command."""
        if clone_ids:
            await self._redis.execute("HDEL", self._key, *clone_ids)
