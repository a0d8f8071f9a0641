"""
Samples of figures in Redis.

=====================  =======  =======================================================================
``history:hour``       zset     a sample of each process every ten seconds, as JSON, by time: 150 kB a process
``history:day``        zset     the same every five minutes: 120 kB a process
=====================  =======  =======================================================================

What is older than the series is long is deleted with each sample that is added.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.historyinterfaces import IHistoryStore
from osqtwist.sample import Sample
from osqtwist.storage.redis_connection import RedisConnection, Script

# KEYS: the series.  ARGV: sample, its time, and of each series the time of the oldest that is kept.
_ADD = Script(
    """
    for index, key in ipairs(KEYS) do
        redis.call('ZADD', key, ARGV[2], ARGV[1])
        redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. ARGV[2 + index])
    end
    """
)
_samples = msgspec.json.Decoder(Sample)


@implementer(IHistoryStore)
@attrs.frozen
class RedisHistoryStore:
    """See :class:`osqtwist.historyinterfaces.IHistoryStore`."""

    _redis: RedisConnection
    _prefix: str

    async def add(self, sample: Sample, oldest: Mapping[str, float]) -> None:
        """One script."""
        arguments = [msgspec.json.encode(sample), repr(sample.at), *(repr(at) for at in oldest.values())]
        await self._redis.run(_ADD, [self._key(name) for name in oldest], arguments)

    async def since(self, series: str, at: float) -> list[Sample]:
        """One command."""
        found = await self._redis.execute("ZRANGEBYSCORE", self._key(series), repr(at), "+inf")
        return [_samples.decode(each) for each in found]

    def _key(self, series: str) -> str:
        return f"{self._prefix}history:{series}"
