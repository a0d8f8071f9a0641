"""
The log buffer in Redis.

===============  =======  ===============================================================
``logs``         stream   one entry a batch: ``m`` who and when, ``d`` the lines, ``s`` its size, ``t`` when
``logs:dead``    stream   the same for dead letters
``logs:bytes``   string   the sizes of all entries of both, compared with the budget
===============  =======  ===============================================================

The worst case is the budget, and what Redis itself needs to keep it (some tenth more).
"""

from __future__ import annotations

from typing import Any

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.interfaces import BufferFull, BufferSize, ILogBuffer, StoredBatch
from osqtwist.logbatch import LogBatch
from osqtwist.storage.redis_connection import RedisConnection, Script

_DEADLINE = 10.0

# KEYS: logs, dead, bytes, the channel.  ARGV: budget, then for the live and the dead part: size (0: none), head, data,
# time.
_APPEND = Script(
    """
    local used = tonumber(redis.call('GET', KEYS[3]) or '0')
    if used ~= 0 and redis.call('XLEN', KEYS[1]) == 0 and redis.call('XLEN', KEYS[2]) == 0 then used = 0 end
    local total = used + tonumber(ARGV[2]) + tonumber(ARGV[6])
    if tonumber(ARGV[1]) > 0 and total > tonumber(ARGV[1]) then return false end
    local id = ''
    if ARGV[6] ~= '0' then
        redis.call('XADD', KEYS[2], '*', 'm', ARGV[7], 'd', ARGV[8], 's', ARGV[6], 't', ARGV[9])
    end
    if ARGV[2] ~= '0' then
        id = redis.call('XADD', KEYS[1], '*', 'm', ARGV[3], 'd', ARGV[4], 's', ARGV[2], 't', ARGV[5])
        redis.call('PUBLISH', KEYS[4], '')
    end
    redis.call('SET', KEYS[3], string.format('%d', total))
    return id
    """
)
# KEYS: a stream, bytes.  ARGV: before, limit.
_TRIM = Script(
    """
    local deleted, freed = 0, 0
    for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[2])) do
        local fields = {}
        for index = 1, #entry[2], 2 do fields[entry[2][index]] = entry[2][index + 1] end
        if tonumber(fields['t']) >= tonumber(ARGV[1]) then break end
        redis.call('XDEL', KEYS[1], entry[1])
        deleted, freed = deleted + 1, freed + tonumber(fields['s'])
    end
    local left = tonumber(redis.call('GET', KEYS[2]) or '0') - freed
    if left < 0 then left = 0 end
    redis.call('SET', KEYS[2], string.format('%d', left))
    return deleted
    """
)

_head_decoder = msgspec.json.Decoder(LogBatch)


@implementer(ILogBuffer)
@attrs.frozen
class RedisLogBuffer:
    """See :class:`osqtwist.interfaces.ILogBuffer`."""

    _redis: RedisConnection
    _prefix: str
    _channel: str
    _budget_bytes: int

    async def append(self, batch: LogBatch) -> str:
        """One script call, that is one XADD for each part there is."""
        words: list[Any] = [self._budget_bytes]
        for part in (batch.live(), batch.dead_letter()):
            if part is None:
                words += [0, b"", b"", "0"]
            else:
                head = msgspec.structs.replace(part, data=b"")
                words += [part.size, msgspec.json.encode(head), part.data, repr(part.received_at)]
        keys = [self._live, self._dead, self._bytes, self._channel]
        stored = await self._redis.run(_APPEND, keys, words, deadline=_DEADLINE)
        if stored is None:
            raise BufferFull("the log buffer is full")
        return str(stored.decode())

    async def read(self, after: str, count: int) -> list[StoredBatch]:
        """One command."""
        return await self._page(self._live, after, count)

    async def last_id(self) -> str:
        """One command."""
        if not await self._redis.execute("EXISTS", self._live):
            return ""
        found = await self._redis.execute("XINFO", "STREAM", self._live)
        fields = dict(zip(found[::2], found[1::2], strict=True))
        return str(fields[b"last-generated-id"].decode())

    async def dead_letters(self, after: str, count: int) -> list[StoredBatch]:
        """One command."""
        return await self._page(self._dead, after, count)

    async def size(self) -> BufferSize:
        """Three commands, sent together."""
        batches, dead, used = await self._redis.execute_all(
            [("XLEN", self._live), ("XLEN", self._dead), ("GET", self._bytes)]
        )
        return BufferSize(batches, int(used or 0) if batches or dead else 0, self._budget_bytes, dead)

    async def trim(self, before: float, limit: int) -> int:
        """One script call for each stream."""
        deleted = 0
        for stream in (self._live, self._dead):
            if deleted < limit:
                words = [repr(before), limit - deleted]
                deleted += await self._redis.run(_TRIM, [stream, self._bytes], words, deadline=_DEADLINE)
        return deleted

    async def _page(self, stream: str, after: str, count: int) -> list[StoredBatch]:
        start = f"({after}" if after else "-"
        entries = await self._redis.execute("XRANGE", stream, start, "+", "COUNT", count, deadline=_DEADLINE)
        page = []
        for batch_id, fields in entries:
            head = _head_decoder.decode(fields[1])
            page.append(StoredBatch(batch_id.decode(), msgspec.structs.replace(head, data=fields[3])))
        return page

    @property
    def _live(self) -> str:
        return f"{self._prefix}logs"

    @property
    def _dead(self) -> str:
        return f"{self._prefix}logs:dead"

    @property
    def _bytes(self) -> str:
        return f"{self._prefix}logs:bytes"
