"""
Tokens, sessions and idempotency keys in Redis.

=====================  =======  =======================================================================
``tokens``             hash     by id, as JSON: some 400 bytes each, until they are removed
``tokens:used``        hash     by id, Unix time
``repeat:KEY``         string   what became of a request, as JSON; goes by itself after a day
``session:DIGEST``     string   a browser's session, as JSON; goes by itself when it is not used for a while
``link:DIGEST``        string   what a link that signs in is good for, as JSON; goes by itself after a minute
=====================  =======  =======================================================================
"""

from __future__ import annotations

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.operator import AccessToken
from osqtwist.operatorinterfaces import Answered, IOperatorStore
from osqtwist.session import Session
from osqtwist.storage.redis_connection import RedisConnection, Script

_BEGIN = Script(
    """
    local found = redis.call('GET', KEYS[1])
    if found then return found end
    redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
    return ''
    """
)
_USED = Script(
    """
    if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then redis.call('HSET', KEYS[2], ARGV[1], ARGV[2]) end
    """
)
_SESSION = Script(
    """
    local found = redis.call('GET', KEYS[1])
    if found then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
    return found or ''
    """
)
_TAKE = Script(
    """
    local found = redis.call('GET', KEYS[1])
    redis.call('DEL', KEYS[1])
    return found or ''
    """
)

_tokens = msgspec.json.Decoder(AccessToken)
_answers = msgspec.json.Decoder(Answered)
_sessions = msgspec.json.Decoder(Session)


@implementer(IOperatorStore)
@attrs.frozen
class RedisOperatorStore:
    """See :class:`osqtwist.operatorinterfaces.IOperatorStore`."""

    _redis: RedisConnection
    _prefix: str

    async def add_token(self, token: AccessToken) -> None:
        """One command."""
        await self._redis.execute("HSET", self._tokens_key, token.token_id, msgspec.json.encode(token))

    async def token(self, token_id: str) -> AccessToken | None:
        """One command; when it was used is left out."""
        found = await self._redis.execute("HGET", self._tokens_key, token_id)
        return _tokens.decode(found) if found else None

    async def tokens(self) -> list[AccessToken]:
        """Two commands."""
        found = [_tokens.decode(each) for each in await self._redis.execute("HVALS", self._tokens_key)]
        if not found:
            return []
        uses = await self._redis.execute("HMGET", self._used_key, *(token.token_id for token in found))
        used = [
            msgspec.structs.replace(token, used_at=float(at)) if at else token
            for token, at in zip(found, uses, strict=True)
        ]
        return sorted(used, key=lambda token: (token.created_at, token.token_id))

    async def remove_token(self, token_id: str) -> bool:
        """Two commands."""
        await self._redis.execute("HDEL", self._used_key, token_id)
        return bool(await self._redis.execute("HDEL", self._tokens_key, token_id))

    async def token_used(self, token_id: str, at: float) -> None:
        """One script."""
        await self._redis.run(_USED, [self._tokens_key, self._used_key], [token_id, at])

    async def begin(self, key: str, fingerprint: str, seconds: int) -> Answered | None:
        """One script."""
        taken = msgspec.json.encode(Answered(fingerprint))
        found = await self._redis.run(_BEGIN, [self._repeat(key)], [taken, seconds])
        return _answers.decode(found) if found else None

    async def finish(self, key: str, answered: Answered, seconds: int) -> None:
        """One command."""
        await self._redis.execute("SET", self._repeat(key), msgspec.json.encode(answered), "EX", seconds)

    async def abandon(self, key: str) -> None:
        """One command."""
        await self._redis.execute("DEL", self._repeat(key))

    async def keep_session(self, session: Session, seconds: int) -> None:
        """One command."""
        await self._redis.execute("SET", self._session(session.digest), msgspec.json.encode(session), "EX", seconds)

    async def session(self, digest: str, seconds: int) -> Session | None:
        """One script."""
        found = await self._redis.run(_SESSION, [self._session(digest)], [seconds])
        return _sessions.decode(found) if found else None

    async def end_session(self, digest: str) -> None:
        """One command."""
        await self._redis.execute("DEL", self._session(digest))

    async def keep_link(self, link: Session, seconds: int) -> None:
        """One command."""
        await self._redis.execute("SET", self._link(link.digest), msgspec.json.encode(link), "EX", seconds)

    async def take_link(self, digest: str) -> Session | None:
        """One script."""
        found = await self._redis.run(_TAKE, [self._link(digest)], [])
        return _sessions.decode(found) if found else None

    @property
    def _tokens_key(self) -> str:
        return f"{self._prefix}tokens"

    @property
    def _used_key(self) -> str:
        return f"{self._prefix}tokens:used"

    def _repeat(self, key: str) -> str:
        return f"{self._prefix}repeat:{key}"

    def _session(self, digest: str) -> str:
        return f"{self._prefix}session:{digest}"

    def _link(self, digest: str) -> str:
        return f"{self._prefix}link:{digest}"
