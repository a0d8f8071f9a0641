"""Sessions of browsers: begun by whoever is known otherwise, and good for no more and no longer than that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from osqtwist.access import Access, OperatorRules
from osqtwist.interfaces import IStores
from osqtwist.operator import Actor, NotAllowed, NotKnown, Role
from osqtwist.session import LINK_SECONDS, Session, actor_of, digest_of, new_session

_HOUR = 3600

Shown = Callable[[], tuple[str, Any] | None]
"""Looks up the fingerprint and the certificate that a request's connection showed, if it did."""


@attrs.frozen
class Sessions:
    """Begun, used, ended."""

    clock: IReactorTime
    stores: IStores
    access: Access
    rules: OperatorRules

    async def begin(self, actor: Actor, fingerprint: str = "") -> str:
        """
        Begin a session; answers with its text.

        :param fingerprint: of the certificate that shows who the actor is, if that does.
        """
        now = self.clock.seconds()
        session, text = new_session(actor, now, now + self.rules.session_hours * _HOUR, fingerprint)
        await self._keep(session)
        return text

    async def link(self, actor: Actor, seconds: int = LINK_SECONDS) -> str:
        """
        Have a browser sign in as this actor, once, within so many seconds; answers with the code of the link.

        :raise NotAllowed: a certificate has to be shown by the browser itself, and a session cannot begin another.
        """
        if actor.proof not in ("socket", "token"):
            raise NotAllowed("a link is for who comes by the admin socket or with a token; sign in in the browser")
        now = self.clock.seconds()
        link, code = new_session(actor, now, now + seconds)
        await self.stores.operators.keep_link(link, seconds)
        return code

    async def begin_by_link(self, code: str) -> tuple[str, str]:
        """
        Begin the session that a link is for; answers with its text, and whose it is.

        :raise NotKnown: it was used, its time is up, or it never was.
        """
        digest = digest_of(code)
        link: Session | None = await self.stores.operators.take_link(digest) if digest else None
        if link is None:
            raise NotKnown("this link was used already, or its time is up: osqtwist sign-in makes another")
        actor = await self._now(link, lambda: None)
        return await self.begin(attrs.evolve(actor, role=min(actor.role, Role.of(link.role)))), actor.name

    async def actor_in(self, text: str, shown: Shown) -> Actor:
        """
        Who a session's browser is.  Its use keeps it: one that is not used for some time ends.

        :raise NotKnown: there is no such session any more.
        """
        digest = digest_of(text)
        session: Session | None = None
        if digest:
            session = await self.stores.operators.session(digest, self._idle_seconds)
        if session is None or self.clock.seconds() >= session.ends_at:
            raise NotKnown("the session has ended: sign in again")
        return actor_of(session, await self._now(session, shown))

    async def end(self, text: str) -> None:
        """End a session."""
        if digest := digest_of(text):
            await self.stores.operators.end_session(digest)

    async def _now(self, session: Session, shown: Shown) -> Actor:
        """Who whoever began a session is by now."""
        if session.token_id:
            return await self.access.actor_of_token(session.token_id)
        try:
            if not session.fingerprint:
                return self.rules.actor_on_socket(session.name)
            found = shown()
            if found and found[0] == session.fingerprint:
                return self.rules.actor_with(found[1])
        except NotAllowed as problem:
            raise NotKnown(str(problem)) from None
        raise NotKnown("the session began with a certificate that this connection does not show: sign in again")

    async def _keep(self, session: Session) -> None:
        await self.stores.operators.keep_session(session, self._idle_seconds)

    @property
    def _idle_seconds(self) -> int:
        return int(self.rules.session_idle_hours * _HOUR)
