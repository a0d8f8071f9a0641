"""
How busy processes are, in Redis.

=====================  =======  =======================================================================
``loads``              hash     ``level``, ``since``, and for each process ``p:NAME`` what it last said
=====================  =======  =======================================================================
"""

from __future__ import annotations

import attrs
from zope.interface import implementer

from osqtwist.interfaces import LOAD_IS_OLD, ILoadStore, Load
from osqtwist.storage.redis_connection import RedisConnection, Script

# KEYS: loads.  ARGV: name, busy, now, seconds after which a report is old.
_REPORT = Script(
    """
    if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'p:' .. ARGV[1], ARGV[2] .. ' ' .. ARGV[3]) end
    local fields, found = redis.call('HGETALL', KEYS[1]), {'0', '0'}
    for index = 1, #fields, 2 do
        if fields[index] == 'level' then found[1] = fields[index + 1]
        elseif fields[index] == 'since' then found[2] = fields[index + 1]
        else
            local busy, at = string.match(fields[index + 1], '^(%S+) (%S+)$')
            if tonumber(at) + tonumber(ARGV[4]) < tonumber(ARGV[3]) then redis.call('HDEL', KEYS[1], fields[index])
            else found[#found + 1] = busy end
        end
    end
    return found
    """
)
_CHANGE = Script(
    """
    if (redis.call('HGET', KEYS[1], 'since') or '0') ~= ARGV[1] then return 0 end
    redis.call('HSET', KEYS[1], 'level', ARGV[2], 'since', ARGV[3])
    return 1
    """
)


@implementer(ILoadStore)
@attrs.frozen
class RedisLoadStore:
    """See :class:`osqtwist.interfaces.ILoadStore`."""

    _redis: RedisConnection
    _key: str

    async def report(self, name: str, busy: float | None, now: float) -> Load:
        """One script."""
        said = "" if busy is None else repr(busy)
        level, since, *all_busy = await self._redis.run(_REPORT, [self._key], [name, said, repr(now), LOAD_IS_OLD])
        return Load(int(level), float(since), tuple(float(each) for each in all_busy))

    async def change(self, seen: Load, level: int, now: float) -> bool:
        """One script."""
        since = repr(seen.since) if seen.since else "0"
        return bool(await self._redis.run(_CHANGE, [self._key], [since, level, repr(now)]))
