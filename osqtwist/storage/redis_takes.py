"""Taking queries for nodes, many nodes at a time when there are many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from osqtwist.storage.redis_connection import RedisConnection, Script

_TAKES_AT_ONCE = 64

# ARGV: now, then for each node: its id, how many it can have, a number, so many query ids.  Answers with a word and the
# end of the lease for each query of each node.
_TAKE = Script(
    """
    local now, answer, queries, index = tonumber(ARGV[1]), {}, {}, 2
    while index <= #ARGV do
        local node, most, last = ARGV[index], tonumber(ARGV[index + 1]), index + 2 + tonumber(ARGV[index + 2])
        for place = index + 3, last do
            local id = ARGV[place]
            local key, word, ends = KEYS[1] .. id, 'closed', '0'
            local query = queries[id]
            if most > 0 and not query then
                query = redis.call('HMGET', key, 'expires', 'lease', 'attempts', 'closed', 'end', 'opens')
                queries[id] = query
            end
            if most == 0 then word = 'left'
            elseif query[1] and query[4] == '0' and now < tonumber(query[1]) and now >= tonumber(query[6] or '0') then
                local nodes = key .. ':nodes'
                local state = redis.call('HGET', nodes, node)
                local lease, attempts = 0, 0
                if state and state ~= 'done' then
                    local first, second = string.match(state, '(%S+) (%S+)')
                    lease, attempts = tonumber(first), tonumber(second)
                end
                if state == 'done' then word = 'answered'
                elseif lease > now then word, ends = 'leased', string.format('%.6f', lease)
                elseif attempts >= tonumber(query[3]) then word = 'exhausted'
                else
                    word, ends = 'taken', string.format('%.6f', now + tonumber(query[2]))
                    most = most - 1
                    redis.call('HSET', nodes, node, ends .. ' ' .. (attempts + 1))
                    if not state then
                        redis.call('HINCRBY', key, 'offered', 1)
                        redis.call('EXPIREAT', nodes, query[5])
                    end
                end
            end
            answer[#answer + 1] = word
            answer[#answer + 1] = ends
        end
        index = last + 1
    end
    return answer
    """
)


@attrs.define
class Takes:
    """
    Takes of nodes, one script call at a time: those that come while it is on the way go together, with the next one.

    A query for all nodes wakes thousands at once, and to call Redis costs more than what it does.

    :ivar key: the prefix of query keys; see :mod:`osqtwist.storage.redis_queries`.
    """

    _redis: RedisConnection
    _key: str
    _waiting: list[_Take] = attrs.field(factory=list, init=False)
    _is_under_way: bool = attrs.field(default=False, init=False)

    async def take(self, node_id: str, query_ids: Sequence[str], now: float, most: int) -> list[bytes]:
        """For each query a word and the end of the lease."""
        take = _Take(node_id, query_ids, now, most)
        self._waiting.append(take)
        if not self._is_under_way:
            self._is_under_way = True
            Deferred.fromCoroutine(self._go_on())
        return await take.answer

    async def _go_on(self) -> None:
        try:
            while self._waiting:
                together, self._waiting = self._waiting[:_TAKES_AT_ONCE], self._waiting[_TAKES_AT_ONCE:]
                await self._run(together)
        finally:
            self._is_under_way = False

    async def _run(self, together: list[_Take]) -> None:
        words: list[Any] = [repr(max(take.now for take in together))]
        for take in together:
            words += [take.node_id, take.most, len(take.query_ids), *take.query_ids]
        try:
            answer = await self._redis.run(_TAKE, [self._key], words)
        except Exception as problem:
            for take in together:
                if not take.answer.called:
                    take.answer.errback(problem)
            return
        begin = 0
        for take in together:
            end = begin + 2 * len(take.query_ids)
            if not take.answer.called:
                take.answer.callback(answer[begin:end])
            begin = end


@attrs.define(eq=False)
class _Take:
    node_id: str
    query_ids: Sequence[str]
    now: float
    most: int
    answer: Deferred[list[bytes]] = attrs.field(factory=Deferred)
