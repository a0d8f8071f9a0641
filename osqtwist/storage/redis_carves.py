"""
Carve sessions in Redis.

====================  ======  ==========================================================
``carve:ID``          string  the session, some 500 bytes
``carve:ID:blocks``   set     the blocks that came, some 16 bytes each
``carves``            zset    session ids, by the time they began
``carving:NODE``      set     sessions of a node that are not complete
====================  ======  ==========================================================

A session that is not complete is deleted a day after its last block, a complete one after :data:`KEEP` seconds.
"""

from __future__ import annotations

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.carve import CarveSession
from osqtwist.interfaces import CarveProgress, ICarveStore
from osqtwist.storage.redis_connection import RedisConnection, Script

ABANDON = 86400
KEEP = 90 * 86400

_ADD = Script(
    """
    redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
    redis.call('ZADD', KEYS[2], ARGV[3], ARGV[4])
    redis.call('SADD', KEYS[3], ARGV[4])
    redis.call('EXPIRE', KEYS[3], ARGV[2])
    """
)
_MARK = Script(
    """
    redis.call('SADD', KEYS[1], ARGV[1])
    redis.call('EXPIRE', KEYS[1], ARGV[2])
    redis.call('EXPIRE', KEYS[2], ARGV[2])
    return redis.call('SCARD', KEYS[1])
    """
)
_COMPLETE = Script(
    """
    local before = redis.call('GET', KEYS[1])
    if before and cjson.decode(before)['completed_at'] then return 0 end
    redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
    redis.call('EXPIRE', KEYS[2], ARGV[2])
    redis.call('SREM', KEYS[3], ARGV[3])
    return 1
    """
)

_decoder = msgspec.json.Decoder(CarveSession)


@implementer(ICarveStore)
@attrs.frozen
class RedisCarveStore:
    """See :class:`osqtwist.interfaces.ICarveStore`."""

    _redis: RedisConnection
    _prefix: str

    async def add(self, session: CarveSession) -> None:
        """One script call."""
        keys = [self._key(session.session_id), self._all, self._of(session.node_id)]
        words = [msgspec.json.encode(session), ABANDON, repr(session.started_at), session.session_id]
        await self._redis.run(_ADD, keys, words)

    async def get(self, session_id: str) -> CarveProgress | None:
        """Two commands, sent together."""
        return (await self._get_many([session_id])).get(session_id)

    async def mark(self, session_id: str, block_id: int) -> int:
        """One script call."""
        keys = [self._blocks(session_id), self._key(session_id)]
        return int(await self._redis.run(_MARK, keys, [block_id, ABANDON]))

    async def complete(self, session: CarveSession) -> bool:
        """One script call."""
        keys = [self._key(session.session_id), self._blocks(session.session_id), self._of(session.node_id)]
        return bool(await self._redis.run(_COMPLETE, keys, [msgspec.json.encode(session), KEEP, session.session_id]))

    async def forget(self, session_id: str) -> None:
        """Two rounds."""
        progress = await self.get(session_id)
        if progress:
            await self._redis.execute("SREM", self._of(progress.session.node_id), session_id)
        await self._redis.execute_all(
            [("DEL", self._key(session_id), self._blocks(session_id)), ("ZREM", self._all, session_id)]
        )

    async def recent(self, count: int) -> list[CarveProgress]:
        """Two rounds; forgets sessions that Redis has deleted."""
        ids = [each.decode() for each in await self._redis.execute("ZREVRANGE", self._all, 0, count - 1)]
        found = await self._get_many(ids)
        gone = [each for each in ids if each not in found]
        if gone:
            await self._redis.execute("ZREM", self._all, *gone)
        return [found[each] for each in ids if each in found]

    async def unfinished(self, node_id: str) -> list[CarveSession]:
        """Two rounds; forgets sessions that Redis has deleted."""
        ids = [each.decode() for each in await self._redis.execute("SMEMBERS", self._of(node_id))]
        found = await self._get_many(ids)
        gone = [each for each in ids if each not in found]
        if gone:
            await self._redis.execute("SREM", self._of(node_id), *gone)
        return [progress.session for progress in found.values() if not progress.session.is_complete]

    async def _get_many(self, session_ids: list[str]) -> dict[str, CarveProgress]:
        commands = [("GET", self._key(each)) for each in session_ids]
        commands += [("SCARD", self._blocks(each)) for each in session_ids]
        found = await self._redis.execute_all(commands)
        docs, counts = found[: len(session_ids)], found[len(session_ids) :]
        return {
            each: CarveProgress(_decoder.decode(doc), count)
            for each, doc, count in zip(session_ids, docs, counts, strict=True)
            if doc
        }

    def _key(self, session_id: str) -> str:
        return f"{self._prefix}carve:{session_id}"

    def _blocks(self, session_id: str) -> str:
        return f"{self._prefix}carve:{session_id}:blocks"

    def _of(self, node_id: str) -> str:
        return f"{self._prefix}carving:{node_id}"

    @property
    def _all(self) -> str:
        return f"{self._prefix}carves"
