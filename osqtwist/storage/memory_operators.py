"""Tokens, sessions and idempotency keys in memory, for tests and trials."""

from __future__ import annotations

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from osqtwist.operator import AccessToken
from osqtwist.operatorinterfaces import Answered, IOperatorStore
from osqtwist.session import Session


@implementer(IOperatorStore)
@attrs.frozen
class MemoryOperatorStore:
    """See :class:`osqtwist.operatorinterfaces.IOperatorStore`."""

    _clock: IReactorTime
    _tokens: dict[str, AccessToken] = attrs.field(factory=dict, init=False)
    _repeats: dict[str, tuple[float, Answered]] = attrs.field(factory=dict, init=False)
    _sessions: dict[str, tuple[float, Session]] = attrs.field(factory=dict, init=False)
    _links: dict[str, tuple[float, Session]] = attrs.field(factory=dict, init=False)

    async def add_token(self, token: AccessToken) -> None:
        """See the interface."""
        self._tokens[token.token_id] = token

    async def token(self, token_id: str) -> AccessToken | None:
        """See the interface."""
        return self._tokens.get(token_id)

    async def tokens(self) -> list[AccessToken]:
        """See the interface."""
        return sorted(self._tokens.values(), key=lambda token: (token.created_at, token.token_id))

    async def remove_token(self, token_id: str) -> bool:
        """See the interface."""
        return self._tokens.pop(token_id, None) is not None

    async def token_used(self, token_id: str, at: float) -> None:
        """See the interface."""
        if token_id in self._tokens:
            self._tokens[token_id] = msgspec.structs.replace(self._tokens[token_id], used_at=at)

    async def begin(self, key: str, fingerprint: str, seconds: int) -> Answered | None:
        """See the interface."""
        ends_at, answered = self._repeats.get(key, (0.0, None))
        if answered and self._clock.seconds() < ends_at:
            return answered
        self._repeats[key] = (self._clock.seconds() + seconds, Answered(fingerprint))
        return None

    async def finish(self, key: str, answered: Answered, seconds: int) -> None:
        """See the interface."""
        self._repeats[key] = (self._clock.seconds() + seconds, answered)

    async def abandon(self, key: str) -> None:
        """See the interface."""
        self._repeats.pop(key, None)

    async def keep_session(self, session: Session, seconds: int) -> None:
        """See the interface."""
        self._sessions[session.digest] = (self._clock.seconds() + seconds, session)

    async def session(self, digest: str, seconds: int) -> Session | None:
        """See the interface."""
        ends_at, session = self._sessions.pop(digest, (0.0, None))
        if session is None or self._clock.seconds() >= ends_at:
            return None
        await self.keep_session(session, seconds)
        return session

    async def end_session(self, digest: str) -> None:
        """See the interface."""
        self._sessions.pop(digest, None)

    async def keep_link(self, link: Session, seconds: int) -> None:
        """See the interface."""
        self._links[link.digest] = (self._clock.seconds() + seconds, link)

    async def take_link(self, digest: str) -> Session | None:
        """See the interface."""
        ends_at, link = self._links.pop(digest, (0.0, None))
        return link if self._clock.seconds() < ends_at else None
