"""
Nodes in Redis.

=====================  =======  =======================================================================
``node:ID``            hash     ``record``, ``name``, ``host``, ``seen``, ``first``, ``tags``: some 3 kB a node
``named:TEXT``         set      ids of the nodes with that name or host identifier
``seen``               zset     id, by the time it was last seen
``expiring``           zset     id, by the time at which its newest certificate ends
``revoked``            hash     id to revocation
=====================  =======  =======================================================================

They are kept until the node is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.interfaces import INodeStore
from osqtwist.node import Node, Revocation, Sighting
from osqtwist.storage.redis_connection import RedisConnection, Script

_RECORD = Script(
    """
    local old = redis.call('HMGET', KEYS[1], 'name', 'host')
    for index = 1, 2 do
        if old[index] and old[index] ~= ARGV[3] and old[index] ~= ARGV[4] then
            redis.call('SREM', KEYS[2] .. old[index], ARGV[1])
        end
    end
    for index = 3, 4 do
        if ARGV[index] ~= '' then redis.call('SADD', KEYS[2] .. ARGV[index], ARGV[1]) end
    end
    redis.call('HSET', KEYS[1], 'record', ARGV[2], 'name', ARGV[3], 'host', ARGV[4])
    if ARGV[5] == '' then redis.call('ZREM', KEYS[3], ARGV[1]) else redis.call('ZADD', KEYS[3], ARGV[5], ARGV[1]) end
    return redis.call('HGET', KEYS[1], 'tags')
    """
)
_TAG = Script(
    """
    if redis.call('HEXISTS', KEYS[1], 'record') == 0 then return end
    local tags = {}
    for tag in string.gmatch(redis.call('HGET', KEYS[1], 'tags') or '', '%S+') do tags[tag] = true end
    for index = 2, #ARGV do tags[ARGV[index]] = index <= ARGV[1] + 1 or nil end
    local list = {}
    for tag in pairs(tags) do list[#list + 1] = tag end
    table.sort(list)
    redis.call('HSET', KEYS[1], 'tags', table.concat(list, ' '))
    """
)
_FORGET = Script(
    """
    local old = redis.call('HMGET', KEYS[1], 'name', 'host')
    for index = 1, 2 do
        if old[index] then redis.call('SREM', KEYS[2] .. old[index], ARGV[1]) end
    end
    redis.call('ZREM', KEYS[3], ARGV[1])
    redis.call('ZREM', KEYS[4], ARGV[1])
    redis.call('DEL', KEYS[1])
    """
)
_SAW = Script(
    """
    for index = 1, #ARGV, 4 do
        local id, at, first, seen = ARGV[index], ARGV[index + 1], ARGV[index + 2], ARGV[index + 3]
        local before = redis.call('ZSCORE', KEYS[1], id)
        if not before or tonumber(before) <= tonumber(at) then
            redis.call('ZADD', KEYS[1], at, id)
            redis.call('HSET', KEYS[2] .. id, 'seen', seen)
        end
        redis.call('HSETNX', KEYS[2] .. id, 'first', first)
    end
    """
)
_SAW_AT_ONCE = 500

_node_decoder = msgspec.json.Decoder(Node)
_sighting_decoder = msgspec.json.Decoder(Sighting)
_revocation_decoder = msgspec.json.Decoder(Revocation)


@implementer(INodeStore)
@attrs.frozen
class RedisNodeStore:
    """See :class:`osqtwist.interfaces.INodeStore`."""

    _redis: RedisConnection
    _prefix: str

    async def record(self, node: Node) -> Node:
        """One script call."""
        node = msgspec.structs.replace(node, given_tags=())
        tags = await self._redis.run(
            _RECORD,
            [self._key(node.node_id), f"{self._prefix}named:", self._expiring],
            [
                node.node_id,
                msgspec.json.encode(node),
                node.name,
                node.host_identifier,
                repr(node.certificate.not_after) if node.certificate else "",
            ],
        )
        return _with_tags(node, tags)

    async def tag(self, node_id: str, added: Sequence[str], removed: Sequence[str]) -> None:
        """One script call."""
        await self._redis.run(_TAG, [self._key(node_id)], [len(added), *added, *removed])

    async def forget(self, node_id: str) -> None:
        """One script call."""
        keys = [self._key(node_id), f"{self._prefix}named:", f"{self._prefix}seen", self._expiring]
        await self._redis.run(_FORGET, keys, [node_id])

    async def get(self, node_id: str) -> Node | None:
        """One command."""
        return (await self.get_many([node_id])).get(node_id)

    async def get_many(self, node_ids: Sequence[str]) -> dict[str, Node]:
        """One command for each node, sent together."""
        records = await self._redis.execute_all([("HMGET", self._key(each), "record", "tags") for each in node_ids])
        return {
            node_id: _with_tags(_node_decoder.decode(record), tags)
            for node_id, (record, tags) in zip(node_ids, records, strict=True)
            if record
        }

    async def saw(self, sightings: Mapping[str, Sighting]) -> None:
        """One script call for each 500."""
        words: list[str | bytes] = []
        for node_id, seen in sightings.items():
            words += [node_id, repr(seen.seen_at), repr(seen.first_seen_at), msgspec.json.encode(seen)]
        keys = [f"{self._prefix}seen", f"{self._prefix}node:"]
        for start in range(0, len(words), 4 * _SAW_AT_ONCE):
            await self._redis.run(_SAW, keys, words[start : start + 4 * _SAW_AT_ONCE])

    async def sightings(self, node_ids: Sequence[str]) -> dict[str, Sighting]:
        """One command for each node, sent together."""
        found = await self._redis.execute_all([("HMGET", self._key(each), "seen", "first") for each in node_ids])
        return {
            node_id: msgspec.structs.replace(_sighting_decoder.decode(seen), first_seen_at=float(first))
            for node_id, (seen, first) in zip(node_ids, found, strict=True)
            if seen and first
        }

    async def seen_since(self, moment: float, offset: int, count: int) -> list[str]:
        """One command."""
        found = await self._redis.execute(
            "ZREVRANGEBYSCORE", f"{self._prefix}seen", "+inf", repr(moment), "LIMIT", offset, count
        )
        return [each.decode() for each in found]

    async def count_since(self, moment: float) -> int:
        """One command."""
        return int(await self._redis.execute("ZCOUNT", f"{self._prefix}seen", repr(moment), "+inf"))

    async def expiring(self, start: float, end: float, count: int) -> list[str]:
        """One command."""
        found = await self._redis.execute("ZRANGEBYSCORE", self._expiring, repr(start), f"({end!r}", "LIMIT", 0, count)
        return [each.decode() for each in found]

    async def count_expiring(self, start: float, end: float) -> int:
        """One command."""
        return int(await self._redis.execute("ZCOUNT", self._expiring, repr(start), f"({end!r}"))

    async def find(self, text: str, limit: int) -> list[Node]:
        """Two rounds."""
        named = await self._redis.execute("SRANDMEMBER", f"{self._prefix}named:{text}", limit)
        node_ids = dict.fromkeys([text, *sorted(each.decode() for each in named)])
        return list((await self.get_many(list(node_ids))).values())[:limit]

    async def revoke(self, revocation: Revocation) -> None:
        """One command."""
        await self._redis.execute("HSET", self._revoked, revocation.node_id, msgspec.json.encode(revocation))

    async def restore(self, node_id: str) -> None:
        """One command."""
        await self._redis.execute("HDEL", self._revoked, node_id)

    async def revocations(self) -> list[Revocation]:
        """One command."""
        return [_revocation_decoder.decode(each) for each in await self._redis.execute("HVALS", self._revoked)]

    @property
    def _expiring(self) -> str:
        return f"{self._prefix}expiring"

    @property
    def _revoked(self) -> str:
        return f"{self._prefix}revoked"

    def _key(self, node_id: str) -> str:
        return f"{self._prefix}node:{node_id}"


def _with_tags(node: Node, tags: bytes | None) -> Node:
    return msgspec.structs.replace(node, given_tags=tuple(tags.decode().split())) if tags else node
