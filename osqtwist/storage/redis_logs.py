"""
The log buffer in Redis.

================  ======  ==================================================================================
``logs``          stream  an entry a batch: ``m`` who and when, ``d`` the lines, ``s`` its size, ``t`` when,
                          ``c`` how many lines, ``o`` and ``n`` bytes and lines ever appended up to this one
``logs:dead``     stream  an entry for the dead letters of a batch: ``m``, ``d``, ``s``, ``t``
``logs:account``  hash    ``bytes`` and ``lines`` ever appended, ``freed`` bytes ever deleted, ``dead`` bytes
                          of dead letters, ``dropped`` dead letters, ``shut`` while the budget is used up
``logs:last``     hash    for each node and log type its last post: digest, when, how many lines, digest of the
                          first; two fields a node
================  ======  ==================================================================================

Since each entry says how much was appended before it, how far a sink is behind is a subtraction.  The worst case is
the two budgets, and what Redis itself needs to keep them (some tenth more).
"""

from __future__ import annotations

from typing import Any

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.logbatch import LogBatch, Post
from osqtwist.loginterfaces import Appended, Budgets, BufferFull, BufferSize, ILogBuffer, StoredBatch
from osqtwist.storage.redis_connection import RedisConnection, Script
from osqtwist.storage.redis_durability import Durability

DEADLINE = 10.0

# KEYS: logs, dead, account, last, the channel.  ARGV: budget, low mark in bytes, budget of the dead, window, now,
# node and log type, digest, then of the live part size (0: none), head, data, time, lines, and of the dead part
# size (0: none), head, data, time; then of the post lines, opening, after.
_APPEND = Script(
    """
    local live, dead, account, last = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
    local budget, now, digest = tonumber(ARGV[1]), tonumber(ARGV[5]), ARGV[7]
    local size, dead_size = tonumber(ARGV[8]), tonumber(ARGV[13])
    local function whole(number) return string.format('%.0f', number) end

    local post = table.concat({digest, ARGV[5], ARGV[17], ARGV[18]}, ' ')
    local former, at, count, opening = string.match(
        redis.call('HGET', last, ARGV[6]) or '', '^(%S*) (%S*) (%S*) (%S*)$')
    if former and now - tonumber(at) <= tonumber(ARGV[4]) then
        if former == digest then
            -- A write, so that waiting for the disk or a replica covers the first copy too.
            redis.call('HSET', last, ARGV[6], post)
            return {'', 1}
        end
        if opening ~= '' and opening == ARGV[18] and tonumber(ARGV[17]) > tonumber(count) and former ~= ARGV[19] then
            return {'', 0, former, tonumber(count), opening}
        end
    end

    local fields = redis.call('HMGET', account, 'bytes', 'lines', 'freed', 'shut', 'dead')
    local bytes, lines, freed = tonumber(fields[1] or 0), tonumber(fields[2] or 0), tonumber(fields[3] or 0)
    if bytes ~= freed and redis.call('XLEN', live) == 0 then
        freed = bytes
        redis.call('HSET', account, 'freed', whole(freed))
    end
    if size > 0 and budget > 0 then
        local used = bytes - freed
        if fields[4] and used > tonumber(ARGV[2]) then return false end
        if used + size > budget then
            redis.call('HSET', account, 'shut', 1)
            return false
        end
        if fields[4] then redis.call('HDEL', account, 'shut') end
    end

    if dead_size > 0 then
        local used = tonumber(fields[5] or 0)
        while used > 0 and used + dead_size > tonumber(ARGV[3]) do
            local oldest = redis.call('XRANGE', dead, '-', '+', 'COUNT', 1)[1]
            if not oldest then used = 0 break end
            redis.call('XDEL', dead, oldest[1])
            used = used - tonumber(oldest[2][6])
            redis.call('HINCRBY', account, 'dropped', 1)
        end
        redis.call('XADD', dead, '*', 'm', ARGV[14], 'd', ARGV[15], 's', ARGV[13], 't', ARGV[16])
        redis.call('HSET', account, 'dead', whole(used + dead_size))
    end
    local id = ''
    if size > 0 then
        bytes, lines = bytes + size, lines + tonumber(ARGV[12])
        id = redis.call('XADD', live, '*', 'm', ARGV[9], 'd', ARGV[10], 's', ARGV[8], 't', ARGV[11], 'c', ARGV[12],
            'o', whole(bytes), 'n', whole(lines))
        redis.call('HSET', account, 'bytes', whole(bytes), 'lines', whole(lines))
        redis.call('PUBLISH', KEYS[5], '')
    end
    redis.call('HSET', last, ARGV[6], post)
    return {id, 0}
    """
)

# KEYS: logs, dead, account.  ARGV: before, bytes to keep, limit.
_TRIM = Script(
    """
    local live, dead, account = KEYS[1], KEYS[2], KEYS[3]
    local before, keep, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
    local deleted, freed = 0, 0
    local function older(one, other)
        local a, b = string.match(one, '(%d+)-(%d+)')
        local c, d = string.match(other, '(%d+)-(%d+)')
        if tonumber(a) ~= tonumber(c) then return tonumber(a) < tonumber(c) end
        return tonumber(b) < tonumber(d)
    end

    -- What some sink has not settled begins here: at its oldest taken batch, or behind the last it took.
    local taken, read, groups = nil, nil, 0
    if redis.call('EXISTS', live) == 1 then
        for _, facts in ipairs(redis.call('XINFO', 'GROUPS', live)) do
            local group = {}
            for index = 1, #facts, 2 do group[facts[index]] = facts[index + 1] end
            groups = groups + 1
            if group['pending'] > 0 then
                local first = redis.call('XPENDING', live, group['name'])[2]
                if not taken or older(first, taken) then taken = first end
            end
            local after = group['last-delivered-id']
            if not read or older(after, read) then read = after end
        end
    end
    local function is_settled(id)
        return (not taken or older(id, taken)) and (not read or not older(read, id))
    end

    local sums = redis.call('HMGET', account, 'bytes', 'freed', 'dead')
    local used = tonumber(sums[1] or 0) - tonumber(sums[2] or 0)
    -- One entry at a time, and not too much at once: what is looked at is copied, and everybody else waits.
    while deleted < limit and freed < 16777216 do
        local entry = redis.call('XRANGE', live, '-', '+', 'COUNT', 1)[1]
        if not entry then break end
        local is_old = tonumber(entry[2][8]) < before
        if not is_settled(entry[1]) or not (is_old or (groups > 0 and keep > 0 and used > keep)) then break end
        redis.call('XDEL', live, entry[1])
        local size = tonumber(entry[2][6])
        deleted, freed, used = deleted + 1, freed + size, used - size
    end
    if freed > 0 then redis.call('HINCRBY', account, 'freed', string.format('%.0f', freed)) end

    freed = 0
    while deleted < limit and freed < 16777216 do
        local entry = redis.call('XRANGE', dead, '-', '+', 'COUNT', 1)[1]
        if not entry or tonumber(entry[2][8]) >= before then break end
        redis.call('XDEL', dead, entry[1])
        deleted, freed = deleted + 1, freed + tonumber(entry[2][6])
    end
    if freed > 0 then
        local left = math.max(0, tonumber(sums[3] or 0) - freed)
        redis.call('HSET', account, 'dead', string.format('%.0f', left))
    end
    return deleted
    """
)

_head_decoder = msgspec.json.Decoder(LogBatch)


@implementer(ILogBuffer)
@attrs.frozen
class RedisLogBuffer:
    """
    See :class:`osqtwist.loginterfaces.ILogBuffer`.

    :ivar durability: what an append waits for; it goes over a connection of its own, since waiting holds one up.
    """

    _redis: RedisConnection
    _prefix: str
    _channel: str
    _budgets: Budgets
    durability: Durability

    async def append(self, batch: LogBatch, post: Post | None = None) -> Appended:
        """One script call, that is one XADD for each part there is; then the wait that the durability demands."""
        budgets, post = self._budgets, post or batch.as_post()
        words: list[Any] = [
            budgets.live,
            int(budgets.live * budgets.low_mark),
            budgets.dead,
            budgets.duplicate_window,
            repr(batch.received_at),
            f"{batch.node_id}/{batch.log_type}",
            post.digest,
        ]
        for part, more in ((batch.live(), (batch.count,)), (batch.dead_letter(), ())):
            words += [*packed(part), *more] if part else [0, b"", b"", "0", *(0 for _ in more)]
        words += [post.lines, post.opening, post.after]
        keys = [self._live, self._dead, self._account, f"{self._prefix}logs:last", self._channel]
        stored = await self.durability.connection.run(_APPEND, keys, words, deadline=DEADLINE)
        if stored is None:
            raise BufferFull("the log buffer is full")
        if len(stored) > 2:
            digest, lines, opening = stored[2:]
            return Appended("", earlier=Post(digest=digest.decode(), lines=lines, opening=opening.decode()))
        await self.durability.reached()
        return Appended(stored[0].decode(), bool(stored[1]))

    async def read(self, after: str, count: int) -> list[StoredBatch]:
        """One command."""
        return await self._page(self._live, after, count)

    async def newest(self, count: int) -> list[StoredBatch]:
        """One command."""
        return unpacked(await self._redis.execute("XREVRANGE", self._live, "+", "-", "COUNT", count, deadline=DEADLINE))

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
        batches, dead, account = await self._redis.execute_all(
            [
                ("XLEN", self._live),
                ("XLEN", self._dead),
                ("HMGET", self._account, "bytes", "freed", "shut", "dead", "dropped"),
            ]
        )
        written, freed, shut, dead_bytes, dropped = (int(value or 0) for value in account)
        return BufferSize(
            batches,
            written - freed if batches else 0,
            self._budgets.live,
            dead,
            bool(shut),
            dead_bytes if dead else 0,
            dropped,
        )

    async def trim(self, before: float, keep_bytes: int, limit: int) -> int:
        """One script call."""
        keys = [self._live, self._dead, self._account]
        deleted: int = await self._redis.run(_TRIM, keys, [repr(before), keep_bytes, limit], deadline=DEADLINE)
        return deleted

    async def _page(self, stream: str, after: str, count: int) -> list[StoredBatch]:
        start = f"({after}" if after else "-"
        return unpacked(await self._redis.execute("XRANGE", stream, start, "+", "COUNT", count, deadline=DEADLINE))

    @property
    def _live(self) -> str:
        return f"{self._prefix}logs"

    @property
    def _dead(self) -> str:
        return f"{self._prefix}logs:dead"

    @property
    def _account(self) -> str:
        return f"{self._prefix}logs:account"


def packed(batch: LogBatch) -> list[Any]:
    """Size, head, data and time of a batch, as entries keep them."""
    return [
        batch.size,
        msgspec.json.encode(msgspec.structs.replace(batch, data=b"")),
        batch.data,
        repr(batch.received_at),
    ]


def unpacked(entries: Any) -> list[StoredBatch]:
    """The batches of stream entries as Redis answers them; an entry that was deleted meanwhile is left out."""
    found = []
    for batch_id, fields in entries:
        if fields:
            head = _head_decoder.decode(fields[1])
            found.append(StoredBatch(batch_id.decode(), msgspec.structs.replace(head, data=fields[3])))
    return found
