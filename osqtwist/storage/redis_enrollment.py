"""
Enroll secrets and nodes that wait for approval, in Redis.

=====================  =======  =======================================================================
``secrets``            hash     by id, as JSON: the digest, and what it is good for
``secret:ID``          hash     ``count``, ``at``, ``by``: its use
``secret:ID:nodes``    set      ids of the nodes that enrolled by it, if it has a quota
``pending``            hash     by node id, as JSON: some 2 kB each, 10,000 at most
``pending:asked``      zset     node id, by the time it asked last
=====================  =======  =======================================================================
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.enrollinterfaces import MOST_PENDING, IPendingStore, ISecretStore, PendingNode, SecretUse
from osqtwist.enrollsecret import EnrollSecret
from osqtwist.storage.redis_connection import RedisConnection, Script

_USE = Script(
    """
    if tonumber(ARGV[4]) > 0 then
        if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 0 and redis.call('SCARD', KEYS[2]) >= tonumber(ARGV[4]) then
            return 0
        end
        redis.call('SADD', KEYS[2], ARGV[1])
    end
    redis.call('HINCRBY', KEYS[1], 'count', 1)
    redis.call('HSET', KEYS[1], 'at', ARGV[2], 'by', ARGV[3])
    return 1
    """
)
_ASK = Script(
    """
    local before = redis.call('HGET', KEYS[1], ARGV[1])
    local kept = ARGV[2]
    if before then
        -- The record goes through as it came: decoding and encoding it here would change it.
        kept = string.match(before, '^[^ ]+') .. string.match(ARGV[2], ' .*$')
    end
    redis.call('HSET', KEYS[1], ARGV[1], kept)
    redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
    local over = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[4])
    if over > 0 then
        for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, over - 1)) do
            redis.call('HDEL', KEYS[1], id)
            redis.call('ZREM', KEYS[2], id)
        end
    end
    return before and 0 or 1
    """
)
_REMOVE_BEFORE = Script(
    """
    local gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[1], 'LIMIT', 0, 1000)
    for _, id in ipairs(gone) do
        redis.call('HDEL', KEYS[1], id)
        redis.call('ZREM', KEYS[2], id)
    end
    return #gone
    """
)

_secret_decoder = msgspec.json.Decoder(EnrollSecret)
_pending_decoder = msgspec.json.Decoder(PendingNode)


@implementer(ISecretStore)
@attrs.frozen
class RedisSecretStore:
    """See :class:`osqtwist.enrollinterfaces.ISecretStore`."""

    _redis: RedisConnection
    _prefix: str

    async def put(self, secret: EnrollSecret) -> None:
        """One command."""
        await self._redis.execute("HSET", self._secrets, secret.secret_id, msgspec.json.encode(secret))

    async def all(self) -> list[EnrollSecret]:
        """One command."""
        found = [_secret_decoder.decode(each) for each in await self._redis.execute("HVALS", self._secrets)]
        return sorted(found, key=lambda secret: (secret.created_at, secret.secret_id))

    async def remove(self, secret_id: str) -> None:
        """Two commands."""
        await self._redis.execute("HDEL", self._secrets, secret_id)
        await self._redis.execute("DEL", self._use(secret_id), self._nodes(secret_id))

    async def use(self, secret: EnrollSecret, node_id: str, name: str, at: float) -> bool:
        """One script."""
        keys = [self._use(secret.secret_id), self._nodes(secret.secret_id)]
        return bool(await self._redis.run(_USE, keys, [node_id, repr(at), name, secret.quota]))

    async def uses(self, secret_ids: Sequence[str]) -> list[SecretUse]:
        """Two commands for each, sent together."""
        found = await self._redis.execute_all(
            [
                command
                for each in secret_ids
                for command in (("HMGET", self._use(each), "count", "at", "by"), ("SCARD", self._nodes(each)))
            ]
        )
        return [
            SecretUse(int(count or 0), int(nodes), float(at or 0), (by or b"").decode())
            for (count, at, by), nodes in zip(found[::2], found[1::2], strict=True)
        ]

    @property
    def _secrets(self) -> str:
        return f"{self._prefix}secrets"

    def _use(self, secret_id: str) -> str:
        return f"{self._prefix}secret:{secret_id}"

    def _nodes(self, secret_id: str) -> str:
        return f"{self._prefix}secret:{secret_id}:nodes"


@implementer(IPendingStore)
@attrs.frozen
class RedisPendingStore:
    """See :class:`osqtwist.enrollinterfaces.IPendingStore`.  Before each record stands the time of its first asking."""

    _redis: RedisConnection
    _prefix: str

    async def ask(self, pending: PendingNode) -> bool:
        """One script."""
        text = repr(pending.first_at).encode() + b" " + msgspec.json.encode(pending)
        words = [pending.node.node_id, text, repr(pending.asked_at), MOST_PENDING]
        return bool(await self._redis.run(_ASK, [self._pending, self._asked], words))

    async def get(self, node_id: str) -> PendingNode | None:
        """One command."""
        found = await self._redis.execute("HGET", self._pending, node_id)
        return _read(found) if found else None

    async def all(self) -> list[PendingNode]:
        """One command."""
        found = [_read(each) for each in await self._redis.execute("HVALS", self._pending)]
        return sorted(found, key=lambda each: (-each.asked_at, each.node.node_id))

    async def count(self) -> int:
        """One command."""
        return int(await self._redis.execute("HLEN", self._pending))

    async def remove(self, node_ids: Sequence[str]) -> None:
        """Two commands."""
        if node_ids:
            await self._redis.execute("HDEL", self._pending, *node_ids)
            await self._redis.execute("ZREM", self._asked, *node_ids)

    async def remove_before(self, moment: float) -> int:
        """One script for each 1,000."""
        removed = 0
        while gone := int(await self._redis.run(_REMOVE_BEFORE, [self._pending, self._asked], [repr(moment)])):
            removed += gone
        return removed

    @property
    def _pending(self) -> str:
        return f"{self._prefix}pending"

    @property
    def _asked(self) -> str:
        return f"{self._prefix}pending:asked"


def _read(text: bytes) -> PendingNode:
    first_at, _, record = text.partition(b" ")
    return msgspec.structs.replace(_pending_decoder.decode(record), first_at=float(first_at))
