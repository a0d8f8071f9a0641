"""
The audit trail in Redis.

=====================  =======  =======================================================================
``audit``              list     entries, the oldest first: some 500 bytes each, kept for ever
``audit:streamed``     string   number of the newest entry that was made a log line
=====================  =======  =======================================================================
"""

from __future__ import annotations

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.auditentry import NO_ENTRY, AuditEntry
from osqtwist.interfaces import IAuditStore
from osqtwist.storage.redis_connection import RedisConnection, Script

# Only behind the entry that the caller has seen; otherwise the one that is there now.
_APPEND = Script(
    """
    local last = redis.call('LINDEX', KEYS[1], -1) or ''
    if redis.call('LLEN', KEYS[1]) ~= tonumber(ARGV[1]) then return {redis.call('LLEN', KEYS[1]), last} end
    redis.call('RPUSH', KEYS[1], ARGV[2])
    return {-1, ''}
    """
)

_ADVANCE = Script(
    """
    if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then return 0 end
    redis.call('SET', KEYS[1], ARGV[2])
    return 1
    """
)

_decoder = msgspec.json.Decoder(AuditEntry)


@implementer(IAuditStore)
@attrs.define
class RedisAuditStore:
    """See :class:`osqtwist.interfaces.IAuditStore`."""

    _redis: RedisConnection
    _key: str
    _length: int = attrs.field(default=0, init=False)
    _last: str = attrs.field(default=NO_ENTRY, init=False)

    async def append(self, entry: AuditEntry) -> AuditEntry:
        """One script call, or another for each process that was quicker."""
        while True:
            placed = entry.chained(self._length + 1, self._last)
            length, last = await self._redis.run(_APPEND, [self._key], [self._length, msgspec.json.encode(placed)])
            if length < 0:
                self._length, self._last = placed.number, placed.hash
                return placed
            self._length, self._last = length, _decoder.decode(last).hash if last else NO_ENTRY

    async def read(self, start: int, count: int) -> list[AuditEntry]:
        """One command."""
        found = await self._redis.execute("LRANGE", self._key, start - 1, start + count - 2)
        return [_decoder.decode(each) for each in found]

    async def length(self) -> int:
        """One command."""
        return int(await self._redis.execute("LLEN", self._key))

    async def streamed(self) -> int:
        """One command."""
        return int(await self._redis.execute("GET", f"{self._key}:streamed") or 0)

    async def advance(self, before: int, now: int) -> bool:
        """One script call."""
        return bool(await self._redis.run(_ADVANCE, [f"{self._key}:streamed"], [before, now]))
