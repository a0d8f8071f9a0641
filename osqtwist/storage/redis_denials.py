"""
Denials of certificates in Redis.

====================  =======  =====================================================================
``denials``           hash     by id, as JSON: some 300 bytes each, 10,000 at most
``denials:version``   string   another one after each change
====================  =======  =====================================================================
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.denial import Denial
from osqtwist.denialinterfaces import MOST_DENIALS, DenialList, IDenialStore
from osqtwist.interfaces import ListLost
from osqtwist.storage.redis_connection import RedisConnection, Script

# KEYS: denials, version.  ARGV: the new version, then what is told of beside each script.
_ADD = Script(
    """
    if redis.call('HEXISTS', KEYS[1], ARGV[2]) == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then
        return 0
    end
    redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
    redis.call('SET', KEYS[2], ARGV[1])
    return 1
    """
)
_REMOVE = Script(
    """
    local removed = redis.call('HDEL', KEYS[1], unpack(ARGV, 2))
    if removed > 0 then redis.call('SET', KEYS[2], ARGV[1]) end
    return removed
    """
)
_CHANGED = Script(
    """
    local version = redis.call('GET', KEYS[2]) or ''
    if version == ARGV[1] then return false end
    return {version, redis.call('HVALS', KEYS[1])}
    """
)
_BEGIN = Script(
    """
    if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
    for place = 2, #ARGV, 2 do redis.call('HSETNX', KEYS[1], ARGV[place], ARGV[place + 1]) end
    redis.call('SET', KEYS[2], ARGV[1])
    return 1
    """
)
_AT_ONCE = 1000

_decoder = msgspec.json.Decoder(Denial)


@implementer(IDenialStore)
@attrs.frozen
class RedisDenialStore:
    """See :class:`osqtwist.denialinterfaces.IDenialStore`."""

    _redis: RedisConnection
    _key: str

    async def add(self, denial: Denial) -> bool:
        """One script."""
        words = [secrets.token_hex(8), denial.denial_id, msgspec.json.encode(denial), MOST_DENIALS]
        return bool(await self._redis.run(_ADD, self._keys, words))

    async def remove(self, denial_ids: Sequence[str]) -> int:
        """One script for each thousand."""
        removed = 0
        for start in range(0, len(denial_ids), _AT_ONCE):
            words = [secrets.token_hex(8), *denial_ids[start : start + _AT_ONCE]]
            removed += int(await self._redis.run(_REMOVE, self._keys, words))
        return removed

    async def changed(self, version: str) -> DenialList | None:
        """One script."""
        found = await self._redis.run(_CHANGED, self._keys, [version])
        if found is None:
            return None
        if not found[0]:
            raise ListLost("the store does not know which certificates are denied: it lost its data")
        denials = [_decoder.decode(each) for each in found[1]]
        return DenialList(found[0].decode(), sorted(denials, key=lambda each: (each.created_at, each.denial_id)))

    async def begin(self, denials: Sequence[Denial]) -> bool:
        """One script."""
        fields = [word for each in denials for word in (each.denial_id, msgspec.json.encode(each))]
        return bool(await self._redis.run(_BEGIN, self._keys, [secrets.token_hex(8), *fields]))

    @property
    def _keys(self) -> list[str]:
        return [self._key, f"{self._key}:version"]
