"""
The sinks' cursors in Redis.

=====================  ======  =================================================================
``logs``               stream  has a consumer group for each sink, of the sink's name
``sink:NAME:dead``     stream  lines that the sink refused, as in ``logs:dead``
``sinks:dead``         hash    for each sink the bytes of those
``sinks:paused``       set     sinks that are paused
``sinks:again``        set     sinks whose dead letters are to be delivered again
``sinks:reports``      hash    ``NAME/CONSUMER`` to the last report
=====================  ======  =================================================================

All of a sink's keys are deleted with it; its dead letters have a byte budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import msgspec
import txredisapi
from zope.interface import implementer

from osqtwist.logbatch import LogBatch
from osqtwist.loginterfaces import ISinkQueues, NoSuchSink, SinkLag, SinkReport, StoredBatch
from osqtwist.storage.redis_connection import RedisConnection, Script
from osqtwist.storage.redis_logs import DEADLINE, packed, unpacked

# KEYS: logs.  ARGV: group, consumer, most batches, most bytes.
_TAKE = Script(
    """
    local found, size = {}, 0
    while #found < tonumber(ARGV[3]) and (size == 0 or size < tonumber(ARGV[4])) do
        local answer = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', KEYS[1], '>')
        if not answer then break end
        local entry = answer[1][2][1]
        found[#found + 1] = entry
        size = size + tonumber(entry[2][6])
    end
    return found
    """
)
# KEYS: logs, the sink's dead letters, sinks:dead.  ARGV: group, budget, number of ids, the ids, then for each dead
# letter size, head, data, time.
_SETTLE = Script(
    """
    local count = tonumber(ARGV[3])
    local used = tonumber(redis.call('HGET', KEYS[3], ARGV[1]) or '0')
    for index = 4 + count, #ARGV, 4 do
        local size = tonumber(ARGV[index])
        while used > 0 and used + size > tonumber(ARGV[2]) do
            local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
            if not oldest then used = 0 break end
            redis.call('XDEL', KEYS[2], oldest[1])
            used = used - tonumber(oldest[2][6])
        end
        redis.call('XADD', KEYS[2], '*', 'm', ARGV[index + 1], 'd', ARGV[index + 2], 's', ARGV[index],
            't', ARGV[index + 3])
        used = used + size
    end
    if #ARGV > 3 + count then redis.call('HSET', KEYS[3], ARGV[1], string.format('%.0f', used)) end
    if count > 0 then redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, 4, 3 + count)) end
    return 1
    """
)
# KEYS: the sink's dead letters, sinks:dead.  ARGV: sink, the ids.
_FORGET_DEAD = Script(
    """
    local used = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
    for index = 2, #ARGV do
        local entry = redis.call('XRANGE', KEYS[1], ARGV[index], ARGV[index])[1]
        if entry then
            redis.call('XDEL', KEYS[1], ARGV[index])
            used = used - tonumber(entry[2][6])
        end
    end
    redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f', math.max(0, used)))
    return 1
    """
)
# KEYS: logs, logs:account, the sinks' dead letters.  ARGV: the groups.
_LAG = Script(
    """
    local found, ends = {}, {}
    if redis.call('EXISTS', KEYS[1]) == 0 then return found end
    for _, facts in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        local group = {}
        for index = 1, #facts, 2 do group[facts[index]] = facts[index + 1] end
        ends[group['name']] = group
    end
    local sums = redis.call('HMGET', KEYS[2], 'bytes', 'lines')
    local bytes, lines = tonumber(sums[1] or 0), tonumber(sums[2] or 0)
    for index, name in ipairs(ARGV) do
        local group = ends[name]
        if group then
            local start = '(' .. group['last-delivered-id']
            if group['pending'] > 0 then start = redis.call('XPENDING', KEYS[1], name)[2] end
            local entry = redis.call('XRANGE', KEYS[1], start, '+', 'COUNT', 1)[1]
            local behind, behind_lines, oldest = 0, 0, '0'
            if entry then
                local fields = entry[2]
                behind = bytes - tonumber(fields[12]) + tonumber(fields[6])
                behind_lines = lines - tonumber(fields[14]) + tonumber(fields[10])
                oldest = fields[8]
            end
            found[#found + 1] = {name, string.format('%.0f', behind_lines), string.format('%.0f', behind), oldest,
                group['pending'], redis.call('XLEN', KEYS[2 + index])}
        end
    end
    return found
    """
)

_report_decoder = msgspec.json.Decoder(SinkReport)


@implementer(ISinkQueues)
@attrs.frozen
class RedisSinkQueues:
    """See :class:`osqtwist.loginterfaces.ISinkQueues`."""

    _redis: RedisConnection
    _prefix: str
    _channel: str
    _dead_budget: int

    async def ensure(self, sink: str, from_start: bool) -> None:
        """One command."""
        try:
            start = "0" if from_start else "$"
            await self._redis.execute("XGROUP", "CREATE", self._logs, sink, start, "MKSTREAM")
        except txredisapi.ResponseError as problem:
            if not str(problem).startswith("BUSYGROUP"):
                raise

    async def names(self) -> list[str]:
        """Two commands."""
        if not await self._redis.execute("EXISTS", self._logs):
            return []
        groups = await self._redis.execute("XINFO", "GROUPS", self._logs)
        return sorted(dict(zip(each[::2], each[1::2], strict=True))[b"name"].decode() for each in groups)

    async def take(self, sink: str, consumer: str, max_batches: int, max_bytes: int) -> list[StoredBatch]:
        """One script call."""
        with _ItsCursor(sink):
            words = [sink, consumer, max_batches, max_bytes]
            return unpacked(await self._redis.run(_TAKE, [self._logs], words, deadline=DEADLINE))

    async def taken(self, sink: str, consumer: str, max_batches: int) -> list[StoredBatch]:
        """One command; what was deleted by hand meanwhile is settled."""
        with _ItsCursor(sink):
            answer = await self._redis.execute(
                *("XREADGROUP", "GROUP", sink, consumer, "COUNT", max_batches, "STREAMS", self._logs, "0"),
                deadline=DEADLINE,
            )
        return await self._those_left(sink, answer[0][1] if answer else [])

    async def claim(self, sink: str, consumer: str, idle: float, max_batches: int) -> list[StoredBatch]:
        """One command."""
        with _ItsCursor(sink):
            answer = await self._redis.execute(
                *("XAUTOCLAIM", self._logs, sink, consumer, int(idle * 1000), "0", "COUNT", max_batches),
                deadline=DEADLINE,
            )
        return await self._those_left(sink, answer[1])

    async def keep_alive(self, sink: str, consumer: str, batch_ids: Sequence[str]) -> None:
        """One command."""
        if batch_ids:
            with _ItsCursor(sink):
                await self._redis.execute("XCLAIM", self._logs, sink, consumer, 0, *batch_ids, "JUSTID")

    async def settle(self, sink: str, batch_ids: Sequence[str], dead: Sequence[LogBatch] = ()) -> None:
        """One script call."""
        words: list[Any] = [sink, self._dead_budget, len(batch_ids), *batch_ids]
        for letter in dead:
            words += packed(letter)
        keys = [self._logs, self._dead(sink), f"{self._prefix}sinks:dead"]
        await self._redis.run(_SETTLE, keys, words, deadline=DEADLINE)

    async def dead_letters(self, sink: str, after: str, count: int) -> list[StoredBatch]:
        """One command."""
        start = f"({after}" if after else "-"
        return unpacked(await self._redis.execute("XRANGE", self._dead(sink), start, "+", "COUNT", count))

    async def forget_dead_letters(self, sink: str, batch_ids: Sequence[str]) -> None:
        """One script call."""
        if batch_ids:
            keys = [self._dead(sink), f"{self._prefix}sinks:dead"]
            await self._redis.run(_FORGET_DEAD, keys, [sink, *batch_ids], deadline=DEADLINE)

    async def lag(self, sinks: Sequence[str]) -> dict[str, SinkLag]:
        """One script call."""
        if not sinks:
            return {}
        keys = [self._logs, f"{self._prefix}logs:account", *(self._dead(sink) for sink in sinks)]
        found = await self._redis.run(_LAG, keys, list(sinks), deadline=DEADLINE)
        return {
            name.decode(): SinkLag(int(lines), int(size), float(oldest), taken, dead)
            for name, lines, size, oldest, taken, dead in found
        }

    async def rewind(self, sink: str, batch_id: str, moment: float) -> None:
        """One command and a signal."""
        # A stream's ids begin with the time in milliseconds; the new cursor is just before it.
        start = batch_id or f"{max(0, int(moment * 1000) - 1)}-18446744073709551615"
        with _ItsCursor(sink):
            try:
                await self._redis.execute("XGROUP", "SETID", self._logs, sink, start)
            except txredisapi.ResponseError as problem:
                if "Invalid stream ID" in str(problem):
                    raise ValueError(f"{batch_id!r} is not the id of a batch") from None
                raise
        await self._redis.execute("PUBLISH", self._channel, sink)

    async def forget(self, sink: str) -> bool:
        """A few commands and a signal."""
        try:
            with _ItsCursor(sink):
                had = await self._redis.execute("XGROUP", "DESTROY", self._logs, sink)
        except NoSuchSink:
            had = 0
        reports = [f"{each.sink}/{each.consumer}" for each in await self.reports() if each.sink == sink]
        commands: list[tuple[Any, ...]] = [
            ("DEL", self._dead(sink)),
            ("HDEL", f"{self._prefix}sinks:dead", sink),
            ("SREM", f"{self._prefix}sinks:paused", sink),
            ("SREM", f"{self._prefix}sinks:again", sink),
            ("PUBLISH", self._channel, sink),
        ]
        if reports:
            commands.append(("HDEL", f"{self._prefix}sinks:reports", *reports))
        await self._redis.execute_all(commands)
        return bool(had)

    async def pause(self, sink: str, is_paused: bool) -> None:
        """Two commands."""
        word = "SADD" if is_paused else "SREM"
        await self._redis.execute_all([(word, f"{self._prefix}sinks:paused", sink), ("PUBLISH", self._channel, sink)])

    async def paused(self) -> frozenset[str]:
        """One command."""
        return frozenset(each.decode() for each in await self._redis.execute("SMEMBERS", f"{self._prefix}sinks:paused"))

    async def ask_again(self, sink: str) -> None:
        """Two commands."""
        await self._redis.execute_all([("SADD", f"{self._prefix}sinks:again", sink), ("PUBLISH", self._channel, sink)])

    async def was_asked_again(self, sink: str) -> bool:
        """One command."""
        return bool(await self._redis.execute("SREM", f"{self._prefix}sinks:again", sink))

    async def report(self, report: SinkReport) -> None:
        """One command."""
        field = f"{report.sink}/{report.consumer}"
        await self._redis.execute("HSET", f"{self._prefix}sinks:reports", field, msgspec.json.encode(report))

    async def reports(self) -> list[SinkReport]:
        """One command."""
        found = await self._redis.execute("HGETALL", f"{self._prefix}sinks:reports")
        values = found.values() if isinstance(found, dict) else found[1::2]
        return sorted((_report_decoder.decode(each) for each in values), key=lambda each: (each.sink, each.consumer))

    async def _those_left(self, sink: str, entries: Any) -> list[StoredBatch]:
        gone = [batch_id.decode() for batch_id, fields in entries if not fields]
        if gone:
            await self.settle(sink, gone)
        return unpacked(entries)

    def _dead(self, sink: str) -> str:
        return f"{self._prefix}sink:{sink}:dead"

    @property
    def _logs(self) -> str:
        return f"{self._prefix}logs"


class _ItsCursor:
    """Turns Redis' word that there is no such group into ours."""

    def __init__(self, sink: str) -> None:
        self.sink = sink

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, problem: BaseException | None, trace: Any) -> None:
        words = ("NOGROUP", "requires the key to exist", "no such key", "No such key")
        if isinstance(problem, txredisapi.ResponseError) and any(word in str(problem) for word in words):
            raise NoSuchSink(f"there is no sink {self.sink!r} in the log buffer") from None
