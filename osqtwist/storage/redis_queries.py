"""
Distributed queries in Redis.

========================  ======  ====================================================================
``query:ID``              hash    ``doc`` and what the scripts need of it, counters
``query:ID:nodes``        hash    node to ``LEASE_END ATTEMPTS`` or ``done``: some 40 bytes a node
``query:ID:results``      stream  one entry a result, up to the query's limits
``query:ID:costs``        list    for each result its cost, some 80 bytes
``queries``, ``open``     zset    ids, by creation and by expiry; one that waits for approval is not in ``open``
========================  ======  ====================================================================

A query and all that belongs to it are deleted :attr:`DistributedQuery.keep` seconds after it expires.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.interfaces import IQueryStore, StoredResult
from osqtwist.query import DistributedQuery, Offer, QueryProgress, QueryResult, Taken
from osqtwist.querycost import ResultCost
from osqtwist.storage.redis_connection import RedisConnection, Script
from osqtwist.storage.redis_takes import Takes

_COSTS_AT_ONCE = 10_000
_READ_AT_ONCE = 500

# KEYS: the prefix of query keys, open, queries.  ARGV: id, 1 for what was added before and waits for approval, doc,
# created, opens, expires, end, lease, attempts, bytes, rows, 1 if it waits.  `closed` is 1 if it is cancelled or waits.
_PUT = Script(
    """
    local key = KEYS[1] .. ARGV[1]
    if ARGV[2] == '1' then
        local before = redis.call('HMGET', key, 'waits', 'cancelled')
        if before[1] ~= '1' or before[2] ~= '0' then return 0 end
    end
    redis.call('HSET', key, 'doc', ARGV[3], 'opens', ARGV[5], 'expires', ARGV[6], 'end', ARGV[7], 'lease', ARGV[8],
               'attempts', ARGV[9], 'limit', ARGV[10], 'most_rows', ARGV[11], 'waits', ARGV[12], 'closed', ARGV[12],
               'cancelled', '0')
    redis.call('EXPIREAT', key, ARGV[7])
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[4])
    if ARGV[12] == '0' then redis.call('ZADD', KEYS[2], ARGV[6], ARGV[1]) end
    redis.call('ZADD', KEYS[3], ARGV[4], ARGV[1])
    return 1
    """
)
_CANCEL = Script(
    """
    local key = KEYS[1] .. ARGV[1]
    if redis.call('EXISTS', key) == 0 then return 0 end
    if redis.call('HGET', key, 'cancelled') == '0' then
        redis.call('HSET', key, 'cancelled', ARGV[2], 'closed', '1')
    end
    redis.call('ZREM', KEYS[2], ARGV[1])
    return 1
    """
)
_RELEASE = Script(
    """
    for index = 2, #ARGV do
        local key = KEYS[1] .. ARGV[index]
        local state = redis.call('HGET', key .. ':nodes', ARGV[1])
        if state and state ~= 'done' then
            local lease, attempts = string.match(state, '(%S+) (%S+)')
            if tonumber(lease) > 0 then
                attempts = tonumber(attempts) - 1
                if attempts == 0 then
                    redis.call('HDEL', key .. ':nodes', ARGV[1])
                    redis.call('HINCRBY', key, 'offered', -1)
                else
                    redis.call('HSET', key .. ':nodes', ARGV[1], '0 ' .. attempts)
                end
            end
        end
    end
    """
)
# KEYS: the prefix of query keys, the channel.  ARGV: node, when they came, then for each result: query id, result, the
# result without rows, size of the rows, their number, 1 if it failed, its cost.
_ADD_RESULTS = Script(
    """
    local new = {}
    for index = 3, #ARGV, 7 do
        local id = ARGV[index]
        local key = KEYS[1] .. id
        local nodes = key .. ':nodes'
        local state = redis.call('HGET', nodes, ARGV[1])
        if state and state ~= 'done' then
            local query = redis.call('HMGET', key, 'limit', 'most_rows', 'bytes', 'rows', 'end', 'lease')
            local bytes = tonumber(query[3] or '0') + tonumber(ARGV[index + 3])
            local rows, result = tonumber(query[4] or '0') + tonumber(ARGV[index + 4]), ARGV[index + 1]
            if bytes > tonumber(query[1]) or rows > tonumber(query[2] or '1e15') then result = ARGV[index + 2]
            else redis.call('HSET', key, 'bytes', string.format('%d', bytes), 'rows', string.format('%d', rows)) end
            local lease, elapsed = tonumber(string.match(state, '%S+')), 0
            if lease > 0 then elapsed = math.max(0, tonumber(ARGV[2]) - lease + tonumber(query[6])) end
            elapsed = string.format('%.6f', elapsed)
            redis.call('HSET', nodes, ARGV[1], 'done')
            redis.call('XADD', key .. ':results', '*', 'r', result, 'e', elapsed)
            redis.call('RPUSH', key .. ':costs', elapsed .. ' ' .. ARGV[index + 6])
            if redis.call('HINCRBY', key, 'answered', 1) == 1 then
                redis.call('EXPIREAT', key .. ':results', query[5])
                redis.call('EXPIREAT', key .. ':costs', query[5])
            end
            if ARGV[index + 5] == '1' then redis.call('HINCRBY', key, 'failed', 1) end
            redis.call('PUBLISH', KEYS[2], id)
            new[#new + 1] = id
        end
    end
    return new
    """
)

_query_decoder = msgspec.json.Decoder(DistributedQuery)
_result_decoder = msgspec.json.Decoder(QueryResult)
_cost_decoder = msgspec.json.Decoder(ResultCost)


@implementer(IQueryStore)
@attrs.frozen
class RedisQueryStore:
    """See :class:`osqtwist.interfaces.IQueryStore`; every call is one command or script, but those for lists."""

    _redis: RedisConnection
    _prefix: str
    _results_channel: str
    _takes: Takes = attrs.field(init=False)

    @_takes.default
    def _no_takes_yet(self) -> Takes:
        return Takes(self._redis, self._queries)

    async def add(self, query: DistributedQuery) -> None:
        """One script call."""
        await self._put(query, was_waiting=False)

    async def approve(self, approved: DistributedQuery) -> bool:
        """One script call."""
        return await self._put(approved, was_waiting=True)

    async def _put(self, query: DistributedQuery, *, was_waiting: bool) -> bool:
        words = [
            query.query_id,
            int(was_waiting),
            msgspec.json.encode(query),
            repr(query.created_at),
            repr(query.opens_at),
            repr(query.expires_at),
            math.ceil(query.expires_at + query.keep),
            repr(query.lease),
            query.max_attempts,
            query.max_results_bytes,
            query.max_results_rows,
            int(query.is_waiting),
        ]
        return bool(await self._redis.run(_PUT, [self._queries, self._open, self._all], words))

    async def get(self, query_id: str) -> DistributedQuery | None:
        """One command."""
        return (await self.get_many([query_id])).get(query_id)

    async def open_ids(self, now: float) -> list[str]:
        """One command."""
        ids = await self._redis.execute("ZRANGEBYSCORE", self._open, f"({now!r}", "+inf")
        return [each.decode() for each in ids]

    async def recent(self, count: int) -> list[DistributedQuery]:
        """Two rounds; forgets queries that Redis has deleted."""
        ids = [each.decode() for each in await self._redis.execute("ZREVRANGE", self._all, 0, count - 1)]
        found = await self.get_many(ids)
        gone = [each for each in ids if each not in found]
        if gone:
            await self._redis.execute("ZREM", self._all, *gone)
        return sorted(found.values(), key=lambda query: (query.created_at, query.query_id), reverse=True)

    async def cancel(self, query_id: str, now: float) -> bool:
        """One script call."""
        return bool(await self._redis.run(_CANCEL, [self._queries, self._open], [query_id, repr(now)]))

    async def take(self, node_id: str, query_ids: Sequence[str], now: float, most: int) -> dict[str, Taken]:
        """One script call, which takes of other nodes share that come while another is on the way."""
        if not query_ids:
            return {}
        answer = await self._takes.take(node_id, query_ids, now, most)
        return {
            query_id: Taken(Offer(answer[2 * place].decode()), float(answer[2 * place + 1]))
            for place, query_id in enumerate(query_ids)
        }

    async def release(self, node_id: str, query_ids: Sequence[str]) -> None:
        """One script call."""
        if query_ids:
            await self._redis.run(_RELEASE, [self._queries], [node_id, *query_ids])

    async def add_results(self, results: Sequence[QueryResult]) -> list[str]:
        """One script call."""
        if not results:
            return []
        words: list[Any] = [results[0].node_id, repr(results[0].received_at)]
        for result in results:
            bare = msgspec.structs.replace(result, rows=msgspec.Raw(b"[]"), rows_dropped=True)
            words += [
                result.query_id,
                msgspec.json.encode(result),
                msgspec.json.encode(bare),
                len(result.rows),
                result.row_count,
                int(result.status != 0),
                msgspec.json.encode(ResultCost.of(result)),
            ]
        new = await self._redis.run(_ADD_RESULTS, [self._queries, self._results_channel], words, deadline=10.0)
        return [each.decode() for each in new]

    async def results(self, query_id: str, after: str, count: int) -> list[StoredResult]:
        """One command."""
        start = f"({after}" if after else "-"
        key = f"{self._queries}{query_id}:results"
        entries = await self._redis.execute("XRANGE", key, start, "+", "COUNT", count, deadline=10.0)
        return [StoredResult(each.decode(), _result_of(fields)) for each, fields in entries]

    async def given(self, node_id: str, query_ids: Sequence[str]) -> dict[str, bool]:
        """One command for each, sent together."""
        states = await self._redis.execute_all(
            [("HGET", f"{self._queries}{each}:nodes", node_id) for each in query_ids]
        )
        return {query_id: state == b"done" for query_id, state in zip(query_ids, states, strict=True) if state}

    async def costs(self, query_id: str) -> list[ResultCost]:
        """One command for each ten thousand of them."""
        found: list[ResultCost] = []
        while True:
            end = len(found) + _COSTS_AT_ONCE - 1
            page = await self._redis.execute("LRANGE", f"{self._queries}{query_id}:costs", len(found), end)
            for each in page:
                elapsed, _, cost = each.partition(b" ")
                found.append(msgspec.structs.replace(_cost_decoder.decode(cost), elapsed=float(elapsed)))
            if len(page) < _COSTS_AT_ONCE:
                return found

    async def progress(self, query_id: str) -> QueryProgress:
        """One command."""
        found = await self._redis.execute(
            "HMGET", f"{self._queries}{query_id}", "offered", "answered", "failed", "bytes", "rows"
        )
        return QueryProgress(*(int(each or 0) for each in found))

    async def get_many(self, query_ids: Sequence[str]) -> dict[str, DistributedQuery]:
        """One command for each, some hundred sent together."""
        found = {}
        for start in range(0, len(query_ids), _READ_AT_ONCE):
            ids = query_ids[start : start + _READ_AT_ONCE]
            fields = await self._redis.execute_all(
                [("HMGET", f"{self._queries}{each}", "doc", "cancelled") for each in ids]
            )
            for query_id, (doc, cancelled) in zip(ids, fields, strict=True):
                if doc:
                    query = _query_decoder.decode(doc)
                    found[query_id] = msgspec.structs.replace(query, cancelled_at=float(cancelled))
        return found

    @property
    def _queries(self) -> str:
        return f"{self._prefix}query:"

    @property
    def _open(self) -> str:
        return f"{self._prefix}open"

    @property
    def _all(self) -> str:
        return f"{self._prefix}queries"


def _result_of(fields: Sequence[bytes]) -> QueryResult:
    result: QueryResult = _result_decoder.decode(fields[1])
    # Entries of earlier versions have no time.
    return msgspec.structs.replace(result, elapsed=float(fields[3]) if len(fields) > 3 else 0.0)
