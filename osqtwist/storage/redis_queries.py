"""
Distributed queries in Redis.

========================  ======  ====================================================================
``query:ID``              hash    ``doc`` and what the scripts need of it, counters
``query:ID:nodes``        hash    node to ``LEASE_END ATTEMPTS`` or ``done``: some 40 bytes a node
``query:ID:results``      stream  one entry a result, up to the query's size limit
``queries``, ``open``     zset    ids, by creation and by expiry
========================  ======  ====================================================================

A query and all that belongs to it are deleted :attr:`RedisQueryStore.retention` seconds after it expires.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.interfaces import IQueryStore, StoredResult
from osqtwist.query import DistributedQuery, Offer, QueryProgress, QueryResult, Taken
from osqtwist.storage.redis_connection import RedisConnection, Script
from osqtwist.storage.redis_takes import Takes

RETENTION = 7 * 86400.0

# KEYS: the prefix of query keys, open, queries.  ARGV: id, doc, created, expires, end, lease, attempts, bytes, now.
_ADD = Script(
    """
    local key = KEYS[1] .. ARGV[1]
    redis.call('HSET', key, 'doc', ARGV[2], 'expires', ARGV[4], 'end', ARGV[5], 'lease', ARGV[6],
               'attempts', ARGV[7], 'limit', ARGV[8], 'cancelled', '0')
    redis.call('EXPIREAT', key, ARGV[5])
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[9])
    redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
    redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
    """
)
_CANCEL = Script(
    """
    local key = KEYS[1] .. ARGV[1]
    if redis.call('EXISTS', key) == 0 then return 0 end
    if redis.call('HGET', key, 'cancelled') == '0' then redis.call('HSET', key, 'cancelled', ARGV[2]) end
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
# KEYS: the prefix of query keys, the channel.  ARGV: node, then for each result: query id, result, the result without
# rows, size of the rows, 1 if it failed.
_ADD_RESULTS = Script(
    """
    local new = {}
    for index = 2, #ARGV, 5 do
        local id = ARGV[index]
        local key = KEYS[1] .. id
        local nodes = key .. ':nodes'
        local state = redis.call('HGET', nodes, ARGV[1])
        if state and state ~= 'done' then
            local query = redis.call('HMGET', key, 'limit', 'bytes', 'end')
            local bytes, result = tonumber(query[2] or '0'), ARGV[index + 1]
            if bytes + tonumber(ARGV[index + 3]) > tonumber(query[1]) then result = ARGV[index + 2]
            else redis.call('HSET', key, 'bytes', bytes + tonumber(ARGV[index + 3])) end
            redis.call('HSET', nodes, ARGV[1], 'done')
            redis.call('XADD', key .. ':results', '*', 'r', result)
            if redis.call('HINCRBY', key, 'answered', 1) == 1 then
                redis.call('EXPIREAT', key .. ':results', query[3])
            end
            if ARGV[index + 4] == '1' then redis.call('HINCRBY', key, 'failed', 1) end
            redis.call('PUBLISH', KEYS[2], id)
            new[#new + 1] = id
        end
    end
    return new
    """
)

_query_decoder = msgspec.json.Decoder(DistributedQuery)
_result_decoder = msgspec.json.Decoder(QueryResult)


@implementer(IQueryStore)
@attrs.frozen
class RedisQueryStore:
    """See :class:`osqtwist.interfaces.IQueryStore`; every call is one command or script, but those for lists."""

    _redis: RedisConnection
    _prefix: str
    _results_channel: str
    retention: float = RETENTION
    _takes: Takes = attrs.field(init=False)

    @_takes.default
    def _no_takes_yet(self) -> Takes:
        return Takes(self._redis, self._queries)

    async def add(self, query: DistributedQuery) -> None:
        """One script call."""
        await self._redis.run(
            _ADD,
            [self._queries, self._open, self._all],
            [
                query.query_id,
                msgspec.json.encode(query),
                repr(query.created_at),
                repr(query.expires_at),
                int(query.expires_at + self.retention),
                repr(query.lease),
                query.max_attempts,
                query.max_results_bytes,
                repr(query.created_at),
            ],
        )

    async def get(self, query_id: str) -> DistributedQuery | None:
        """One command."""
        return (await self._get_many([query_id])).get(query_id)

    async def open_queries(self, now: float) -> list[DistributedQuery]:
        """Two rounds."""
        ids = await self._redis.execute("ZRANGEBYSCORE", self._open, f"({now!r}", "+inf")
        found = await self._get_many([each.decode() for each in ids])
        still = [query for query in found.values() if query.is_open(now)]
        return sorted(still, key=lambda query: (query.created_at, query.query_id))

    async def recent(self, count: int) -> list[DistributedQuery]:
        """Two rounds; forgets queries that Redis has deleted."""
        ids = [each.decode() for each in await self._redis.execute("ZREVRANGE", self._all, 0, count - 1)]
        found = await self._get_many(ids)
        gone = [each for each in ids if each not in found]
        if gone:
            await self._redis.execute("ZREM", self._all, *gone)
        return sorted(found.values(), key=lambda query: (query.created_at, query.query_id), reverse=True)

    async def cancel(self, query_id: str, now: float) -> bool:
        """One script call."""
        return bool(await self._redis.run(_CANCEL, [self._queries, self._open], [query_id, repr(now)]))

    async def take(self, node_id: str, query_ids: Sequence[str], now: float) -> dict[str, Taken]:
        """One script call, which takes of other nodes share that come while another is on the way."""
        if not query_ids:
            return {}
        answer = await self._takes.take(node_id, query_ids, now)
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
        words: list[Any] = [results[0].node_id]
        for result in results:
            bare = msgspec.structs.replace(result, rows=msgspec.Raw(b"[]"), rows_dropped=True)
            words += [
                result.query_id,
                msgspec.json.encode(result),
                msgspec.json.encode(bare),
                len(result.rows),
                int(result.status != 0),
            ]
        new = await self._redis.run(_ADD_RESULTS, [self._queries, self._results_channel], words, deadline=10.0)
        return [each.decode() for each in new]

    async def results(self, query_id: str, after: str, count: int) -> list[StoredResult]:
        """One command."""
        start = f"({after}" if after else "-"
        key = f"{self._queries}{query_id}:results"
        entries = await self._redis.execute("XRANGE", key, start, "+", "COUNT", count, deadline=10.0)
        return [StoredResult(each.decode(), _result_decoder.decode(fields[1])) for each, fields in entries]

    async def progress(self, query_id: str) -> QueryProgress:
        """One command."""
        found = await self._redis.execute(
            "HMGET", f"{self._queries}{query_id}", "offered", "answered", "failed", "bytes"
        )
        return QueryProgress(*(int(each or 0) for each in found))

    async def _get_many(self, query_ids: Sequence[str]) -> dict[str, DistributedQuery]:
        fields = await self._redis.execute_all(
            [("HMGET", f"{self._queries}{each}", "doc", "cancelled") for each in query_ids]
        )
        found = {}
        for query_id, (doc, cancelled) in zip(query_ids, fields, strict=True):
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
