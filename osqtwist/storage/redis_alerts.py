"""
Alerts in Redis.

=====================  =======  =======================================================================
``alert:GROUP``        string   the alert that was told of a group, or with ``?`` is about to be; goes with its window
``alerts:counts``      hash     ``RULE OUTCOME`` and how many
``alerts:silences``    hash     by id, as JSON
=====================  =======  =======================================================================
"""

from __future__ import annotations

import math

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.alertinterfaces import IAlertStore, Silence
from osqtwist.storage.redis_connection import RedisConnection, Script

# KEYS: group, counts.  ARGV: rule, alert, milliseconds of the window.
_CLAIM = Script(
    """
    local found = redis.call('GET', KEYS[1])
    if found == ARGV[2] .. '?' then return 1 end
    if found then
        if found ~= ARGV[2] and ARGV[1] ~= '' then redis.call('HINCRBY', KEYS[2], ARGV[1] .. ' repeated', 1) end
        return 0
    end
    redis.call('SET', KEYS[1], ARGV[2] .. '?', 'PX', ARGV[3])
    if ARGV[1] ~= '' then redis.call('HINCRBY', KEYS[2], ARGV[1] .. ' raised', 1) end
    return 1
    """
)

_silences = msgspec.json.Decoder(Silence)
# A line may be looked at again for so long after a crash; its alert is not told twice then.
_AT_LEAST = 60.0


@implementer(IAlertStore)
@attrs.frozen
class RedisAlertStore:
    """See :class:`osqtwist.alertinterfaces.IAlertStore`."""

    _redis: RedisConnection
    _prefix: str

    async def claim(self, rule: str, group: str, alert_id: str, window: float) -> bool:
        """One script."""
        keys = [self._key(group, alert_id, window), f"{self._prefix}alerts:counts"]
        milliseconds = math.ceil((window or _AT_LEAST) * 1000)
        return bool(await self._redis.run(_CLAIM, keys, [rule, alert_id, milliseconds]))

    async def told(self, group: str, alert_id: str, window: float) -> None:
        """One command."""
        await self._redis.execute("SET", self._key(group, alert_id, window), alert_id, "XX", "KEEPTTL")

    def _key(self, group: str, alert_id: str, window: float) -> str:
        # Without a window each alert is a group of its own.
        return f"{self._prefix}alert:{group if window else alert_id}"

    async def keep_quiet(self, rule: str) -> None:
        """One command."""
        await self._redis.execute("HINCRBY", f"{self._prefix}alerts:counts", f"{rule} silenced", 1)

    async def counts(self) -> dict[tuple[str, str], int]:
        """One command."""
        found = await self._redis.execute("HGETALL", f"{self._prefix}alerts:counts")
        pairs = zip(found[::2], found[1::2], strict=True)
        return {(key.decode().split()[0], key.decode().split()[1]): int(count) for key, count in pairs}

    async def silence(self, silence: Silence) -> None:
        """One command."""
        await self._redis.execute(
            "HSET", f"{self._prefix}alerts:silences", silence.silence_id, msgspec.json.encode(silence)
        )

    async def unsilence(self, silence_id: str) -> bool:
        """One command."""
        return bool(await self._redis.execute("HDEL", f"{self._prefix}alerts:silences", silence_id))

    async def silences(self, now: float) -> list[Silence]:
        """One command; and one more for those that are over."""
        key = f"{self._prefix}alerts:silences"
        found = [_silences.decode(each) for each in await self._redis.execute("HVALS", key)]
        if over := [each.silence_id for each in found if each.until <= now]:
            await self._redis.execute("HDEL", key, *over)
        return sorted((each for each in found if each.until > now), key=lambda each: each.until)
