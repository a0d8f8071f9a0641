"""
The contract between the operators' API and its store.

As in :mod:`osqtwist.interfaces`: every method is a coroutine, and fails with ``StoreUnavailable`` or ``StoreFull``.
"""

from __future__ import annotations

import msgspec
from zope.interface import Interface

from osqtwist.operator import AccessToken
from osqtwist.session import Session


class Answered(msgspec.Struct, frozen=True):
    """
    What became of a request with an idempotency key.

    :ivar fingerprint: says whether another request is the same.
    :ivar code: the status it was answered with; 0 while it is under way.
    """

    fingerprint: str
    code: int = 0
    body: str = ""


class IOperatorStore(Interface):
    """Access tokens, sessions, and which requests of operators were done already."""

    async def add_token(token: AccessToken) -> None:
        """Keep a new token."""

    async def token(token_id: str) -> AccessToken | None:
        """The token with this id, as long as it is kept."""

    async def tokens() -> list[AccessToken]:
        """All of them, the oldest first."""

    async def remove_token(token_id: str) -> bool:
        """Keep a token no more; false if there was none."""

    async def token_used(token_id: str, at: float) -> None:
        """Note when a token was last used, if it is kept."""

    async def begin(key: str, fingerprint: str, seconds: int) -> Answered | None:
        """
        Take a key for a request that is about to be done; nothing if it is the first one with it.

        Otherwise what became of the first.  The key is free again after so many seconds, unless it is finished.
        """

    async def finish(key: str, answered: Answered, seconds: int) -> None:
        """Keep the answer to a request, for so many seconds from now."""

    async def abandon(key: str) -> None:
        """Free a key: the request was refused, and may be tried again."""

    async def keep_session(session: Session, seconds: int) -> None:
        """Keep a new session, for so many seconds from now."""

    async def session(digest: str, seconds: int) -> Session | None:
        """The session with this digest, if it is kept; it is for so many seconds more."""

    async def end_session(digest: str) -> None:
        """Keep a session no more."""

    async def keep_link(link: Session, seconds: int) -> None:
        """Keep what a link that signs in is good for."""

    async def take_link(digest: str) -> Session | None:
        """What the link with this digest is good for, to one caller only."""
