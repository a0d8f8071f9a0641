"""Who may operate: roles of users and certificates as the settings say, tokens as operators hand them out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence, Set
from typing import Annotated, Literal, TypedDict

import attrs
import msgspec
from cryptography import x509
from twisted.internet.interfaces import IReactorTime

from osqtwist.identity import SOURCES, values_of
from osqtwist.interfaces import IStores, NoSuchThing
from osqtwist.operator import (
    ROLE_WORDS,
    AccessToken,
    Actor,
    NotAllowed,
    NotKnown,
    Role,
    RoleWord,
    new_token,
    token_id_of,
)

_USED_EVERY = 60.0
_MOST_TOKENS = 1000
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")


_Hours = Annotated[float, msgspec.Meta(ge=0.01, le=8784)]


class TokenRow(TypedDict):
    """A token, without its text; no groups are all groups."""

    token_id: str
    name: str
    role: RoleWord
    groups: list[str]
    created_at: float
    created_by: str
    expires_at: float
    ended: bool
    used_at: float | None


class NewToken(TokenRow):
    """With its text, which is shown this once."""

    token: str


class TokensRevoked(TypedDict):
    """How many tokens of a name were taken back."""

    name: str
    revoked: int


class BadToken(ValueError):
    """A token cannot be made so; says why."""


class CertificateRole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    Operators' certificates that say ``value`` at ``source`` have a role.

    :ivar source: ``subject.OU`` and other attributes of the subject, ``san.dns``, ``san.uri`` or ``serial``.
    """

    value: str
    role: RoleWord
    source: str = "subject.OU"

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"{self.source!r} is no part of a certificate: {', '.join(SOURCES)}")


class OperatorRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    The table ``[operators]`` of the settings.

    :ivar socket: the role of whoever may open the admin socket and is not among :attr:`users`.
    :ivar users: the roles of users, by their names on this machine.
    :ivar certificates: which certificates have which role; the first that fits.
    :ivar session_hours: how long a browser stays signed in; :attr:`session_idle_hours` if it asks nothing.
    """

    socket: Literal["viewer", "operator", "admin", "nobody"] = "admin"
    users: dict[str, RoleWord] = {}
    certificates: tuple[CertificateRole, ...] = tuple(CertificateRole(word, word) for word in reversed(ROLE_WORDS))
    session_hours: _Hours = 12.0
    session_idle_hours: _Hours = 2.0

    def actor_on_socket(self, user: str) -> Actor:
        """
        Who a user is who opened the admin socket.

        :raise NotAllowed: nobody.
        """
        word = self.users.get(user, self.socket)
        if word == "nobody":
            raise NotAllowed(f"the user {user} has no role; [operators] in the settings gives them")
        return Actor(user, Role.of(word), "socket")

    def actor_with(self, certificate: x509.Certificate) -> Actor:
        """
        Who the owner of a certificate is, which was verified in the handshake.

        :raise NotAllowed: it says no role.
        """
        try:
            names = values_of(certificate, "subject.CN")
            name = names[0] if len(names) == 1 else certificate.subject.rfc4514_string()
            for rule in self.certificates:
                if rule.value in values_of(certificate, rule.source):
                    return Actor(name[:255], Role.of(rule.role), "certificate")
        except ValueError:
            raise NotAllowed("the certificate cannot be read") from None
        raise NotAllowed(
            f"the certificate of {name[:255]} says no role; the table [operators] of the settings has rules"
        )


@attrs.frozen
class Access:
    """
    Tokens: handed out, used, taken back.

    :ivar groups: the groups of operations that a token can be limited to.
    """

    clock: IReactorTime
    stores: IStores
    groups: Callable[[], Set[str]]
    _noted: dict[str, float] = attrs.field(factory=dict, init=False)

    async def actor_with_token(self, text: str) -> Actor:
        """
        Who comes in with a token.

        :raise NotKnown: it is none of ours, or has ended.
        """
        token_id, now = token_id_of(text), self.clock.seconds()
        token = await self.stores.operators.token(token_id) if token_id else None
        if token is None or not token.opens(text, now):
            raise NotKnown("the token is not known, or has ended")
        if now - self._noted.get(token_id, 0.0) >= _USED_EVERY:
            self._noted[token_id] = now
            await self.stores.operators.token_used(token_id, now)
        actor: Actor = token.actor
        return actor

    async def actor_of_token(self, token_id: str) -> Actor:
        """
        Who came in with a token before.

        :raise NotKnown: it was taken back, or has ended.
        """
        token = await self.stores.operators.token(token_id)
        if token is None or token.expires_at <= self.clock.seconds():
            raise NotKnown("the token that the session began with was taken back, or has ended")
        actor: Actor = token.actor
        return actor

    async def add(self, name: str, role: Role, groups: Sequence[str], seconds: float, by: Actor) -> NewToken:
        """
        Hand out a token; its text is in the answer, and nowhere else from now on.

        :raise BadToken: it cannot be made so.
        :raise NotAllowed: nobody hands out more than they have.
        """
        if not _NAME.fullmatch(name):
            raise BadToken(f"{name[:64]!r} cannot be the name of a token: letters, digits and _.@- only, at most 64")
        if unknown := sorted(set(groups) - self.groups()):
            raise BadToken(f"{unknown[0][:64]!r} is no group of operations: {', '.join(sorted(self.groups()))}")
        if role > by.role or (by.groups and not (groups and set(groups) <= by.groups)):
            raise NotAllowed("a token cannot be good for more than what whoever asks for it may do")
        now = self.clock.seconds()
        there = [each for each in await self.stores.operators.tokens() if each.expires_at > now]
        if any(each.name == name for each in there):
            raise BadToken(f"there is a token {name!r}; revoke it first, or take another name")
        if len(there) >= _MOST_TOKENS:
            raise BadToken(f"there are {_MOST_TOKENS} tokens; revoke some")
        token, text = new_token(name, role, sorted(set(groups)), now, now + seconds, by.name)
        await self.stores.operators.add_token(token)
        return {**self._row(token, now), "token": text}

    async def tokens(self) -> list[TokenRow]:
        """All tokens, without their texts."""
        now = self.clock.seconds()
        return [self._row(token, now) for token in await self.stores.operators.tokens()]

    async def revoke(self, name: str) -> TokensRevoked:
        """Take back every token of that name or id."""
        found = [each for each in await self.stores.operators.tokens() if name in (each.name, each.token_id)]
        if not found:
            raise NoSuchThing(f"there is no token {name!r}")
        for token in found:
            await self.stores.operators.remove_token(token.token_id)
        return {"name": found[0].name, "revoked": len(found)}

    def _row(self, token: AccessToken, now: float) -> TokenRow:
        return {
            "token_id": token.token_id,
            "name": token.name,
            "role": token.role,
            "groups": list(token.groups),
            "created_at": token.created_at,
            "created_by": token.created_by,
            "expires_at": token.expires_at,
            "ended": token.expires_at <= now,
            "used_at": token.used_at or None,
        }
